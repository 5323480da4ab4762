//! The tier that every machine has: plain Rust on the reference decode, kept simple because it is the
//! reference. No unsafe code.

mod attend;
pub(super) mod codes;
mod floats;
pub(super) mod peaks;
mod recurrence;

use super::table::{Codes, Floats, Kernels, Peaks};
use crate::activations::fill;
use crate::decode::decode;
use crate::isa::Isa;

pub(super) static SCALAR: Kernels = Kernels {
    isa: Isa::Scalar,
    floats: &FLOATS,
    codes: &Codes { product: codes::product, fill },
    picked: None,
    peaks: &PEAKS,
};

static FLOATS: Floats = Floats {
    lanes: floats::LANES,
    unpack: decode,
    fused: None,
    block: floats::block,
    dot: floats::dot,
    axpy: floats::axpy,
    to_f16: floats::to_f16,
    scale: floats::scale,
    rms_norm: floats::rms_norm,
    layer_norm: floats::layer_norm,
    attend: attend::attend,
    attend_merge: attend::attend_merge,
    silu_mul: floats::silu_mul,
    gelu_tanh_mul: floats::gelu_tanh_mul,
    delta_step: recurrence::delta_step,
    space_step: recurrence::space_step,
};

static PEAKS: Peaks = Peaks { read: [peaks::read, peaks::read], multiply: peaks::multiply };
