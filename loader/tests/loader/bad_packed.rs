//! Bad packed files: whatever the metadata says of records, and whatever records there are, a contradiction
//! is refused with the right fault, cheaply. The sound file is a golden checkpoint of the engine's tests.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Array, Gguf, Header, Value};
use moelten_loader::container::packed::{self, PackedIndex};
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::error::{Fault, LoadError};
use moelten_loader::load::{LoadedModel, load};
use moelten_loader::spec::BankKind;
use moelten_quant::Format;
use proptest::prelude::*;

use crate::common::Folder;
use crate::meter::{Refusal, metered, refusal};

/// Layers and experts of the sound file.
const LAYERS: usize = 3;
const EXPERTS: usize = 8;

/// A sound packed file in memory.
static SOUND: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral");
    let folder = Folder::new();
    let path = folder.path().join("sound.gguf");
    let loaded = load(&golden).unwrap();
    let types = Types::Chosen(&|_| Format::Q8_0);
    let plan = Conversion::plan_as(&loaded, FileLayout::Packed, types).unwrap();
    assert!(plan.write(&path, &mut |_| true).unwrap());
    fs::read(path).unwrap()
});

/// A sound file whose experts are of two matrices, some of them query heads.
static SOUND_OF_ANY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/dsmoe");
    let folder = Folder::new();
    let path = folder.path().join("sound.gguf");
    let loaded = load(&golden).unwrap();
    let plan = Conversion::plan_as(&loaded, FileLayout::Packed, Types::Chosen(&|_| Format::F32)).unwrap();
    assert!(plan.write(&path, &mut |_| true).unwrap());
    fs::read(path).unwrap()
});

fn sound(folder: &Folder) -> PathBuf {
    folder.file("sound.gguf", &*SOUND)
}

/// Metadata and tensors of a file to write.
struct File {
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorPlan>,
}

impl File {
    fn set(&mut self, key: &str, value: Value) {
        let key = format!("moelten.packed.{key}");
        self.metadata.iter_mut().find(|(found, _)| *found == key).unwrap().1 = value;
    }

    fn remove(&mut self, key: &str) {
        let before = self.metadata.len();
        self.metadata.retain(|(found, _)| found != key);
        assert_eq!(self.metadata.len() + 1, before, "{key}");
    }

    fn tensor(&mut self, name: &str) -> &mut TensorPlan {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }
}

/// The sound file with something changed; tensors whose size changed are zero.
fn with(folder: &Folder, change: impl FnOnce(&mut File)) -> PathBuf {
    let sound = sound(folder);
    changed(folder, &sound, change)
}

/// A file with something changed.
fn changed(folder: &Folder, sound: &Path, change: impl FnOnce(&mut File)) -> PathBuf {
    let source = Gguf::open(sound).unwrap();
    let metadata = source.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let plan = |t: &moelten_loader::container::catalog::TensorInfo| TensorPlan {
        name: t.name.clone(),
        storage: t.storage,
        shape: t.shape.clone(),
    };
    let mut file = File { metadata, tensors: source.catalog.tensors().iter().map(plan).collect() };
    change(&mut file);
    let path = folder.path().join("bad.gguf");
    let mut writer = GgufWriter::create(&path, &file.metadata, &file.tensors, &[]).unwrap();
    for tensor in &file.tensors {
        let old = source.catalog.get(&tensor.name);
        match old.filter(|old| old.shape == tensor.shape && old.storage == tensor.storage) {
            Some(old) => writer.write_tensor(&tensor.name, source.catalog.bytes(old)).unwrap(),
            None => {
                let values: u64 = tensor.shape.iter().product();
                let width = if tensor.storage == Storage::Known(Format::F32) { 4 } else { 1 };
                writer
                    .write_tensor(&tensor.name, &vec![0; usize::try_from(values * width).unwrap()])
                    .unwrap();
            }
        }
    }
    writer.finish().unwrap();
    path
}

fn refused(change: impl FnOnce(&mut File)) -> Refusal {
    let folder = Folder::new();
    let path = with(&folder, change);
    refusal(|| load(&path))
}

fn numbers(values: &[u32]) -> Value {
    Value::Array(Array::U32(values.to_vec()))
}

fn wide(values: &[u64]) -> Value {
    Value::Array(Array::U64(values.to_vec()))
}

fn loaded(path: &Path) -> LoadedModel {
    metered(|| load(path)).unwrap()
}

#[test]
fn the_sound_file_opens() {
    let folder = Folder::new();
    let model = loaded(&with(&folder, |_| {}));
    assert_eq!(model.notices, [""; 0]);
    for layer in 0..LAYERS {
        for expert in 0..EXPERTS {
            let record = model.tensors.bank_of_layer(layer).unwrap().record(expert).unwrap();
            assert!(packed::verify_record(model.tensors.record_bytes(record), record.checksum));
        }
        assert!(model.tensors.bank_of_layer(layer).unwrap().record(EXPERTS).is_none());
    }
    assert!(model.tensors.bank_of_layer(LAYERS).is_none());
}

/// Without the key, the width of the experts is that of their records.
#[test]
fn the_width_of_experts_is_read_from_records() {
    let folder = Folder::new();
    let model = loaded(&with(&folder, |file| file.remove("llama.expert_feed_forward_length")));
    assert_eq!(model.spec, loaded(&sound(&folder)).spec);
}

#[test]
fn versions() {
    for (version, then) in [(0, "make it again"), (1, "make it again"), (u32::MAX, "versions 2 and 3 are")] {
        let folder = Folder::new();
        let path = with(&folder, |file| file.set("version", Value::U32(version)));
        match metered(|| load(&path)) {
            Err(LoadError::Unsupported { feature, hint, .. }) => {
                assert!(feature.contains(&version.to_string()) && hint.contains(then), "{feature}; {hint}");
            }
            other => panic!("{other:?}"),
        }
    }
    let text = refused(|file| file.set("version", Value::Str("1".into())));
    assert!(matches!(text.fault, Fault::WrongType { .. }));
    // Without a version it is a standard file that lacks its banks.
    let none = refused(|file| file.remove("moelten.packed.version"));
    assert_eq!(none.field, "tensor blk.0.ffn_gate_exps.weight");
    assert!(matches!(none.fault, Fault::Missing { .. }));
}

#[test]
fn keys_that_are_missing_or_of_another_type() {
    for key in ["layers", "experts", "types", "shapes", "checksums"] {
        let missing = refused(|file| file.remove(&format!("moelten.packed.{key}")));
        assert_eq!(missing.field, format!("moelten.packed.{key}"));
        assert!(matches!(missing.fault, Fault::Missing { .. }), "{key}: {:?}", missing.fault);
        let scalar = refused(|file| file.set(key, Value::U64(1)));
        assert!(matches!(scalar.fault, Fault::WrongType { .. }), "{key}: {:?}", scalar.fault);
        // The length is checked first, so that nothing large is converted.
        let long = refused(|file| file.set(key, Value::Array(Array::U8(vec![1; 1 << 21]))));
        let length = matches!(long.fault, Fault::Contradiction { .. } | Fault::OutOfRange { .. });
        assert!(length, "{key}: {:?}", long.fault);
        let empty = refused(|file| file.set(key, Value::Array(Array::U64(Vec::new()))));
        let length = matches!(empty.fault, Fault::Contradiction { .. } | Fault::OutOfRange { .. });
        assert!(length, "{key}: {:?}", empty.fault);
    }
}

#[test]
fn layers() {
    let fault = |layers: &[u32]| {
        let Refusal { field, fault, .. } = refused(|file| file.set("layers", numbers(layers)));
        assert_eq!(field, "moelten.packed.layers");
        fault
    };
    assert!(matches!(fault(&[0, 1, 1]), Fault::BadNumber { .. }));
    assert!(matches!(fault(&[0, 2, 1]), Fault::BadNumber { .. }));
    assert!(matches!(fault(&[0, 1, 4096]), Fault::OutOfRange { high: 4095, .. }));
    // A layer of another number, and so one that has no records and no banks.
    let beyond = refused(|file| file.set("layers", numbers(&[0, 1, 3])));
    assert_eq!(beyond.field, "tensor blk.2.ffn_gate_exps.weight");
    // One that the model does not have.
    let beyond = refused(|file| {
        file.set("layers", numbers(&[0, 1, 2, 3]));
        file.set("experts", numbers(&[8, 8, 8, 8]));
        file.set("types", Value::Array(Array::Str(vec!["Q8_0".into(); 12])));
        file.set("shapes", wide(&[64; 24]));
        file.set("checksums", wide(&[0; 32]));
    });
    assert!(beyond.field.starts_with("moelten.packed."), "{}", beyond.field);
}

#[test]
fn counts_of_experts() {
    let Refusal { field, fault, .. } = refused(|file| {
        file.set("experts", numbers(&[8, 7, 8]));
        file.set("checksums", wide(&[0; 23]));
    });
    assert_eq!(field, "moelten.packed.experts");
    assert!(matches!(fault, Fault::Contradiction { .. }));
    let zero = refused(|file| file.set("experts", numbers(&[8, 0, 16])));
    assert!(matches!(zero.fault, Fault::OutOfRange { low: 1, .. }));
    let overflow = refused(|file| file.set("experts", wide(&[u64::MAX, 1, 1])));
    assert_eq!(overflow.fault, Fault::Overflow);
    let more = refused(|file| file.set("experts", wide(&[8, 8, u64::MAX - 16])));
    assert_eq!(more.field, "moelten.packed.checksums", "no memory is taken for a claim");
}

#[test]
fn types() {
    let types = |name: &str| {
        let mut all = vec!["Q8_0".to_owned(); 9];
        all[4] = name.to_owned();
        Value::Array(Array::Str(all))
    };
    for name in ["", "Q8_1", "Q9_9", "Q8_0\u{1b}[2J"] {
        let folder = Folder::new();
        let path = with(&folder, |file| file.set("types", types(name)));
        let error = metered(|| load(&path)).unwrap_err();
        assert!(matches!(error, LoadError::Unsupported { .. }), "{name}: {error:?}");
        assert!(!error.to_string().chars().any(char::is_control));
    }
    // A type that exists, but does not go with the shape, or with the length of the records.
    let partial = refused(|file| file.set("types", types("Q4_K")));
    assert_eq!(partial.field, "moelten.packed.shapes of layer 1");
    assert!(matches!(partial.fault, Fault::PartialBlock { .. }));
    let longer = refused(|file| file.set("types", Value::Array(Array::Str(vec!["F32".into(); 9]))));
    assert_eq!(longer.field, "tensor blk.0.ffn_expert.0");
    assert!(matches!(longer.fault, Fault::WrongShape { .. }));
}

#[test]
fn shapes() {
    let folder = Folder::new();
    let gguf = Gguf::open(&sound(&folder)).unwrap();
    let shapes = gguf.metadata.u64s("moelten.packed.shapes").unwrap().unwrap();
    for (at, value) in
        [(0, 0), (1, 0), (4, u64::MAX), (5, u64::MAX - 31), (8, 1 << 60), (9, 33), (17, 4096), (12, 16)]
    {
        let mut changed = shapes.clone();
        changed[at] = value;
        let Refusal { field, fault, .. } = refused(|file| file.set("shapes", wide(&changed)));
        assert_eq!(field, format!("moelten.packed.shapes of layer {}", at / 6), "{at} {value}");
        let expected = match value {
            0 => matches!(fault, Fault::OutOfRange { .. }),
            33 => matches!(fault, Fault::PartialBlock { .. }),
            16 | 4096 => matches!(fault, Fault::WrongShape { .. }),
            _ => fault == Fault::Overflow,
        };
        assert!(expected, "{at} {value}: {fault:?}");
    }
}

/// What files of version 3 say beside: what experts are for, and which matrices they have.
#[test]
fn kinds_and_matrices() {
    let folder = Folder::new();
    let sound = folder.file("any.gguf", &*SOUND_OF_ANY);
    let model = loaded(&sound);
    let kinds: Vec<BankKind> = model.tensors.banks().iter().map(|bank| bank.kind).collect();
    assert!(kinds.contains(&BankKind::Heads) && kinds.contains(&BankKind::FeedForward));
    assert!(model.tensors.banks().iter().all(|bank| bank.record(0).is_some()));
    let count = kinds.len();
    let texts = |of: &dyn Fn(usize) -> &'static str| {
        Value::Array(Array::Str((0..count).map(|i| of(i).to_owned()).collect()))
    };
    // Banks are sorted: feed-forward blocks before heads.
    let refused = |key: &str, value: Value| {
        let path = changed(&folder, &sound, |file| file.set(key, value));
        metered(|| load(&path)).unwrap_err()
    };
    let own = |i: usize| if i.is_multiple_of(2) { "ffn" } else { "heads" };
    for (key, other) in [("kinds", "rows"), ("parts", "down,up"), ("parts", "up,up"), ("parts", "")] {
        let value = texts(&|i| {
            if i == 1 {
                other
            } else if key == "kinds" {
                own(i)
            } else {
                "up,down"
            }
        });
        let error = refused(key, value);
        assert!(
            matches!(&error, LoadError::Unsupported { feature, .. }
            if feature.contains(&format!("moelten.packed.{key}"))),
            "{error}"
        );
    }
    // The same bank twice, and one after a later one.
    for of in [|_: usize| "ffn", |i: usize| if i.is_multiple_of(2) { "heads" } else { "ffn" }] {
        let error = refused("kinds", texts(&of)).to_string();
        assert!(error.contains("moelten.packed.layers") && error.contains("ascending"), "{error}");
    }
    // A bank that the model does not have, in place of its own.
    let error = refused("kinds", texts(&|i| if i == 1 { "adjugate" } else { own(i) })).to_string();
    assert!(error.contains("adjugate experts"), "{error}");
    // Other matrices than those of the model.
    let error = refused("parts", texts(&|i| if i == 0 { "gate,down" } else { "up,down" })).to_string();
    assert!(error.contains("moelten.packed.parts of layer 0") && error.contains("gate,down"), "{error}");
    for key in ["kinds", "parts"] {
        let path = changed(&folder, &sound, |file| file.remove(&format!("moelten.packed.{key}")));
        let Refusal { field, fault, .. } = refusal(|| load(&path));
        assert_eq!(field, format!("moelten.packed.{key}"));
        assert!(matches!(fault, Fault::Missing { .. }));
        let error = refused(key, Value::Array(Array::Str(vec!["ffn".into(); count + 1])));
        assert!(matches!(error, LoadError::Malformed { fault: Fault::Contradiction { .. }, .. }), "{error}");
    }
}

#[test]
fn records() {
    let name = "blk.1.ffn_expert.5";
    let refused = |change: fn(&mut TensorPlan)| {
        let Refusal { field, fault, .. } = refused(|file| change(file.tensor(name)));
        assert_eq!(field, format!("tensor {name}"));
        fault
    };
    assert!(matches!(refused(|t| t.name = "blk.1.ffn_expert.05".into()), Fault::Missing { .. }));
    assert!(matches!(refused(|t| t.storage = Storage::Known(Format::F32)), Fault::WrongType { .. }));
    assert!(matches!(refused(|t| t.shape = vec![32_768]), Fault::WrongShape { .. }));
    assert!(matches!(refused(|t| t.shape = vec![131_072]), Fault::WrongShape { .. }));
    assert!(matches!(refused(|t| t.shape = vec![1, 65_536]), Fault::WrongShape { .. }));
    assert!(matches!(refused(|t| t.shape = vec![0]), Fault::WrongShape { .. }));
}

#[test]
fn records_off_the_grid() {
    let folder = Folder::new();
    let path = with(&folder, |file| {
        file.remove("general.alignment");
        file.metadata.push(("general.alignment".into(), Value::U32(32)));
    });
    let Refusal { field, fault, .. } = refusal(|| load(&path));
    assert_eq!(field, "tensor blk.0.ffn_expert.0");
    assert!(matches!(fault, Fault::Unaligned { alignment: 65_536, .. }));
}

/// A record that is not what was written is found when its checksum is looked at, and never becomes another
/// file.
#[test]
fn damaged_records_are_found() {
    let folder = Folder::new();
    let sound = sound(&folder);
    let place = *loaded(&sound).tensors.bank_of_layer(2).unwrap().record(7).unwrap();
    for at in [0, place.bytes / 2, place.bytes - 1] {
        let mut bytes = SOUND.clone();
        bytes[usize::try_from(place.offset + at).unwrap()] ^= 0x10;
        let path = folder.file("damaged.gguf", &bytes);
        let model = loaded(&path);
        let record = model.tensors.bank_of_layer(2).unwrap().record(7).unwrap();
        assert!(!packed::verify_record(model.tensors.record_bytes(record), record.checksum));
        for layout in [FileLayout::Standard, FileLayout::Packed] {
            let plan = Conversion::plan_as(&model, layout, Types::Kept).unwrap();
            let Refusal { field, offset, fault } =
                refusal(|| plan.write(&folder.path().join("out.gguf"), &mut |_| true));
            assert_eq!((field.as_str(), offset), ("tensor blk.2.ffn_expert.7", Some(place.offset)));
            assert!(matches!(fault, Fault::Checksum { expected, .. } if expected == record.checksum));
        }
        assert!(!folder.path().join("out.gguf").exists());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any damage to the header is refused, or gives a model all of whose matrices can be looked at.
    #[test]
    fn damaged_headers_never_panic(
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = SOUND.clone();
        let index = Header::parse("f".as_ref(), &bytes).unwrap();
        let start = usize::try_from(index.tensors[0].offset).unwrap();
        // The keys of the layout stand at the end of the metadata, the names of the records at the end of the
        // header.
        let from = find(&bytes, b"moelten.packed.version");
        let header_end = start - bytes[..start].iter().rev().take_while(|&&byte| byte == 0).count();
        for (at, byte) in &damage {
            bytes[from + at.index(header_end - from)] = *byte;
        }
        if let Ok(header) = metered(|| Header::parse("f".as_ref(), &bytes)) {
            let _any = metered(|| PackedIndex::read(&header.metadata));
            let folder = Folder::new();
            let path = folder.file("damaged.gguf", &bytes);
            if let Ok(model) = metered(|| load(&path)) {
                for bank in model.tensors.banks() {
                    for (expert, matrices) in bank.iter().enumerate() {
                        for matrix in matrices {
                            let view = model.tensors.view(matrix);
                            prop_assert_eq!(view.row(view.rows() - 1).len(), view.row_bytes());
                        }
                        if let Some(record) = bank.record(expert) {
                            prop_assert_eq!(model.tensors.record_bytes(record).len() as u64, record.bytes);
                        }
                    }
                }
            }
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> usize {
    bytes.windows(text.len()).position(|window| window == text).unwrap()
}
