//! From the pixels of an image to the numbers of its patches, as `preprocessor_config.json` says. It must not
//! know files of images.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Fault, LoadError, Result};
use crate::io::json;
use crate::spec::ImageSpec;

/// The file with what is done to images.
pub(super) const FILE: &str = "preprocessor_config.json";
pub(super) const FILE_BYTES_MAX: u64 = 1 << 20;
/// The filter that is named 2 (Pillow's `BILINEAR`).
const BILINEAR: u64 = 2;

/// What is done to images before a model reads them: they are resized, and each channel becomes
/// `(value * rescale - mean) / deviation`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preparation {
    resize: bool,
    rescale: f32,
    mean: [f32; 3],
    deviation: [f32; 3],
}

/// The file.
#[derive(Debug, Deserialize)]
struct Settings {
    do_resize: Option<bool>,
    size: Option<Size>,
    resample: Option<u64>,
    do_rescale: Option<bool>,
    rescale_factor: Option<f32>,
    do_normalize: Option<bool>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Size {
    Side(u64),
    Sides { height: u64, width: u64 },
}

impl Preparation {
    /// What such a text says; `path` is for messages.
    ///
    /// # Errors
    /// A damaged text; another size than the model's; filters other than the bilinear one.
    pub(super) fn of_text(path: &Path, text: &str, image: &ImageSpec) -> Result<Self> {
        let settings: Settings = json::parse(path, text.as_bytes(), FILE_BYTES_MAX)?;
        let resize = settings.do_resize.unwrap_or(true);
        let (height, width) = match settings.size {
            None => (image.size as u64, image.size as u64),
            Some(Size::Side(side)) => (side, side),
            Some(Size::Sides { height, width }) => (height, width),
        };
        let side = image.size as u64;
        if resize && (height, width) != (side, side) {
            let other = format!("the model's images of {side} x {side} pixels");
            let fault = Fault::Contradiction { found: format!("{width} x {height}"), other };
            return Err(LoadError::malformed(path, "size", fault));
        }
        let filter = settings.resample.unwrap_or(BILINEAR);
        if resize && filter != BILINEAR {
            let (feature, hint) = (format!("resample = {filter}"), "2, the bilinear filter, is".to_owned());
            return Err(LoadError::Unsupported { path: path.to_owned(), feature, hint });
        }
        let usual = |on: Option<bool>, stated: Option<[f32; 3]>, usual: f32, off: f32| match on {
            Some(false) => [off; 3],
            _ => stated.unwrap_or([usual; 3]),
        };
        let own = Self {
            resize,
            rescale: match settings.do_rescale {
                Some(false) => 1.0,
                _ => settings.rescale_factor.unwrap_or(1.0 / 255.0),
            },
            mean: usual(settings.do_normalize, settings.image_mean, 0.5, 0.0),
            deviation: usual(settings.do_normalize, settings.image_std, 0.5, 1.0),
        };
        own.check(path)?;
        Ok(own)
    }

    /// What is done where a file says nothing.
    ///
    /// # Errors
    /// None: the usual values fit.
    #[cfg(fuzzing)]
    pub(crate) fn usual(image: &ImageSpec) -> Result<Self> {
        Self::of_text(Path::new(FILE), "{}", image)
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |field: &str, found: f32, must| {
            Err(LoadError::malformed(path, field, Fault::BadNumber { found: found.to_string(), must }))
        };
        if let Some(&found) = self.deviation.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
            return wrong("image_std", found, "above 0");
        }
        if let Some(&found) = self.mean.iter().find(|x| !x.is_finite()) {
            return wrong("image_mean", found, "finite");
        }
        if !(self.rescale.is_finite() && self.rescale > 0.0) {
            return wrong("rescale_factor", self.rescale, "above 0");
        }
        Ok(())
    }

    /// The width and height that an image gets.
    ///
    /// # Errors
    /// An image of another size, where none is resized.
    pub(super) fn target(
        &self,
        path: &Path,
        (width, height): (usize, usize),
        image: &ImageSpec,
    ) -> Result<(usize, usize)> {
        let side = image.size;
        if self.resize || (width, height) == (side, side) {
            return Ok((side, side));
        }
        let other = format!("{side} x {side} pixels, which the model reads without resizing");
        let fault = Fault::Contradiction { found: format!("{width} x {height}"), other };
        Err(LoadError::malformed(path, "size", fault))
    }

    /// Appends the numbers of patches, channel by channel, of pixels `[size, size, 3]`.
    pub(super) fn patches(&self, pixels: &[u8], image: &ImageSpec, out: &mut Vec<f32>) {
        let (size, patch) = (image.size, image.patch);
        let number = |channel: usize, y: usize, x: usize| {
            let value = pixels.get((y * size + x) * 3 + channel).copied().unwrap_or(0);
            let (mean, deviation) = (self.mean.get(channel), self.deviation.get(channel));
            (f32::from(value) * self.rescale - mean.unwrap_or(&0.0)) / deviation.unwrap_or(&1.0)
        };
        for top in (0..size).step_by(patch) {
            for left in (0..size).step_by(patch) {
                for channel in 0..ImageSpec::CHANNELS {
                    for y in top..top + patch {
                        out.extend((left..left + patch).map(|x| number(channel, y, x)));
                    }
                }
            }
        }
    }
}
