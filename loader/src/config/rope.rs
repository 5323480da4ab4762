//! The frequencies of a rope (arXiv 2104.09864) under each scheme of context extension.
#![allow(clippy::cast_precision_loss, reason = "dimensions and contexts are far below 2^52")]

use std::f64::consts::TAU;

use crate::spec::{ModelSpec, RopeScaling, RopeSpec};

impl ModelSpec {
    /// The longest context, in tokens, that uses the short frequencies of LongRoPE; `None` for other models.
    pub fn short_rope_context(&self) -> Option<usize> {
        let ropes = self.attention_layers().filter_map(|attention| attention.rope.as_ref());
        let limits = ropes.filter_map(|rope| match &rope.scaling {
            RopeScaling::LongRope { original_context, .. } => Some(*original_context),
            _ => None,
        });
        limits.min()
    }
}

impl RopeSpec {
    /// Radians per position of each pair, `[dim / 2]`, in a context of `context` tokens.
    pub fn frequencies(&self, context: usize) -> Vec<f64> {
        let half = self.dim / 2;
        let plain = |i: usize| f64::from(self.theta).powf(-((2 * i) as f64) / self.dim as f64);
        match &self.scaling {
            RopeScaling::None => (0..half).map(plain).collect(),
            RopeScaling::Linear { factor } => (0..half).map(|i| plain(i) / f64::from(*factor)).collect(),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let ramp = Llama3Ramp {
                    factor: f64::from(*factor),
                    low: f64::from(*low_freq_factor),
                    high: f64::from(*high_freq_factor),
                    original: *original_context as f64,
                };
                (0..half).map(|i| ramp.apply(plain(i))).collect()
            }
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
                let dimension = |rotations: f32| yarn_dimension(self, *original_context, rotations);
                let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(self.dim as f64 - 1.0));
                let width = if high > low { high - low } else { 0.001 };
                let blend = |i: usize| {
                    let interpolated = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    plain(i) * (1.0 - interpolated) + plain(i) / f64::from(*factor) * interpolated
                };
                (0..half).map(blend).collect()
            }
            RopeScaling::Factors { divisors } => divide(divisors, plain),
            RopeScaling::LongRope { short, long, original_context, .. } => {
                divide(if context > *original_context { long } else { short }, plain)
            }
        }
    }

    /// Factor on rotated queries and keys in a context of `context` tokens.
    pub fn magnitude(&self, context: usize) -> f32 {
        match &self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => *attention_factor,
            RopeScaling::LongRope { original_context, short_factor, long_factor, .. } => {
                if context > *original_context { *long_factor } else { *short_factor }
            }
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Llama3 { .. }
            | RopeScaling::Factors { .. } => 1.0,
        }
    }
}

/// Llama 3.1's blend between divided and kept frequencies.
struct Llama3Ramp {
    factor: f64,
    low: f64,
    high: f64,
    original: f64,
}

impl Llama3Ramp {
    fn apply(&self, frequency: f64) -> f64 {
        let wavelength = TAU / frequency;
        if wavelength < self.original / self.high {
            frequency
        } else if wavelength > self.original / self.low {
            frequency / self.factor
        } else {
            let kept = (self.original / wavelength - self.low) / (self.high - self.low);
            (1.0 - kept) * frequency / self.factor + kept * frequency
        }
    }
}

/// The dimension whose frequency turns `rotations` times over the original context (YaRN, section 3.2).
fn yarn_dimension(spec: &RopeSpec, original_context: usize, rotations: f32) -> f64 {
    let turns = original_context as f64 / (f64::from(rotations) * TAU);
    spec.dim as f64 * turns.ln() / (2.0 * f64::from(spec.theta).ln())
}

fn divide(divisors: &[f32], plain: impl Fn(usize) -> f64) -> Vec<f64> {
    divisors.iter().enumerate().map(|(i, &divisor)| plain(i) / f64::from(divisor)).collect()
}
