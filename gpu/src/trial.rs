//! A trial of an adapter without a model: is it exact, and how fast. It must not know why it is asked.

use std::time::Duration;

use moelten_quant::{Format, Kernels};

use crate::adapter::Adapter;
use crate::block::{Activation, Block, Matrix};
use crate::device::Gpu;
use crate::error::GpuError;
use crate::experts::{BankNeed, Experts, Needs};
use crate::shader::Arithmetic;

/// What a trial found.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The arithmetic that is exact.
    pub arithmetic: Arithmetic,
    /// From a submission to its results, without computing.
    pub launch: Duration,
    /// Bytes of weights that it multiplies in a second.
    pub weights: f64,
    /// Bytes that are copied to it in a second.
    pub upload: f64,
}

/// Tries an adapter with experts of 512 times 1,024 weights a matrix, as `Q4_K` and `Q6_K`.
///
/// # Errors
/// As [`Experts::open`].
pub fn trial(adapter: &Adapter, kernels: &Kernels) -> Result<Trial, GpuError> {
    let (ff, d) = (512, 1024);
    let matrix = |format, rows, cols| Matrix { format, rows, cols };
    let block = Block {
        gate: Some(matrix(Format::Q4K, ff, d)),
        up: matrix(Format::Q4K, ff, d),
        down: matrix(Format::Q6K, d, ff),
        gate_bias: false,
        up_bias: false,
        activation: Activation::Silu,
    };
    let needs = Needs { blocks: &[block], banks: &[BankNeed { block: 0, experts: 4 }], most_at_once: 4 };
    let room = 5 * block.slot_bytes() as u64;
    let experts = Experts::open(Gpu::open(adapter)?, &needs, room, kernels)?;
    let speed = experts.speed();
    let each = speed.expert[0].as_secs_f64().max(1e-9);
    let weights = block.slot_bytes() as f64 / each;
    Ok(Trial { arithmetic: experts.arithmetic(), launch: speed.launch, weights, upload: speed.upload })
}
