//! What the kernel tests share: numbers from a seed, weights in every format, activations of every kind,
//! products in plain order, and the tiers of this machine.

use std::io::Write;
use std::sync::Once;

use moelten_quant::{
    ActivationKind, Activations, Format, GROUP_ROWS, Isa, Kernels, Line, QMatrix, activations, encode,
};

/// Formats of blocks: their products take int8 activations.
pub fn quantised() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| !format.is_float())
}

/// Whether scales are for 16 weights.
pub fn halves(format: Format) -> bool {
    use Format::{Iq1M, Iq2S, Iq2Xs, Nvfp4, Nvfp4F32, Q2K, Q3K, Q6K};
    matches!(format, Q2K | Q3K | Q6K | Iq1M | Iq2Xs | Iq2S | Nvfp4 | Nvfp4F32)
}

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
    /// All bits random, so that scales may be infinite or not numbers.
    Bytes,
    /// All bytes zero.
    Zero,
}

impl Weights {
    pub const ALL: [Self; 4] = [Self::Random, Self::Extreme, Self::Bytes, Self::Zero];

    /// Bytes of `n` weights.
    pub fn bytes(self, format: Format, n: usize, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = vec![0; format.row_bytes(n).unwrap()];
        if self == Self::Zero {
            return bytes;
        }
        if self == Self::Bytes {
            bytes.fill_with(|| rng.bits() as u8);
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
            self.other_scales(format, block, rng);
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

    /// Scales that are not in half precision, or not in two bytes beside each other.
    fn other_scales(self, format: Format, block: &mut [u8], rng: &mut Rng) {
        let random = self == Self::Random;
        let three = rng.bits() as usize % 3;
        match format {
            Format::Q8K | Format::F8 => {
                let scale = if random { rng.float() * 0.02 } else { [1e30, 1e-40, -1.0][three] };
                block[..4].copy_from_slice(&scale.to_le_bytes());
                if format == Format::F8 {
                    // No NaN.
                    block[4..].iter_mut().filter(|code| **code & 0x7f == 0x7f).for_each(|code| *code ^= 1);
                }
            }
            Format::Nvfp4 => {
                let scale = |rng: &mut Rng| {
                    if random { 0x10 + rng.bits() as u8 % 16 } else { [0x7e, 1, 0x7f][three] }
                };
                block[..4].fill_with(|| scale(rng));
            }
            Format::Nvfp4F32 => {
                let whole = if random { rng.float() * 0.02 } else { [1e30, 1e-40, -1.0][three] };
                block[..4].copy_from_slice(&whole.to_le_bytes());
                self.other_scales(Format::Nvfp4, &mut block[4..], rng);
            }
            Format::Iq1M => {
                let random = half::f16::from_f32(rng.float() * 0.02);
                let extremes = [half::f16::MAX, half::f16::MIN_POSITIVE_SUBNORMAL, half::f16::NEG_ONE];
                let scale = if self == Self::Random { random } else { extremes[three] };
                for i in 0..4 {
                    let nibble = (scale.to_bits() >> (4 * i) & 15) as u8;
                    block[49 + 2 * i] = block[49 + 2 * i] & 15 | nibble << 4;
                }
            }
            _ => {}
        }
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
        Format::Iq1S | Format::Iq2Xxs | Format::Iq2Xs | Format::Iq2S | Format::Iq3Xxs | Format::Iq3S => &[0],
        Format::Q1_0 => &[0],
        Format::Tq1_0 => &[52],
        Format::Tq2_0 => &[64],
        _ => &[],
    }
}

/// Activations to test with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Inputs {
    /// Uniform in -1..1.
    Random,
    /// Codes of 127 and -127.
    Extreme,
    /// Codes of 127.
    Most,
    /// Zero, of either sign.
    Zero,
    /// A single number that is not zero in each token.
    OneHot,
    /// Around 2^-100, below which a block counts as zero, and subnormal.
    Tiny,
    /// From 2^-90 to 2^90, block by block.
    Wide,
    /// Blocks with NaN or infinity in every third token.
    Broken,
}

impl Inputs {
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::Extreme,
        Self::Most,
        Self::Zero,
        Self::OneHot,
        Self::Tiny,
        Self::Wide,
        Self::Broken,
    ];

    /// `[tokens, cols]` numbers.
    pub fn floats(self, tokens: usize, cols: usize, rng: &mut Rng) -> Vec<f32> {
        let mut x = rng.floats(tokens * cols);
        for (t, x) in x.chunks_mut(cols).enumerate() {
            match self {
                Self::Random => {}
                Self::Extreme => x.iter_mut().for_each(|x| *x = x.signum()),
                Self::Most => x.fill(3.0),
                Self::Zero => x.iter_mut().for_each(|x| *x *= 0.0),
                Self::OneHot => {
                    x.fill(0.0);
                    x[t * 7 % cols] = [1.0, -0.25][t % 2];
                }
                Self::Tiny | Self::Wide => {
                    for (block, x) in x.chunks_mut(32).enumerate() {
                        let exponent = match self {
                            Self::Tiny => [-100, -99, -101, -126, -140][(t + block) % 5],
                            _ => (rng.bits() % 181) as i32 - 90,
                        };
                        x.iter_mut().for_each(|x| *x *= 2f32.powi(exponent));
                        x[0] = 2f32.powi(exponent);
                    }
                }
                Self::Broken if t % 3 == 1 => {
                    let wrong = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN];
                    x[rng.bits() as usize % cols] = wrong[t / 3 % 4];
                }
                Self::Broken => {}
            }
        }
        x
    }
}

/// Activations and the memory that they are in.
pub struct Packed {
    pub kind: ActivationKind,
    pub tokens: usize,
    pub cols: usize,
    pub lines: Vec<Line>,
}

impl Packed {
    /// `[tokens, cols]` numbers as products with `format` take them.
    pub fn new(kernels: &Kernels, format: Format, x: &[f32], cols: usize) -> Self {
        let kind = ActivationKind::of(format);
        Self { kind, tokens: x.len() / cols, cols, lines: activations(kernels, kind, x, cols) }
    }

    pub fn view(&self) -> Activations<'_> {
        Activations::new(self.kind, self.tokens, self.cols, &self.lines)
    }
}

/// A product as `[tokens, rows]`, from groups of rows.
pub fn product(kernels: &Kernels, w: QMatrix<'_>, x: Activations<'_>) -> Vec<f32> {
    let (rows, tokens) = (w.rows(), x.tokens());
    let mut grouped = vec![f32::from_bits(0x7fa5_a5a5); rows * tokens];
    kernels.matmul(w, x, &mut grouped);
    let mut out = vec![0.0; rows * tokens];
    for (group, grouped) in grouped.chunks(GROUP_ROWS * tokens.max(1)).enumerate() {
        let width = grouped.len() / tokens;
        for (t, from) in grouped.chunks(width).enumerate() {
            out[t * rows + group * GROUP_ROWS..][..width].copy_from_slice(from);
        }
    }
    out
}

/// Asserts equal bits; all NaNs count as equal.
#[track_caller]
pub fn assert_same(got: &[f32], expected: &[f32], what: &dyn Fn() -> String) {
    assert_eq!(got.len(), expected.len(), "{}", what());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
        assert!(same, "{} [{i}]: {got:e}, not {expected:e}", what());
    }
}

/// The kernels of every tier of this machine. The run prints their names, also if all tests pass.
/// `MOELTEN_REQUIRE_ISA`, a comma-separated list, makes it an error that one is missing, so that a machine
/// that should test a tier cannot skip it in silence.
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
