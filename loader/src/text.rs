//! The text side of a loaded model: tokenizer, chat template and recommended sampling values, from GGUF
//! metadata or from the files of a folder. It must not know weights.

pub mod chat;
mod jinja;
pub mod plain;
pub mod tokenizer;
mod turns;

use std::path::Path;

use serde_json::Value;

use crate::container::gguf::{Array, Metadata, Value as Entry};
use crate::error::{Fault, LoadError, Result};
use crate::load::{LoadedModel, Source};
use crate::text::chat::ChatTemplate;
use crate::text::tokenizer::{GgufVocab, Tokenizer};

/// The metadata key of a GGUF file's chat template.
pub(crate) const TEMPLATE_KEY: &str = "tokenizer.chat_template";

const TOP_K_KEY: &str = "general.sampling.top_k";

/// The tokenizer of a model with the notices of its files.
#[derive(Debug)]
pub struct TextSide {
    /// Turns text into token ids and back.
    pub tokenizer: Tokenizer,
    /// Harmless oddities of the files, one line each, to be shown to the user.
    pub notices: Vec<String>,
}

/// Sampling values that the model's files recommend; `None` where they have none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplingHints {
    /// `do_sample: false` recommends greedy decoding.
    pub greedy: bool,
    /// Divisor of the logits; 0 is greedy.
    pub temperature: Option<f32>,
    /// Number of the best tokens to sample from; 0 is all.
    pub top_k: Option<u64>,
    /// Probability of the best tokens to sample from (arXiv 1904.09751).
    pub top_p: Option<f32>,
    /// Least probability relative to the best token (arXiv 2407.01082).
    pub min_p: Option<f32>,
    /// Divisor of the logits of tokens that occurred before (arXiv 1909.05858).
    pub repetition_penalty: Option<f32>,
}

impl LoadedModel {
    /// Builds the tokenizer. Besides the tokens that the files name, those end an answer with which the chat
    /// template closes the assistant's turn or opens the next one.
    ///
    /// # Errors
    /// A missing or broken vocabulary, or one with more tokens than the embedding has rows. Fewer are fine:
    /// the remaining rows are padding that no text reaches.
    pub fn text(&self) -> Result<TextSide> {
        let (path, (mut tokenizer, notices)) = match &self.source {
            Source::Gguf { metadata, .. } => {
                (metadata.path(), Tokenizer::from_gguf(metadata.path(), gguf_vocab(metadata)?)?)
            }
            Source::Hf { path, .. } => (path.as_path(), Tokenizer::from_hf_folder(path)?),
        };
        if tokenizer.vocab_len() > self.spec.vocab {
            let fault = Fault::Contradiction {
                found: format!("{} tokens", tokenizer.vocab_len()),
                other: format!("{} rows of the embedding", self.spec.vocab),
            };
            return Err(LoadError::malformed(path, "vocabulary", fault));
        }
        // What is wrong with a template is said by the code that renders it.
        if let Ok(Some(template)) = self.chat_template() {
            let turns = turns::turn_tokens(&template, &tokenizer);
            tokenizer.learn_ends(&turns.ends, &turns.within);
        }
        Ok(TextSide { tokenizer, notices })
    }

    /// Compiles the chat template; `None` if the model has none.
    ///
    /// # Errors
    /// A template that does not compile or that fails on a first message.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match &self.source {
            Source::Hf { path, .. } => ChatTemplate::from_hf_folder(path),
            Source::Gguf { metadata, .. } => match metadata.str(TEMPLATE_KEY)? {
                None => Ok(None),
                Some(source) => {
                    let name = format!("{} ({TEMPLATE_KEY})", metadata.path().display());
                    ChatTemplate::new(&name, source).map(Some)
                }
            },
        }
    }

    /// Sampling values from `generation_config.json` or `general.sampling.*`.
    ///
    /// # Errors
    /// Values of the wrong type.
    pub fn sampling_hints(&self) -> Result<SamplingHints> {
        match &self.source {
            Source::Gguf { metadata, .. } => {
                let float = |key: &str| metadata.f32(&format!("general.sampling.{key}"));
                Ok(SamplingHints {
                    greedy: false,
                    temperature: float("temp")?,
                    // The key is signed: zero and below are "off".
                    top_k: match metadata.get(TOP_K_KEY) {
                        Some(Entry::I32(..=0)) => Some(0),
                        _ => metadata.u64(TOP_K_KEY)?,
                    },
                    top_p: float("top_p")?,
                    min_p: float("min_p")?,
                    repetition_penalty: float("penalty_repeat")?,
                })
            }
            Source::Hf { generation_config: None, .. } => Ok(SamplingHints::default()),
            Source::Hf { generation_config: Some(config), path, .. } => {
                hints(&path.join("generation_config.json"), config)
            }
        }
    }
}

fn hints(path: &Path, config: &Value) -> Result<SamplingHints> {
    let number = |key: &str| match config.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(|v| Some(crate::io::reader::narrow(v))).ok_or_else(|| {
            let fault = Fault::WrongType { found: value.to_string(), expected: "a number" };
            LoadError::malformed(path, key, fault)
        }),
    };
    Ok(SamplingHints {
        greedy: config.get("do_sample") == Some(&Value::Bool(false)),
        temperature: number("temperature")?,
        top_k: config.get("top_k").and_then(Value::as_u64),
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("repetition_penalty")?,
    })
}

/// The tokenizer keys of the GGUF specification (`tokenizer.ggml.*`).
///
/// # Errors
/// Missing keys and values of the wrong type.
pub fn gguf_vocab(metadata: &Metadata) -> Result<GgufVocab> {
    let key = |suffix: &str| format!("tokenizer.ggml.{suffix}");
    let id = |suffix: &str| -> Result<Option<u32>> {
        let key = key(suffix);
        let Some(id) = metadata.u64(&key)? else { return Ok(None) };
        // Some converters write -1 as "none" into an unsigned field.
        if id == u64::from(u32::MAX) {
            return Ok(None);
        }
        let high = u64::from(u32::MAX);
        let fault = Fault::OutOfRange { found: id.to_string(), low: 0, high };
        u32::try_from(id).map(Some).map_err(|_| LoadError::malformed(metadata.path(), key, fault))
    };
    Ok(GgufVocab {
        model: metadata.require_str(&key("model"))?.to_owned(),
        pre: metadata.str(&key("pre"))?.map(str::to_owned),
        tokens: metadata.require_strings(&key("tokens"))?.to_vec(),
        scores: metadata.f32s(&key("scores"))?.unwrap_or_default(),
        types: metadata.i32s(&key("token_type"))?.unwrap_or_default(),
        merges: metadata.strings(&key("merges"))?.unwrap_or_default().to_vec(),
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        eom: id("eom_token_id")?,
        unk: id("unknown_token_id")?,
        pad: id("padding_token_id")?,
        add_bos: metadata.bool(&key("add_bos_token"))?,
        add_eos: metadata.bool(&key("add_eos_token"))?,
        add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
        remove_extra_whitespaces: metadata.bool(&key("remove_extra_whitespaces"))?,
        precompiled_charsmap: metadata.u8s(&key("precompiled_charsmap"))?,
    })
}

/// A vocabulary as the keys that [`gguf_vocab`] reads.
pub(crate) fn vocab_keys(vocab: GgufVocab) -> Vec<(String, Entry)> {
    let id = |id: Option<u32>| id.map(Entry::U32);
    let strings = |list: Vec<String>| (!list.is_empty()).then_some(Entry::Array(Array::Str(list)));
    let entries = [
        ("model", Some(Entry::Str(vocab.model))),
        ("pre", vocab.pre.map(Entry::Str)),
        ("tokens", strings(vocab.tokens)),
        ("scores", (!vocab.scores.is_empty()).then_some(Entry::Array(Array::F32(vocab.scores)))),
        ("token_type", (!vocab.types.is_empty()).then_some(Entry::Array(Array::I32(vocab.types)))),
        ("merges", strings(vocab.merges)),
        ("bos_token_id", id(vocab.bos)),
        ("eos_token_id", id(vocab.eos)),
        ("eot_token_id", id(vocab.eot)),
        ("eom_token_id", id(vocab.eom)),
        ("unknown_token_id", id(vocab.unk)),
        ("padding_token_id", id(vocab.pad)),
        ("add_bos_token", vocab.add_bos.map(Entry::Bool)),
        ("add_eos_token", vocab.add_eos.map(Entry::Bool)),
        ("add_space_prefix", vocab.add_space_prefix.map(Entry::Bool)),
        ("remove_extra_whitespaces", vocab.remove_extra_whitespaces.map(Entry::Bool)),
        ("precompiled_charsmap", vocab.precompiled_charsmap.map(|bytes| Entry::Array(Array::U8(bytes)))),
    ];
    entries.into_iter().filter_map(|(key, value)| Some((format!("tokenizer.ggml.{key}"), value?))).collect()
}
