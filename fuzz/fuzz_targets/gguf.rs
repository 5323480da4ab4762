//! GGUF headers: any bytes are parsed or refused; what is parsed lies in the file and answers every getter,
//! and records of a packed file have their matrices in them.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moelten_loader::container::gguf::Header;
use moelten_loader::container::packed::{PackedIndex, PackedLayer, RECORD_ALIGN};

fuzz_target!(|bytes: &[u8]| {
    let header = match Header::parse(Path::new("f"), bytes) {
        Ok(header) => header,
        Err(error) => {
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            return;
        }
    };
    let len = bytes.len() as u64;
    assert!(header.alignment.is_power_of_two());
    let mut ranges: Vec<_> = header.tensors.iter().map(|t| (t.offset, t.offset + t.bytes)).collect();
    ranges.retain(|(start, end)| start != end);
    ranges.sort_unstable();
    assert!(ranges.iter().all(|(_, end)| *end <= len));
    assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    let m = &header.metadata;
    match PackedIndex::read(m) {
        Ok(None) => {}
        Ok(Some(index)) => {
            assert!(!index.layers().is_empty());
            let bank = |layer: &PackedLayer| (layer.layer, layer.kind);
            assert!(index.layers().windows(2).all(|pair| bank(&pair[0]) < bank(&pair[1])));
            for layer in index.layers() {
                assert!(!layer.checksums.is_empty() && layer.shape.bytes % u64::from(RECORD_ALIGN) == 0);
                let mut end = 0;
                for (_, matrix) in layer.shape.parts() {
                    assert!(matrix.offset >= end && matrix.bytes > 0);
                    end = matrix.offset + matrix.bytes;
                }
                assert!(end <= layer.shape.bytes);
            }
        }
        Err(error) => assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
    }
    for (key, value) in m.iter() {
        assert!(!value.type_name().is_empty());
        let (text, texts) = (m.str(key).is_ok(), m.strings(key).is_ok());
        let (one, list) = (m.f32(key).is_ok(), m.f32s(key).is_ok());
        let truth = m.bool(key).is_ok() || m.bools(key).is_ok();
        // A number may be meant as one of another type, a text is nothing else.
        assert!(!(text && texts) && !((text || texts) && (one || list || truth)), "{key} is of two types");
        assert!(one || m.u64(key).is_err(), "{key} is a count and no number");
        let counts = m.i32s(key).is_ok() || m.u64s(key).is_ok() || m.u8s(key).is_ok();
        assert!(list || m.bools(key).is_ok() || !counts, "{key} is a list of counts and no list of numbers");
    }
});
