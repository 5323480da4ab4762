//! A model as a JSON object: metadata, layers, sizes, tensors, what ends an answer. The names are stable. It
//! must not know how a command words it.

use moelten_loader::container::gguf::{Array, Value as MetadataValue};
use moelten_loader::load::{LoadedModel, Source};
use moelten_loader::spec::{LayerSpec, Op};
use moelten_loader::tensors::bank::ExpertBank;
use moelten_loader::tensors::roles::Role;
use serde_json::{Map, Value, json};

/// Longest metadata array that is printed whole; of longer ones the length is.
const ELEMENTS: usize = 64;

/// All of `moelten inspect --json`; without the list of tensors if `brief`.
pub fn object(model: &LoadedModel, brief: bool) -> Value {
    let spec = &model.spec;
    let tensors = || -> Vec<Value> {
        let all = model.tensors.catalog().tensors().iter();
        all.map(|tensor| {
            json!({
                "name": tensor.name,
                "type": tensor.storage.name(),
                "shape": tensor.shape,
                "bytes": tensor.bytes,
            })
        })
        .collect()
    };
    json!({
        "name": spec.name,
        "family": spec.family,
        "format": format(model),
        "metadata": metadata(model),
        "d_model": spec.d_model,
        "vocab": spec.vocab,
        "context": spec.max_context,
        "layers": spec.layers.iter().map(|found| layer(found, spec.d_model)).collect::<Vec<_>>(),
        "sizes": sizes(model),
        "text": text(model),
        "tensors": if brief { Value::Null } else { tensors().into() },
        "notices": model.notices,
    })
}

fn format(model: &LoadedModel) -> Value {
    match &model.source {
        Source::Gguf { version, .. } => json!({ "container": "gguf", "version": version }),
        Source::Hf { .. } => json!({ "container": "folder" }),
    }
}

fn metadata(model: &LoadedModel) -> Value {
    match &model.source {
        Source::Gguf { metadata, .. } => {
            let all = metadata.iter().map(|(key, found)| (key.to_owned(), value(found)));
            Value::Object(all.collect::<Map<_, _>>())
        }
        Source::Hf { config, .. } => config.clone(),
    }
}

fn value(value: &MetadataValue) -> Value {
    match value {
        MetadataValue::U8(v) => json!(v),
        MetadataValue::I8(v) => json!(v),
        MetadataValue::U16(v) => json!(v),
        MetadataValue::I16(v) => json!(v),
        MetadataValue::U32(v) => json!(v),
        MetadataValue::I32(v) => json!(v),
        MetadataValue::U64(v) => json!(v),
        MetadataValue::I64(v) => json!(v),
        MetadataValue::F32(v) => json!(v),
        MetadataValue::F64(v) => json!(v),
        MetadataValue::Bool(v) => json!(v),
        MetadataValue::Str(v) => json!(v),
        MetadataValue::Array(array) => elements(array),
    }
}

fn elements(array: &Array) -> Value {
    if array.len() > ELEMENTS {
        return json!({ "elements": array.len() });
    }
    Value::Array(array.values().map(|element| value(&element)).collect())
}

/// The operations of a layer, with the experts of those that have some.
fn layer(layer: &LayerSpec, d_model: usize) -> Value {
    let op = |op: &Op| -> Value {
        let name = match op {
            Op::Attention(_) => "attention",
            Op::Cross(_) => "cross-attention",
            Op::Latent(_) => "latent attention",
            Op::Compressed(_) => "compressed attention",
            Op::HeadExperts(_) => "attention experts",
            Op::Conv(_) => "convolution",
            Op::Lstm(_) => "lstm",
            Op::Kda(_) => "kimi delta attention",
            Op::Selective(_) => "mamba",
            Op::Ssm(_) => "mamba-2",
            Op::Delta(_) => "gated delta net",
            Op::LayerInput(_) => "layer input",
            Op::Ngram(_) => "n-gram embedding",
            Op::Mlp(_) => "dense",
            Op::Moe(_) => "experts",
        };
        match op.bank(d_model) {
            Some(bank) => {
                json!({ "op": name, "experts": bank.experts, "most_per_token": bank.most_per_token })
            }
            None => json!({ "op": name }),
        }
    };
    layer.branches.iter().map(|branch| op(&branch.op)).collect()
}

fn sizes(model: &LoadedModel) -> Value {
    let tensors = &model.tensors;
    // A token reads one row of the embedding, unless the embedding is also the head.
    let embedding = tensors.get(Role::Embed);
    let row = embedding.bytes / embedding.rows.max(1) as u64;
    let dense = tensors.dense_bytes() - if model.spec.head.tied { 0 } else { embedding.bytes - row };
    let largest =
        |bank: &ExpertBank| (0..bank.experts()).map(|expert| bank.expert_bytes(expert)).max().unwrap_or(0);
    let banks = tensors.banks().iter().zip(model.spec.banks());
    let routed: u64 = banks.map(|(bank, (_, spec))| largest(bank) * spec.most_per_token as u64).sum();
    json!({
        "dense_bytes": tensors.dense_bytes(),
        "expert_bytes": tensors.expert_bytes(),
        "largest_expert_bytes": tensors.banks().iter().map(largest).max(),
        "token_dense_bytes": dense,
        "token_routed_bytes": routed,
    })
}

fn text(model: &LoadedModel) -> Value {
    let (template, problem) = match model.chat_template() {
        Ok(template) => (template.is_some(), None),
        Err(error) => (false, Some(error.to_string())),
    };
    match model.text() {
        Err(error) => json!({ "error": error.to_string() }),
        Ok(side) => json!({
            "vocab": side.tokenizer.vocab_len(),
            "end_ids": side.tokenizer.end_ids(),
            "chat_template": template,
            "template_error": problem,
        }),
    }
}
