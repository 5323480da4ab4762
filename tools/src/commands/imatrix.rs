//! `moelten imatrix`: runs a text through a model and writes the mean squared inputs of its matrices, with
//! which `moelten quantize --imatrix` and other programs weight errors.

use std::path::PathBuf;

use moelten_engine::EngineError;
use moelten_engine::Sequence;
use moelten_engine::offline::importance::InputSquares;
use moelten_engine::plan::SequenceOptions;
use moelten_loader::imatrix::{ImportanceEntry, Provenance, write};
use moelten_loader::text::TextSide;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::json;

use crate::exit::CommandError;
use crate::open::{self, ComputeArgs};
use crate::output;
use crate::report::progress::{Progress, Unit};
use crate::report::windows::{Most, Windows};
use crate::signals::Polling;

/// Tokens below which an expert's importance is a poor estimate.
const FEW: u64 = 32;

/// Compute an importance matrix for quantisation
#[derive(Debug, clap::Args)]
pub struct ImatrixArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M
    model: PathBuf,
    /// UTF-8 text of the kind that the model will be used for
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Importance file (GGUF) to write; it gets this name only when it is complete
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Tokens per chunk, each from an empty context (with BOS if the tokenizer adds one); longer chunks are
    /// faster when experts come from disk
    #[arg(long, value_name = "N", default_value = "512", value_parser = open::tokens)]
    ctx: usize,
    /// Use only the first N chunks of the text
    #[arg(long, value_name = "N", value_parser = open::tokens)]
    chunks: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl ImatrixArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        vec![&mut self.model]
    }
}

/// Runs the command.
pub fn run(args: ImatrixArgs) -> anyhow::Result<()> {
    let notes = Notes::detect();
    let loaded = open::load(Some(&args.model))?;
    open::decoder_alone(&loaded, "imatrix")?;
    open::mention(&loaded.notices);
    let TextSide { tokenizer, notices } = loaded.text()?;
    open::mention(&notices);
    let most = args.chunks.map_or(Most::All, Most::Windows);
    let windows = Windows::read(Some(&args.text), &tokenizer, args.ctx, most)?;
    drop(tokenizer);
    let mut sources: Vec<PathBuf> = loaded.tensors.paths().map(ToOwned::to_owned).collect();
    sources.push(args.text.clone());
    let options = SequenceOptions { context: Some(windows.context()), kv: args.compute.kv() };
    let extra = InputSquares::bytes_for(&loaded.spec);
    let model = args.compute.model(&args.compute.runtime()?, loaded.spec, loaded.tensors, options, extra)?;
    let mut squares = InputSquares::new(model.spec(), model.runtime().ledger())?;
    let mut session = Sequence::new(model, options)?;
    read(&windows, &mut session, &mut squares)?;

    let spec = session.model().spec();
    let by_role = squares.by_role(spec);
    if by_role.iter().any(|(_, squares)| squares.sums().iter().any(|sum| !sum.is_finite())) {
        return Err(EngineError::NotANumber { tokens: windows.tokens() }.into());
    }
    let entries: Vec<_> = by_role
        .iter()
        .map(|&(role, squares)| ImportanceEntry {
            role,
            cols: squares.cols(),
            sums: squares.sums(),
            counts: squares.counts(),
        })
        .collect();
    let text = args.text.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let provenance = Provenance {
        datasets: vec![text],
        chunks: windows.len() as u64,
        chunk_size: args.ctx as u64,
        tokens: windows.tokens() as u64,
    };
    let sources: Vec<_> = sources.iter().map(PathBuf::as_path).collect();
    write(&args.out, &provenance, &entries, &sources)?;
    let warnings: Vec<String> =
        (0..spec.layers.len()).filter_map(|layer| rare(layer, squares.visitors(layer))).collect();
    if args.json {
        let object = json!({
            "file": args.out.display().to_string(),
            "tokens": windows.tokens(),
            "chunks": windows.len(),
            "chunk_tokens": args.ctx,
            "matrices": entries.len(),
            "warnings": warnings,
        });
        return Ok(output::answer(&object)?);
    }
    warnings.iter().for_each(|line| notes.line(Tone::Warning, line));
    let (tokens, number, matrices) = (open::count(windows.tokens()), windows.len(), entries.len());
    notes.line(
        Tone::Plain,
        &format!(
            "{}: {tokens} tokens in {number} chunks, importance of {matrices} matrices and expert banks",
            args.out.display()
        ),
    );
    Ok(())
}

/// Runs all chunks through the model.
fn read(windows: &Windows, session: &mut Sequence, squares: &mut InputSquares) -> anyhow::Result<()> {
    let polling = Polling::begin();
    let mut progress = Progress::new("reading", Unit::Tokens, windows.tokens() as u64);
    for (before, ids) in windows.iter() {
        session.keep_prefix(&[]);
        let outcome =
            session.observe(&ids, polling.stop(), squares, &mut |done| progress.set((before + done) as u64));
        match outcome {
            Err(EngineError::Cancelled) => {
                drop(progress);
                let tokens = open::count(windows.tokens());
                let line =
                    format!("stopped after {} of {tokens} tokens; nothing written", open::count(before));
                Notes::detect().line(Tone::Plain, &line);
                return Err(CommandError::Stopped.into());
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// A warning about a layer's experts that were chosen rarely or never.
fn rare(layer: usize, visitors: &[u64]) -> Option<String> {
    let unseen: Vec<String> = visitors
        .iter()
        .enumerate()
        .filter(|(_, seen)| **seen == 0)
        .map(|(expert, _)| expert.to_string())
        .collect();
    let few = visitors.iter().filter(|seen| (1..FEW).contains(*seen)).count();
    let few = (few > 0)
        .then(|| format!("{few} of {} experts were chosen by fewer than {FEW} tokens", visitors.len()));
    let unseen = (!unseen.is_empty()).then(|| {
        let number = unseen.len();
        format!("{number} of {} experts were never chosen ({})", visitors.len(), unseen.join(", "))
    });
    let parts: Vec<String> = unseen.into_iter().chain(few).collect();
    (!parts.is_empty()).then(|| format!("layer {layer}: {}; use a longer text", parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rarely_chosen_experts_are_named() {
        assert_eq!(rare(0, &[]), None);
        assert_eq!(rare(0, &[32, 100]), None);
        assert_eq!(
            rare(3, &[0, 5, 99, 0]).unwrap(),
            "layer 3: 2 of 4 experts were never chosen (0, 3); 1 of 4 experts were chosen by fewer than 32 tokens; use a longer \
             text"
        );
    }
}
