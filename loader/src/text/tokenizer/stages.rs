//! The stages between normalised text and the model; each splits the pieces of the one before.
//!
//! Expressions use [`Splitter`], because the library's stages stop silently when an expression exceeds its
//! limit. The other stages are the library's.

use tokenizers::pattern::Invert;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::pre;
use super::split::Splitter;

/// Position of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TextPlace {
    /// Nothing comes before it, not even a control token.
    First,
    /// After a control token, an added word or another piece.
    Later,
    /// In the middle of a piece.
    Within,
}

/// One stage.
#[derive(Debug)]
pub(super) enum Stage {
    /// Split by an expression.
    Split {
        /// The expression.
        splitter: Splitter,
        /// How matches are joined with the gaps.
        behavior: SplitDelimiterBehavior,
        /// Whether matches and gaps change roles.
        invert: bool,
    },
    /// SentencePiece's visible space. Its prefix depends on the position of the text.
    Metaspace(Metaspace),
    /// Any other stage of the library.
    Library(PreTokenizerWrapper),
}

impl Stage {
    /// A split that isolates every match.
    pub(super) fn isolate(expression: &str) -> Result<Self, String> {
        let splitter = Splitter::new(expression)?;
        Ok(Self::Split { splitter, behavior: SplitDelimiterBehavior::Isolated, invert: false })
    }

    /// The mapping of bytes to the characters that byte-level vocabularies are written in.
    pub(super) fn byte_level() -> Self {
        Self::Library(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)))
    }

    /// Converts the library's pre-tokenizer into stages.
    pub(super) fn from_library(wrapper: PreTokenizerWrapper) -> Result<Vec<Self>, String> {
        match wrapper {
            PreTokenizerWrapper::Sequence(sequence) => {
                let mut stages = Vec::new();
                for inner in sequence.as_ref() {
                    stages.extend(Self::from_library(inner.clone())?);
                }
                Ok(stages)
            }
            PreTokenizerWrapper::Split(split) => {
                let expression = match &split.pattern {
                    SplitPattern::String(text) => regex_escape(text),
                    SplitPattern::Regex(expression) => expression.clone(),
                };
                let splitter = Splitter::new(&expression)?;
                splitter.probe()?;
                Ok(vec![Self::Split { splitter, behavior: split.behavior, invert: split.invert }])
            }
            PreTokenizerWrapper::ByteLevel(bytes) if bytes.use_regex && !bytes.add_prefix_space => {
                Ok(vec![Self::isolate(pre::GPT2)?, Self::byte_level()])
            }
            PreTokenizerWrapper::Metaspace(metaspace) => Ok(vec![Self::Metaspace(metaspace)]),
            other => Ok(vec![Self::Library(other)]),
        }
    }

    /// The expression of a stage that isolates every match, and so every gap between two.
    pub(super) fn isolates(&self) -> Option<&Splitter> {
        match self {
            Self::Split { splitter, behavior: SplitDelimiterBehavior::Isolated, .. } => Some(splitter),
            _ => None,
        }
    }

    /// Splits `pieces` of a text further.
    pub(super) fn apply(&self, pieces: &mut PreTokenizedString, place: TextPlace) -> tokenizers::Result<()> {
        match self {
            Self::Split { splitter, behavior, invert: false } => {
                pieces.split(|_, piece| piece.split(splitter, *behavior))
            }
            Self::Split { splitter, behavior, invert: true } => {
                pieces.split(|_, piece| piece.split(Invert(splitter), *behavior))
            }
            Self::Metaspace(metaspace)
                if place == TextPlace::Within
                    || place == TextPlace::Later && metaspace.prepend_scheme == PrependScheme::First =>
            {
                let mut later = metaspace.clone();
                later.set_prepend_scheme(PrependScheme::Never);
                later.pre_tokenize(pieces)
            }
            Self::Metaspace(metaspace) => metaspace.pre_tokenize(pieces),
            Self::Library(wrapper) => wrapper.pre_tokenize(pieces),
        }
    }
}

/// `text` as an expression that matches exactly it.
fn regex_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
