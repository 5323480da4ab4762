//! Sums of squares of the inputs of matrices, column by column: quantising weights columns with large inputs
//! more. It must not know which matrices a model has.

use std::sync::{Mutex, PoisonError};

use crate::layers::ffn::visits::Visits;
use crate::runtime::pool::Pool;

/// Columns that one task adds up.
const COLUMNS: usize = 64;

/// Sums of squares of the inputs of a matrix, of several matrices with the same input, or of each expert of a
/// bank.
#[derive(Debug, Default)]
pub struct Squares {
    cols: usize,
    sums: Vec<f32>,
    counts: Vec<u64>,
}

impl Squares {
    /// Sums `[rows, cols]` that are all 0.
    pub fn new(rows: usize, cols: usize) -> Self {
        Self { cols, sums: vec![0.0; rows * cols], counts: vec![0; rows] }
    }

    /// Number of columns of the matrices.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `[rows, cols]`: one row, or one row for each expert.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// `[rows]`: the number of inputs in each row of sums.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Adds all tokens of `x`, `[tokens, cols]`, to sums of one row.
    pub fn add(&mut self, pool: &Pool, x: &[f32]) {
        let cols = self.cols;
        self.counts[0] += (x.len() / cols) as u64;
        pool.chunks(&mut self.sums, 1, COLUMNS, |columns, sums| {
            add_columns(x.chunks_exact(cols).map(|x| &x[columns.clone()]), sums);
        });
    }

    /// Adds the tokens of `x`, `[tokens, cols]`, to the rows of the experts that they visit.
    pub fn add_visits(&mut self, pool: &Pool, x: &[f32], visits: &Visits) {
        let cols = self.cols;
        for (index, &expert) in visits.experts.iter().enumerate() {
            self.counts[expert as usize] += visits.of(index).len() as u64;
        }
        pool.chunks(&mut self.sums, cols, 1, |expert, sums| {
            let Ok(index) = visits.experts.binary_search(&(expert.start as u32)) else { return };
            for (first, sums) in (0..).step_by(COLUMNS).zip(sums.chunks_mut(COLUMNS)) {
                let columns = first..first + sums.len();
                let tokens = visits.of(index).iter().map(|&(token, _)| &x[token as usize * cols..]);
                add_columns(tokens.map(|x| &x[columns.clone()]), sums);
            }
        });
    }

    /// Moves a [`HiddenSum`] over `inputs` inputs to a row.
    pub fn add_hidden(&mut self, row: usize, inputs: usize, from: &mut HiddenSum) {
        let from = from.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.counts[row] += inputs as u64;
        for (sum, from) in self.sums[row * self.cols..][..self.cols].iter_mut().zip(from) {
            *sum += std::mem::take(from) as f32;
        }
    }
}

/// Adds the squares of `rows` to `sums`, which are as long as a row. Sums of squares are in double precision.
fn add_columns<'a>(rows: impl Iterator<Item = &'a [f32]>, sums: &mut [f32]) {
    let mut wide = [0.0; COLUMNS];
    for row in rows {
        for (wide, &x) in wide.iter_mut().zip(row) {
            *wide += f64::from(x) * f64::from(x);
        }
    }
    for (sum, wide) in sums.iter_mut().zip(wide) {
        *sum += wide as f32;
    }
}

/// Sums of squares of the hidden layer of one visit. Threads add groups of columns, each column by one
/// thread.
#[derive(Debug, Default)]
pub struct HiddenSum(Mutex<Vec<f64>>);

impl HiddenSum {
    /// Sums of `columns` columns that are all 0.
    pub fn new(columns: usize) -> Self {
        Self(Mutex::new(vec![0.0; columns]))
    }

    /// Adds `x`, `[tokens, width]`, to the columns from `first` on.
    pub fn add(&self, first: usize, width: usize, x: &[f32]) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = &mut sums[first..first + width];
        for x in x.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
    }
}

/// The sums for the hidden layers of a branch.
pub struct HiddenSquares<'a> {
    /// Sums of each routed expert.
    pub experts: &'a mut Squares,
    /// Sums of the dense block or of the shared expert.
    pub dense: &'a mut Squares,
    /// Sums of each visit that is being computed.
    pub sums: &'a mut [HiddenSum],
}
