//! Kernels on plain vectors, over any [`Lanes`]. It must not know matrices.
//!
//! Every element goes through the same vector operations wherever it stands, tails included, so the result
//! of an elementwise kernel does not depend on how a caller cuts its slices. [`exp`] is within 2 units in
//! the last place.

use half::f16;

use super::lanes::Lanes;

/// Below this silu and gelu are 0 in single precision; -infinity is clamped to it, as it would give NaN.
const GATE_MIN: f32 = -120.0;

/// Declares kernels: `#[inline(always)]`, `unsafe` as [`Lanes`], the body in an unsafe block. `n`, the
/// length, is of the first slice; all slices have it.
macro_rules! kernels {
    ($(
        $(#[$doc:meta])*
        fn $name:ident<L>($($arg:ident: $type:ty),*) $(-> $result:ty)? { $($body:tt)* }
    )*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`Lanes`]. All slices have the same length.
        #[inline(always)]
        pub(in crate::kernel) unsafe fn $name<L: Lanes>($($arg: $type),*) $(-> $result)? {
            // SAFETY: the caller guarantees the instructions and the lengths; every access is of elements
            // below them.
            unsafe { $($body)* }
        }
    )*};
}

/// Runs the body for each vector of `n` elements: where it starts, and how many elements are left for it.
macro_rules! for_each_vector {
    ($n:expr, |$at:ident, $live:ident| $($body:tt)*) => {
        let n = $n;
        for $at in (0..n).step_by(L::N) {
            let $live = L::N.min(n - $at);
            $($body)*
        }
    };
}

kernels! {
    /// Sum of products: four accumulators in turn, added in a fixed order.
    fn dot<L>(a: &[f32], b: &[f32]) -> f32 {
        let (n, a, b) = (a.len(), a.as_ptr(), b.as_ptr());
        let mut acc = [L::splat(0.0); 4];
        let mut at = 0;
        while at + 4 * L::N <= n {
            for (i, acc) in acc.iter_mut().enumerate() {
                let at = at + i * L::N;
                *acc = L::fma(L::load(a.add(at)), L::load(b.add(at)), *acc);
            }
            at += 4 * L::N;
        }
        for acc in &mut acc {
            if at < n {
                let live = L::N.min(n - at);
                *acc = L::fma(L::load_up_to(a.add(at), live), L::load_up_to(b.add(at), live), *acc);
                at += live;
            }
        }
        L::sum(L::add(L::add(acc[0], acc[1]), L::add(acc[2], acc[3])))
    }

    /// `y += alpha * x`.
    fn axpy<L>(alpha: f32, x: &[f32], y: &mut [f32]) {
        let (alpha, x_at, y_at) = (L::splat(alpha), x.as_ptr(), y.as_mut_ptr());
        for_each_vector!(x.len(), |at, live| {
            let sum = L::fma(alpha, L::load_up_to(x_at.add(at), live), L::load_up_to(y_at.add(at), live));
            L::store_up_to(y_at.add(at), live, sum);
        });
    }

    /// Rounds to nearest even.
    fn to_f16<L>(src: &[f32], dst: &mut [f16]) {
        let (from, to) = (src.as_ptr(), dst.as_mut_ptr().cast::<u16>());
        for_each_vector!(src.len(), |at, live| {
            L::store_f16_up_to(to.add(at), live, L::load_up_to(from.add(at), live));
        });
    }

    /// `x *= alpha`.
    fn scale<L>(alpha: f32, x: &mut [f32]) {
        let (alpha, x_at) = (L::splat(alpha), x.as_mut_ptr());
        for_each_vector!(x.len(), |at, live| {
            L::store_up_to(x_at.add(at), live, L::mul(alpha, L::load_up_to(x_at.add(at), live)));
        });
    }

    /// arXiv 1910.07467.
    fn rms_norm<L>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let inverse = L::splat(1.0 / (dot::<L>(x, x) / x.len() as f32 + eps).sqrt());
        let (x_at, weight, out) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
        for_each_vector!(x.len(), |at, live| {
            let normal = L::mul(L::load_up_to(x_at.add(at), live), inverse);
            L::store_up_to(out.add(at), live, L::mul(normal, L::load_up_to(weight.add(at), live)));
        });
    }

    /// arXiv 1607.06450. `out` holds the centred values between the passes.
    fn layer_norm<L>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        let x_at = x.as_ptr();
        let mut sum = L::splat(0.0);
        for_each_vector!(x.len(), |at, live| sum = L::add(sum, L::load_up_to(x_at.add(at), live)));
        let mean = L::splat(L::sum(sum) / x.len() as f32);
        let centred = out.as_mut_ptr();
        for_each_vector!(x.len(), |at, live| {
            L::store_up_to(centred.add(at), live, L::sub(L::load_up_to(x_at.add(at), live), mean));
        });
        let inverse = L::splat(1.0 / (dot::<L>(out, out) / x.len() as f32 + eps).sqrt());
        let (weight, bias, out) = (weight.as_ptr(), bias.as_ptr(), out.as_mut_ptr());
        for_each_vector!(x.len(), |at, live| {
            let normal = L::mul(L::load_up_to(out.add(at), live), inverse);
            let (weight, bias) = (L::load_up_to(weight.add(at), live), L::load_up_to(bias.add(at), live));
            L::store_up_to(out.add(at), live, L::fma(normal, weight, bias));
        });
    }

    /// `up *= g / (1 + exp(-g))`.
    fn silu_mul<L>(gate: &[f32], up: &mut [f32]) {
        let (gate_at, up_at) = (gate.as_ptr(), up.as_mut_ptr());
        for_each_vector!(gate.len(), |at, live| {
            let g = L::max(L::splat(GATE_MIN), L::load_up_to(gate_at.add(at), live));
            let e = exp::<L>(L::sub(L::splat(0.0), g));
            let silu = L::div(g, L::add(L::splat(1.0), e));
            L::store_up_to(up_at.add(at), live, L::mul(silu, L::load_up_to(up_at.add(at), live)));
        });
    }

    /// `up *= g / (1 + exp(-2u))`, `u = sqrt(2/pi) * (g + 0.044715 g^3)`.
    fn gelu_tanh_mul<L>(gate: &[f32], up: &mut [f32]) {
        let minus_two_c = L::splat(-2.0 * std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2);
        let (gate_at, up_at) = (gate.as_ptr(), up.as_mut_ptr());
        for_each_vector!(gate.len(), |at, live| {
            let g = L::max(L::splat(GATE_MIN), L::load_up_to(gate_at.add(at), live));
            let cube = L::mul(g, L::mul(g, g));
            let u = L::fma(L::splat(0.044715), cube, g);
            let e = exp::<L>(L::mul(minus_two_c, u));
            let gelu = L::div(g, L::add(L::splat(1.0), e));
            L::store_up_to(up_at.add(at), live, L::mul(gelu, L::load_up_to(up_at.add(at), live)));
        });
    }

    /// `e^x` within 2 units in the last place, gradual underflow included; 0, infinity and NaN are exact.
    ///
    /// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, `ln 2` in two parts (Cody and Waite, 1980), and the Taylor
    /// polynomial of degree 7 in `r`: the remainder is at most `r^8 / 8! < 2^-27` of the result.
    fn exp<L>(x: L::V) -> L::V {
        const LN_2_HIGH: f32 = 355.0 / 512.0; // `n` times it is exact
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        // Beyond these the result is 0 or infinity in single precision. NaN is the second operand and stays.
        let x = L::min(L::splat(100.0), L::max(L::splat(-104.0), x));
        let n = L::round(L::mul(x, L::splat(std::f32::consts::LOG2_E)));
        let r = L::fma(n, L::splat(-LN_2_HIGH), x);
        let r = L::fma(n, L::splat(-LN_2_LOW), r);
        let mut sum = L::splat(1.0 / 5040.0);
        for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            sum = L::fma(sum, r, L::splat(coefficient));
        }
        L::times_power_of_two(sum, n)
    }
}
