//! Prefetch instructions. The rows of a product are several streams of a few hundred bytes, too short for
//! the prefetcher of the processor to follow. They change times, never results.

/// Prefetches `len` bytes into the first-level cache. A prefetch never faults, so the range may lie past
/// the end.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn prefetch(from: *const u8, len: usize) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    for line in (0..len).step_by(64) {
        // SAFETY: every x86-64 processor has the instruction, and it faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(line).cast()) };
    }
}

/// Prefetches lines at distances from an address.
#[cfg(target_arch = "aarch64")]
macro_rules! prefetch_lines {
    ($how:literal, $at:ident, $($distance:literal)*) => {
        // SAFETY: every processor has the instruction, which changes nothing and faults on no address.
        unsafe {
            core::arch::asm!(
                $(concat!("prfm ", $how, ", [{0}, #", $distance, "]"),)*
                in(reg) $at, options(readonly, nostack, preserves_flags)
            );
        }
    };
    // Four lines with one address: left to itself, the compiler computes that of each.
    ($how:literal, $from:ident, len $len:ident) => {
        for first in (0..$len).step_by(256) {
            let at = $from.wrapping_add(first);
            match ($len - first).div_ceil(64) {
                1 => prefetch_lines!($how, at, 0),
                2 => prefetch_lines!($how, at, 0 64),
                3 => prefetch_lines!($how, at, 0 64 128),
                _ => prefetch_lines!($how, at, 0 64 128 192),
            }
        }
    };
}

/// Prefetches `len` bytes into the first-level cache. A prefetch never faults, so the range may lie past
/// the end.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
pub(super) fn prefetch(from: *const u8, len: usize) {
    prefetch_lines!("pldl1keep", from, len len);
}

/// As [`prefetch`], into the second-level cache.
#[cfg(all(target_arch = "aarch64", not(any(fuzzing, test))))]
#[inline(always)]
pub(super) fn prefetch_far(from: *const u8, len: usize) {
    prefetch_lines!("pldl2keep", from, len len);
}

/// As [`prefetch`], into the second-level cache.
#[cfg(all(target_arch = "x86_64", not(any(fuzzing, test))))]
#[inline(always)]
pub(super) fn prefetch_far(from: *const u8, len: usize) {
    use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in (0..len).step_by(64) {
        // SAFETY: every x86-64 processor has the instruction, and it faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line).cast()) };
    }
}

/// Does nothing: there are no kernels for this processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) fn prefetch(_from: *const u8, _len: usize) {}
