//! Lowering of adjugate experts (GroveMoE, arXiv 2508.07785): experts that stand for groups of a layer's
//! experts. It must not know how a layer is put together otherwise.

use crate::config::fields::RawConfig;
use crate::config::limits::{MAX_EXPERTS, MAX_FF};
use crate::error::{Fault, LoadError, Result};
use crate::families::AdjugateKind;
use crate::spec::{
    BranchSpec, GroupWeights, Join, LayerSpec, MlpSpec, MoeSpec, Op, Place, RouterInput, Select, SharedExpert,
};

/// Adds the adjugate experts that a model has behind the experts of a layer that has some.
/// `own` are those that the file does not describe.
pub(super) fn add_adjugate(raw: &RawConfig, own: Option<AdjugateKind>, layer: &mut LayerSpec) -> Result<()> {
    let d_ff = raw.adjugate_d_ff.value.or(own.map(|own| own.d_ff)).filter(|&width| width > 0);
    let found = layer.branches.iter().position(|branch| matches!(branch.op, Op::Moe(_)));
    let (Some(d_ff), Some(at)) = (d_ff, found) else { return Ok(()) };
    let Some(BranchSpec { op: Op::Moe(moe), .. }) = layer.branches.get(at) else { return Ok(()) };
    let beside = raw.adjugate_beside.value.unwrap_or(own.is_some());
    let weights = if beside { GroupWeights::OfExperts } else { GroupWeights::OfNumbers };
    let op = Op::Moe(adjugate(raw, own, (d_ff, weights), moe)?);
    let scale = match own {
        Some(own) => raw.positive_or(&raw.adjugate_scale, own.scale)?,
        None => raw.positive(&raw.adjugate_scale)?,
    };
    let join = if beside { Join::Beside } else { Join::Output };
    let place = Place::Adjugate;
    layer.branches.insert(at + 1, BranchSpec { place, join, pre_norm: None, op, post_norm: None, scale });
    Ok(())
}

/// The adjugate experts beside `moe`.
fn adjugate(
    raw: &RawConfig,
    own: Option<AdjugateKind>,
    (d_ff, weights): (u64, GroupWeights),
    moe: &MoeSpec,
) -> Result<MoeSpec> {
    let softmax = matches!(moe.router.select, Select::SoftmaxTopK { .. });
    if !softmax || matches!(moe.shared, SharedExpert::Gated(_)) || moe.latent.is_some() || moe.weighs_inputs {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} with these experts", raw.adjugate_d_ff.name),
            hint: "adjugate experts are supported beside the highest of a softmax".into(),
        });
    }
    let most = u64::try_from(moe.experts).unwrap_or(MAX_EXPERTS);
    let size = match own {
        Some(own) => raw.count_or(&raw.adjugate_group, own.group, 1, most)?,
        None => raw.count(&raw.adjugate_group, 1, most)?,
    };
    if !moe.experts.is_multiple_of(size) {
        let (found, other) = (size.to_string(), format!("{} experts", moe.experts));
        return Err(raw.fault(&raw.adjugate_group.name, Fault::Contradiction { found, other }));
    }
    let experts = moe.experts / size;
    let d_ff = raw.bounded(&raw.adjugate_d_ff.name, d_ff, 1, MAX_FF)?;
    let mut adjugate = moe.clone();
    adjugate.experts = experts;
    adjugate.expert = MlpSpec { d_ff, bias: false, ..moe.expert };
    adjugate.router_input = RouterInput::Groups { size, weights };
    adjugate.shared = SharedExpert::None;
    adjugate.out_bias = false;
    let k = moe.router.select.max_experts().min(experts);
    adjugate.router.select = Select::SoftmaxTopK { k, renormalise: true };
    (adjugate.router.bias, adjugate.router.expert_scales, adjugate.router.scale) = (false, false, 1.0);
    adjugate.router.listed = false;
    Ok(adjugate)
}
