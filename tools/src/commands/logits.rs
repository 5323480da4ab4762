//! `moelten logits`: a text's logits and chosen experts as a safetensors file, for comparison with other
//! engines. The file's layout is stable: `input_ids` i32 `[T]`, `logits` f32 `[T, vocab]`, `router.L` i32
//! `[T, k]` for the experts of layer L, `router.attn.L` for its attention experts and `router.adjugate.L` for
//! its adjugate experts. Tokens with fewer than k experts have -1 behind them. Of a model with an encoder
//! there are `source_ids` as well; `router.enc.L` has the experts of these, `router.dec.L` those of
//! `input_ids`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use moelten_engine::KvFormat;
use moelten_engine::Observer;
use moelten_engine::Routing;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_loader::container::safetensors::{SafeTensor, SafeValues, write_safetensors};
use moelten_loader::load::LoadedModel;
use moelten_loader::spec::{BankKey, BankKind, BankSpec, ModelSpec};
use moelten_loader::text::TextSide;
use serde_json::json;

use crate::exit::CommandError;
use crate::open::{self, ComputeArgs};
use crate::output;
use crate::report::waiting;
use crate::signals::Polling;

/// Write a text's logits and chosen experts to a safetensors file
#[derive(Debug, clap::Args)]
pub struct LogitsArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M
    model: PathBuf,
    /// Token ids, as 5,7,9
    #[arg(long, value_delimiter = ',', required_unless_present = "text", conflicts_with = "text")]
    ids: Vec<u32>,
    /// Token ids that the encoder reads, in models that have one; --ids are what the decoder writes then
    #[arg(long, value_delimiter = ',', conflicts_with = "text")]
    source: Vec<u32>,
    /// Text; BOS comes first if the model's tokenizer adds one
    #[arg(long)]
    text: Option<String>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Context size in tokens [default: the length of the text]
    #[arg(long, value_name = "N", value_parser = open::tokens)]
    ctx: Option<usize>,
    /// Print one JSON object about the file
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl LogitsArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.model]
    }
}

/// Runs the command.
pub fn run(args: LogitsArgs) -> anyhow::Result<()> {
    let loaded = open::load(Some(&args.model))?;
    open::has_text(&loaded, &loaded.spec.name)?;
    check_source(&loaded.spec, &args.source)?;
    open::mention(&loaded.notices);
    let ids = match &args.text {
        None => args.ids,
        Some(text) => ids_of(&loaded, text)?,
    };
    if ids.is_empty() {
        return Err(CommandError::Usage("the text has no tokens".into()).into());
    }
    let sources: Vec<PathBuf> =
        loaded.tensors.catalog().files().iter().map(|file| file.path().to_owned()).collect();
    let vocab = loaded.spec.vocab;
    let mut routes = Routes::of(&loaded.spec);
    let table = table_bytes(ids.len(), vocab);
    let options = SequenceOptions {
        context: Some(args.ctx.unwrap_or(ids.len().max(args.source.len()))),
        kv: args.compute.kv.map_or(KvFormat::F32, KvFormat::from),
    };
    let model = args.compute.model(&args.compute.runtime()?, loaded.spec, loaded.tensors, options, table)?;
    let _charge = model
        .runtime()
        .ledger()
        .charge("the logits of all tokens", table, |_| "use fewer tokens".to_owned())?;
    let mut session = Sequence::new(model, options)?;
    let mut logits = Vec::with_capacity(ids.len() * vocab);
    let polling = Polling::begin();
    if !args.source.is_empty() {
        session.encode(&args.source, polling.stop(), &mut routes)?;
    }
    session.append_all(&ids, polling.stop(), &mut routes, &mut |chunk| {
        logits.extend_from_slice(chunk);
        Ok(())
    })?;
    let signed = |ids: &[u32]| ids.iter().map(|&id| i32::try_from(id)).collect::<Result<Vec<i32>, _>>();
    let (input_ids, source_ids) = (signed(&ids)?, signed(&args.source)?);
    let tokens = ids.len() as u64;
    let (ids_shape, logits_shape) = ([tokens], [tokens, vocab as u64]);
    let source_shape = [source_ids.len() as u64];
    let shape = |bank: &BankRoutes| [(bank.experts.len() / bank.most.max(1)) as u64, bank.most as u64];
    let shapes: Vec<[u64; 2]> = routes.0.iter().map(shape).collect();
    let mut tensors = vec![
        ("input_ids", SafeTensor { shape: &ids_shape, values: SafeValues::I32(&input_ids) }),
        ("logits", SafeTensor { shape: &logits_shape, values: SafeValues::F32(&logits) }),
    ];
    if !source_ids.is_empty() {
        let source = SafeTensor { shape: &source_shape, values: SafeValues::I32(&source_ids) };
        tensors.push(("source_ids", source));
    }
    for (BankRoutes { name, experts, .. }, shape) in routes.0.iter().zip(&shapes) {
        tensors.push((name, SafeTensor { shape, values: SafeValues::I32(experts) }));
    }
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    write_safetensors(&args.out, &tensors, &sources).context("cannot write the logits")?;
    if args.json {
        let layers: Vec<_> = routes
            .0
            .iter()
            .zip(&shapes)
            .map(|(bank, [_, k])| json!({ "tensor": bank.name, "k": k }))
            .collect();
        let file = args.out.display().to_string();
        let object = json!({ "file": file, "tokens": tokens, "vocab": vocab, "ids": ids, "routers": layers });
        output::answer(&object)?;
    }
    Ok(())
}

/// The tokens of a text, as its model begins them.
fn ids_of(loaded: &LoadedModel, text: &str) -> anyhow::Result<Vec<u32>> {
    let TextSide { tokenizer, notices } = loaded.text()?;
    open::mention(&notices);
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let encode = || tokenizer.encode_text(text);
    Ok(bos.into_iter().chain(waiting::during("tokenising the text", None, encode)?).collect())
}

/// Refuses a model with an encoder that is given nothing to read, and one without that is.
fn check_source(spec: &ModelSpec, source: &[u32]) -> Result<(), CommandError> {
    let problem = match (spec.encoder, source.is_empty()) {
        (Some(_), true) => {
            "this model has an encoder: give the tokens that it reads with --source, and with --ids those that the \
             decoder writes, its start token first"
        }
        (None, false) => "--source is for models with an encoder, and this one has none",
        _ => return Ok(()),
    };
    Err(CommandError::Usage(problem.to_owned()))
}

/// Bytes of all logits.
fn table_bytes(tokens: usize, vocab: usize) -> u64 {
    (tokens as u64).saturating_mul(vocab as u64).saturating_mul(size_of::<f32>() as u64)
}

/// Experts of each bank, `[tokens, most]`, best first. Tokens with fewer experts have -1 behind them.
struct Routes(Vec<BankRoutes>);

/// Experts of one bank.
struct BankRoutes {
    key: BankKey,
    name: String,
    /// The most experts of a token.
    most: usize,
    experts: Vec<i32>,
}

impl Routes {
    fn of(spec: &ModelSpec) -> Self {
        let bank = |(key, bank): (BankKey, BankSpec)| {
            let kind = match bank.kind {
                BankKind::FeedForward => "",
                BankKind::Adjugate => "adjugate.",
                BankKind::Heads => "attn.",
            };
            let name = match spec.encoder {
                None => format!("router.{kind}{}", key.layer),
                Some(encoder) if key.layer < encoder.layers => format!("router.enc.{}", key.layer),
                Some(encoder) => format!("router.dec.{}", key.layer - encoder.layers),
            };
            BankRoutes { key, name, most: bank.most_per_token, experts: Vec::new() }
        };
        Self(spec.banks().map(bank).collect())
    }
}

impl Observer for Routes {
    fn routed(&mut self, key: BankKey, routing: &Routing) {
        let Some(bank) = self.0.iter_mut().find(|bank| bank.key == key) else { return };
        for token in 0..routing.tokens() {
            let experts = routing.token(token).0.iter().map(|&id| id as i32);
            bank.experts.extend(experts.chain(std::iter::repeat(-1)).take(bank.most));
        }
    }
}
