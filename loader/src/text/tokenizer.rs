//! Text to token ids and back: one [`Tokenizer`] for every kind of vocabulary, built from GGUF metadata alone
//! ([`Tokenizer::from_gguf`]) or from a Hugging Face folder ([`Tokenizer::from_hf_folder`]).
//!
//! Text and templates are encoded separately. [`Tokenizer::encode_text`] is for untrusted text of users,
//! files and models: it never yields a control token. [`Tokenizer::encode_markup`] is for a rendered chat
//! template, whose own control tokens count and those inside the messages do not; see [`Markup`].
//!
//! It must not know weights. Only [`Tokenizer::from_hf_folder`] reads files.

mod added;
mod build;
mod charsmap;
mod cuts;
mod encode;
mod export;
mod gguf;
mod hf;
mod kind;
mod markup;
mod open;
mod pre;
mod split;
mod spm;
mod stages;
mod stream;

pub use encode::{Encoded, Ended, Tokenizer};
pub use export::{GgufTokenizerExport, gguf_metadata};
pub use gguf::GgufVocab;
pub use kind::{MERGES_MAX, TOKENS_MAX, TokenKind};
pub use markup::Markup;
pub(crate) use markup::free_sentinel;
pub(crate) use pre::knows as knows_pre;
pub use stream::StreamDecoder;
