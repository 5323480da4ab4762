//! Classes of images. Images that are given together are one batch, over which prioritised routing ranks
//! their patches; otherwise none depends on another. It must not know files of images.

use std::sync::Arc;

use moelten_loader::spec::ImageSpec;

use crate::error::{EngineError, Result};
use crate::forward::batch::{Batch, Ended, Phase, Run, Wanted};
use crate::forward::observe::Observer;
use crate::model::Model;
use crate::runtime::cancel::Cancel;
use crate::runtime::ledger::Charge;
use crate::state::{MOST_NEW_TOKENS, SequenceState};

/// What tells the classes of images.
pub struct Classifier {
    model: Arc<Model>,
    image: ImageSpec,
    /// What each image of a batch is computed in.
    states: Vec<SequenceState>,
    /// The numbers of places of an image.
    places: Vec<u32>,
    /// Its part of the budget.
    _charge: Charge,
}

/// The most images of this kind that are computed together.
pub fn most_images(image: &ImageSpec) -> usize {
    (MOST_NEW_TOKENS / image.rows()).max(1)
}

impl Classifier {
    /// Room for up to `together` images at once, at most [`most_images`].
    ///
    /// # Errors
    /// [`EngineError::Setting`] for a model of texts; [`EngineError::Memory`] when there is no room.
    pub fn new(model: Arc<Model>, together: usize) -> Result<Self> {
        let spec = model.spec();
        let Some(image) = spec.image else {
            let (found, must) = ("a model of texts".to_owned(), "a model of images");
            return Err(EngineError::Setting { setting: "the model", found, must });
        };
        let together = together.clamp(1, most_images(&image));
        let rows = image.rows();
        let bytes = SequenceState::bytes_for_encoder(spec, rows).saturating_mul(together as u64);
        let charge = model.reserve(together * rows, bytes, |_| "give fewer images at once".to_owned())?;
        let states = (0..together).map(|_| SequenceState::for_encoder(spec, rows));
        let states = states.collect::<std::io::Result<Vec<_>>>().map_err(EngineError::KvCache)?;
        let states: Vec<SequenceState> = states.into_iter().flatten().collect();
        let before = (image.task * rows) as u32;
        let places = (before..before + rows as u32).collect();
        Ok(Self { model, image, states, places, _charge: charge })
    }

    /// The most images of a batch.
    pub fn together(&self) -> usize {
        self.states.len()
    }

    /// The scores of images, `[images, scores]`: one for each class, or for each class of each patch.
    /// `patches` are their numbers, `[images, patches, numbers]`.
    ///
    /// # Errors
    /// [`EngineError::Setting`] for another length, no image, or more than [`Self::together`];
    /// [`EngineError::Cancelled`]; failed reads.
    pub fn classify(
        &mut self,
        patches: &[f32],
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<Vec<f32>> {
        let Self { model, image, states, places, .. } = self;
        let numbers = image.patches() * image.patch_numbers();
        let images = patches.len() / numbers;
        if !patches.len().is_multiple_of(numbers) || images == 0 || images > states.len() {
            let found = format!("{} numbers", patches.len());
            let must = "those of whole images, at least one and no more than there is room for";
            return Err(EngineError::Setting { setting: "the images", found, must });
        }
        let mut scores = vec![0.0; images * image.scores()];
        let mut turn = model.turn(cancel)?;
        let runs = states.iter_mut().take(images).map(|states| {
            states.go_back(0);
            let (phase, wanted, ended) = (Phase::Prefill, Wanted::None, Ended::NotYet);
            Run { tokens: places, phase, wanted, states, ropes: &[], logits: &mut [], cancel, ended }
        });
        let mut runs: Vec<Run<'_>> = runs.collect();
        turn.classify(&mut Batch::new(&mut runs), (image, patches), &mut scores, observer)?;
        Ok(scores)
    }
}
