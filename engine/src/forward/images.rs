//! The pass over a model of images: rows of patches, an encoder, and a head for each image. Images are the
//! runs of a batch; every patch sees those of its own image alone. It must not know files of images.

use super::batch::Batch;
use super::decoder::Decoder;
use super::executor::Executor;
use super::observe::Observer;
use crate::error::{EngineError, Result};
use crate::layers::scratch::PASS;
use moelten_loader::spec::{ImagePool, ImageSpec};

impl Decoder<'_> {
    /// Scores of images: `patches` are their numbers, `[images, patches, numbers]`, `scores` become
    /// `[images, scores]`. The tokens of the runs are the numbers of places.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] between layers, or failed reads.
    pub fn classify(
        &self,
        s: &mut Executor,
        batch: &mut Batch<'_, '_>,
        (image, patches): (&ImageSpec, &[f32]),
        scores: &mut [f32],
        observer: &mut dyn Observer,
    ) -> Result<()> {
        assert!(batch.tokens() <= s.chunk, "{} rows of images", batch.tokens());
        for run in batch.runs() {
            run.states.state_mut(0).begin_text(image.rows());
        }
        batch.begin();
        let read = self.embed(s, batch).and_then(|()| {
            self.add_patches(s, image, patches);
            self.through(0..self.spec.layers.len(), s, batch, observer)
        });
        let read =
            read.and_then(|()| if batch.all_cancelled() { Err(EngineError::Cancelled) } else { Ok(()) });
        if let Err(error) = read {
            batch.rollback();
            return Err(error);
        }
        batch.commit();
        let rows = 0..batch.tokens() * self.spec.d_model;
        if let Some(norm) = &self.weights.encoder_norm {
            norm.apply(self.compute, &s.x[rows.clone()], &mut s.normed[rows]);
        }
        self.scores(s, image, scores);
        Ok(())
    }

    /// Adds what patches are projected to, and the row before them, to the rows of images.
    fn add_patches(&self, s: &mut Executor, image: &ImageSpec, patches: &[f32]) {
        let Some(weights) = &self.weights.image else { return };
        let (d, width) = (self.spec.d_model, image.patch_numbers());
        let images = s.x.chunks_exact_mut(image.rows() * d);
        for (x, patches) in images.zip(patches.chunks_exact(image.patches() * width)) {
            let (first, rows) = x.split_at_mut(image.first() * d);
            first.iter_mut().zip(&weights.first).for_each(|(x, first)| *x += first);
            for (rows, patches) in rows.chunks_mut(PASS * d).zip(patches.chunks(PASS * width)) {
                self.compute.pack(patches, width, [weights.patches.weight.format], &mut s.products.packed);
                let out = &mut s.branch[..rows.len()];
                self.compute.linear(&weights.patches, &s.products.packed, out, &mut s.products.grouped);
                self.compute.add(1.0, out, rows, d);
            }
        }
    }

    /// What the head makes of each image.
    fn scores(&self, s: &mut Executor, image: &ImageSpec, scores: &mut [f32]) {
        let (d, head) = (self.spec.d_model, &self.weights.head);
        let images = s.normed.chunks_exact(image.rows() * d);
        for (rows, scores) in images.zip(scores.chunks_exact_mut(image.scores())) {
            let pooled = &mut s.branch[..d];
            let mut tell = |row: &[f32], scores: &mut [f32]| {
                self.compute.pack(row, d, [head.weight.format], &mut s.products.packed);
                self.compute.linear(head, &s.products.packed, scores, &mut []);
            };
            let patches = rows[image.first() * d..].chunks_exact(d);
            match image.head.pool {
                ImagePool::Each => {
                    let scores = scores.chunks_exact_mut(image.head.classes);
                    patches.zip(scores).for_each(|(patch, scores)| tell(patch, scores));
                    continue;
                }
                ImagePool::First => pooled.copy_from_slice(&rows[..d]),
                ImagePool::Mean => {
                    pooled.fill(0.0);
                    patches.for_each(|row| self.compute.kernels.axpy(1.0, row, pooled));
                    self.compute.kernels.scale(1.0 / image.patches() as f32, pooled);
                }
            }
            tell(pooled, scores);
        }
    }
}
