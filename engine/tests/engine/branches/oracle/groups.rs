//! Experts that read what those before them give, written out.

use moelten_loader::spec::{BranchSpec, Op};
use moelten_loader::tensors::roles::LayerTensor as T;

use super::block::Block;
use super::{Layer, Rows, linear, softmax};

impl Layer<'_> {
    /// Experts that stand for groups of those of the branch before them.
    pub(super) fn groups(
        self,
        branch: &BranchSpec,
        size: usize,
        parent: &BranchSpec,
        before: &(Rows, Rows),
    ) -> Rows {
        let (Op::Moe(spec), Op::Moe(chooses)) = (&branch.op, &parent.op) else { unreachable!("mixtures") };
        let read =
            self.norm(parent.pre_norm, T::PreNorm(parent.place), T::PreNormBias(parent.place), &before.0);
        let all = Block::new(self, &spec.expert, T::AdjugateExperts, T::ExpertsBias);
        let token = |(x, y): (&Vec<f64>, &Vec<f64>)| {
            let scores = softmax(&linear(self.weights(T::Router), None, x));
            let mut order: Vec<usize> = (0..chooses.experts).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let k = chooses.router.select.max_experts().min(spec.experts);
            let groups: Vec<usize> = order[..k].iter().map(|expert| expert / size).collect();
            let total: f64 = groups.iter().map(|&group| scores[group]).sum();
            let mut out = vec![0.0; y.len()];
            for group in groups {
                let given = all.of_expert(group, y.len()).apply(y);
                out.iter_mut().zip(given).for_each(|(out, y)| *out += scores[group] / total * y);
            }
            out
        };
        read.iter().zip(&before.1).map(token).collect()
    }
}
