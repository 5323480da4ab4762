//! `moelten inspect`: a model's metadata, the spec it is lowered to, its tensors, and the bytes per expert
//! and per token.

use std::fmt::Write as _;
use std::path::PathBuf;

use moelten_loader::container::catalog::TensorInfo;
use moelten_loader::container::gguf::{Array, Metadata, Value};
use moelten_loader::container::packed;
use moelten_loader::load::{LoadedModel, Source};
use moelten_loader::spec::{AttentionSpec, BranchSpec, LayerSpec, Op};

use crate::open;
use crate::output;
use crate::report::card;
use crate::report::inspection;
use crate::report::layer_words as words;
use crate::report::page;
use crate::report::progress::bytes;

/// Show a model's metadata, layers and tensors, and its bytes per expert and per token
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M [default: `model` of `moelten config`, or
    /// the built-in model]
    pub model: Option<PathBuf>,
    /// Omit the table of tensors
    #[arg(long)]
    brief: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print a model card in Markdown, for a README beside the file
    #[arg(long, conflicts_with_all = ["json", "brief"])]
    card: bool,
}

/// Longest metadata text shown, in characters.
const TEXT_SHOWN: usize = 100;
/// Most elements of a metadata array shown.
const ELEMENTS_SHOWN: usize = 6;

impl InspectArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        self.model.iter_mut().collect()
    }
}

/// Runs the command.
pub fn run(args: InspectArgs) -> anyhow::Result<()> {
    let model = open::load(args.model.as_deref())?;
    if args.json {
        return Ok(output::answer(&inspection::object(&model, args.brief))?);
    }
    if args.card {
        return Ok(page::print(&card::card(&model)?)?);
    }
    let mut out = String::new();
    metadata(&model, &mut out)?;
    layers(&model, &mut out)?;
    text_side(&model, &mut out)?;
    sizes(&model, &mut out)?;
    records(&model, &mut out)?;
    if !args.brief {
        tensors(&model, &mut out)?;
    }
    for notice in &model.notices {
        writeln!(out, "note: {notice}")?;
    }
    // The text quotes the file, which must not control the terminal.
    Ok(page::print(&out)?)
}

fn metadata(model: &LoadedModel, out: &mut String) -> std::fmt::Result {
    match &model.source {
        Source::Gguf { metadata, version } => {
            writeln!(out, "GGUF version {version}, {} keys", metadata.iter().len())?;
            gguf_keys(metadata, out)
        }
        Source::Hf { path, config, .. } => {
            writeln!(out, "Hugging Face folder {}", path.display())?;
            let Some(fields) = config.as_object() else { return Ok(()) };
            for (key, value) in fields {
                writeln!(out, "  {key} = {}", shortened(&value.to_string()))?;
            }
            Ok(())
        }
    }
}

fn gguf_keys(metadata: &Metadata, out: &mut String) -> std::fmt::Result {
    for (key, value) in metadata.iter() {
        let shown = match value {
            Value::Str(text) => format!("{:?}", shortened(text)),
            Value::Array(array) => elements(array),
            other => scalar(other),
        };
        writeln!(out, "  {key} = {shown}")?;
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(TEXT_SHOWN).collect();
    match chars.count() {
        0 => start,
        more => format!("{start}... ({more} more characters)"),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::Str(v) => v.clone(),
        Value::Array(array) => elements(array),
    }
}

fn elements(array: &Array) -> String {
    let element = |value: Value| match value {
        Value::Str(text) => shortened(&format!("{text:?}")),
        other => scalar(&other),
    };
    let shown: Vec<String> = array.values().take(ELEMENTS_SHOWN).map(element).collect();
    let more = if array.len() > ELEMENTS_SHOWN { ", ..." } else { "" };
    format!("[{}{more}] ({} elements)", shown.join(", "), array.len())
}

/// The lowered spec; consecutive equal layers share a line.
fn layers(model: &LoadedModel, out: &mut String) -> std::fmt::Result {
    let spec = &model.spec;
    writeln!(out, "\nmodel {} ({}), {} layers", spec.name, spec.family, spec.layers.len())?;
    writeln!(out, "  d_model {}, vocabulary {}, context {}", spec.d_model, spec.vocab, spec.max_context)?;
    let last = spec.final_norm.map_or_else(|| "none".to_owned(), words::norm);
    let head = words::head(&spec.head);
    let scale = match is_one(spec.embed_scale) {
        true => String::new(),
        false => format!("; embedding times {}", spec.embed_scale),
    };
    writeln!(out, "  last norm: {last}; {head}{scale}")?;
    if let Some(encoder) = spec.encoder.filter(|_| spec.image.is_none()) {
        writeln!(
            out,
            "  encoder: the first {} layers, last norm: {}; decoder: the other {}, its answers begin with token {}",
            encoder.layers,
            words::norm(encoder.final_norm),
            spec.layers.len() - encoder.layers,
            encoder.start
        )?;
    }
    if let Some(image) = &spec.image {
        writeln!(out, "  {}", words::image(image, &spec.tasks))?;
    }
    if spec.positions.is_some() {
        writeln!(out, "  positions: sines and cosines are added to the embedding")?;
    }
    let mut first = 0;
    for run in spec.layers.chunk_by(|a, b| a == b) {
        let last = first + run.len() - 1;
        let range = if last > first { format!("layers {first} to {last}") } else { format!("layer {first}") };
        let range = match spec.encoder {
            None => range,
            Some(encoder) if first < encoder.layers => format!("encoder, {range}"),
            Some(_) => format!("decoder, {range}"),
        };
        if let Some(layer) = run.first() {
            describe(layer, &range, out)?;
        }
        first = last + 1;
    }
    Ok(())
}

fn describe(layer: &LayerSpec, range: &str, out: &mut String) -> std::fmt::Result {
    writeln!(out, "  {range}:")?;
    layer.branches.iter().try_for_each(|branch| {
        norms(branch, out)?;
        match &branch.op {
            Op::Attention(a) => attention(a, out),
            Op::Cross(a) => writeln!(out, "    {}", words::attention(a)),
            Op::Compressed(compressed) => {
                writeln!(out, "    {}", words::compressed(compressed))?;
                attention(&compressed.attention, out)
            }
            Op::HeadExperts(heads) => {
                writeln!(out, "    {}", words::head_experts(heads))?;
                attention(&heads.attention, out)
            }
            Op::Latent(latent) => {
                let (rank, nope, rope) = (latent.rank, latent.nope, latent.rope_dim());
                writeln!(
                    out,
                    "    latent attention: {} heads, a latent vector of {rank}, queries of {nope} and {rope} that are \
                     rotated, values of {}",
                    latent.attention.heads, latent.value_dim
                )?;
                attention(&latent.attention, out)
            }
            Op::Conv(conv) => {
                writeln!(out, "    gated convolution of {} channels over {} tokens", conv.width, conv.kernel)
            }
            Op::Lstm(lstm) => writeln!(out, "    LSTM of {} units", lstm.width),
            Op::Kda(kda) => writeln!(
                out,
                "    delta attention of {} heads of {}, rates by row, convolution over {} tokens",
                kda.heads, kda.head_dim, kda.conv_kernel
            ),
            Op::Selective(ssm) => writeln!(
                out,
                "    recurrence (Mamba) of {} channels of state {}, convolution over {} tokens",
                ssm.inner, ssm.state, ssm.conv_kernel
            ),
            Op::Ssm(ssm) => writeln!(
                out,
                "    recurrence (Mamba-2) of {} heads of {}, {} groups of state {}, convolution over {} tokens",
                ssm.heads, ssm.head_dim, ssm.groups, ssm.state, ssm.conv_kernel
            ),
            Op::Delta(delta) => writeln!(
                out,
                "    gated delta net {} key heads of {}, {} value heads of {}, convolution over {} tokens",
                delta.key_heads, delta.key_dim, delta.value_heads, delta.value_dim, delta.conv_kernel
            ),
            Op::Ngram(ngram) => writeln!(
                out,
                "    numbers of runs of up to {} tokens, {} rows of {} from a table for each token",
                ngram.most_tokens,
                ngram.all_heads(),
                ngram.width
            ),
            Op::LayerInput(input) => {
                let activation = words::activation(input.activation);
                writeln!(out, "    {} numbers of its own for each token, a gate with {activation}", input.width)
            }
            Op::Mlp(mlp) => writeln!(out, "    dense block: {}", words::mlp(mlp)),
            Op::Moe(moe) => writeln!(out, "    {}\n    {}", words::experts(moe), words::router(moe)),
        }
    })
}

/// How a branch is joined to the residual stream.
fn norms(branch: &BranchSpec, out: &mut String) -> std::fmt::Result {
    let mut parts = vec![format!("norm: {}", branch.pre_norm.map_or_else(|| "none".to_owned(), words::norm))];
    parts.extend(branch.post_norm.map(|norm| format!("norm of the output: {}", words::norm(norm))));
    if !is_one(branch.scale) {
        parts.push(format!("output times {}", branch.scale));
    }
    writeln!(out, "    {}", parts.join("; "))
}

fn is_one(factor: f32) -> bool {
    factor.to_bits() == 1.0_f32.to_bits()
}

fn attention(a: &AttentionSpec, out: &mut String) -> std::fmt::Result {
    writeln!(out, "    {}\n    {}", words::attention(a), words::rope(a.rope.as_ref()))
}

/// The vocabulary, the template, and all tokens that end an answer.
fn text_side(model: &LoadedModel, out: &mut String) -> std::fmt::Result {
    match model.text() {
        Err(error) => writeln!(out, "\ntext: {error}")?,
        Ok(side) => {
            let tokenizer = side.tokenizer;
            writeln!(out, "\ntext: {} tokens", tokenizer.vocab_len())?;
            let shown = |id: &u32| {
                let piece = tokenizer.piece(*id).unwrap_or_default();
                format!("{id} {:?}", shortened(piece))
            };
            let ends: Vec<String> = tokenizer.end_ids().iter().map(shown).collect();
            let ends = if ends.is_empty() { "no token".to_owned() } else { ends.join(", ") };
            writeln!(out, "  an answer ends with {ends}")?;
        }
    }
    match model.chat_template() {
        Err(error) => writeln!(out, "  {error}"),
        Ok(None) => writeln!(out, "  no chat template"),
        Ok(Some(template)) => {
            let system = if template.supports_system() { "is" } else { "is not" };
            writeln!(out, "  the chat template renders; a system prompt {system} passed on")
        }
    }
}

/// Bytes per expert, and bytes of weights read per token.
fn sizes(model: &LoadedModel, out: &mut String) -> std::fmt::Result {
    let tensors = &model.tensors;
    // A token reads one row of the embedding, unless the embedding is also the head.
    let embedding = tensors.get(moelten_loader::tensors::roles::Role::Embed);
    let row = embedding.bytes / embedding.rows.max(1) as u64;
    let dense = tensors.dense_bytes() - if model.spec.head.tied { 0 } else { embedding.bytes - row };
    let (mut active, mut expert_sizes) = (0, Vec::new());
    for (bank, (_, spec)) in tensors.banks().iter().zip(model.spec.banks()) {
        let largest = (0..bank.experts()).map(|expert| bank.expert_bytes(expert)).max().unwrap_or(0);
        active += largest * spec.most_per_token as u64;
        expert_sizes.push(largest);
    }
    writeln!(out, "\nweights {}", bytes(tensors.dense_bytes() + tensors.expert_bytes()))?;
    if let (Some(min), Some(max)) = (expert_sizes.iter().min(), expert_sizes.iter().max()) {
        writeln!(
            out,
            "  dense part {}, routed experts {}",
            bytes(tensors.dense_bytes()),
            bytes(tensors.expert_bytes())
        )?;
        let each = if min == max { bytes(*max) } else { format!("{} to {}", bytes(*min), bytes(*max)) };
        writeln!(out, "  one expert {each}")?;
        writeln!(
            out,
            "  read per token {}: {} shared + {} experts",
            bytes(dense + active),
            bytes(dense),
            bytes(active)
        )
    } else {
        writeln!(out, "  read per token {}", bytes(dense))
    }
}

/// For a packed file, its version and records.
fn records(model: &LoadedModel, out: &mut String) -> std::fmt::Result {
    let banks = model.tensors.banks().iter();
    let records = banks.flat_map(|bank| (0..bank.experts()).filter_map(|expert| bank.record(expert)));
    let sizes: Vec<u64> = records.map(|record| record.bytes).collect();
    let (Some(&min), Some(&max)) = (sizes.iter().min(), sizes.iter().max()) else { return Ok(()) };
    let each = if min == max { bytes(max) } else { format!("{} to {}", bytes(min), bytes(max)) };
    let version = match &model.source {
        Source::Gguf { metadata, .. } => packed::version(metadata),
        Source::Hf { .. } => None,
    };
    let (version, count) = (version.unwrap_or_default(), sizes.len());
    writeln!(
        out,
        "  packed (version {version}): {count} records of {each}, {}, one for each expert",
        bytes(sizes.iter().sum())
    )
}

/// All tensors; the records of a layer share a line.
fn tensors(model: &LoadedModel, out: &mut String) -> std::fmt::Result {
    let tensors = model.tensors.catalog().tensors();
    writeln!(out, "\n{} tensors", tensors.len())?;
    let of_layer = |name: &str| packed::record_of_name(name).map(|(layer, kind, _)| (layer, kind));
    let runs = tensors.chunk_by(|a, b| {
        of_layer(&a.name).is_some_and(|layer| of_layer(&b.name) == Some(layer)) && a.shape == b.shape
    });
    let lines: Vec<(String, &TensorInfo)> =
        runs.filter_map(|run| Some((run_name(run)?, run.first()?))).collect();
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, tensor) in lines {
        let shape: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        writeln!(
            out,
            "  {name:width$}  {:7} [{}] {}",
            tensor.storage,
            shape.join(", "),
            bytes(tensor.bytes)
        )?;
    }
    Ok(())
}

/// What a line of the table is called.
fn run_name(run: &[TensorInfo]) -> Option<String> {
    let (first, last) = (run.first()?, run.last()?);
    Some(match packed::record_of_name(&last.name) {
        Some((.., expert)) if run.len() > 1 => format!("{} to {expert}", first.name),
        _ => first.name.clone(),
    })
}
