//! Products of formats whose codes are found through tables (`lattice`): a strip of a tile of rows is written
//! out as codes and scales, which stay in the cache, and multiplied as any other blocks. A lookup is eight or
//! four weights at once, so it is scalar code for all tiers. It must not know what a table means.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

use super::blocks::{Blocks, ScalesOf};
use super::one_token::{self, OneToken};
use super::product8::{Chunk, Many, Spare, Tokens, fits_both, multiply, walk};
use super::rows::{Neighbours, Rows, Source, Stock};
use super::tier::Work;
use crate::activations::{Activations, BLOCK};
use crate::codes::Shape;
use crate::kernel::lines::Line;
use crate::kernel::outputs::out_at;
use crate::lattice::{above_zero, each_piece, is_coded};
use crate::matrix::QMatrix;

/// Weights of a row that are written out at a time: 16 rows of them fit a second-level cache beside the
/// activations.
const STRIP: usize = 4096;

/// Most blocks of a token that are copied into lines of their own.
const COPIED: usize = 64;

thread_local! {
    static STRIP_OF_THREAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Pieces as [`each_piece`] gives them: `SCALES` scales (f32), then 32 codes plus 64.
struct Plain<const SCALES: usize>;

/// One vector for each scale of a piece.
struct PlainScales<R: Rows, const SCALES: usize>([R::F; SCALES]);

impl<R: Rows, const SCALES: usize> ScalesOf<R> for PlainScales<R, SCALES> {
    #[inline(always)]
    fn scale(&self, i: usize) -> R::F {
        self.0[i]
    }

    #[inline(always)]
    fn min(&self, i: usize) -> R::F {
        self.0[i]
    }
}

impl<const SCALES: usize> Blocks for Plain<SCALES> {
    const SHAPE: Shape = Shape { halves: SCALES == 2, minima: false };
    const PIECES: usize = 1;
    const BYTES: usize = 4 * SCALES + 32;
    // The largest code is 62.
    const ZERO: i32 = 64;
    const TOP: i32 = 127;
    type Scales<R: Rows> = PlainScales<R, SCALES>;
    type Shared<R: Rows> = ();

    #[inline(always)]
    unsafe fn scales<R: Rows, S: Source<R>>(unit: S) -> Self::Scales<R> {
        // SAFETY: the caller guarantees the instructions and the block of each row.
        unsafe {
            let mut scales = [R::splat_f(0.0); SCALES];
            for (i, scale) in scales.iter_mut().enumerate() {
                *scale = R::from_bits(unit.words(4 * i));
            }
            PlainScales(scales)
        }
    }

    #[inline(always)]
    unsafe fn shared<R: Rows, S: Source<R>>(_: S, _: usize) {}

    #[inline(always)]
    unsafe fn codes<R: Rows, S: Source<R>, const NTH: usize>(unit: S, (): &(), _: usize) -> [R::I; 8] {
        // SAFETY: as above.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (unit.columns(4 * SCALES), unit.columns(4 * SCALES + 16));
            [a, b, c, d, e, f, g, h]
        }
    }
}

/// `out` of the whole product, laid out as [`crate::Kernels::matmul`] says.
///
/// # Safety
/// As [`Rows`]. `x` is `Q8`, as wide as the matrix, and not empty; `out` is `rows * tokens` long.
pub(in crate::kernel) unsafe fn product<R: OneToken>(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    if !fits_both::<R>(w, x) {
        return crate::kernel::scalar::codes::product(w, x, out);
    }
    // SAFETY: as for this function; rows are where their matrix says.
    unsafe {
        match (is_coded(w.format()), x.tokens()) {
            (true, 1) => strips::<R>(w, x, out),
            (true, _) => strips::<R::Many>(w, x, out),
            (false, 1) => match x.lines_of_one() {
                Some(lines) => one_token::product::<R>(w, lines, out),
                None => one_of_several::<R>(w, x, out),
            },
            (false, _) => Chunk::each(w, x, out, |chunk| multiply::<R::Many>(chunk)),
        }
    }
}

/// [`product`] with a token whose records hold others too.
///
/// # Safety
/// As there, with a format that vectors unpack.
#[cold]
unsafe fn one_of_several<R: OneToken>(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    let (mut lines, blocks) = ([Line::ZERO; COPIED], x.cols().div_ceil(BLOCK));
    // SAFETY: as for this function.
    unsafe {
        let Some(lines) = lines.get_mut(..blocks) else {
            return Chunk::each(w, x, out, |chunk| multiply::<R::Many>(chunk));
        };
        for (block, line) in lines.iter_mut().enumerate() {
            x.gather(block, std::iter::once(0), std::slice::from_mut(line));
        }
        one_token::product::<R>(w, lines, out);
    }
}

/// [`product`] of a format of tables.
///
/// # Safety
/// As there.
unsafe fn strips<R: Rows>(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    let halves = Shape::of(w.format()).halves;
    // SAFETY: as for this function.
    Chunk::each(w, x, out, |chunk| unsafe {
        if halves {
            R::call(Strips { chunk, blocks: PhantomData::<Plain<2>> });
        } else {
            R::call(Strips { chunk, blocks: PhantomData::<Plain<1>> });
        }
    });
}

/// A chunk, strip by strip. Rows that do not fill a tile are computed with the rows before them.
///
/// As [`product`].
struct Strips<'a, B> {
    chunk: Chunk<'a>,
    blocks: PhantomData<B>,
}

impl<R: Rows, B: Blocks> Work<R> for Strips<'_, B> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Chunk { w, x, all, before, out } = self.chunk;
        let rows = w.rows();
        for row in (0..rows).step_by(R::ROWS) {
            let at = out_at(rows, all, row, before);
            let start = row.min(rows - R::ROWS);
            let mut spare = Spare(MaybeUninit::uninit());
            // SAFETY: the caller guarantees the instructions. `start + ROWS <= rows`; `out` has `stride` sums
            // for each token of the group, from this row on `ROWS` or all that are left; `spare` has `ROWS`
            // for each, all written.
            unsafe {
                let (out, sums) = (out.add(at.start), spare.0.as_mut_ptr().cast());
                tile::<R, B>(w.slice_rows(start..start + R::ROWS), x, sums);
                for t in 0..x.count {
                    let new = sums.add(t * R::ROWS + (row - start));
                    out.add(t * at.stride).copy_from_nonoverlapping(new, R::ROWS.min(rows - row));
                }
            }
        }
    }
}

/// The sums `[tokens, ROWS]` of a matrix of `ROWS` rows.
///
/// # Safety
/// As [`Rows`]; the tokens exist, and `sums` is good for writing.
#[inline(always)]
unsafe fn tile<R: Rows, B: Blocks>(w: QMatrix<'_>, x: Tokens<'_>, sums: *mut f32) {
    // Taken out and not borrowed by a closure: closures lack the tier's instructions.
    let mut strip = STRIP_OF_THREAD.take();
    // SAFETY: the caller guarantees the instructions and the sums. Strips are whole blocks of every row,
    // written before they are read, and begin at a block of the activations, which are as wide as the matrix.
    unsafe {
        for t in 0..x.count {
            R::store(sums.add(t * R::ROWS), R::splat_f(0.0));
        }
        for column in (0..w.cols()).step_by(STRIP) {
            let columns = STRIP.min(w.cols() - column);
            let stride = columns / 32 * B::BYTES;
            strip.resize(R::ROWS * stride, 0);
            for (row, to) in strip.chunks_exact_mut(stride).enumerate() {
                write_out(w, row, column..column + columns, B::BYTES, to);
            }
            let tile = Stock { at: strip.as_ptr(), stride, ahead: Neighbours };
            let x = Tokens { words: &x.words[column / 32 * x.record..], ..x };
            walk::<R, B, _, _>(tile, 0..columns / 32, &mut Many::new(x, sums, R::ROWS));
        }
    }
    STRIP_OF_THREAD.set(strip);
}

/// Writes some columns of a row as [`Plain`] pieces of `bytes` bytes.
fn write_out(w: QMatrix<'_>, row: usize, columns: std::ops::Range<usize>, bytes: usize, to: &mut [u8]) {
    let format = w.format();
    let place = |column: usize| column / format.block_len() * format.block_bytes();
    let blocks = &w.row(row)[place(columns.start)..place(columns.end)];
    each_piece(format, blocks, |index, piece| {
        let (scales, codes) = to[index * bytes..][..bytes].split_at_mut(bytes - 32);
        for (to, scale) in scales.as_chunks_mut::<4>().0.iter_mut().zip(piece.scales) {
            *to = scale.to_le_bytes();
        }
        for (to, word) in codes.as_chunks_mut::<8>().0.iter_mut().zip(piece.codes) {
            *to = above_zero(word).to_le_bytes();
        }
    });
}
