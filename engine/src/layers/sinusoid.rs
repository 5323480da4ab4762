//! Sinusoidal positions (arXiv 1706.03762). It must not know what they are added to.

use moelten_loader::spec::SinusoidSpec;

/// Adds the numbers of position `position` to a row of the residual stream, as transformers computes them: in
/// single precision, the sines before the cosines.
pub fn add(spec: SinusoidSpec, position: usize, x: &mut [f32]) {
    let half = x.len() / 2;
    let step = -(10_000.0_f32.ln()) / (half.saturating_sub(1).max(1)) as f32;
    let at = (position + spec.offset) as f32;
    let (sines, cosines) = x.split_at_mut(half);
    for (i, (sine, cosine)) in sines.iter_mut().zip(cosines).enumerate() {
        let angle = at * (i as f32 * step).exp();
        *sine += angle.sin();
        *cosine += angle.cos();
    }
}
