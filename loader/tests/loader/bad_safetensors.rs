//! Bad safetensors files, shard indices and configurations, one test for each kind. B-numbers are the
//! project's list of bad inputs.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::fmt::Write;

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::hf_folder::{HfFolder, ShardIndex};
use moelten_loader::container::open::{ModelFiles, open_model};
use moelten_loader::container::safetensors::{SafeTensors, parse_header};
use moelten_loader::error::{Fault, LoadError};

use crate::common::{Folder, safetensors};
use crate::meter::{Refusal, metered, refusal};

fn refused(bytes: &[u8]) -> Refusal {
    let folder = Folder::hf(bytes);
    refusal(|| open_model(folder.path()))
}

fn fault(header: &str, data_len: usize) -> Fault {
    refused(&safetensors(header.as_bytes(), data_len)).fault
}

/// The header entry of a tensor.
fn entry(name: &str, dtype: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

fn two(first: String, second: String) -> String {
    format!("{{{first},{second}}}")
}

#[test]
fn sound_folder_opens() {
    let header = two(entry("b", "BF16", "[2,4]", 16, 32), entry("a", "F32", "[4]", 0, 16));
    let header = header.replacen('{', r#"{"__metadata__":{"format":"pt"},"#, 1) + "   ";
    let folder = Folder::hf(&safetensors(header.as_bytes(), 32));
    let Ok(ModelFiles::Hf(hf)) = open_model(folder.path()) else { panic!("does not open") };
    assert_eq!(hf.config["model_type"], "llama");
    let names: Vec<_> = hf.catalog.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "in the order of the data");
    assert_eq!(hf.catalog.bytes(hf.catalog.get("b").unwrap()).len(), 16);
    // The weights or the configuration stand for their folder.
    for part in ["model.safetensors", "config.json"] {
        assert!(matches!(open_model(&folder.path().join(part)), Ok(ModelFiles::Hf(_))));
    }
}

#[test]
fn b29_shorter_than_a_length() {
    assert_eq!(refused(&[0; 7]).fault, Fault::Truncated { need: 8, have: 7 });
    assert_eq!(refused(b"").fault, Fault::Truncated { need: 8, have: 0 });
}

#[test]
fn b30_header_length_2_64() {
    let Refusal { field, offset, fault } = refused(&[0xff; 64]);
    assert_eq!((field.as_str(), offset), ("header length", Some(0)));
    assert!(matches!(fault, Fault::OutOfRange { .. }), "{fault:?}");
}

#[test]
fn b31_header_over_100_mb() {
    let mut bytes = 100_000_001_u64.to_le_bytes().to_vec();
    bytes.extend(b"{}");
    assert!(matches!(refused(&bytes).fault, Fault::OutOfRange { high: 100_000_000, .. }));
}

#[test]
fn b32_header_longer_than_the_file() {
    let mut bytes = 99_u64.to_le_bytes().to_vec();
    bytes.extend(b"{}");
    assert_eq!(refused(&bytes).fault, Fault::Truncated { need: 99, have: 2 });
}

#[test]
fn b33_header_not_utf8() {
    let Refusal { offset, fault, .. } = refused(&safetensors(b"{\"a\xff\":1}", 0));
    assert_eq!((offset, fault), (Some(8 + 3), Fault::NotUtf8));
}

#[test]
fn b34_header_not_json_or_too_deep() {
    assert!(matches!(fault("{\"a\" 1}", 0), Fault::Json { line: 1, .. }));
    assert!(matches!(fault("{", 0), Fault::Json { .. }));
    assert!(matches!(fault("[]", 0), Fault::BadMagic { .. }));
    assert!(matches!(fault("", 0), Fault::BadMagic { .. }));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(matches!(fault(&deep, 0), Fault::TooDeep { .. }));
    for number in ["-1", "1.5", "1e3", "18446744073709551616", "null", "\"4\""] {
        let header = format!("{{{}}}", entry("a", "F32", &format!("[{number}]"), 0, 4));
        assert!(matches!(fault(&header, 4), Fault::Json { .. }), "{number}");
    }
    let many_dims = format!("[{}]", ["1"; 9].join(","));
    assert!(matches!(fault(&format!("{{{}}}", entry("a", "F32", &many_dims, 0, 4)), 4), Fault::Json { .. }));
}

#[test]
fn b35_duplicate_key() {
    let twice = two(entry("a", "F32", "[1]", 0, 4), entry("a", "F32", "[1]", 4, 8));
    let Refusal { field, fault: found, .. } = refused(&safetensors(twice.as_bytes(), 8));
    assert_eq!((field.as_str(), found), ("tensor a", Fault::Duplicate));
    // One name spelled in two ways is one name.
    let twice = two(entry("a", "F32", "[1]", 0, 4), entry("\\u0061", "F32", "[1]", 4, 8));
    assert_eq!(fault(&twice, 8), Fault::Duplicate);
    assert_eq!(fault(r#"{"__metadata__":{"k":"1","k":"2"}}"#, 0), Fault::Duplicate);
    assert!(matches!(fault(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), Fault::Json { .. }));
    let inner = r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#;
    assert!(matches!(fault(inner, 4), Fault::Json { .. }));
}

#[test]
fn b36_holes_and_overlaps() {
    let a = || entry("a", "F32", "[4]", 0, 16);
    assert_eq!(fault(&two(a(), entry("b", "F32", "[1]", 20, 24)), 24), Fault::Hole { bytes: 4 });
    let overlap = Fault::Overlap { other: "tensor a".into() };
    assert_eq!(fault(&two(a(), entry("b", "F32", "[1]", 12, 16)), 16), overlap);
    assert!(matches!(fault(&two(a(), entry("b", "F32", "[4]", 0, 16)), 16), Fault::Overlap { .. }));
    let nothing = |name| entry(name, "F32", "[0]", 16, 16);
    // Tensors without values between the others hide nothing, as many as there are.
    let empty = format!("{},{}", nothing("b"), nothing("c"));
    let header = format!("{{{},{empty},{}}}", a(), entry("d", "F32", "[1]", 16, 20));
    assert_eq!(parse_header("f".as_ref(), &safetensors(header.as_bytes(), 20)).unwrap().len(), 4);
    let header = format!("{{{},{empty}}}", a());
    assert_eq!(parse_header("f".as_ref(), &safetensors(header.as_bytes(), 16)).unwrap().len(), 3);
    let within = entry("b", "F32", "[0]", 8, 8);
    assert!(matches!(fault(&two(a(), within), 16), Fault::Overlap { .. }));
}

#[test]
fn b37_sizes_that_overflow_or_disagree() {
    let one = |shape: &str, end| fault(&format!("{{{}}}", entry("a", "F32", shape, 0, end)), 16);
    assert_eq!(one("[4294967296,4294967296]", 16), Fault::Overflow);
    assert_eq!(one("[4611686018427387904]", 16), Fault::Overflow, "values fit, bits do not");
    assert!(matches!(one("[3]", 16), Fault::Contradiction { .. }));
    let reversed = format!("{{{}}}", entry("a", "F32", "[4]", 16, 0));
    assert!(matches!(fault(&reversed, 16), Fault::Contradiction { .. }));
    let wraps = format!("{{{}}}", entry("a", "U8", "[4]", u64::MAX - 4, u64::MAX));
    assert_eq!(fault(&wraps, 16), Fault::Overflow);
}

#[test]
fn b38_dtypes() {
    for dtype in ["F31", "f32", "", "F32\\u001b"] {
        let header = format!("{{{}}}", entry("a", dtype, "[4]", 0, 16));
        assert!(matches!(fault(&header, 16), Fault::WrongType { .. }), "{dtype}");
    }
    // Types without a kernel open: the tensor may not be needed.
    let header = two(entry("a", "F8_E4M3", "[4]", 0, 4), entry("b", "F4", "[8]", 4, 8));
    let tensors = parse_header("f".as_ref(), &safetensors(header.as_bytes(), 8)).unwrap();
    assert_eq!(tensors[0].storage, Storage::Other("F8_E4M3"));
}

#[test]
fn b39_end_of_the_data_is_not_the_end_of_the_file() {
    let header = format!("{{{}}}", entry("a", "F32", "[4]", 0, 16));
    assert!(matches!(fault(&header, 15), Fault::BeyondEnd { .. }));
    assert_eq!(fault(&header, 20), Fault::Hole { bytes: 4 });
}

fn many_entries(count: u64) -> Vec<u8> {
    let mut header = String::from("{");
    for i in 0..count {
        let comma = if i == 0 { "" } else { "," };
        let (start, end) = (4 * i, 4 * (i + 1));
        write!(header, r#"{comma}"{i}":{{"dtype":"F32","shape":[1],"data_offsets":[{start},{end}]}}"#)
            .expect("a String takes all");
    }
    header.push('}');
    safetensors(header.as_bytes(), 4 * count as usize)
}

#[test]
fn b40_a_million_entries() {
    let bytes = many_entries(1_000_000);
    let Refusal { field, fault, .. } = refusal(|| parse_header("f".as_ref(), &bytes));
    assert_eq!(field, "number of tensors");
    assert!(matches!(fault, Fault::OutOfRange { .. }), "{fault:?}");
    // More than any model has in one file is still quick and small.
    let bytes = many_entries(200_000);
    assert_eq!(metered(|| parse_header("f".as_ref(), &bytes)).unwrap().len(), 200_000);
}

#[test]
fn b41_git_lfs_pointer() {
    let folder = Folder::hf(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n");
    match metered(|| open_model(folder.path())) {
        Err(LoadError::NotAModel { found, hint, .. }) => {
            assert!(found.contains("Git LFS") && hint.contains("git lfs pull"));
        }
        other => panic!("{other:?}"),
    }
}

/// A folder of two shards with one tensor each and an index.
fn sharded(index: &str) -> Folder {
    let folder = Folder::new();
    folder.file("config.json", "{}");
    for (shard, tensor) in [("s1.safetensors", "a"), ("s2.safetensors", "b")] {
        let header = format!("{{{}}}", entry(tensor, "F32", "[1]", 0, 4));
        folder.file(shard, safetensors(header.as_bytes(), 4));
    }
    folder.file("model.safetensors.index.json", index);
    folder
}

#[test]
fn shards_are_joined() {
    let folder = sharded(r#"{"weight_map": {"b": "s2.safetensors", "a": "s1.safetensors"}}"#);
    let hf = HfFolder::open(folder.path()).unwrap();
    assert_eq!(hf.catalog.tensors().len(), 2);
    assert_eq!(hf.catalog.path(hf.catalog.get("b").unwrap()), folder.path().join("s2.safetensors"));
    let folder = sharded(r#"{"weight_map": {"a": "s1.safetensors"}}"#);
    assert_eq!(HfFolder::open(folder.path()).unwrap().catalog.tensors().len(), 1);
}

#[test]
fn b42_shard_index() {
    let refuse = |index: &str| {
        let folder = sharded(index);
        refusal(|| open_model(folder.path()))
    };
    let missing = refuse(r#"{"weight_map": {"a": "s1.safetensors", "b": "s3.safetensors"}}"#);
    assert!(missing.field == "shard" && matches!(missing.fault, Fault::Missing { .. }));
    for name in [
        "../x.safetensors",
        "/etc/x.safetensors",
        "x/y.safetensors",
        "x\\\\y.safetensors",
        "C:x.safetensors",
        "s1.bin",
        "..",
        ".safetensors",
        "a\\u0000.safetensors",
        "",
    ] {
        let Refusal { fault, .. } = refuse(&format!(r#"{{"weight_map": {{"a": "{name}"}}}}"#));
        assert!(matches!(fault, Fault::BadFileName { .. }), "{name}: {fault:?}");
    }
    let elsewhere = refuse(r#"{"weight_map": {"a": "s2.safetensors", "b": "s2.safetensors"}}"#);
    assert!(matches!(elsewhere.fault, Fault::Missing { .. }));
    let unknown = refuse(r#"{"weight_map": {"a": "s1.safetensors", "c": "s2.safetensors"}}"#);
    assert!(unknown.field.contains('c') && matches!(unknown.fault, Fault::Missing { .. }));
    assert_eq!(refuse(r#"{"weight_map": {}}"#).fault, Fault::Empty);
    assert!(matches!(refuse("{}").fault, Fault::Json { .. }));
    assert!(matches!(refuse(r#"{"weight_map": ["a"]}"#).fault, Fault::Json { .. }));
    let deep = format!(r#"{{"x": {}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert!(matches!(
        refusal(|| ShardIndex::parse("f".as_ref(), deep.as_bytes())).fault,
        Fault::TooDeep { .. }
    ));
}

#[test]
fn b42_one_tensor_in_two_shards() {
    let folder = sharded(r#"{"weight_map": {"a": "s1.safetensors", "b": "s2.safetensors"}}"#);
    let header = two(entry("a", "F32", "[1]", 0, 4), entry("b", "F32", "[1]", 4, 8));
    folder.file("s2.safetensors", safetensors(header.as_bytes(), 8));
    assert_eq!(refusal(|| open_model(folder.path())).fault, Fault::Duplicate);
}

#[test]
fn b43_web_page_saved_as_weights() {
    let folder = Folder::hf(b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>");
    match metered(|| open_model(folder.path())) {
        Err(LoadError::NotAModel { found, .. }) => assert_eq!(found, "a web page"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_that_no_message_can_show() {
    let named = |name: &str| fault(&format!("{{{}}}", entry(name, "F32", "[1]", 0, 4)), 4);
    assert_eq!(named(""), Fault::Empty);
    assert_eq!(named("a\\u001b[2J"), Fault::ControlCharacters);
    assert_eq!(named(&"n".repeat(513)), Fault::TooLong { found: 513, limit: 512 });
}

#[test]
fn configuration_files_are_bounded() {
    let folder = Folder::hf(&safetensors(b"{}", 0));
    let refuse = |config: &[u8]| {
        folder.file("config.json", config);
        refusal(|| open_model(folder.path())).fault
    };
    assert!(matches!(refuse(&vec![b' '; (4 << 20) + 1]), Fault::TooLong { .. }));
    assert!(matches!(refuse(&[b"[".repeat(65), b"]".repeat(65)].concat()), Fault::TooDeep { .. }));
    assert!(matches!(refuse(b"{\"a\":\"\x1b\"}"), Fault::Json { .. }));
    assert_eq!(refuse(b"{\"a\":\"\xff\"}"), Fault::NotUtf8);
    folder.file("config.json", b"{}");
    folder.file("generation_config.json", b"{");
    assert!(matches!(refusal(|| open_model(folder.path())).fault, Fault::Json { .. }));
}

#[test]
fn json_of_a_million_values_is_refused_unbuilt() {
    let folder = Folder::hf(&safetensors(b"{}", 0));
    for element in ["0,", "[],", "{},"] {
        folder.file("config.json", format!("[{}0]", element.repeat(1_000_000)));
        let Refusal { field, fault, .. } = refusal(|| open_model(folder.path()));
        assert_eq!(field, "number of values", "{element}");
        assert!(matches!(fault, Fault::OutOfRange { .. }));
    }
    let mut index = String::from(r#"{"weight_map":{"#);
    for i in 0..600_000 {
        write!(index, r#""{i}":"a.safetensors","#).expect("a String takes all");
    }
    index.push_str(r#""x":"a.safetensors"}}"#);
    assert_eq!(refusal(|| ShardIndex::parse("f".as_ref(), index.as_bytes())).field, "number of values");
    let most = &index[..index.find(r#""200000""#).unwrap()];
    let most = format!("{most}\"x\":\"a.safetensors\"}}}}");
    assert_eq!(metered(|| ShardIndex::parse("f".as_ref(), most.as_bytes())).unwrap().shards().len(), 1);
}

#[test]
fn typed_access_checks_the_type() {
    let header = two(entry("a", "F32", "[1]", 0, 4), entry("b", "I64", "[1]", 4, 12));
    let mut bytes = safetensors(header.as_bytes(), 12);
    let folder = Folder::new();
    let file = SafeTensors::open(&folder.file("x.safetensors", &bytes)).unwrap();
    assert_eq!(file.f32s("a").unwrap(), (vec![1], vec![0.0]));
    assert_eq!(file.i32s("b").unwrap(), (vec![1], vec![0]));
    assert!(matches!(refusal(|| file.f32s("b")).fault, Fault::WrongType { .. }));
    assert!(matches!(refusal(|| file.i32s("a")).fault, Fault::WrongType { .. }));
    assert!(matches!(refusal(|| file.f32s("c")).fault, Fault::Missing { .. }));
    *bytes.last_mut().unwrap() = 1;
    let file = SafeTensors::open(&folder.file("y.safetensors", &bytes)).unwrap();
    assert!(matches!(refusal(|| file.i32s("b")).fault, Fault::OutOfRange { .. }));
}
