//! Sampling values that a model's files recommend. Advice that no sampler can follow is brought into range or
//! left out, and said: it must not keep a model from running. It must not know samplers.

use std::path::Path;

use serde_json::Value;

use crate::container::gguf::{Metadata, Value as Entry};
use crate::io::reader::narrow;

const TOP_K_KEY: &str = "general.sampling.top_k";
/// No other program writes these two.
pub(crate) const BEAMS_KEY: &str = "general.sampling.beams";
pub(crate) const EARLY_KEY: &str = "general.sampling.early_stopping";

/// Sampling values that the model's files recommend; `None` where they have none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingHints {
    /// `do_sample: false` recommends greedy decoding.
    pub greedy: bool,
    /// Divisor of the logits, 0 to 100; 0 is greedy.
    pub temperature: Option<f32>,
    /// Number of the best tokens to sample from; 0 is all.
    pub top_k: Option<u64>,
    /// Probability of the best tokens to sample from (arXiv 1904.09751), above 0 and at most 1.
    pub top_p: Option<f32>,
    /// Least probability relative to the best token (arXiv 2407.01082), at least 0 and below 1.
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that occurred before (arXiv 1909.05858), above 0 and at most 100.
    pub repetition_penalty: Option<f32>,
    /// Beams of a search for the best answer, 2 to [`MOST_BEAMS`].
    pub beams: Option<usize>,
    /// Exponent of the length in its scores, -100 to 100.
    pub length_penalty: Option<f32>,
    /// Whether it ends with the first answers.
    pub early_stopping: bool,
}

/// The most beams of a search.
pub const MOST_BEAMS: usize = 64;

/// The hottest temperature and the strongest penalty.
const STRONGEST: f32 = 100.0;
/// The least share or divisor above zero: with it the best token alone is left.
const LEAST: f32 = 1e-6;
/// The greatest share below one.
const BELOW_ONE: f32 = 1.0 - f32::EPSILON;

/// Reads the values of one file.
struct Advice<'a> {
    path: &'a Path,
    notices: &'a mut Vec<String>,
}

impl Advice<'_> {
    /// `value` within `low..=high`; a value that is not a number is left out.
    fn within(&mut self, name: &str, value: Option<f32>, low: f32, high: f32) -> Option<f32> {
        let value = value?;
        if value.is_nan() {
            self.ignored(name, "NaN");
            return None;
        }
        let used = value.clamp(low, high);
        if used.to_bits() != value.to_bits() && used != value {
            let path = self.path.display();
            self.notices.push(format!("{path}: {name} = {value} is out of range; {used} is used"));
        }
        Some(used)
    }

    /// The beams of a search; `None` for a single one, which is none.
    fn beams(&mut self, name: &str, beams: u64) -> Option<usize> {
        let used = usize::try_from(beams).unwrap_or(usize::MAX).min(MOST_BEAMS);
        if u64::try_from(used) != Ok(beams) {
            let path = self.path.display();
            self.notices.push(format!("{path}: {name} = {beams} is out of range; {used} is used"));
        }
        (used > 1).then_some(used)
    }

    fn ignored(&mut self, name: &str, found: &str) {
        let path = self.path.display();
        self.notices.push(format!("{path}: {name} = {found} is not a value for sampling; ignored"));
    }

    /// All values, by the names that the file has for them.
    fn all(
        &mut self,
        greedy: bool,
        top_k: Option<u64>,
        value: &mut Values<'_>,
        names: Names,
    ) -> SamplingHints {
        let mut number = |name: &str, low, high| {
            let found = value(self, name);
            self.within(name, found, low, high)
        };
        SamplingHints {
            greedy,
            temperature: number(names.temperature, 0.0, STRONGEST),
            top_k,
            top_p: number(names.top_p, LEAST, 1.0),
            min_p: number(names.min_p, 0.0, BELOW_ONE),
            repetition_penalty: number(names.repetition_penalty, LEAST, STRONGEST),
            length_penalty: number(names.length_penalty, -STRONGEST, STRONGEST),
            beams: None,
            early_stopping: false,
        }
    }
}

/// Gives the value of a name.
type Values<'v> = dyn FnMut(&mut Advice<'_>, &str) -> Option<f32> + 'v;

struct Names {
    temperature: &'static str,
    top_p: &'static str,
    min_p: &'static str,
    repetition_penalty: &'static str,
    length_penalty: &'static str,
}

/// The values of `general.sampling.*`; what cannot be used is said in `notices`.
pub(super) fn of_metadata(metadata: &Metadata, notices: &mut Vec<String>) -> SamplingHints {
    let mut advice = Advice { path: metadata.path(), notices };
    // The key is signed: zero and below are "off".
    let top_k = match metadata.get(TOP_K_KEY) {
        None => None,
        Some(Entry::I32(..=0) | Entry::I64(..=0)) => Some(0),
        Some(found) => match metadata.u64(TOP_K_KEY) {
            Ok(value) => value,
            Err(_) => {
                advice.ignored(TOP_K_KEY, &shown(found));
                None
            }
        },
    };
    let names = Names {
        temperature: "general.sampling.temp",
        top_p: "general.sampling.top_p",
        min_p: "general.sampling.min_p",
        repetition_penalty: "general.sampling.penalty_repeat",
        length_penalty: "general.sampling.length_penalty",
    };
    let mut value = |advice: &mut Advice<'_>, key: &str| match metadata.f32(key) {
        Ok(value) => value,
        Err(_) => {
            advice.ignored(key, &metadata.get(key).map(shown).unwrap_or_default());
            None
        }
    };
    let hints = advice.all(false, top_k, &mut value, names);
    let beams = metadata.get(BEAMS_KEY).and_then(|found| match metadata.u64(BEAMS_KEY) {
        Ok(beams) => beams.and_then(|beams| advice.beams(BEAMS_KEY, beams)),
        Err(_) => {
            advice.ignored(BEAMS_KEY, &shown(found));
            None
        }
    });
    let early_stopping = matches!(metadata.get(EARLY_KEY), Some(Entry::Bool(true)));
    SamplingHints { beams, early_stopping, ..hints }
}

fn shown(entry: &Entry) -> String {
    format!("a value of type {}", entry.type_name())
}

/// The values of `generation_config.json`, which is at `path`; what cannot be used is said in `notices`.
pub(super) fn of_config(path: &Path, config: &Value, notices: &mut Vec<String>) -> SamplingHints {
    let mut advice = Advice { path, notices };
    let found = |key: &str| config.get(key).filter(|value| !value.is_null());
    let top_k = match found("top_k").map(|value| (value, value.as_f64())) {
        None => None,
        Some((value, _)) if value.is_u64() => value.as_u64(),
        Some((_, Some(number))) if number <= 0.0 => Some(0),
        Some((value, _)) => {
            advice.ignored("top_k", &value.to_string());
            None
        }
    };
    let greedy = match found("do_sample") {
        None | Some(Value::Bool(true)) => false,
        Some(Value::Bool(false)) => true,
        Some(other) => {
            advice.ignored("do_sample", &other.to_string());
            false
        }
    };
    let names = Names {
        temperature: "temperature",
        top_p: "top_p",
        min_p: "min_p",
        repetition_penalty: "repetition_penalty",
        length_penalty: "length_penalty",
    };
    let mut value = |advice: &mut Advice<'_>, key: &str| {
        let value = found(key)?;
        let number = value.as_f64().map(narrow);
        if number.is_none() {
            advice.ignored(key, &value.to_string());
        }
        number
    };
    let hints = advice.all(greedy, top_k, &mut value, names);
    let beams = found("num_beams").and_then(|value| match value.as_u64() {
        Some(beams) => advice.beams("num_beams", beams),
        None => {
            advice.ignored("num_beams", &value.to_string());
            None
        }
    });
    let early_stopping = match found("early_stopping") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(other) => {
            advice.ignored("early_stopping", &other.to_string());
            false
        }
    };
    SamplingHints { beams, early_stopping, ..hints }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn advice_out_of_range_is_clamped_and_said() {
        let path = Path::new("folder/generation_config.json");
        let config = json!({
            "do_sample": "yes", "temperature": 1e9, "top_p": 0, "top_k": -1, "min_p": 1.5, "repetition_penalty": "x",
        });
        let mut notices = Vec::new();
        let hints = of_config(path, &config, &mut notices);
        assert_eq!((hints.greedy, hints.temperature, hints.top_k), (false, Some(100.0), Some(0)));
        assert!(hints.top_p.is_some_and(|p| p > 0.0 && p < 1e-3), "the best token alone");
        assert!(hints.min_p.is_some_and(|p| (0.9..1.0).contains(&p)));
        assert_eq!(hints.repetition_penalty, None);
        assert_eq!(notices.len(), 5, "{notices:?}");
        assert!(
            notices.iter().all(|line| line.starts_with("folder/generation_config.json: ")),
            "{notices:?}"
        );

        let entries = [
            ("general.sampling.top_p", Entry::F32(0.0)),
            ("general.sampling.temp", Entry::Str("hot".into())),
        ];
        let entries = entries.map(|(key, value)| (key.to_owned(), value)).into();
        let metadata = Metadata::new(Path::new("m.gguf"), entries).unwrap();
        notices.clear();
        let hints = of_metadata(&metadata, &mut notices);
        assert!(hints.top_p.is_some_and(|p| p > 0.0) && hints.temperature.is_none());
        assert!(
            notices[0].contains("temp = a value of type str") && notices[1].contains("top_p = 0 is out"),
            "{notices:?}"
        );
        let sound = json!({ "do_sample": false, "temperature": 0.6, "top_p": 0.95, "top_k": 20 });
        notices.clear();
        of_config(path, &sound, &mut notices);
        assert_eq!(notices, [""; 0]);
    }
}
