//! What recurrences over heads share: a short convolution with its activation, memories of heads that go from
//! token to token, and the gated output. It must not know which recurrences there are.

use moelten_quant::{HeadMatrix, Kernels};

use super::history::{History, keep_last};
use crate::layers::linear::{Compute, Linear};
use crate::layers::scratch::{DeltaScratch, ProductScratch};
use crate::runtime::pool::Pool;
use crate::state::LayerState;

/// Added to the sum of squares of queries and keys.
const L2_EPS: f32 = 1e-6;

/// The widest head of the delta rule; the lowering refuses wider ones.
pub const MOST_HEAD_DIM: usize = 1024;

/// ln(1 + e^x).
pub fn softplus(x: f32) -> f32 {
    // It is x where e^x would lose the 1.
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// 1 / (1 + e^-x).
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// x / (1 + e^-x).
pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// A convolution over a few tokens of each channel, with SiLU after it.
#[derive(Clone, Copy)]
pub struct ShortConv<'a> {
    /// Taps, the last for the present token, `[width, kernel]`.
    pub taps: &'a [f32],
    /// `[width]`; empty without biases.
    pub bias: &'a [f32],
    /// Channels.
    pub width: usize,
}

impl ShortConv<'_> {
    /// Of some tokens, `x`, into `out`, `[tokens, width]` both. `before` are the inputs of the tokens before
    /// them, `[kernel - 1, width]`, which become those of the last ones. `each` completes the row of a token.
    pub fn run(
        self,
        compute: Compute<'_>,
        before: &mut [f32],
        x: &[f32],
        out: &mut [f32],
        each: impl Fn(&mut [f32]) + Sync,
    ) {
        let (width, kernel) = (self.width, self.taps.len() / self.width);
        let history = History { before: &*before, present: x, width };
        compute.pool.rows(out, width, |range, out| {
            for (t, out) in range.zip(out.chunks_exact_mut(width)) {
                for (channel, out) in out.iter_mut().enumerate() {
                    let bias = self.bias.get(channel).copied().unwrap_or(0.0);
                    *out = silu(history.convolve(t, channel, &self.taps[channel * kernel..][..kernel], bias));
                }
                each(out);
            }
        });
        keep_last(before, x, width);
    }
}

/// Gives queries and keys of a token, `[2 * heads, head_dim]`, the length 1, and divides queries by the root
/// of `head_dim`.
pub fn norm_queries_and_keys(kernels: &Kernels, row: &mut [f32], heads: usize, head_dim: usize) {
    for (head, numbers) in row.chunks_exact_mut(head_dim).take(2 * heads).enumerate() {
        let root = if head < heads { (head_dim as f32).sqrt().recip() } else { 1.0 };
        let size = (kernels.dot(numbers, numbers) + L2_EPS).sqrt().recip();
        kernels.scale(size * root, numbers);
    }
}

/// The memories of all heads as they were before some tokens, and where those after them go.
pub struct Memories<'a> {
    /// `None` if they are in `now` already.
    before: Option<&'a [f32]>,
    now: &'a mut [f32],
}

/// Begins a step of a layer whose state is what convolutions keep, `kept` numbers, and then memories: what
/// convolutions see, and the memories.
pub fn begin(state: &mut LayerState, kept: usize) -> (&mut [f32], Memories<'_>) {
    let LayerState::Recurrent(state) = state else { unreachable!("the model gives it this state") };
    let (from, to) = state.step();
    let (taps, now) = to.split_at_mut(kept);
    let from = from.map(|from| from.split_at(kept));
    if let Some((from, _)) = from {
        taps.copy_from_slice(from);
    }
    (taps, Memories { before: from.map(|(_, memories)| memories), now })
}

impl Memories<'_> {
    /// Computes `each` for heads beside each other: with the number of a head, its memory, `size` numbers,
    /// which the first token moves, and its outputs, `[tokens, head_dim]`, where `head_dim` is `outputs.1`.
    /// `outputs.0` is then `[tokens, heads, head_dim]`; `by_head` is scratch of that size. `grain` heads are
    /// one task.
    pub fn heads(
        self,
        pool: &Pool,
        (size, grain): (usize, usize),
        by_head: &mut [f32],
        outputs: (&mut [f32], usize),
        each: impl Fn(usize, HeadMatrix<'_>, &mut [f32]) + Sync,
    ) {
        let (mixed, head_dim) = outputs;
        let width = self.now.len() / size * head_dim;
        let count = mixed.len() / width;
        let by_head = &mut by_head[..mixed.len()];
        let both = ((self.now, size), (&mut *by_head, count * head_dim));
        pool.chunks_of_two(both.0, both.1, grain, |range, memories, out| {
            let all = memories.chunks_exact_mut(size).zip(out.chunks_exact_mut(count * head_dim));
            for (head, (now, out)) in range.zip(all) {
                let before = self.before.map(|before| &before[head * size..][..size]);
                each(head, HeadMatrix { before, now }, out);
            }
        });
        for (t, mixed) in mixed.chunks_exact_mut(width).enumerate() {
            for (head, to) in mixed.chunks_exact_mut(head_dim).enumerate() {
                to.copy_from_slice(&by_head[(head * count + t) * head_dim..][..head_dim]);
            }
        }
    }
}

/// The output projection `linear` of mixed values, into `out`, `[tokens, d_model]`. `each` completes some
/// tokens first: it gets their values and gates, `[tokens, width]` both. Returns the input of the projection.
pub fn finish<'s>(
    compute: Compute<'_>,
    linear: &Linear,
    s: &'s mut DeltaScratch,
    products: &mut ProductScratch,
    out: &mut [f32],
    each: impl Fn(&mut [f32], &[f32]) + Sync,
) -> &'s [f32] {
    let width = linear.weight.cols;
    let tokens = out.len() / linear.weight.rows;
    let mixed = &mut s.mixed[..tokens * width];
    compute.pool.rows(mixed, width, |range, mixed| {
        each(mixed, &s.gates[range.start * width..range.end * width]);
    });
    compute.pack(mixed, width, [linear.weight.format], &mut products.packed);
    compute.linear(linear, &products.packed, out, &mut products.grouped);
    mixed
}
