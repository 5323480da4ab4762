//! What the kernel tests share: numbers from a seed, weights in every format, and the tiers of this machine.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a helper of tests fails with the test")]

use std::io::Write;
use std::sync::Once;

use moelten_quant::{Format, Isa, Kernels, encode};

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    pub fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Weights to test with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weights {
    /// All bits of the codes random, scales of either sign around 1/100.
    Random,
    /// Each block all ones or all zeros but for its scales, which are the largest, the smallest or minus one.
    Extreme,
    /// All bytes zero.
    Zero,
}

impl Weights {
    pub const ALL: [Self; 3] = [Self::Random, Self::Extreme, Self::Zero];

    /// Bytes of `n` weights.
    pub fn bytes(self, format: Format, n: usize, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = vec![0; format.row_bytes(n).unwrap()];
        if self == Self::Zero {
            return bytes;
        }
        if matches!(format, Format::F32 | Format::F16 | Format::BF16) {
            let extremes = [60000.0, -60000.0, 6e-5, -1.0, 0.0, -0.0];
            let values: Vec<f32> = match self {
                Self::Random => rng.floats(n),
                _ => (0..n).map(|_| extremes[rng.bits() as usize % extremes.len()]).collect(),
            };
            encode(format, &values, &mut bytes).unwrap();
            return bytes;
        }
        for block in bytes.chunks_mut(format.block_bytes()) {
            let fill = if rng.bits().is_multiple_of(2) { 0xff } else { 0 };
            block.fill_with(|| if self == Self::Random { rng.bits() as u8 } else { fill });
            if format == Format::Mxfp4 {
                block[0] = if self == Self::Random {
                    118 + rng.bits() as u8 % 6
                } else {
                    [1, 127, 240][rng.bits() as usize % 3]
                };
            }
            for &at in scale_offsets(format) {
                let scale = match self {
                    Self::Random => half::f16::from_f32(rng.float() * 0.02),
                    _ => [half::f16::MAX, half::f16::MIN_POSITIVE_SUBNORMAL, half::f16::NEG_ONE]
                        [rng.bits() as usize % 3],
                };
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        bytes
    }
}

/// Where the half-precision scales of a block are.
fn scale_offsets(format: Format) -> &'static [usize] {
    match format {
        Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Iq4Nl | Format::Iq4Xs => &[0],
        Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q2K => &[80, 82],
        Format::Q3K => &[108],
        Format::Q6K => &[208],
        _ => &[],
    }
}

/// The kernels of every tier of this machine, which the run prints (past the capture of passing tests).
/// `MOELTEN_REQUIRE_ISA`, a comma-separated list, makes it an error that one is missing, so that a machine that should test
/// a tier cannot skip it in silence.
pub fn tiers() -> Vec<&'static Kernels> {
    static PRINT: Once = Once::new();
    let tiers: Vec<_> = Isa::available().into_iter().map(|isa| Kernels::for_isa(isa).unwrap()).collect();
    let names: Vec<_> = tiers.iter().map(|k| k.isa().name()).collect();
    let line = format!("tiers covered: {}\n", names.join(", "));
    PRINT.call_once(|| std::io::stderr().write_all(line.as_bytes()).unwrap());
    if let Ok(required) = std::env::var("MOELTEN_REQUIRE_ISA") {
        for name in required.split(',') {
            assert!(names.contains(&name), "tier {name} is required and this machine has {names:?}");
        }
    }
    tiers
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
