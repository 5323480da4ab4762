//! Eight floats in two NEON registers. All sums have the order of the AVX2 tier, so that both give the same
//! bits.

use core::arch::aarch64::*;

use crate::kernel::wide::lanes::{Lanes, lanes_functions};

/// Eight floats in two registers of four.
pub(super) struct Neon;

/// Applies an operation to both registers.
macro_rules! both {
    (|$i:ident| $op:expr) => {{
        let half = |$i: usize| $op;
        [half(0), half(1)]
    }};
}

impl Neon {
    lanes_functions! {
        fn halves_to_floats(halves: uint16x8_t) -> [float32x4_t; 2] {
            let low = vcvt_f32_f16(vreinterpret_f16_u16(vget_low_u16(halves)));
            [low, vcvt_f32_f16(vreinterpret_f16_u16(vget_high_u16(halves)))]
        }
    }
}

impl Lanes for Neon {
    const N: usize = 8;
    const TILE_TOKENS: usize = 3;
    const ATTEND_ROWS: usize = 4;
    type V = [float32x4_t; 2];

    lanes_functions! {
        fn splat(value: f32) -> [float32x4_t; 2] { [vdupq_n_f32(value); 2] }
        fn load(from: *const f32) -> [float32x4_t; 2] { [vld1q_f32(from), vld1q_f32(from.add(4))] }
        fn store(to: *mut f32, v: [float32x4_t; 2]) {
            vst1q_f32(to, v[0]);
            vst1q_f32(to.add(4), v[1]);
        }
        fn load_part(from: *const f32, n: usize) -> [float32x4_t; 2] {
            let mut padded = [0.0; 8];
            core::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), n);
            Self::load(padded.as_ptr())
        }
        fn store_part(to: *mut f32, n: usize, v: [float32x4_t; 2]) {
            let mut padded = [0.0; 8];
            Self::store(padded.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(padded.as_ptr(), to, n);
        }
        fn load_f16(from: *const u16) -> [float32x4_t; 2] { Self::halves_to_floats(vld1q_u16(from)) }
        fn store_f16(to: *mut u16, v: [float32x4_t; 2]) {
            vst1_u16(to, vreinterpret_u16_f16(vcvt_f16_f32(v[0])));
            vst1_u16(to.add(4), vreinterpret_u16_f16(vcvt_f16_f32(v[1])));
        }
        fn load_bf16(from: *const u16) -> [float32x4_t; 2] {
            let halves = vld1q_u16(from);
            let low = vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_low_u16(halves)));
            [low, vreinterpretq_f32_u32(vshll_n_u16::<16>(vget_high_u16(halves)))]
        }
        fn add(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] { both!(|i| vaddq_f32(a[i], b[i])) }
        fn sub(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] { both!(|i| vsubq_f32(a[i], b[i])) }
        fn mul(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] { both!(|i| vmulq_f32(a[i], b[i])) }
        fn div(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] { both!(|i| vdivq_f32(a[i], b[i])) }
        fn fma(a: [float32x4_t; 2], b: [float32x4_t; 2], c: [float32x4_t; 2]) -> [float32x4_t; 2] {
            both!(|i| vfmaq_f32(c[i], a[i], b[i]))
        }
        // The instructions for maximum and minimum make NaN of NaN; these comparisons choose `b`.
        fn max(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            both!(|i| vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i]))
        }
        fn min(a: [float32x4_t; 2], b: [float32x4_t; 2]) -> [float32x4_t; 2] {
            both!(|i| vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i]))
        }
        fn round(v: [float32x4_t; 2]) -> [float32x4_t; 2] { both!(|i| vrndnq_f32(v[i])) }
        fn times_power_of_two(v: [float32x4_t; 2], n: [float32x4_t; 2]) -> [float32x4_t; 2] {
            // In two steps, as 2^n alone may be out of range; the first is exact.
            let power = |n| vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(n, vdupq_n_s32(127))));
            both!(|i| {
                let n = vcvtnq_s32_f32(n[i]);
                let first = vshrq_n_s32::<1>(n);
                vmulq_f32(vmulq_f32(v[i], power(first)), power(vsubq_s32(n, first)))
            })
        }
        fn first(v: [float32x4_t; 2]) -> f32 { vgetq_lane_f32::<0>(v[0]) }
        fn sum(v: [float32x4_t; 2]) -> f32 {
            let four = vaddq_f32(v[0], v[1]);
            let two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
        fn largest(v: [float32x4_t; 2]) -> f32 { vmaxvq_f32(vmaxq_f32(v[0], v[1])) }
    }
}
