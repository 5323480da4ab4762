//! What the integer kernels need from a tier: one vector whose lanes are rows of the matrix, and operations
//! on it. A lane is a 32-bit word: four codes, a sum, or a float. It must not know formats or products.
//!
//! Lanes as rows mean that a block's integer sum is complete in its lane: nothing is added across lanes, a
//! scale is one vector for all rows, and the result is the same however many tokens are multiplied
//! together.

use super::tier::Tier;
use crate::kernel::prefetch::{prefetch, prefetch_far};

/// A tier's vector of one word for each of `ROWS` rows.
///
/// # Safety
/// Every function needs the tier's instructions, and pointers good for what the function says; no alignment
/// is needed.
pub(in crate::kernel) trait Rows: Tier {
    /// Rows in a vector: 8 or 16.
    const ROWS: usize;
    /// What is prefetched of the streams of distant rows. With eight of them, 256 to 512 bytes are best.
    const AHEAD: Distance = Distance { bytes: 384, far: false };
    /// Whether products take codes of more than seven bits as signed ones, without a zero.
    const SIGNED: bool = false;
    /// The rows of a tile that several tokens are multiplied with.
    type Many: Rows;
    /// Integers.
    type I: Copy;
    /// Floats.
    type F: Copy;
    /// 32 bytes of codes of each row, or where they are.
    type Kept: Copy;

    /// Bytes `4 j .. 4 j + 4` at `at + r * stride` as lane `r` of vector `j`: 16 bytes of each row.
    unsafe fn quads(at: *const u8, stride: usize) -> [Self::I; 4];
    /// As [`Rows::quads`], for codes: in whatever order of bytes the tier multiplies them. What is done to
    /// bytes of codes is done to all alike.
    #[inline(always)]
    unsafe fn columns(at: *const u8, stride: usize) -> [Self::I; 4] {
        // SAFETY: as for this function.
        unsafe { Self::quads(at, stride) }
    }
    /// 32 bytes of each row, of which several pieces have bits; those of the first row are at `at + offset`.
    unsafe fn keep(at: *const u8, offset: usize, stride: usize) -> Self::Kept;
    /// As [`Rows::keep`], for codes in whatever order the tier multiplies halves apart.
    #[inline(always)]
    unsafe fn keep_halves(at: *const u8, offset: usize, stride: usize) -> Self::Kept {
        // SAFETY: as for this function.
        unsafe { Self::keep(at, offset, stride) }
    }
    /// The bytes in the order of [`Rows::columns`], 16 and 16, or of [`Rows::keep_halves`].
    unsafe fn kept(bytes: &Self::Kept) -> [Self::I; 8];
    /// The four bytes at `at + r * stride` as lane `r`.
    unsafe fn words(at: *const u8, stride: usize) -> Self::I;

    unsafe fn splat(value: i32) -> Self::I;
    unsafe fn and(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn xor(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn add(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn min(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn max(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn shl(a: Self::I, n: i32) -> Self::I;
    unsafe fn shr(a: Self::I, n: i32) -> Self::I;
    /// Shift right that copies the sign.
    unsafe fn sar(a: Self::I, n: i32) -> Self::I;
    /// The 16 bytes at `table`, once for each four lanes.
    unsafe fn table(table: *const u8) -> Self::I;
    /// Bytes of `table`, which comes from [`Rows::table`], at the indices `0..16` in the bytes of `at`.
    unsafe fn lookup(table: Self::I, at: Self::I) -> Self::I;

    /// Bits `shift ..` of each byte, masked with `mask`, which the byte has after the shift.
    #[inline(always)]
    unsafe fn field(a: Self::I, shift: i32, mask: i32) -> Self::I {
        // SAFETY: as for this function.
        unsafe { Self::and(Self::shr(a, shift), Self::splat(mask * 0x0101_0101)) }
    }
    /// `codes` with bits `from ..` of each byte, masked with `mask`, as bits `to ..`; the codes are below
    /// `1 << to`.
    #[inline(always)]
    unsafe fn with_field(codes: Self::I, a: Self::I, from: i32, to: i32, mask: i32) -> Self::I {
        // SAFETY: as for this function.
        unsafe {
            // One shift of whole words: the mask removes what came from the neighbouring byte.
            let moved = if from >= to { Self::shr(a, from - to) } else { Self::shl(a, to - from) };
            Self::or(codes, Self::and(moved, Self::splat((mask << to) * 0x0101_0101)))
        }
    }
    /// Four-bit codes with bit 4 from lane `r` of `bits`: bit `c` is that of column `c` of row `r`.
    unsafe fn with_fifth_bits(codes: [Self::I; 8], bits: Self::I) -> [Self::I; 8];

    /// Lanes as floats.
    unsafe fn float(a: Self::I) -> Self::F;
    /// Lanes that are the bits of floats.
    unsafe fn from_bits(a: Self::I) -> Self::F;
    /// The low half of each lane, an f16, as float.
    unsafe fn half(a: Self::I) -> Self::F;
    unsafe fn splat_f(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    unsafe fn store(to: *mut f32, v: Self::F);
    unsafe fn negated(a: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;

    /// Tokens that a block is multiplied with at a time: while one product waits for the one before it,
    /// those of other tokens run.
    const BATCH: usize;
    /// The same for codes of four bits.
    const NARROW_BATCH: usize = Self::BATCH;
    /// The same for codes of eight bits.
    const WIDE_BATCH: usize = Self::BATCH;

    /// Codes in the order in which [`Rows::dots`] takes them, worth the work for several tokens.
    #[inline(always)]
    unsafe fn arrange(codes: &[Self::I; 8]) -> [Self::I; 8] {
        *codes
    }
    /// `sum of (w - zero) * a` over `4 * N` columns, for each of `T` tokens. `w` is the first or the second
    /// half of arranged codes or all of them, unsigned and at most `top`. At `a`, and every [`CODE_WORDS`]
    /// words, are as many signed codes of a token, none of them -128. `minus_zeros` holds `-zero` times their
    /// sum, and is not read if `zero` is 0.
    ///
    /// `zero` is 0 or a power of two up to 128, and 128 if `top` is more than 127, or 0 with
    /// [`Rows::SIGNED`].
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Self::I; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Self::I; T];
}

/// The number in byte `n` of each lane of `words`.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Bytes<I> {
    pub words: I,
    pub n: usize,
    pub stored: StoredAs,
}

/// How a byte is a number.
#[derive(Clone, Copy)]
pub(in crate::kernel) enum StoredAs {
    /// Without a sign.
    Plain,
    /// The number plus 32.
    Plus32,
    /// With a sign.
    Signed,
}

/// Where the blocks of a tile of rows lie. Offsets are those of the stock block.
///
/// # Safety
/// As [`Rows`], with whole blocks of all rows there, and offsets of fields within a block.
pub(in crate::kernel) trait Source<R: Rows>: Copy {
    /// The block `n` blocks of `bytes` bytes further.
    unsafe fn block(self, n: usize, bytes: usize) -> Self;
    /// 16 bytes of each row: bytes `4 j .. 4 j + 4` in vector `j`.
    unsafe fn quads(self, offset: usize) -> [R::I; 4];
    /// 16 bytes of each row, codes in the order of [`Rows::columns`].
    unsafe fn columns(self, offset: usize) -> [R::I; 4];
    /// 32 bytes of each row, for [`Rows::kept`].
    unsafe fn keep(self, offset: usize) -> R::Kept;
    /// 32 bytes of each row, for [`Rows::kept`], in the order of [`Rows::keep_halves`].
    unsafe fn keep_halves(self, offset: usize) -> R::Kept;
    /// Four bytes of each row.
    unsafe fn words(self, offset: usize) -> R::I;
    /// An f16 of each row, which more bytes of the block follow.
    unsafe fn halves(self, offset: usize) -> R::F;
    /// The f16 that ends the block of each row.
    unsafe fn last_halves(self, offset: usize) -> R::F;
    /// A byte of each row, which three more of the block follow.
    unsafe fn bytes(self, offset: usize) -> R::I;
    /// Prefetches what is needed some time after part `part` of the tile, which is in `block`. A block has
    /// 1, 4 or 8 `parts`; a part is `bytes` bytes of 16 rows.
    fn prefetch(self, block: Self, part: usize, parts: usize, bytes: usize);
}

/// What a tile prefetches.
pub(in crate::kernel) trait LookAhead: Copy {
    /// As [`Source::prefetch`] for rows `stride` bytes apart: the first of the tile is at `tile`, and its
    /// block at `block`; `parts` are the part and those of a block.
    fn prefetch<R: Rows>(
        self,
        tile: *const u8,
        block: *const u8,
        stride: usize,
        parts: [usize; 2],
        bytes: usize,
    );
}

/// What is prefetched of the stream that a lane reads.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Distance {
    /// Bytes from what is read to what is prefetched.
    pub bytes: usize,
    /// Into the second-level cache, not the first; then the next tile is found at the end of a run.
    pub far: bool,
}

/// Rows as files have them.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Stock<A> {
    /// At a block of the first row.
    pub at: *const u8,
    /// Bytes from row to row of the tile.
    pub stride: usize,
    /// What is prefetched.
    pub ahead: A,
}

/// The rows of a tile are one after the other, and those of the next tile follow.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Neighbours;

impl LookAhead for Neighbours {
    #[inline(always)]
    fn prefetch<R: Rows>(
        self,
        tile: *const u8,
        _block: *const u8,
        stride: usize,
        [part, _]: [usize; 2],
        bytes: usize,
    ) {
        let bytes = bytes * R::ROWS / 16;
        // Rows next to each other are too many streams in too few pages for the processor to follow, so
        // the whole next tile is prefetched in the order of its addresses.
        prefetch(tile.wrapping_add(R::ROWS * stride + part * bytes), bytes);
    }
}

/// The rows of a tile are far apart: as many streams as rows, which the prefetcher of the processor follows
/// once it has found them.
#[derive(Clone, Copy)]
pub(in crate::kernel) struct Streams {
    /// From this byte of a row on, the next tile's row is prefetched.
    pub row_bytes: usize,
    /// The first row of the next tile, and the bytes from row to row of it.
    pub next: (*const u8, usize),
}

impl LookAhead for Streams {
    #[inline(always)]
    fn prefetch<R: Rows>(
        self,
        tile: *const u8,
        block: *const u8,
        stride: usize,
        [part, parts]: [usize; 2],
        bytes: usize,
    ) {
        let bytes = bytes * parts / 16;
        if !R::AHEAD.far {
            // Few instructions count more than the end of a run, past which something else is prefetched. A
            // part does it for its share of the rows; if the part is a block, for one row and as many blocks
            // as there are rows.
            let (row, rows, len) = if parts == 1 {
                (part % R::ROWS, 1, bytes * R::ROWS)
            } else {
                let rows = R::ROWS / parts.min(R::ROWS);
                (part % parts * rows, rows, bytes)
            };
            for row in row..row + rows {
                prefetch(block.wrapping_add(row * stride + R::AHEAD.bytes), len);
            }
            return;
        }
        let from = part / parts * bytes + R::AHEAD.bytes;
        let (at, stride) = match from.checked_sub(self.row_bytes) {
            Some(from) => (self.next.0.wrapping_add(from), self.next.1),
            None => (tile.wrapping_add(from), stride),
        };
        if parts == 1 {
            // A line of as many rows as this part takes lines, in turn.
            let lines = (bytes * R::ROWS).div_ceil(64);
            for line in 0..lines {
                prefetch_far(at.wrapping_add((part * lines + line) % R::ROWS * stride), 64);
            }
        } else {
            // A block of as many rows as are this part's share: few operations for each line, and few lines
            // at a time, as the processor waits for a limited number of them.
            let rows = R::ROWS / parts.min(R::ROWS);
            let mut row = at.wrapping_add(part % parts * rows * stride);
            for _ in 0..rows {
                prefetch_far(row, bytes);
                row = row.wrapping_add(stride);
            }
        }
    }
}

/// The same pointer, which the compiler takes for another: it does not join what is read at both.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the assembly is empty: nothing is read or written")]
pub(in crate::kernel) fn another(mut at: *const u8) -> *const u8 {
    // SAFETY: the assembly is empty.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) at, options(nomem, nostack, preserves_flags)) };
    at
}

impl<R: Rows, A: LookAhead> Source<R> for Stock<A> {
    #[inline(always)]
    unsafe fn block(self, n: usize, bytes: usize) -> Self {
        // Otherwise the compiler keeps sixteen pointers, one for each row, in memory, and steps them all.
        // SAFETY: the caller guarantees the block.
        Self { at: another(unsafe { self.at.add(n * bytes) }), ..self }
    }
    #[inline(always)]
    unsafe fn quads(self, offset: usize) -> [R::I; 4] {
        // SAFETY: the caller guarantees the block; so below.
        unsafe { R::quads(self.at.add(offset), self.stride) }
    }
    #[inline(always)]
    unsafe fn columns(self, offset: usize) -> [R::I; 4] {
        // SAFETY: as above.
        unsafe { R::columns(self.at.add(offset), self.stride) }
    }
    #[inline(always)]
    unsafe fn keep(self, offset: usize) -> R::Kept {
        // SAFETY: as above.
        unsafe { R::keep(self.at, offset, self.stride) }
    }
    #[inline(always)]
    unsafe fn keep_halves(self, offset: usize) -> R::Kept {
        // SAFETY: as above.
        unsafe { R::keep_halves(self.at, offset, self.stride) }
    }
    #[inline(always)]
    unsafe fn words(self, offset: usize) -> R::I {
        // SAFETY: as above.
        unsafe { R::words(self.at.add(offset), self.stride) }
    }
    #[inline(always)]
    unsafe fn halves(self, offset: usize) -> R::F {
        // SAFETY: as above; two more bytes follow.
        unsafe { R::half(R::words(self.at.add(offset), self.stride)) }
    }
    #[inline(always)]
    unsafe fn last_halves(self, offset: usize) -> R::F {
        // SAFETY: as above; two bytes are before it.
        unsafe { R::half(R::shr(R::words(self.at.add(offset - 2), self.stride), 16)) }
    }
    #[inline(always)]
    unsafe fn bytes(self, offset: usize) -> R::I {
        // SAFETY: as above; three more bytes follow.
        unsafe { R::and(R::words(self.at.add(offset), self.stride), R::splat(255)) }
    }
    #[inline(always)]
    fn prefetch(self, block: Self, part: usize, parts: usize, bytes: usize) {
        self.ahead.prefetch::<R>(self.at, block.at, self.stride, [part, parts], bytes);
    }
}

/// Words from the codes of a token to those of the next.
pub(in crate::kernel) const CODE_WORDS: usize = 8;

/// Writes functions of a `Rows` implementation.
macro_rules! rows_functions {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $($body:tt)* })*) => {$(
        $(#[$doc])*
        #[inline(always)]
        $vis unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller guarantees the instructions and the pointers, as the trait asks.
            unsafe { $($body)* }
        }
    )*};
}

pub(in crate::kernel) use rows_functions;
