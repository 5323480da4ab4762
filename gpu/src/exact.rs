//! The test that decides whether a device is used, and with which arithmetic: the pipelines that will run,
//! over random experts, built ones and a chain of gates, compared with the CPU in every bit. Code does not
//! depend on data, so a pipeline that is exact here stays what it is. It must not know how pipelines are
//! made.

use moelten_quant::{ActivationKind, Format, Kernels, Line, QMatrix, activations};

use crate::block::{Block, ExpertBytes};
use crate::error::GpuError;
use crate::experts::Experts;
use crate::reference;

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

/// Whether every bit is that of the CPU; otherwise what differs first.
///
/// # Errors
/// Faults of the driver.
pub(crate) fn check(experts: &mut Experts, kernels: &Kernels) -> Result<Option<String>, GpuError> {
    for (index, block) in experts.blocks() {
        let Some(bank) = experts.bank_of(index) else { continue };
        for weights in [Weights::Usual, Weights::Tiny, Weights::Any] {
            let mut random = Random::new(7 + weights as u64);
            let expert = made(&block, weights, &mut random);
            let input = input(kernels, block.d_model(), weights, &mut random);
            let found = compare(experts, kernels, (index, bank), &expert.bytes(), &input)?;
            if let Some(fault) = found {
                return Ok(Some(format!("{weights:?} weights: {fault}")));
            }
        }
        if let Some(fault) = check_hidden(experts, kernels, index, bank)? {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

fn compare(
    experts: &mut Experts,
    kernels: &Kernels,
    (index, bank): (usize, usize),
    expert: &ExpertBytes<'_>,
    input: &[Line],
) -> Result<Option<String>, GpuError> {
    let (_, block) = experts.blocks().nth(index).expect("the index of a shape");
    experts.upload(bank, 0, expert)?;
    experts.begin(bank, &[0], input)?;
    let mut out = vec![0.0; block.d_model()];
    experts.finish(&mut out)?;
    let (values, hidden) = experts.inside(index, 1)?;
    let wanted = reference::expert(kernels, &block, expert, input);
    let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
    let values_wanted = [bits(&wanted.gate), bits(&wanted.up)].concat();
    let found = differs("products with the input", &values, &values_wanted)
        .or_else(|| differs("the hidden layer", &hidden, &words(&wanted.hidden)))
        .or_else(|| differs("the outputs", &bits(&out), &bits(&wanted.out)));
    Ok(found.map(|fault| format!("{} {fault}", block.up.format)))
}

/// The hidden layer over gates from -130 to 130 and others that are not met in models.
fn check_hidden(
    experts: &mut Experts,
    kernels: &Kernels,
    index: usize,
    bank: usize,
) -> Result<Option<String>, GpuError> {
    let (_, block) = experts.blocks().nth(index).expect("the index of a shape");
    let odd = [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN];
    let mut random = Random::new(11);
    let expert = made(&block, Weights::Usual, &mut random);
    experts.upload(bank, 0, &expert.bytes())?;
    let rounds = 4096_usize.div_ceil(block.d_ff()).max(2);
    for round in 0..rounds {
        let step = 260.0 / (rounds * block.d_ff()) as f32;
        let at = |i: usize| -130.0 + step * (round * block.d_ff() + i) as f32;
        let mut gate: Vec<f32> = (0..block.d_ff()).map(at).collect();
        let up: Vec<f32> = (0..block.d_ff()).map(|_| random.unit() * 8.0).collect();
        // Numbers together; then infinities and NaN one to a block, as the scale of such a block hides the
        // rest.
        if round == 0 {
            gate.iter_mut().zip(odd).take(4).for_each(|(gate, odd)| *gate = odd);
        } else if round == 1 {
            gate.iter_mut().step_by(32).zip(odd).for_each(|(gate, odd)| *gate = odd);
        }
        let bits = |x: &[f32]| -> Vec<u32> { x.iter().map(|x| x.to_bits()).collect() };
        let got = experts.hidden_of(index, &bits(&gate), &bits(&up))?;
        let wanted = reference::hidden(kernels, &block, &expert.bytes(), &gate, &up);
        if let Some(fault) = differs("the hidden layer of a chain", &got, &words(&wanted)) {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

/// Words of records; those that no kernel reads are zero in both.
fn words(lines: &[Line]) -> Vec<u32> {
    lines.iter().flat_map(|line| *line.as_words()).collect()
}

/// The first place where bits differ. All NaN are the same number.
fn differs(what: &str, got: &[u32], wanted: &[u32]) -> Option<String> {
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
