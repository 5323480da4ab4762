//! The tables of the x86-64 tiers. It must not know what an instruction does.

use half::f16;

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::lanes::Lanes;
use super::rows256::{Avx2Dot, Rows256, VnniDot};
use super::rows512::Rows512;
use super::tier::{Tier, Work, impl_tier};
use super::{amx, attend, coded, peaks, product, vector};
use crate::activations::{Columns, Record};
use crate::format::Format;
use crate::isa::Isa;
use crate::kernel::attend::{Attend, Running};
use crate::kernel::piece::PieceProduct;
use crate::kernel::table::{Codes, Floats, Kernels, Peaks};
use crate::matrix::QMatrix;

/// The table of a tier of this architecture. The machine may lack its instructions.
pub(in crate::kernel) fn of(isa: Isa) -> Option<&'static Kernels> {
    match isa {
        Isa::Scalar => None,
        Isa::Avx2 => Some(&AVX2),
        Isa::AvxVnni => Some(&AVX_VNNI),
        Isa::Avx512Vnni => Some(&AVX512_VNNI),
        Isa::Amx => Some(&AMX),
    }
}

static AVX2: Kernels = Kernels {
    isa: Isa::Avx2,
    floats: &AVX2_FLOATS,
    codes: &Codes { product: coded::product::<Rows256<Avx2Dot>>, fill: fill::<Avx2> },
    peaks: &Peaks { read: peaks::read_avx2, multiply: peaks::multiply_avx2 },
};

static AVX_VNNI: Kernels = Kernels {
    isa: Isa::AvxVnni,
    floats: &AVX2_FLOATS,
    codes: &Codes { product: coded::product::<Rows256<VnniDot>>, fill: fill::<Avx2> },
    peaks: &Peaks { read: peaks::read_avx2, multiply: peaks::multiply_avx_vnni },
};

static AVX512_VNNI: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    floats: &AVX512_FLOATS,
    codes: &Codes { product: coded::product::<Rows512>, fill: fill::<Avx512> },
    peaks: &Peaks { read: peaks::read_avx2, multiply: peaks::multiply_avx512_vnni },
};

static AMX: Kernels = Kernels {
    isa: Isa::Amx,
    floats: &AVX512_FLOATS,
    codes: &Codes { product: amx::product, fill: fill::<Avx512> },
    peaks: &Peaks { read: peaks::read_avx2, multiply: peaks::multiply_amx },
};

/// Makes a table of floats from `Lanes` and instructions: each entry is a generic function compiled with
/// them.
macro_rules! float_table {
    ($table:ident, $lanes:ty, $features:literal) => {
        impl_tier!($lanes, $features);

        static $table: Floats = {
            float_table! { @functions $lanes, $features;
                product {
                    fn unpack(format: Format, bytes: &[u8], out: &mut [f32]);
                    fn fused(w: QMatrix<'_>, x: &[f32], out: &mut [f32]);
                    fn block(block: PieceProduct<'_>);
                }
                vector {
                    fn dot(a: &[f32], b: &[f32]) -> f32;
                    fn axpy(alpha: f32, x: &[f32], y: &mut [f32]);
                    fn to_f16(src: &[f32], dst: &mut [f16]);
                    fn scale(alpha: f32, x: &mut [f32]);
                    fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                    fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]);
                    fn silu_mul(gate: &[f32], up: &mut [f32]);
                    fn gelu_tanh_mul(gate: &[f32], up: &mut [f32]);
                }
                attend {
                    fn attend(task: &Attend<'_>, out: &mut [f32], state: &mut [Running]);
                    fn attend_merge(later: &[f32], later_state: Running, out: &mut [f32], state: &mut Running);
                }
            }
            Floats {
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
            }
        };
    };
    (@functions $lanes:ty, $features:literal; $($module:ident { $(
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;
    )* })*) => {$($(
        #[target_feature(enable = $features)]
        unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the attribute gives the instructions; the caller guarantees the rest.
            unsafe { $module::$name::<$lanes>($($arg),*) }
        }
    )*)*};
}

float_table!(AVX2_FLOATS, Avx2, "avx2,fma,f16c");
float_table!(AVX512_FLOATS, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");

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
