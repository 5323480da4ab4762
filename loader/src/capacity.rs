//! The capacity of a model's experts, read and replaced. It must not know how tokens are counted.

use crate::spec::{CapacitySpec, ExpertLimit, LayerSpec, ModelSpec, Op, Select};

impl ModelSpec {
    /// Sets how many tokens of a text the experts of the encoder take, all that choose them if `None`; false
    /// if it has no experts.
    pub fn set_capacity(&mut self, limit: Option<ExpertLimit>) -> bool {
        let encoder = self.encoder.map_or(0, |encoder| encoder.layers);
        let branches = self.layers.iter_mut().take(encoder).flat_map(|layer| &mut layer.branches);
        let mut found = false;
        for branch in branches {
            let Op::Moe(moe) = &mut branch.op else { continue };
            found = true;
            let renormalises = match &moe.router.select {
                Select::SoftmaxTopK { renormalise, .. } | Select::Threshold { renormalise, .. } => {
                    *renormalise
                }
                _ => false,
            };
            let renormalise = moe.router.capacity.map_or(renormalises, |capacity| capacity.renormalise);
            let prioritised = moe.router.capacity.is_some_and(|capacity| capacity.prioritised);
            moe.router.capacity = limit.map(|limit| CapacitySpec { limit, renormalise, prioritised });
        }
        found
    }

    /// How many tokens of a text an expert of the encoder takes; `None` without experts or a limit.
    pub fn capacity(&self) -> Option<ExpertLimit> {
        let moes = self.layers.iter().filter_map(LayerSpec::moe);
        moes.filter_map(|moe| moe.router.capacity).map(|capacity| capacity.limit).next()
    }
}
