//! Attention to the KV cache: which thread attends with which queries to which positions. The arithmetic, and
//! the reason why this division never changes a bit, are in the kernel (`moelten_quant::Attend`). It must not
//! know projections or ropes.

use std::ops::Range;

use moelten_loader::spec::{AttentionSpec, Temperature};
use moelten_quant::{Attend, DistanceBias, Running, SPAN};

use crate::layers::linear::Compute;
use crate::layers::scratch::AttendScratch;
use crate::state::kv::KvView;

/// Rows of queries that share a pass over the cache of a head: enough to hide the time of reading it.
const TILE_ROWS: usize = 64;
/// Least tokens of a full tile.
const TILE_TOKENS: usize = 8;
/// Tiles per thread. Later tokens attend to more positions, so threads need several tiles to finish together.
const TILES_PER_THREAD: usize = 4;

/// How scores of positions are made and weighed.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    /// Heads, widths, factors.
    pub spec: &'a AttentionSpec,
    /// Logits of the sinks, `[heads]`; empty without them.
    pub sinks: &'a [f32],
    /// What distances add, for all heads.
    pub bias: Option<DistanceBias<'a>>,
}

impl<'a> Scoring<'a> {
    /// Scores that are products of queries and keys alone.
    pub fn plain(spec: &'a AttentionSpec) -> Self {
        Self { spec, sinks: &[], bias: None }
    }

    /// What distances add to the scores of the query heads that share `kv_head`.
    fn bias_of(&self, kv_head: usize) -> Option<DistanceBias<'a>> {
        self.bias.map(|DistanceBias { values, reach }| {
            let group = self.spec.heads / self.spec.kv_heads;
            let width = group * (2 * reach + 1);
            DistanceBias { values: &values[kv_head * width..(kv_head + 1) * width], reach }
        })
    }
}

/// Most spans of positions that one token of a context attends to.
pub fn most_spans(spec: &AttentionSpec, context: usize) -> usize {
    let all = context.div_ceil(SPAN);
    spec.window.map_or(all, |window| all.min(window.div_ceil(SPAN).saturating_add(1)))
}

/// `out = softmax(scale * q K^T) V` over the positions that each token attends to. `q` and `out` are
/// `[tokens, heads * head_dim]`. The first token has position `first`. Keys and values of all tokens are in
/// `kv` already, and those of a whole text where every token sees all of it. A query head with a sink has one
/// more score in its softmax, which weighs no value.
pub fn attend(
    compute: Compute<'_>,
    scoring: Scoring<'_>,
    kv: KvView<'_>,
    first: usize,
    q: &[f32],
    s: &mut AttendScratch,
    out: &mut [f32],
) {
    let spec = scoring.spec;
    // The kept part of a window begins at a multiple of a span, so spans and blocks stay the same when
    // positions are counted from there.
    let first = first - kv.base;
    if q.len() == spec.heads * spec.head_dim {
        one_token(compute, scoring, kv, first, q, s, out);
        finish(compute, scoring, out, &s.running[..spec.heads]);
    } else {
        tiles(compute, scoring, kv, first, q, &mut s.running, out);
    }
}

/// Multiplies queries, `[tokens, heads * head_dim]`, by the factor that grows with their position. The
/// first has position `first`.
pub fn warm(compute: Compute<'_>, spec: &AttentionSpec, first: usize, q: &mut [f32]) {
    let Some(Temperature { beta, period, offset }) = spec.temperature else { return };
    for (q, position) in q.chunks_exact_mut(spec.heads * spec.head_dim).zip(first..) {
        let periods = (position + offset) / period;
        compute.kernels.scale(1.0 + beta * (periods as f32).ln_1p(), q);
    }
}

/// Positions that a token sees, itself among them; `None` for all.
fn seen(spec: &AttentionSpec, position: usize) -> Option<usize> {
    let of_chunk = spec.chunk.map(|chunk| position % chunk + 1);
    [spec.window, of_chunk].into_iter().flatten().min()
}

/// The kernel's task for some tokens and the query heads that share `kv_head`. `queries` begins with the
/// first token. Several tokens are of the first run of tokens, or there are no runs.
fn task<'a>(
    scoring: Scoring<'a>,
    kv: KvView<'a>,
    kv_head: usize,
    queries: &'a [f32],
    first: usize,
    tokens: usize,
) -> Attend<'a> {
    let spec = scoring.spec;
    let (head_dim, group) = (spec.head_dim, spec.heads / spec.kv_heads);
    Attend {
        kv: kv.layer.head(kv_head),
        huge_pages: kv.layer.gathered(kv.whole.unwrap_or(first)),
        head_dim,
        scale: spec.scale,
        softcap: spec.softcap,
        window: if tokens == 1 { seen(spec, first) } else { spec.window },
        whole: kv.whole,
        bias: scoring.bias_of(kv_head),
        queries: &queries[kv_head * group * head_dim..],
        stride: spec.heads * head_dim,
        group,
        tokens,
        first,
        spans: visible_spans(spec, kv, first, tokens),
    }
}

/// Spans that `tokens` tokens from position `first` on attend to.
fn visible_spans(spec: &AttentionSpec, kv: KvView<'_>, first: usize, tokens: usize) -> Range<usize> {
    if let Some(all) = kv.whole {
        return 0..all.div_ceil(SPAN);
    }
    let window = if tokens == 1 { seen(spec, first) } else { spec.window };
    let start = window.map_or(0, |window| (first + 1).saturating_sub(window));
    start / SPAN..(first + tokens).div_ceil(SPAN)
}

/// Attention of many tokens. A task is a tile of tokens with all heads.
fn tiles(
    compute: Compute<'_>,
    scoring: Scoring<'_>,
    kv: KvView<'_>,
    first: usize,
    q: &[f32],
    running: &mut [Running],
    out: &mut [f32],
) {
    let spec = scoring.spec;
    let (heads, head_dim, group) = (spec.heads, spec.head_dim, spec.heads / spec.kv_heads);
    let width = heads * head_dim;
    let tokens = q.len() / width;
    let full = (TILE_ROWS / group).max(TILE_TOKENS);
    let step = match spec.chunk {
        // Tokens of later runs see different numbers of positions.
        Some(chunk) if first + tokens > chunk => 1,
        _ => tokens.div_ceil(compute.pool.threads() * TILES_PER_THREAD).min(full),
    };
    let running = (&mut running[..tokens * heads], heads);
    compute.pool.chunks_of_two((out, width), running, step, |tile, out, running| {
        for kv_head in 0..spec.kv_heads {
            let task = task(scoring, kv, kv_head, &q[tile.start * width..], first + tile.start, tile.len());
            let head = kv_head * group;
            compute.kernels.attend(&task, &mut out[head * head_dim..], &mut running[head..]);
        }
        finish(compute, scoring, out, running);
    });
}

/// Attention of one token. A task is a span of positions with one key and value head, so that threads share
/// even a single head. The spans of a head are neighbours: what the kernel prefetches at the end of one is
/// read in the next.
fn one_token(
    compute: Compute<'_>,
    scoring: Scoring<'_>,
    kv: KvView<'_>,
    position: usize,
    q: &[f32],
    s: &mut AttendScratch,
    out: &mut [f32],
) {
    let spec = scoring.spec;
    let (heads, kv_heads, head_dim) = (spec.heads, spec.kv_heads, spec.head_dim);
    let group = heads / kv_heads;
    let spans = visible_spans(spec, kv, position, 1);
    let running = &mut s.running[..heads];
    let (rows, states) = if spans.len() == 1 {
        (&mut *out, &mut *running)
    } else {
        (&mut s.spans[..spans.len() * out.len()], &mut s.spans_running[..spans.len() * heads])
    };
    let (rows, states) = ((rows, group * head_dim), (states, group));
    compute.pool.chunks_of_two(rows, states, 1, |tasks, rows, states| {
        let (kv_head, span) = (tasks.start / spans.len(), spans.start + tasks.start % spans.len());
        let task = task(scoring, kv, kv_head, q, position, 1);
        compute.kernels.attend(&Attend { spans: span..span + 1, ..task }, rows, states);
    });
    if spans.len() > 1 {
        let heads_per_task = heads.div_ceil(compute.pool.threads());
        let parts = (&*s.spans, &*s.spans_running);
        let totals = (&mut *running, 1);
        compute.pool.chunks_of_two((out, head_dim), totals, heads_per_task, |range, out, running| {
            for (head, (out, state)) in range.zip(out.chunks_exact_mut(head_dim).zip(running)) {
                for span in 0..spans.len() {
                    let part = (head / group * spans.len() + span) * group + head % group;
                    let (row, row_state) = (&parts.0[part * head_dim..][..head_dim], parts.1[part]);
                    if span == 0 {
                        out.copy_from_slice(row);
                        *state = row_state;
                    } else {
                        compute.kernels.attend_merge(row, row_state, out, state);
                    }
                }
            }
        });
    }
}

/// Divides each row by its sum of weights, that of its head's sink among them. Rows are `[tokens, heads]`.
fn finish(
    compute: Compute<'_>,
    Scoring { spec, sinks, .. }: Scoring<'_>,
    out: &mut [f32],
    running: &[Running],
) {
    for (row, (out, state)) in out.chunks_exact_mut(spec.head_dim).zip(running).enumerate() {
        // A sink far above every score gives infinity, and the row is 0 as it should be.
        let sink = sinks.get(row % spec.heads).map_or(0.0, |sink| (sink - state.max).exp());
        compute.kernels.scale(1.0 / (state.sum + sink), out);
    }
}
