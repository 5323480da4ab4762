//! Float helpers written so that the compiler makes vectors of them: fixed lanes, no calls, no branches.
//! The results are the same on every CPU, because nothing here depends on how wide the vectors are. It must
//! not know formats.

/// `1.5 * 2^23`: adding it to a number within ±2^22 rounds that to a whole one (half to even), which then
/// stands in the low bits.
pub(super) const MAGIC: f32 = 12_582_912.0;

/// The nearest whole number, half to even, of a number within ±2^22.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// The whole number at or below a number within ±2^22.
#[inline(always)]
pub(super) fn floor(x: f32) -> f32 {
    let near = round(x);
    if near > x { near - 1.0 } else { near }
}

/// The low byte, two's complement, of a whole number within ±2^22.
#[inline(always)]
pub(super) fn low_byte(x: f32) -> u8 {
    (x + MAGIC).to_bits() as u8
}

/// `x` between `low` and `high`; one instruction each, unlike `f32::clamp`.
#[inline(always)]
pub(super) fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < high { x } else { high };
    if x > low { x } else { low }
}

/// `1 / x`, or 0 where that overflows or `x` is 0.
#[inline(always)]
pub(super) fn inverse(x: f32) -> f32 {
    if x.abs() < f32::MIN_POSITIVE { 0.0 } else { 1.0 / x }
}

/// `f` of each number. Unlike `array::map` it stays a plain loop, and with it a vector one, at any length.
#[inline(always)]
pub(super) fn map<const N: usize, T: Copy + Default>(x: &[f32; N], f: impl Fn(f32) -> T) -> [T; N] {
    let mut out = [T::default(); N];
    for (out, &x) in out.iter_mut().zip(x) {
        *out = f(x);
    }
    out
}

/// `sum a[i] * b[i]`.
pub(super) fn dot<const N: usize>(a: &[f32; N], b: &[f32; N]) -> f32 {
    let mut lanes = [0.0; 4];
    for (a, b) in a.as_chunks::<4>().0.iter().zip(b.as_chunks::<4>().0) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += a * b;
        }
    }
    lanes.iter().sum()
}

/// `sum x[i]`.
pub(super) fn sum<const N: usize>(x: &[f32; N]) -> f32 {
    dot(x, &[1.0; N])
}

/// The bits of a float as an integer in the same order, and back. The compiler takes the least of some
/// integers in any order, and so in vectors; of floats it must keep the order, and makes scalars of them.
#[inline(always)]
fn ordered(bits: i32) -> i32 {
    bits ^ ((bits >> 31) & i32::MAX)
}

/// Folds with `pick` in eight lanes, which are returned as [`ordered`] integers.
#[inline(always)]
fn lanes<const N: usize>(x: &[f32; N], pick: impl Fn(f32, f32) -> f32) -> [i32; 8] {
    let (chunks, _) = x.as_chunks::<8>();
    let mut best = chunks[0];
    for chunk in &chunks[1..] {
        for (best, &x) in best.iter_mut().zip(chunk) {
            *best = pick(*best, x);
        }
    }
    best.map(|x| ordered(x.to_bits() as i32))
}

/// The smallest value.
#[inline(always)]
pub(super) fn min<const N: usize>(x: &[f32; N]) -> f32 {
    let lanes = lanes(x, |a, b| if b < a { b } else { a });
    f32::from_bits(ordered(lanes.into_iter().fold(i32::MAX, i32::min)) as u32)
}

/// The largest value.
#[inline(always)]
pub(super) fn max<const N: usize>(x: &[f32; N]) -> f32 {
    let lanes = lanes(x, |a, b| if b > a { b } else { a });
    f32::from_bits(ordered(lanes.into_iter().fold(i32::MIN, i32::max)) as u32)
}

/// The value of largest magnitude, with its sign; the first of them.
#[inline(always)]
pub(super) fn largest<const N: usize>(x: &[f32; N]) -> f32 {
    let (low, high) = (min(x), max(x));
    if high == -low {
        return *x.iter().find(|x| x.abs() == high).expect("one of them is the largest");
    }
    if high > -low { high } else { low }
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn magnitude<const N: usize>(x: &[f32; N]) -> f32 {
    max(&map(x, f32::abs))
}
