//! What the generic kernels need from a tier: one vector of floats and about twenty operations on it. It
//! must not know formats or products.

use super::tier::Tier;
use crate::decode::E4M3;

/// A tier's vector of `N` floats.
///
/// # Safety
/// Every function needs the tier's instructions. Those that take a pointer need it good for `N` elements,
/// or for `n` where that is given; no alignment is needed.
pub(in crate::kernel) trait Lanes: Tier {
    /// Floats in a vector: 8 or 16.
    const N: usize;
    /// Tokens of a register tile of four rows, so that accumulators and operands just fit the registers.
    const TILE_TOKENS: usize;
    /// Query rows of a register tile of two vectors, likewise; at most 8.
    const ATTEND_ROWS: usize;
    /// The vector.
    type V: Copy;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// The first `n` elements, `1..N`, then zeros. Reads nothing past them.
    unsafe fn load_part(from: *const f32, n: usize) -> Self::V;
    /// Writes the first `n` elements, `1..N`, and nothing past them.
    unsafe fn store_part(to: *mut f32, n: usize, v: Self::V);
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// Rounds to nearest even.
    unsafe fn store_f16(to: *mut u16, v: Self::V);
    unsafe fn load_bf16(from: *const u16) -> Self::V;
    /// E4M3 numbers.
    #[inline(always)]
    unsafe fn load_f8(from: *const u8) -> Self::V {
        // SAFETY: the caller guarantees the instructions and `N` bytes, at most 16.
        unsafe {
            let mut values = [0.0; 16];
            for (i, value) in values.iter_mut().enumerate().take(Self::N) {
                *value = E4M3[usize::from(from.add(i).read())];
            }
            Self::load(values.as_ptr())
        }
    }

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The nearest whole number.
    unsafe fn round(v: Self::V) -> Self::V;
    /// `v * 2^n` for whole `-252 <= n <= 254` and `v` near 1, rounded once.
    unsafe fn times_power_of_two(v: Self::V, n: Self::V) -> Self::V;
    /// The first element.
    unsafe fn first(v: Self::V) -> f32;
    /// The elements added in a fixed order.
    unsafe fn sum(v: Self::V) -> f32;
    /// The largest element; no element is NaN.
    unsafe fn largest(v: Self::V) -> f32;

    /// The first `n` elements, `1..=N`, then zeros.
    #[inline(always)]
    unsafe fn load_up_to(from: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller guarantees the instructions and `n` elements.
        unsafe { if n == Self::N { Self::load(from) } else { Self::load_part(from, n) } }
    }

    /// Writes the first `n` elements, `1..=N`.
    #[inline(always)]
    unsafe fn store_up_to(to: *mut f32, n: usize, v: Self::V) {
        // SAFETY: the caller guarantees the instructions and `n` elements.
        unsafe { if n == Self::N { Self::store(to, v) } else { Self::store_part(to, n, v) } }
    }

    /// The first `n` halves, `1..=N`, then zeros.
    #[inline(always)]
    unsafe fn load_f16_up_to(from: *const u16, n: usize) -> Self::V {
        // SAFETY: the caller guarantees the instructions and `n` elements; a short read goes through
        // the stack.
        unsafe {
            if n == Self::N {
                return Self::load_f16(from);
            }
            let mut padded = [0; 16];
            core::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), n);
            Self::load_f16(padded.as_ptr())
        }
    }

    /// Writes the first `n` halves, `1..=N`.
    #[inline(always)]
    unsafe fn store_f16_up_to(to: *mut u16, n: usize, v: Self::V) {
        // SAFETY: the caller guarantees the instructions and `n` elements; a short write goes through
        // the stack.
        unsafe {
            if n == Self::N {
                return Self::store_f16(to, v);
            }
            let mut padded = [0; 16];
            Self::store_f16(padded.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(padded.as_ptr(), to, n);
        }
    }
}

/// Writes the functions of a `Lanes` implementation, each a single expression of intrinsics.
macro_rules! lanes_functions {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $($body:tt)* })*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller guarantees the instructions and the pointers, as the trait asks.
            unsafe { $($body)* }
        }
    )*};
}

pub(in crate::kernel) use lanes_functions;
