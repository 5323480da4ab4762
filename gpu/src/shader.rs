//! The WGSL of each pipeline, put together from parts: arithmetic, job, format or activation, kernel. It
//! must not know devices.

use moelten_quant::Format;

use crate::block::Activation;

/// How products of rows are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arithmetic {
    /// By the device's `fma()`: fast, and exact only where a test has shown it.
    Fused,
    /// In whole numbers: exact on every device that follows WGSL.
    Whole,
    /// As `Fused`, but sums are added as a tree: fastest, and not exact.
    Close,
}

impl Arithmetic {
    /// The name in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fused => "fma",
            Self::Whole => "whole numbers",
            Self::Close => "tree sums",
        }
    }

    /// Whether it may be used where no bit may differ.
    pub fn is_exact(self) -> bool {
        self != Self::Close
    }

    /// Rows of a workgroup of products.
    pub(crate) fn rows_of_group(self) -> usize {
        if self.is_exact() { 64 } else { 8 }
    }
}

const WHOLE: &str = include_str!("wgsl/whole.wgsl");
const JOB: &str = include_str!("wgsl/job.wgsl");
const HIDDEN: &str = include_str!("wgsl/hidden.wgsl");
const K_SCALES: &str = include_str!("wgsl/formats/k_scales.wgsl");
const IQ4: &str = include_str!("wgsl/formats/iq4.wgsl");

/// Products of rows of a format; the entry point is `rows`.
///
/// # Panics
/// For a format without a kernel.
pub(crate) fn rows(format: Format, arithmetic: Arithmetic) -> String {
    const FUSED: &str = include_str!("wgsl/arith_fused.wgsl");
    const IN_ORDER: &str = include_str!("wgsl/rows.wgsl");
    let (arithmetic, rows) = match arithmetic {
        Arithmetic::Fused => (FUSED, IN_ORDER),
        Arithmetic::Whole => (include_str!("wgsl/arith_whole.wgsl"), IN_ORDER),
        Arithmetic::Close => (FUSED, include_str!("wgsl/rows_close.wgsl")),
    };
    let parts: &[&str] = match format {
        Format::Q4_0 => &[include_str!("wgsl/formats/q4_0.wgsl")],
        Format::Q8_0 => &[include_str!("wgsl/formats/q8_0.wgsl")],
        Format::Q4K => &[K_SCALES, include_str!("wgsl/formats/q4_k.wgsl")],
        Format::Q5K => &[K_SCALES, include_str!("wgsl/formats/q5_k.wgsl")],
        Format::Q6K => &[include_str!("wgsl/formats/q6_k.wgsl")],
        Format::Iq4Nl => &[IQ4, include_str!("wgsl/formats/iq4_nl.wgsl")],
        Format::Iq4Xs => &[IQ4, include_str!("wgsl/formats/iq4_xs.wgsl")],
        Format::Mxfp4 => &[include_str!("wgsl/formats/mxfp4.wgsl")],
        other => unreachable!("{other} was refused before"),
    };
    [&[WHOLE, arithmetic, JOB], parts, &[rows]].concat().concat()
}

/// The hidden layer; the entry point is `layer`.
pub(crate) fn hidden(activation: Activation) -> String {
    let body = match activation {
        Activation::Silu => "return whole_mul(silu(gate), up);",
        Activation::GeluTanh => "return whole_mul(gelu(gate), up);",
        Activation::Relu => "return whole_mul(positive(gate), up);",
        Activation::ReluSquared => "let g = positive(gate); return whole_mul(whole_mul(g, g), up);",
        Activation::ClampedSilu { .. } => {
            "let u = at_least(at_most(up, job.limit), negated(job.limit));
             return whole_mul(silu(at_most(gate, job.limit)), u);"
        }
        Activation::ClampedSwiglu { .. } => {
            "let g = whole_mul(job.alpha, at_most(gate, job.limit));
             let u = at_least(at_most(up, job.limit), negated(job.limit));
             return whole_mul(silu(g), whole_div(whole_add(u, 0x3f800000u), job.alpha));"
        }
    };
    let minus_two_c = -2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    let own = format!(
        "const MINUS_TWO_C = {:#x}u;\nfn activated(gate: u32, up: u32) -> u32 {{ {body} }}\n",
        minus_two_c.to_bits()
    );
    [WHOLE, JOB, HIDDEN, &own].concat()
}

/// The parameters of a kernel, as `Job` in the shaders has them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Job {
    pub rows: u32,
    pub blocks: u32,
    pub base: u32,
    pub row_bytes: u32,
    pub in_stride: u32,
    pub out_start: u32,
    pub out_stride: u32,
    pub up_start: u32,
    pub gate_bias: u32,
    pub up_bias: u32,
    pub limit: u32,
    pub alpha: u32,
}

/// No part of a slot, or no output.
pub(crate) const NONE: u32 = u32::MAX;
/// Words of a record of 32 activations.
pub(crate) const RECORD: usize = 16;

impl Job {
    pub fn words(&self) -> [u32; 12] {
        [
            self.rows,
            self.blocks,
            self.base,
            self.row_bytes,
            self.in_stride,
            self.out_start,
            self.out_stride,
            self.up_start,
            self.gate_bias,
            self.up_bias,
            self.limit,
            self.alpha,
        ]
    }
}
