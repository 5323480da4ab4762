//! The choice of a task of a model of images that has several. It must not know files.

use crate::spec::{ModelSpec, Op};

/// Why a task cannot be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// The model has no tasks.
    #[error("it has no tasks to choose from")]
    None,
    /// It has no task of this name.
    #[error("it has no task \"{asked}\"; its tasks are {}", known.join(", "))]
    Unknown {
        /// The name.
        asked: String,
        /// The names of its tasks.
        known: Vec<String>,
    },
}

impl ModelSpec {
    /// Computes the task of this name from now on: its patches and places, its routers and their choice, its
    /// head.
    ///
    /// # Errors
    /// [`TaskError`]; the model is as it was then.
    pub fn choose_task(&mut self, name: &str) -> Result<(), TaskError> {
        let Some(image) = self.image.as_mut().filter(|_| !self.tasks.is_empty()) else {
            return Err(TaskError::None);
        };
        let Some(number) = self.tasks.iter().position(|task| task.name == name) else {
            let known = self.tasks.iter().map(|task| task.name.clone()).collect();
            return Err(TaskError::Unknown { asked: name.to_owned(), known });
        };
        let (before, rest) = self.tasks.split_at(number);
        let Some(task) = rest.first() else { return Err(TaskError::None) };
        image.task = number;
        image.head = task.head;
        image.first_class = before.iter().map(|task| task.head.classes).sum();
        for branch in self.layers.iter_mut().flat_map(|layer| &mut layer.branches) {
            if let (Op::Moe(moe), Some(router)) = (&mut branch.op, &task.router) {
                moe.router = router.clone();
            }
        }
        Ok(())
    }
}
