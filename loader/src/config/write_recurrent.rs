//! Recurrences as GGUF metadata: delta nets, short convolutions, state spaces and Kimi delta attention,
//! beside attention or in its place. It must not know attention's own keys.

use crate::config::fields::FIELDS;
use crate::config::write_keys::{Keys, unsupported};
use crate::container::gguf::{Array, Value};
use crate::error::Result;
use crate::families::RopeLayers;
use crate::spec::{AttentionSpec, DeltaSpec, KdaSpec, LayerSpec, ModelSpec, Op, SelectiveSpec, SsmSpec};

/// The keys of layers that have no attention.
pub(super) fn recurrences(spec: &ModelSpec, attention: &[&AttentionSpec], keys: &mut Keys) -> Result<()> {
    let uniform = |a: &AttentionSpec, b: &AttentionSpec| (a.heads, a.kv_heads) == (b.heads, b.kv_heads);
    if attention.windows(2).any(|pair| matches!(pair, [a, b] if !uniform(a, b))) {
        return Err(unsupported("recurrences beside attention with heads that differ by layer"));
    }
    if attention.iter().any(|a| a.window.is_some()) {
        return Err(unsupported("recurrences beside windows"));
    }
    let mut recurrent = spec.layers.iter().filter_map(recurrence);
    let Some(first) = recurrent.next() else { return Ok(()) };
    if recurrent.any(|other| other != first) {
        return Err(unsupported("recurrences that differ by layer"));
    }
    match first {
        // Readers know by the family which gates it has.
        Op::Delta(delta) if delta.sigmoid_gate != keys.family.sigmoid_gate => {
            return Err(unsupported("gates of delta nets that are others than usual"));
        }
        Op::Delta(delta) => delta_keys(spec, delta, keys),
        Op::Conv(conv) => keys.u32(&FIELDS.conv_kernel, conv.kernel),
        Op::Ssm(ssm) => ssm_keys(ssm, keys),
        Op::Selective(selective) => selective_keys(selective, keys),
        Op::Kda(kda) => kda_keys(kda, keys),
        _ => {}
    }
    if keys.family.rope_layers == RopeLayers::Stated {
        let roped = attention.iter().any(|a| a.rope.is_some());
        keys.add(&FIELDS.positions_are_ropes, Value::Bool(roped));
    }
    Ok(())
}

/// The recurrence of a layer.
fn recurrence(layer: &LayerSpec) -> Option<&Op> {
    let is_recurrent =
        |op: &&Op| matches!(op, Op::Delta(_) | Op::Conv(_) | Op::Ssm(_) | Op::Selective(_) | Op::Kda(_));
    layer.branches.iter().map(|branch| &branch.op).find(is_recurrent)
}

/// Whether layers without attention are told by their key heads, of which they have none.
pub(super) fn told_by_heads(spec: &ModelSpec) -> bool {
    let told = |op: &Op| !matches!(op, Op::Delta(_));
    spec.layers.iter().filter_map(recurrence).any(told)
}

fn delta_keys(spec: &ModelSpec, delta: &DeltaSpec, keys: &mut Keys) {
    keys.u32(&FIELDS.delta_kernel, delta.conv_kernel);
    keys.u32(&FIELDS.delta_key_dim, delta.key_dim);
    keys.u32(&FIELDS.delta_key_heads, delta.key_heads);
    keys.u32(&FIELDS.delta_value_heads, delta.value_heads);
    keys.u32(&FIELDS.delta_inner, delta.values());
    let recurrent: Vec<bool> = spec.layers.iter().map(|layer| layer.delta().is_some()).collect();
    let period = |every: &usize| {
        let has_attention = |layer: usize| (layer + 1).is_multiple_of(*every);
        recurrent.iter().enumerate().all(|(layer, recurrent)| *recurrent != has_attention(layer))
    };
    if let Some(every) = (1..=recurrent.len()).find(period) {
        keys.u32(&FIELDS.attention_every, every);
    }
    keys.add(&FIELDS.recurrent_layers, Value::Array(Array::Bool(recurrent)));
}

fn ssm_keys(ssm: &SsmSpec, keys: &mut Keys) {
    keys.u32(&FIELDS.ssm_kernel, ssm.conv_kernel);
    keys.u32(&FIELDS.ssm_inner, ssm.inner());
    keys.u32(&FIELDS.ssm_state, ssm.state);
    keys.u32(&FIELDS.ssm_heads, ssm.heads);
    keys.u32(&FIELDS.ssm_groups, ssm.groups);
}

fn selective_keys(selective: &SelectiveSpec, keys: &mut Keys) {
    keys.u32(&FIELDS.ssm_kernel, selective.conv_kernel);
    keys.u32(&FIELDS.ssm_inner, selective.inner);
    keys.u32(&FIELDS.ssm_state, selective.state);
    keys.u32(&FIELDS.ssm_rank, selective.rank);
}

fn kda_keys(kda: &KdaSpec, keys: &mut Keys) {
    keys.u32(&FIELDS.kda_kernel, kda.conv_kernel);
    keys.u32(&FIELDS.kda_head_dim, kda.head_dim);
    // Readers of other programs know no such bound.
    keys.f32_if(&FIELDS.kda_lower_bound, kda.lower_bound);
}
