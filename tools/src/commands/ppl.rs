//! `moelten ppl`: perplexity of a text, and the divergence of a model's predictions from another's. The
//! tokens are cut into windows; within a window every token but the first is predicted from the tokens before
//! it.
//!
//! Two models run one after the other, each with the whole memory budget. The logits of the first are kept in
//! an unnamed temporary file, which the system removes with the process.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use moelten_engine::EngineError;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_loader::io::output::free_bytes;
use moelten_loader::load::LoadedModel;
use moelten_loader::text::TextSide;
use moelten_loader::text::tokenizer::Tokenizer;
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;
use crate::open::{self, ComputeArgs};
use crate::output;
use crate::report::divergence::{Divergence, Estimate, Spread, negative_log_likelihood};
use crate::report::page;
use crate::report::progress::{Progress, Unit, bytes};
use crate::report::windows::{Most, Windows};
use crate::signals::Polling;

/// Measure the perplexity of a text, or the divergence from another model
#[derive(Debug, clap::Args)]
pub struct PplArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M
    model: PathBuf,
    /// UTF-8 text [default: a built-in one of about 1,000 tokens, for a first look]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Compare with another model of the same vocabulary, such as the one MODEL was quantised from
    #[arg(long, value_name = "OTHER")]
    against: Option<PathBuf>,
    /// Folder for OTHER's logits: 4 bytes per token and vocabulary entry [default: TMPDIR, or /var/tmp]
    #[arg(long, value_name = "FOLDER", requires = "against")]
    temp: Option<PathBuf>,
    /// Tokens per window, each from an empty context (with BOS if the tokenizer adds one)
    #[arg(long, value_name = "N", default_value = "512", value_parser = open::tokens)]
    window: usize,
    /// Use only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = open::tokens)]
    tokens: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl PplArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        std::iter::once(&mut self.model).chain(&mut self.against).collect()
    }
}

/// Runs the command.
pub fn run(args: PplArgs) -> anyhow::Result<()> {
    let loaded = open::load(Some(&args.model))?;
    open::decoder_alone(&loaded, "ppl")?;
    let tokenizer = mentioned(&loaded)?;
    let windows = Windows::read(
        args.text.as_deref(),
        &tokenizer,
        args.window,
        args.tokens.map_or(Most::All, Most::Tokens),
    )?;
    let started = Instant::now();
    let (ppl, compared) = match &args.against {
        None => (perplexity(loaded, &windows, &args.compute, 0, "perplexity", &mut |_, _| Ok(()))?, None),
        Some(path) => {
            let other = open::load(Some(path))?;
            same_vocabulary((&loaded, &tokenizer), (&other, &mentioned(&other)?))?;
            drop(tokenizer);
            let (ppl, compared) = compare(loaded, other, &windows, &args)?;
            (ppl, Some(compared))
        }
    };
    // Both models read the text.
    let read = windows.tokens() * (1 + usize::from(compared.is_some()));
    let rate = read as f64 / started.elapsed().as_secs_f64();
    report(&args, &windows, ppl, compared, rate)?;
    Ok(())
}

/// The model's tokenizer; prints the notices of the model.
fn mentioned(loaded: &LoadedModel) -> anyhow::Result<Tokenizer> {
    open::mention(&loaded.notices);
    let TextSide { tokenizer, notices } = loaded.text()?;
    open::mention(&notices);
    Ok(tokenizer)
}

/// Refuses models whose token ids differ.
fn same_vocabulary(
    (model, tokenizer): (&LoadedModel, &Tokenizer),
    (other, other_tokenizer): (&LoadedModel, &Tokenizer),
) -> anyhow::Result<()> {
    let differ = |problem: String| -> anyhow::Result<()> {
        let problem = format!("the models are not comparable: {problem}");
        Err(CommandError::Usage(problem).into())
    };
    let (vocab, other_vocab) = (model.spec.vocab, other.spec.vocab);
    if vocab != other_vocab {
        return differ(format!("their vocabularies have {vocab} and {other_vocab} tokens"));
    }
    let bos = |tokenizer: &Tokenizer| tokenizer.bos().filter(|_| tokenizer.adds_bos());
    if bos(tokenizer) != bos(other_tokenizer) {
        return differ("their BOS tokens differ".to_owned());
    }
    let ids = 0..u32::try_from(vocab).unwrap_or(u32::MAX);
    match ids.clone().find(|&id| tokenizer.piece(id) != other_tokenizer.piece(id)) {
        None => Ok(()),
        Some(id) => {
            let [a, b] =
                [tokenizer, other_tokenizer].map(|tokenizer| tokenizer.piece(id).unwrap_or_default());
            differ(format!("token {id} is {a:?} in one and {b:?} in the other"))
        }
    }
}

/// Receives the logits before each predicted token, `[vocab]`, and that token.
type Each<'a> = &'a mut dyn FnMut(&[f32], u32) -> io::Result<()>;

/// Runs all windows through a model; `extra` bytes of the caller are charged to the budget.
fn perplexity(
    loaded: LoadedModel,
    windows: &Windows,
    compute: &ComputeArgs,
    extra: u64,
    label: &'static str,
    each: Each<'_>,
) -> anyhow::Result<Spread> {
    let options = SequenceOptions { context: Some(windows.context()), kv: compute.kv() };
    let model = compute.model(&compute.runtime()?, loaded.spec, loaded.tensors, options, extra)?;
    let hint = |_| "use fewer --tokens".to_owned();
    let _charge = model.runtime().ledger().charge("the divergence of every token", extra, hint)?;
    let vocab = model.spec().vocab;
    let mut session = Sequence::new(model, options)?;
    let polling = Polling::begin();
    let mut progress = Progress::new(label, Unit::Tokens, windows.tokens() as u64);
    let (mut sum, mut failed) = (Spread::default(), None);
    for (before, ids) in windows.iter() {
        session.keep_prefix(&[]);
        let mut position = 0;
        let read = session.append_all(&ids, polling.stop(), &mut (), &mut |logits| {
            for logits in logits.chunks_exact(vocab) {
                position += 1;
                if let Some(&next) = ids.get(position) {
                    sum.add(negative_log_likelihood(logits, next));
                    each(logits, next).map_err(|error| {
                        failed = Some(error);
                        EngineError::Cancelled
                    })?;
                }
            }
            Ok(())
        });
        if let Some(error) = failed.take() {
            return Err(error)
                .context("cannot write or read the temporary file of logits; --temp sets another folder");
        }
        read?;
        progress.set((before + ids.len()) as u64);
    }
    if sum.exp_mean().value.is_nan() {
        return Err(EngineError::NotANumber { tokens: windows.tokens() }.into());
    }
    Ok(sum)
}

/// The reference's perplexity, and the divergence from it.
type Compared = (Spread, Divergence);

/// Runs the reference, then the model.
fn compare(
    model: LoadedModel,
    other: LoadedModel,
    windows: &Windows,
    args: &PplArgs,
) -> anyhow::Result<(Spread, Compared)> {
    let (vocab, predicted) = (model.spec.vocab, windows.predicted());
    let need = (predicted as u64).saturating_mul((vocab * size_of::<f32>()) as u64);
    let folder = args.temp.clone().unwrap_or_else(temporary);
    if let Some(free) = free_bytes(&folder).filter(|&free| free < need) {
        return Err(CommandError::Room {
            target: format!("the temporary file of logits in {} (--temp sets the folder)", folder.display()),
            size: bytes(need),
            missing: bytes(need - free),
            free: bytes(free),
        }
        .into());
    }
    let unusable =
        || format!("cannot create a temporary file in {}; --temp sets another folder", folder.display());
    let mut file = tempfile::tempfile_in(&folder).with_context(unusable)?;
    Notes::detect().line(
        Tone::Dim,
        &format!("temporary file of the reference's logits: {} in {}", bytes(need), folder.display()),
    );
    // The other model chooses its experts in its own way, so that a rule has a price.
    let own = ComputeArgs { experts: None, ..args.compute.clone() };
    let other = keep_logits(&mut file, |each| perplexity(other, windows, &own, 0, "reference", each))?;

    file.rewind().context("reading the reference's logits")?;
    let mut kept = BufReader::with_capacity(1 << 20, file);
    let (mut raw, mut logits) = (vec![0; vocab * size_of::<f32>()], vec![0.0; vocab]);
    let mut divergence = Divergence::with_capacity(predicted);
    let extra = Divergence::bytes_for(predicted) + 2 * raw.len() as u64;
    let ppl = perplexity(model, windows, &args.compute, extra, "model", &mut |own, next| {
        kept.read_exact(&mut raw)?;
        for (logit, raw) in logits.iter_mut().zip(raw.as_chunks().0) {
            *logit = f32::from_le_bytes(*raw);
        }
        divergence.add(own, &logits, next);
        Ok(())
    })?;
    Ok((ppl, (other, divergence)))
}

/// Writes the logits from `run` to `file`.
fn keep_logits(
    file: &mut File,
    run: impl FnOnce(Each<'_>) -> anyhow::Result<Spread>,
) -> anyhow::Result<Spread> {
    let (mut kept, mut raw) = (BufWriter::with_capacity(1 << 20, file), Vec::new());
    let sum = run(&mut |logits, _| {
        raw.clear();
        raw.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        kept.write_all(&raw)
    })?;
    kept.flush().context("writing the reference's logits")?;
    Ok(sum)
}

/// Folder for large temporary files: `/var/tmp`, since many systems keep `/tmp` in memory.
fn temporary() -> PathBuf {
    let disk = Path::new("/var/tmp");
    if std::env::var_os("TMPDIR").is_none() && disk.is_dir() { disk.to_owned() } else { std::env::temp_dir() }
}

fn report(
    args: &PplArgs,
    windows: &Windows,
    ppl: Spread,
    compared: Option<Compared>,
    rate: f64,
) -> anyhow::Result<()> {
    let Estimate { value, error } = ppl.exp_mean();
    let (tokens, window, count) = (windows.tokens(), args.window, ppl.count());
    let other = compared.map(|(other, mut divergence)| {
        let quantiles = divergence.quantiles([0.5, 0.99, 1.0]);
        (other.exp_mean(), divergence.ratio(), divergence.kl(), quantiles, divergence.agreement())
    });
    if args.json {
        let mut object = serde_json::json!({
            "perplexity": value, "error": error, "predicted_tokens": count, "tokens": tokens,
            "window": window, "kv": args.compute.kv().name(), "tokens_per_s": rate,
        });
        if let Some((other, ratio, kl, [median, p99, most], same)) = other {
            let estimate = |of: Estimate| serde_json::json!({ "value": of.value, "error": of.error });
            object["against"] = serde_json::json!({
                "perplexity": estimate(other), "perplexity_ratio": estimate(ratio),
                "kl_mean": estimate(kl), "kl_median": median, "kl_p99": p99, "kl_max": most,
                "same_top_token": estimate(same),
            });
        }
        return Ok(output::answer(&object)?);
    }
    let mut out = String::new();
    writeln!(out, "perplexity {value:.4} +/- {error:.4} over {count} predicted tokens")?;
    if let Some((other, ratio, kl, [median, p99, most], same)) = other {
        writeln!(
            out,
            "reference  {:.4} +/- {:.4}, ratio {:.5} +/- {:.5}",
            other.value, other.error, ratio.value, ratio.error
        )?;
        writeln!(
            out,
            "KL divergence mean {:.6} +/- {:.6}, median {median:.6}, 99 % {p99:.6}, max {most:.6} nats",
            kl.value, kl.error
        )?;
        let [share, error] = [same.value, same.error].map(|share| 100.0 * share);
        writeln!(out, "same most likely token {share:.3} % +/- {error:.3} %")?;
    }
    page::print(&out)?;
    Notes::detect().line(Tone::Dim, &format!("{tokens} tokens, windows of {window}, {rate:.1} tokens/s"));
    Ok(())
}
