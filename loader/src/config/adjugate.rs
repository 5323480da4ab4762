//! Lowering of adjugate experts (GroveMoE, arXiv 2508.07785): experts that stand for groups of a layer's
//! experts and read what those give. It must not know how a layer is put together otherwise.

use crate::config::fields::RawConfig;
use crate::config::limits::{MAX_EXPERTS, MAX_FF};
use crate::error::{Fault, LoadError, Result};
use crate::spec::{
    BranchSpec, Join, LayerSpec, MlpSpec, MoeSpec, Op, Place, RouterInput, Select, SharedExpert,
};

/// Adds the adjugate experts that the configuration has behind the experts of a layer that has some.
pub(super) fn add_adjugate(raw: &RawConfig, layer: &mut LayerSpec) -> Result<()> {
    if raw.adjugate_d_ff.value.is_none_or(|width| width == 0) {
        return Ok(());
    }
    let Some(at) = layer.branches.iter().position(|branch| matches!(branch.op, Op::Moe(_))) else {
        return Ok(());
    };
    let Some(BranchSpec { op: Op::Moe(moe), .. }) = layer.branches.get(at) else { return Ok(()) };
    let op = Op::Moe(adjugate(raw, moe)?);
    let scale = raw.positive(&raw.adjugate_scale)?;
    let (place, join) = (Place::Adjugate, Join::Output);
    layer.branches.insert(at + 1, BranchSpec { place, join, pre_norm: None, op, post_norm: None, scale });
    Ok(())
}

/// The adjugate experts beside `moe`.
fn adjugate(raw: &RawConfig, moe: &MoeSpec) -> Result<MoeSpec> {
    let softmax = matches!(moe.router.select, Select::SoftmaxTopK { .. });
    if !softmax || matches!(moe.shared, SharedExpert::Gated(_)) || moe.latent.is_some() || moe.weighs_inputs {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} with these experts", raw.adjugate_d_ff.name),
            hint: "adjugate experts are supported beside the highest of a softmax".into(),
        });
    }
    let size = raw.count(&raw.adjugate_group, 1, u64::try_from(moe.experts).unwrap_or(MAX_EXPERTS))?;
    if !moe.experts.is_multiple_of(size) {
        let (found, other) = (size.to_string(), format!("{} experts", moe.experts));
        return Err(raw.fault(&raw.adjugate_group.name, Fault::Contradiction { found, other }));
    }
    let experts = moe.experts / size;
    let d_ff = raw.count(&raw.adjugate_d_ff, 1, MAX_FF)?;
    let mut adjugate = moe.clone();
    adjugate.experts = experts;
    adjugate.expert = MlpSpec { d_ff, bias: false, ..moe.expert };
    adjugate.router_input = RouterInput::Groups { size };
    adjugate.shared = SharedExpert::None;
    adjugate.out_bias = false;
    let k = moe.router.select.max_experts().min(experts);
    adjugate.router.select = Select::SoftmaxTopK { k, renormalise: true };
    (adjugate.router.bias, adjugate.router.expert_scales, adjugate.router.scale) = (false, false, 1.0);
    adjugate.router.listed = false;
    Ok(adjugate)
}
