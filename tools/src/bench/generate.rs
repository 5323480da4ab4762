//! Generated weights for a shape, in memory: the block formats and tensor sizes of a real file, with
//! different bytes in each tensor. Their mean is zero: otherwise the hidden states of random models collapse,
//! every token is routed to the same experts, and cache figures mean nothing. It must not know what is timed.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use moelten_engine::EngineError;
use moelten_engine::runtime::memory;
use moelten_loader::container::catalog::{Catalog, Storage, TensorInfo};
use moelten_loader::io::{FileBytes, Memory};
use moelten_loader::load::gguf_names;
use moelten_loader::spec::{ModelSpec, Part};
use moelten_loader::tensors::needed::needed;
use moelten_loader::tensors::roles::{LayerTensor, Role};
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{Format, encode};

use crate::report::progress::{Progress, Unit};

/// Bytes of a pool of random blocks, which tensors repeat.
const POOL_BYTES: usize = 256 << 10;
/// Alignment of tensors in bytes, as in most files.
const ALIGNMENT: u64 = 32;

/// `--format`: which tensors get which block format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Mix {
    /// 4.5 bits, the head Q6_K
    #[value(name = "q4_0")]
    Q4_0,
    /// 8.5 bits
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits, the head Q6_K
    #[value(name = "q4_k")]
    Q4K,
    /// Q4_K, with Q6_K for the most sensitive tensors, as llama-quantize mixes them
    #[value(name = "q4_k_m")]
    Q4KM,
    /// 6.6 bits
    #[value(name = "q6_k")]
    Q6K,
    /// Experts in MXFP4 (4.25 bits), the rest Q8_0
    #[value(name = "mxfp4")]
    Mxfp4,
    /// 16 bits
    #[value(name = "f16")]
    F16,
    /// 16 bits
    #[value(name = "bf16")]
    Bf16,
}

impl Mix {
    /// The format of a matrix with rows of `cols` weights in a model of `layers` layers.
    fn format(self, role: Role, cols: usize, layers: usize) -> Format {
        let experts = matches!(role, Role::Layer(_, tensor) if tensor.expert_part().is_some());
        let base = match self {
            Self::Q4_0 => Format::Q4_0,
            Self::Q8_0 => Format::Q8_0,
            Self::Q4K | Self::Q4KM => Format::Q4K,
            Self::Q6K => Format::Q6K,
            Self::Mxfp4 if experts => Format::Mxfp4,
            Self::Mxfp4 => Format::Q8_0,
            Self::F16 => Format::F16,
            Self::Bf16 => Format::BF16,
        };
        let format = match (self, role) {
            (Self::Q4_0 | Self::Q4K | Self::Q4KM, Role::Head) => Format::Q6K,
            (Self::Q4KM, Role::Layer(layer, LayerTensor::V | LayerTensor::Experts(Part::Down)))
                if more_bits(layer, layers) =>
            {
                Format::Q6K
            }
            _ => base,
        };
        match format {
            // Rows that do not divide into large blocks get the next larger format of small blocks, as in
            // llama-quantize.
            Format::Q4K if !cols.is_multiple_of(format.block_len()) => Format::Q5_0,
            Format::Q6K if !cols.is_multiple_of(format.block_len()) => Format::Q8_0,
            fits => fits,
        }
    }
}

/// Whether a `_M` mix gives the layer more bits: the first and last eighth, and every third layer in between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// A tensor to generate.
struct Plan {
    role: Role,
    shape: Vec<u64>,
    format: Format,
    fill: Fill,
    offset: u64,
    bytes: u64,
}

/// The values of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fill {
    /// All values equal.
    Constant(f32),
    /// Uniform random values with this standard deviation and mean zero.
    Random(f32),
}

/// Generates weights for `spec`, with the tensor names of GGUF files.
///
/// # Errors
/// [`EngineError::Memory`] if they do not fit into the free memory.
pub fn generate(spec: &ModelSpec, mix: Mix) -> anyhow::Result<TensorStore> {
    let (plan, bytes) = plan(spec, mix);
    let available_bytes = memory::available_bytes().unwrap_or(u64::MAX);
    if bytes > available_bytes {
        let layers = spec.layers.len() as u64;
        let fits = (layers as f64 * available_bytes as f64 / bytes as f64) as u64;
        let hint = match fits {
            0 => "a smaller shape may fit".to_owned(),
            fits => format!("--layers {fits} may fit"),
        };
        let what = "the generated model";
        return Err(EngineError::Memory { what, need_bytes: bytes, available_bytes, hint }.into());
    }
    let mut memory = usize::try_from(bytes)
        .map_err(|_| std::io::ErrorKind::OutOfMemory.into())
        .and_then(Memory::zeroed)
        .context("no memory for the generated weights")?;
    fill(&plan, memory.bytes_mut());
    let path = Path::new(&spec.name);
    let file =
        FileBytes::generated(path, memory).context("the generated weights cannot be made read-only")?;
    let names = gguf_names(spec);
    let tensors = plan.into_iter().map(|tensor| TensorInfo {
        name: names.name(tensor.role),
        storage: Storage::Known(tensor.format),
        shape: tensor.shape,
        file: 0,
        offset: tensor.offset,
        bytes: tensor.bytes,
    });
    let catalog = Catalog::new(vec![file], tensors.collect())?;
    Ok(TensorStore::resolve(spec, catalog, names)?)
}

/// All tensors of `spec` with their offsets, and the total bytes.
fn plan(spec: &ModelSpec, mix: Mix) -> (Vec<Plan>, u64) {
    let layers = spec.layers.len();
    let mut wanted: Vec<(Role, Vec<usize>)> = needed(spec)
        .into_iter()
        .map(|(role, rows, cols)| (role, if rows == 1 { vec![cols] } else { vec![rows, cols] }))
        .collect();
    for (key, bank) in spec.banks() {
        for matrix in &bank.matrices {
            let role = Role::Layer(key.layer, LayerTensor::of_bank(bank.kind, matrix.part));
            wanted.push((role, vec![bank.experts, matrix.rows, matrix.cols]));
        }
    }
    let mut end = 0;
    let plan = wanted.into_iter().map(|(role, shape)| {
        use LayerTensor as T;
        let cols = shape.last().copied().unwrap_or(0);
        let (format, fill) = match role {
            Role::Layer(_, T::QBias | T::KBias | T::VBias | T::OBias)
            | Role::Layer(_, T::PreNormBias(_) | T::PostNormBias(_) | T::DenseBias(_))
            | Role::Layer(_, T::SharedBias(_) | T::ExpertsBias(_))
            | Role::Layer(_, T::CrossQBias | T::CrossKBias | T::CrossVBias | T::CrossOBias)
            | Role::EncoderNormBias
            | Role::HeadBias
            | Role::FinalNormBias => (Format::F32, Fill::Constant(0.0)),
            _ if shape.len() == 1 => (Format::F32, Fill::Constant(1.0)),
            Role::Layer(_, T::KdaConvQ | T::KdaConvK | T::KdaConvV) => (Format::F32, Fill::Random(0.5)),
            Role::Layer(_, T::DeltaConv | T::ConvTaps | T::SsmConv) => (Format::F32, Fill::Random(0.5)),
            Role::Layer(_, T::RelativeBias) => (Format::F32, Fill::Random(0.5)),
            Role::Layer(_, T::Router) => (Format::F32, Fill::Random(0.04)),
            Role::Embed => (mix.format(role, cols, layers), Fill::Random(0.5)),
            // Random attention gives all tokens nearly the same output. It is kept small, or it would
            // accumulate over the layers until every token is routed to the same experts.
            Role::Layer(_, T::O | T::CrossO | T::DeltaOut | T::ConvOut | T::SsmOut) => {
                (mix.format(role, cols, layers), Fill::Random(0.001))
            }
            _ => (mix.format(role, cols, layers), Fill::Random(0.02)),
        };
        let row = format.row_bytes(cols).expect("shapes have rows of whole small blocks") as u64;
        let rows: u64 = shape[..shape.len() - 1].iter().map(|&n| n as u64).product();
        let (offset, bytes) = (end, rows * row);
        end = (offset + bytes).next_multiple_of(ALIGNMENT);
        Plan { role, shape: shape.into_iter().map(|n| n as u64).collect(), format, fill, offset, bytes }
    });
    (plan.collect(), end)
}

/// Fills all tensors, on all CPUs.
fn fill(plan: &[Plan], mut bytes: &mut [u8]) {
    let mut random = Random(1);
    let mut pools: Vec<(Format, Fill, Vec<u8>)> = Vec::new();
    let mut jobs = Vec::new();
    let (mut at, total) = (0, bytes.len() as u64);
    for tensor in plan {
        let known = |pool: &(Format, Fill, Vec<u8>)| pool.0 == tensor.format && pool.1 == tensor.fill;
        let pool = pools.iter().position(known).unwrap_or_else(|| {
            pools.push((tensor.format, tensor.fill, pool(tensor.format, tensor.fill, &mut random)));
            pools.len() - 1
        });
        let (_, rest) = bytes.split_at_mut((tensor.offset - at) as usize);
        let (own, rest) = rest.split_at_mut(tensor.bytes as usize);
        (bytes, at) = (rest, tensor.offset + tensor.bytes);
        jobs.push((own, pool, random.next() as usize));
    }
    let queue = Mutex::new((jobs.into_iter(), Progress::new("generating weights", Unit::Bytes, total), 0));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let job = queue.lock().expect("no worker panics while it holds the lock").0.next();
                    let Some((own, pool, start)) = job else { break };
                    let (format, _, blocks) = &pools[pool];
                    let start = start % (blocks.len() / format.block_bytes()) * format.block_bytes();
                    repeat(blocks, start, own);
                    let mut queue = queue.lock().expect("no worker panics while it holds the lock");
                    queue.2 += own.len() as u64;
                    let done = queue.2;
                    queue.1.set(done);
                }
            });
        }
    });
}

/// Fills `out` with repetitions of `pool`, starting at `start`.
fn repeat(pool: &[u8], start: usize, mut out: &mut [u8]) {
    let mut from = &pool[start..];
    while !out.is_empty() {
        let len = from.len().min(out.len());
        let (now, later) = out.split_at_mut(len);
        now.copy_from_slice(&from[..len]);
        (out, from) = (later, pool);
    }
}

/// Random weights of one format, `bytes` long, in whole blocks.
pub fn weights(format: Format, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    repeat(&pool(format, Fill::Random(0.02), &mut Random(1)), 0, &mut out);
    out
}

/// Blocks that tensors repeat. Their number is prime, so that rows differ.
fn pool(format: Format, fill: Fill, random: &mut Random) -> Vec<u8> {
    let is_prime = |n: &usize| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    let most = POOL_BYTES / format.block_bytes();
    let count = (2..=most).rev().find(is_prime).unwrap_or(2);
    let mut out = vec![0; count * format.block_bytes()];
    for block in out.chunks_exact_mut(format.block_bytes()) {
        let reach = match fill {
            Fill::Constant(value) => value..=value,
            // The standard deviation of a uniform distribution on [-r, r] is r / sqrt(3).
            Fill::Random(deviation) => -3.0_f32.sqrt() * deviation..=3.0_f32.sqrt() * deviation,
        };
        let values: Vec<f32> = (0..format.block_len()).map(|_| random.within(&reach)).collect();
        encode(format, &values, block).expect("the values are small and the format has an encoder");
    }
    out
}

/// Pseudo-random numbers: SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A uniformly distributed number of `range`.
    pub fn within(&mut self, range: &RangeInclusive<f32>) -> f32 {
        range.start() + (range.end() - range.start()) * ((self.next() >> 40) as f32 / (1u32 << 24) as f32)
    }
}

#[cfg(test)]
mod tests {
    use moelten_quant::decode;

    use super::*;
    use crate::bench::shape::Shape;

    #[test]
    fn weights_have_no_mean_and_the_size_that_was_asked_for() {
        use Format::*;
        for format in [F32, F16, BF16, Q4_0, Q5_0, Q8_0, Q4K, Q6K, Mxfp4] {
            let blocks = pool(format, Fill::Random(0.02), &mut Random(3));
            let mut values = vec![0.0; blocks.len() / format.block_bytes() * format.block_len()];
            decode(format, &blocks, &mut values);
            let n = values.len() as f32;
            let mean = values.iter().sum::<f32>() / n;
            let deviation = (values.iter().map(|v| v * v).sum::<f32>() / n).sqrt();
            assert!(mean.abs() < 0.01 * deviation, "{format}: mean {mean}, deviation {deviation}");
            assert!((0.8..1.2).contains(&(deviation / 0.02)), "{format}: deviation {deviation}");
        }
    }

    #[test]
    fn tensors_lie_apart_and_mixes_are_those_of_files() {
        let spec = Shape::find("gpt-oss-20b", Some(8)).unwrap().spec();
        let (plan, total) = plan(&spec, Mix::Q4KM);
        for pair in plan.windows(2) {
            assert!(pair[0].offset + pair[0].bytes <= pair[1].offset);
        }
        assert!(plan.last().is_some_and(|last| last.offset + last.bytes <= total));
        // 2880 is no multiple of 256.
        assert!(
            plan.iter().all(|tensor| tensor.format.block_len() <= 32 || tensor.shape.last() == Some(&4096))
        );
        let more: Vec<usize> = (0..12).filter(|&layer| more_bits(layer, 12)).collect();
        assert_eq!(more, [0, 3, 6, 9, 10, 11]);
        let down = Role::Layer(3, LayerTensor::Experts(Part::Down));
        assert_eq!(Mix::Q4KM.format(down, 2048, 12), Format::Q6K);
        assert_eq!(Mix::Q4K.format(down, 2048, 12), Format::Q4K);
        assert_eq!(Mix::Mxfp4.format(down, 2048, 12), Format::Mxfp4);
        assert_eq!(Mix::Q4_0.format(Role::Head, 2048, 12), Format::Q6K);
    }
}
