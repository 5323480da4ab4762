//! Lowering of mixtures of attention heads (JetMoE): attention as other families would have it becomes a bank
//! of experts. It must not know feed-forward blocks.

use crate::config::fields::RawConfig;
use crate::config::limits::MAX_EXPERTS;
use crate::error::{Fault, LoadError, Result};
use crate::spec::{AttentionSpec, HeadExpertsSpec, KvSource, QkNorm, RouterSpec, Select};

/// The mixture of heads of a layer whose attention is `attention`: its query heads are those of the experts of
/// a token.
pub(super) fn head_experts(raw: &RawConfig, attention: AttentionSpec) -> Result<HeadExpertsSpec> {
    let experts = raw.count(&raw.experts, 1, MAX_EXPERTS)?;
    let k = raw.count(&raw.experts_used, 1, u64::try_from(experts).unwrap_or(MAX_EXPERTS))?;
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
    let select = Select::SoftmaxTopK { k, renormalise: true };
    let router = RouterSpec { bias: false, select, scale: 1.0, expert_scales: false };
    Ok(HeadExpertsSpec { attention, experts, router })
}
