//! Lowering of feed-forward operations: dense blocks, mixtures of experts, their routers. It must not know
//! attention.

use crate::config::compressed::listing_layers;
use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::config::heads::threshold;
use crate::config::limits::{Container, MAX_EXPERTS, MAX_EXPERTS_TOTAL, MAX_FF, MAX_WIDTH, setting};
use crate::config::sources::sharing_layers;
use crate::error::{Fault, LoadError, Result};
use crate::families::{
    ActivationKind, ExpertWidth, Family, RouterInputKind, RouterKind, Setting, SharedKind,
};
use crate::spec::{
    Activation, ExpertGroups, MlpSpec, MoeSpec, Op, Renormalise, RouterInput, RouterSpec, Scoring, Select,
    SharedExpert,
};

/// The feed-forward operation of each layer.
pub(super) fn ffn_layers(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
) -> Result<Vec<Op>> {
    let activation = activation(raw, family)?;
    let bias = raw.mlp_bias.get() == Some(&true);
    if bias && raw.experts.value.is_some() {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = true in a model with experts", raw.mlp_bias.name),
            hint: "biases in dense feed-forward blocks are".into(),
        });
    }
    let mlp = |d_ff: usize| MlpSpec { d_ff, gated: !family.ungated, activation, bias: false };
    let dense = |layer: usize| dense_width(raw, layers, layer);
    let bounded = |mlp: MlpSpec, field, layer| bounded(raw, family, field, (layers, layer), mlp);
    let listed = raw.moe_layers.value.as_deref();
    if let Some(listed) = listed
        && listed.len() != layers
    {
        let found = format!("a list of {} layers", listed.len());
        return Err(raw
            .fault(&raw.moe_layers.name, Fault::Contradiction { found, other: format!("{layers} layers") }));
    }
    let has_experts = raw.experts.value.is_some();
    let moe = if has_experts { Some(moe(raw, family, container, layers, &mlp)?) } else { None };
    if let Some(moe) = moe.as_ref().filter(|moe| moe.experts.saturating_mul(layers) > MAX_EXPERTS_TOTAL) {
        let other = format!("{layers} layers: more than {MAX_EXPERTS_TOTAL} experts in all");
        return Err(
            raw.fault(&raw.experts.name, Fault::Contradiction { found: moe.experts.to_string(), other })
        );
    }
    let listing = listing_layers(raw, layers)?;
    let lists = |layer: usize| listing.get(layer) == Some(&true);
    (0..layers)
        .map(|layer| match &moe {
            Some(moe) if listed.is_none_or(|l| l.get(layer).copied().unwrap_or(true)) => {
                let d_ff = match family.expert_width {
                    ExpertWidth::Own | ExpertWidth::Either => moe.expert.d_ff,
                    ExpertWidth::AsDense => dense(layer)?,
                };
                let expert = bounded(MlpSpec { d_ff, ..moe.expert }, &raw.expert_bounds, layer)?;
                let shared = match moe.shared {
                    SharedExpert::Plain(mlp) => {
                        let own = raw.shared_bounds.value.is_some()
                            || family.activation != ActivationKind::ClampedSilu;
                        let field = if own { &raw.shared_bounds } else { &raw.expert_bounds };
                        SharedExpert::Plain(bounded(mlp, field, layer)?)
                    }
                    ref other => other.clone(),
                };
                let router = if lists(layer) { with_listed(&moe.router) } else { moe.router.clone() };
                Ok(Op::Moe(MoeSpec { expert, shared, router, ..moe.clone() }))
            }
            _ => {
                let block = bounded(mlp(dense(layer)?), &raw.shared_bounds, layer)?;
                Ok(Op::Mlp(MlpSpec { bias, ..block }))
            }
        })
        .collect()
}

/// The router with experts that are listed.
fn with_listed(router: &RouterSpec) -> RouterSpec {
    let mut router = RouterSpec { listed: true, ..router.clone() };
    if let Select::Scored { bias, groups, .. } = &mut router.select {
        (*bias, *groups) = (false, None);
    }
    router
}

/// A block with the bound that a list says for its layer.
fn bounded(
    raw: &RawConfig,
    family: &Family,
    field: &Field<Vec<f64>>,
    (layers, layer): (usize, usize),
    mlp: MlpSpec,
) -> Result<MlpSpec> {
    let Some(bounds) = field.value.as_ref().filter(|_| family.bounded) else { return Ok(mlp) };
    let Some(&bound) = bounds.get(layer).filter(|_| bounds.len() == layers) else {
        let found = format!("a list of {} values", bounds.len());
        return Err(raw.fault(&field.name, Fault::Contradiction { found, other: format!("{layers} layers") }));
    };
    let bound = raw.non_negative(&Field::new(field.name.clone(), Some(bound)))?;
    let activation = match mlp.activation {
        Activation::ClampedSilu { .. } if bound > 0.0 => Activation::ClampedSilu { limit: bound },
        Activation::ClampedSilu { .. } => Activation::Silu,
        _ if bound > 0.0 => Activation::BoundedSilu { limit: bound },
        other => other,
    };
    Ok(MlpSpec { activation, ..mlp })
}

/// The hidden width of a layer's dense block. A list may have 0 for layers that have none.
pub(super) fn dense_width(raw: &RawConfig, layers: usize, layer: usize) -> Result<usize> {
    if raw.dense_d_ff.value.is_some() {
        return raw.count(&raw.dense_d_ff, 1, MAX_FF);
    }
    let widths = raw.per_layer(&raw.d_ff, layers, 0, MAX_FF)?;
    let width = widths.get(layer).and_then(|width| u64::try_from(*width).ok());
    let twice = raw.double_wide.get() == Some(&true) && layer >= layers - sharing_layers(raw, layers)?;
    let width = if twice { width.map(|width| width.saturating_mul(2)) } else { width };
    raw.count(&Field::new(raw.d_ff.name.clone(), width), 1, MAX_FF)
}

fn moe(
    raw: &RawConfig,
    family: &Family,
    container: Container,
    layers: usize,
    mlp: &dyn Fn(usize) -> MlpSpec,
) -> Result<MoeSpec> {
    let experts = raw.count(&raw.experts, 1, MAX_EXPERTS)?;
    let width = match family.expert_width {
        ExpertWidth::Own => raw.count(&raw.expert_d_ff, 1, MAX_FF)?,
        ExpertWidth::Either if raw.expert_d_ff.value.is_some() => raw.count(&raw.expert_d_ff, 1, MAX_FF)?,
        ExpertWidth::Either => {
            let PerLayer(widths) = raw.d_ff.value.as_ref().ok_or_else(|| raw.missing(&raw.d_ff.name))?;
            raw.count(&Field::new(raw.d_ff.name.clone(), widths.first().copied()), 1, MAX_FF)?
        }
        ExpertWidth::AsDense => dense_width(raw, layers, 0)?,
    };
    let select = select(raw, family, container, experts)?;
    let scale = match raw.router_scale.get() {
        Some(&scale) if scale != 0.0 => raw.positive(&raw.router_scale)?,
        _ => 1.0,
    };
    // An average of two is their sum with halved weights.
    let shared_scale = if averages(raw, family)? { 0.5 } else { 1.0 };
    let scale = scale * shared_scale;
    let shared = shared(raw, family, width, mlp)?;
    let own = mlp(width);
    let expert = MlpSpec { bias: family.expert_bias, gated: own.gated && !family.ungated_experts, ..own };
    let expert_scales = family.expert_scales;
    let router =
        RouterSpec { bias: family.router_bias, select, scale, listed: false, expert_scales, capacity: None };
    let router_input = match family.router_input {
        RouterInputKind::Branch => RouterInput::Branch,
        RouterInputKind::Outset => RouterInput::Outset,
        RouterInputKind::Residual => {
            RouterInput::Residual { eps: raw.positive_or(&raw.norm_eps, family.default_eps)? }
        }
    };
    let latent = match raw.latent_width.value {
        None | Some(0) => None,
        Some(_) => Some(raw.count(&raw.latent_width, 1, MAX_WIDTH)?),
    };
    let weighs_inputs = family.weighs_inputs;
    if weighs_inputs && router.select.max_experts() != 1 {
        return Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = {}", raw.experts_used.name, router.select.max_experts()),
            hint: "experts whose inputs are weighed need one expert for each token".into(),
        });
    }
    Ok(MoeSpec {
        experts,
        expert,
        router,
        router_input,
        shared,
        latent,
        shared_scale,
        out_bias: family.experts_out_bias,
        squashed: family.experts_squashed,
        weighs_inputs,
    })
}

/// Whether the sum of routed and shared experts is halved.
fn averages(raw: &RawConfig, family: &Family) -> Result<bool> {
    match raw.shared_combination.value.as_deref() {
        None => Ok(family.averages),
        Some("average") => Ok(true),
        Some("sum") => Ok(false),
        Some(other) => Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("{} = \"{}\"", raw.shared_combination.name, other.escape_default()),
            hint: "supported are average and sum".into(),
        }),
    }
}

/// The shared expert beside routed experts of `width`.
fn shared(
    raw: &RawConfig,
    family: &Family,
    width: usize,
    mlp: &dyn Fn(usize) -> MlpSpec,
) -> Result<SharedExpert> {
    let own = || raw.count(&raw.shared_d_ff, 1, MAX_FF);
    let stated = raw.shared_d_ff.value.is_some_and(|width| width > 0);
    let count = || raw.count(&raw.shared_count, 0, MAX_EXPERTS);
    let times = |width: usize, count: usize| {
        let product = u64::try_from(width.saturating_mul(count)).unwrap_or(u64::MAX);
        raw.count(&Field::new(raw.shared_count.name.clone(), Some(product)), 0, MAX_FF)
    };
    let width = match family.shared {
        SharedKind::None => 0,
        SharedKind::Gated => return Ok(SharedExpert::Gated(mlp(own()?))),
        SharedKind::PlainIfPresent if !stated => 0,
        SharedKind::PlainIfPresent => own()?,
        SharedKind::Counted | SharedKind::One if stated => own()?,
        SharedKind::One => width,
        SharedKind::Counted => times(width, count()?)?,
        SharedKind::Several => times(if stated { own()? } else { width }, count()?)?,
    };
    Ok(if width == 0 { SharedExpert::None } else { SharedExpert::Plain(mlp(width)) })
}

fn select(raw: &RawConfig, family: &Family, container: Container, experts: usize) -> Result<Select> {
    let limit = u64::try_from(experts).unwrap_or(MAX_EXPERTS);
    let k = match (raw.experts_used.value, raw.router_threshold.value) {
        (None, Some(_)) => experts,
        _ => raw.count(&raw.experts_used, 1, limit)?,
    };
    let renormalise = match (family.renormalise, container, raw.renormalise.value) {
        (Setting::Default(_), Container::HfFolder, None) => family.folder_renormalises,
        (rule, ..) => setting(rule, &raw.renormalise),
    };
    match family.router {
        RouterKind::SoftmaxTopK => {
            Ok(threshold(raw, k, renormalise)?.unwrap_or(Select::SoftmaxTopK { k, renormalise }))
        }
        RouterKind::Scored { scoring, bias, divisor } => {
            let bias = setting(bias, &raw.select_bias);
            Ok(Select::Scored {
                k,
                scoring: stated_scoring(raw)?.or(scoring).unwrap_or(match bias {
                    true => Scoring::Sigmoid,
                    false => Scoring::Softmax,
                }),
                bias,
                groups: groups(raw, experts, k, bias)?,
                renormalise: if renormalise { divisor } else { Renormalise::No },
            })
        }
        RouterKind::SparseMixer if k == 2 && experts > 1 => {
            Ok(Select::SparseMixer { jitter: raw.non_negative(&raw.router_jitter)? })
        }
        RouterKind::SparseMixer => {
            let (found, other) = (k.to_string(), "SparseMixer routing, which picks 2".into());
            Err(raw.fault(&raw.experts_used.name, Fault::Contradiction { found, other }))
        }
    }
}

/// How the file says that experts are scored.
fn stated_scoring(raw: &RawConfig) -> Result<Option<Scoring>> {
    let unsupported = |name: &str, found: &str| LoadError::Unsupported {
        path: raw.path.clone(),
        feature: format!("{name} = {}", found.escape_default()),
        hint: "supported are softmax (1), sigmoid (2) and sqrtsoftplus (4)".into(),
    };
    match (raw.scoring.value.as_deref(), raw.scoring_number.value) {
        (Some("softmax"), _) | (None, Some(1)) => Ok(Some(Scoring::Softmax)),
        (Some("sigmoid"), _) | (None, Some(2)) => Ok(Some(Scoring::Sigmoid)),
        (Some("sqrtsoftplus"), _) | (None, Some(4)) => Ok(Some(Scoring::SqrtSoftplus)),
        (None, None | Some(0)) => Ok(None),
        (Some(other), _) => Err(unsupported(&raw.scoring.name, other)),
        (None, Some(other)) => Err(unsupported(&raw.scoring_number.name, &other.to_string())),
    }
}

/// The groups of a router that chooses `k` of `experts`; `None` for a single group. Routers with a bias rank
/// groups as DeepSeek-V3 does, others as DeepSeek-V2.
fn groups(raw: &RawConfig, experts: usize, k: usize, bias: bool) -> Result<Option<ExpertGroups>> {
    let limit = |count: usize| u64::try_from(count).unwrap_or(MAX_EXPERTS);
    let count = raw.count(&raw.expert_groups, 0, limit(experts))?;
    if count <= 1 || raw.choice.value.as_deref() == Some("greedy") {
        return Ok(None);
    }
    let kept = raw.count_or(&raw.expert_groups_used, count, 1, limit(count))?;
    let size = experts / count;
    let contradiction = |name: &str, found: usize, other: String| {
        Err(raw.fault(name, Fault::Contradiction { found: found.to_string(), other }))
    };
    if !experts.is_multiple_of(count) || size < 2 {
        return contradiction(&raw.expert_groups.name, count, format!("{experts} experts"));
    }
    if k > kept * size {
        return contradiction(&raw.expert_groups_used.name, kept, format!("{k} experts of a token"));
    }
    Ok((kept < count).then_some(ExpertGroups { count, kept, summed: if bias { 2 } else { 1 } }))
}

/// Bound of clamped SiLU where the file has none.
const DEFAULT_CLAMP: f64 = 10.0;

pub(super) fn activation(raw: &RawConfig, family: &Family) -> Result<Activation> {
    let default = match family.activation {
        ActivationKind::Named(default) => default,
        ActivationKind::ClampedSilu => {
            let limit = raw.positive_or(&raw.swiglu_limit, DEFAULT_CLAMP)?;
            return Ok(Activation::ClampedSilu { limit });
        }
        ActivationKind::ClampedSwiglu => {
            let (alpha, limit) = (raw.positive(&raw.swiglu_alpha)?, raw.positive(&raw.swiglu_limit)?);
            return Ok(Activation::ClampedSwiglu { alpha, limit });
        }
    };
    raw.activation.value.as_deref().map_or(Ok(default), |name| named_activation(raw, name))
}

/// The activation of a name.
pub(super) fn named_activation(raw: &RawConfig, name: &str) -> Result<Activation> {
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::ReluSquared),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => Err(LoadError::Unsupported {
            path: raw.path.clone(),
            feature: format!("activation \"{}\"", other.escape_default()),
            hint: "supported are silu, gelu_pytorch_tanh, relu, relu2".into(),
        }),
    }
}
