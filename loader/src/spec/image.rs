//! Models of images, as data. It must not know layers, nor files of images.

/// How an image becomes rows, and what becomes of them (ViT, arXiv 2010.11929): each square patch is
/// projected, one learned row stands before all patches, and each place has learned numbers that are added.
/// The embedding of such a model has a row for each place. All layers are those of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSpec {
    /// Width and height of an image in pixels.
    pub size: usize,
    /// Width and height of a patch; it divides the size.
    pub patch: usize,
    /// Classes that images are told apart by.
    pub classes: usize,
    /// What the head reads.
    pub pool: ImagePool,
}

/// What the head of a model of images reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePool {
    /// The row before the patches.
    First,
    /// The mean of all patches. There is no row before them.
    Mean,
}

impl ImageSpec {
    /// Red, green and blue.
    pub const CHANNELS: usize = 3;

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        (self.size / self.patch) * (self.size / self.patch)
    }

    /// Numbers of a patch: channel by channel, each row by row.
    pub fn patch_numbers(&self) -> usize {
        Self::CHANNELS * self.patch * self.patch
    }

    /// Rows before the patches.
    pub fn first(&self) -> usize {
        usize::from(self.pool == ImagePool::First)
    }

    /// Rows of an image.
    pub fn rows(&self) -> usize {
        self.first() + self.patches()
    }
}
