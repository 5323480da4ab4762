//! A trial of an adapter without a model: is it exact, how fast, how much memory it gives. It must not know
//! why it is asked.

use std::time::Duration;

use moelten_quant::{Format, Kernels};

use crate::adapter::Adapter;
use crate::block::{Activation, Block, Matrix};
use crate::device::Gpu;
use crate::error::GpuError;
use crate::experts::{BankNeed, Experts, Needs};
use crate::open::Exactness;
use crate::shader::Arithmetic;

/// What a trial found.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// The arithmetic that passed its test.
    pub arithmetic: Arithmetic,
    /// From a submission to its results, without computing.
    pub launch: Duration,
    /// Bytes of weights that it multiplies in a second.
    pub weights: f64,
    /// The same with sums that are only close; `None` where these fail their test, or were not tried.
    pub close_weights: Option<f64>,
    /// Bytes that are copied to it in a second.
    pub upload: f64,
    /// Bytes that the driver gives for experts, up to what was asked for.
    pub room: u64,
    /// Whether its memory is the RAM.
    pub shares_ram: bool,
}

/// Tries an adapter with experts of 512 times 1,024 weights a matrix, as `Q4_K` and `Q6_K`, and asks for
/// `most` bytes. The device stays open in the second result.
///
/// # Errors
/// As [`Experts::open`].
pub fn trial(
    adapter: &Adapter,
    exactness: Exactness,
    most: u64,
    kernels: &Kernels,
) -> Result<(Trial, Experts), GpuError> {
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
    let needs = Needs { blocks: &[block], banks: &[BankNeed::routed(0, 4)], most_at_once: 4 };
    let gpu = Gpu::open(adapter)?;
    let (room, shares_ram) = (gpu.room(most), gpu.shares_ram());
    let mut experts = Experts::open(gpu, &needs, 5 * block.slot_bytes() as u64, exactness, kernels)?;
    let rate = |each: &[Duration]| block.slot_bytes() as f64 / each[0].as_secs_f64().max(1e-9);
    let (arithmetic, speed) = (experts.arithmetic(), experts.speed().clone());
    let close = match exactness {
        Exactness::Exact => experts.measure_close(&needs, kernels)?,
        Exactness::Close => None,
    };
    let trial = Trial {
        arithmetic,
        launch: speed.launch,
        weights: rate(&speed.expert),
        close_weights: close.map(|close| rate(&close.expert)),
        upload: speed.upload,
        room,
        shares_ram,
    };
    Ok((trial, experts))
}
