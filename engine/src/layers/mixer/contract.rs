//! What a pass needs of an operation in which the tokens of a sequence exchange information: project the
//! tokens of all sequences, mix those of each sequence with its state, project the results. It must not
//! know which operations there are.

use std::ops::Range;

use crate::layers::linear::Compute;
use crate::layers::rope::Angles;
use crate::layers::scratch::{AttentionScratch, ProductScratch};
use crate::state::LayerState;

/// An operation with a state.
pub trait Mixer {
    /// Computes queries, keys and values of `x`, `[tokens, d_model]`, normed and rotated, into `s`. The first
    /// token of `x` is token `first` of the batch, by which `angles` are indexed.
    fn project(
        &self,
        compute: Compute<'_>,
        angles: &[Angles],
        first: usize,
        x: &[f32],
        s: &mut AttentionScratch,
        products: &mut ProductScratch,
    );

    /// Mixes tokens of one sequence, after [`Self::project`]. What later tokens need is appended to the
    /// state. `tokens` are their indices in `s`; the first has position `position` in its sequence.
    fn mix(
        &self,
        compute: Compute<'_>,
        state: &mut LayerState,
        position: usize,
        tokens: Range<usize>,
        s: &mut AttentionScratch,
    );

    /// Whether every token sees all tokens of the text, so that all of them are projected and given to
    /// [`Self::take`] before any is mixed.
    fn whole(&self) -> bool {
        false
    }

    /// Writes to the state what all tokens of a text need of some of them, after [`Self::project`]; arguments
    /// as those of [`Self::mix`]. Operations that see the past alone do that as they mix.
    fn take(
        &self,
        _compute: Compute<'_>,
        _state: &mut LayerState,
        _position: usize,
        _tokens: Range<usize>,
        _s: &AttentionScratch,
    ) {
    }

    /// Sets the mixed values of tokens to 0, for runs that were cancelled.
    fn skip(&self, tokens: Range<usize>, s: &mut AttentionScratch);

    /// The output projection of the mixed values; `out` is `[tokens, d_model]`. Returns its input.
    fn output<'s>(
        &self,
        compute: Compute<'_>,
        s: &'s mut AttentionScratch,
        products: &mut ProductScratch,
        out: &mut [f32],
    ) -> &'s [f32];

    /// Tokens that it computes at once.
    fn pass_tokens(&self) -> usize;
}
