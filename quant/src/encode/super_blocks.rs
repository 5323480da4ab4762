//! Blocks of 256 values with coarse scales for each 16 or 32 and half-precision scales for those. Each
//! sub-block is searched on its own first, then its scale is rounded, then its codes are taken anew under
//! the scale as stored. It must not know formats without sub-blocks.

use half::f16;

use super::arith::{clamp, dot, floor, inverse, largest, low_byte, magnitude, map, max};
use super::blocks::{by_size, iq4_codes, iq4_nearest, iq4_scale, signed_nearest, signed_scale};
use super::pack;
use super::range::{OutOfRange, half_at_least};
use super::search::{
    Affine, AffineSearch, Scaled, Searches, affine_losses, best, codes, fit_affine, scale_losses, weights,
};

/// Sub-block `i` of the importance.
fn part<const N: usize>(importance: Option<&[f32; 256]>, i: usize) -> Option<&[f32; N]> {
    importance.map(|importance| &importance.as_chunks().0[i])
}

/// Scales and minima for sub-blocks, and those in half precision that they are multiples of.
struct Affines<const PARTS: usize> {
    scale: f16,
    minimum: f16,
    scales: [u8; PARTS],
    minima: [u8; PARTS],
    codes: [u8; 256],
}

impl<const PARTS: usize> Affines<PARTS> {
    const ZERO: Self = Self {
        scale: f16::ZERO,
        minimum: f16::ZERO,
        scales: [0; PARTS],
        minima: [0; PARTS],
        codes: [0; 256],
    };

    /// Codes up to `top`, scales and minima up to `most` for each `N` values.
    fn new<const N: usize>(
        x: &[f32; 256],
        importance: Option<&[f32; 256]>,
        search: AffineSearch,
        most: f32,
    ) -> Result<Self, OutOfRange> {
        let Some(block) = Scaled::new(x)? else { return Ok(Self::ZERO) };
        let parts = block.x.as_chunks::<N>().0;
        let mean_square = block.mean_square();
        let w: [[f32; N]; PARTS] = std::array::from_fn(|i| {
            let x = &parts[i];
            match part(importance, i) {
                Some(importance) => weights(x, importance, mean_square),
                None => {
                    let typical = (dot(x, x) / N as f32).sqrt();
                    map(x, |x| typical + x.abs())
                }
            }
        });
        let fits: [Affine; PARTS] = std::array::from_fn(|i| fit_affine(&parts[i], &w[i], search));
        let scale = half_at_least(max(&fits.map(|fit| fit.scale)) / most * block.unit)?;
        let minimum = half_at_least(max(&fits.map(|fit| -fit.offset)).max(0.0) / most * block.unit)?;
        let (step, down) = (scale.to_f32() / block.unit, minimum.to_f32() / block.unit);

        let mut found = Self { scale, minimum, ..Self::ZERO };
        for (i, codes_out) in found.codes.as_chunks_mut::<N>().0.iter_mut().enumerate() {
            // Rounding both to the nearest multiple is not the best pair: where one goes up the other may
            // have to.
            let near_scale = floor(fits[i].scale * inverse(step)) - 1.0;
            let near_minimum = floor(-fits[i].offset * inverse(down));
            let try_scales: Searches = std::array::from_fn(|i| clamp(near_scale + (i % 4) as f32, 0.0, most));
            let try_minima: Searches =
                std::array::from_fn(|i| clamp(near_minimum + (i / 4) as f32, 0.0, most));
            let losses = affine_losses(
                &parts[i],
                &w[i],
                &try_scales.map(|scale| scale * step),
                &try_minima.map(|minimum| -minimum * down),
                search.top,
            );
            let best = best(&losses.map(|loss| -loss));
            (found.scales[i], found.minima[i]) = (try_scales[best] as u8, try_minima[best] as u8);
            let above = map(&parts[i], |x| x + try_minima[best] * down);
            *codes_out = codes(&above, inverse(try_scales[best] * step), 0.0, search.top);
        }
        Ok(found)
    }
}

impl Affines<8> {
    /// The start of a block of `Q4_K` or `Q5_K`.
    fn header(&self, block: &mut [u8]) {
        block[..2].copy_from_slice(&self.scale.to_le_bytes());
        block[2..4].copy_from_slice(&self.minimum.to_le_bytes());
        block[4..16].copy_from_slice(&pack::k_scales(&self.scales, &self.minima));
    }
}

pub(super) fn q2_k(x: &[f32; 256], importance: Option<&[f32; 256]>) -> Result<[u8; 84], OutOfRange> {
    let search = AffineSearch {
        top: 3.0,
        positive_offset: false,
        starts: [-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9, 1.3],
        rounds: 3,
    };
    let affines = Affines::<16>::new::<16>(x, importance, search, 15.0)?;
    let mut block = [0; 84];
    for (byte, (scale, minimum)) in block.iter_mut().zip(affines.scales.iter().zip(&affines.minima)) {
        *byte = scale | minimum << 4;
    }
    block[16..80].copy_from_slice(&pack::two_bits(&affines.codes));
    block[80..82].copy_from_slice(&affines.scale.to_le_bytes());
    block[82..].copy_from_slice(&affines.minimum.to_le_bytes());
    Ok(block)
}

pub(super) fn q4_k(x: &[f32; 256], importance: Option<&[f32; 256]>) -> Result<[u8; 144], OutOfRange> {
    let search = AffineSearch {
        top: 15.0,
        positive_offset: false,
        starts: [-0.9, -0.6, -0.3, 0.0, 0.2, 0.5, 0.8, 1.2],
        rounds: 2,
    };
    let affines = Affines::<8>::new::<32>(x, importance, search, 63.0)?;
    let mut block = [0; 144];
    affines.header(&mut block);
    block[16..].copy_from_slice(&pack::four_bits(&affines.codes));
    Ok(block)
}

pub(super) fn q5_k(x: &[f32; 256], importance: Option<&[f32; 256]>) -> Result<[u8; 176], OutOfRange> {
    let search = AffineSearch {
        top: 31.0,
        positive_offset: false,
        starts: [-0.5, -0.3, -0.1, 0.0, 0.2, 0.4, 0.6, 0.9],
        rounds: 2,
    };
    let affines = Affines::<8>::new::<32>(x, importance, search, 63.0)?;
    let mut block = [0; 176];
    affines.header(&mut block);
    block[16..48].copy_from_slice(&pack::bits_of(&affines.codes, 4));
    block[48..].copy_from_slice(&pack::four_bits(&affines.codes));
    Ok(block)
}

/// Sub-blocks this much smaller than their block have a scale of zero in any format.
const NEGLIGIBLE: f32 = 1.0 / (1u32 << 20) as f32;

/// Whole multiples of a half-precision scale for the sub-blocks of a block.
struct Multiples<const PARTS: usize> {
    scale: f16,
    multiples: [f32; PARTS],
    /// The scales that come of it, for values divided by the unit of the block.
    steps: [f32; PARTS],
}

impl<const PARTS: usize> Multiples<PARTS> {
    /// Multiples from `-half` to `half - 1`; `fit` finds the scale of a sub-block, `nearest` the codes of
    /// `x / scale`, as numbers.
    #[inline(always)]
    fn new<const N: usize>(
        block: &Scaled<256>,
        importance: Option<&[f32; 256]>,
        half: f32,
        fit: impl Fn(&[f32; N], &[f32; N]) -> f32,
        nearest: impl Fn(Searches) -> Searches,
    ) -> Result<Self, OutOfRange> {
        let parts = block.x.as_chunks::<N>().0;
        let mean_square = block.mean_square();
        let weights = |i: usize| by_size(&parts[i], part(importance, i), mean_square);
        let fits: [f32; PARTS] = std::array::from_fn(|i| {
            let negligible = magnitude(&parts[i]) < NEGLIGIBLE;
            if negligible { 0.0 } else { fit(&parts[i], &weights(i)) }
        });
        let scale = half_at_least(largest(&fits) / -half * block.unit)?;
        let step = scale.to_f32() / block.unit;
        let multiples = std::array::from_fn(|i| {
            let near = floor(fits[i] * inverse(step)) - 3.0;
            let tries: Searches = std::array::from_fn(|lane| clamp(near + lane as f32, -half, half - 1.0));
            let losses =
                scale_losses(&parts[i], &weights(i), &tries.map(|multiple| multiple * step), &nearest);
            tries[best(&losses.map(|loss| -loss))]
        });
        Ok(Self { scale, multiples, steps: multiples.map(|multiple| multiple * step) })
    }
}

pub(super) fn q3_k(x: &[f32; 256], importance: Option<&[f32; 256]>) -> Result<[u8; 110], OutOfRange> {
    let Some(block) = Scaled::new(x)? else { return Ok([0; 110]) };
    let fit = |x: &[f32; 16], w: &[f32; 16]| signed_scale(x, w, 4.0);
    let fitted = Multiples::<16>::new(&block, importance, 32.0, fit, signed_nearest(4.0))?;
    let mut all = [0; 256];
    let parts = all.as_chunks_mut().0.iter_mut().zip(block.x.as_chunks::<16>().0);
    for ((out, x), step) in parts.zip(fitted.steps) {
        *out = codes(x, inverse(step), -4.0, 3.0);
    }
    let mut bytes = [0; 110];
    bytes[..32].copy_from_slice(&pack::bits_of(&all, 2));
    bytes[32..96].copy_from_slice(&pack::two_bits(&all));
    let scales = fitted.multiples.map(|multiple| low_byte(multiple + 32.0));
    bytes[96..108].copy_from_slice(&pack::q3_k_scales(&scales));
    bytes[108..].copy_from_slice(&fitted.scale.to_le_bytes());
    Ok(bytes)
}

pub(super) fn q6_k(x: &[f32; 256], importance: Option<&[f32; 256]>) -> Result<[u8; 210], OutOfRange> {
    let Some(block) = Scaled::new(x)? else { return Ok([0; 210]) };
    let fit = |x: &[f32; 16], w: &[f32; 16]| signed_scale(x, w, 32.0);
    let fitted = Multiples::<16>::new(&block, importance, 128.0, fit, signed_nearest(32.0))?;
    let mut all = [0; 256];
    let parts = all.as_chunks_mut().0.iter_mut().zip(block.x.as_chunks::<16>().0);
    for ((out, x), step) in parts.zip(fitted.steps) {
        *out = codes(x, inverse(step), -32.0, 31.0);
    }
    let mut bytes = [0; 210];
    let (low, high) = pack::six_bits(&all);
    bytes[..128].copy_from_slice(&low);
    bytes[128..192].copy_from_slice(&high);
    bytes[192..208].copy_from_slice(&fitted.multiples.map(low_byte));
    bytes[208..].copy_from_slice(&fitted.scale.to_le_bytes());
    Ok(bytes)
}

pub(super) fn iq4_xs(x: &[f32; 256], importance: Option<&[f32; 256]>) -> Result<[u8; 136], OutOfRange> {
    let Some(block) = Scaled::new(x)? else { return Ok([0; 136]) };
    let fitted = Multiples::<8>::new(&block, importance, 32.0, iq4_scale, iq4_nearest)?;
    let mut bytes = [0; 136];
    bytes[..2].copy_from_slice(&fitted.scale.to_le_bytes());
    let scales = fitted.multiples.map(|multiple| low_byte(multiple + 32.0));
    bytes[2..8].copy_from_slice(&pack::iq4_xs_scales(&scales));
    let parts = bytes[8..].as_chunks_mut().0.iter_mut().zip(block.x.as_chunks::<32>().0);
    for ((out, x), step) in parts.zip(fitted.steps) {
        *out = pack::nibbles(&iq4_codes(x, inverse(step)));
    }
    Ok(bytes)
}
