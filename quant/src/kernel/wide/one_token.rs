//! A product with one token: its sums stay in registers, and every lane reads one stream of rows from its
//! beginning to its end. It must not know formats.

use std::marker::PhantomData;

use super::blocks::{Blocks, Multiples, for_format, zero_of};
use super::product8::{Consumer, MAX_STRIDE, Tokens, add_piece, float_scales, times_zero, walk};
use super::rows::{Rows, Source, Stock, Streams};
use super::tier::Work;
use crate::activations::Activations;
use crate::kernel::runs::run_of;
use crate::matrix::QMatrix;

/// Takes scales as floats.
struct One<'a, R: Rows> {
    x: Tokens<'a>,
    acc: R::F,
}

impl<R: Rows, B: Blocks> Consumer<R, B> for One<'_, R> {
    float_scales!();

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[R::I; 8], scales: &B::Scales<R>, i: usize) {
        // SAFETY: the caller guarantees the instructions and the block.
        unsafe {
            let mut zeros = [0; 2];
            let [first, second] = &mut zeros;
            let (a, mut sides) = self.x.sides(block);
            times_zero(const { zero_of::<R, B>() }, B::SHAPE.halves, sides.minus_sums, 1, [first, second]);
            sides.minus_zeros = [&raw const zeros[0], &raw const zeros[1]];
            let [sum] = add_piece::<R, B, 1, false>(codes, scales, i, a, sides, [self.acc]);
            self.acc = R::finished(sum);
        }
    }
}

/// Takes scales as whole numbers. A sum of products times a whole number is below 2^24, so it is exact as a
/// float, and so is the scale that [`One`] takes, a float of 11 bits times the number. Both round the same
/// product once: the bits are the same.
struct OneTimes<'a, R: Rows> {
    x: Tokens<'a>,
    acc: R::F,
}

impl<R: Rows, B: Blocks> Consumer<R, B> for OneTimes<'_, R> {
    type Scales = Multiples<R>;

    #[inline(always)]
    unsafe fn scales<S: Source<R>>(unit: S) -> Multiples<R> {
        // SAFETY: as for this function.
        unsafe { B::multiples(unit) }
    }

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[R::I; 8], scales: &Multiples<R>, i: usize) {
        // SAFETY: the caller guarantees the instructions and the block.
        unsafe {
            let (a, sides) = self.x.sides(block);
            let (sum, low) = (sides.minus_sums[0].read(), sides.minus_sums[1].read());
            if B::SHAPE.halves {
                let (zero, high) = (const { zero_of::<R, B>() }, sum - low);
                let (by, zeros) = ([scales.scale(2 * i), scales.scale(2 * i + 1)], [low * zero, high * zero]);
                let [first, second] = R::dot_halves_times(codes, zero, B::TOP, a, zeros, by);
                self.add::<B>(first, low, scales, 2 * i, sides.scales);
                self.add::<B>(second, high, scales, 2 * i + 1, sides.scales);
            } else {
                let dot = R::dot_times(codes, B::TOP, a, scales.scale(i));
                self.add::<B>(dot, sum, scales, i, sides.scales);
            }
            self.acc = R::finished(self.acc);
        }
    }
}

impl<R: Rows> OneTimes<'_, R> {
    /// Adds a sum, which is multiplied with scale `i`, and the minimum of as many.
    ///
    /// # Safety
    /// As [`Rows`], with a scale of the token.
    #[inline(always)]
    unsafe fn add<B: Blocks>(
        &mut self,
        dot: R::I,
        minus_sum: i32,
        scales: &Multiples<R>,
        i: usize,
        token_scale: *const f32,
    ) {
        // SAFETY: the caller guarantees the instructions and the scale.
        unsafe {
            let mut v = R::mul(R::float(dot), scales.unit);
            if B::SHAPE.minima {
                v = R::fma(R::float(R::times(minus_sum, scales.min(i))), scales.min_unit, v);
            }
            self.acc = R::fma(v, R::splat_f(token_scale.read()), self.acc);
        }
    }
}

/// `out` of a product with one token.
///
/// # Safety
/// As [`super::coded::product`], with rows for a tile and a format that vectors unpack.
pub(super) unsafe fn product<R: Rows>(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    let x = Tokens::of(x);
    // SAFETY: as for this function; rows are where their matrix says.
    unsafe { for_format!(w.format(), |B| R::call(Stream { w, x, out, blocks: PhantomData::<B> })) }
}

/// A product with one token. Lane `l` of the tiles goes through one of as many runs of rows as a tile has
/// lanes, so that each reads one stream from its beginning to its end; `runs` says how long these are. Which
/// lane a row is in changes no bit of its sum.
///
struct Stream<'a, B> {
    w: QMatrix<'a>,
    x: Tokens<'a>,
    out: &'a mut [f32],
    blocks: PhantomData<B>,
}

impl<R: Rows, B: Blocks> Work<R> for Stream<'_, B> {
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
                    let (units, acc) = (0..w.cols() / (32 * B::PIECES), R::splat_f(0.0));
                    let acc = if const { R::MULTIPLES && B::MULTIPLES } {
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
