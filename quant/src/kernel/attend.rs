//! Attention of some tokens to the cached keys and values of one head: the layout of the cache, the operation, its checks
//! and the plain version that defines it. It must not know layers, threads or who keeps the cache.
//!
//! **Layout.** Keys lie in groups of [`KEY_GROUP`] positions, transposed: `[groups, head_dim, KEY_GROUP]`. A vector holds
//! one dimension of several positions, so their scores need no sum across lanes, and each loaded vector serves all
//! queries that share the head. Values are `[positions, head_dim]`: a vector holds dimensions of one position.
//!
//! **Softmax** is computed online (arXiv 1805.02867, 2205.14135): blocks of [`BLOCK`] positions are weighed relative to the
//! largest score so far. Spans of [`SPAN`] positions are summed apart from each other and merged in ascending order, which
//! lets threads share one long context.
//!
//! **Invariance.** Blocks and spans begin at multiples of their size, whatever a token sees of them. A score is one chain of
//! additions over the dimensions, an output one chain over the positions of a span; what a token does not see has weight 0 in
//! the sum of weights and is not multiplied with values at all. So the bits of a token's result depend on its query and on
//! the keys and values that it sees: not on the tokens computed beside it, not on how spans are shared out, and not on
//! what the cache holds elsewhere, were it NaN.

#![allow(unsafe_code, reason = "kernels are reached through pointers whose instructions were detected")]

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::Kernels;

/// Positions whose keys are stored together: a line of the cache in half precision.
pub const KEY_GROUP: usize = 32;
/// Positions of a softmax block.
pub(super) const BLOCK: usize = 64;
/// Positions of a span.
pub const SPAN: usize = 1024;
/// Widest head.
pub const MAX_HEAD_DIM: usize = 1024;

const _: () = assert!(BLOCK.is_multiple_of(KEY_GROUP) && SPAN.is_multiple_of(BLOCK));

/// Cached keys `[capacity / KEY_GROUP, head_dim, KEY_GROUP]` and values `[capacity, head_dim]` of one head.
#[derive(Debug, Clone, Copy)]
pub enum KvHead<'a> {
    /// Half precision.
    F16 {
        /// Keys in groups.
        keys: &'a [f16],
        /// Values by position.
        values: &'a [f16],
    },
    /// Single precision.
    F32 {
        /// Keys in groups.
        keys: &'a [f32],
        /// Values by position.
        values: &'a [f32],
    },
}

/// What a row of weighted values stands relative to: divided by `sum` it is the result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// The largest score.
    pub max: f32,
    /// The sum of `exp(score - max)`.
    pub sum: f32,
}

/// A row of which nothing was seen yet.
impl Default for Running {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0 }
    }
}

/// Tokens at consecutive positions that attend to one head of the cache with `group` queries each.
#[derive(Debug, Clone)]
pub struct Attend<'a> {
    /// The cache of the head.
    pub kv: KvHead<'a>,
    /// Whether most of it lies in huge pages. It changes what is asked for ahead of time, never results.
    pub huge_pages: bool,
    /// Width of a query, key and value.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// `Some(w)`: a token sees itself and the `w - 1` tokens before it; `None`: all before it.
    pub window: Option<usize>,
    /// The queries `[group, head_dim]` of token `t` begin at `t * stride`.
    pub queries: &'a [f32],
    /// From one token to the next, a multiple of `head_dim`.
    pub stride: usize,
    /// Queries per token.
    pub group: usize,
    /// Number of tokens.
    pub tokens: usize,
    /// Position of the first token.
    pub first: usize,
    /// Which spans to attend to, span `s` being positions `s * SPAN..(s + 1) * SPAN`.
    pub spans: Range<usize>,
}

impl Attend<'_> {
    /// Rows of queries, numbered by token and then by query.
    pub(super) fn rows(&self) -> usize {
        self.tokens * self.group
    }

    /// Where the query and the output of a row begin.
    pub(super) fn at(&self, row: usize) -> usize {
        row / self.group * self.stride + row % self.group * self.head_dim
    }

    /// Positions that a row sees.
    pub(super) fn sees(&self, row: usize) -> Range<usize> {
        let end = self.first + row / self.group + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Whether `span` is the first of the task's that a row sees some of; it then replaces what stood in the output.
    pub(super) fn begins(&self, row: usize, span: usize) -> bool {
        span == self.spans.start.max(self.sees(row).start / SPAN)
    }

    fn check(&self, out: &[f32], state: &[Running]) {
        let Self { head_dim, stride, group, tokens, .. } = *self;
        assert!((1..=MAX_HEAD_DIM).contains(&head_dim), "attend: a head of {head_dim}");
        assert!(group > 0 && tokens > 0, "attend needs a query");
        assert!(tokens == 1 || stride >= group * head_dim, "attend: tokens overlap");
        assert!(stride.is_multiple_of(head_dim), "attend: stride is not a number of heads");
        let length = (tokens - 1) * stride + group * head_dim;
        assert!(self.queries.len() >= length && out.len() >= length, "attend: queries or output end early");
        assert!(state.len() * head_dim >= length, "attend: state ends early");
        assert_ne!(self.window, Some(0), "attend: a token sees itself");
        let (keys, values) = match self.kv {
            KvHead::F16 { keys, values } => (keys.len(), values.len()),
            KvHead::F32 { keys, values } => (keys.len(), values.len()),
        };
        let end = (self.first + tokens).min(self.spans.end.saturating_mul(SPAN));
        assert!(values / head_dim >= end, "attend: values end before the last position");
        assert!(keys / head_dim >= end.next_multiple_of(KEY_GROUP), "attend: keys are not whole groups");
    }
}

impl Kernels {
    /// For every query of the task, the sum of `exp(score - max) * value` over the positions of the task's spans that its
    /// token sees, `score = scale * q . key`. The row is left in `out`, laid out as the queries, its maximum and the sum of its
    /// weights in `state`, whose index is that of the row in `out` divided by `head_dim`. Rows that see nothing of the spans
    /// keep what was there.
    ///
    /// # Panics
    /// If a length disagrees with the shape, or the cache ends before the last position.
    pub fn attend(&self, task: &Attend<'_>, out: &mut [f32], state: &mut [Running]) {
        task.check(out, state);
        // SAFETY: `for_isa` detected the tier's instructions; every length was checked just now.
        unsafe { (self.floats.attend)(task, out, state) }
    }

    /// Adds a row that [`Kernels::attend`] left for later spans to the row of the spans before them. In ascending order, the
    /// result has the bits of one call for all spans.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn attend_merge(&self, later: &[f32], later_state: Running, out: &mut [f32], state: &mut Running) {
        assert_eq!(later.len(), out.len(), "attend_merge");
        // SAFETY: `for_isa` detected the tier's instructions; the lengths agree.
        unsafe { (self.floats.attend_merge)(later, later_state, out, state) }
    }
}

/// What scores are taken relative to: their maximum, or 0 where all are minus infinity and have weight 0.
pub(super) fn base(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}

/// [`Kernels::attend`] in plain Rust.
pub(super) fn scalar(task: &Attend<'_>, out: &mut [f32], state: &mut [Running]) {
    for span in task.spans.clone() {
        for row in 0..task.rows() {
            let sees = task.sees(row);
            let seen = sees.start.max(span * SPAN)..sees.end.min((span + 1) * SPAN);
            if seen.is_empty() {
                continue;
            }
            let (at, head_dim) = (task.at(row), task.head_dim);
            let (out, state) = (&mut out[at..at + head_dim], &mut state[at / head_dim]);
            if task.begins(row, span) {
                *state = scalar_span(task, row, seen, out);
            } else {
                let later = &mut [0.0; MAX_HEAD_DIM][..head_dim];
                let later_state = scalar_span(task, row, seen, later);
                scalar_merge(later, later_state, out, state);
            }
        }
    }
}

/// One row, one span.
fn scalar_span(task: &Attend<'_>, row: usize, seen: Range<usize>, out: &mut [f32]) -> Running {
    let query = &task.queries[task.at(row)..][..task.head_dim];
    let mut state = Running::default();
    out.fill(0.0);
    for block in (seen.start / BLOCK * BLOCK..seen.end).step_by(BLOCK) {
        let seen = seen.start.max(block)..seen.end.min(block + BLOCK);
        let mut weights = [f32::NEG_INFINITY; BLOCK];
        scalar_scores(task, query, block, &seen, &mut weights);
        let max = weights.iter().copied().fold(state.max, f32::max);
        let shrink = (state.max - base(max)).exp();
        let mut sums = [0.0; KEY_GROUP];
        for weights in weights.chunks_exact_mut(KEY_GROUP) {
            for (weight, sum) in weights.iter_mut().zip(&mut sums) {
                *weight = (*weight - base(max)).exp();
                *sum += *weight;
            }
        }
        state = Running { max, sum: state.sum * shrink + sums.iter().sum::<f32>() };
        out.iter_mut().for_each(|out| *out *= shrink);
        for (position, &weight) in seen.clone().zip(&weights[seen.start - block..]) {
            let at = position * task.head_dim;
            match task.kv {
                KvHead::F16 { values, .. } => {
                    super::scalar::axpy_f16(weight, &values[at..at + out.len()], out)
                }
                KvHead::F32 { values, .. } => super::scalar::axpy(weight, &values[at..at + out.len()], out),
            }
        }
    }
    state
}

/// Scores of the positions that are seen; the others keep minus infinity.
fn scalar_scores(
    task: &Attend<'_>,
    query: &[f32],
    block: usize,
    seen: &Range<usize>,
    out: &mut [f32; BLOCK],
) {
    for group in (seen.start / KEY_GROUP * KEY_GROUP..seen.end).step_by(KEY_GROUP) {
        let mut scores = [0.0; KEY_GROUP];
        for (dim, q) in query.iter().enumerate() {
            let at = group * task.head_dim + dim * KEY_GROUP;
            let mut wide = [0.0; KEY_GROUP];
            match task.kv {
                KvHead::F16 { keys, .. } => keys[at..at + KEY_GROUP].convert_to_f32_slice(&mut wide),
                KvHead::F32 { keys, .. } => wide.copy_from_slice(&keys[at..at + KEY_GROUP]),
            }
            let q = q * task.scale;
            scores.iter_mut().zip(wide).for_each(|(score, key)| *score += q * key);
        }
        for (position, score) in (group..group + KEY_GROUP).zip(scores) {
            if seen.contains(&position) {
                out[position - block] = score;
            }
        }
    }
}

/// [`Kernels::attend_merge`] in plain Rust.
pub(super) fn scalar_merge(later: &[f32], later_state: Running, out: &mut [f32], state: &mut Running) {
    let max = state.max.max(later_state.max);
    let (shrink, weight) = ((state.max - base(max)).exp(), (later_state.max - base(max)).exp());
    for (out, later) in out.iter_mut().zip(later) {
        *out = *out * shrink + later * weight;
    }
    *state = Running { max, sum: state.sum * shrink + later_state.sum * weight };
}
