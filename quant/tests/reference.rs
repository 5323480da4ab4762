//! The reference decode and encode against what the PyPI package `gguf` computed (`data/generate.py`), bit by bit.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails with the test")]

use moelten_quant::{EncodeError, Format, decode, encode};
use proptest::prelude::*;

/// A reader over a fixture.
struct Fixture(&'static [u8]);

impl Fixture {
    fn take(&mut self, n: usize) -> &'static [u8] {
        let (head, tail) = self.0.split_at(n);
        self.0 = tail;
        head
    }

    fn count(&mut self) -> usize {
        u32::from_le_bytes(self.take(4).try_into().unwrap()) as usize
    }
}

fn fnv1a(values: &[f32]) -> u64 {
    values
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[test]
fn every_format_decodes_to_the_bits_of_the_gguf_package() {
    let mut fixture = Fixture(include_bytes!("data/decode.bin"));
    for format in Format::ALL {
        let name = std::str::from_utf8(fixture.take(8)).unwrap().trim_end_matches('\0');
        assert_eq!(Format::from_name(name), Some(format));
        let count = fixture.count();
        assert!(count >= 40);
        let blocks = fixture.take(count * format.block_bytes());
        let mut weights = vec![0.0; format.block_len()];
        for (i, block) in blocks.chunks(format.block_bytes()).enumerate() {
            decode(format, block, &mut weights);
            let expected = u64::from_le_bytes(fixture.take(8).try_into().unwrap());
            assert_eq!(fnv1a(&weights), expected, "{format} block {i}: {weights:?}");
        }
        let mut all = vec![0.0; count * format.block_len()];
        decode(format, blocks, &mut all);
        assert!(
            all[all.len() - weights.len()..]
                .iter()
                .map(|w| w.to_bits())
                .eq(weights.iter().map(|w| w.to_bits()))
        );
    }
    assert!(fixture.0.is_empty());
}

#[test]
fn q8_0_encodes_to_the_bytes_of_the_gguf_package() {
    let mut fixture = Fixture(include_bytes!("data/encode_q8_0.bin"));
    let count = fixture.count();
    let mut values = vec![0.0; count * 32];
    decode(Format::F32, fixture.take(count * 128), &mut values);
    for (i, x) in values.chunks(32).enumerate() {
        let mut block = [0; 34];
        encode(Format::Q8_0, x, &mut block).unwrap();
        assert_eq!(block, fixture.take(34), "block {i}: {x:?}");
    }
    assert!(fixture.0.is_empty());
}

fn encoded(format: Format, values: &[f32]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap_or(0)];
    encode(format, values, &mut bytes).map(|()| bytes)
}

#[test]
fn halves_round_to_nearest_even() {
    // Between 1 and the next half (1 + 2^-10), and between that and the one after: ties go to the even code.
    let ties = [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 1.0 + 2f32.powi(-11) + 2f32.powi(-20)];
    assert_eq!(encoded(Format::F16, &ties).unwrap(), [0x00, 0x3c, 0x02, 0x3c, 0x01, 0x3c]);
    let ties = [1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), 1.0 + 2f32.powi(-8) + 2f32.powi(-20)];
    assert_eq!(encoded(Format::BF16, &ties).unwrap(), [0x80, 0x3f, 0x82, 0x3f, 0x81, 0x3f]);
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0; 64];
            values[40] = bad;
            assert_eq!(encoded(format, &values), Err(EncodeError::NotFinite { index: 40 }), "{format}");
        }
    }
    assert_eq!(encoded(Format::F16, &[1.0, 65520.0]), Err(EncodeError::OutOfRange { index: 1 }));
    assert_eq!(encoded(Format::BF16, &[f32::MAX]), Err(EncodeError::OutOfRange { index: 0 }));
    let mut values = [1.0; 64];
    values[33] = -1e7;
    assert_eq!(encoded(Format::Q8_0, &values), Err(EncodeError::OutOfRange { index: 33 }));
    assert_eq!(encoded(Format::Q8_0, &[0.0; 33]), Err(EncodeError::PartialBlock { len: 33, block_len: 32 }));
    assert_eq!(encoded(Format::Q4K, &[0.0; 256]), Err(EncodeError::Unsupported(Format::Q4K)));
}

#[test]
#[should_panic(expected = "do not match")]
fn decode_refuses_lengths_that_disagree() {
    decode(Format::Q4_0, &[0; 18], &mut [0.0; 64]);
}

proptest! {
    /// With `a` the largest magnitude and the stored scale `d` within `a/127 * (1 +- 2^-11)` (or 2^-25 for a subnormal),
    /// a value is off by half a code, and by its own size times the relative error of the scale.
    #[test]
    fn q8_0_round_trips_within_its_step(values in prop::collection::vec(-1000f32..1000.0, 32), exp in -14i32..6) {
        let values: Vec<f32> = values.iter().map(|v| v * 2f32.powi(exp)).collect();
        let bytes = encoded(Format::Q8_0, &values).unwrap();
        let mut back = [0.0; 32];
        decode(Format::Q8_0, &bytes, &mut back);
        let largest = values.iter().fold(0f32, |a, v| a.max(v.abs()));
        let step = largest / 127.0;
        let scale_error = (step * 2f32.powi(-11)).max(2f32.powi(-25));
        // Codes are at most 127; 1e-6 covers the roundings of the encoder's own arithmetic.
        let bound = 0.5 * step + 127.0 * scale_error + 1e-6 * largest;
        for (v, b) in values.iter().zip(back) {
            prop_assert!((v - b).abs() <= bound, "{v} came back as {b}, bound {bound}");
        }
    }

    #[test]
    fn f32_f16_and_bf16_round_trip_within_half_a_unit(value in -60000f32..60000.0) {
        for (format, unit) in [(Format::F32, 0.0), (Format::F16, 2f32.powi(-11)), (Format::BF16, 2f32.powi(-8))] {
            let mut back = [0.0];
            decode(format, &encoded(format, &[value]).unwrap(), &mut back);
            // A half is subnormal below 2^-14: the unit is absolute there.
            let bound = value.abs() * unit + if format == Format::F16 { 2f32.powi(-25) } else { 0.0 };
            prop_assert!((value - back[0]).abs() <= bound, "{format}: {value} came back as {}", back[0]);
        }
    }
}
