//! The languages of a translation model: tokens of its vocabulary that name one. It must not know texts.

use moelten_loader::near::distance;
use moelten_loader::text::tokenizer::{TokenKind, Tokenizer};

use crate::exit::CommandError;

/// Codes that a message shows.
const SHOWN: usize = 8;
/// Changes of letters that a near code has at most.
const NEAR: usize = 2;

/// The languages of a vocabulary.
pub struct Languages {
    /// Code and token of each.
    known: Vec<(String, u32)>,
}

impl Languages {
    /// Those of NLLB, written `eng_Latn`, or of M2M100, written `__en__` and called `en`.
    pub fn of(tokenizer: &Tokenizer) -> Self {
        let ids = 0..u32::try_from(tokenizer.vocab_len()).unwrap_or(u32::MAX);
        let known = ids.filter_map(|id| {
            let special = matches!(tokenizer.kind(id), Some(TokenKind::Control | TokenKind::UserDefined));
            let code = tokenizer.piece(id).filter(|_| special).and_then(code)?;
            Some((code.to_owned(), id))
        });
        Self { known: known.collect() }
    }

    /// The token of a code that an option gave.
    ///
    /// # Errors
    /// [`CommandError::Usage`] with near codes; [`CommandError::Unsupported`] for a vocabulary without
    /// languages.
    pub fn token(&self, option: &str, wanted: Option<&str>) -> Result<u32, CommandError> {
        if self.known.is_empty() {
            let problem = "the vocabulary of this model has no tokens for languages, so it cannot translate";
            return Err(CommandError::Unsupported(problem.to_owned()));
        }
        let count = self.known.len();
        let Some(wanted) = wanted else {
            let shown = self.some(self.known.iter().map(|(code, _)| code.as_str()));
            return Err(CommandError::Usage(format!(
                "this model translates: {option} LANGUAGE is missing, one of {count}: {shown}"
            )));
        };
        let plain = code(wanted).unwrap_or(wanted);
        if let Some((_, id)) = self.known.iter().find(|(code, _)| code == plain) {
            return Ok(*id);
        }
        let mut near: Vec<(usize, &str)> = self
            .known
            .iter()
            .map(|(code, _)| (distance(&plain.to_lowercase(), &code.to_lowercase()), code.as_str()))
            .collect();
        near.sort_unstable();
        let same_start = |code: &str| {
            let start: String = plain.to_lowercase().chars().take(3).collect();
            !start.is_empty() && code.to_lowercase().starts_with(&start)
        };
        let chosen: Vec<&str> = near
            .iter()
            .filter(|(distance, code)| *distance <= NEAR || same_start(code))
            .map(|(_, code)| *code)
            .collect();
        let hint = match chosen.is_empty() {
            true => format!("it knows {count}: {}", self.some(self.known.iter().map(|(c, _)| c.as_str()))),
            false => format!("similar codes: {}", self.some(chosen.into_iter())),
        };
        Err(CommandError::Usage(format!("{option} {wanted}: the model has no such language; {hint}")))
    }

    /// The first of some codes, and that there are more.
    fn some<'a>(&self, codes: impl Iterator<Item = &'a str>) -> String {
        let mut codes = codes;
        let shown: Vec<&str> = codes.by_ref().take(SHOWN).collect();
        let more = if codes.next().is_some() { ", ..." } else { "" };
        format!("{}{more}", shown.join(", "))
    }
}

/// The code of a token that names a language.
fn code(piece: &str) -> Option<&str> {
    let lower = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase());
    if let Some(inner) = piece.strip_prefix("__").and_then(|rest| rest.strip_suffix("__")) {
        return (lower(inner) && inner.len() <= 3).then_some(inner);
    }
    let (language, script) = piece.split_once('_')?;
    let mut letters = script.chars();
    let capital = letters.next().is_some_and(|c| c.is_ascii_uppercase());
    (lower(language) && language.len() == 3 && script.len() == 4 && capital && lower(letters.as_str()))
        .then_some(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn languages() -> Languages {
        let codes = ["deu_Latn", "eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant"];
        Languages { known: codes.iter().map(|code| (*code).to_owned()).zip(90..).collect() }
    }

    #[test]
    fn codes_are_told_from_other_tokens() {
        assert_eq!(["eng_Latn", "__en__", "__ast__"].map(code), [Some("eng_Latn"), Some("en"), Some("ast")]);
        for other in ["<mask>", "eng_latn", "english_Latn", "eng_LATN", "____", "__EN__", "a_b", "eng"] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn unknown_codes_are_refused_with_near_ones() {
        let languages = languages();
        assert_eq!(languages.token("--to", Some("fra_Latn")).unwrap(), 92);
        let refused = |wanted| languages.token("--to", wanted).unwrap_err().to_string();
        let deutsch = refused(Some("deu_Lat"));
        assert!(deutsch.contains("--to deu_Lat") && deutsch.contains("similar codes: deu_Latn"), "{deutsch}");
        assert!(refused(Some("zho")).contains("zho_Hans, zho_Hant"), "{}", refused(Some("zho")));
        assert!(
            refused(Some("qqqqqqqqq")).contains("it knows 5: deu_Latn"),
            "{}",
            refused(Some("qqqqqqqqq"))
        );
        assert!(refused(None).contains("--to LANGUAGE is missing"), "{}", refused(None));
    }
}
