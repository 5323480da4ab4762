//! Encoding: the bytes of the PyPI package `gguf` where it has an encoder (`data/generate.py`), the errors of
//! llama.cpp's quantisers elsewhere, and what must hold of any input.

use moelten_quant::{EncodeError, Format, decode, encode, encode_weighted};
use proptest::prelude::*;

/// Formats whose codes follow from the extremes of a block.
const PLAIN: [Format; 6] =
    [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::Mxfp4];

/// Formats whose scales are searched for.
const SEARCHED: [Format; 7] =
    [Format::Q2K, Format::Q3K, Format::Q4K, Format::Q5K, Format::Q6K, Format::Iq4Nl, Format::Iq4Xs];

/// Every block format that can be encoded.
fn block_formats() -> impl Iterator<Item = Format> {
    PLAIN.into_iter().chain(SEARCHED)
}

#[test]
fn formats_that_say_that_they_are_written_are() {
    let floats = [Format::F32, Format::F16, Format::BF16];
    for format in Format::ALL {
        let listed = floats.into_iter().chain(block_formats()).any(|written| written == format);
        assert_eq!(format.is_written(), listed, "{format}");
        assert_eq!(encoded(format, &[0.0; 256], None).is_ok(), listed, "{format}");
    }
}

fn encoded(format: Format, values: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = vec![0; format.row_bytes(values.len()).unwrap_or(0)];
    encode_weighted(format, values, importance, &mut bytes).map(|()| bytes)
}

fn round_trip(format: Format, values: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
    let mut back = vec![0.0; values.len()];
    decode(format, &encoded(format, values, importance).unwrap(), &mut back);
    back
}

/// Numbers from 0 up to 1 of a linear congruential generator, the same everywhere.
struct Rng(u32);

impl Rng {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 24) as f32
    }
}

/// Importance `[256]` over three orders of magnitude, and values `[64, 256]`: near normal, with a few four
/// times as large.
fn tensor() -> (Vec<f32>, Vec<f32>) {
    let mut rng = Rng(1);
    let importance = (0..256).map(|_| rng.next().powi(4) + 0.001).collect();
    let values = (0..64 * 256).map(|_| {
        let value = rng.next() + rng.next() + rng.next() + rng.next() - 2.0;
        if rng.next() < 1.0 / 32.0 { value * 4.0 } else { value }
    });
    (importance, values.collect())
}

/// `sqrt(sum w * (x - y)^2 / sum w * x^2)`, `w` by column.
fn relative_error(x: &[f32], y: &[f32], w: &[f32]) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for ((&x, &y), &w) in x.iter().zip(y).zip(w.iter().cycle()) {
        error += f64::from(w) * f64::from(x - y).powi(2);
        size += f64::from(w) * f64::from(x).powi(2);
    }
    (error / size).sqrt()
}

#[test]
fn plain_formats_encode_to_the_bytes_of_the_gguf_package() {
    let fixture = include_bytes!("../data/encode.bin");
    let (count, rest) = fixture.split_at(4);
    let count = u32::from_le_bytes(count.try_into().unwrap()) as usize;
    assert!(count >= 40);
    let (bytes, mut rest) = rest.split_at(count * 128);
    let mut values = vec![0.0; count * 32];
    decode(Format::F32, bytes, &mut values);
    for expected in [Format::F16, Format::BF16].into_iter().chain(PLAIN) {
        let name = std::str::from_utf8(&rest[..8]).unwrap().trim_end_matches('\0');
        assert_eq!(Format::from_name(name), Some(expected));
        let size = expected.row_bytes(32).unwrap();
        for (i, x) in values.chunks(32).enumerate() {
            let block = &rest[8 + i * size..][..size];
            assert_eq!(encoded(expected, x, None).unwrap(), block, "{expected} block {i}: {x:?}");
        }
        rest = &rest[8 + count * size..];
    }
    assert!(rest.is_empty());
}

/// What llama.cpp (xllamacpp 2026.10.11549, `ggml_quantize_chunk`) leaves of `tensor()`: the error without
/// importance, and with it, the latter weighted by it. The plain formats are the same without importance.
#[test]
fn errors_are_at_most_those_of_llama_cpp() {
    let (importance, values) = tensor();
    for (format, plain, weighted) in [
        (Format::Q4_0, 0.117368, 0.108340),
        (Format::Q4_1, 0.090915, 0.072396),
        (Format::Q5_0, 0.058725, 0.053700),
        (Format::Q5_1, 0.043965, 0.034897),
        (Format::Q8_0, 0.007344, 0.007501),
        (Format::Mxfp4, 0.132096, 0.132539),
        (Format::Q2K, 0.336832, 0.242981),
        (Format::Q3K, 0.185273, 0.160890),
        (Format::Q4K, 0.084816, 0.075230),
        (Format::Q5K, 0.042813, 0.039416),
        (Format::Q6K, 0.022396, 0.020726),
        (Format::Iq4Nl, 0.094304, 0.087001),
        (Format::Iq4Xs, 0.095350, 0.089129),
    ] {
        let error = relative_error(&values, &round_trip(format, &values, None), &[1.0]);
        // The last digit of the figures.
        assert!(error <= plain + 1e-6, "{format}: {error:.6}, llama.cpp {plain}");
        let error = relative_error(&values, &round_trip(format, &values, Some(&importance)), &importance);
        assert!(error <= weighted + 1e-6, "{format} with importance: {error:.6}, llama.cpp {weighted}");
    }
}

#[test]
fn importance_lowers_the_error_where_it_lies() {
    let (importance, values) = tensor();
    for format in block_formats().filter(|&format| format != Format::Q8_0) {
        let without = relative_error(&values, &round_trip(format, &values, None), &importance);
        let with = relative_error(&values, &round_trip(format, &values, Some(&importance)), &importance);
        assert!(with < 0.99 * without, "{format}: {with} with importance, {without} without");
    }
}

#[test]
fn importance_in_another_unit_gives_the_same_bytes() {
    let (importance, values) = tensor();
    for format in block_formats() {
        let expected = encoded(format, &values, Some(&importance)).unwrap();
        for unit in [2f32.powi(-100), 2f32.powi(100)] {
            let scaled: Vec<f32> = importance.iter().map(|w| w * unit).collect();
            assert_eq!(encoded(format, &values, Some(&scaled)).unwrap(), expected, "{format}, unit {unit:e}");
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_neighbours() {
    let (importance, values) = tensor();
    for format in block_formats() {
        for importance in [None, Some(&importance[..])] {
            let rows: Vec<u8> =
                values.chunks(256).flat_map(|row| encoded(format, row, importance).unwrap()).collect();
            assert_eq!(encoded(format, &values, importance).unwrap(), rows, "{format}");
        }
    }
}

/// Blocks of 256 that upset divisions, searches and conversions, with the largest error allowed relative to
/// the largest value.
fn traps() -> Vec<(&'static str, Vec<f32>)> {
    let one_hot = |at: usize, value: f32| (0..256).map(|i| if i == at { value } else { 0.0 }).collect();
    vec![
        ("zeros", vec![0.0; 256]),
        ("negative zeros", vec![-0.0; 256]),
        ("ones", vec![1.0; 256]),
        ("minus ones", vec![-1.0; 256]),
        ("one hot", one_hot(37, 5.0)),
        ("one hot, negative", one_hot(255, -5.0)),
        ("one subnormal", one_hot(0, f32::from_bits(1))),
        ("subnormals", (0..256).map(|i| f32::from_bits(i * 0x4000)).collect()),
        ("below a half", vec![1e-9; 256]),
        ("alternating", (0..256).map(|i| if i % 2 == 0 { 3.0 } else { -3.0 }).collect()),
        ("near the largest half", (0..256).map(|i| 65000.0 * (i as f32 * 0.7).sin()).collect()),
        ("one outlier", (0..256).map(|i| if i == 100 { 1e4 } else { (i as f32).sin() * 1e-3 }).collect()),
        ("far from zero", (0..256).map(|i| 100.0 + (i as f32).cos()).collect()),
        ("far below zero", (0..256).map(|i| -100.0 + (i as f32).cos()).collect()),
        ("falling by half", (0..256).map(|i| 2f32.powi(-i)).collect()),
    ]
}

#[test]
fn awkward_blocks_come_back() {
    let importances = [
        ("none", None),
        ("zeros", Some(vec![0.0; 256])),
        ("even", Some(vec![1.0; 256])),
        ("one hot", Some((0..256).map(|i| if i == 37 { 1.0 } else { 0.0 }).collect())),
        ("subnormal", Some(vec![f32::from_bits(1); 256])),
        ("extremes", Some((0..256).map(|i| if i % 2 == 0 { f32::MAX } else { f32::MIN_POSITIVE }).collect())),
    ];
    for format in block_formats() {
        // A step in the middle of the codes, relative to the largest value; a scale below 2^-25 is stored
        // as zero.
        let step = match format {
            Format::Q8_0 => 1.0 / 127.0,
            Format::Q6K => 1.0 / 31.0,
            Format::Q5_0 | Format::Q5_1 | Format::Q5K => 1.0 / 15.0,
            Format::Mxfp4 => 1.0 / 4.0,
            Format::Q3K => 1.0 / 3.0,
            Format::Q2K => 1.0 / 1.5,
            _ => 1.0 / 7.0,
        };
        for (trap, values) in traps() {
            let largest = values.iter().fold(0f32, |a, x| a.max(x.abs()));
            for (name, importance) in &importances {
                let back = round_trip(format, &values, importance.as_deref());
                assert!(back.iter().all(|y| y.is_finite()), "{format}, {trap}, importance {name}");
                if matches!(*name, "one hot" | "extremes") {
                    continue;
                }
                for (i, (x, y)) in values.iter().zip(&back).enumerate() {
                    assert!(
                        (x - y).abs() <= 1.25 * step * largest + 128.0 * 2f32.powi(-25),
                        "{format}, {trap}, importance {name}: {x} came back as {y} at {i}"
                    );
                }
            }
        }
        assert!(round_trip(format, &[0.0; 256], None).iter().all(|&y| y == 0.0), "{format}");
    }
}

/// The scale of the scales is below the smallest half-precision number here; the scales are not.
#[test]
fn super_blocks_of_small_values_keep_their_shape() {
    let values: Vec<f32> = (0..256).map(|i| 3e-5 * (i as f32).sin()).collect();
    for format in [Format::Q4K, Format::Q5K, Format::Q6K, Format::Iq4Xs] {
        let error = relative_error(&values, &round_trip(format, &values, None), &[1.0]);
        assert!(error < 0.1, "{format}: {error}");
    }
}

#[test]
fn halves_round_to_nearest_even() {
    // Between 1 and the next half (1 + 2^-10), and between that and the one after: ties go to the even code.
    let ties = [1.0 + 2f32.powi(-11), 1.0 + 3.0 * 2f32.powi(-11), 1.0 + 2f32.powi(-11) + 2f32.powi(-20)];
    assert_eq!(encoded(Format::F16, &ties, None).unwrap(), [0x00, 0x3c, 0x02, 0x3c, 0x01, 0x3c]);
    let ties = [1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), 1.0 + 2f32.powi(-8) + 2f32.powi(-20)];
    assert_eq!(encoded(Format::BF16, &ties, None).unwrap(), [0x80, 0x3f, 0x82, 0x3f, 0x81, 0x3f]);
}

#[test]
fn q8_0_rounds_halves_away_from_zero() {
    // The scale is 1. The largest number below a half is no tie.
    let mut values = [0.0; 32];
    values[..7].copy_from_slice(&[127.0, 0.5, -0.5, 1.5, -2.5, 0.499_999_97, -0.499_999_97]);
    assert_eq!(round_trip(Format::Q8_0, &values, None)[..7], [127.0, 1.0, -1.0, 2.0, -3.0, 0.0, 0.0]);
}

#[test]
fn what_cannot_be_encoded_is_an_error() {
    let importance = [1.0; 256];
    let floats = [Format::F32, Format::F16, Format::BF16];
    for format in floats.into_iter().chain(block_formats()) {
        for importance in [None, Some(&importance[..])] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = [1.0; 1024];
                values[700] = bad;
                let error = encoded(format, &values, importance);
                assert_eq!(error, Err(EncodeError::NotFinite { index: 700 }), "{format}");
            }
            let mut values = [1.0; 1024];
            for (huge, at) in [(1e9, 333), (-f32::MAX, 1023)] {
                values[at] = huge;
                let wide = match format {
                    Format::F32 | Format::Mxfp4 => true,
                    Format::BF16 => huge == 1e9,
                    _ => false,
                };
                let result = encoded(format, &values, importance);
                let expected = Err(EncodeError::OutOfRange { index: at });
                assert!(if wide { result.is_ok() } else { result == expected }, "{format}, {huge}");
                values[at] = 1.0;
            }
        }
    }
    for format in block_formats() {
        let block_len = format.block_len();
        let partial = EncodeError::PartialBlock { len: block_len + 1, block_len };
        assert_eq!(encoded(format, &vec![0.0; block_len + 1], None), Err(partial));
        // Whole blocks, but not whole blocks a row.
        let halves = vec![1.0; block_len / 2];
        let partial = EncodeError::PartialBlock { len: block_len / 2, block_len };
        assert_eq!(encoded(format, &vec![0.0; block_len], Some(&halves)), Err(partial));
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let mut importance = [1.0; 256];
            importance[255] = bad;
            let refused = Err(EncodeError::Importance { column: 255 });
            assert_eq!(encoded(format, &[0.0; 256], Some(&importance)), refused, "{format}");
        }
    }
    for format in [Format::Iq2Xs, Format::Tq1_0, Format::Q8K, Format::Nvfp4, Format::Nvfp4F32] {
        assert_eq!(encoded(format, &[0.0; 256], None), Err(EncodeError::Unsupported(format)));
        assert_eq!(encoded(format, &[0.0; 256], Some(&importance)), Err(EncodeError::Unsupported(format)));
    }
}

#[test]
#[should_panic(expected = "are no rows of 64")]
fn values_that_are_no_rows_are_refused() {
    let _ = encode_weighted(Format::Q4_0, &[0.0; 96], Some(&[1.0; 64]), &mut [0; 54]);
}

#[test]
#[should_panic(expected = "take 36 bytes")]
fn output_of_another_length_is_refused() {
    let _ = encode(Format::Q4_0, &[0.0; 64], &mut [0; 18]);
}

proptest! {
    /// Half a step of the format, a whole one where the codes of one sign end a step early, plus what
    /// rounding the stored numbers to half precision may add: their relative error 2^-11 (2^-25 where
    /// subnormal) times the largest code.
    #[test]
    fn plain_formats_round_trip_within_their_step(
        values in prop::collection::vec(-1000f32..1000.0, 32),
        exp in -14i32..6,
    ) {
        let values: Vec<f32> = values.iter().map(|v| v * 2f32.powi(exp)).collect();
        let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        let largest = high.max(-low);
        for (format, step, steps, offset) in [
            (Format::Q4_0, largest / 8.0, 8.0, 0.0),
            (Format::Q5_0, largest / 16.0, 16.0, 0.0),
            (Format::Q8_0, largest / 127.0, 127.0, 0.0),
            (Format::Q4_1, (high - low) / 15.0, 15.0, low.abs()),
            (Format::Q5_1, (high - low) / 31.0, 31.0, low.abs()),
        ] {
            let signed = matches!(format, Format::Q4_0 | Format::Q5_0);
            let stored = |x: f32| (x * 2f32.powi(-11)).max(2f32.powi(-25));
            // 1e-6 covers the roundings of the encoder's own arithmetic.
            let bound =
                if signed { step } else { 0.5 * step } + steps * stored(step) + stored(offset) + 1e-6 * largest;
            for (v, b) in values.iter().zip(round_trip(format, &values, None)) {
                prop_assert!((v - b).abs() <= bound, "{format}: {v} came back as {b}, bound {bound}");
            }
        }
        // The widest gap of E2M1 is from 4 to 6; values above 6 steps, up to 8, are cut off.
        for (v, b) in values.iter().zip(round_trip(Format::Mxfp4, &values, None)) {
            prop_assert!((v - b).abs() <= largest / 4.0, "MXFP4: {v} came back as {b}, largest {largest}");
        }
    }

    #[test]
    fn plain_formats_keep_what_they_have_stored(
        values in prop::collection::vec(-1000f32..1000.0, 32),
        exp in -24i32..6,
    ) {
        let values: Vec<f32> = values.iter().map(|v| v * 2f32.powi(exp)).collect();
        for format in PLAIN {
            let once = round_trip(format, &values, None);
            prop_assert_eq!(&round_trip(format, &once, None), &once, "{}", format);
        }
    }

    /// Any finite bits at all: an error or finite weights.
    #[test]
    fn whatever_is_encoded_decodes_to_finite_weights(
        bits in prop::collection::vec(any::<u32>(), 256),
        shift in 0u32..8,
        importance in prop::collection::vec(any::<u32>(), 256),
    ) {
        // Bit 23 is cleared, and so no exponent is that of infinity; without a shift every block would hold
        // values too large.
        let values: Vec<f32> =
            bits.iter().map(|&b| f32::from_bits(b & 0x8000_0000 | (b & 0x7f7f_ffff) >> shift)).collect();
        let importance: Vec<f32> = importance.iter().map(|&b| f32::from_bits(b & 0x7f7f_ffff)).collect();
        for format in block_formats() {
            for importance in [None, Some(&importance[..])] {
                let mut bytes = vec![0; format.row_bytes(256).unwrap()];
                let result = encode_weighted(format, &values, importance, &mut bytes);
                let refused = matches!(result, Err(EncodeError::OutOfRange { .. }));
                prop_assert!(refused || result.is_ok(), "{}: {:?}", format, result);
                let mut back = vec![0.0; 256];
                decode(format, &bytes, &mut back);
                prop_assert!(back.iter().all(|y| y.is_finite()), "{}", format);
            }
        }
    }

    #[test]
    fn f32_f16_and_bf16_round_trip_within_half_a_unit(value in -60000f32..60000.0) {
        for (format, unit) in [(Format::F32, 0.0), (Format::F16, 2f32.powi(-11)), (Format::BF16, 2f32.powi(-8))] {
            let back = round_trip(format, &[value], None);
            // A half is subnormal below 2^-14: the unit is absolute there.
            let bound = value.abs() * unit + if format == Format::F16 { 2f32.powi(-25) } else { 0.0 };
            prop_assert!((value - back[0]).abs() <= bound, "{format}: {value} came back as {}", back[0]);
        }
    }
}
