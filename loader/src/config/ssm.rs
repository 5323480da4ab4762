//! Lowering of Mamba-2 and of models that mix it with attention (Granite 4, Nemotron-H): which layers have
//! what, and the shape of the recurrence. It must not know attention.

use crate::config::field::{Field, PerLayer};
use crate::config::fields::RawConfig;
use crate::config::limits::{Container, MAX_FF, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_WIDTH};
use crate::error::{Fault, LoadError, Result};
use crate::families::SsmKind;
use crate::spec::{LstmSpec, Op, SelectiveSpec, SsmSpec};

/// The longest convolution.
const MAX_KERNEL: u64 = 64;
/// Widest `B` and `C`.
const MAX_STATE: u64 = 1024;
/// The context of models that state none: a recurrence has no limit. GGUF converters write the same.
const NO_LIMIT: u64 = 1 << 20;

/// What a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerKind {
    /// A recurrence.
    Ssm,
    /// Attention to the cache, and nothing recurrent.
    Attention,
    /// A dense block alone.
    Dense,
    /// Experts alone.
    Experts,
}

/// The layers of a model with recurrences.
pub(super) struct Hybrid {
    /// The configuration as other families would state it.
    pub raw: RawConfig,
    /// What each layer has.
    pub kinds: Vec<LayerKind>,
    /// The recurrence of layers that have one.
    pub op: Op,
}

/// Reads what is particular to such a model. `eps` is that of the other norms.
pub(super) fn hybrid(
    raw: &RawConfig,
    kind: SsmKind,
    container: Container,
    layers: usize,
    eps: f32,
) -> Result<Hybrid> {
    let kinds = kinds(raw, kind, container, layers)?;
    let op = match kind {
        SsmKind::Selective => Op::Selective(selective(raw, container, eps)?),
        SsmKind::Lstm => Op::Lstm(LstmSpec { width: raw.count(&raw.d_model, 1, MAX_WIDTH)? }),
        _ => Op::Ssm(ssm(raw, container, eps)?),
    };
    Ok(Hybrid { raw: plain(raw, container, &kinds, kind)?, kinds, op })
}

/// The configuration with the same heads in every layer, with experts where layers have them, and a context.
fn plain(raw: &RawConfig, container: Container, kinds: &[LayerKind], kind: SsmKind) -> Result<RawConfig> {
    let mut raw = raw.clone();
    for field in [&mut raw.kv_heads, &mut raw.d_ff] {
        if let Some(PerLayer(values)) = &mut field.value {
            let some = values.iter().copied().max().unwrap_or(0);
            values.iter_mut().filter(|value| **value == 0).for_each(|value| *value = some);
        }
    }
    if raw.experts.value == Some(0) {
        raw.experts.value = None;
        // The dense block of Granite's folders has the width of the shared expert.
        if let (Container::HfFolder, Some(width)) = (container, raw.shared_d_ff.value) {
            raw.d_ff = Field::new(raw.shared_d_ff.name.clone(), Some(PerLayer(vec![width])));
        }
    }
    if matches!(kind, SsmKind::SingleOps | SsmKind::Lstm) {
        let experts = kinds.iter().map(|kind| *kind == LayerKind::Experts).collect();
        raw.moe_layers = Field::new(raw.moe_layers.name.clone(), Some(experts));
    }
    if kind == SsmKind::Selective && raw.expert_period.value.is_some() {
        let experts = periodic(&raw, &raw.expert_period, &raw.expert_offset, kinds.len())?;
        raw.moe_layers = Field::new(raw.expert_period.name.clone(), Some(experts));
    }
    raw.max_context.value.get_or_insert(NO_LIMIT);
    Ok(raw)
}

/// Which layers are the one of each run of layers that the fields say.
fn periodic(raw: &RawConfig, period: &Field<u64>, offset: &Field<u64>, layers: usize) -> Result<Vec<bool>> {
    let every = raw.count(period, 1, MAX_LAYERS)?;
    let place = raw.count(offset, 0, u64::try_from(every - 1).unwrap_or(0))?;
    Ok((0..layers).map(|layer| layer % every == place).collect())
}

/// What each layer has.
fn kinds(raw: &RawConfig, kind: SsmKind, container: Container, layers: usize) -> Result<Vec<LayerKind>> {
    let (name, kinds) = match (kind, container) {
        (SsmKind::None, _) => return Ok(vec![LayerKind::Attention; layers]),
        (SsmKind::Alone, _) => return Ok(vec![LayerKind::Ssm; layers]),
        (SsmKind::Selective, Container::HfFolder) => {
            let attention = periodic(raw, &raw.attention_period, &raw.attention_offset, layers)?;
            let kind = |attention| if attention { LayerKind::Attention } else { LayerKind::Ssm };
            return Ok(attention.into_iter().map(kind).collect());
        }
        (_, Container::Gguf) => return from_heads(raw, kind, layers),
        (_, Container::HfFolder) => match (&raw.layer_pattern.value, &raw.layer_types.value) {
            (Some(pattern), _) => {
                let kinds = pattern.chars().map(|c| letter(raw, c)).collect::<Result<Vec<_>>>()?;
                (&raw.layer_pattern.name, kinds)
            }
            (None, Some(types)) => {
                let kinds = types.iter().map(|kind| word(raw, kind)).collect::<Result<Vec<_>>>()?;
                (&raw.layer_types.name, kinds)
            }
            (None, None) => return Err(raw.missing(&raw.layer_types.name)),
        },
    };
    if kinds.len() == layers {
        return Ok(kinds);
    }
    let (found, other) = (format!("a list of {} layers", kinds.len()), format!("{layers} layers"));
    Err(raw.fault(name, Fault::Contradiction { found, other }))
}

/// In GGUF files a layer without key heads has no attention, and in models of single operations a layer with
/// a feed-forward width has nothing else.
fn from_heads(raw: &RawConfig, kind: SsmKind, layers: usize) -> Result<Vec<LayerKind>> {
    let heads = match kind {
        SsmKind::Lstm => vec![0; layers],
        _ => raw.per_layer(&raw.kv_heads, layers, 0, MAX_HEADS)?,
    };
    let widths = match kind {
        SsmKind::SingleOps | SsmKind::Lstm => raw.per_layer(&raw.d_ff, layers, 0, MAX_FF)?,
        _ => vec![0; layers],
    };
    let experts = raw.moe_layers.value.as_deref().unwrap_or_default();
    let kind = |(layer, (&heads, &width)): (usize, (&usize, &usize))| match (heads, width) {
        (1.., _) => LayerKind::Attention,
        (0, 0) => LayerKind::Ssm,
        (0, _) if experts.get(layer) == Some(&true) => LayerKind::Experts,
        (0, _) => LayerKind::Dense,
    };
    Ok(heads.iter().zip(&widths).enumerate().map(kind).collect())
}

/// A letter of Nemotron-H's pattern.
fn letter(raw: &RawConfig, letter: char) -> Result<LayerKind> {
    match letter {
        'M' => Ok(LayerKind::Ssm),
        '*' => Ok(LayerKind::Attention),
        '-' => Ok(LayerKind::Dense),
        'E' => Ok(LayerKind::Experts),
        other => Err(unknown(raw, &raw.layer_pattern.name, &other.to_string())),
    }
}

/// A word of a list of layers.
fn word(raw: &RawConfig, word: &str) -> Result<LayerKind> {
    match word {
        "mamba" | "linear_attention" | "lstm" => Ok(LayerKind::Ssm),
        "attention" | "full_attention" => Ok(LayerKind::Attention),
        "mlp" => Ok(LayerKind::Dense),
        "moe" => Ok(LayerKind::Experts),
        other => Err(unknown(raw, &raw.layer_types.name, other)),
    }
}

fn unknown(raw: &RawConfig, name: &str, found: &str) -> LoadError {
    LoadError::Unsupported {
        path: raw.path.clone(),
        feature: format!("{name} with \"{}\"", found.escape_default()),
        hint: "supported are mamba (M), attention (*), mlp (-), moe (E) and, in its own family, lstm".into(),
    }
}

fn selective(raw: &RawConfig, container: Container, eps: f32) -> Result<SelectiveSpec> {
    if raw.ssm_bias.get() == Some(&true) {
        return Err(biased(raw));
    }
    let inner = match raw.ssm_inner.value {
        Some(_) => raw.count(&raw.ssm_inner, 1, MAX_WIDTH)?,
        None => {
            let expand = raw.count(&raw.ssm_expand, 1, 64)?;
            raw.count(&raw.d_model, 1, MAX_WIDTH)?.saturating_mul(expand)
        }
    };
    Ok(SelectiveSpec {
        inner,
        state: raw.count(&raw.ssm_state, 1, MAX_STATE)?,
        rank: raw.count(&raw.ssm_rank, 1, MAX_WIDTH)?,
        conv_kernel: raw.count(&raw.ssm_kernel, 2, MAX_KERNEL)?,
        conv_bias: raw.ssm_conv_bias.value.unwrap_or(true),
        norm_eps: eps,
        log_decay: container == Container::HfFolder,
    })
}

fn biased(raw: &RawConfig) -> LoadError {
    LoadError::Unsupported {
        path: raw.path.clone(),
        feature: format!("{} = true", raw.ssm_bias.name),
        hint: "projections of recurrences have no bias".into(),
    }
}

fn ssm(raw: &RawConfig, container: Container, eps: f32) -> Result<SsmSpec> {
    if raw.ssm_bias.get() == Some(&true) {
        return Err(biased(raw));
    }
    let heads = raw.count(&raw.ssm_heads, 1, MAX_HEADS)?;
    let groups = raw.count(&raw.ssm_groups, 1, MAX_HEADS)?;
    let contradiction = |name: &str, found: usize, other: String| {
        Err(raw.fault(name, Fault::Contradiction { found: found.to_string(), other }))
    };
    if !heads.is_multiple_of(groups) {
        return contradiction(&raw.ssm_groups.name, groups, format!("{heads} heads of the recurrence"));
    }
    let head_dim = match raw.ssm_inner.value {
        None => raw.count(&raw.ssm_head_dim, 1, MAX_HEAD_DIM)?,
        Some(_) => {
            let inner = raw.count(&raw.ssm_inner, 1, MAX_HEADS * MAX_HEAD_DIM)?;
            let limit = usize::try_from(MAX_HEAD_DIM).unwrap_or(usize::MAX);
            if !inner.is_multiple_of(heads) || inner / heads > limit {
                return contradiction(&raw.ssm_inner.name, inner, format!("{heads} heads of the recurrence"));
            }
            inner / heads
        }
    };
    Ok(SsmSpec {
        heads,
        head_dim,
        groups,
        state: raw.count(&raw.ssm_state, 1, MAX_STATE)?,
        conv_kernel: raw.count(&raw.ssm_kernel, 2, MAX_KERNEL)?,
        conv_bias: raw.ssm_conv_bias.value.unwrap_or(true),
        norm_eps: eps,
        log_decay: container == Container::HfFolder,
    })
}
