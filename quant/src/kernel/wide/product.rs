//! Products of float weights over any [`Lanes`]: unpacking rows, the fused product with one token, and the
//! register tiles of `tiled`. It must not know formats. The order of additions is the one `tiled` promises:
//! one vector accumulator for each output.

use super::lanes::Lanes;
use super::unpack::{BF16, F8, F16, F32, Sink, Unpack};
use crate::activations::BLOCK;
use crate::decode::decode;
use crate::format::Format;
use crate::kernel::piece::{DEPTH, PieceProduct, TOKENS};
use crate::kernel::prefetch::prefetch_far;
use crate::matrix::QMatrix;

/// Rows of a register tile, and rows that a fused product takes together to hide the latency of the
/// additions.
const TILE_ROWS: usize = 4;
/// Bytes from what a fused product reads of a row to what it prefetches into the second-level cache. On Zen 4
/// the next rows in the first-level cache are up to a third slower (`docs/kernels.md`).
const AHEAD: usize = 2048;

/// Writes weights to memory.
struct Store(*mut f32);

impl<L: Lanes> Sink<L> for Store {
    #[inline(always)]
    unsafe fn put(&mut self, at: usize, weights: L::V) {
        // SAFETY: `unpack` points at as many floats as the block has weights.
        unsafe { L::store(self.0.add(at), weights) }
    }
}

/// Multiplies weights with activations and adds.
struct MultiplyAdd<L: Lanes> {
    x: *const f32,
    acc: L::V,
}

impl<L: Lanes> Sink<L> for MultiplyAdd<L> {
    #[inline(always)]
    unsafe fn put(&mut self, at: usize, weights: L::V) {
        // SAFETY: `fused_rows` points at as many activations as the block has weights.
        unsafe { self.acc = L::fma(weights, L::load(self.x.add(at)), self.acc) }
    }
}

/// Decodes weights of a float format.
///
/// # Safety
/// As [`Lanes`]. `bytes` is as long as `out.len()` weights take.
#[inline(always)]
pub(in crate::kernel) unsafe fn unpack<L: Lanes>(format: Format, bytes: &[u8], out: &mut [f32]) {
    // SAFETY: the caller guarantees the instructions and the lengths.
    unsafe {
        match format {
            Format::F32 => unpack_as::<L, F32>(bytes, out),
            Format::F16 => unpack_as::<L, F16>(bytes, out),
            Format::BF16 => unpack_as::<L, BF16>(bytes, out),
            Format::F8 => unpack_as::<L, F8>(bytes, out),
            _ => unreachable!("{format} is not a float format"),
        }
    }
}

/// As [`unpack`].
///
/// # Safety
/// As [`unpack`].
#[inline(always)]
unsafe fn unpack_as<L: Lanes, U: Unpack>(bytes: &[u8], out: &mut [f32]) {
    let units = out.len() / U::LEN;
    for unit in 0..units {
        // SAFETY: `unit` is within both slices, whose lengths agree.
        unsafe {
            let bytes = bytes.as_ptr().add(unit * U::BYTES);
            U::unit::<L>(bytes, &mut Store(out.as_mut_ptr().add(unit * U::LEN)));
        }
    }
    if !out.len().is_multiple_of(U::LEN) {
        decode(U::FORMAT, &bytes[units * U::BYTES..], &mut out[units * U::LEN..]);
    }
}

/// `out[r]`, one token, straight from the blocks.
///
/// # Safety
/// As [`Lanes`]. `x` is `[cols]`, padded with zeros to whole blocks, and `out` is `[rows]`.
#[inline(always)]
pub(in crate::kernel) unsafe fn fused<L: Lanes>(w: QMatrix<'_>, x: &[f32], out: &mut [f32]) {
    // SAFETY: the caller guarantees the instructions and the lengths.
    unsafe {
        match w.format() {
            Format::F32 => fused_as::<L, F32>(w, x, out),
            Format::F16 => fused_as::<L, F16>(w, x, out),
            Format::BF16 => fused_as::<L, BF16>(w, x, out),
            Format::F8 => fused_as::<L, F8>(w, x, out),
            format => unreachable!("{format} is not a float format"),
        }
    }
}

/// As [`fused`].
///
/// # Safety
/// As [`fused`].
#[inline(always)]
unsafe fn fused_as<L: Lanes, U: Unpack>(w: QMatrix<'_>, x: &[f32], out: &mut [f32]) {
    let (fours, rest) = out.as_chunks_mut::<TILE_ROWS>();
    let first_of_rest = fours.len() * TILE_ROWS;
    for (i, out) in fours.iter_mut().enumerate() {
        // SAFETY: `out` has an element for each row of the matrix, so these rows exist.
        unsafe { fused_rows::<L, U, TILE_ROWS>(w, i * TILE_ROWS, x, out) };
    }
    for (i, out) in rest.iter_mut().enumerate() {
        // SAFETY: as above.
        unsafe { fused_rows::<L, U, 1>(w, first_of_rest + i, x, std::array::from_mut(out)) };
    }
}

/// # Safety
/// As [`fused`], with rows `row .. row + R` in the matrix.
#[inline(always)]
unsafe fn fused_rows<L: Lanes, U: Unpack, const R: usize>(
    w: QMatrix<'_>,
    row: usize,
    x: &[f32],
    out: &mut [f32; R],
) {
    let units = w.cols() / U::LEN;
    // SAFETY: the rows exist, each has `units` units and `x` as many times `LEN` activations, and one more
    // for a tail.
    unsafe {
        let bytes = w.data().as_ptr().add(row * w.row_bytes());
        let mut acc = [L::splat(0.0); R];
        for unit in 0..units {
            let x = x.as_ptr().add(unit * U::LEN);
            let bytes: [_; R] = std::array::from_fn(|r| bytes.add(r * w.row_bytes() + unit * U::BYTES));
            // Further along each row, and at its end the beginning of the next rows.
            let in_row = unit * U::BYTES + AHEAD < w.row_bytes();
            let ahead = if in_row { AHEAD } else { AHEAD + (R - 1) * w.row_bytes() };
            for bytes in bytes {
                prefetch_far(bytes.wrapping_add(ahead), U::BYTES);
            }
            for (bytes, acc) in bytes.into_iter().zip(&mut acc) {
                let mut sink = MultiplyAdd::<L> { x, acc: *acc };
                U::unit::<L>(bytes, &mut sink);
                *acc = sink.acc;
            }
        }
        let rest = w.cols() % U::LEN;
        if rest > 0 {
            for (r, acc) in acc.iter_mut().enumerate() {
                let mut weights = [0.0; 32];
                let row = &w.data()[(row + r) * w.row_bytes()..][..w.row_bytes()];
                decode(U::FORMAT, &row[units * U::BYTES..], &mut weights[..rest]);
                for at in (0..32).step_by(L::N) {
                    let x = L::load(x.as_ptr().add(units * U::LEN + at));
                    *acc = L::fma(L::load(weights.as_ptr().add(at)), x, *acc);
                }
            }
        }
        for (out, acc) in out.iter_mut().zip(acc) {
            *out = L::sum(acc);
        }
    }
}

/// All register tiles of a block.
///
/// # Safety
/// As [`Lanes`]. [`PieceProduct::check`] passed.
#[inline(always)]
pub(in crate::kernel) unsafe fn block<L: Lanes>(mut block: PieceProduct<'_>) {
    let mut token = 0;
    while token < block.tokens {
        let tokens = L::TILE_TOKENS.min(block.tokens - token);
        // SAFETY: the caller guarantees the instructions; the tiles lie within the block.
        unsafe {
            match tokens {
                1 => column_of_tiles::<L, 1>(&mut block, token),
                2 => column_of_tiles::<L, 2>(&mut block, token),
                3 => column_of_tiles::<L, 3>(&mut block, token),
                4 if L::TILE_TOKENS > 3 => column_of_tiles::<L, 4>(&mut block, token),
                5 if L::TILE_TOKENS > 3 => column_of_tiles::<L, 5>(&mut block, token),
                _ if L::TILE_TOKENS > 3 => column_of_tiles::<L, 6>(&mut block, token),
                _ => unreachable!("tiles are three tokens wide"),
            }
        }
        token += tokens;
    }
}

/// # Safety
/// As [`block`], with tokens `token .. token + T` in the block.
#[inline(always)]
unsafe fn column_of_tiles<L: Lanes, const T: usize>(block: &mut PieceProduct<'_>, token: usize) {
    let mut row = 0;
    // SAFETY: the caller guarantees instructions and tokens; the rows are in the block.
    unsafe {
        while row + TILE_ROWS <= block.rows {
            tile::<L, TILE_ROWS, T>(block, row, token);
            row += TILE_ROWS;
        }
        while row < block.rows {
            tile::<L, 1, T>(block, row, token);
            row += 1;
        }
    }
}

/// `R` rows by `T` tokens, all accumulators in registers.
///
/// # Safety
/// As [`block`], with the rows and tokens in the block.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const T: usize>(
    block: &mut PieceProduct<'_>,
    row: usize,
    token: usize,
) {
    // SAFETY: `PieceProduct::check` put every index that follows within its slice: rows and tokens are in
    // the block, and columns below `depth`.
    unsafe {
        let w = block.w.as_ptr().add(row * DEPTH);
        let x = block.x.as_ptr().add(token * BLOCK);
        let resting = block.acc.as_mut_ptr().add((row * TOKENS + token) * L::N);
        let mut acc = [[L::splat(0.0); T]; R];
        if !block.first {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (t, acc) in acc.iter_mut().enumerate() {
                    *acc = L::load(resting.add((r * TOKENS + t) * L::N));
                }
            }
        }
        for b in 0..block.depth / BLOCK {
            let (w, x) = (w.add(b * BLOCK), x.add(b * block.x_stride));
            for k in (0..BLOCK).step_by(L::N) {
                let x: [L::V; T] = std::array::from_fn(|t| L::load(x.add(t * BLOCK + k)));
                for (r, acc) in acc.iter_mut().enumerate() {
                    let w = L::load(w.add(r * DEPTH + k));
                    for (acc, x) in acc.iter_mut().zip(x) {
                        *acc = L::fma(w, x, *acc);
                    }
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            for (t, acc) in acc.into_iter().enumerate() {
                if block.last {
                    *block.out.get_unchecked_mut((token + t) * block.out_stride + row + r) = L::sum(acc);
                } else {
                    L::store(resting.add((r * TOKENS + t) * L::N), acc);
                }
            }
        }
    }
}
