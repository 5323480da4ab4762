//! Text to token ids and back: one [`Tokenizer`] for every kind of vocabulary, built from GGUF metadata alone
//! ([`Tokenizer::from_gguf`]) or from a Hugging Face folder ([`Tokenizer::from_hf_folder`]).
//!
//! Two entrances keep people and templates apart. [`Tokenizer::encode_text`] is for what a person (or a file, or
//! a model) wrote: it never yields a control token. [`Tokenizer::encode_markup`] is for a rendered chat
//! template, whose own control tokens count and those inside the messages do not; see [`Markup`].
//!
//! It never knows weights, and it touches files only in [`Tokenizer::from_hf_folder`].

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
mod stages;
mod stream;

pub use encode::{Encoded, Ended, Tokenizer};
pub use export::{GgufTokenizerExport, gguf_metadata};
pub use gguf::GgufVocab;
pub use kind::{MERGES_MAX, TOKENS_MAX, TokenKind};
pub use markup::Markup;
pub(crate) use markup::free_sentinel;
pub use stream::StreamDecoder;
