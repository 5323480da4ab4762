//! Attention over any [`Lanes`]: register tiles of some query rows by two vectors of positions (scores) or of dimensions
//! (weighted values). It must not know layers. The order of every sum is the one that [`crate::kernel::attend`] promises.
//!
//! Keys and values take turns, and each is too short a stream for the processor to fetch it by itself in time. So while keys are
//! multiplied the values of the block are asked for, line by line, and while values are, the keys of the next block: into the
//! first-level cache, or where many small pages have to be looked up, which holds it up, into the second.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::lanes::Lanes;
use super::vector::exp;
use crate::kernel::attend::{Attend, BLOCK, KEY_GROUP, KvHead, MAX_HEAD_DIM, Running, SPAN, base};
use crate::kernel::prefetch::{prefetch, prefetch_far};

/// Most query rows of a register tile, in any tier.
const MAX_ROWS: usize = 8;
/// Vectors of a register tile's row.
const VECTORS: usize = 2;
/// Most numbers of a vector, in any tier.
const MAX_LANES: usize = 16;

/// A number as the cache stores it.
trait Stored: Copy {
    /// The first `n` elements, `1..=N`, then zeros.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self, n: usize) -> L::V;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self, n: usize) -> L::V {
        // SAFETY: the caller vouches for the instructions and for `n` elements.
        unsafe { L::load_up_to(from, n) }
    }
}

/// The bits of half precision.
impl Stored for u16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self, n: usize) -> L::V {
        // SAFETY: the caller vouches for the instructions and for `n` elements.
        unsafe { L::load_f16_up_to(from, n) }
    }
}

/// Keys and values of a head.
#[derive(Clone, Copy)]
struct Head<S> {
    keys: *const S,
    values: *const S,
    huge_pages: bool,
}

/// Numbers that are read later.
#[derive(Clone, Copy)]
struct Ahead<S> {
    at: *const S,
    huge_pages: bool,
}

impl<S> Ahead<S> {
    fn add(self, numbers: usize) -> Self {
        Self { at: self.at.wrapping_add(numbers), ..self }
    }

    /// Asks for some of them. They need not exist.
    #[inline(always)]
    fn ask(self, from: usize, numbers: usize) {
        let (from, len) = (self.at.wrapping_add(from).cast(), numbers * size_of::<S>());
        if self.huge_pages { prefetch(from, len) } else { prefetch_far(from, len) }
    }
}

/// What a register tile works in, for rows of up to [`MAX_HEAD_DIM`]. Nothing is read before it was written.
struct Buffers {
    /// `[head_dim, rows]`, times the scale.
    queries: MaybeUninit<[f32; MAX_ROWS * MAX_HEAD_DIM]>,
    /// `[rows, BLOCK]`: scores, then weights.
    weights: MaybeUninit<[f32; MAX_ROWS * BLOCK]>,
    /// `[rows, head_dim]`.
    sums: MaybeUninit<[f32; MAX_ROWS * MAX_HEAD_DIM]>,
}

/// [`crate::Kernels::attend`].
///
/// # Safety
/// As [`Lanes`]. The task was checked with `out` and `state`.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes>(task: &Attend<'_>, out: &mut [f32], state: &mut [Running]) {
    let huge_pages = task.huge_pages;
    // SAFETY: as for this function.
    unsafe {
        match task.kv {
            KvHead::F16 { keys, values } => {
                let (keys, values) = (keys.as_ptr().cast(), values.as_ptr().cast());
                attend_to::<L, u16>(task, Head { keys, values, huge_pages }, out, state);
            }
            KvHead::F32 { keys, values } => {
                let (keys, values) = (keys.as_ptr(), values.as_ptr());
                attend_to::<L, f32>(task, Head { keys, values, huge_pages }, out, state);
            }
        }
    }
}

/// # Safety
/// As [`attend`]; `head` is the task's.
#[inline(always)]
unsafe fn attend_to<L: Lanes, S: Stored>(
    task: &Attend<'_>,
    head: Head<S>,
    out: &mut [f32],
    state: &mut [Running],
) {
    let mut buffers = Buffers {
        queries: MaybeUninit::uninit(),
        weights: MaybeUninit::uninit(),
        sums: MaybeUninit::uninit(),
    };
    let b = &mut buffers;
    let rows = task.rows();
    for span in task.spans.clone() {
        for row in (0..rows).step_by(L::ATTEND_ROWS) {
            // SAFETY: as for this function; the rows exist.
            unsafe {
                match L::ATTEND_ROWS.min(rows - row) {
                    1 => tile::<L, S, 1>(task, head, span, row, b, out, state),
                    2 => tile::<L, S, 2>(task, head, span, row, b, out, state),
                    3 => tile::<L, S, 3>(task, head, span, row, b, out, state),
                    4 => tile::<L, S, 4>(task, head, span, row, b, out, state),
                    5 => tile::<L, S, 5>(task, head, span, row, b, out, state),
                    6 => tile::<L, S, 6>(task, head, span, row, b, out, state),
                    7 => tile::<L, S, 7>(task, head, span, row, b, out, state),
                    _ => tile::<L, S, MAX_ROWS>(task, head, span, row, b, out, state),
                }
            }
        }
    }
}

/// Rows `row..row + R`, one span.
///
/// # Safety
/// As [`attend_to`], with `R` rows from `row` on.
#[inline(always)]
unsafe fn tile<L: Lanes, S: Stored, const R: usize>(
    task: &Attend<'_>,
    head: Head<S>,
    span: usize,
    row: usize,
    buffers: &mut Buffers,
    out: &mut [f32],
    state: &mut [Running],
) {
    let head_dim = task.head_dim;
    let seen: [Range<usize>; R] = std::array::from_fn(|r| overlap(&task.sees(row + r), span * SPAN, SPAN));
    let lowest = seen.iter().filter(|seen| !seen.is_empty()).map(|seen| seen.start).min();
    let Some(lowest) = lowest else { return };
    let highest = seen.iter().map(|seen| seen.end).max().unwrap_or(lowest);
    let all_see = common(&seen);
    let queries = buffers.queries.as_mut_ptr().cast::<f32>();
    let weights = buffers.weights.as_mut_ptr().cast::<f32>();
    let sums = buffers.sums.as_mut_ptr().cast::<f32>();
    let mut tile_state = [Running::default(); R];
    // SAFETY: the task was checked: rows of queries and outputs have `head_dim` elements where `at` says, the cache has
    // the positions below `highest` and its keys are whole groups. The buffers hold `R <= MAX_ROWS` rows of at most
    // `MAX_HEAD_DIM`, and all that is read of them is written before: the sums here, the weights by `scores`.
    unsafe {
        for r in 0..R {
            let query = task.queries.as_ptr().add(task.at(row + r));
            for dim in 0..head_dim {
                *queries.add(dim * R + r) = *query.add(dim) * task.scale;
            }
        }
        sums.write_bytes(0, R * head_dim);
        for block in (lowest / BLOCK * BLOCK..highest).step_by(BLOCK) {
            let groups = lowest.max(block) / KEY_GROUP * KEY_GROUP - block
                ..highest.min(block + BLOCK).next_multiple_of(KEY_GROUP) - block;
            let whole = all_see.start <= block && block + BLOCK <= all_see.end;
            let seen: [Range<usize>; R] = std::array::from_fn(|r| {
                let seen = overlap(&seen[r], block, BLOCK);
                seen.start - block..seen.end - block
            });
            let (keys, values) = (head.keys.add(block * head_dim), head.values.add(block * head_dim));
            let ahead = |at| Ahead { at, huge_pages: head.huge_pages };
            scores::<L, S, R>(keys, queries, head_dim, &groups, weights, ahead(values));
            if !whole {
                hide(weights, &seen);
            }
            let shrink = softmax::<L, R>(weights, &mut tile_state);
            let values = Values { at: values, head_dim, ahead: ahead(keys.wrapping_add(BLOCK * head_dim)) };
            if whole {
                weigh_all::<L, S, R>(values, weights, 0..BLOCK, shrink, sums);
            } else {
                weigh::<L, S, R>(values, weights, &seen, shrink, sums);
            }
        }
        for r in 0..R {
            if seen[r].is_empty() {
                continue;
            }
            let at = task.at(row + r);
            let sums = std::slice::from_raw_parts(sums.add(r * head_dim), head_dim);
            let (out, state) = (out.get_unchecked_mut(at..at + head_dim), &mut state[at / head_dim]);
            if task.begins(row + r, span) {
                out.copy_from_slice(sums);
                *state = tile_state[r];
            } else {
                attend_merge::<L>(sums, tile_state[r], out, state);
            }
        }
    }
}

/// The part of a range within `len` positions from `start` on; empty ranges stay within them too.
#[inline(always)]
fn overlap(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start.clamp(start, start + len)..range.end.clamp(start, start + len)
}

/// The positions that all rows see.
#[inline(always)]
fn common<const R: usize>(seen: &[Range<usize>; R]) -> Range<usize> {
    let start = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
    start..seen.iter().map(|seen| seen.end).min().unwrap_or(0).max(start)
}

/// `weights[r, p] = query[r] . key[p]` for the positions of some groups of a block.
///
/// # Safety
/// As [`Lanes`]. `keys` are those of the block, `queries` is `[head_dim, R]`, `weights` is `[R, BLOCK]`. `ahead` is only asked
/// for: the values of the block.
#[inline(always)]
unsafe fn scores<L: Lanes, S: Stored, const R: usize>(
    keys: *const S,
    queries: *const f32,
    head_dim: usize,
    groups: &Range<usize>,
    weights: *mut f32,
    ahead: Ahead<S>,
) {
    let ahead = ahead.add(groups.start * head_dim);
    for at in groups.clone().step_by(VECTORS * L::N) {
        // SAFETY: `at` lies in a group of the block, and so do the two vectors from it on.
        unsafe {
            let keys = keys.add(at / KEY_GROUP * KEY_GROUP * head_dim + at % KEY_GROUP);
            let mut sums = [[L::splat(0.0); VECTORS]; R];
            for dim in 0..head_dim {
                let used = (at - groups.start) * head_dim + dim * VECTORS * L::N;
                ahead.ask(used, VECTORS * L::N);
                let keys = keys.add(dim * KEY_GROUP);
                let keys: [L::V; VECTORS] = [S::load::<L>(keys, L::N), S::load::<L>(keys.add(L::N), L::N)];
                for (r, sums) in sums.iter_mut().enumerate() {
                    let query = L::splat(*queries.add(dim * R + r));
                    for (sum, key) in sums.iter_mut().zip(keys) {
                        *sum = L::fma(query, key, *sum);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    L::store(weights.add(r * BLOCK + at + v * L::N), sum);
                }
            }
        }
    }
}

/// Gives what a row does not see of a block the lowest score.
///
/// # Safety
/// `weights` is `[R, BLOCK]`, the ranges are of its columns.
#[inline(always)]
unsafe fn hide<const R: usize>(weights: *mut f32, seen: &[Range<usize>; R]) {
    for (r, seen) in seen.iter().enumerate() {
        for at in (0..seen.start).chain(seen.end..BLOCK) {
            // SAFETY: as for this function.
            unsafe { *weights.add(r * BLOCK + at) = f32::NEG_INFINITY };
        }
    }
}

/// Scores of a block become weights; returns each row's factor on what was weighed before. Rows go through every step
/// together and all blocks are whole here, so that nothing waits for one row and no jump depends on numbers.
///
/// # Safety
/// As [`Lanes`]. `weights` is `[R, BLOCK]`.
#[inline(always)]
unsafe fn softmax<L: Lanes, const R: usize>(weights: *mut f32, state: &mut [Running; R]) -> [f32; R] {
    // One vector of factors serves all rows.
    const { assert!(R <= MAX_ROWS && MAX_ROWS <= L::N) };
    // SAFETY: all accesses are of vectors within a row of `weights`; `before` has a vector's elements or more.
    unsafe {
        let mut bases = [0.0; R];
        let mut before = [0.0; MAX_LANES];
        for (r, state) in state.iter_mut().enumerate() {
            let mut largest = L::splat(state.max);
            for at in (0..BLOCK).step_by(L::N) {
                // NaN is passed over here and comes back through `exp`.
                largest = L::max(L::load(weights.add(r * BLOCK + at)), largest);
            }
            let max = L::largest(largest);
            bases[r] = base(max);
            before[r] = state.max - bases[r];
            state.max = max;
        }
        let factors = exp::<L>(L::load(before.as_ptr()));
        L::store(before.as_mut_ptr(), factors);
        let mut sums = [L::splat(0.0); R];
        for at in (0..BLOCK).step_by(L::N) {
            for (r, sum) in sums.iter_mut().enumerate() {
                let weights = weights.add(r * BLOCK + at);
                let weight = exp::<L>(L::sub(L::load(weights), L::splat(bases[r])));
                L::store(weights, weight);
                *sum = L::add(*sum, weight);
            }
        }
        let shrink = std::array::from_fn(|r| before[r]);
        for (r, sum) in sums.into_iter().enumerate() {
            state[r].sum = state[r].sum * before[r] + L::sum(sum);
        }
        shrink
    }
}

/// Values of a block from some position on.
#[derive(Clone, Copy)]
struct Values<S> {
    at: *const S,
    head_dim: usize,
    /// What is only asked for: the keys of the next block.
    ahead: Ahead<S>,
}

/// `sums[r] = sums[r] * shrink[r] + weights[r, p] * values[p]` over the positions that each row sees, ascending.
///
/// # Safety
/// As [`Lanes`]. `values` are those of the block, `weights` is `[R, BLOCK]`, `sums` is `[R, head_dim]`.
#[inline(always)]
unsafe fn weigh<L: Lanes, S: Stored, const R: usize>(
    values: Values<S>,
    weights: *const f32,
    seen: &[Range<usize>; R],
    mut shrink: [f32; R],
    sums: *mut f32,
) {
    // What all rows see they weigh together. What only some see, before and after it, each weighs by itself: a value that
    // is not seen is not even multiplied by zero.
    let Range { start, end } = common(seen);
    let ragged = seen.iter().any(|seen| *seen != (start..end));
    // SAFETY: as for this function; every range is of positions in the block that the cache has.
    unsafe {
        if ragged {
            for (r, seen) in seen.iter().enumerate() {
                let before = seen.start..seen.end.min(start);
                let (weights, sums) = (weights.add(r * BLOCK), sums.add(r * values.head_dim));
                weigh_all::<L, S, 1>(values, weights, before, [shrink[r]], sums);
            }
            shrink = [1.0; R];
        }
        weigh_all::<L, S, R>(values, weights, start..end, shrink, sums);
        if ragged {
            for (r, seen) in seen.iter().enumerate() {
                let after = seen.start.max(end)..seen.end;
                let (weights, sums) = (weights.add(r * BLOCK), sums.add(r * values.head_dim));
                weigh_all::<L, S, 1>(values, weights, after, [1.0], sums);
            }
        }
    }
}

/// [`weigh`] where all rows see the same positions.
///
/// # Safety
/// As [`weigh`].
#[inline(always)]
unsafe fn weigh_all<L: Lanes, S: Stored, const R: usize>(
    values: Values<S>,
    weights: *const f32,
    seen: Range<usize>,
    shrink: [f32; R],
    sums: *mut f32,
) {
    let head_dim = values.head_dim;
    // SAFETY: as for this function; `dim` and the elements from it on are within `head_dim`.
    unsafe {
        let weights = weights.add(seen.start);
        let mut dim = 0;
        while dim + VECTORS * L::N <= head_dim {
            let at = values.at.add(seen.start * head_dim + dim);
            let values = Values { at, ahead: values.ahead.add(dim * seen.len()), ..values };
            weigh_vectors::<L, S, R, VECTORS>(values, weights, seen.len(), L::N, shrink, sums.add(dim));
            dim += VECTORS * L::N;
        }
        while dim < head_dim {
            let values = Values { at: values.at.add(seen.start * head_dim + dim), ..values };
            let live = L::N.min(head_dim - dim);
            weigh_vectors::<L, S, R, 1>(values, weights, seen.len(), live, shrink, sums.add(dim));
            dim += L::N;
        }
    }
}

/// `V` vectors of dimensions of [`weigh_all`], each of `live` elements.
///
/// # Safety
/// As [`weigh_all`].
#[inline(always)]
unsafe fn weigh_vectors<L: Lanes, S: Stored, const R: usize, const V: usize>(
    values: Values<S>,
    weights: *const f32,
    positions: usize,
    live: usize,
    shrink: [f32; R],
    sums: *mut f32,
) {
    let Values { at, head_dim, ahead } = values;
    // SAFETY: as for this function.
    unsafe {
        let mut acc = [[L::splat(0.0); V]; R];
        for (r, acc) in acc.iter_mut().enumerate() {
            for (v, acc) in acc.iter_mut().enumerate() {
                let sum = L::load_up_to(sums.add(r * head_dim + v * L::N), live);
                *acc = L::mul(sum, L::splat(shrink[r]));
            }
        }
        for p in 0..positions {
            ahead.ask(p * V * L::N, V * L::N);
            let at = at.add(p * head_dim);
            let mut value = [L::splat(0.0); V];
            for (v, value) in value.iter_mut().enumerate() {
                *value = S::load::<L>(at.add(v * L::N), live);
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let weight = L::splat(*weights.add(r * BLOCK + p));
                for (acc, value) in acc.iter_mut().zip(value) {
                    *acc = L::fma(weight, value, *acc);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            for (v, acc) in acc.into_iter().enumerate() {
                L::store_up_to(sums.add(r * head_dim + v * L::N), live, acc);
            }
        }
    }
}

/// [`crate::Kernels::attend_merge`].
///
/// # Safety
/// As [`Lanes`]. The slices have the same length.
#[inline(always)]
pub(super) unsafe fn attend_merge<L: Lanes>(
    later: &[f32],
    later_state: Running,
    out: &mut [f32],
    state: &mut Running,
) {
    let max = if later_state.max > state.max { later_state.max } else { state.max };
    let n = out.len();
    let (later, out) = (later.as_ptr(), out.as_mut_ptr());
    // SAFETY: as for this function.
    unsafe {
        let shrink = exp::<L>(L::splat(state.max - base(max)));
        let weight = exp::<L>(L::splat(later_state.max - base(max)));
        for at in (0..n).step_by(L::N) {
            let live = L::N.min(n - at);
            let before = L::mul(L::load_up_to(out.add(at), live), shrink);
            let sum = L::fma(L::load_up_to(later.add(at), live), weight, before);
            L::store_up_to(out.add(at), live, sum);
        }
        let sum = state.sum * L::first(shrink) + later_state.sum * L::first(weight);
        *state = Running { max, sum };
    }
}
