//! The task of a model of images: every task has a part of some matrices. It must not know what they are for.

use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::bank::MatrixRef;

/// Which part of matrices belongs to the task that is computed: the tasks lie one below the other.
#[derive(Clone, Copy)]
pub(super) struct Task {
    number: usize,
    count: usize,
}

impl Task {
    /// The task that a spec has chosen; of a model without tasks, the whole.
    pub fn of(spec: &ModelSpec) -> Self {
        Self { number: spec.image.map_or(0, |image| image.task), count: spec.task_count() }
    }

    /// Its rows of a matrix.
    pub fn rows(self, matrix: MatrixRef) -> MatrixRef {
        let rows = matrix.rows / self.count;
        matrix.some_rows(self.number * rows..(self.number + 1) * rows)
    }

    /// Its part of a vector.
    pub fn numbers(self, all: &[f32]) -> Vec<f32> {
        let length = all.len() / self.count;
        all[self.number * length..(self.number + 1) * length].to_vec()
    }
}
