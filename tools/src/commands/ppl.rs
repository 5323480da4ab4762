//! `moelten ppl`: perplexity of a text. The text's tokens are cut into windows; within a window every token but the first
//! is predicted from those before it.

use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use moelten_engine::error::EngineError;
use moelten_engine::session::{Session, SessionOptions};
use moelten_loader::text::TextSide;
use moelten_tui::terminal::{Notes, Tone};

use crate::exit::CommandError;
use crate::open::{self, ComputeArgs};
use crate::progress::{Progress, Unit};
use crate::signals::Polling;

/// Measure the perplexity of a text
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file or model folder
    model: PathBuf,
    /// Text file, UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens per window; each window starts with an empty context (and BOS if the tokenizer adds one)
    #[arg(long, value_name = "N", default_value = "512", value_parser = open::tokens)]
    window: usize,
    /// Use only the first N tokens of the text
    #[arg(long, value_name = "N", value_parser = open::tokens)]
    tokens: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let loaded = open::load(Some(&args.model))?;
    open::mention(&loaded.notices);
    let text = std::fs::read(&args.text).with_context(|| format!("reading {}", args.text.display()))?;
    let text = String::from_utf8(text)
        .map_err(|error| CommandError::Usage(format!("{} is not UTF-8: {error}", args.text.display())))?;
    let TextSide { tokenizer, notices } = loaded.text()?;
    open::mention(&notices);
    let mut ids = tokenizer.encode_text(&text)?;
    ids.truncate(args.tokens.unwrap_or(usize::MAX));
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let window = args.window.saturating_sub(usize::from(bos.is_some()));
    if window < 2 || ids.len() < 2 {
        let problem = format!("{} tokens in windows of {} leave nothing to predict", ids.len(), args.window);
        return Err(CommandError::Usage(problem).into());
    }
    let context = args.window.min(ids.len() + usize::from(bos.is_some()));
    let options = SessionOptions { context: Some(context), kv: args.compute.kv() };
    let model = args.compute.model(loaded.spec, loaded.tensors, options, 0)?;
    let vocab = model.spec().vocab;
    let mut session = Session::new(model, options)?;
    let polling = Polling::begin();
    let mut progress = Progress::new("perplexity", Unit::Tokens, ids.len() as u64);
    let mut sum = Sum::default();
    let started = Instant::now();
    for (index, chunk) in ids.chunks(window).enumerate() {
        session.keep_prefix(&[]);
        let input: Vec<u32> = bos.into_iter().chain(chunk.iter().copied()).collect();
        let mut position = 0;
        session.append_all(&input, polling.stop(), &mut (), &mut |logits| {
            for logits in logits.chunks_exact(vocab) {
                position += 1;
                if let Some(&next) = input.get(position) {
                    sum.add(negative_log_likelihood(logits, next));
                }
            }
            Ok(())
        })?;
        progress.set((index * window + chunk.len()) as u64);
    }
    drop(progress);
    let rate = ids.len() as f64 / started.elapsed().as_secs_f64();
    let (ppl, error) = sum.perplexity();
    if ppl.is_nan() {
        return Err(EngineError::NotANumber { tokens: ids.len() }.into());
    }
    if args.json {
        let object = serde_json::json!({
            "perplexity": ppl, "error": error, "predicted_tokens": sum.count, "tokens": ids.len(),
            "window": args.window, "kv": args.compute.kv().name(), "tokens_per_s": rate,
        });
        writeln!(io::stdout(), "{object}")?;
    } else {
        writeln!(io::stdout(), "perplexity {ppl:.4} +/- {error:.4} over {} predicted tokens", sum.count)?;
        Notes::detect().line(
            Tone::Dim,
            &format!("{} tokens, windows of {}, {rate:.1} tokens/s", ids.len(), args.window),
        );
    }
    Ok(())
}

/// `-ln p(next)` under the softmax of `logits`.
fn negative_log_likelihood(logits: &[f32], next: u32) -> f64 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    total.ln() - f64::from(logits[next as usize] - highest)
}

/// Mean and spread of negative log likelihoods.
#[derive(Default)]
struct Sum {
    count: u64,
    total: f64,
    squares: f64,
}

impl Sum {
    fn add(&mut self, value: f64) {
        self.count += 1;
        self.total += value;
        self.squares += value * value;
    }

    /// Perplexity and its standard error.
    fn perplexity(&self) -> (f64, f64) {
        let count = self.count as f64;
        let mean = self.total / count;
        let variance = (self.squares / count - mean * mean).max(0.0);
        (mean.exp(), mean.exp() * (variance / count).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_guess_over_n_tokens_has_perplexity_n() {
        let mut sum = Sum::default();
        for next in 0..8 {
            sum.add(negative_log_likelihood(&[1.5; 8], next));
        }
        let (ppl, error) = sum.perplexity();
        assert!((ppl - 8.0).abs() < 1e-9 && error < 1e-6);
    }
}
