//! The x86-64 tiers. `lanes` is what a tier must offer, `avx2` and `avx512` offer it; `unpack` (each format), `product` and
//! `vector` are written once over it. It must not know how a tier is chosen.
//!
//! The generic functions are `#[inline(always)]` and carry no instructions of their own: they become machine code inside
//! the `#[target_feature]` functions that `tier!` makes, one for each entry of the table. All of them are `unsafe` for
//! the same two reasons: the processor must have the tier's instructions, and pointers must be good for what is read and
//! written.

mod attend;
mod avx2;
mod avx512;
mod lanes;
mod product;
mod unpack;
mod vector;

pub(super) use avx2::KERNELS as AVX2;
pub(super) use avx512::KERNELS as AVX512;

/// Makes the table `KERNELS` of a tier from its name, its `Lanes` and its instructions: each entry is a generic function
/// compiled with these instructions.
macro_rules! tier {
    ($isa:expr, $lanes:ty, $features:literal) => {
        $crate::kernel::x86::tier! { @functions $lanes, $features;
            product {
                fn unpack<U: $crate::kernel::x86::unpack::Unpack>(bytes: &[u8], out: &mut [f32]);
                fn fused<U: $crate::kernel::x86::unpack::Unpack>(w: $crate::QMatrix<'_>, x: &[f32], out: &mut [f32]);
                fn block(block: $crate::kernel::tiled::Block<'_>);
            }
            vector {
                fn dot(a: &[f32], b: &[f32]) -> f32;
                fn dot_f16(a: &[f32], b: &[half::f16]) -> f32;
                fn axpy(alpha: f32, x: &[f32], y: &mut [f32]);
                fn axpy_f16(alpha: f32, x: &[half::f16], y: &mut [f32]);
                fn to_f16(src: &[f32], dst: &mut [half::f16]);
                fn scale(alpha: f32, x: &mut [f32]);
                fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
                fn softmax(x: &mut [f32]);
                fn silu_mul(gate: &[f32], up: &mut [f32]);
                fn gelu_tanh_mul(gate: &[f32], up: &mut [f32]);
            }
            attend {
                fn attend(task: &$crate::Attend<'_>, out: &mut [f32], state: &mut [$crate::Running]);
                fn attend_merge(later: &[f32], later_state: $crate::Running, out: &mut [f32], state: &mut $crate::Running);
            }
        }

        /// The table of this tier.
        pub(in crate::kernel) static KERNELS: $crate::kernel::Kernels = {
            use $crate::kernel::x86::unpack::*;
            $crate::kernel::Kernels {
                isa: $isa,
                lanes: <$lanes as Lanes>::N,
                unpack: $crate::kernel::x86::by_format!(unpack),
                fused: Some($crate::kernel::x86::by_format!(fused)),
                block,
                dot,
                dot_f16,
                axpy,
                axpy_f16,
                to_f16,
                scale,
                rms_norm,
                layer_norm,
                softmax,
                attend,
                attend_merge,
                silu_mul,
                gelu_tanh_mul,
            }
        };
    };
    (@functions $lanes:ty, $features:literal; $($module:ident { $(
        fn $name:ident $(<$u:ident: $bound:path>)? ($($arg:ident: $type:ty),*) $(-> $result:ty)?;
    )* })*) => {$($(
        #[target_feature(enable = $features)]
        unsafe fn $name $(<$u: $bound>)? ($($arg: $type),*) $(-> $result)? {
            // SAFETY: the attribute gives the instructions; the caller vouches for the rest.
            unsafe { $crate::kernel::x86::$module::$name::<$lanes $(, $u)?>($($arg),*) }
        }
    )*)*};
}

/// A function for each format, in the order of the enum.
macro_rules! by_format {
    ($f:ident) => {
        [
            $f::<F32>,
            $f::<F16>,
            $f::<BF16>,
            $f::<Q4_0>,
            $f::<Q4_1>,
            $f::<Q5_0>,
            $f::<Q5_1>,
            $f::<Q8_0>,
            $f::<Q2K>,
            $f::<Q3K>,
            $f::<Q4K>,
            $f::<Q5K>,
            $f::<Q6K>,
            $f::<Iq4Nl>,
            $f::<Iq4Xs>,
            $f::<Mxfp4>,
        ]
    };
}

use {by_format, tier};
