//! Tokenizers from files: GGUF metadata, or a Hugging Face folder.

use std::path::Path;

use super::encode::Tokenizer;
use super::gguf::GgufVocab;
use super::{build, gguf, hf};
use crate::error::Result;

impl Tokenizer {
    /// Builds the tokenizer that GGUF metadata describes. The second value holds notices for the user: what
    /// the file left open or got wrong in a way that does no harm.
    ///
    /// # Errors
    /// [`crate::error::LoadError::Unsupported`] for a model or pre-tokenizer this crate does not know,
    /// [`crate::error::LoadError::Malformed`] for a vocabulary that contradicts itself.
    pub fn from_gguf(path: &Path, vocab: GgufVocab) -> Result<(Self, Vec<String>)> {
        let mut notices = Vec::new();
        let parts = gguf::parts(path, vocab, &mut notices)?;
        Ok((build::assemble(path, parts, &mut notices)?, notices))
    }

    /// Builds the tokenizer of a `tokenizer.json` that a GGUF file holds as text, with the tokens that begin
    /// and end a text. Notices as in [`Tokenizer::from_gguf`].
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn from_embedded(
        path: &Path,
        text: &str,
        ends: (Option<u32>, Option<u32>),
    ) -> Result<(Self, Vec<String>)> {
        let mut notices = Vec::new();
        let parts = hf::embedded(path, text, ends, &mut notices)?;
        Ok((build::assemble(path, parts, &mut notices)?, notices))
    }

    /// The text of the `tokenizer.json` of a folder; `None` if it has none.
    ///
    /// # Errors
    /// Files that cannot be read, or are too long.
    pub fn source_of_folder(dir: &Path) -> Result<Option<String>> {
        hf::source(dir)
    }

    /// Builds the tokenizer of a Hugging Face folder from `tokenizer.json`, with `tokenizer_config.json`,
    /// `special_tokens_map.json` and `generation_config.json` where they exist. Notices as in
    /// [`Tokenizer::from_gguf`].
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`]; also when there is no `tokenizer.json`.
    pub fn from_hf_folder(dir: &Path) -> Result<(Self, Vec<String>)> {
        let mut notices = Vec::new();
        let (path, parts) = hf::parts(dir, &mut notices)?;
        Ok((build::assemble(&path, parts, &mut notices)?, notices))
    }
}
