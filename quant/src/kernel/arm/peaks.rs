//! The loops behind `Kernels::multiply_int8` for ARM: products in registers with enough accumulators to
//! hide their latency; the sums are meaningless. It must not know clocks.

use core::arch::aarch64::*;
use core::arch::asm;
use std::hint::black_box;

/// Accumulators of the loops.
const ACCUMULATORS: usize = 12;

/// Declares a loop over inline assembly that changes accumulator `{0}` with the constants `{1}` and `{2}`.
macro_rules! multiply {
    ($(#[$doc:meta])* $name:ident, $features:literal, $products:literal, $($line:literal),+) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// The processor has the instructions.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn $name(rounds: usize) -> u64 {
            let (a, b) = (black_box(vdupq_n_s8(3)), black_box(vdupq_n_s8(-5)));
            let mut sums = [vdupq_n_s32(0); ACCUMULATORS];
            for _ in 0..rounds {
                for sum in &mut sums {
                    // SAFETY: the attribute gives the instructions, which change two registers.
                    unsafe {
                        asm!(
                            $($line),+,
                            inout(vreg) *sum, in(vreg) a, in(vreg) b, out(vreg) _,
                            options(pure, nomem, nostack, preserves_flags)
                        );
                    }
                }
            }
            black_box(sums);
            (rounds * ACCUMULATORS * $products * 2) as u64
        }
    };
}

multiply! {
    /// `smull`, `smlal` and `sadalp`: how products of 16 numbers are made without `sdot`.
    multiply_neon, "neon", 16,
    "smull {3:v}.8h, {1:v}.8b, {2:v}.8b",
    "smlal2 {3:v}.8h, {1:v}.16b, {2:v}.16b",
    "sadalp {0:v}.4s, {3:v}.8h"
}

multiply! {
    /// `sdot` on 16 numbers.
    multiply_dotprod, "neon,dotprod", 16,
    "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b // {3:v}"
}

multiply! {
    /// `smmla` on 32 products.
    multiply_i8mm, "neon,i8mm", 32,
    "smmla {0:v}.4s, {1:v}.16b, {2:v}.16b // {3:v}"
}
