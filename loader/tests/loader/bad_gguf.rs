//! Bad GGUF files, one test for each kind: refused with the right fault, cheaply. B-numbers are the project's
//! list of bad inputs.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::{Gguf, Header, Value};
use moelten_loader::container::open::{ModelFiles, open_model};
use moelten_loader::error::{Fault, LoadError};

use crate::common::{Folder, GgufBytes, string};
use crate::meter::{Refusal, metered, refusal};

fn refused(bytes: &[u8]) -> Refusal {
    let folder = Folder::new();
    let path = folder.file("model.gguf", bytes);
    refusal(|| open_model(&path))
}

fn fault(file: GgufBytes) -> Fault {
    refused(&file.build()).fault
}

fn opened(file: &GgufBytes) -> Gguf {
    let folder = Folder::new();
    let path = folder.file("model.gguf", file.build());
    match metered(|| open_model(&path)) {
        Ok(ModelFiles::Gguf(gguf)) => gguf,
        other => panic!("not open: {other:?}"),
    }
}

#[test]
fn sound_file_opens() {
    let gguf = opened(&GgufBytes::sound());
    let shapes: Vec<_> = gguf.catalog.tensors().iter().map(|t| (t.name.as_str(), t.shape.clone())).collect();
    assert_eq!(shapes, [("a", vec![2, 4]), ("b", vec![1, 32])]);
    assert_eq!(gguf.metadata.require_str("general.architecture").unwrap(), "llama");
    assert_eq!(gguf.metadata.require_u64("llama.block_count").unwrap(), 2);
    assert_eq!(gguf.notices, [""; 0]);
    let mut v2 = GgufBytes::sound();
    v2.version = 2;
    assert_eq!(opened(&v2).version, 2);
}

#[test]
fn b01_empty_file() {
    assert_eq!(refused(b"").fault, Fault::Truncated { need: 4, have: 0 });
}

#[test]
fn b02_shorter_than_a_header() {
    let sound = GgufBytes::sound().build();
    for len in 4..24 {
        let Refusal { fault, .. } = refused(&sound[..len]);
        assert!(matches!(fault, Fault::Truncated { .. }), "{len} bytes: {fault:?}");
    }
}

#[test]
fn b03_bad_magic() {
    let mut file = GgufBytes::sound();
    file.magic = *b"GGUX";
    assert_eq!(fault(file), Fault::BadMagic { found: b"GGUX".to_vec() });
}

#[test]
fn b04_version() {
    for version in [0, 1, 4, 3_u32.swap_bytes(), u32::MAX] {
        let mut file = GgufBytes::sound();
        file.version = version;
        let Refusal { field, offset, fault } = refused(&file.build());
        assert_eq!((field.as_str(), offset), ("version", Some(4)));
        let Fault::Version { found, hint, .. } = fault else { panic!("{fault:?}") };
        assert_eq!(found, u64::from(version));
        assert_eq!(hint.contains("big-endian"), version == 3_u32.swap_bytes());
    }
}

#[test]
fn b05_tensor_count() {
    let mut file = GgufBytes::sound();
    file.n_tensors = Some(u64::MAX);
    let Refusal { field, offset, fault } = refused(&file.build());
    assert_eq!((field.as_str(), offset), ("n_tensors", Some(8)));
    assert!(matches!(fault, Fault::OutOfRange { .. }), "{fault:?}");
    let mut file = GgufBytes::sound();
    file.n_tensors = Some(7);
    assert!(matches!(fault_of_count(file), Fault::Truncated { .. }));
}

fn fault_of_count(file: GgufBytes) -> Fault {
    let Refusal { field, fault, .. } = refused(&file.build());
    assert!(field.starts_with("n_"), "{field}");
    fault
}

#[test]
fn b06_entry_count() {
    let mut file = GgufBytes::sound();
    file.n_kv = Some(u64::MAX);
    assert!(matches!(fault_of_count(file), Fault::OutOfRange { .. }));
}

#[test]
fn b07_more_entries_than_the_file_holds() {
    let mut file = GgufBytes::sound();
    let entries = (file.build().len() as u64 - 24) / 13 + 1;
    file.n_kv = Some(entries);
    assert!(matches!(fault_of_count(file), Fault::Truncated { .. }));
}

#[test]
fn b08_key_length() {
    let file = GgufBytes::new().raw_kv(&(1_u64 << 63).to_le_bytes()).raw_kv(&[0; 64]);
    assert!(matches!(fault(file), Fault::Truncated { need: 0x8000_0000_0000_0000, .. }));
    let file = GgufBytes::new().kv(&[b'k'; 65_536], 0, &[0]);
    assert_eq!(fault(file), Fault::TooLong { found: 65_536, limit: 65_535 });
}

#[test]
fn b09_empty_key() {
    assert_eq!(fault(GgufBytes::new().kv(b"", 0, &[0])), Fault::Empty);
}

#[test]
fn b10_control_characters_in_a_key() {
    for key in ["a\u{1b}[2J", "a\0b", "a\u{9b}b", "a\nb", "\u{7f}"] {
        // `refused` checks that the message is clean.
        assert_eq!(fault(GgufBytes::new().text(key, "x")), Fault::ControlCharacters, "{key:?}");
    }
    assert_eq!(fault(GgufBytes::new().kv(b"a\xff", 0, &[0])), Fault::NotUtf8);
}

#[test]
fn b11_value_type() {
    for kind in [13, u32::MAX] {
        let file = GgufBytes::new().kv(b"k", kind, &[0; 16]);
        assert_eq!(fault(file), Fault::UnknownType { found: kind.into() });
        let file = GgufBytes::new().kv(b"k", 9, &GgufBytes::array(kind, 1, &[0; 16]));
        assert_eq!(fault(file), Fault::UnknownType { found: kind.into() });
    }
    let file = GgufBytes::new().kv(b"k", 7, &[2]);
    assert_eq!(fault(file), Fault::OutOfRange { found: "2".into(), low: 0, high: 1 });
}

#[test]
fn b12_text_longer_than_the_file() {
    let file = GgufBytes::new().kv(b"k", 8, &100_u64.to_le_bytes()).data(&[0; 64]);
    assert!(matches!(fault(file), Fault::Truncated { need: 100, .. }));
}

#[test]
fn b13_array_count() {
    let file = GgufBytes::new().kv(b"k", 9, &GgufBytes::array(10, 1 << 61, &[0; 64]));
    assert!(matches!(fault(file), Fault::OutOfRange { .. }));
    for kind in [0, 7, 8, 10] {
        let file = GgufBytes::new().kv(b"k", 9, &GgufBytes::array(kind, 1 << 20, &[0; 64]));
        assert!(matches!(fault(file), Fault::Truncated { .. }), "element type {kind}");
    }
}

#[test]
fn b13_many_large_arrays_of_nothing() {
    // Empty texts cost a file 8 bytes and a program three times as many: the caps bound the product.
    let million = GgufBytes::array(8, 1 << 20, &vec![0; 8 << 20]);
    let file = GgufBytes::new().kv(b"a", 9, &million).kv(b"b", 9, &million);
    assert_eq!(opened(&file).metadata.strings("b").unwrap().unwrap().len(), 1 << 20);
    let file = file.kv(b"c", 9, &GgufBytes::array(8, (1 << 21) + 1, &vec![0; (8 << 21) + 8]));
    let Refusal { field, fault, .. } = refused(&file.build());
    assert_eq!(field, "c");
    assert_eq!(fault, Fault::OutOfRange { found: ((1 << 21) + 1).to_string(), low: 0, high: 1 << 21 });
}

#[test]
fn metadata_as_a_whole_is_bounded() {
    let text = |bytes| GgufBytes::new().kv(b"k", 8, &string(&vec![b'x'; bytes]));
    assert_eq!(opened(&text(40 << 20)).metadata.iter().len(), 1, "a tokenizer.json fits");
    let file = text(40 << 20).kv(b"l", 8, &string(&vec![b'x'; 24 << 20]));
    let folder = Folder::new();
    let path = folder.file("model.gguf", file.build());
    assert!(matches!(
        open_model(&path),
        Err(LoadError::Malformed { field, fault: Fault::TooLong { .. }, .. }) if field == "metadata"
    ));
}

#[test]
fn b14_nested_arrays() {
    let mut payload = Vec::new();
    for _ in 0..1000 {
        payload.extend(GgufBytes::array(9, 1, &[]));
    }
    assert_eq!(fault(GgufBytes::new().kv(b"k", 9, &payload)), Fault::TooDeep { limit: 1 });
}

#[test]
fn b15_array_of_the_wrong_type() {
    let integers = GgufBytes::array(5, 2, &[1, 0, 0, 0, 255, 255, 255, 255]);
    let floats = GgufBytes::array(6, 2, &[0, 0, 0, 63, 0, 0, 0, 0]);
    let file = GgufBytes::new()
        .kv(b"tokenizer.ggml.scores", 9, &integers)
        .kv(b"tokenizer.ggml.token_type", 9, &floats)
        .kv(b"tokenizer.ggml.tokens", 9, &integers)
        .kv(b"negative", 9, &GgufBytes::array(5, 1, &(-1_i32).to_le_bytes()))
        .kv(b"wide", 9, &GgufBytes::array(10, 1, &u64::MAX.to_le_bytes()));
    let gguf = opened(&file);
    let m = &gguf.metadata;
    let wrong = |r: Refusal, key: &str, kind: &str| {
        assert_eq!(r.field, key);
        assert!(matches!(&r.fault, Fault::WrongType { found, .. } if found == kind), "{:?}", r.fault);
    };
    assert_eq!(m.f32s("tokenizer.ggml.scores").unwrap(), Some(vec![1.0, -1.0]), "integers are numbers");
    // The first is 0.5.
    wrong(refusal(|| m.i32s("tokenizer.ggml.token_type")), "tokenizer.ggml.token_type", "array of f32");
    wrong(refusal(|| m.strings("tokenizer.ggml.tokens")), "tokenizer.ggml.tokens", "array of i32");
    assert_eq!(m.i32s("negative").unwrap(), Some(vec![-1]));
    assert!(matches!(refusal(|| m.u64s("negative")).fault, Fault::OutOfRange { .. }));
    assert!(matches!(refusal(|| m.i32s("wide")).fault, Fault::OutOfRange { .. }));
    assert_eq!(m.f32s("absent").unwrap(), None);
    assert_eq!(refusal(|| m.require_str("absent")).fault, Fault::Missing { hint: "" });
}

#[test]
fn b16_duplicate_key() {
    let Refusal { field, fault, .. } = refused(&GgufBytes::sound().text("general.architecture", "x").build());
    assert_eq!((field.as_str(), fault), ("general.architecture", Fault::Duplicate));
}

#[test]
fn b17_alignment() {
    let with = |alignment: u32| GgufBytes::sound().kv(b"general.alignment", 4, &alignment.to_le_bytes());
    assert!(matches!(fault(with(0)), Fault::OutOfRange { low: 1, high: 65_536, .. }));
    assert!(matches!(fault(with(3)), Fault::BadNumber { .. }));
    assert!(matches!(fault(with(1 << 31)), Fault::OutOfRange { .. }));
    let text = GgufBytes::sound().text("general.alignment", "32");
    assert_eq!(fault(text), Fault::WrongType { found: "str".into(), expected: "u32" });
    let wide = GgufBytes::sound().kv(b"general.alignment", 10, &32_u64.to_le_bytes());
    assert!(matches!(fault(wide), Fault::WrongType { .. }));
}

#[test]
fn b18_tensor_name() {
    let named = |name: &[u8]| GgufBytes::new().raw_tensor(name, 1, &[4], 0, 0).data(&[0; 16]);
    assert_eq!(fault(named(&[b'n'; 65])), Fault::TooLong { found: 65, limit: 64 });
    assert_eq!(opened(&named(&[b'n'; 64])).catalog.tensors().len(), 1);
    assert_eq!(fault(named(b"a\xc3\x28")), Fault::NotUtf8);
    assert_eq!(fault(named(b"")), Fault::Empty);
    assert_eq!(fault(named(b"a\x1b]0;x\x07")), Fault::ControlCharacters);
    let twice = GgufBytes::new().tensor("a", &[4], 0, 0).tensor("a", &[4], 0, 32).data(&[0; 48]);
    assert_eq!(fault(twice), Fault::Duplicate);
}

#[test]
fn b19_number_of_dimensions() {
    for n_dims in [0, 5, u32::MAX] {
        let file = GgufBytes::new().raw_tensor(b"a", n_dims, &[1; 5], 0, 0).data(&[0; 32]);
        assert_eq!(fault(file), Fault::OutOfRange { found: n_dims.to_string(), low: 1, high: 4 });
    }
}

#[test]
fn b20_tensor_without_values() {
    let gguf = opened(&GgufBytes::new().tensor("a", &[0, 7], 0, 0).tensor("b", &[4], 0, 0).data(&[0; 16]));
    let empty = gguf.catalog.get("a").unwrap();
    assert_eq!((empty.bytes, empty.shape.as_slice()), (0, &[7, 0][..]));
    assert_eq!(gguf.catalog.bytes(empty), b"");
}

#[test]
fn b21_dimensions_overflow() {
    let file = GgufBytes::new().tensor("a", &[1 << 32, 1 << 32], 0, 0).data(&[0; 32]);
    assert_eq!(fault(file), Fault::Overflow);
    let file = GgufBytes::new().tensor("a", &[256, u64::MAX, u64::MAX, u64::MAX], 12, 0).data(&[0; 32]);
    assert_eq!(fault(file), Fault::Overflow);
}

#[test]
fn b22_bytes_overflow() {
    // 2^62 values are a number, their 2^64 bytes are not.
    let file = GgufBytes::new().tensor("a", &[1 << 31, 1 << 31], 0, 0).data(&[0; 32]);
    assert_eq!(fault(file), Fault::Overflow);
    let file = GgufBytes::new().tensor("a", &[1 << 60, 15], 8, 0).data(&[0; 32]);
    assert!(matches!(fault(file), Fault::BeyondEnd { .. }));
    // Each fits, their sum does not.
    let most = 1 << 61;
    let file = GgufBytes::new().tensor("a", &[most], 0, 0).tensor("b", &[most], 0, 1 << 63).data(&[0; 32]);
    assert!(matches!(fault(file), Fault::BeyondEnd { .. } | Fault::Overflow));
}

#[test]
fn b23_tensor_type() {
    for kind in [4, 5, 31, 32, 33, 36, 37, 38, 42, 1000, u32::MAX] {
        let file = GgufBytes::new().tensor("a", &[256], kind, 0).data(&[0; 256]);
        assert_eq!(fault(file), Fault::UnknownType { found: kind.into() });
    }
    // A type without a kernel opens: the tensor may not be needed.
    let gguf = opened(&GgufBytes::new().tensor("a", &[256], 9, 0).data(&[0; 320]));
    assert_eq!(gguf.catalog.get("a").unwrap().storage, Storage::Other("Q8_1"));
}

#[test]
fn b24_row_of_partial_blocks() {
    let file = GgufBytes::new().tensor("a", &[48, 2], 8, 0).data(&[0; 128]);
    assert_eq!(fault(file), Fault::PartialBlock { columns: 48, format: "Q8_0", block: 32 });
}

#[test]
fn b25_offsets() {
    let second_at =
        |offset| GgufBytes::new().tensor("a", &[16], 0, 0).tensor("b", &[4], 0, offset).data(&[0; 96]);
    assert_eq!(opened(&second_at(64)).catalog.tensors().len(), 2);
    assert_eq!(fault(second_at(65)), Fault::Unaligned { offset: 65, alignment: 32 });
    assert_eq!(fault(second_at(32)), Fault::Overlap { other: "tensor a".into() });
    assert_eq!(fault(second_at(0)), Fault::Overlap { other: "tensor a".into() });
    assert!(matches!(fault(second_at(96)), Fault::BeyondEnd { .. }));
    assert_eq!(fault(second_at(u64::MAX - 31)), Fault::Overflow);
    assert!(matches!(fault(second_at(1 << 63)), Fault::BeyondEnd { .. }));
    // Order in the file is free, and a gap is odd but harmless.
    let gap = GgufBytes::new().tensor("a", &[16], 0, 64).tensor("b", &[4], 0, 0).data(&[0; 128]);
    let gguf = opened(&gap);
    assert_eq!(gguf.notices, ["32 unused bytes between tensors; ignored"]);
}

#[test]
fn b26_truncated() {
    let sound = GgufBytes::sound().build();
    let Refusal { field, fault, .. } = refused(&sound[..sound.len() - 1]);
    let (end, file_len) = (sound.len() as u64, sound.len() as u64 - 1);
    assert_eq!((field.as_str(), fault), ("tensor b", Fault::BeyondEnd { end, file_len }));
    // At the data, the half, the header and everywhere else.
    for len in 0..sound.len() {
        let Refusal { fault, .. } = refusal(|| Header::parse("f".as_ref(), &sound[..len]));
        assert!(matches!(fault, Fault::Truncated { .. } | Fault::BeyondEnd { .. }), "{len}: {fault:?}");
    }
}

#[test]
fn b27_trailing_bytes() {
    let gguf = opened(&GgufBytes::sound().data(&[9; 30 + 12]));
    assert_eq!(gguf.notices, ["12 unused bytes after the last tensor; ignored"]);
    assert_eq!(opened(&GgufBytes::sound().data(&[0; 30])).notices, [""; 0], "padding is in order");
}

#[test]
fn bad_utf8_in_a_value_is_replaced_and_said() {
    let tokens = [&GgufBytes::array(8, 2, &string(b"\xff"))[..], &string(b"ok")].concat();
    let gguf = opened(&GgufBytes::new().kv(b"n", 8, &string(b"a\xffb")).kv(b"tokens", 9, &tokens));
    assert_eq!(gguf.metadata.get("n"), Some(&Value::Str("a\u{fffd}b".into())));
    assert_eq!(gguf.notices, ["2 metadata texts are not valid UTF-8, first in n; bad bytes replaced"]);
}

/// Part `index` of `count`, with one tensor; the model has `total`.
fn part(index: u16, count: u16, total: i32) -> GgufBytes {
    GgufBytes::new()
        .text("general.architecture", "llama")
        .kv(b"split.no", 2, &index.to_le_bytes())
        .kv(b"split.count", 2, &count.to_le_bytes())
        .kv(b"split.tensors.count", 5, &total.to_le_bytes())
        .tensor(&format!("t{index}"), &[8], 0, 0)
        .data(&[index as u8; 32])
}

fn split_folder(parts: &[(u16, GgufBytes)]) -> Folder {
    let folder = Folder::new();
    for (number, bytes) in parts {
        folder.file(&format!("m-{number:05}-of-00003.gguf"), bytes.build());
    }
    folder
}

fn three_parts() -> [(u16, GgufBytes); 3] {
    [1, 2, 3].map(|number| (number, part(number - 1, 3, 3)))
}

#[test]
fn any_part_opens_a_split_model() {
    let folder = split_folder(&three_parts());
    for number in 1..=3 {
        let gguf = Gguf::open(&folder.path().join(format!("m-{number:05}-of-00003.gguf"))).unwrap();
        let last = gguf.catalog.get("t2").unwrap();
        assert_eq!((gguf.catalog.tensors().len(), last.file), (3, 2));
        assert_eq!(gguf.catalog.bytes(last), [2; 32]);
        assert_eq!(gguf.metadata.require_u64("split.no").unwrap(), 0);
    }
    assert!(matches!(open_model(folder.path()), Ok(ModelFiles::Gguf(_))), "the folder is one model");
}

#[test]
fn b28_split_parts_that_do_not_fit() {
    let refuse = |parts: &[(u16, GgufBytes)]| {
        let folder = split_folder(parts);
        refusal(|| Gguf::open(&folder.path().join("m-00001-of-00003.gguf")))
    };
    let [one, two, three] = three_parts();
    // A part is missing.
    let missing = refuse(&[one.clone(), three.clone()]);
    assert_eq!(missing.field, "split part");
    assert!(matches!(missing.fault, Fault::Missing { .. }));
    // A part counts otherwise.
    let wrong = [one.clone(), (2, part(1, 4, 3)), three.clone()];
    assert!(matches!(refuse(&wrong).fault, Fault::PartMismatch { .. }));
    // A part is another part.
    let wrong = [one.clone(), (2, part(2, 3, 3)), three.clone()];
    assert_eq!(refuse(&wrong).field, "split.no");
    // Parts of two models: of other size, of another architecture, with the same tensors.
    let wrong = [one.clone(), (2, part(1, 3, 9)), three.clone()];
    assert_eq!(refuse(&wrong).field, "split.tensors.count");
    let other = part(1, 3, 3).build();
    let folder = split_folder(&[one.clone(), three.clone()]);
    let at = other.windows(5).position(|w| w == b"llama").unwrap();
    let other = [&other[..at], b"qwen3", &other[at + 5..]].concat();
    folder.file("m-00002-of-00003.gguf", other);
    assert_eq!(
        refusal(|| Gguf::open(&folder.path().join("m-00001-of-00003.gguf"))).field,
        "general.architecture"
    );
    // The tensors are not all there.
    let short = [(1, part(0, 3, 4)), (2, part(1, 3, 4)), (3, part(2, 3, 4))];
    assert_eq!(refuse(&short).field, "split.tensors.count");
    // Renamed, so that the other parts cannot be found.
    let folder = Folder::new();
    let path = folder.file("renamed.gguf", two.1.build());
    assert!(matches!(refusal(|| Gguf::open(&path)).fault, Fault::SplitName { .. }));
    // More parts than names allow.
    let file = GgufBytes::new().kv(b"split.count", 10, &u64::MAX.to_le_bytes());
    assert!(matches!(fault(file), Fault::OutOfRange { .. }));
}

#[test]
fn b28_same_tensor_in_two_parts() {
    let twin = part(1, 3, 3).build();
    let at = twin.windows(2).position(|w| w == b"t1").unwrap();
    let twin = [&twin[..at], b"t0", &twin[at + 2..]].concat();
    let [one, _, three] = three_parts();
    let folder = split_folder(&[one, three]);
    folder.file("m-00002-of-00003.gguf", twin);
    let Refusal { field, fault, .. } = refusal(|| Gguf::open(&folder.path().join("m-00001-of-00003.gguf")));
    assert_eq!((field.as_str(), fault), ("tensor t0", Fault::Duplicate));
}

#[test]
fn look_alikes_are_named() {
    for (bytes, word) in [
        (&b"<!DOCTYPE html><html><body>404"[..], "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
        (b"PK\x03\x04\x14\0\0\0", "zip"),
        (b"\x80\x02}q\0(X", "pickle"),
        (b"tjgg\x01\0\0\0", "before GGUF"),
    ] {
        let folder = Folder::new();
        let path = folder.file("model.gguf", bytes);
        for result in [open_model(&path).map(|_| ()), Gguf::open(&path).map(|_| ())] {
            match result {
                Err(LoadError::NotAModel { found, .. }) => assert!(found.contains(word), "{found}"),
                other => panic!("{other:?}"),
            }
        }
    }
}
