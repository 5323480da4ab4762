//! Experts that stand for groups of those before them, written out.

use moelten_loader::spec::{BranchSpec, GroupWeights, Op};
use moelten_loader::tensors::roles::LayerTensor as T;

use super::block::Block;
use super::{Layer, Rows, linear, softmax};

impl Layer<'_> {
    /// Experts that stand for groups of those of the branch before them.
    pub(super) fn groups(
        self,
        branch: &BranchSpec,
        (size, weights): (usize, GroupWeights),
        parent: &BranchSpec,
        before: &(Rows, Rows),
    ) -> Rows {
        let (Op::Moe(spec), Op::Moe(chooses)) = (&branch.op, &parent.op) else { unreachable!("mixtures") };
        let read =
            self.norm(parent.pre_norm, T::PreNorm(parent.place), T::PreNormBias(parent.place), &before.0);
        let all = Block::new(self, &spec.expert, T::AdjugateExperts, T::ExpertsBias);
        let beside = weights == GroupWeights::OfExperts;
        let token = |(x, y): (&Vec<f64>, &Vec<f64>)| {
            let scores = softmax(&linear(self.weights(T::Router), None, x));
            let mut order: Vec<usize> = (0..chooses.experts).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let k = chooses.router.select.max_experts();
            // Each chosen expert visits its group by itself: weights of the same group add up.
            let chosen: Vec<usize> = order[..if beside { k } else { k.min(spec.experts) }].into();
            let score = |expert: usize| scores[if beside { expert } else { expert / size }];
            let total: f64 = chosen.iter().map(|&expert| score(expert)).sum();
            let scale = if beside { f64::from(chooses.router.scale) } else { 1.0 };
            let mut out = vec![0.0; y.len()];
            for expert in chosen {
                let given = all.of_expert(expert / size, y.len()).apply(if beside { x } else { y });
                out.iter_mut().zip(given).for_each(|(out, y)| *out += scale * score(expert) / total * y);
            }
            out
        };
        read.iter().zip(&before.1).map(token).collect()
    }
}
