//! The mixture of experts (arXiv 1701.06538, 2401.04088): route, then expert by expert in ascending id, each over
//! all of the chunk's tokens that chose it. The order of summation is fixed: expert id, shared expert last.

use moelten_loader::spec::{Activation, MoeSpec};
use moelten_loader::store::MatrixRef;

use crate::error::Result;
use crate::experts::ExpertStore;
use crate::layers::linear::Compute;
use crate::layers::mlp::MlpView;
use crate::scratch::{MlpScratch, MoeScratch};

/// One layer's router and shared expert; the routed experts are the store's.
#[derive(Debug, Clone)]
pub struct Moe {
    /// Shape and routing rules.
    pub spec: MoeSpec,
    /// `[experts, d_model]`.
    pub router: MatrixRef,
    /// The shared expert, if there is one.
    pub shared: Option<Shared>,
}

/// An expert that every token visits.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Its matrices and activation.
    pub mlp: Mlp,
    /// `[1, d_model]`: its output is multiplied by `sigmoid(x . gate)`.
    pub gate: Option<MatrixRef>,
}

/// A feed-forward block outside the expert store.
#[derive(Debug, Clone, Copy)]
pub struct Mlp {
    /// `[d_ff, d_model]`.
    pub gate: MatrixRef,
    /// `[d_ff, d_model]`.
    pub up: MatrixRef,
    /// `[d_model, d_ff]`.
    pub down: MatrixRef,
    /// Applied to the gate.
    pub activation: Activation,
}

impl Mlp {
    /// The matrices, ready to multiply with.
    pub fn view<'a>(&self, compute: Compute<'a>) -> MlpView<'a> {
        let view = |matrix| compute.tensors.view(matrix);
        MlpView {
            gate: view(&self.gate),
            up: view(&self.up),
            down: view(&self.down),
            activation: self.activation,
        }
    }
}

impl Moe {
    /// `out = moe(x)`, both `[tokens, d_model]`. `layer` is this layer's number in the store; the routing stays in
    /// `s.routing` for whoever observes it.
    #[allow(clippy::too_many_arguments, reason = "every argument is one of the operation's operands")]
    pub fn forward(
        &self,
        compute: Compute<'_>,
        store: &ExpertStore,
        layer: usize,
        x: &[f32],
        s: &mut MoeScratch,
        mlp: &mut MlpScratch,
        out: &mut [f32],
        tmp: &mut [f32],
    ) -> Result<()> {
        let (experts, d_model) = (self.spec.experts, self.router.cols);
        let tokens = x.len() / d_model;
        let logits = &mut s.logits[..tokens * experts];
        compute.matmul(compute.tensors.view(&self.router), x, tokens, logits, tmp);
        s.routing.route(&self.spec.router, logits, experts);
        s.list_needed();
        let acquired = store.acquire(layer, &s.needed)?;
        out.fill(0.0);
        for &id in &s.needed {
            let expert = acquired.expert(id)?;
            s.visitors.clear();
            s.gathered.clear();
            for token in 0..tokens {
                let (ids, weights) = s.routing.token(token);
                if let Some(choice) = ids.iter().position(|&chosen| chosen == id) {
                    s.visitors.push((token, weights[choice]));
                    s.gathered.extend_from_slice(&x[token * d_model..][..d_model]);
                }
            }
            let by_rows = &mut s.by_rows[..s.visitors.len() * d_model];
            expert.forward_by_rows(compute, &s.gathered, s.visitors.len(), mlp, by_rows);
            scatter(by_rows, &s.visitors, out, d_model);
        }
        if let Some(shared) = &self.shared {
            let by_rows = &mut s.by_rows[..tokens * d_model];
            shared.mlp.view(compute).forward_by_rows(compute, x, tokens, mlp, by_rows);
            s.visitors.clear();
            s.visitors.extend((0..tokens).map(|token| {
                let x = &x[token * d_model..][..d_model];
                (token, shared.weight(compute, x))
            }));
            scatter(by_rows, &s.visitors, out, d_model);
        }
        Ok(())
    }
}

impl Shared {
    /// Weight of the shared expert for one token's input.
    fn weight(&self, compute: Compute<'_>, x: &[f32]) -> f32 {
        let Some(gate) = &self.gate else { return 1.0 };
        let mut score = [0.0];
        compute.kernels.matmul(compute.tensors.view(gate), x, 1, &mut score);
        1.0 / (1.0 + (-score[0]).exp())
    }
}

impl MoeScratch {
    /// The experts that any token chose, ascending.
    fn list_needed(&mut self) {
        self.needed.clear();
        for token in 0..self.routing.tokens() {
            self.needed.extend_from_slice(self.routing.token(token).0);
        }
        self.needed.sort_unstable();
        self.needed.dedup();
    }
}

/// Adds `weight * y` to each visitor's row of `out` (`[tokens, d_model]`); `by_rows` is `[d_model, visitors]`.
fn scatter(by_rows: &[f32], visitors: &[(usize, f32)], out: &mut [f32], d_model: usize) {
    for (visitor, &(token, weight)) in visitors.iter().enumerate() {
        let out = &mut out[token * d_model..][..d_model];
        for (out, y) in out.iter_mut().zip(by_rows[visitor..].iter().step_by(visitors.len())) {
            *out += weight * y;
        }
    }
}
