//! Feed-forward blocks, written out.

use moelten_loader::spec::{Activation, MlpSpec, Part};
use moelten_loader::tensors::roles::LayerTensor as T;

use super::{Layer, linear};

/// The matrices and biases of a feed-forward block, or of all experts of a bank.
pub(super) struct Block<'a> {
    spec: MlpSpec,
    gate: Option<&'a [f32]>,
    up: &'a [f32],
    down: &'a [f32],
    gate_bias: Option<&'a [f32]>,
    up_bias: Option<&'a [f32]>,
    down_bias: Option<&'a [f32]>,
}

impl<'a> Block<'a> {
    pub(super) fn new(of: Layer<'a>, spec: &MlpSpec, weight: fn(Part) -> T, bias: fn(Part) -> T) -> Self {
        Self {
            spec: *spec,
            gate: of.weights_if(spec.gated, weight(Part::Gate)),
            up: of.weights(weight(Part::Up)),
            down: of.weights(weight(Part::Down)),
            gate_bias: of.weights_if(spec.gated && spec.bias, bias(Part::Gate)),
            up_bias: of.weights_if(spec.bias, bias(Part::Up)),
            down_bias: of.weights_if(spec.bias, bias(Part::Down)),
        }
    }

    /// One expert out of those of a bank.
    pub(super) fn of_expert(&self, expert: usize, d_model: usize) -> Self {
        let part = |all: &'a [f32], len: usize| &all[expert * len..][..len];
        let (matrix, d_ff) = (self.spec.d_ff * d_model, self.spec.d_ff);
        Self {
            spec: self.spec,
            gate: self.gate.map(|all| part(all, matrix)),
            up: part(self.up, matrix),
            down: part(self.down, matrix),
            gate_bias: self.gate_bias.map(|all| part(all, d_ff)),
            up_bias: self.up_bias.map(|all| part(all, d_ff)),
            down_bias: self.down_bias.map(|all| part(all, d_model)),
        }
    }

    pub(super) fn apply(&self, x: &[f64]) -> Vec<f64> {
        let up = linear(self.up, self.up_bias, x);
        let hidden: Vec<f64> = match self.gate {
            None => up.into_iter().map(|up| activate(&self.spec, up)).collect(),
            Some(gate) => {
                let gate = linear(gate, self.gate_bias, x);
                gate.into_iter().zip(up).map(|(gate, up)| self.gated(gate, up)).collect()
            }
        };
        linear(self.down, self.down_bias, &hidden)
    }

    fn gated(&self, gate: f64, up: f64) -> f64 {
        match self.spec.activation {
            Activation::ClampedSwiglu { alpha, limit } => {
                let (alpha, limit) = (f64::from(alpha), f64::from(limit));
                let gate = gate.min(limit);
                gate / (1.0 + (-alpha * gate).exp()) * (up.clamp(-limit, limit) + 1.0)
            }
            Activation::BoundedSilu { limit } => {
                let limit = f64::from(limit);
                (gate / (1.0 + (-gate).exp())).min(limit) * up.clamp(-limit, limit)
            }
            Activation::ClampedSilu { limit } => {
                let limit = f64::from(limit);
                let gate = gate.min(limit);
                gate / (1.0 + (-gate).exp()) * up.clamp(-limit, limit)
            }
            _ => activate(&self.spec, gate) * up,
        }
    }
}

/// The activation of a block without a gate.
pub(super) fn activate(block: &MlpSpec, x: f64) -> f64 {
    match block.activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0) * x.max(0.0),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::ClampedSwiglu { .. }
        | Activation::BoundedSilu { .. }
        | Activation::ClampedSilu { .. } => {
            unreachable!("it needs a gate")
        }
    }
}
