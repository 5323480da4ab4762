//! The x86-64 tiers. `lanes` is what a tier must offer, `avx2` and `avx512` offer it; `unpack` (each format), `product` and
//! `vector` are written once over it. It must not know how a tier is chosen.
//!
//! The generic functions are `#[inline(always)]` and carry no instructions of their own: they become machine code inside
//! the `#[target_feature]` functions that `tier!` makes, one for each entry of the table. All of them are `unsafe` for
//! the same two reasons: the processor must have the tier's instructions, and pointers must be good for what is read and
//! written.

pub(super) mod amx;
mod attend;
mod attend_tile;
pub(super) mod avx2;
pub(super) mod avx512;
mod blocks;
mod lanes;
pub(super) mod limits;
mod product;
mod product8;
mod rows;
mod rows256;
mod rows512;
mod tier;
mod unpack;
mod vector;

use crate::Isa;
use crate::kernel::{Codes, Kernels};

pub(super) static AVX2: Kernels =
    Kernels { isa: Isa::Avx2, floats: &avx2::FLOATS, codes: &codes_avx2::CODES };
pub(super) static AVX_VNNI: Kernels =
    Kernels { isa: Isa::AvxVnni, floats: &avx2::FLOATS, codes: &codes_avx_vnni::CODES };
pub(super) static AVX512_VNNI: Kernels =
    Kernels { isa: Isa::Avx512Vnni, floats: &avx512::FLOATS, codes: &codes_avx512_vnni::CODES };
pub(super) static AMX: Kernels = Kernels { isa: Isa::Amx, floats: &avx512::FLOATS, codes: &codes_amx::CODES };

/// Makes the table `FLOATS` of a tier from its `Lanes` and its instructions: each entry is a generic function compiled with
/// these instructions.
macro_rules! float_tier {
    ($lanes:ty, $features:literal) => {
        $crate::kernel::x86::tier::impl_tier!($lanes, $features);

        $crate::kernel::x86::float_tier! { @functions $lanes, $features;
            product {
                fn unpack(format: $crate::Format, bytes: &[u8], out: &mut [f32]);
                fn fused(w: $crate::QMatrix<'_>, x: &[f32], out: &mut [f32]);
                fn block(block: $crate::kernel::tiled::Block<'_>);
            }
            vector {
                fn dot(a: &[f32], b: &[f32]) -> f32;
                fn axpy(alpha: f32, x: &[f32], y: &mut [f32]);
                fn to_f16(src: &[f32], dst: &mut [half::f16]);
                fn scale(alpha: f32, x: &mut [f32]);
                fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
                fn silu_mul(gate: &[f32], up: &mut [f32]);
                fn gelu_tanh_mul(gate: &[f32], up: &mut [f32]);
            }
            attend {
                fn attend(task: &$crate::Attend<'_>, out: &mut [f32], state: &mut [$crate::Running]);
                fn attend_merge(later: &[f32], later_state: $crate::Running, out: &mut [f32], state: &mut $crate::Running);
            }
        }

        /// The float table of this tier.
        pub(in crate::kernel) static FLOATS: $crate::kernel::Floats = $crate::kernel::Floats {
            lanes: <$lanes as Lanes>::N,
            unpack,
            fused: Some(fused),
            block,
            dot,
            axpy,
            to_f16,
            scale,
            rms_norm,
            layer_norm,
            attend,
            attend_merge,
            silu_mul,
            gelu_tanh_mul,
        };
    };
    (@functions $lanes:ty, $features:literal; $($module:ident { $(
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;
    )* })*) => {$($(
        #[target_feature(enable = $features)]
        unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the attribute gives the instructions; the caller vouches for the rest.
            unsafe { $crate::kernel::x86::$module::$name::<$lanes>($($arg),*) }
        }
    )*)*};
}

use float_tier;

/// Makes the module of a tier's integer kernels, with its table `CODES`: the
/// product by `$tile` over `$rows` is compiled once for each format with these instructions.
macro_rules! codes_tier {
    ($module:ident, $rows:ty, $tile:ty, $features:literal) => {
        mod $module {
            use super::*;
            use crate::activations::{Activations, Columns, Record};
            use crate::{Format, QMatrix};

            pub(super) static CODES: Codes = Codes { product, fill };

            #[target_feature(enable = $features)]
            unsafe fn of<B: blocks::Blocks>(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
                // SAFETY: the attribute gives the instructions; the caller vouches for the rest.
                unsafe { product8::product::<$rows, B, $tile>(w, x, out) }
            }

            #[target_feature(enable = $features)]
            unsafe fn fill(from: Columns<'_>, first: usize, record: Record<'_>) {
                crate::activations::fill(from, first, record);
            }

            unsafe fn product(w: QMatrix<'_>, x: Activations<'_>, out: &mut [f32]) {
                // SAFETY: the caller vouches for the instructions and the arguments.
                unsafe {
                    match w.format() {
                        Format::F32 | Format::F16 | Format::BF16 => unreachable!("floats have no codes"),
                        Format::Q4_0 => of::<blocks::Q4_0>(w, x, out),
                        Format::Q4_1 => of::<blocks::Q4_1>(w, x, out),
                        Format::Q5_0 => of::<blocks::Q5_0>(w, x, out),
                        Format::Q5_1 => of::<blocks::Q5_1>(w, x, out),
                        Format::Q8_0 => of::<blocks::Q8_0>(w, x, out),
                        Format::Q2K => of::<blocks::Q2K>(w, x, out),
                        Format::Q3K => of::<blocks::Q3K>(w, x, out),
                        Format::Q4K => of::<blocks::Q4K>(w, x, out),
                        Format::Q5K => of::<blocks::Q5K>(w, x, out),
                        Format::Q6K => of::<blocks::Q6K>(w, x, out),
                        Format::Iq4Nl => of::<blocks::Iq4Nl>(w, x, out),
                        Format::Iq4Xs => of::<blocks::Iq4Xs>(w, x, out),
                        Format::Mxfp4 => of::<blocks::Mxfp4>(w, x, out),
                    }
                }
            }
        }
    };
}

codes_tier!(codes_avx2, rows256::Rows256<rows256::Avx2Dot>, product8::Vectors, "avx2,fma,f16c");
codes_tier!(codes_avx_vnni, rows256::Rows256<rows256::VnniDot>, product8::Vectors, "avx2,fma,f16c,avxvnni");
codes_tier!(
    codes_avx512_vnni,
    rows512::Rows512,
    product8::Vectors,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
);
codes_tier!(
    codes_amx,
    rows512::Rows512,
    amx::Tiles,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
);
