//! Sampling options. They override what the model's files recommend, which overrides the engine's defaults.
//! It must not know models.

use std::hash::{BuildHasher, Hasher, RandomState};

use moelten_engine::EngineError;
use moelten_engine::api::GenerateParams;
use moelten_loader::text::SamplingHints;

use crate::open;
use crate::origin;

/// Sampling options of `chat` and `run`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling (defaults: what the model recommends, then moelten's own)")]
pub struct SamplingArgs {
    /// Temperature; 0 always picks the most likely token
    #[arg(long, value_name = "T", env = "MOELTEN_TEMP", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Sample from the K most likely tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Sample from the most likely tokens whose probabilities add up to P; 1 is off
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Sample from tokens at least P times as likely as the most likely one; 0 is off
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Penalty for repeated tokens, above 1; 1 is off
    #[arg(long, value_name = "F")]
    repeat_penalty: Option<f32>,
    /// Random seed; the same seed gives the same answer [default: random]
    #[arg(long, value_name = "N", env = "MOELTEN_SEED")]
    seed: Option<u64>,
    /// Longest answer, in tokens [default: up to the end of the context]
    #[arg(long, value_name = "N", env = "MOELTEN_MAX_TOKENS", value_parser = open::tokens)]
    max_tokens: Option<usize>,
    /// End the answer before this text; can be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// The names of the settings that were given.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("temp", self.temp.is_some()),
            ("top-k", self.top_k.is_some()),
            ("top-p", self.top_p.is_some()),
            ("min-p", self.min_p.is_some()),
            ("repeat-penalty", self.repeat_penalty.is_some()),
            ("seed", self.seed.is_some()),
            ("max-tokens", self.max_tokens.is_some()),
            ("stop", !self.stop.is_empty()),
        ];
        all.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }

    /// The parameters, validated.
    ///
    /// # Errors
    /// Values out of range.
    pub fn resolve(&self, hints: &SamplingHints) -> anyhow::Result<GenerateParams> {
        let mut params =
            GenerateParams { max_tokens: self.max_tokens, stop: self.stop.clone(), ..Default::default() };
        let sampler = &mut params.sampler;
        let hinted_temperature = if hints.greedy { Some(0.0) } else { hints.temperature };
        let hinted_top_k = hints.top_k.and_then(|k| usize::try_from(k).ok());
        sampler.temperature = self.temp.or(hinted_temperature).unwrap_or(sampler.temperature);
        sampler.top_k = self.top_k.or(hinted_top_k).unwrap_or(sampler.top_k);
        sampler.top_p = self.top_p.or(hints.top_p).unwrap_or(sampler.top_p);
        sampler.min_p = self.min_p.or(hints.min_p).unwrap_or(sampler.min_p);
        sampler.repetition_penalty =
            self.repeat_penalty.or(hints.repetition_penalty).unwrap_or(sampler.repetition_penalty);
        sampler.seed = self.seed.unwrap_or_else(random_seed);
        sampler.validate().map_err(named)?;
        Ok(params)
    }
}

/// The error with the name of the option or variable that gave the value: advice of files is in range.
fn named(error: EngineError) -> anyhow::Error {
    let EngineError::Setting { setting, .. } = &error else { return error.into() };
    let name = match *setting {
        "temperature" => origin::blamed("--temp", "MOELTEN_TEMP"),
        "top-p" => "--top-p".to_owned(),
        "min-p" => "--min-p".to_owned(),
        _ => "--repeat-penalty".to_owned(),
    };
    anyhow::Error::from(error).context(name)
}

/// 32 random bits: short enough to retype.
fn random_seed() -> u64 {
    RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn resolve(line: &[&str], hints: &SamplingHints) -> anyhow::Result<GenerateParams> {
        Line::parse_from([&["moelten"], line].concat()).sampling.resolve(hints)
    }

    #[test]
    fn flags_count_more_than_hints_and_hints_more_than_defaults() {
        let hints = SamplingHints { temperature: Some(0.6), top_k: Some(20), ..Default::default() };
        let params = resolve(&["--temp", "0.1", "--stop", "a", "--stop", "b"], &hints).unwrap();
        let defaults = GenerateParams::default().sampler;
        assert_eq!(params.sampler.temperature, 0.1);
        assert_eq!(params.sampler.top_k, 20);
        assert_eq!(params.sampler.top_p, defaults.top_p);
        assert_eq!(params.stop, ["a", "b"]);
        let greedy = SamplingHints { greedy: true, temperature: Some(0.6), ..Default::default() };
        assert_eq!(resolve(&[], &greedy).unwrap().sampler.temperature, 0.0);
    }

    #[test]
    fn seeds_are_random_unless_given() {
        let seed = |line: &[&str]| resolve(line, &SamplingHints::default()).unwrap().sampler.seed;
        assert_eq!(seed(&["--seed", "7"]), 7);
        assert_ne!(seed(&[]), seed(&[]));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for line in [
            ["--temp", "NaN"],
            ["--temp", "1e9"],
            ["--top-p", "0"],
            ["--min-p", "2"],
            ["--repeat-penalty", "0"],
        ] {
            assert!(resolve(&line, &SamplingHints::default()).is_err(), "{line:?}");
        }
    }
}
