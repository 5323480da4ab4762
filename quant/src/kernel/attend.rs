//! Attention of some tokens to the cached keys and values of one head: the layout of the cache, the
//! operation, its checks and constants. It must not know layers, threads or where the cache is allocated.
//!
//! **Layout.** Keys lie in groups of [`KEY_GROUP`] positions, transposed: `[groups, head_dim, KEY_GROUP]`.
//! A vector holds one dimension of several positions, so their scores need no sum across lanes, and each
//! loaded vector serves all queries that share the head. Values are `[positions, head_dim]`: a vector holds
//! dimensions of one position.
//!
//! **Softmax** is computed online (arXiv 1805.02867, 2205.14135): blocks of [`BLOCK`] positions are weighed
//! relative to the largest score so far. Spans of [`SPAN`] positions are summed apart from each other and
//! merged in ascending order, which lets threads share one long context.
//!
//! **Invariance.** Blocks and spans begin at multiples of their size, independent of what a token sees. A
//! score is one chain of additions over the dimensions, an output one chain over the positions of a span;
//! what a token does not see has weight 0 in the sum of weights and is not multiplied with values at all.
//! So the bits of a token's result depend on its query and on the keys and values that it sees: not on the
//! other tokens of the batch, not on how spans are divided among threads, and not on the rest of the cache,
//! even if it holds NaN.

use std::ops::Range;

use half::f16;

/// Positions whose keys are stored together: a line of the cache in half precision.
pub const KEY_GROUP: usize = 32;
/// Positions of a softmax block.
pub(super) const BLOCK: usize = 64;
/// Positions that are summed as one unit of work; see the module.
pub const SPAN: usize = 1024;
/// Largest supported `head_dim`.
pub const MAX_HEAD_DIM: usize = 1024;

const _: () = assert!(BLOCK.is_multiple_of(KEY_GROUP) && SPAN.is_multiple_of(BLOCK));

/// Cached keys `[capacity / KEY_GROUP, head_dim, KEY_GROUP]` and values `[capacity, head_dim]` of one head.
#[derive(Debug, Clone, Copy)]
pub enum KvHead<'a> {
    /// Half precision, the default of the cache.
    F16 {
        /// `[groups, head_dim, KEY_GROUP]`.
        keys: &'a [f16],
        /// `[positions, head_dim]`.
        values: &'a [f16],
    },
    /// Single precision, for comparisons.
    F32 {
        /// `[groups, head_dim, KEY_GROUP]`.
        keys: &'a [f32],
        /// `[positions, head_dim]`.
        values: &'a [f32],
    },
}

/// State of an online softmax. A row of weighted values is relative to `max`; divided by `sum` it is the
/// result.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Running {
    /// The largest score.
    pub max: f32,
    /// The sum of `exp(score - max)`.
    pub sum: f32,
}

/// No position seen yet: maximum -infinity, sum 0.
impl Default for Running {
    fn default() -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0 }
    }
}

/// Numbers that are added to scores by how far a position is from the token.
#[derive(Debug, Clone, Copy)]
pub struct DistanceBias<'a> {
    /// For each query of a token: number `reach + d` is for the position `d` after the token, `[group, 2 *
    /// reach + 1]`.
    pub values: &'a [f32],
    /// Positions farther away have the number of this distance.
    pub reach: usize,
}

impl<'a> DistanceBias<'a> {
    /// The numbers of one query.
    pub(super) fn of_query(self, query: usize) -> &'a [f32] {
        let width = 2 * self.reach + 1;
        &self.values[query * width..(query + 1) * width]
    }

    /// Which of a query's numbers is that of `position` for a token at `token`.
    pub(super) fn place(self, token: usize, position: usize) -> usize {
        let after = position.saturating_sub(token).min(self.reach);
        self.reach + after - token.saturating_sub(position).min(self.reach)
    }
}

/// Tokens at consecutive positions that attend to one head of the cache with `group` queries each.
#[derive(Debug, Clone)]
pub struct Attend<'a> {
    /// Cached keys and values of one head.
    pub kv: KvHead<'a>,
    /// Whether most of the cache is in huge pages. Changes prefetching, never results.
    pub huge_pages: bool,
    /// Width of a query, key and value: 1 to [`MAX_HEAD_DIM`].
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// `Some(c)`: a score `s` becomes `c * tanh(s / c)`; `c` is above zero.
    pub softcap: Option<f32>,
    /// `Some(w)`: a token sees itself and the `w - 1` tokens before it; `None`: all before it.
    pub window: Option<usize>,
    /// `Some(n)`: every token sees the first `n` positions, whatever its own; there is no window then.
    pub whole: Option<usize>,
    /// What is added to scores, after the factor and before the bound.
    pub bias: Option<DistanceBias<'a>>,
    /// The queries `[group, head_dim]` of token `t` begin at `t * stride`.
    pub queries: &'a [f32],
    /// From one token to the next, a multiple of `head_dim`.
    pub stride: usize,
    /// Queries per token.
    pub group: usize,
    /// Tokens, at consecutive positions.
    pub tokens: usize,
    /// Position of the first token.
    pub first: usize,
    /// Spans to attend to: span `s` is the positions `s * SPAN..(s + 1) * SPAN`.
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
        if let Some(all) = self.whole {
            return 0..all;
        }
        let end = self.first + row / self.group + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// Whether `span` is the first span of the task that a row sees; its result then overwrites the output.
    pub(super) fn begins(&self, row: usize, span: usize) -> bool {
        span == self.spans.start.max(self.sees(row).start / SPAN)
    }

    pub(super) fn check(&self, out: &[f32], state: &[Running]) {
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
        if let Some(DistanceBias { values, reach }) = self.bias {
            let need = reach.checked_mul(2).and_then(|both| (both + 1).checked_mul(group));
            assert!(need.is_some_and(|need| values.len() >= need), "attend: biases end early");
        }
        let end = self.whole.unwrap_or(self.first + tokens).min(self.spans.end.saturating_mul(SPAN));
        assert!(values / head_dim >= end, "attend: values end before the last position");
        assert!(keys / head_dim >= end.next_multiple_of(KEY_GROUP), "attend: keys are not whole groups");
    }
}

/// The offset of scores in the exponential: their maximum, or 0 if all are -infinity and have weight 0.
pub(super) fn base(max: f32) -> f32 {
    if max == f32::NEG_INFINITY { 0.0 } else { max }
}
