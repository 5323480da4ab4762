//! How the generic kernels on floats become a tier's table. It must not know any tier.

/// Makes a table of floats from `Lanes` and instructions: each entry is a generic function compiled with
/// them.
macro_rules! float_table {
    ($table:ident, $lanes:ty, $features:literal) => {
        $crate::kernel::wide::tier::impl_tier!($lanes, $features);

        static $table: $crate::kernel::table::Floats = {
            use half::f16;

            use $crate::format::Format;
            use $crate::kernel::attend::{Attend, Running};
            use $crate::kernel::piece::PieceProduct;
            use $crate::kernel::recurrence::{DeltaStep, SpaceStep};
            use $crate::matrix::QMatrix;

            $crate::kernel::wide::float_table::float_table! { @functions $lanes, $features;
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
                recurrence {
                    fn delta_step(step: DeltaStep<'_>, out: &mut [f32]);
                    fn space_step(step: SpaceStep<'_>, out: &mut [f32]);
                }
                attend {
                    fn attend(task: &Attend<'_>, out: &mut [f32], state: &mut [Running]);
                    fn attend_merge(later: &[f32], later_state: Running, out: &mut [f32], state: &mut Running);
                }
            }
            $crate::kernel::table::Floats {
                lanes: <$lanes as $crate::kernel::wide::lanes::Lanes>::N,
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
                delta_step,
                space_step,
            }
        };
    };
    (@functions $lanes:ty, $features:literal; $($module:ident { $(
        fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)?;
    )* })*) => {$($(
        #[target_feature(enable = $features)]
        unsafe fn $name($($arg: $type),*) $(-> $result)? {
            // SAFETY: the attribute gives the instructions; the caller guarantees the rest.
            unsafe { $crate::kernel::wide::$module::$name::<$lanes>($($arg),*) }
        }
    )*)*};
}

pub(in crate::kernel) use float_table;
