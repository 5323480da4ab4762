//! Eight rows in two NEON registers. Codes are not transposed: see the parent.

use core::arch::aarch64::*;
use core::arch::asm;
use core::marker::PhantomData;

use super::dots::CodeDot;
use super::vectors::{Two, as_bytes, transposed};
use crate::kernel::wide::one_token::OneToken;
use crate::kernel::wide::rows::{Bytes, Rows, StoredAs, rows_functions};
use crate::kernel::wide::tier::Tier;

/// Eight rows; `D` multiplies.
pub(super) struct RowsNeon<D>(PhantomData<D>);

/// Floats of rows 0 to 3 and 4 to 7.
type TwoF = [float32x4_t; 2];

/// Applies an operation on bytes to both registers.
macro_rules! bytes {
    (|$i:ident| $op:expr) => {{
        let half = |$i: usize| vreinterpretq_s32_u8($op);
        [half(0), half(1)]
    }};
}

/// Applies an operation on words to both registers.
macro_rules! both {
    (|$i:ident| $op:expr) => {{
        let half = |$i: usize| $op;
        [half(0), half(1)]
    }};
}

impl<D> RowsNeon<D> {
    rows_functions! {
        /// 16 bytes of row `r`.
        fn sixteen(at: *const u8, stride: usize, r: usize) -> int32x4_t {
            vreinterpretq_s32_u8(vld1q_u8(at.add(r * stride)))
        }
        /// The byte of each lane as a number.
        fn numbers(bytes: Bytes<Two>) -> Two {
            let Bytes { words, n, stored } = bytes;
            if let StoredAs::Signed = stored {
                let up = vdupq_n_s32(24 - 8 * n as i32);
                let top = |i: usize| if n == 3 { words[i] } else { vshlq_s32(words[i], up) };
                return both!(|i| vshrq_n_s32::<24>(top(i)));
            }
            // Bytes of an index beyond the table are 0.
            let n = 0xffff_ff00 | n as u32;
            let at = vreinterpretq_u8_u32(vld1q_u32([n, n + 4, n + 8, n + 12].as_ptr()));
            let numbers = bytes!(|i| vqtbl1q_u8(as_bytes(words[i]), at));
            match stored {
                StoredAs::Plus32 => both!(|i| vsubq_s32(numbers[i], vdupq_n_s32(32))),
                _ => numbers,
            }
        }
        /// Words, multiplied.
        fn product(a: Two, b: Two) -> Two { both!(|i| vmulq_s32(a[i], b[i])) }
    }
}

/// `codes` with the bits of `from` where those of `place` are set. It is inline assembly, as the compiler
/// takes the intrinsic apart into more instructions. So is the next.
#[inline(always)]
fn with_bits_of(mut codes: uint8x16_t, from: uint8x16_t, place: uint8x16_t) -> uint8x16_t {
    // SAFETY: every processor of this architecture has NEON; the instruction changes one register.
    unsafe {
        asm!(
            "bit {0:v}.16b, {1:v}.16b, {2:v}.16b",
            inout(vreg) codes, in(vreg) from, in(vreg) place,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    codes
}

/// `codes` plus `sixteen` where `bits` and `each` share a bit: the test gives 255, and minus 255 times 16 is
/// plus 16.
#[inline(always)]
fn with_sixteen_where(
    mut codes: uint8x16_t,
    bits: uint8x16_t,
    each: uint8x16_t,
    sixteen: uint8x16_t,
) -> uint8x16_t {
    // SAFETY: as above; the instructions change two registers.
    unsafe {
        asm!(
            "cmtst {1:v}.16b, {1:v}.16b, {2:v}.16b",
            "mls {0:v}.16b, {1:v}.16b, {3:v}.16b",
            inout(vreg) codes, inout(vreg) bits => _, in(vreg) each, in(vreg) sixteen,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    codes
}

/// The same address. The compiler takes it for one of its own, and the same each time: it keeps it in a
/// register, reads what is near it without computing further addresses, and joins neighbours.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block, reason = "the assembly is empty: nothing is read or written")]
fn pinned(mut at: *const u8) -> *const u8 {
    // SAFETY: the assembly is empty.
    unsafe { asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
    at
}

impl<D: CodeDot> Rows for RowsNeon<D>
where
    Self: Tier,
{
    const ROWS: usize = 8;
    const SIGNED: bool = true;
    type Many = Self;
    type I = Two;
    type F = TwoF;
    // The blocks of the rows, and the place in them: sixteen registers of bytes would leave none for sixteen
    // of codes.
    type Kept = ([*const u8; 8], usize);

    rows_functions! {
        fn quads(at: *const u8, stride: usize) -> [Two; 4] {
            let row = |r| Self::sixteen(at, stride, r);
            let low = transposed([row(0), row(1), row(2), row(3)]);
            let high = transposed([row(4), row(5), row(6), row(7)]);
            [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
        }
        fn columns(at: *const u8, stride: usize) -> [Two; 4] {
            let rows = |r| [Self::sixteen(at, stride, r), Self::sixteen(at, stride, r + 4)];
            [rows(0), rows(1), rows(2), rows(3)]
        }
        fn kept(bytes: &([*const u8; 8], usize)) -> [Two; 8] {
            let &(rows, offset) = bytes;
            let load = |r: usize, n: usize| vreinterpretq_s32_u8(vld1q_u8(rows[r].add(offset + n)));
            let two = |r: usize, n: usize| [load(r, n), load(r + 4, n)];
            [two(0, 0), two(1, 0), two(2, 0), two(3, 0), two(0, 16), two(1, 16), two(2, 16), two(3, 16)]
        }
        fn words(at: *const u8, stride: usize) -> Two {
            let word = |r: usize| at.add(r * stride).cast::<i32>().read_unaligned();
            let four = |r: usize| {
                let v = vdupq_n_s32(word(r));
                let v = vsetq_lane_s32::<1>(word(r + 1), v);
                vsetq_lane_s32::<3>(word(r + 3), vsetq_lane_s32::<2>(word(r + 2), v))
            };
            [four(0), four(4)]
        }
        fn splat(value: i32) -> Two { [vdupq_n_s32(value); 2] }
        fn and(a: Two, b: Two) -> Two { both!(|i| vandq_s32(a[i], b[i])) }
        fn or(a: Two, b: Two) -> Two { both!(|i| vorrq_s32(a[i], b[i])) }
        fn xor(a: Two, b: Two) -> Two { both!(|i| veorq_s32(a[i], b[i])) }
        fn add(a: Two, b: Two) -> Two { both!(|i| vaddq_s32(a[i], b[i])) }
        fn min(a: Two, b: Two) -> Two { both!(|i| vminq_s32(a[i], b[i])) }
        fn max(a: Two, b: Two) -> Two { both!(|i| vmaxq_s32(a[i], b[i])) }
        fn shl(a: Two, n: i32) -> Two { both!(|i| vshlq_s32(a[i], vdupq_n_s32(n))) }
        fn shr(a: Two, n: i32) -> Two {
            both!(|i| vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a[i]), vdupq_n_s32(-n))))
        }
        fn sar(a: Two, n: i32) -> Two { both!(|i| vshlq_s32(a[i], vdupq_n_s32(-n))) }
        fn table(table: *const u8) -> Two { [vreinterpretq_s32_u8(vld1q_u8(table)); 2] }
        fn lookup(table: Two, at: Two) -> Two { bytes!(|i| vqtbl1q_u8(as_bytes(table[i]), as_bytes(at[i]))) }
        fn field(a: Two, shift: i32, mask: i32) -> Two {
            let shifted = |i: usize| {
                if shift == 0 { as_bytes(a[i]) } else { vshlq_u8(as_bytes(a[i]), vdupq_n_s8(-shift as i8)) }
            };
            // The shift of bytes leaves nothing above the highest field.
            bytes!(|i| if mask << shift >= 128 && shift > 0 {
                shifted(i)
            } else {
                vandq_u8(shifted(i), vdupq_n_u8(mask as u8))
            })
        }
        fn with_field(codes: Two, a: Two, from: i32, to: i32, mask: i32) -> Two {
            let place = vdupq_n_u8((mask << to) as u8);
            bytes!(|i| {
                let moved = if from == to {
                    as_bytes(a[i])
                } else {
                    vshlq_u8(as_bytes(a[i]), vdupq_n_s8((to - from) as i8))
                };
                with_bits_of(as_bytes(codes[i]), moved, place)
            })
        }
        fn with_fifth_bits(codes: [Two; 8], bits: Two) -> [Two; 8] {
            let each = vcombine_u8(vcreate_u8(0x8040_2010_0804_0201), vcreate_u8(0x8040_2010_0804_0201));
            // Byte `n` of a row's bits eight times, then the next byte.
            let bytes_of = |n: u64| {
                let first = n * 0x0101_0101_0101_0101;
                vcombine_u8(vcreate_u8(first), vcreate_u8(first + 0x0101_0101_0101_0101))
            };
            let mut codes = codes;
            for (n, code) in codes.iter_mut().enumerate() {
                let (row, half) = (n as u64 % 4, n as u64 / 4);
                *code = bytes!(|i| {
                    let bits = vqtbl1q_u8(as_bytes(bits[i]), bytes_of(4 * row + 2 * half));
                    with_sixteen_where(as_bytes(code[i]), bits, each, vdupq_n_u8(16))
                });
            }
            codes
        }
        fn float(a: Two) -> TwoF { both!(|i| vcvtq_f32_s32(a[i])) }
        fn from_bits(a: Two) -> TwoF { both!(|i| vreinterpretq_f32_s32(a[i])) }
        fn half(a: Two) -> TwoF {
            let halves = |i: usize| vreinterpretq_u16_s32(a[i]);
            let all = vuzp1q_u16(halves(0), halves(1));
            let float = |half| vcvt_f32_f16(vreinterpret_f16_u16(half));
            [float(vget_low_u16(all)), float(vget_high_u16(all))]
        }
        fn splat_f(value: f32) -> TwoF { [vdupq_n_f32(value); 2] }
        fn load(from: *const f32) -> TwoF { [vld1q_f32(from), vld1q_f32(from.add(4))] }
        fn store(to: *mut f32, v: TwoF) {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
        }
        fn negated(a: TwoF) -> TwoF { both!(|i| vnegq_f32(a[i])) }
        fn mul(a: TwoF, b: TwoF) -> TwoF { both!(|i| vmulq_f32(a[i], b[i])) }
        fn fma(a: TwoF, b: TwoF, c: TwoF) -> TwoF { both!(|i| vfmaq_f32(c[i], a[i], b[i])) }
    }

    #[inline(always)]
    unsafe fn keep(at: *const u8, offset: usize, stride: usize) -> ([*const u8; 8], usize) {
        let mut rows = [at; 8];
        for (r, row) in rows.iter_mut().enumerate() {
            *row = pinned(at.wrapping_add(r * stride));
        }
        (rows, offset)
    }

    const BATCH: usize = D::BATCH;

    #[inline(always)]
    unsafe fn arrange(codes: &[Two; 8]) -> [Two; 8] {
        // SAFETY: the caller guarantees what the trait asks.
        unsafe { D::arrange(codes) }
    }

    #[inline(always)]
    unsafe fn dots<const N: usize, const T: usize>(
        w: &[Two; N],
        zero: i32,
        top: i32,
        a: *const u32,
        minus_zeros: *const i32,
    ) -> [Two; T] {
        // SAFETY: the caller guarantees what the trait asks.
        unsafe { D::dots(w, zero, top, a, minus_zeros) }
    }
}

impl<D: CodeDot> OneToken for RowsNeon<D>
where
    Self: Tier,
{
    const MULTIPLES: i32 = 31;
    // A sum of 16 products is below 2^16 then, and a scale has 8 bits.
    const MULTIPLES_OF_HALVES: i32 = 63;

    rows_functions! {
        fn dot(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zero: i32) -> Two {
            D::one(w, zero, top, a, minus_zero)
        }
        fn dot_halves(w: &[Two; 8], zero: i32, top: i32, a: *const u32, minus_zeros: [i32; 2]) -> [Two; 2] {
            D::halves(w, zero, top, a, minus_zeros)
        }
        fn dot_times(w: &[Two; 8], top: i32, a: *const u32, scale: Bytes<Two>) -> Two {
            Self::product(D::one(w, 0, top, a, 0), Self::numbers(scale))
        }
        fn dot_halves_times(
            w: &[Two; 8],
            zero: i32,
            top: i32,
            a: *const u32,
            minus_zeros: [i32; 2],
            scales: [Bytes<Two>; 2]
        ) -> [Two; 2] {
            let [low, high] = D::halves(w, zero, top, a, minus_zeros);
            [Self::product(low, Self::numbers(scales[0])), Self::product(high, Self::numbers(scales[1]))]
        }
        fn times(value: i32, bytes: Bytes<Two>) -> Two {
            Self::product([vdupq_n_s32(value); 2], Self::numbers(bytes))
        }
        fn finished(sums: TwoF) -> TwoF {
            let [mut low, mut high] = sums;
            // To the compiler it may write any memory, so what is read next is not read before.
            asm!("/* {0:v} {1:v} */", inout(vreg) low, inout(vreg) high, options(nostack, preserves_flags));
            [low, high]
        }
    }
}
