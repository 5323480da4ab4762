//! The parts of attention that run in registers, over any [`Lanes`]: some query rows by two vectors of
//! positions (scores) or of dimensions (weighted values). Each number of rows is compiled apart. It must
//! not know tasks or what a row sees.

use core::ops::Range;

use super::lanes::Lanes;
use super::tier::Work;
use super::vector::exp;
use crate::kernel::attend::{BLOCK, KEY_GROUP, Running, base};
use crate::kernel::prefetch::{prefetch, prefetch_far};

/// Most query rows of a register tile, in any tier.
pub(in crate::kernel) const MAX_ROWS: usize = 8;
/// Vectors of a register tile's row.
const VECTORS: usize = 2;
/// Most numbers of a vector, in any tier.
const MAX_LANES: usize = 16;

/// Calls work for `rows` query rows, at most [`Lanes::ATTEND_ROWS`]: in the work, `R` is their number as a
/// constant.
macro_rules! call_for_rows {
    ($L:ident, $rows:expr, $R:ident, $work:expr) => {
        match $rows {
            1 => call_for_rows!(@ $L, $R, 1, $work),
            2 => call_for_rows!(@ $L, $R, 2, $work),
            3 => call_for_rows!(@ $L, $R, 3, $work),
            4 => call_for_rows!(@ $L, $R, 4, $work),
            5 if const { $L::ATTEND_ROWS > 4 } => call_for_rows!(@ $L, $R, 5, $work),
            6 if const { $L::ATTEND_ROWS > 4 } => call_for_rows!(@ $L, $R, 6, $work),
            7 if const { $L::ATTEND_ROWS > 4 } => call_for_rows!(@ $L, $R, 7, $work),
            8 if const { $L::ATTEND_ROWS > 4 } => call_for_rows!(@ $L, $R, 8, $work),
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
    (@ $L:ident, $R:ident, $n:literal, $work:expr) => {{
        const $R: usize = $n;
        $L::call($work)
    }};
}

pub(in crate::kernel) use call_for_rows;

/// A number format of the cache.
pub(in crate::kernel) trait Stored: Copy {
    /// The first `n` elements, `1..=N`, then zeros.
    ///
    /// # Safety
    /// As [`Lanes`].
    unsafe fn load<L: Lanes>(from: *const Self, n: usize) -> L::V;
}

impl Stored for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self, n: usize) -> L::V {
        // SAFETY: the caller guarantees the instructions and `n` elements.
        unsafe { L::load_up_to(from, n) }
    }
}

/// The bits of half precision.
impl Stored for u16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(from: *const Self, n: usize) -> L::V {
        // SAFETY: the caller guarantees the instructions and `n` elements.
        unsafe { L::load_f16_up_to(from, n) }
    }
}

/// Numbers to prefetch.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Ahead<S> {
    pub at: *const S,
    /// Whether they lie in huge pages.
    pub huge_pages: bool,
}

impl<S> Ahead<S> {
    fn add(self, numbers: usize) -> Self {
        Self { at: self.at.wrapping_add(numbers), ..self }
    }

    /// Prefetches some of them. The range may lie past the end.
    #[inline(always)]
    fn ask(self, from: usize, numbers: usize) {
        let (from, len) = (self.at.wrapping_add(from).cast(), numbers * size_of::<S>());
        if self.huge_pages { prefetch(from, len) } else { prefetch_far(from, len) }
    }
}

/// `weights[r, p] = query[r] . key[p]` for the positions of some groups of a block.
///
/// As [`Lanes`]. `keys` are those of the block, `queries` is `[head_dim, R]`, `weights` is `[R, BLOCK]`.
/// `ahead`, the values of the block, is only prefetched.
pub(in crate::kernel) struct Scores<S, const R: usize> {
    pub keys: *const S,
    pub queries: *const f32,
    pub head_dim: usize,
    pub groups: Range<usize>,
    pub weights: *mut f32,
    pub ahead: Ahead<S>,
}

impl<L: Lanes, S: Stored, const R: usize> Work<L> for Scores<S, R> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { keys, queries, head_dim, groups, weights, ahead } = self;
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
                    let keys: [L::V; VECTORS] =
                        [S::load::<L>(keys, L::N), S::load::<L>(keys.add(L::N), L::N)];
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
}

/// Scores of a block become weights; the result is each row's factor on what was weighed before. Rows go
/// through every step together and all blocks are whole here, so that no step waits for one row and no
/// branch depends on the numbers.
///
/// As [`Lanes`]. `weights` is `[R, BLOCK]`.
pub(in crate::kernel) struct Softmax<'a, const R: usize> {
    pub weights: *mut f32,
    pub state: &'a mut [Running; MAX_ROWS],
}

impl<L: Lanes, const R: usize> Work<L> for Softmax<'_, R> {
    type Out = [f32; MAX_ROWS];

    #[inline(always)]
    unsafe fn run(self) -> [f32; MAX_ROWS] {
        let Self { weights, state } = self;
        // One vector of factors serves all rows.
        const { assert!(R <= MAX_ROWS && MAX_ROWS <= L::N) };
        // SAFETY: all accesses are of vectors within a row of `weights`; `before` has a vector's elements
        // or more.
        unsafe {
            let mut bases = [0.0; R];
            let mut before = [0.0; MAX_LANES];
            for (r, state) in state.iter_mut().enumerate().take(R) {
                let mut largest = L::splat(state.max);
                for at in (0..BLOCK).step_by(L::N) {
                    // The maximum ignores NaN; it reappears through `exp`.
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
            for (r, sum) in sums.into_iter().enumerate() {
                state[r].sum = state[r].sum * before[r] + L::sum(sum);
            }
            let mut shrink = [1.0; MAX_ROWS];
            shrink[..R].copy_from_slice(&before[..R]);
            shrink
        }
    }
}

/// `weights[r, p] = cap * tanh(weights[r, p] / cap)` of some columns.
///
/// As [`Lanes`]. `weights` is `[rows, BLOCK]`, whose `columns`, whole vectors, are written.
pub(in crate::kernel) struct Cap {
    pub weights: *mut f32,
    pub rows: usize,
    pub columns: Range<usize>,
    pub cap: f32,
}

impl<L: Lanes> Work<L> for Cap {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { weights, rows, columns, cap } = self;
        // SAFETY: all accesses are of vectors within the columns of a row of `weights`.
        unsafe {
            let (one, two) = (L::splat(1.0), L::splat(2.0));
            for r in 0..rows {
                for at in columns.clone().step_by(L::N) {
                    let at = weights.add(r * BLOCK + at);
                    // tanh(x) = 1 - 2 / (exp(2 x) + 1), also where the exponential is infinite.
                    let power = exp::<L>(L::mul(L::load(at), L::splat(2.0 / cap)));
                    let tanh = L::sub(one, L::div(two, L::add(power, one)));
                    L::store(at, L::mul(tanh, L::splat(cap)));
                }
            }
        }
    }
}

/// Values of a block from some position on.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Values<S> {
    pub at: *const S,
    pub head_dim: usize,
    /// The keys of the next block, to prefetch.
    pub ahead: Ahead<S>,
}

/// `sums[r] = sums[r] * shrink[r] + weights[r, p] * values[p]` over the positions `seen`, ascending.
///
/// As [`Lanes`]. `values` are those of the block, `weights` is `[R, BLOCK]`, `sums` is `[R, head_dim]`.
pub(in crate::kernel) struct Weigh<S, const R: usize> {
    pub values: Values<S>,
    pub weights: *const f32,
    pub seen: Range<usize>,
    pub shrink: [f32; MAX_ROWS],
    pub sums: *mut f32,
}

impl<L: Lanes, S: Stored, const R: usize> Work<L> for Weigh<S, R> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { values, weights, seen, shrink, sums } = self;
        let head_dim = values.head_dim;
        // SAFETY: as for this work; `dim` and the elements from it on are within `head_dim`.
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
}

/// `V` vectors of dimensions of [`Weigh`], each of `live` elements.
///
/// # Safety
/// As [`Weigh`].
#[inline(always)]
unsafe fn weigh_vectors<L: Lanes, S: Stored, const R: usize, const V: usize>(
    values: Values<S>,
    weights: *const f32,
    positions: usize,
    live: usize,
    shrink: [f32; MAX_ROWS],
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
