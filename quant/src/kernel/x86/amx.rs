//! The product of many tokens on AMX int8 tiles; everything else of the tier is that of AVX-512. Tile
//! instructions are not stable in Rust, so they are inline assembly. It must not know formats.
//!
//! A block of 16 rows is a tile of 8 lines: line `g` holds columns `4 g .. 4 g + 4` of each row, the result
//! of `Blocks::codes`. The other tile is the codes of the block of 16 tokens, read from the record without
//! a copy. Their product is the exact integer sum of one block (`vpdpbusd` needs unsigned weights and a
//! correction, `tdpbssd` does not). The floating-point steps that follow are those of `codes`, so the bits
//! are the same.

use core::arch::asm;
use core::arch::x86_64::{__m512i, _mm512_loadu_si512, _mm512_storeu_si512, _mm512_sub_epi8};
use std::cell::RefCell;
use std::ops::Range;

use super::rows512::Rows512;
use crate::activations::Activations;
use crate::activations::TILE_FROM;
use crate::codes::Shape;
use crate::format::Format;
use crate::kernel::prefetch::prefetch;
use crate::kernel::wide::blocks::{Blocks, ScalesOf, for_format};
use crate::kernel::wide::coded;
use crate::kernel::wide::product8::{
    Chunk, Consumer, TileProduct, Tiles, Tokens, fits, float_scales, multiply, walk,
};
use crate::kernel::wide::rows::{CODE_WORDS, Neighbours, Rows, Stock};
use crate::kernel::wide::tier::{Tier, Work};
use crate::lattice;
use crate::matrix::QMatrix;

/// The rows of this tier.
type R = Rows512;
/// Tokens of a tile, and rows.
const TILE: usize = 16;
/// Blocks that are unpacked before they are multiplied with one run of 16 tokens after the other.
const SLAB: usize = 64;
/// Products that are computed ahead of the one that is added: the processor does not forward a stored tile
/// to the loads that follow, so a load would wait for the store.
const AHEAD: usize = 2;
/// Buffers for products: those ahead and the one that is added.
const SETS: usize = AHEAD + 1;

/// The shape of the tile registers (Intel SDM, `LDTILECFG`).
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    line_bytes: [u16; 16],
    lines: [u8; 16],
}

/// Registers 0 and 1 are sums, 2 and 3 activations, 4 and 5 weights.
static CONFIG: Config = Config {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    line_bytes: [64, 64, 32, 32, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    lines: [16, 16, 16, 16, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Memory of a tile register of `N` lines.
#[repr(C, align(64))]
struct Tile<const N: usize>([[i32; 16]; N]);

/// Unpacked blocks of 16 rows.
#[repr(C, align(64))]
struct Slab {
    /// Signed codes.
    codes: [Tile<8>; SLAB],
    /// Scales and minima.
    sides: [[[f32; 16]; 2]; SLAB],
}

thread_local! {
    static SLAB_OF_THREAD: RefCell<Option<Box<Slab>>> = const { RefCell::new(None) };
}

/// [`coded::product`], with tiles where they are faster: not for few tokens, which do not repay the
/// unpacking to memory, and not with two scales for a block.
///
/// # Safety
/// As there, and this process may use tiles.
pub(super) unsafe fn product(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
    // SAFETY: as for this function.
    unsafe {
        if x.tokens() < TILE_FROM || !suits(w.format()) || !fits::<R>(w) {
            return coded::product::<R>(w, x, out);
        }
        Chunk::each(w, x, out, |chunk| {
            if chunk.x.count < TILE_FROM || !has_room(chunk.x) {
                return multiply::<R>(chunk);
            }
            for_format!(w.format(), |B| {
                if const { B::SHAPE.halves } {
                    unreachable!("blocks with two scales are multiplied by vectors");
                } else {
                    R::call(Tiles::<B, Registers>::of(chunk));
                }
            });
        });
    }
}

/// Whether a format has one scale for each 32 weights, and vectors unpack it.
fn suits(format: Format) -> bool {
    !Shape::of(format).halves && !lattice::is_coded(format)
}

/// Whether whole tiles lie within a record: the last may reach beyond the tokens.
fn has_room(x: Tokens<'_>) -> bool {
    x.first + x.count.next_multiple_of(TILE) <= x.room
}

/// With tile registers. The tokens are at least one, and the record has room for whole tiles.
struct Registers;

impl TileProduct<R> for Registers {
    #[inline(always)]
    unsafe fn tile<B: Blocks>(
        rows: Stock<Neighbours>,
        units: usize,
        x: Tokens<'_>,
        sums: *mut f32,
        stride: usize,
    ) {
        let step = SLAB / B::PIECES;
        // SAFETY: the caller guarantees instructions, rows, tokens and sums; any bytes are a slab. The
        // registers are configured before their first use and released after the last. In between no other
        // function of this thread uses them: those that are called are ours, and the compiler itself uses
        // none without the feature `amx-tile`.
        unsafe {
            let mut kept = SLAB_OF_THREAD.take();
            let slab = kept.get_or_insert_with(|| Box::new_zeroed().assume_init());
            configure();
            for first in (0..units).step_by(step) {
                let some = first..units.min(first + step);
                let blocks = some.start * B::PIECES..some.end * B::PIECES;
                walk::<R, B, _, _>(rows, some, &mut Unpack { slab, first: blocks.start });
                for tile in (0..x.count).step_by(TILE) {
                    let live = TILE.min(x.count - tile);
                    let x = Tokens { first: x.first + tile, ..x };
                    let (blocks, sums) = (blocks.clone(), sums.add(tile * stride));
                    let first = first == 0;
                    if const { B::SHAPE.minima } {
                        R::call(AddTile::<true> { x, blocks, slab, first, sums, stride, live });
                    } else {
                        R::call(AddTile::<false> { x, blocks, slab, first, sums, stride, live });
                    }
                }
            }
            release();
            SLAB_OF_THREAD.set(kept);
        }
    }
}

/// Gives the tile registers their shapes and sets them to zero.
///
/// # Safety
/// This process may use tiles.
#[inline(always)]
unsafe fn configure() {
    // SAFETY: the configuration is one that the processor takes, and all registers are declared as changed.
    unsafe {
        asm!(
            "ldtilecfg [{}]",
            in(reg) &raw const CONFIG,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, preserves_flags, readonly)
        );
    }
}

/// Leaves the tile registers without shapes, so that the system need not save them.
///
/// # Safety
/// This process may use tiles.
#[inline(always)]
unsafe fn release() {
    // SAFETY: all registers are declared as changed.
    unsafe {
        asm!(
            "tilerelease",
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack, nomem, preserves_flags)
        );
    }
}

/// Writes blocks into a slab.
struct Unpack<'a> {
    slab: &'a mut Slab,
    first: usize,
}

impl<B: Blocks> Consumer<R, B> for Unpack<'_> {
    float_scales!();

    #[inline(always)]
    unsafe fn take(&mut self, block: usize, codes: &[__m512i; 8], scales: &B::Scales<R>, i: usize) {
        let (Tile(lines), sides) =
            (&mut self.slab.codes[block - self.first], &mut self.slab.sides[block - self.first]);
        // SAFETY: the caller guarantees the instructions; a line and a side hold a vector.
        unsafe {
            let zero = R::splat(B::ZERO * 0x0101_0101);
            for (line, codes) in lines.iter_mut().zip(codes) {
                _mm512_storeu_si512(line.as_mut_ptr().cast(), _mm512_sub_epi8(*codes, zero));
            }
            R::store(sides[0].as_mut_ptr(), scales.scale(i));
            if B::SHAPE.minima {
                R::store(sides[1].as_mut_ptr(), scales.min(i));
            }
        }
    }
}

/// `products = activations x weights` in the given registers, which hold nothing before or after.
macro_rules! multiply {
    ($a:expr, $w:expr, $a_tile:tt, $w_tile:tt, $sum:tt, $to:expr) => {
        asm!(
            concat!("tilezero ", $sum),
            concat!("tileloadd ", $a_tile, ", [{a} + {token}]"),
            concat!("tileloadd ", $w_tile, ", [{w} + {line}]"),
            concat!("tdpbssd ", $sum, ", ", $a_tile, ", ", $w_tile),
            concat!("tilestored [{to} + {line}], ", $sum),
            a = in(reg) $a,
            w = in(reg) $w,
            to = in(reg) $to,
            token = in(reg) 4 * CODE_WORDS,
            line = in(reg) 64_usize,
            out($a_tile) _,
            out($w_tile) _,
            out($sum) _,
            options(nostack, preserves_flags)
        )
    };
}

/// Adds a slab of blocks times 16 tokens to the sums of the first `live` of them, which stay in registers
/// on the way.
///
/// As [`TileProduct::tile`], with the registers configured and `blocks` in the slab, with `MINIMA` or
/// without.
struct AddTile<'a, const MINIMA: bool> {
    x: Tokens<'a>,
    blocks: Range<usize>,
    slab: &'a Slab,
    /// Whether the sums begin here.
    first: bool,
    sums: *mut f32,
    stride: usize,
    live: usize,
}

impl<const MINIMA: bool> Work<R> for AddTile<'_, MINIMA> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        let Self { x, blocks, slab, first, sums, stride, live } = self;
        // SAFETY: the caller guarantees everything that is read and written: 16 tokens of each block, which
        // the record has room for, and the sums of `live` of them.
        unsafe {
            let mut acc = [R::splat_f(0.0); TILE];
            if !first {
                for (t, acc) in acc.iter_mut().enumerate().take(live) {
                    *acc = R::load(sums.add(t * stride));
                }
            }
            let mut products = [const { Tile([[0; 16]; TILE]) }; SETS];
            let n = blocks.len();
            for b in 0..n + AHEAD {
                if b < n {
                    let (a, _) = x.sides(blocks.start + b);
                    let (w, to) = (slab.codes[b].0.as_ptr(), products[b % SETS].0.as_mut_ptr());
                    // The prefetcher of the processor does not find the next block's codes of these tokens.
                    prefetch(a.wrapping_add(AHEAD * x.record).cast(), TILE * 4 * CODE_WORDS);
                    if b % 2 == 0 {
                        multiply!(a, w, "tmm2", "tmm4", "tmm0", to);
                    } else {
                        multiply!(a, w, "tmm3", "tmm5", "tmm1", to);
                    }
                }
                if b >= AHEAD {
                    let b = b - AHEAD;
                    let (_, sides) = x.sides(blocks.start + b);
                    let [scale, min] = &slab.sides[b];
                    let (scale, min) = (R::load(scale.as_ptr()), R::load(min.as_ptr()));
                    for (t, (acc, product)) in acc.iter_mut().zip(&products[b % SETS].0).enumerate() {
                        let mut v = R::mul(R::float(_mm512_loadu_si512(product.as_ptr().cast())), scale);
                        if MINIMA {
                            v = R::fma(R::float(R::splat(sides.minus_sums[0].add(t).read())), min, v);
                        }
                        *acc = R::fma(v, R::splat_f(sides.scales.add(t).read()), *acc);
                    }
                }
            }
            for (t, acc) in acc.iter().enumerate().take(live) {
                R::store(sums.add(t * stride), *acc);
            }
        }
    }
}
