//! How an answer is drawn: flags over what the model's files recommend over the engine's defaults. It must
//! not know models.

use std::hash::{BuildHasher, Hasher, RandomState};

use moelten_engine::api::GenerateParams;
use moelten_loader::text::SamplingHints;

use crate::open;

/// Options of every command that answers.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Sampling (without these: what the model recommends, then our defaults)")]
pub struct SamplingArgs {
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", env = "MOELTEN_TEMP", allow_negative_numbers = true)]
    temp: Option<f32>,
    /// Only the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this probability; 1 is off
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,
    /// Only tokens at least this likely compared with the best; 0 is off
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,
    /// Above 1 makes repetition less likely
    #[arg(long, value_name = "F")]
    repeat_penalty: Option<f32>,
    /// Seed; the same one gives the same answer again [default: random]
    #[arg(long, value_name = "N", env = "MOELTEN_SEED")]
    seed: Option<u64>,
    /// Longest answer in tokens [default: up to the end of the context]
    #[arg(long, value_name = "N", env = "MOELTEN_MAX_TOKENS", value_parser = open::tokens)]
    max_tokens: Option<usize>,
    /// A text that ends the answer and is not part of it; may be given several times
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// The settings, checked.
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
        sampler.validate()?;
        Ok(params)
    }
}

/// Short enough to be typed again.
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
