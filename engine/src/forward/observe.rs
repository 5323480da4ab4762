//! Watching a forward pass: routing traces, progress, the inputs of matrices. It must not know what becomes
//! of what is seen.

use moelten_loader::spec::BankKey;

use crate::layers::ffn::router::Routing;
use crate::layers::ffn::visits::Visits;
use crate::layers::squares::HiddenSquares;
use crate::runtime::pool::Pool;

/// Sees what a forward pass does.
pub trait Observer: Send {
    /// A layer begins.
    fn layer(&mut self, _layer: usize) {}

    /// A bank's router has chosen experts for the tokens of the batch.
    fn routed(&mut self, _bank: BankKey, _routing: &Routing) {}

    /// Where the inputs of all matrices go, if they are wanted.
    fn inputs(&mut self) -> Option<&mut dyn InputObserver> {
        None
    }
}

/// An observer that sees nothing.
impl Observer for () {}

/// Sees the inputs of all matrices. Branches are named by their layer and their number in it.
pub trait InputObserver {
    /// The inputs of an attention branch, `[tokens, d_model]`, and of its output projection, `[tokens, heads
    /// * head_dim]`.
    fn attention(&mut self, pool: &Pool, branch: (usize, usize), x: &[f32], mixed: &[f32]);

    /// The inputs of a feed-forward branch, `[tokens, d_model]`, and which experts they visit.
    fn ffn(&mut self, pool: &Pool, branch: (usize, usize), x: &[f32], visits: Option<&Visits>);

    /// Where that branch's hidden layers go.
    fn hidden(&mut self, branch: (usize, usize)) -> HiddenSquares<'_>;

    /// The inputs of the head, `[tokens, d_model]`.
    fn head(&mut self, pool: &Pool, x: &[f32]);
}
