//! `moelten run` with an encoder-decoder: translates line by line, fills the gaps of a text, or answers a
//! text. It must not know how weights are read.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use moelten_engine::EngineError;
use moelten_engine::api::{Answer, BeamParams, Event, GenerateParams, StopReason};
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::spec::{EncoderSpec, ExpertLimit, ModelSpec, Purpose};
use moelten_loader::text::tokenizer::Tokenizer;
use moelten_loader::text::{MOST_BEAMS, SamplingHints};
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::Value;

use super::gaps::{Part, Sentinels, filled};
use super::languages::Languages;
use crate::chat::answerer::Answerer;
use crate::exit::CommandError;
use crate::output;
use crate::report::layer_words::capacity_words;
use crate::signals::Polling;

/// Options of `run` for models with an encoder.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Models with an encoder (T5, Switch, NLLB)")]
pub struct EncoderArgs {
    /// Language of the text, as the model calls it, e.g. eng_Latn
    #[arg(long, value_name = "LANGUAGE")]
    from: Option<String>,
    /// Language to translate it to, e.g. deu_Latn
    #[arg(long, value_name = "LANGUAGE")]
    to: Option<String>,
    /// Most tokens of a text for one expert [default: what the model's files say]
    #[arg(long, value_name = "RULE")]
    capacity: Option<CapacityArg>,
    /// Beam search with N candidates, 1 for none [default: what the model's files say]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_BEAMS as i64))]
    beams: Option<u16>,
}

/// How many tokens of a text an expert takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CapacityArg {
    /// Twice the mean share of each expert, as GShard, Switch and ST-MoE evaluate
    Paper,
    /// All that choose it
    None,
}

impl EncoderArgs {
    /// Refuses them for a model without an encoder.
    ///
    /// # Errors
    /// [`CommandError::Usage`].
    pub fn refuse(&self) -> Result<(), CommandError> {
        let given = [
            ("--from", self.from.is_some()),
            ("--to", self.to.is_some()),
            ("--capacity", self.capacity.is_some()),
            ("--beams", self.beams.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((option, _)) => Err(CommandError::Usage(format!(
                "{option} is for models with an encoder, and this one has none; say in the prompt what the model should do"
            ))),
        }
    }

    /// Sets the beams of a search in `params`: those that were asked for, or those of the model's files where
    /// nothing else is asked for that a search does not have. What is said of it.
    ///
    /// # Errors
    /// [`CommandError::Usage`] for beams with options that draw tokens or stop a text.
    pub fn search(
        &self,
        hints: &SamplingHints,
        params: &mut GenerateParams,
    ) -> Result<Option<String>, CommandError> {
        let other = match params {
            GenerateParams { sampler, .. } if sampler.temperature > 0.0 => Some("--temp"),
            GenerateParams { stop, .. } if !stop.is_empty() => Some("--stop"),
            _ => None,
        };
        let asked = self.beams.map(usize::from);
        if let (Some(beams @ 2..), Some(option)) = (asked, other) {
            let problem = format!("--beams {beams} searches for the best whole answer; leave out {option}");
            return Err(CommandError::Usage(problem));
        }
        let Some(beams) = asked.or(hints.beams).filter(|&beams| beams > 1 && other.is_none()) else {
            return Ok(None);
        };
        let length_penalty = hints.length_penalty.unwrap_or(1.0);
        params.beams = Some(BeamParams { beams, length_penalty, early: hints.early_stopping });
        let from = if asked.is_some() { "--beams" } else { "the model's files; --beams 1 is faster" };
        Ok(Some(format!("beams: {beams} (from {from})")))
    }

    /// Sets the capacity of experts that was asked for, and says what it is.
    ///
    /// # Errors
    /// [`CommandError::Usage`] for a model without experts.
    pub fn apply(&self, spec: &mut ModelSpec) -> Result<Option<String>, CommandError> {
        if let Some(rule) = self.capacity {
            let limit = match rule {
                CapacityArg::Paper => Some(ExpertLimit::Factor(2)),
                CapacityArg::None => None,
            };
            if !spec.set_capacity(limit) {
                let problem = "--capacity is for models whose encoder has experts, and this one has none";
                return Err(CommandError::Usage(problem.to_owned()));
            }
        }
        let from = if self.capacity.is_some() { "--capacity" } else { "the model's files" };
        Ok(match spec.capacity() {
            Some(limit) => Some(format!("capacity: {} (from {from})", capacity_words(limit))),
            None if self.capacity.is_some() => {
                Some("capacity: every expert takes all tokens that choose it (from --capacity)".to_owned())
            }
            None => None,
        })
    }
}

/// What is asked of a model with an encoder.
pub struct Asked<'a> {
    /// The texts: one, or of a translation each line by itself.
    pub text: &'a str,
    /// Sampling, lengths, stop texts.
    pub params: GenerateParams,
    /// Whether the output is an object for each text.
    pub json: bool,
}

/// Answers all texts; `object` makes the JSON object of an answer.
///
/// # Errors
/// Unknown languages, texts that are too long, failed reads.
pub fn run(
    answerer: &mut Answerer,
    args: &EncoderArgs,
    asked: &Asked<'_>,
    notes: Notes,
    object: &dyn Fn(&Answer, &Answerer) -> Value,
) -> anyhow::Result<Option<Answer>> {
    let Some(encoder) = answerer.session.model().spec().encoder else { return Ok(None) };
    let task = Task::of(answerer, args, encoder)?;
    let translates = encoder.purpose == Purpose::Translation;
    let texts: Vec<&str> = if translates { asked.text.lines().collect() } else { vec![asked.text] };
    let mut last = None;
    for text in texts {
        if text.trim().is_empty() {
            if !asked.json {
                writeln!(io::stdout())?;
            }
            continue;
        }
        let (answer, shown) = task.answer(answerer, text, asked, notes)?;
        if asked.json {
            let answer = Answer { text: shown, ..answer.clone() };
            output::answer(&object(&answer, answerer))?;
        } else {
            writeln!(io::stdout(), "{}", filter::clean(&shown))?;
        }
        io::stdout().flush()?;
        let stopped = answer.reason == StopReason::Cancelled;
        last = Some(answer);
        if stopped {
            break;
        }
    }
    Ok(last)
}

/// How a text becomes tokens of the encoder, and how the decoder begins.
struct Task {
    encoder: EncoderSpec,
    /// The token of the text's language, before the text.
    from: Option<u32>,
    /// The token of the language to translate to, after the start.
    to: Option<u32>,
    sentinels: Sentinels,
    eos: Option<u32>,
}

impl Task {
    fn of(answerer: &Answerer, args: &EncoderArgs, encoder: EncoderSpec) -> Result<Self, CommandError> {
        let tokenizer = &answerer.language().tokenizer;
        let (mut from, mut to) = (None, None);
        if encoder.purpose == Purpose::Translation {
            let languages = Languages::of(tokenizer);
            from = Some(languages.token("--from", args.from.as_deref())?);
            to = Some(languages.token("--to", args.to.as_deref())?);
        } else if args.from.is_some() || args.to.is_some() {
            let problem =
                "--from and --to are for translation models; this one takes what it should do in the text";
            return Err(CommandError::Usage(problem.to_owned()));
        }
        Ok(Self { encoder, from, to, sentinels: Sentinels::of(tokenizer), eos: tokenizer.eos() })
    }

    /// The answer to one text, and what is shown of it.
    fn answer(
        &self,
        answerer: &mut Answerer,
        text: &str,
        asked: &Asked<'_>,
        notes: Notes,
    ) -> anyhow::Result<(Answer, String)> {
        let language = Arc::clone(answerer.language());
        let tokenizer = &language.tokenizer;
        let (parts, gaps) = match self.encoder.purpose {
            Purpose::Translation => (vec![Part::Text(text.to_owned())], 0),
            Purpose::TextToText | Purpose::Gaps | Purpose::Images => {
                self.sentinels.split(text.trim_end_matches(['\n', '\r']))?
            }
        };
        if gaps == 0 && self.encoder.purpose == Purpose::Gaps {
            let problem = "this model fills gaps and the text has none: write <extra_id_0>, <extra_id_1> and so \
                           on where something is missing, e.g. \"The <extra_id_0> walks in <extra_id_1> park\"";
            return Err(CommandError::Usage(problem.to_owned()).into());
        }
        let ids = self.source(tokenizer, &parts)?;
        let mut params = asked.params.clone();
        params.ends.extend((gaps > 0).then(|| self.sentinels.token(gaps)).flatten());
        let prompt: Vec<u32> = [self.encoder.start].into_iter().chain(self.to).collect();
        let polling = Polling::begin();
        let started = Instant::now();
        let encoded = answerer.session.encode(&ids, polling.stop(), &mut ());
        encoded.map_err(|error| of_text(error, answerer))?;
        let encoding = started.elapsed();
        let mut answer = answered(answerer, polling.stop(), &prompt, &params)?;
        answer.stats.prompt_tokens += ids.len();
        answer.stats.prompt_time += encoding;
        if gaps == 0 {
            let shown = answer.text.trim_start().to_owned();
            return Ok((answer, shown));
        }
        let fillings = self.sentinels.fillings(&answer.ids, gaps, tokenizer);
        let open = fillings.iter().filter(|filling| filling.is_none()).count();
        if open > 0 {
            let line = format!("note: the answer leaves {open} of {gaps} gaps open; they stay as they are");
            notes.line(Tone::Warning, &line);
        }
        Ok((answer, filled(&parts, &fillings)))
    }

    /// The tokens that the encoder reads.
    fn source(&self, tokenizer: &Tokenizer, parts: &[Part]) -> anyhow::Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.from.into_iter().collect();
        for part in parts {
            match part {
                Part::Text(text) => ids.extend(tokenizer.encode_text(text)?),
                Part::Gap(gap) => ids.extend(self.sentinels.token(*gap)),
            }
        }
        ids.extend(self.eos);
        Ok(ids)
    }
}

/// The answer to the text that the encoder has read.
fn answered(
    answerer: &mut Answerer,
    cancel: &Cancel,
    prompt: &[u32],
    params: &GenerateParams,
) -> anyhow::Result<Answer> {
    let mut ignore = |_: Event| ControlFlow::Continue(());
    Ok(answerer.answer_until(cancel, prompt, params, &mut ignore)?)
}

/// The error of a text that could not be read.
fn of_text(error: EngineError, answerer: &Answerer) -> anyhow::Error {
    match error {
        EngineError::TextTooLong { tokens, most } => CommandError::Context(format!(
            "the text has {tokens} tokens, but the encoder reads at most {most} at once (context {}); give a shorter one",
            answerer.context()
        ))
        .into(),
        EngineError::Cancelled => CommandError::Stopped.into(),
        other => other.into(),
    }
}
