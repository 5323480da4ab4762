//! The GGUF and safetensors writers: what they write is read back, and nothing is left of what fails.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::path::Path;

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Gguf, Value};
use moelten_loader::container::safetensors::{SafeTensor, SafeTensors, SafeValues, write_safetensors};
use moelten_loader::error::{Fault, LoadError, Result};
use moelten_quant::Format;

use crate::common::Folder;
use crate::meter::refusal;

fn plan(name: &str, format: Format, shape: &[u64]) -> TensorPlan {
    TensorPlan { name: name.to_owned(), storage: Storage::Known(format), shape: shape.to_vec() }
}

fn create(target: &Path, tensors: &[TensorPlan]) -> Result<GgufWriter> {
    GgufWriter::create(
        target,
        &[("general.architecture".to_owned(), Value::Str("llama".into()))],
        tensors,
        &[],
    )
}

fn names(folder: &Folder) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn pieces_padding_and_empty_tensors() {
    let folder = Folder::new();
    let path = folder.path().join("m.gguf");
    let tensors = [
        plan("none", Format::F32, &[0]),
        plan("a", Format::F32, &[3]),
        plan("between", Format::F32, &[4, 0]),
        plan("b", Format::Q8_0, &[2, 32]),
        TensorPlan { name: "c".into(), storage: Storage::Other("I8"), shape: vec![5] },
    ];
    folder.file("m.gguf.partial", [9; 10_000]);
    let mut writer = create(&path, &tensors).unwrap();
    writer.write_tensor("a", &[1; 5]).unwrap();
    writer.write_tensor("a", &[2; 7]).unwrap();
    writer.write_tensor("b", &[3; 68]).unwrap();
    writer.write_tensor("c", &[4; 5]).unwrap();
    assert!(!path.exists(), "the name appears last");
    writer.finish().unwrap();
    assert_eq!(names(&folder), ["m.gguf"]);

    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.notices, [""; 0]);
    let bytes = |name| gguf.catalog.bytes(gguf.catalog.get(name).unwrap());
    assert_eq!(bytes("none"), b"");
    assert_eq!(bytes("a"), [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
    assert_eq!(bytes("b"), [3; 68]);
    assert_eq!(bytes("c"), [4; 5]);
    assert!(gguf.catalog.tensors().iter().all(|t| t.offset % 32 == 0));
}

#[test]
fn alignment_of_the_metadata_holds() {
    let folder = Folder::new();
    let path = folder.path().join("m.gguf");
    let alignment = ("general.alignment".to_owned(), Value::U32(65_536));
    let tensors = [plan("a", Format::F32, &[1]), plan("b", Format::F32, &[1])];
    let mut writer = GgufWriter::create(&path, &[alignment], &tensors, &[]).unwrap();
    writer.write_tensor("a", &[0; 4]).unwrap();
    writer.write_tensor("b", &[0; 4]).unwrap();
    writer.finish().unwrap();
    let offsets: Vec<_> = Gguf::open(&path).unwrap().catalog.tensors().iter().map(|t| t.offset).collect();
    assert_eq!(offsets, [65_536, 131_072]);
}

#[test]
fn dropping_leaves_nothing_and_keeps_the_old_file() {
    let folder = Folder::new();
    let path = folder.file("m.gguf", b"old");
    let mut writer = create(&path, &[plan("a", Format::F32, &[4])]).unwrap();
    writer.write_tensor("a", &[0; 8]).unwrap();
    drop(writer);
    assert_eq!(names(&folder), ["m.gguf"]);
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
}

#[test]
fn two_writers_do_not_share_a_file() {
    let folder = Folder::new();
    let path = folder.path().join("m.gguf");
    let first = create(&path, &[]).unwrap();
    match create(&path, &[]) {
        Err(LoadError::Io { source, .. }) => assert_eq!(source.kind(), std::io::ErrorKind::ResourceBusy),
        other => panic!("{other:?}"),
    }
    first.finish().unwrap();
    assert_eq!(Gguf::open(&path).unwrap().version, 3);
}

#[test]
fn plans_that_break_the_format_are_refused() {
    let folder = Folder::new();
    let path = folder.path().join("m.gguf");
    let fault = |tensors: &[TensorPlan]| refusal(|| create(&path, tensors)).fault;
    assert_eq!(fault(&[plan("", Format::F32, &[1])]), Fault::Empty);
    assert_eq!(fault(&[plan("a", Format::F32, &[1]), plan("a", Format::F32, &[1])]), Fault::Duplicate);
    assert!(matches!(fault(&[plan("a", Format::Q4K, &[100])]), Fault::PartialBlock { .. }));
    assert!(matches!(fault(&[plan("a", Format::F32, &[1; 5])]), Fault::OutOfRange { .. }));
    assert_eq!(fault(&[plan("a", Format::F32, &[])]), Fault::Empty);
    assert!(matches!(fault(&[plan(&"n".repeat(65), Format::F32, &[1])]), Fault::TooLong { .. }));
    let foreign = TensorPlan { name: "a".into(), storage: Storage::Other("F8_E4M3"), shape: vec![1] };
    assert!(matches!(create(&path, &[foreign]), Err(LoadError::Unsupported { .. })));
    for alignment in [Value::U32(0), Value::U32(3), Value::Str("32".into())] {
        let metadata = [("general.alignment".to_owned(), alignment)];
        assert!(matches!(
            GgufWriter::create(&path, &metadata, &[], &[]),
            Err(LoadError::Malformed { field, .. }) if field == "general.alignment"
        ));
    }
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
#[should_panic(expected = "b is written when Some(\"a\") comes next")]
fn order_is_the_plan() {
    let folder = Folder::new();
    let tensors = [plan("a", Format::F32, &[1]), plan("b", Format::F32, &[1])];
    let _never = create(&folder.path().join("m.gguf"), &tensors).unwrap().write_tensor("b", &[0; 4]);
}

#[test]
#[should_panic(expected = "a has 0 of 4 bytes")]
fn unfinished_tensors_are_a_bug() {
    let folder = Folder::new();
    let _never = create(&folder.path().join("m.gguf"), &[plan("a", Format::F32, &[1])]).unwrap().finish();
}

#[test]
fn b84_output_that_cannot_be() {
    let folder = Folder::new();
    let input = folder.file("in.gguf", b"weights");
    let kind = |target: &Path| match GgufWriter::create(target, &[], &[], &[&input]) {
        Err(LoadError::Io { source, .. }) => source.kind(),
        other => panic!("{target:?}: {other:?}"),
    };
    assert_eq!(kind(folder.path()), std::io::ErrorKind::IsADirectory);
    assert_eq!(kind(&input), std::io::ErrorKind::InvalidInput);
    #[cfg(unix)]
    {
        let (hard, soft) = (folder.path().join("hard.gguf"), folder.path().join("soft.gguf"));
        std::fs::hard_link(&input, &hard).unwrap();
        std::os::unix::fs::symlink(&input, &soft).unwrap();
        assert_eq!(kind(&hard), std::io::ErrorKind::InvalidInput);
        assert_eq!(kind(&soft), std::io::ErrorKind::InvalidInput);
        assert_eq!(kind(Path::new("/dev/null")), std::io::ErrorKind::InvalidInput);
    }
    kind(&folder.path().join("no/such/folder/out.gguf"));
    // Not even the super-user can create files here.
    #[cfg(target_os = "linux")]
    kind(Path::new("/proc/out.gguf"));
    assert_eq!(std::fs::read(&input).unwrap(), b"weights");
}

#[test]
fn safetensors_are_read_back() {
    let folder = Folder::new();
    let path = folder.path().join("out.safetensors");
    let (logits, ids): (Vec<f32>, Vec<i32>) = ((0..40_000).map(|i| i as f32).collect(), vec![5, -7, 9]);
    let tensors = [
        ("input_ids", SafeTensor { shape: &[3], values: SafeValues::I32(&ids) }),
        ("logits", SafeTensor { shape: &[4, 10_000], values: SafeValues::F32(&logits) }),
        ("none", SafeTensor { shape: &[0, 2], values: SafeValues::I32(&[]) }),
    ];
    write_safetensors(&path, &tensors, &[]).unwrap();
    let file = SafeTensors::open(&path).unwrap();
    assert_eq!(file.i32s("input_ids").unwrap(), (vec![3], ids.clone()));
    assert_eq!(file.f32s("logits").unwrap(), (vec![4, 10_000], logits.clone()));
    assert_eq!(file.i32s("none").unwrap(), (vec![0, 2], vec![]));
    assert!(file.catalog().tensors().iter().all(|t| t.offset % 4 == 0));
    assert_eq!(names(&folder), ["out.safetensors"]);
}
