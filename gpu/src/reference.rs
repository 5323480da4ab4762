//! What an expert's hidden layer is on the CPU, with the kernels of `moelten-quant`: what devices are
//! compared with. It must not know devices.

use moelten_quant::{ActivationKind, Activations, Kernels, Line, QMatrix, activations};

use crate::block::{Activation, Block, ExpertBytes};

/// Everything between input and output of one expert.
pub(crate) struct Reference {
    /// Outputs of the gate, or of `up` without one, `[d_ff]`.
    pub gate: Vec<f32>,
    /// Outputs of `up`; empty without a gate.
    pub up: Vec<f32>,
    /// Records of the hidden layer.
    pub hidden: Vec<Line>,
    /// `[d_model]`.
    pub out: Vec<f32>,
}

/// Computes an expert over one token's records.
pub(crate) fn expert(
    kernels: &Kernels,
    block: &Block,
    expert: &ExpertBytes<'_>,
    input: &[Line],
) -> Reference {
    let x = Activations::new(ActivationKind::Q8, 1, block.d_model(), input);
    let first = expert.gate.unwrap_or(expert.up);
    let gate = product(kernels, first, x);
    let up = if expert.gate.is_some() { product(kernels, expert.up, x) } else { Vec::new() };
    let hidden = hidden(kernels, block, expert, &gate, &up);
    let out = product(kernels, expert.down, Activations::new(ActivationKind::Q8, 1, block.d_ff(), &hidden));
    Reference { gate, up, hidden, out }
}

/// A matrix times one packed input.
pub(crate) fn product(kernels: &Kernels, w: QMatrix<'_>, x: Activations<'_>) -> Vec<f32> {
    let mut out = vec![0.0; w.rows()];
    kernels.matmul(w, x, &mut out);
    out
}

/// The records of the hidden layer for outputs of gate and up.
pub(crate) fn hidden(
    kernels: &Kernels,
    block: &Block,
    expert: &ExpertBytes<'_>,
    gate: &[f32],
    up: &[f32],
) -> Vec<Line> {
    let (mut gate, mut up) = (gate.to_vec(), up.to_vec());
    let bias = |bias: Option<&[f32]>, x: &mut [f32]| {
        if let Some(bias) = bias {
            kernels.axpy(1.0, bias, x);
        }
    };
    if block.gate.is_some() {
        bias(expert.gate_bias, &mut gate);
        bias(expert.up_bias, &mut up);
    } else {
        bias(expert.up_bias, &mut gate);
        up = vec![1.0; gate.len()];
    }
    match block.activation {
        Activation::Silu => kernels.silu_mul(&gate, &mut up),
        Activation::GeluTanh => kernels.gelu_tanh_mul(&gate, &mut up),
        Activation::Relu => up.iter_mut().zip(&gate).for_each(|(up, gate)| *up *= gate.max(0.0)),
        Activation::ReluSquared => {
            up.iter_mut().zip(&gate).for_each(|(up, gate)| *up *= gate.max(0.0) * gate.max(0.0));
        }
        Activation::ClampedSilu { limit } => {
            gate.iter_mut().for_each(|g| *g = if *g > limit { limit } else { *g });
            up.iter_mut().for_each(|u| *u = u.clamp(-limit, limit));
            kernels.silu_mul(&gate, &mut up);
        }
        Activation::ClampedSwiglu { alpha, limit } => {
            gate.iter_mut().for_each(|g| *g = alpha * if *g > limit { limit } else { *g });
            up.iter_mut().for_each(|u| *u = (u.clamp(-limit, limit) + 1.0) / alpha);
            kernels.silu_mul(&gate, &mut up);
        }
    }
    activations(kernels, ActivationKind::Q8, &up, up.len())
}
