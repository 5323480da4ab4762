//! How runs of tokens become one row (DeepSeek-V4, its technical report): a weighed average of the tokens'
//! values, feature by feature, under a norm and a rope. With two series the row of a run takes the first
//! series of the run before and the second of its own. It must not know what rows are for.

use std::ops::Range;

use moelten_loader::spec::{CompressorSpec, RopeSpec};
use moelten_quant::Kernels;

use crate::layers::linear::{Compute, Linear};
use crate::layers::norm::rms_in_place;
use crate::layers::rope::{Angles, Rope};
use crate::layers::scratch::ProductScratch;

/// The weights by which tokens become rows of `width` numbers.
#[derive(Debug, Clone)]
pub struct Compressor {
    /// Runs and series.
    pub spec: CompressorSpec,
    /// Width of a row.
    pub width: usize,
    /// Values of all series, `[series * width, d_model]`.
    pub values: Linear,
    /// The logits of their weights, `[series * width, d_model]`.
    pub gates: Linear,
    /// Added to logits by the place of a token in its run, `[rate, series * width]`.
    pub places: Vec<f32>,
    /// Weights of the norm, `[width]`.
    pub norm: Vec<f32>,
    /// Added to the mean square.
    pub norm_eps: f32,
    /// The rope of the trailing dimensions.
    pub rope: RopeSpec,
    /// Its frequencies.
    pub own_rope: Rope,
}

/// Values and logits of the tokens of a pass.
#[derive(Default)]
pub struct CompressScratch {
    /// `[tokens, series * width]`.
    pub values: Vec<f32>,
    /// `[tokens, series * width]`.
    pub gates: Vec<f32>,
}

impl CompressScratch {
    /// Buffers of so many numbers each.
    pub fn new(numbers: usize) -> Self {
        Self { values: vec![0.0; numbers], gates: vec![0.0; numbers] }
    }

    /// Values and logits of some tokens of the pass, each `wide` numbers.
    pub fn of(&self, tokens: &Range<usize>, wide: usize) -> (&[f32], &[f32]) {
        let at = tokens.start * wide..tokens.end * wide;
        (&self.values[at.clone()], &self.gates[at])
    }

    /// Numbers of the buffers.
    pub fn numbers(&self) -> usize {
        self.values.capacity() + self.gates.capacity()
    }
}

impl Compressor {
    /// Width of all series of a token.
    pub fn wide(&self) -> usize {
        self.spec.series() * self.width
    }

    /// Values and logits of `x`, `[tokens, d_model]`, which is packed in `p`.
    pub fn project(&self, compute: Compute<'_>, x: &[f32], s: &mut CompressScratch, p: &mut ProductScratch) {
        let numbers = x.len() / self.values.weight.cols * self.wide();
        for (linear, out) in [(&self.values, &mut s.values), (&self.gates, &mut s.gates)] {
            compute.pack_also(x, [linear.weight.format], &mut p.packed);
            compute.linear(linear, &p.packed, &mut out[..numbers], &mut p.grouped);
        }
    }

    /// Takes in tokens from `position` on, whose values and logits are `given`. `open` is what is kept of
    /// runs that are not complete. Calls `complete` with each row that is, and its number.
    pub fn take(
        &self,
        kernels: &Kernels,
        position: usize,
        (values, gates): (&[f32], &[f32]),
        open: &mut [f32],
        angles: &mut Angles,
        complete: &mut dyn FnMut(usize, &[f32]),
    ) {
        let (rate, wide, width) = (self.spec.rate, self.wide(), self.width);
        // Values, then logits, of the tokens of the open run; then those of the run before, first series.
        let (run, before) = open.split_at_mut(2 * rate * wide);
        let mut row = [0.0; moelten_quant::MAX_HEAD_DIM];
        let row = &mut row[..width];
        let given = values.chunks_exact(wide).zip(gates.chunks_exact(wide));
        for (position, (values, gates)) in (position..).zip(given) {
            let place = position % rate;
            let (run_values, run_gates) = run.split_at_mut(rate * wide);
            run_values[place * wide..][..wide].copy_from_slice(values);
            let to = run_gates[place * wide..][..wide].iter_mut();
            let added = &self.places[place * wide..][..wide];
            to.zip(gates.iter().zip(added)).for_each(|(to, (gate, place))| *to = gate + place);
            if place + 1 < rate {
                continue;
            }
            let number = position / rate;
            self.average(run, (number > 0).then_some(&*before), row);
            rms_in_place(kernels, row, &self.norm, self.norm_eps);
            angles.restart(&self.rope);
            self.own_rope.angles(number * rate, 1, angles);
            let still = width - self.rope.dim;
            angles.rotate(&mut row[still..], self.rope.dim, 0);
            complete(number, row);
            if !before.is_empty() {
                // The first series of both halves.
                for (to, from) in before.chunks_exact_mut(width).zip(run.chunks_exact(wide)) {
                    to.copy_from_slice(&from[..width]);
                }
            }
            // What is kept says nothing of runs that are complete.
            run.fill(0.0);
        }
    }

    /// The average of a run's last series and, if there was a run before it, of the first series of that.
    fn average(&self, run: &[f32], before: Option<&[f32]>, row: &mut [f32]) {
        let (rate, wide, width) = (self.spec.rate, self.wide(), self.width);
        let (values, gates) = run.split_at(rate * wide);
        let skip = wide - width;
        let earlier = before.filter(|before| !before.is_empty()).map(|before| before.split_at(rate * width));
        for (feature, out) in row.iter_mut().enumerate() {
            let own = (0..rate).map(|place| {
                let at = place * wide + skip + feature;
                (gates[at], values[at])
            });
            let first = earlier.into_iter().flat_map(|(values, gates)| {
                (0..rate).map(move |place| {
                    let at = place * width + feature;
                    (gates[at], values[at])
                })
            });
            let items = first.chain(own);
            let highest = items.clone().fold(f32::NEG_INFINITY, |highest, (gate, _)| highest.max(gate));
            let (mut total, mut sum) = (0.0, 0.0);
            for (gate, value) in items {
                let weight = (gate - highest).exp();
                total += weight;
                sum += weight * value;
            }
            *out = sum / total;
        }
    }
}
