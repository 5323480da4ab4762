//! The text side of a loaded model: tokenizer, chat template and recommended sampling values, from GGUF
//! metadata or from the files of a folder. It must not know weights.

pub mod chat;
pub(crate) mod hints;
pub(crate) mod jinja;
pub mod plain;
pub mod tokenizer;
pub(crate) mod turns;

use crate::container::gguf::{Array, Metadata, Value as Entry};
use crate::error::Result;
use crate::load::{LoadedModel, Source};
use crate::text::chat::ChatTemplate;
pub use crate::text::hints::{MOST_BEAMS, SamplingHints};
use crate::text::tokenizer::{GgufVocab, Tokenizer};

/// The metadata key of a GGUF file's chat template.
pub(crate) const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// The metadata key of the text of a whole `tokenizer.json`, for vocabularies that the other keys cannot
/// express.
pub(crate) const EMBEDDED_KEY: &str = "tokenizer.huggingface.json";
pub(crate) const BOS_KEY: &str = "tokenizer.ggml.bos_token_id";
pub(crate) const EOS_KEY: &str = "tokenizer.ggml.eos_token_id";

/// The keys of a GGUF file with an element for each token, or for each merge of two, by the kind of its
/// vocabulary. `None` if the kind does not tell, or is one that is refused: then the whole has to be read.
pub fn vocabulary_lists(metadata: &Metadata) -> Option<&'static [&'static str]> {
    let text = |key: &str| metadata.str(key).ok().flatten();
    match text("tokenizer.ggml.model")? {
        "gpt2" if tokenizer::knows_pre(text("tokenizer.ggml.pre")?) => {
            Some(&["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.merges"])
        }
        "llama" => Some(&["tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type"]),
        _ => None,
    }
}

/// The tokenizer of a model with the notices of its files.
#[derive(Debug)]
pub struct TextSide {
    /// Turns text into token ids and back.
    pub tokenizer: Tokenizer,
    /// Harmless oddities of the files, one line each, to be shown to the user.
    pub notices: Vec<String>,
}

impl LoadedModel {
    /// Builds the tokenizer. Besides the tokens that the files name, those end an answer with which the chat
    /// template closes the assistant's turn or opens the next one.
    ///
    /// # Errors
    /// A missing or broken vocabulary. One with fewer tokens than the embedding has rows is fine: the other
    /// rows are padding that no text reaches. Of one with more, the tokens beyond are refused when a text
    /// needs them.
    pub fn text(&self) -> Result<TextSide> {
        let (mut tokenizer, mut notices) = match &self.source {
            Source::Gguf { metadata, .. } if metadata.get(EMBEDDED_KEY).is_some() => {
                let text = metadata.require_str(EMBEDDED_KEY)?;
                let id = |key: &str| -> Result<Option<u32>> {
                    Ok(metadata.u64(key)?.and_then(|id| u32::try_from(id).ok()))
                };
                Tokenizer::from_embedded(metadata.path(), text, (id(BOS_KEY)?, id(EOS_KEY)?))?
            }
            Source::Gguf { metadata, .. } => {
                let (vocab, mut notices) = gguf_vocab(metadata)?;
                let (tokenizer, more) = Tokenizer::from_gguf(metadata.path(), vocab)?;
                notices.extend(more);
                (tokenizer, notices)
            }
            Source::Hf { path, .. } => Tokenizer::from_hf_folder(path)?,
        };
        notices.extend(tokenizer.limit(self.spec.vocab));
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
                // An empty text renders no conversation: the file has none.
                None | Some("") => Ok(None),
                Some(source) => {
                    let name = format!("{} ({TEMPLATE_KEY})", metadata.path().display());
                    ChatTemplate::new(&name, source).map(Some)
                }
            },
        }
    }

    /// Sampling values from `generation_config.json` or `general.sampling.*`, each in the range that samplers
    /// take, with a notice for each that had to be changed or left out.
    pub fn sampling_hints(&self) -> (SamplingHints, Vec<String>) {
        let mut notices = Vec::new();
        let hints = match &self.source {
            Source::Gguf { metadata, .. } => hints::of_metadata(metadata, &mut notices),
            Source::Hf { generation_config: None, .. } => SamplingHints::default(),
            Source::Hf { generation_config: Some(config), path, .. } => {
                hints::of_config(&path.join("generation_config.json"), config, &mut notices)
            }
        };
        (hints, notices)
    }
}

/// The tokenizer keys of the GGUF specification (`tokenizer.ggml.*`), with a notice for each that says
/// nothing usable and can be done without.
///
/// # Errors
/// Missing keys and values of the wrong type.
pub fn gguf_vocab(metadata: &Metadata) -> Result<(GgufVocab, Vec<String>)> {
    let key = |suffix: &str| format!("tokenizer.ggml.{suffix}");
    let mut notices = Vec::new();
    let mut id = |suffix: &str| -> Option<u32> {
        let key = key(suffix);
        // Some converters write -1 as "none", also into an unsigned field.
        let none = |id: &u32| *id == u32::MAX;
        match metadata.u64(&key) {
            Ok(None) => None,
            Ok(Some(id)) if u32::try_from(id).is_ok() => u32::try_from(id).ok().filter(|id| !none(id)),
            _ if matches!(metadata.get(&key), Some(Entry::I32(-1) | Entry::I64(-1))) => None,
            _ => {
                notices.push(format!("{key} is not a token id; ignored"));
                None
            }
        }
    };
    let (bos, eos, eot, eom) =
        (id("bos_token_id"), id("eos_token_id"), id("eot_token_id"), id("eom_token_id"));
    let (unk, pad) = (id("unknown_token_id"), id("padding_token_id"));
    let vocab = GgufVocab {
        model: metadata.require_str(&key("model"))?.to_owned(),
        pre: metadata.str(&key("pre"))?.map(str::to_owned),
        tokens: metadata.require_strings(&key("tokens"))?.to_vec(),
        scores: metadata.f32s(&key("scores"))?.unwrap_or_default(),
        types: metadata.i32s(&key("token_type"))?.unwrap_or_default(),
        merges: metadata.strings(&key("merges"))?.unwrap_or_default().to_vec(),
        bos,
        eos,
        eot,
        eom,
        unk,
        pad,
        add_bos: metadata.bool(&key("add_bos_token"))?,
        add_eos: metadata.bool(&key("add_eos_token"))?,
        add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
        remove_extra_whitespaces: metadata.bool(&key("remove_extra_whitespaces"))?,
        precompiled_charsmap: metadata.u8s(&key("precompiled_charsmap"))?,
    };
    Ok((vocab, notices))
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
