//! Files of images: from a PNG file to the numbers of patches that a model of images reads. An image is read
//! row by row, so that memory follows from what the model reads, never from the file. It must not know how a
//! model computes.

pub(crate) mod beside;
mod png;
mod png_interlaced;
mod png_stream;
mod prepare;
mod resize;

pub use prepare::Preparation;

use std::path::Path;

use crate::error::Result;
use crate::spec::ImageSpec;

/// Bytes that reading an image takes beside its numbers: sums of what it is made smaller or larger to, and
/// rows of the file.
pub fn bytes_to_read(image: &ImageSpec) -> u64 {
    let side = image.size as u64;
    side.saturating_mul(side)
        .saturating_mul(3 * 4)
        .saturating_add((png_stream::MOST_BYTES + png_interlaced::BAND_BYTES) as u64)
}

/// Appends the numbers of an image's patches to `out`, `[patches, numbers]`.
///
/// # Errors
/// Files that cannot be read, are damaged, too large, or of another type than PNG.
pub fn read(path: &Path, image: &ImageSpec, how: &Preparation, out: &mut Vec<f32>) -> Result<()> {
    let mut file = png::open(path)?;
    let mut resized = resize::Resizer::new(file.size(), how.target(path, file.size(), image)?);
    while let Some(row) = file.row()? {
        resized.add(row);
    }
    how.patches(&resized.finish(), image, out);
    Ok(())
}
