//! Models of images, as data. It must not know layers, nor files of images.

use super::ffn::RouterSpec;

/// How an image becomes rows, and what becomes of them (ViT, arXiv 2010.11929): each square patch is
/// projected, one learned row stands before all patches, and each place has learned numbers that are added.
/// The embedding of such a model has a row for each place. All layers are those of an encoder.
///
/// A model with several tasks has patches, places, routers and a head for each of them, one below the other
/// in its matrices (AdaMV-MoE, ICCV 2023); the rest is shared. One task is computed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageSpec {
    /// Width and height of an image in pixels.
    pub size: usize,
    /// Width and height of a patch; it divides the size.
    pub patch: usize,
    /// Whether a learned row stands before the patches.
    pub first_row: bool,
    /// The number of the task that is computed; 0 in models without tasks.
    pub task: usize,
    /// How many tasks there are; 1 in models without them.
    pub tasks: usize,
    /// The head of the task.
    pub head: ImageHead,
    /// Rows of the heads of all tasks before it.
    pub first_class: usize,
    /// Rows of the heads of all tasks.
    pub all_classes: usize,
}

/// The head of a model of images, or of one of its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageHead {
    /// Classes that are told apart.
    pub classes: usize,
    /// What it reads.
    pub pool: ImagePool,
}

/// What the head of a model of images reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePool {
    /// The row before the patches.
    First,
    /// The mean of all patches.
    Mean,
    /// Each patch by itself: the classes of the parts of an image.
    Each,
}

/// A task of a model of images.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageTask {
    /// What the command line calls it.
    pub name: String,
    /// What it tells of an image.
    pub head: ImageHead,
    /// Its choice of experts, where the model has some.
    pub router: Option<RouterSpec>,
}

impl ImageSpec {
    /// Red, green and blue.
    pub const CHANNELS: usize = 3;

    /// Patches of a row of patches.
    pub fn side(&self) -> usize {
        self.size / self.patch
    }

    /// Patches of an image.
    pub fn patches(&self) -> usize {
        self.side() * self.side()
    }

    /// Numbers of a patch: channel by channel, each row by row.
    pub fn patch_numbers(&self) -> usize {
        Self::CHANNELS * self.patch * self.patch
    }

    /// Rows before the patches.
    pub fn first(&self) -> usize {
        usize::from(self.first_row)
    }

    /// Rows of an image.
    pub fn rows(&self) -> usize {
        self.first() + self.patches()
    }

    /// Scores of an image: one for each class, or for each class of each patch.
    pub fn scores(&self) -> usize {
        match self.head.pool {
            ImagePool::First | ImagePool::Mean => self.head.classes,
            ImagePool::Each => self.head.classes * self.patches(),
        }
    }
}
