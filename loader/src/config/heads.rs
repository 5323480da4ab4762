//! Lowering of mixtures of attention heads (JetMoE): attention as other families would have it becomes a bank
//! of experts. It must not know feed-forward blocks.

use crate::config::fields::RawConfig;
use crate::config::limits::MAX_EXPERTS;
use crate::error::{Fault, LoadError, Result};
use crate::spec::{AttentionSpec, HeadExpertsSpec, KvSource, QkNorm, RouterSpec, Select};

/// The mixture of heads of a layer whose attention is `attention`: its query heads are those of the experts
/// of a token.
pub(super) fn head_experts(
    raw: &RawConfig,
    attention: AttentionSpec,
    renormalise: bool,
) -> Result<HeadExpertsSpec> {
    let experts = match raw.head_experts.value {
        Some(_) => raw.count(&raw.head_experts, 1, MAX_EXPERTS)?,
        None => raw.count(&raw.experts, 1, MAX_EXPERTS)?,
    };
    let limit = u64::try_from(experts).unwrap_or(MAX_EXPERTS);
    let k = match raw.head_experts_used.value {
        Some(_) => raw.count(&raw.head_experts_used, 1, limit)?,
        None if raw.router_threshold.value.is_some() => experts,
        None => raw.count(&raw.experts_used, 1, limit)?,
    };
    let plain = attention.gate.is_none()
        && attention.qk_norm == QkNorm::None
        && attention.source == KvSource::Projected
        && attention.value_dim == attention.head_dim
        && !attention.qkv_bias
        && !attention.sinks;
    if !plain {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: "attention experts with norms, gates, sinks or biases of queries".into(),
            hint: "they are supported as JetMoE has them".into(),
        });
    }
    if !attention.heads.is_multiple_of(k * attention.kv_heads) {
        let other = format!("{k} experts of a token with {} key and value heads", attention.kv_heads);
        let found = format!("{} query heads", attention.heads);
        return Err(raw.fault(&raw.heads.name, Fault::Contradiction { found, other }));
    }
    let select = threshold(raw, k, renormalise)?.unwrap_or(Select::SoftmaxTopK { k, renormalise });
    let router =
        RouterSpec { bias: false, select, scale: 1.0, listed: false, expert_scales: false, capacity: None };
    Ok(HeadExpertsSpec { attention, experts, router })
}

/// The choice by a threshold, of at most `most` experts, if the file has one.
pub(super) fn threshold(raw: &RawConfig, most: usize, renormalise: bool) -> Result<Option<Select>> {
    if raw.router_threshold.value.is_none() {
        return Ok(None);
    }
    let eps = raw.non_negative(&raw.router_threshold)?;
    if eps >= 1.0 {
        let (found, must) = (eps.to_string(), "from 0 up to 1");
        return Err(raw.fault(&raw.router_threshold.name, Fault::BadNumber { found, must }));
    }
    Ok(Some(Select::Threshold { eps, most, renormalise }))
}
