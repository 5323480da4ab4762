//! Text to token ids and back: one [`Tokenizer`] for every kind of vocabulary, built from GGUF metadata alone
//! ([`Tokenizer::from_gguf`]) or from a Hugging Face folder ([`Tokenizer::from_hf_folder`]).
//!
//! Two entrances keep people and templates apart. [`Tokenizer::encode_text`] is for what a person (or a file, or
//! a model) wrote: it never yields a control token. [`Tokenizer::encode_markup`] is for a rendered chat
//! template, whose own control tokens count and those inside the messages do not; see [`Markup`].
//!
//! It never knows weights, and it touches files only in [`Tokenizer::from_hf_folder`].

mod build;
mod charsmap;
mod export;
mod gguf;
mod hf;
mod markup;
mod pre;
mod split;
mod stages;
mod stream;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::{AddedVocabulary, Model, ModelWrapper, NormalizerWrapper, OffsetReferential, OffsetType};

use crate::error::{Fault, LoadError, Result};
pub use export::{GgufTokenizerExport, gguf_metadata};
pub use gguf::GgufVocab;
use markup::Marks;
pub use markup::Markup;
pub(crate) use markup::free_sentinel;
use stages::Stage;
use stream::PieceTable;
pub use stream::StreamDecoder;

/// Most token ids a vocabulary may have.
pub const TOKENS_MAX: usize = 1 << 20;
/// Most merges a byte-pair vocabulary may have.
pub const MERGES_MAX: usize = 1 << 21;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Structure (begin, end of turn, roles): never made from text, never printed.
    Control,
    /// A word added by hand, matched in text before anything else, e.g. `</think>`.
    UserDefined,
    /// An id without meaning.
    Unused,
    /// One byte, `<0x00>` to `<0xFF>`.
    Byte,
}

/// A vocabulary with everything needed to use it. Cheap to share behind an `Arc`.
pub struct Tokenizer {
    source: PathBuf,
    table: Arc<PieceTable>,
    model: ModelWrapper,
    normalizer: Option<NormalizerWrapper>,
    stages: Vec<Stage>,
    /// User-defined tokens; the crate's matcher, because normalisation interacts with it.
    added: AddedVocabulary,
    /// Control tokens in markup.
    marks: Marks,
    bos: Option<u32>,
    eos: Option<u32>,
    unknown: Option<u32>,
    adds_bos: bool,
    adds_eos: bool,
    ends: Vec<u32>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("source", &self.source)
            .field("vocab_len", &self.vocab_len())
            .field("bos", &self.bos)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Builds the tokenizer that GGUF metadata describes. The second value holds notices for the user: what
    /// the file left open or got wrong in a way that does no harm.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for a model or pre-tokenizer this crate does not know,
    /// [`LoadError::Malformed`] for a vocabulary that contradicts itself.
    pub fn from_gguf(path: &Path, vocab: GgufVocab) -> Result<(Self, Vec<String>)> {
        let mut notices = Vec::new();
        let parts = gguf::parts(path, vocab, &mut notices)?;
        Ok((build::assemble(path, parts, &mut notices)?, notices))
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

    /// Number of ids, gaps included: the largest id plus one.
    pub fn vocab_len(&self) -> usize {
        self.table.len()
    }

    /// The token as the vocabulary writes it (`Ġthe`, `▁the`, `<0x0A>`); `None` beyond the vocabulary and for
    /// ids without a token.
    pub fn piece(&self, id: u32) -> Option<&str> {
        self.table.piece(id)
    }

    /// What the token is for; `None` beyond the vocabulary.
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.table.kind(id)
    }

    /// The begin-of-text token.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The end-of-text token.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a prompt begins with [`Tokenizer::bos`].
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether a text for an encoder ends with [`Tokenizer::eos`].
    pub fn adds_eos(&self) -> bool {
        self.adds_eos
    }

    /// Whether an answer ends with this token.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// All tokens that end an answer, ascending: those the files name, and control tokens with a well-known
    /// end-of-turn spelling.
    pub fn end_ids(&self) -> &[u32] {
        &self.ends
    }

    /// Encodes what a person wrote: no BOS, no EOS, and never a control token, whatever the text says.
    ///
    /// # Errors
    /// Only with a vocabulary that is broken in a way that shows late: a pre-tokenizer expression that runs
    /// out of its limit, a missing unknown token.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.guarded(|| self.encode_run(text, true, &mut ids))?;
        Ok(ids)
    }

    /// Encodes a rendered chat template. Its control tokens become ids; those that messages contained stay
    /// text. BOS comes first if [`Tokenizer::adds_bos`] or the template says so, and only once.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_text`].
    pub fn encode_markup(&self, markup: &Markup) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        self.guarded(|| {
            for (position, run) in self.marks.runs(markup).into_iter().enumerate() {
                match run {
                    markup::Run::Control(id) => ids.push(id),
                    markup::Run::Text(text) => self.encode_run(&text, position == 0, &mut ids)?,
                }
            }
            Ok(())
        })?;
        if let Some(bos) = self.bos.filter(|_| self.adds_bos) {
            let doubled = ids.iter().take_while(|id| **id == bos).count();
            ids.splice(..doubled, [bos]);
        }
        Ok(ids)
    }

    /// The control tokens that a template can write, for the guard in front of the template.
    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The whole text of `ids`: control tokens give nothing, a leading space that encoding added is dropped,
    /// bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let mut stream = self.decode_stream();
        let mut text = String::new();
        for id in ids {
            text.extend(stream.push(*id));
        }
        text.extend(stream.finish());
        text
    }

    /// A decoder for a stream of tokens that starts a text of its own.
    pub fn decode_stream(&self) -> StreamDecoder {
        StreamDecoder::new(Arc::clone(&self.table))
    }

    /// Runs `work`, turning a panic inside of the tokenizers crate into an error. Vocabularies are checked when
    /// they are loaded; this is the net below.
    fn guarded(&self, work: impl FnOnce() -> tokenizers::Result<()>) -> Result<()> {
        let problem = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("cannot encode with this vocabulary: {error}"),
            Err(_) => "the vocabulary made the tokenizer library fail".to_owned(),
        };
        Err(LoadError::malformed(&self.source, "tokenizer", Fault::Vocabulary { problem }))
    }

    /// Encodes text between control tokens; `first` if nothing came before it.
    fn encode_run(&self, text: &str, first: bool, ids: &mut Vec<u32>) -> tokenizers::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut pieces = self.added.extract_and_normalize(self.normalizer.as_ref(), text);
        for stage in &self.stages {
            stage.apply(&mut pieces, first)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        for (_, _, tokens) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            for token in tokens.iter().flatten() {
                // No way to a control token is known that the vocabulary leaves open; if there is one, it ends here.
                match self.table.kind(token.id) {
                    Some(TokenKind::Control) => ids.extend(self.unknown),
                    _ => ids.push(token.id),
                }
            }
        }
        Ok(())
    }
}
