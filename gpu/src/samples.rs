//! What devices are tested with: random experts and inputs, and how results are compared. It must not know
//! devices.

use moelten_quant::{ActivationKind, Format, Kernels, Line, QMatrix, activations};

use crate::block::{Block, ExpertBytes};

/// How far a sum may be from the CPU's, as a share of the largest.
const NEAR: f32 = 1e-5;

/// What weights of a test are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weights {
    /// Scales as models have them.
    Usual,
    /// Subnormal scales, and inputs so small that outputs are subnormal.
    Tiny,
    /// Any bytes: infinite scales and NaN too.
    Any,
}

/// A generator of numbers that is the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// The bytes of a random expert, matrices one after the other, then its biases.
pub struct OwnedExpert {
    block: Block,
    matrices: Vec<Vec<u8>>,
    biases: [Option<Vec<f32>>; 2],
}

impl OwnedExpert {
    /// Its parts.
    ///
    /// # Panics
    /// Never: the matrices were made for the shape.
    pub fn bytes(&self) -> ExpertBytes<'_> {
        let block = &self.block;
        let shapes = block.gate.iter().chain([&block.up, &block.down]);
        let mut views = shapes.zip(&self.matrices).map(|(matrix, bytes)| {
            QMatrix::new(matrix.format, matrix.rows, matrix.cols, bytes).expect("made for this shape")
        });
        let mut next = || views.next().expect("as many as the shape has");
        ExpertBytes {
            gate: block.gate.map(|_| next()),
            up: next(),
            down: next(),
            gate_bias: self.biases[0].as_deref(),
            up_bias: self.biases[1].as_deref(),
        }
    }
}

/// A random expert whose scales are as those of models.
pub fn random_expert(block: &Block, seed: u64) -> OwnedExpert {
    made(block, Weights::Usual, &mut Random::new(seed))
}

pub(crate) fn made(block: &Block, weights: Weights, random: &mut Random) -> OwnedExpert {
    let mut matrices = Vec::new();
    for matrix in block.gate.iter().chain([&block.up, &block.down]) {
        let mut bytes: Vec<u8> = Vec::with_capacity(matrix.rows * matrix.row_bytes() + 8);
        while bytes.len() < matrix.rows * matrix.row_bytes() {
            bytes.extend(random.next().to_le_bytes());
        }
        bytes.truncate(matrix.rows * matrix.row_bytes());
        for block in bytes.chunks_exact_mut(matrix.format.block_bytes()) {
            tame(matrix.format, block, weights, random);
        }
        matrices.push(bytes);
    }
    let mut bias = |has: bool| has.then(|| (0..block.d_ff()).map(|_| random.unit()).collect());
    OwnedExpert { block: *block, matrices, biases: [bias(block.gate_bias), bias(block.up_bias)] }
}

/// Gives a block scales of a kind.
fn tame(format: Format, block: &mut [u8], weights: Weights, random: &mut Random) {
    let halves: &[usize] = match format {
        Format::Q4K | Format::Q5K => &[0, 2],
        Format::Q6K => &[208],
        Format::Mxfp4 => {
            match weights {
                Weights::Usual => block[0] = 116 + (random.next() % 8) as u8,
                Weights::Tiny => block[0] = (random.next() % 4) as u8,
                Weights::Any => {}
            }
            return;
        }
        _ => &[0],
    };
    for &at in halves {
        let bits = random.next() as u16;
        let (sign, fraction) = (bits & 0x8000, bits & 0x3ff);
        let exponent = 4 + (random.next() % 8) as u16;
        let half = match weights {
            Weights::Usual => sign | exponent << 10 | fraction,
            Weights::Tiny => sign | fraction,
            // One in sixteen, so that most rows stay numbers.
            Weights::Any if random.next().is_multiple_of(16) => bits,
            Weights::Any => sign | exponent << 10 | fraction,
        };
        block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    }
}

/// One token's records. Among the blocks are one of zeros and one of large numbers.
pub(crate) fn input(kernels: &Kernels, width: usize, weights: Weights, random: &mut Random) -> Vec<Line> {
    let scale = if weights == Weights::Tiny { 1e-28 } else { 1.0 };
    let mut x: Vec<f32> = (0..width).map(|_| random.unit() * scale).collect();
    if width >= 128 {
        x[32..64].fill(0.0);
        x[64..96].iter_mut().for_each(|x| *x *= 1000.0);
        // Products of the largest codes.
        x[96..128].fill(scale);
    }
    activations(kernels, ActivationKind::Q8, &x, width)
}

/// Words of records; those that no kernel reads are zero in both.
pub(crate) fn words(lines: &[Line]) -> Vec<u32> {
    lines.iter().flat_map(|line| *line.as_words()).collect()
}

/// The first place where bits differ. All NaN are the same number.
pub(crate) fn differs(what: &str, got: &[u32], wanted: &[u32]) -> Option<String> {
    if got.len() != wanted.len() {
        return Some(format!("{what}: {} numbers, not {}", got.len(), wanted.len()));
    }
    let nan = |bits: u32| f32::from_bits(bits).is_nan();
    let other = |(got, wanted): (&u32, &u32)| got != wanted && !(nan(*got) && nan(*wanted));
    let count = got.iter().zip(wanted).filter(|&pair| other(pair)).count();
    let at = got.iter().zip(wanted).position(other)?;
    Some(format!(
        "{what}: {count} of {} differ, the first at {at}: {:#x}, not {:#x}",
        got.len(),
        got[at],
        wanted[at]
    ))
}

/// The largest distance, if it is too large.
pub(crate) fn far(what: &str, got: &[f32], wanted: &[f32]) -> Option<String> {
    far_by(what, got, wanted, NEAR)
}

/// As [`far`], for a distance of this share of the largest.
pub(crate) fn far_by(what: &str, got: &[f32], wanted: &[f32], share: f32) -> Option<String> {
    let most = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let distance = got.iter().zip(wanted).fold(0.0_f32, |far, (a, b)| far.max((a - b).abs()));
    // Not the other way round: a distance of NaN is too large.
    let near = got.len() == wanted.len() && distance <= share * most && got.iter().all(|x| x.is_finite());
    (!near).then(|| format!("{what} are {distance:e} from the CPU's, of at most {most:e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_is_said() {
        assert_eq!(far("x", &[1.0, -2.0], &[1.0, -2.000_01]), None);
        assert!(far("x", &[1.0, -2.0], &[1.0, -2.001]).is_some());
        assert!(far("x", &[f32::NAN], &[1.0]).is_some());
        assert!(far("x", &[], &[1.0]).is_some());
    }
}
