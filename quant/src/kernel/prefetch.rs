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

/// As [`prefetch`], into the second-level cache.
#[cfg(all(target_arch = "x86_64", not(fuzzing)))]
#[inline(always)]
pub(super) fn prefetch_far(from: *const u8, len: usize) {
    use core::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in (0..len).step_by(64) {
        // SAFETY: every x86-64 processor has the instruction, and it faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(line).cast()) };
    }
}

/// Does nothing: stable Rust has no prefetch for this processor.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn prefetch(_from: *const u8, _len: usize) {}
