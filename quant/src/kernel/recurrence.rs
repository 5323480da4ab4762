//! One token of a recurrence with a matrix for each head: what is computed, on which numbers. A step reads
//! the matrix as it was and writes it as it is, in one go. It must not know how many heads or tokens there
//! are.

/// A head's matrix before and after a token.
pub struct HeadMatrix<'a> {
    /// Before it, `[rows, columns]`; `None` if that is in `now`.
    pub before: Option<&'a [f32]>,
    /// After it.
    pub now: &'a mut [f32],
}

impl<'a> HeadMatrix<'a> {
    /// The matrix where it goes, copied there if it is not there yet, for what changes it in place.
    pub fn moved(self) -> &'a mut [f32] {
        let Self { before, now } = self;
        if let Some(before) = before {
            now.copy_from_slice(before);
        }
        now
    }

    pub(super) fn check(&self, rows: usize, columns: usize) {
        assert_eq!(self.now.len(), rows * columns, "the matrix is not [rows, columns]");
        assert!(self.before.is_none_or(|before| before.len() == self.now.len()), "the matrix before");
    }
}

/// A step by the delta rule (arXiv 2412.06464): the matrix, `[key_dim, value_dim]`, forgets, is corrected by
/// what it holds under the key, and is read with the query.
pub struct DeltaStep<'a> {
    /// `[key_dim, value_dim]`.
    pub matrix: HeadMatrix<'a>,
    /// What each row keeps of itself, `[key_dim]`.
    pub keep: &'a [f32],
    /// Query, `[key_dim]`.
    pub q: &'a [f32],
    /// Key, `[key_dim]`.
    pub k: &'a [f32],
    /// Value, `[value_dim]`.
    pub v: &'a [f32],
    /// How much of the difference to the value is corrected.
    pub strength: f32,
}

/// A step of a state space with one rate (arXiv 2405.21060): every row of the matrix, `[rows, state]`,
/// forgets, takes up its part of the input, and is read.
pub struct SpaceStep<'a> {
    /// `[rows, state]`.
    pub matrix: HeadMatrix<'a>,
    /// What the matrix keeps of itself.
    pub keep: f32,
    /// Input of the rows, `[rows]`.
    pub x: &'a [f32],
    /// How much of it they take up.
    pub step: f32,
    /// Where they take it up, `[state]`.
    pub b: &'a [f32],
    /// What is read, `[state]`.
    pub c: &'a [f32],
}
