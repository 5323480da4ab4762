//! Attention over any [`Lanes`]: register tiles of some query rows by two vectors of positions (scores) or
//! of dimensions (weighted values). It must not know layers. The order of every sum is the one that
//! [`crate::kernel::attend`] promises.
//!
//! Keys and values alternate, and each stream is too short for the prefetcher of the processor. So the
//! kernel prefetches the values of a block while it multiplies the keys, and the keys of the next block
//! while it multiplies the values: into the first-level cache with huge pages, into the second with small
//! ones, where page walks would stall the first.

use core::mem::MaybeUninit;
use core::ops::Range;

use super::attend_tile::{Ahead, Cap, MAX_ROWS, Scores, Softmax, Stored, Values, Weigh, call_for_rows};
use super::lanes::Lanes;
use super::tier::Work;
use super::vector::exp;
use crate::kernel::attend::{Attend, BLOCK, KEY_GROUP, KvHead, MAX_HEAD_DIM, Running, SPAN, base};

/// Keys and values of a head from some position on.
#[derive(Clone, Copy)]
struct Head<S> {
    keys: *const S,
    values: *const S,
    huge_pages: bool,
}

impl<S> Head<S> {
    /// From a position on.
    fn from(self, position: usize, head_dim: usize) -> Self {
        let at = position * head_dim;
        Self { keys: self.keys.wrapping_add(at), values: self.values.wrapping_add(at), ..self }
    }

    /// Keys or values to prefetch.
    fn ahead(self, at: *const S) -> Ahead<S> {
        Ahead { at, huge_pages: self.huge_pages }
    }
}

/// Scratch of a register tile, for rows of up to [`MAX_HEAD_DIM`]. Every element is written before it is
/// read.
#[repr(C, align(64))]
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
pub(in crate::kernel) unsafe fn attend<L: Lanes>(task: &Attend<'_>, out: &mut [f32], state: &mut [Running]) {
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
    let rows = task.rows();
    for span in task.spans.clone() {
        for row in (0..rows).step_by(L::ATTEND_ROWS) {
            let tile = Tile { task, span, rows: row..rows.min(row + L::ATTEND_ROWS) };
            // SAFETY: as for this function; the rows exist.
            unsafe { tile.attend::<L, S>(head, &mut buffers, out, state) };
        }
    }
}

/// Some rows of a task, at most [`Lanes::ATTEND_ROWS`], and one span.
struct Tile<'a> {
    task: &'a Attend<'a>,
    span: usize,
    rows: Range<usize>,
}

impl Tile<'_> {
    /// # Safety
    /// As [`attend_to`], with rows that exist.
    #[inline(always)]
    unsafe fn attend<L: Lanes, S: Stored>(
        &self,
        head: Head<S>,
        buffers: &mut Buffers,
        out: &mut [f32],
        state: &mut [Running],
    ) {
        let (rows, head_dim) = (self.rows.len(), self.task.head_dim);
        let mut seen = [const { 0..0 }; MAX_ROWS];
        for (seen, row) in seen.iter_mut().zip(self.rows.clone()) {
            *seen = overlap(&self.task.sees(row), self.span * SPAN, SPAN);
        }
        let lowest = seen[..rows].iter().filter(|seen| !seen.is_empty()).map(|seen| seen.start).min();
        let Some(lowest) = lowest else { return };
        let highest = seen[..rows].iter().map(|seen| seen.end).max().unwrap_or(lowest);
        let all_see = common(&seen[..rows]);
        let mut tile_state = [Running::default(); MAX_ROWS];
        // SAFETY: the task was checked: the cache has the positions below `highest` and its keys are whole
        // groups. The buffers hold `MAX_ROWS` rows of at most `MAX_HEAD_DIM`, and all that is read of them
        // is written before: queries and sums here, the weights by `Scores`.
        unsafe {
            self.take_queries(buffers.queries.as_mut_ptr().cast());
            buffers.sums.as_mut_ptr().cast::<f32>().write_bytes(0, rows * head_dim);
            for block in (lowest / BLOCK * BLOCK..highest).step_by(BLOCK) {
                let groups = lowest.max(block) / KEY_GROUP * KEY_GROUP - block
                    ..highest.min(block + BLOCK).next_multiple_of(KEY_GROUP) - block;
                let whole = all_see.start <= block && block + BLOCK <= all_see.end;
                let parts = if whole { None } else { Some(&parts_of(block, &seen[..rows])) };
                let (head, state) = (head.from(block, head_dim), &mut tile_state);
                let of = (self.task, self.rows.start, block);
                L::call(AddBlock { head, of, groups, rows, parts, buffers, state });
            }
            self.put_sums::<L>(buffers.sums.as_ptr().cast(), &seen[..rows], &tile_state, out, state);
        }
    }

    /// Writes the queries of the rows, times the scale, `[head_dim, rows]`.
    ///
    /// # Safety
    /// The task was checked, and `queries` is good for writing.
    #[inline(always)]
    unsafe fn take_queries(&self, queries: *mut f32) {
        let Attend { head_dim, scale, .. } = *self.task;
        for (r, row) in self.rows.clone().enumerate() {
            // SAFETY: a row has `head_dim` elements where `at` says; as for this function.
            unsafe {
                let query = self.task.queries.as_ptr().add(self.task.at(row));
                for dim in 0..head_dim {
                    *queries.add(dim * self.rows.len() + r) = *query.add(dim) * scale;
                }
            }
        }
    }

    /// Writes the sums of the span to the output, or merges them with those of the spans before it.
    ///
    /// # Safety
    /// As [`Tile::attend`], with `sums` of the rows.
    #[inline(always)]
    unsafe fn put_sums<L: Lanes>(
        &self,
        sums: *const f32,
        seen: &[Range<usize>],
        tile_state: &[Running; MAX_ROWS],
        out: &mut [f32],
        state: &mut [Running],
    ) {
        let head_dim = self.task.head_dim;
        for (r, row) in self.rows.clone().enumerate() {
            if seen[r].is_empty() {
                continue;
            }
            let at = self.task.at(row);
            let (out, state) = (&mut out[at..at + head_dim], &mut state[at / head_dim]);
            // SAFETY: as for this function.
            unsafe {
                let sums = std::slice::from_raw_parts(sums.add(r * head_dim), head_dim);
                if self.task.begins(row, self.span) {
                    out.copy_from_slice(sums);
                    *state = tile_state[r];
                } else {
                    attend_merge::<L>(sums, tile_state[r], out, state);
                }
            }
        }
    }
}

/// Adds a block of positions to the sums of some rows.
///
/// As [`Tile::attend`]; `head` is at the block, whose `groups` exist; the buffers hold queries and sums.
struct AddBlock<'a, S> {
    head: Head<S>,
    /// The task, its first row here, and the position of the block.
    of: (&'a Attend<'a>, usize, usize),
    groups: Range<usize>,
    rows: usize,
    /// Which positions each row sees, if not all rows see all.
    parts: Option<&'a [Range<usize>; MAX_ROWS]>,
    buffers: &'a mut Buffers,
    state: &'a mut [Running; MAX_ROWS],
}

impl<L: Lanes, S: Stored> Work<L> for AddBlock<'_, S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { head, of: (task, first, block), groups, rows, parts, buffers, state } = self;
        let head_dim = task.head_dim;
        let weights = buffers.weights.as_mut_ptr().cast::<f32>();
        let (queries, sums) = (buffers.queries.as_ptr().cast(), buffers.sums.as_mut_ptr().cast());
        let (keys, ahead) = (head.keys, head.ahead(head.values));
        // SAFETY: as for this work.
        unsafe {
            let scored = groups.clone();
            call_for_rows!(L, rows, R, {
                Scores::<S, R> { keys, queries, head_dim, groups, weights, ahead }
            });
            add_bias(weights, task, first..first + rows, block, scored.clone());
            if let Some(cap) = task.softcap {
                L::call(Cap { weights, rows, columns: scored, cap });
            }
            if let Some(parts) = parts {
                hide(weights, &parts[..rows]);
            }
            let shrink = call_for_rows!(L, rows, R, Softmax::<R> { weights, state });
            let ahead = head.ahead(head.keys.wrapping_add(BLOCK * head_dim));
            let values = Values { at: head.values, head_dim, ahead };
            match parts {
                None => {
                    call_for_rows!(L, rows, R, {
                        Weigh::<S, R> { values, weights, seen: 0..BLOCK, shrink, sums }
                    });
                }
                Some(parts) => L::call(WeighParts { values, weights, parts: &parts[..rows], shrink, sums }),
            }
        }
    }
}

/// The part of a range within `len` positions from `start` on; empty ranges stay within them too.
#[inline(always)]
fn overlap(range: &Range<usize>, start: usize, len: usize) -> Range<usize> {
    range.start.clamp(start, start + len)..range.end.clamp(start, start + len)
}

/// The positions of a block that each row sees, given those of the whole span.
#[inline(always)]
fn parts_of(block: usize, seen: &[Range<usize>]) -> [Range<usize>; MAX_ROWS] {
    let mut parts = [const { 0..0 }; MAX_ROWS];
    for (part, seen) in parts.iter_mut().zip(seen) {
        let seen = overlap(seen, block, BLOCK);
        *part = seen.start - block..seen.end - block;
    }
    parts
}

/// The positions that all rows see.
#[inline(always)]
fn common(seen: &[Range<usize>]) -> Range<usize> {
    let start = seen.iter().map(|seen| seen.start).max().unwrap_or(0);
    start..seen.iter().map(|seen| seen.end).min().unwrap_or(0).max(start)
}

/// Adds what the distance of positions adds to the scores of some columns of a block.
///
/// # Safety
/// `weights` is `[rows, BLOCK]`, of which `columns` are written.
#[inline(always)]
unsafe fn add_bias(
    weights: *mut f32,
    task: &Attend<'_>,
    rows: Range<usize>,
    block: usize,
    columns: Range<usize>,
) {
    let Some(bias) = task.bias else { return };
    for (r, row) in rows.enumerate() {
        let (of_query, token) = (bias.of_query(row % task.group), task.first + row / task.group);
        for at in columns.clone() {
            // SAFETY: as for this function.
            unsafe { *weights.add(r * BLOCK + at) += of_query[bias.place(token, block + at)] };
        }
    }
}

/// Sets the scores of positions that a row does not see to -infinity.
///
/// # Safety
/// `weights` is `[rows, BLOCK]`, the ranges are of its columns.
#[inline(always)]
unsafe fn hide(weights: *mut f32, seen: &[Range<usize>]) {
    for (r, seen) in seen.iter().enumerate() {
        for at in (0..seen.start).chain(seen.end..BLOCK) {
            // SAFETY: as for this function.
            unsafe { *weights.add(r * BLOCK + at) = f32::NEG_INFINITY };
        }
    }
}

/// [`Weigh`] of as many rows as there are parts, each over its own part.
struct WeighParts<'a, S> {
    values: Values<S>,
    weights: *const f32,
    parts: &'a [Range<usize>],
    shrink: [f32; MAX_ROWS],
    sums: *mut f32,
}

impl<L: Lanes, S: Stored> Work<L> for WeighParts<'_, S> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { values, weights, parts, shrink, sums } = self;
        // Positions that all rows see are weighed for all rows together, positions before and after them
        // row by row: a value that a row does not see is not multiplied at all, as it may be NaN.
        let all = common(parts);
        let ragged = parts.iter().any(|part| *part != all);
        let alone = |r: usize, seen, shrink| {
            let (weights, sums) = (weights.wrapping_add(r * BLOCK), sums.wrapping_add(r * values.head_dim));
            Weigh::<S, 1> { values, weights, seen, shrink, sums }
        };
        // SAFETY: as for this work; every range is of positions in the block that the cache has.
        unsafe {
            let mut rest = shrink;
            if ragged {
                for (r, part) in parts.iter().enumerate() {
                    L::call(alone(r, part.start..part.end.min(all.start), [shrink[r]; MAX_ROWS]));
                }
                rest = [1.0; MAX_ROWS];
            }
            let together = all.clone();
            call_for_rows!(L, parts.len(), R, {
                Weigh::<S, R> { values, weights, seen: together, shrink: rest, sums }
            });
            if ragged {
                for (r, part) in parts.iter().enumerate() {
                    L::call(alone(r, part.start.max(all.end)..part.end, [1.0; MAX_ROWS]));
                }
            }
        }
    }
}

/// [`crate::Kernels::attend_merge`].
///
/// # Safety
/// As [`Lanes`]. The slices have the same length.
#[inline(always)]
pub(in crate::kernel) unsafe fn attend_merge<L: Lanes>(
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
