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

use avx2::Avx2;
use avx512::Avx512;
use rows256::{Avx2Dot, Rows256, VnniDot};
use rows512::Rows512;
use tier::{Tier, Work};

use crate::Isa;
use crate::activations::{Columns, Record};
use crate::kernel::{Codes, Kernels};

pub(super) static AVX2: Kernels = Kernels {
    isa: Isa::Avx2,
    floats: &avx2::FLOATS,
    codes: &Codes { product: product8::product::<Rows256<Avx2Dot>>, fill: fill::<Avx2> },
};
pub(super) static AVX_VNNI: Kernels = Kernels {
    isa: Isa::AvxVnni,
    floats: &avx2::FLOATS,
    codes: &Codes { product: product8::product::<Rows256<VnniDot>>, fill: fill::<Avx2> },
};
pub(super) static AVX512_VNNI: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    floats: &avx512::FLOATS,
    codes: &Codes { product: product8::product::<Rows512>, fill: fill::<Avx512> },
};
pub(super) static AMX: Kernels = Kernels {
    isa: Isa::Amx,
    floats: &avx512::FLOATS,
    codes: &Codes { product: amx::product, fill: fill::<Avx512> },
};

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

/// [`crate::activations::fill`].
struct Fill<'a> {
    from: Columns<'a>,
    first: usize,
    record: Record<'a>,
}

impl<T: Tier> Work<T> for Fill<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        crate::activations::fill(self.from, self.first, self.record);
    }
}

/// [`crate::activations::fill`], compiled with the instructions of a tier.
///
/// # Safety
/// The processor has them.
unsafe fn fill<T: Tier>(from: Columns<'_>, first: usize, record: Record<'_>) {
    // SAFETY: as for this function; the work asks for no more.
    unsafe { T::call(Fill { from, first, record }) }
}
