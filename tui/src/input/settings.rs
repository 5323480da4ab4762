//! The settings that `/set` changes: their names, their help, and how values are parsed and printed. The
//! engine checks the ranges; a value that it refuses is not set.

use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;

use moelten_engine::api::GenerateParams;

/// A setting of `/set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// Sampling temperature; 0 is greedy.
    Temperature,
    /// How many of the likeliest tokens are kept (top-k sampling).
    TopK,
    /// Cumulative probability of the tokens that are kept (nucleus sampling, arXiv:1904.09751).
    TopP,
    /// Smallest probability kept, as a share of the likeliest token's (min-p, arXiv:2407.01082).
    MinP,
    /// Divisor for the logits of recent tokens (arXiv:1909.05858).
    RepeatPenalty,
    /// How many recent tokens the penalty covers.
    RepeatWindow,
    /// Seed of the sampler's random numbers.
    Seed,
    /// Longest answer, in tokens.
    MaxTokens,
    /// A text that ends the answer where it occurs.
    Stop,
}

impl Setting {
    /// All settings, in display order.
    pub const ALL: [Self; 9] = [
        Self::Temperature,
        Self::TopK,
        Self::TopP,
        Self::MinP,
        Self::RepeatPenalty,
        Self::RepeatWindow,
        Self::Seed,
        Self::MaxTokens,
        Self::Stop,
    ];

    /// The name, the same as that of the command-line option.
    pub fn name(self) -> &'static str {
        match self {
            Self::Temperature => "temp",
            Self::TopK => "top-k",
            Self::TopP => "top-p",
            Self::MinP => "min-p",
            Self::RepeatPenalty => "repeat-penalty",
            Self::RepeatWindow => "repeat-window",
            Self::Seed => "seed",
            Self::MaxTokens => "max-tokens",
            Self::Stop => "stop",
        }
    }

    /// One line for `/set` and `/show`.
    pub fn help(self) -> &'static str {
        match self {
            Self::Temperature => "0 takes the likeliest token, higher is more random",
            Self::TopK => "keep only the k likeliest tokens; 0 is off",
            Self::TopP => "keep the likeliest tokens up to this total probability; 1 is off",
            Self::MinP => "keep tokens at least this likely relative to the best; 0 is off",
            Self::RepeatPenalty => "values above 1 make repetition less likely",
            Self::RepeatWindow => "how many recent tokens the penalty covers",
            Self::Seed => "same seed, settings and conversation: same answer",
            Self::MaxTokens => "longest answer in tokens; off means up to the end of the context",
            Self::Stop => "text that ends the answer (\\n is a line end); off is none",
        }
    }

    /// Values that are often useful, each with its effect.
    pub fn examples(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Temperature => &[
                ("0", "always the likeliest token"),
                ("0.3", "close to the likeliest"),
                ("0.7", "balanced"),
                ("1", "the model's own probabilities"),
            ],
            Self::TopK => &[("0", "off"), ("20", "narrow"), ("40", "usual")],
            Self::TopP => &[("1", "off"), ("0.8", "narrow"), ("0.95", "usual")],
            Self::MinP => &[("0", "off"), ("0.05", "usual"), ("0.1", "narrow")],
            Self::RepeatPenalty => &[("1", "off"), ("1.1", "mild"), ("1.3", "strong")],
            Self::RepeatWindow => &[("64", "a few sentences"), ("256", "a few paragraphs")],
            Self::Seed => &[("42", "the same answers each time")],
            Self::MaxTokens => &[
                ("off", "up to the end of the context"),
                ("200", "a paragraph"),
                ("1000", "about two pages"),
            ],
            Self::Stop => &[("off", "none"), ("\\n\\n", "the first empty line")],
        }
    }

    /// Finds a setting by its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }

    /// The current value as text.
    pub fn get(self, params: &GenerateParams) -> String {
        let sampler = &params.sampler;
        match self {
            Self::Temperature => sampler.temperature.to_string(),
            Self::TopK => sampler.top_k.to_string(),
            Self::TopP => sampler.top_p.to_string(),
            Self::MinP => sampler.min_p.to_string(),
            Self::RepeatPenalty => sampler.repetition_penalty.to_string(),
            Self::RepeatWindow => sampler.repetition_window.to_string(),
            Self::Seed => sampler.seed.to_string(),
            Self::MaxTokens => params.max_tokens.map_or_else(|| OFF.to_owned(), |tokens| tokens.to_string()),
            Self::Stop if params.stop.is_empty() => OFF.to_owned(),
            Self::Stop => params.stop.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" "),
        }
    }

    /// Parses and sets a value.
    ///
    /// # Errors
    /// A message for a value of the wrong kind or out of range; `params` is unchanged then.
    pub fn set(self, params: &mut GenerateParams, value: &str) -> Result<(), String> {
        let mut new = params.clone();
        let sampler = &mut new.sampler;
        match self {
            Self::Temperature => sampler.temperature = self.number(value)?,
            Self::TopK => sampler.top_k = self.whole(value)?,
            Self::TopP => sampler.top_p = self.number(value)?,
            Self::MinP => sampler.min_p = self.number(value)?,
            Self::RepeatPenalty => sampler.repetition_penalty = self.number(value)?,
            Self::RepeatWindow => sampler.repetition_window = self.whole(value)?,
            Self::Seed => sampler.seed = self.whole(value)?,
            Self::MaxTokens if value == OFF => new.max_tokens = None,
            Self::MaxTokens => match self.whole(value)? {
                0 => return Err("max-tokens is 0, but must be at least 1, or off".to_owned()),
                tokens => new.max_tokens = Some(tokens),
            },
            Self::Stop if value == OFF => new.stop.clear(),
            Self::Stop => new.stop = vec![value.replace("\\n", "\n")],
        }
        new.sampler.validate().map_err(|error| error.to_string())?;
        *params = new;
        Ok(())
    }

    fn number(self, value: &str) -> Result<f32, String> {
        value.parse().map_err(|_| format!("{} is {value:?}, but must be a number", self.name()))
    }

    fn whole<T: FromStr<Err = ParseIntError>>(self, value: &str) -> Result<T, String> {
        value.parse().map_err(|error: ParseIntError| match error.kind() {
            IntErrorKind::PosOverflow => format!("{} is {value}, which is too large", self.name()),
            _ => format!("{} is {value:?}, but must be a whole number, 0 or more", self.name()),
        })
    }
}

/// The value of a setting that is off.
const OFF: &str = "off";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_accepts_the_value_that_it_prints() {
        let mut params = GenerateParams::default();
        for (setting, value) in
            Setting::ALL.into_iter().zip(["0.5", "7", "0.9", "0.1", "1.5", "32", "12345", "99", "END"])
        {
            assert_eq!(Setting::named(setting.name()), Some(setting));
            setting.set(&mut params, value).unwrap();
            assert_eq!(setting.get(&params).trim_matches('"'), value);
        }
        for setting in Setting::ALL {
            for (value, _) in setting.examples() {
                setting.set(&mut params.clone(), value).unwrap();
            }
        }
        assert_eq!(params.sampler.seed, 12345);
        assert_eq!(params.stop, ["END"]);
        Setting::Stop.set(&mut params, "off").unwrap();
        Setting::MaxTokens.set(&mut params, "off").unwrap();
        assert_eq!((params.stop.len(), params.max_tokens), (0, None));
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut params = GenerateParams::default();
        for (setting, value) in [
            (Setting::Temperature, "hot"),
            (Setting::Temperature, "NaN"),
            (Setting::Temperature, "-1"),
            (Setting::TopK, "-5"),
            (Setting::TopK, "1.5"),
            (Setting::TopP, "0"),
            (Setting::MinP, "1"),
            (Setting::Seed, "99999999999999999999999"),
            (Setting::MaxTokens, "0"),
        ] {
            let problem = setting.set(&mut params, value).unwrap_err();
            assert!(!problem.is_empty());
        }
        let said = |setting: Setting, value| setting.set(&mut params.clone(), value).unwrap_err();
        assert_eq!(said(Setting::Temperature, "warm"), r#"temp is "warm", but must be a number"#);
        assert_eq!(said(Setting::TopK, "-1"), r#"top-k is "-1", but must be a whole number, 0 or more"#);
        assert_eq!(
            said(Setting::Seed, "99999999999999999999"),
            "seed is 99999999999999999999, which is too large"
        );
        assert_eq!(params, GenerateParams::default());
    }
}
