//! Products of quantised weights with int8 activations over any [`Rows`] and [`Blocks`]: a tile of as many
//! rows as a vector has lanes, block by block; each block's codes are unpacked once, straight into
//! registers, and multiplied with every token. It must not know formats.
//!
//! Steps and their order are those of `codes`, so the bits are too, for any number of tokens.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::blocks::{Blocks, ScalesOf, for_format, zero_of};
use super::rows::{CODE_WORDS, Neighbours, Rows, Source, Stock};
use super::tier::Work;
use crate::activations::Activations;
use crate::activations::room;
use crate::kernel::outputs::out_at;
use crate::matrix::QMatrix;

/// Tokens that a tile is multiplied with before its weights are unpacked again: their activations should
/// stay in the second-level cache.
pub(in crate::kernel) const TOKENS: usize = 128;

/// The largest distance of rows, so that offsets of 16 of them are 32-bit words.
pub(super) const MAX_STRIDE: usize = 1 << 26;

/// A run of tokens of `Q8` activations.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Tokens<'a> {
    /// Words of all records.
    pub words: &'a [u32],
    /// Words of one.
    pub record: usize,
    /// Tokens of a record, padding included.
    pub room: usize,
    /// The first of the run.
    pub first: usize,
    /// Tokens of the run.
    pub count: usize,
}

impl<'a> Tokens<'a> {
    pub fn of(x: Activations<'a>) -> Self {
        let ((words, record), (all, first)) = (x.words(), x.place());
        Self { words, record, room: room(all), first, count: x.tokens() }
    }

    /// The codes of the first token in block `block`, and its other parts.
    ///
    /// # Safety
    /// The block must exist.
    #[inline(always)]
    pub unsafe fn sides(&self, block: usize) -> (*const u32, Sides) {
        // SAFETY: the block exists, so its record is within the words, and is laid out as `activations` says.
        unsafe {
            let record = self.words.as_ptr().add(block * self.record);
            let part = |n: usize| record.add(n * self.room + self.first);
            let minus_sums = [part(9).cast(), part(10).cast()];
            let sides = Sides { scales: part(8).cast(), minus_sums, minus_zeros: minus_sums };
            (record.add(CODE_WORDS * self.first), sides)
        }
    }
}

impl Sides {
    /// As seen from token `t`.
    ///
    /// # Safety
    /// The token exists.
    #[inline(always)]
    pub unsafe fn from(self, t: usize) -> Self {
        // SAFETY: the token exists in every part.
        unsafe {
            Self {
                scales: self.scales.add(t),
                minus_sums: self.minus_sums.map(|p| p.add(t)),
                minus_zeros: self.minus_zeros.map(|p| p.add(t)),
            }
        }
    }
}

/// Takes the pieces of a tile in order.
pub(in crate::kernel) trait Consumer<R: Rows, B: Blocks> {
    /// The scales of a block as it takes them.
    type Scales;
    /// Whether it has one token.
    const ONE: bool = false;

    /// The scales of a block.
    ///
    /// # Safety
    /// As [`Source`], with a block.
    unsafe fn scales<S: Source<R>>(unit: S) -> Self::Scales;
    /// Piece `i` of a block with these scales; it is block `block` of the activations.
    ///
    /// # Safety
    /// As [`Rows`]; the activations have that block.
    unsafe fn take(&mut self, block: usize, codes: &[R::I; 8], scales: &Self::Scales, i: usize);
}

/// Of a [`Consumer`] that takes scales as floats.
macro_rules! float_scales {
    () => {
        type Scales = B::Scales<R>;

        #[inline(always)]
        unsafe fn scales<S: $crate::kernel::wide::rows::Source<R>>(unit: S) -> B::Scales<R> {
            // SAFETY: as for this function.
            unsafe { B::scales(unit) }
        }
    };
}

pub(in crate::kernel) use float_scales;

/// Unpacks some of the blocks of a tile of rows, which starts at `tile`.
///
/// # Safety
/// As [`Source`], with these blocks.
#[inline(always)]
pub(in crate::kernel) unsafe fn walk<R: Rows, B: Blocks, S: Source<R>, C: Consumer<R, B>>(
    tile: S,
    units: Range<usize>,
    consumer: &mut C,
) {
    const { assert!(!B::SHIFTED || B::PIECES == 8, "eight pieces are code of their own each") };
    // Bytes of a piece of 16 rows.
    let bytes = 16 * B::BYTES / B::PIECES;
    for unit in units {
        // SAFETY: the caller guarantees the instructions and the blocks.
        unsafe {
            let at = tile.block(unit, B::BYTES);
            let scales = C::scales(at);
            macro_rules! take {
                ($first:expr, $($nth:literal)*) => {
                    let first = $first;
                    let (block, shared) = (unit * B::PIECES + first, B::shared::<R, S>(at, first));
                    $(
                        let codes = B::codes::<R, S, $nth>(at, &shared, first);
                        // After these reads: to the compiler, a prefetch may write.
                        tile.prefetch(at, block + $nth, B::PIECES, bytes);
                        consumer.take(block + $nth, &codes, &scales, first + $nth);
                    )*
                };
            }
            if B::PIECES == 1 {
                take!(0, 0);
            } else if const { C::ONE && B::SHIFTED } {
                take!(0, 0 1 2 3);
                take!(4, 0 1 2 3);
            } else {
                for first in (0..B::PIECES).step_by(4) {
                    take!(first, 0 1 2 3);
                }
            }
        }
    }
}

/// What `Q8` tokens `t ..` of a record contribute besides their codes.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Sides {
    /// One for each token from `t` on; how many may be read depends on the record.
    pub scales: *const f32,
    /// Negated sums of the codes, whole and of the first half.
    pub minus_sums: [*const i32; 2],
    /// The same times the format's zero; of the first half and of the second half if the format has halves.
    pub minus_zeros: [*const i32; 2],
}

/// Adds piece `i` times the codes at `a` of `T` tokens to `acc`; codes are arranged.
///
/// # Safety
/// As [`Rows`]; the tokens exist in `a` and in `sides`.
#[inline(always)]
unsafe fn add_piece<R: Rows, B: Blocks, const T: usize>(
    codes: &[R::I; 8],
    scales: &B::Scales<R>,
    i: usize,
    a: *const u32,
    sides: Sides,
    acc: [R::F; T],
) -> [R::F; T] {
    let zero = const { zero_of::<R, B>() };
    // SAFETY: the caller guarantees the instructions and the tokens.
    unsafe {
        let [sum, low] = sides.minus_sums;
        if !B::SHAPE.halves {
            let dots = R::dots(codes, zero, B::TOP, a, sides.minus_zeros[0]);
            let mut minus_sums = [0; T];
            for (t, out) in minus_sums.iter_mut().enumerate() {
                *out = sum.add(t).read();
            }
            return add_dots::<R, B, T>(dots, scales, i, sides.scales, minus_sums, acc);
        }
        let (mut lows, mut highs) = ([0; T], [0; T]);
        for t in 0..T {
            lows[t] = low.add(t).read();
            highs[t] = sum.add(t).read() - lows[t];
        }
        let [c0, c1, c2, c3, c4, c5, c6, c7] = *codes;
        let dots = R::dots(&[c0, c1, c2, c3], zero, B::TOP, a, sides.minus_zeros[0]);
        let acc = add_dots::<R, B, T>(dots, scales, 2 * i, sides.scales, lows, acc);
        let dots = R::dots(&[c4, c5, c6, c7], zero, B::TOP, a.add(4), sides.minus_zeros[1]);
        add_dots::<R, B, T>(dots, scales, 2 * i + 1, sides.scales, highs, acc)
    }
}

/// Adds integer sums, scaled by scale `i` and each token's scale, to `acc`.
///
/// # Safety
/// As [`Rows`], with `T` scales of tokens.
#[inline(always)]
unsafe fn add_dots<R: Rows, B: Blocks, const T: usize>(
    dots: [R::I; T],
    scales: &B::Scales<R>,
    i: usize,
    token_scales: *const f32,
    minus_sums: [i32; T],
    mut acc: [R::F; T],
) -> [R::F; T] {
    for t in 0..T {
        // SAFETY: the caller guarantees the instructions and `T` scales.
        unsafe {
            let mut v = R::mul(R::float(dots[t]), scales.scale(i));
            if B::SHAPE.minima {
                v = R::fma(R::float(R::splat(minus_sums[t])), scales.min(i), v);
            }
            acc[t] = R::fma(v, R::splat_f(token_scales.add(t).read()), acc[t]);
        }
    }
    acc
}

/// Writes `zero` times the negated sums of `n` tokens; of both halves if `halves`.
///
/// # Safety
/// The sums exist, and the outputs are good for writing.
#[inline(always)]
unsafe fn times_zero(zero: i32, halves: bool, [sums, lows]: [*const i32; 2], n: usize, out: [*mut i32; 2]) {
    if zero == 0 {
        return;
    }
    for t in 0..n {
        // SAFETY: the caller guarantees `n` sums and outputs.
        unsafe {
            let (sum, low) = (sums.add(t).read(), lows.add(t).read());
            out[0].add(t).write(if halves { low } else { sum } * zero);
            if halves {
                out[1].add(t).write((sum - low) * zero);
            }
        }
    }
}

/// Tokens that a piece is multiplied with at a time.
const fn batch<R: Rows, B: Blocks>() -> usize {
    match B::TOP {
        128.. => R::WIDE_BATCH,
        16.. => R::BATCH,
        _ => R::NARROW_BATCH,
    }
}

/// Several tokens: sums `[tokens, ROWS]`, `stride` apart, in memory.
#[repr(align(64))]
pub(super) struct Many<'a> {
    x: Tokens<'a>,
    acc: *mut f32,
    stride: usize,
    /// See [`Sides::minus_zeros`].
    minus_zeros: [[i32; TOKENS]; 2],
}

impl<R: Rows, B: Blocks> Consumer<R, B> for Many<'_> {
    float_scales!();

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[R::I; 8], scales: &B::Scales<R>, i: usize) {
        // SAFETY: the caller guarantees the instructions and the block; `acc` has `count` sums by
        // construction.
        unsafe {
            let (a, mut sides) = self.x.sides(block);
            let [first, second] = &mut self.minus_zeros;
            let out = [first.as_mut_ptr(), second.as_mut_ptr()];
            times_zero(const { zero_of::<R, B>() }, B::SHAPE.halves, sides.minus_sums, self.x.count, out);
            sides.minus_zeros = out.map(<*mut i32>::cast_const);
            let codes = &R::arrange(codes);
            let mut t = 0;
            while t < self.x.count {
                let at = (a.add(t * CODE_WORDS), sides.from(t), self.acc.add(t * self.stride));
                t += match self.x.count - t {
                    8.. if const { batch::<R, B>() == 8 } => self.batch::<R, B, 8>(codes, scales, i, at),
                    4.. if const { batch::<R, B>() >= 4 } => self.batch::<R, B, 4>(codes, scales, i, at),
                    2.. if const { batch::<R, B>() == 2 } => self.batch::<R, B, 2>(codes, scales, i, at),
                    _ => self.batch::<R, B, 1>(codes, scales, i, at),
                };
            }
        }
    }
}

impl<'a> Many<'a> {
    /// Adds to the sums at `acc`.
    pub(super) fn new(x: Tokens<'a>, acc: *mut f32, stride: usize) -> Self {
        Self { x, acc, stride, minus_zeros: [[0; TOKENS]; 2] }
    }

    /// Adds a piece to the sums of `T` tokens and returns `T`.
    ///
    /// # Safety
    /// As [`add_piece`], with sums for as many tokens.
    #[inline(always)]
    unsafe fn batch<R: Rows, B: Blocks, const T: usize>(
        &self,
        codes: &[R::I; 8],
        scales: &B::Scales<R>,
        i: usize,
        (a, sides, sums): (*const u32, Sides, *mut f32),
    ) -> usize {
        // SAFETY: the caller guarantees the instructions, the tokens and the sums.
        unsafe {
            let mut acc = [R::splat_f(0.0); T];
            for (t, acc) in acc.iter_mut().enumerate() {
                *acc = R::load(sums.add(t * self.stride));
            }
            acc = add_piece::<R, B, T>(codes, scales, i, a, sides, acc);
            for (t, acc) in acc.into_iter().enumerate() {
                R::store(sums.add(t * self.stride), acc);
            }
        }
        T
    }
}

/// One tile of several tokens: `sums[t * stride + r]` of its rows and the tokens of `x`.
pub(in crate::kernel) trait TileProduct<R: Rows> {
    /// Computes a tile.
    ///
    /// # Safety
    /// As [`Source`] for `units` blocks; the tokens exist, and `sums` is good for writing.
    unsafe fn tile<B: Blocks>(
        tile: Stock<Neighbours>,
        units: usize,
        x: Tokens<'_>,
        sums: *mut f32,
        stride: usize,
    );
}

/// Products of tiles by [`Rows::dots`].
struct Vectors;

impl<R: Rows> TileProduct<R> for Vectors {
    #[inline(always)]
    unsafe fn tile<B: Blocks>(
        tile: Stock<Neighbours>,
        units: usize,
        x: Tokens<'_>,
        sums: *mut f32,
        stride: usize,
    ) {
        // SAFETY: the caller guarantees the instructions, the rows and the tokens.
        unsafe {
            for t in 0..x.count {
                R::store(sums.add(t * stride), R::splat_f(0.0));
            }
            let mut many = Many::new(x, sums, stride);
            walk::<R, B, _, _>(tile, 0..units, &mut many);
        }
    }
}

/// Whether a matrix suits vectors; the scalar reference multiplies the others.
pub(in crate::kernel) fn fits<R: Rows>(w: QMatrix<'_>) -> bool {
    w.rows() >= R::ROWS && w.row_bytes() <= MAX_STRIDE
}

/// Whether a product suits vectors: those for one token or for several.
pub(in crate::kernel) fn fits_both<R: Rows>(w: QMatrix<'_>, x: Activations<'_>) -> bool {
    fits::<R>(w) && (x.tokens() == 1 || fits::<R::Many>(w))
}

/// Computes a chunk with vectors.
///
/// # Safety
/// As [`Rows`].
pub(in crate::kernel) unsafe fn multiply<R: Rows>(chunk: Chunk<'_>) {
    // SAFETY: as for this function.
    unsafe { for_format!(chunk.w.format(), |B| R::call(Tiles::<B, Vectors>::of(chunk))) }
}

/// All rows of a product and some of its tokens, at most [`TOKENS`].
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Chunk<'a> {
    /// The matrix.
    pub w: QMatrix<'a>,
    /// The tokens.
    pub x: Tokens<'a>,
    /// Number of tokens of the product.
    pub all: usize,
    /// Number of those before these.
    pub before: usize,
    /// Of the whole product.
    pub out: *mut f32,
}

impl<'a> Chunk<'a> {
    /// Runs `multiply` for each chunk of a product.
    pub fn each(w: QMatrix<'a>, x: Activations<'a>, out: &mut [f32], multiply: impl Fn(Chunk<'a>)) {
        let (all, x) = (x.tokens(), Tokens::of(x));
        for before in (0..all).step_by(TOKENS) {
            let x = Tokens { first: x.first + before, count: TOKENS.min(all - before), ..x };
            multiply(Chunk { w, x, all, before, out: out.as_mut_ptr() });
        }
    }
}

/// Sums of a tile.
#[repr(C, align(64))]
pub(super) struct Spare(pub MaybeUninit<[f32; TOKENS * 16]>);

/// A chunk, computed by `P`. Rows that do not fill a tile are computed with the rows before them.
///
/// As [`product`], with rows for a tile.
pub(in crate::kernel) struct Tiles<'a, B, P> {
    chunk: Chunk<'a>,
    how: PhantomData<(B, P)>,
}

impl<'a, B, P> Tiles<'a, B, P> {
    pub fn of(chunk: Chunk<'a>) -> Self {
        Self { chunk, how: PhantomData }
    }
}

impl<R: Rows, B: Blocks, P: TileProduct<R>> Work<R> for Tiles<'_, B, P> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Chunk { w, x, all, before, out } = self.chunk;
        let (rows, row_bytes) = (w.rows(), w.row_bytes());
        for row in (0..rows).step_by(R::ROWS) {
            let at = out_at(rows, all, row, before);
            let start = row.min(rows - R::ROWS);
            // Adjacent sums of several tokens, which is faster than writing to `out` directly. A tile that
            // ends with the last row also has rows before `row`, which are not copied.
            let mut spare = Spare(MaybeUninit::uninit());
            // SAFETY: the caller guarantees the instructions. `start + ROWS <= rows`; `out` has `stride`
            // sums for each token of the group, from this row on `ROWS` or all that are left; `spare` has
            // `ROWS` for each, all written.
            unsafe {
                let (out, sums) = (out.add(at.start), spare.0.as_mut_ptr().cast());
                let first = w.data().as_ptr().add(start * row_bytes);
                let tile = Stock { at: first, stride: row_bytes, ahead: Neighbours };
                P::tile::<B>(tile, w.cols() / (32 * B::PIECES), x, sums, R::ROWS);
                for t in 0..x.count {
                    let (new, out) = (sums.add(t * R::ROWS + (row - start)), out.add(t * at.stride));
                    if row == start {
                        R::store(out, R::load(new));
                    } else {
                        out.copy_from_nonoverlapping(new, rows - row);
                    }
                }
            }
        }
    }
}
