//! A product with one token: its sums stay in registers, and every lane reads one stream of rows from its
//! beginning to its end. It must not know formats.

use std::marker::PhantomData;

use super::blocks::{Blocks, Multiples, ScalesOf, for_format, zero_of};
use super::product8::{Consumer, MAX_STRIDE, float_scales, walk};
use super::rows::{Bytes, CODE_WORDS, Rows, Source, Stock, Streams};
use super::tier::Work;
use crate::kernel::lines::Line;
use crate::kernel::runs::run_of;
use crate::matrix::QMatrix;

/// How a tier multiplies its rows with one token.
///
/// # Safety
/// As [`Rows`].
pub(in crate::kernel) trait OneToken: Rows {
    /// `sum of (w - zero) * a` over 32 columns: codes as [`Rows::dots`] takes them, but not arranged, in the
    /// order of [`Rows::columns`].
    #[inline(always)]
    unsafe fn dot(w: &[Self::I; 8], zero: i32, top: i32, a: *const u32, minus_zero: i32) -> Self::I {
        // SAFETY: as for this function.
        unsafe {
            let [sum] = Self::dots(&Self::arrange(w), zero, top, a, &raw const minus_zero);
            sum
        }
    }
    /// The same of each half, from codes in the order of [`Rows::keep_halves`].
    #[inline(always)]
    unsafe fn dot_halves(
        w: &[Self::I; 8],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: [i32; 2],
    ) -> [Self::I; 2] {
        // SAFETY: as for this function.
        unsafe {
            let [c0, c1, c2, c3, c4, c5, c6, c7] = Self::arrange(w);
            let [low] = Self::dots(&[c0, c1, c2, c3], zero, top, a, &raw const minus_zeros[0]);
            let [high] = Self::dots(&[c4, c5, c6, c7], zero, top, a.add(4), &raw const minus_zeros[1]);
            [low, high]
        }
    }

    /// Up to which code sums are multiplied with scales as whole numbers, by the functions below.
    const MULTIPLES: i32 = -1;
    /// The same of halves.
    const MULTIPLES_OF_HALVES: i32 = -1;
    /// [`OneToken::dot`] without a zero, times a byte of each lane.
    #[inline(always)]
    unsafe fn dot_times(_w: &[Self::I; 8], _top: i32, _a: *const u32, _scale: Bytes<Self::I>) -> Self::I {
        unreachable!("scales are floats")
    }
    /// [`OneToken::dot_halves`] of codes up to [`OneToken::MULTIPLES_OF_HALVES`], times a byte of each lane
    /// for either half.
    #[inline(always)]
    unsafe fn dot_halves_times(
        _w: &[Self::I; 8],
        _zero: i32,
        _top: i32,
        _a: *const u32,
        _minus_zeros: [i32; 2],
        _scales: [Bytes<Self::I>; 2],
    ) -> [Self::I; 2] {
        unreachable!("scales are floats")
    }
    /// `value`, which fits 16 bits, times a byte of each lane.
    #[inline(always)]
    unsafe fn times(_value: i32, _bytes: Bytes<Self::I>) -> Self::I {
        unreachable!("minima are floats")
    }

    /// The same sums. A tier with few registers has the compiler finish them here before it reads on: pieces
    /// that it computes side by side would go through memory.
    #[inline(always)]
    unsafe fn finished(sums: Self::F) -> Self::F {
        sums
    }
}

/// A piece's sums of negated codes of the token: of all columns, or of each half.
struct MinusSums([i32; 2]);

impl MinusSums {
    /// Their products with the zero of a format.
    #[inline(always)]
    fn times_zero<R: Rows, B: Blocks>(&self) -> [i32; 2] {
        let ([first, second], zero) = (self.0, const { zero_of::<R, B>() });
        [first * zero, second * zero]
    }
}

/// What a piece needs of the token: its codes, [`MinusSums`], and its scale. They are on one line, as
/// `activations` lays it out.
///
/// # Safety
/// The block exists.
#[inline(always)]
unsafe fn sides<B: Blocks>(x: &[Line], block: usize) -> (*const u32, MinusSums, f32) {
    // SAFETY: the caller guarantees the block; a line has these words.
    unsafe {
        let line = x.as_ptr().add(block).cast::<u32>();
        let word = |n: usize| line.add(CODE_WORDS + n).read();
        let (sum, low) = (word(1) as i32, word(2) as i32);
        let minus_sums = if B::SHAPE.halves { [low, sum - low] } else { [sum, 0] };
        (line, MinusSums(minus_sums), f32::from_bits(word(0)))
    }
}

/// Takes scales as floats.
struct One<'a, R: OneToken> {
    x: &'a [Line],
    acc: R::F,
}

impl<R: OneToken, B: Blocks> Consumer<R, B> for One<'_, R> {
    float_scales!();
    const ONE: bool = true;

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[R::I; 8], scales: &B::Scales<R>, i: usize) {
        // SAFETY: the caller guarantees the instructions and the block.
        unsafe {
            let (a, minus_sums, scale) = sides::<B>(self.x, block);
            let (zero, zeros) = (const { zero_of::<R, B>() }, minus_sums.times_zero::<R, B>());
            if B::SHAPE.halves {
                let [low, high] = R::dot_halves(codes, zero, B::TOP, a, zeros);
                self.add::<B>(low, minus_sums.0[0], scales, 2 * i, scale);
                self.add::<B>(high, minus_sums.0[1], scales, 2 * i + 1, scale);
            } else {
                let dot = R::dot(codes, zero, B::TOP, a, zeros[0]);
                self.add::<B>(dot, minus_sums.0[0], scales, i, scale);
            }
            self.acc = R::finished(self.acc);
        }
    }
}

impl<R: OneToken> One<'_, R> {
    /// Adds a sum times scale `i`, and the minimum of as many.
    ///
    /// # Safety
    /// As [`Rows`].
    #[inline(always)]
    unsafe fn add<B: Blocks>(
        &mut self,
        dot: R::I,
        minus_sum: i32,
        scales: &B::Scales<R>,
        i: usize,
        token_scale: f32,
    ) {
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            let mut v = R::mul(R::float(dot), scales.scale(i));
            if B::SHAPE.minima {
                // Converted before it is in all lanes.
                v = R::fma(R::splat_f(minus_sum as f32), scales.min(i), v);
            }
            self.acc = R::fma(v, R::splat_f(token_scale), self.acc);
        }
    }
}

/// Takes scales as whole numbers. A sum of products times a whole number is below 2^24, so it is exact as a
/// float, and so is the scale that [`One`] takes, a float of 11 bits times the number. Both round the same
/// product once: the bits are the same.
struct OneTimes<'a, R: OneToken> {
    x: &'a [Line],
    acc: R::F,
}

impl<R: OneToken, B: Blocks> Consumer<R, B> for OneTimes<'_, R> {
    type Scales = Multiples<R>;
    const ONE: bool = true;

    #[inline(always)]
    unsafe fn scales<S: Source<R>>(unit: S) -> Multiples<R> {
        // SAFETY: as for this function.
        unsafe { B::multiples(unit) }
    }

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[R::I; 8], scales: &Multiples<R>, i: usize) {
        // SAFETY: the caller guarantees the instructions and the block.
        unsafe {
            let (a, minus_sums, scale) = sides::<B>(self.x, block);
            if B::SHAPE.halves {
                let (zero, zeros) = (const { zero_of::<R, B>() }, minus_sums.times_zero::<R, B>());
                let by = [scales.scale(2 * i), scales.scale(2 * i + 1)];
                let [low, high] = R::dot_halves_times(codes, zero, B::TOP, a, zeros, by);
                self.add::<B>(low, minus_sums.0[0], scales, 2 * i, scale);
                self.add::<B>(high, minus_sums.0[1], scales, 2 * i + 1, scale);
            } else {
                let dot = R::dot_times(codes, B::TOP, a, scales.scale(i));
                self.add::<B>(dot, minus_sums.0[0], scales, i, scale);
            }
            self.acc = R::finished(self.acc);
        }
    }
}

impl<R: OneToken> OneTimes<'_, R> {
    /// Adds a sum, which is multiplied with scale `i`, and the minimum of as many.
    ///
    /// # Safety
    /// As [`Rows`].
    #[inline(always)]
    unsafe fn add<B: Blocks>(
        &mut self,
        dot: R::I,
        minus_sum: i32,
        scales: &Multiples<R>,
        i: usize,
        token_scale: f32,
    ) {
        // SAFETY: the caller guarantees the instructions.
        unsafe {
            let mut v = R::mul(R::float(dot), scales.unit);
            if B::SHAPE.minima {
                v = R::fma(R::float(R::times(minus_sum, scales.min(i))), scales.min_unit, v);
            }
            self.acc = R::fma(v, R::splat_f(token_scale), self.acc);
        }
    }
}

/// Whether sums are multiplied with scales as whole numbers.
const fn takes_multiples<R: OneToken, B: Blocks>() -> bool {
    B::MULTIPLES && B::TOP <= if B::SHAPE.halves { R::MULTIPLES_OF_HALVES } else { R::MULTIPLES }
}

/// `out` of a product with one token, whose blocks are a line each.
///
/// # Safety
/// As [`super::coded::product`], with rows for a tile, a format that vectors unpack, and as many lines as
/// blocks.
pub(super) unsafe fn product<R: OneToken>(w: QMatrix<'_>, x: &[Line], out: &mut [f32]) {
    // SAFETY: as for this function; rows are where their matrix says.
    unsafe { for_format!(w.format(), |B| R::call(Stream { w, x, out, blocks: PhantomData::<B> })) }
}

/// A product with one token. Lane `l` of the tiles goes through one of as many runs of rows as a tile has
/// lanes, so that each reads one stream from its beginning to its end; `runs` says how long these are. Which
/// lane a row is in changes no bit of its sum.
struct Stream<'a, B> {
    w: QMatrix<'a>,
    x: &'a [Line],
    out: &'a mut [f32],
    blocks: PhantomData<B>,
}

impl<R: OneToken, B: Blocks> Work<R> for Stream<'_, B> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { w, x, out, .. } = self;
        let (rows, row_bytes) = (w.rows(), w.row_bytes());
        let runs_from = |first: usize| {
            // Rows that do not fill a tile are computed with the rows before them.
            let start = first.min(rows - R::ROWS);
            (first < rows).then(|| (start, run_of(rows - start, row_bytes, R::ROWS, MAX_STRIDE)))
        };
        let tile =
            |row: usize, run: usize| (w.data().as_ptr().wrapping_add(row * row_bytes), run * row_bytes);
        let mut runs = runs_from(0);
        while let Some((start, run)) = runs {
            runs = runs_from(start + R::ROWS * run);
            let end = start + run;
            for row in start..end {
                let (at, stride) = tile(row, run);
                let next = match runs {
                    Some((first, run)) if row + 1 == end => tile(first, run),
                    _ => (at.wrapping_add(row_bytes), stride),
                };
                let mut sums = [0.0; 16];
                // SAFETY: the caller guarantees the instructions and the token. `ROWS` rows, `run` apart,
                // from this one on exist, and are as many sums.
                unsafe {
                    let tile = Stock { at, stride, ahead: Streams { row_bytes, next } };
                    let units = 0..w.cols() / (32 * B::PIECES);
                    let acc = R::splat_f(0.0);
                    let acc = if const { takes_multiples::<R, B>() } {
                        let mut one = OneTimes { x, acc };
                        walk::<R, B, _, _>(tile, units, &mut one);
                        one.acc
                    } else {
                        let mut one = One { x, acc };
                        walk::<R, B, _, _>(tile, units, &mut one);
                        one.acc
                    };
                    R::store(sums.as_mut_ptr(), acc);
                }
                for (lane, sum) in sums.iter().enumerate().take(R::ROWS) {
                    out[row + lane * run] = *sum;
                }
            }
        }
    }
}
