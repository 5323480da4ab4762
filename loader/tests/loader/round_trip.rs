//! Properties: what the writer writes the reader reads, and no damage to a file makes a reader panic or
//! allocate.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Array, Gguf, Header, Value};
use moelten_loader::container::hf_folder::ShardIndex;
use moelten_loader::container::safetensors::parse_header;
use moelten_quant::Format;
use proptest::prelude::*;

use crate::common::{Folder, GgufBytes, safetensors};
use crate::meter::metered;

fn name() -> impl Strategy<Value = String> {
    "[a-z]{1,6}(\\.[0-9]{1,2})?(\\.[a-zé_]{1,8})?"
}

fn value() -> impl Strategy<Value = Value> {
    use proptest::collection::vec;
    let few = 0..5_usize;
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e6_f32..1e6).prop_map(Value::F32),
        (-1e6_f64..1e6).prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        any::<String>().prop_map(Value::Str),
        vec(any::<u8>(), few.clone()).prop_map(|v| Value::Array(Array::U8(v))),
        vec(any::<i8>(), few.clone()).prop_map(|v| Value::Array(Array::I8(v))),
        vec(any::<u16>(), few.clone()).prop_map(|v| Value::Array(Array::U16(v))),
        vec(any::<i16>(), few.clone()).prop_map(|v| Value::Array(Array::I16(v))),
        vec(any::<u32>(), few.clone()).prop_map(|v| Value::Array(Array::U32(v))),
        vec(any::<i32>(), few.clone()).prop_map(|v| Value::Array(Array::I32(v))),
        vec(any::<u64>(), few.clone()).prop_map(|v| Value::Array(Array::U64(v))),
        vec(any::<i64>(), few.clone()).prop_map(|v| Value::Array(Array::I64(v))),
        vec(-1e6_f32..1e6, few.clone()).prop_map(|v| Value::Array(Array::F32(v))),
        vec(-1e6_f64..1e6, few.clone()).prop_map(|v| Value::Array(Array::F64(v))),
        vec(any::<bool>(), few.clone()).prop_map(|v| Value::Array(Array::Bool(v))),
        vec(any::<String>(), few).prop_map(|v| Value::Array(Array::Str(v))),
    ]
}

fn tensor() -> impl Strategy<Value = (Storage, Vec<u64>)> {
    let in_files: Vec<Format> = Format::ALL.into_iter().filter(|format| format.is_in_files()).collect();
    let storage = prop_oneof![
        4 => proptest::sample::select(in_files).prop_map(Storage::Known),
        1 => proptest::sample::select(vec!["I8", "I32", "F64", "Q8_1"]).prop_map(Storage::Other),
    ];
    (storage, proptest::collection::vec(0..4_u64, 0..3), 1..3_u64).prop_map(|(storage, mut shape, blocks)| {
        // 256 is a whole number of blocks of every type.
        shape.push(blocks * 256);
        (storage, shape)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(
        metadata in proptest::collection::btree_map(name(), value(), 0..8),
        tensors in proptest::collection::btree_map(name(), tensor(), 0..6),
        align in 0..8_u32,
        piece in 1..2000_usize,
    ) {
        let mut metadata: Vec<(String, Value)> = metadata.into_iter().collect();
        metadata.push(("general.alignment".to_owned(), Value::U32(1 << align)));
        let plan: Vec<TensorPlan> =
            tensors.into_iter().map(|(name, (storage, shape))| TensorPlan { name, storage, shape }).collect();
        // The sizes come from a file of the same plan that only has a header.
        let folder = Folder::new();
        let path = folder.path().join("m.gguf");
        let mut writer = GgufWriter::create(&path, &metadata, &plan, &[]).unwrap();
        let mut written = Vec::new();
        for (i, tensor) in plan.iter().enumerate() {
            let bytes: Vec<u8> = (0..size(tensor)).map(|k| (k * 7 + i as u64) as u8).collect();
            for chunk in bytes.chunks(piece) {
                writer.write_tensor(&tensor.name, chunk).unwrap();
            }
            written.push(bytes);
        }
        writer.finish().unwrap();

        let gguf = Gguf::open(&path).unwrap();
        prop_assert_eq!(&gguf.notices, &[""; 0]);
        prop_assert_eq!(gguf.alignment, 1 << align);
        let read: Vec<(String, Value)> = gguf.metadata.iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
        prop_assert_eq!(read, metadata);
        prop_assert_eq!(gguf.catalog.tensors().len(), plan.len());
        for ((planned, info), bytes) in plan.iter().zip(gguf.catalog.tensors()).zip(&written) {
            prop_assert_eq!((&planned.name, planned.storage, &planned.shape), (&info.name, info.storage, &info.shape));
            prop_assert_eq!(gguf.catalog.bytes(info), bytes.as_slice());
        }
    }

    #[test]
    fn damaged_gguf_never_panics(damage in damage()) {
        let mut bytes = GgufBytes::sound().build();
        apply(&mut bytes, &damage);
        if let Ok(header) = metered(|| Header::parse("f".as_ref(), &bytes)) {
            for tensor in header.tensors {
                prop_assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn damaged_safetensors_never_panics(damage in damage()) {
        let header = br#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},
            "b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]}}"#;
        let mut bytes = safetensors(header, 24);
        apply(&mut bytes, &damage);
        if let Ok(tensors) = metered(|| parse_header("f".as_ref(), &bytes)) {
            for tensor in tensors {
                prop_assert!(tensor.offset + tensor.bytes <= bytes.len() as u64);
            }
        }
    }

    #[test]
    fn damaged_index_never_panics(damage in damage()) {
        let mut bytes = br#"{"metadata":{"total_size":1},"weight_map":{"a":"x-1.safetensors"}}"#.to_vec();
        apply(&mut bytes, &damage);
        if let Ok(index) = metered(|| ShardIndex::parse("f".as_ref(), &bytes)) {
            prop_assert!(index.shards().iter().all(|name| !name.contains(['/', '\\'])));
        }
    }
}

/// Bytes of a planned tensor, by a computation of its own: the formats' names are the reference's names.
fn size(tensor: &TensorPlan) -> u64 {
    let values: u64 = tensor.shape.iter().product();
    let per_256 = match tensor.storage {
        Storage::Known(format) => (256 / format.block_len() * format.block_bytes()) as u64,
        Storage::Other("I8") => 256,
        Storage::Other("I32") => 1024,
        Storage::Other("F64") => 2048,
        Storage::Other("Q8_1") => 320,
        Storage::Other(name) => panic!("{name} is not among the chosen"),
    };
    values / 256 * per_256
}

/// Places and new bytes.
fn damage() -> impl Strategy<Value = Vec<(proptest::sample::Index, u8)>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(b'"'), Just(b'9')];
    proptest::collection::vec((any::<proptest::sample::Index>(), byte), 1..6)
}

fn apply(bytes: &mut Vec<u8>, damage: &[(proptest::sample::Index, u8)]) {
    for (at, byte) in damage {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    // The first place also cuts the file, half of the time.
    if let [(at, byte), ..] = damage
        && byte & 1 == 1
    {
        let len = at.index(bytes.len()) + 1;
        bytes.truncate(len);
    }
}
