//! The weights of a router: from the tokens of a batch to the experts of each. It must not know what the
//! experts are for.

use moelten_loader::spec::RouterSpec;
use moelten_loader::tensors::bank::MatrixRef;

use crate::layers::linear::{Compute, Packed};
use crate::layers::scratch::RouteScratch;

/// A router with its vectors in f32.
#[derive(Debug, Clone)]
pub struct RouterWeights {
    /// The rule of the choice.
    pub spec: RouterSpec,
    /// `[experts, d_model]`.
    pub weight: MatrixRef,
    /// `[experts]`, added to the logits.
    pub bias: Option<Vec<f32>>,
    /// Factors on the weights of experts, `[experts]`; empty without them.
    pub expert_scales: Vec<f32>,
    /// Added to the scores of experts for the choice alone, `[experts]`; empty without one.
    pub select_bias: Vec<f32>,
    /// The experts of each token of the vocabulary, `[vocab, k]`; empty where experts are chosen.
    pub listed: Vec<u16>,
}

impl RouterWeights {
    /// Chooses the experts of each token of `x`, `[tokens, d_model]`. The result stays in `s.routing` for
    /// observers. Tokens that are not `live` get no expert: their run was cancelled. `token` returns the id
    /// of a token.
    pub fn route(
        &self,
        compute: Compute<'_>,
        x: &[f32],
        (live, token): (impl Fn(usize) -> bool, impl Fn(usize) -> u32),
        s: &mut RouteScratch,
        packed: &mut Packed,
        grouped: &mut [f32],
    ) {
        let (experts, d_model) = (self.weight.rows, self.weight.cols);
        let tokens = x.len() / d_model;
        let weight = compute.tensors.view(&self.weight);
        compute.pack(x, d_model, [weight.format()], packed);
        let logits = &mut s.logits[..tokens * experts];
        let by_rows = &mut grouped[..tokens * experts];
        compute.products(&[(weight, packed.for_matrix(&weight))], by_rows);
        compute.ungroup(by_rows, experts, self.bias.as_deref(), logits);
        let listed = |row| self.listed_for(token(row));
        s.routing.route(&self.spec, &self.select_bias, logits, experts, live, listed);
        if let Some(capacity) = self.spec.capacity {
            s.routing.limit(capacity, self.spec.scale, experts);
        }
        s.routing.scale_experts(&self.expert_scales);
    }

    /// The experts that are listed for a token of the vocabulary.
    pub fn listed_for(&self, token: u32) -> Option<&[u16]> {
        let k = self.spec.select.max_experts();
        self.listed.get(token as usize * k..(token as usize + 1) * k)
    }
}
