//! Vocabularies from Hugging Face folders: `tokenizer.json`, or older files in its place, and the small files
//! beside it with begin and end tokens.
//!
//! The file is read into types of this crate, with limits. Only its pipeline descriptions (normaliser,
//! pre-tokenizer) are passed to the tokenizers crate. It must not know GGUF.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper};

use super::build::{Matching, Parts, vocabulary};
use super::charsmap;
use super::cuts::Algorithm;
use super::kind::{MERGES_MAX, TOKENS_MAX, TokenKind};
use super::spm;
use super::stages::Stage;
use super::stream::{Spelling, VocabPiece, byte_of};
use crate::error::{Fault, LoadError, Result};
use crate::io::json;

/// Largest `tokenizer.json`, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Longest description of a normaliser (the largest contain a character map) or pre-tokenizer, in bytes.
const PIPELINE_BYTES_MAX: usize = 4 << 20;

/// Reads the folder into parts; also gives the path of the main file, for messages.
pub(super) fn parts(dir: &Path, notices: &mut Vec<String>) -> Result<(PathBuf, Parts)> {
    let path = dir.join("tokenizer.json");
    let Some(text) = whole_text(dir, notices)? else {
        return Err(no_tokenizer(dir));
    };
    let parts = parts_of(&path, &text, Specials::read(dir, notices)?, notices)?;
    Ok((path, parts))
}

/// The text of a folder's `tokenizer.json`, as GGUF files can hold it; `None` if there is none, and no files
/// that it could be made of.
pub(super) fn source(dir: &Path) -> Result<Option<String>> {
    whole_text(dir, &mut Vec::new())
}

fn whole_text(dir: &Path, notices: &mut Vec<String>) -> Result<Option<String>> {
    match json::read_text(&dir.join("tokenizer.json"), FILE_BYTES_MAX)? {
        Some(text) => Ok(Some(text)),
        None => spm::as_tokenizer_json(dir, notices),
    }
}

/// Reads the text of a `tokenizer.json` that `path` holds, with the tokens that begin and end a text.
pub(super) fn embedded(
    path: &Path,
    text: &str,
    (bos, eos): (Option<u32>, Option<u32>),
    notices: &mut Vec<String>,
) -> Result<Parts> {
    let specials = Specials { end_ids: eos.into_iter().collect(), ..Specials::default() };
    let parts = parts_of(path, text, specials, notices)?;
    Ok(Parts { bos: bos.or(parts.bos), ..parts })
}

fn parts_of(path: &Path, text: &str, specials: Specials, notices: &mut Vec<String>) -> Result<Parts> {
    let file: TokenizerFile = json::parse_text(path, "tokenizer.json", text)?;
    let mut pieces = Vec::new();
    let mut matching = HashMap::new();
    let algorithm = model(path, &file, &mut pieces)?;
    add_tokens(path, &file, &mut pieces, &mut matching, notices)?;
    let gaps = pieces.iter().filter(|piece| piece.text.is_empty()).count();
    if gaps > 0 {
        notices.push(format!("{gaps} ids of {} have no token in tokenizer.json", pieces.len()));
    }
    let algorithm = match algorithm {
        Algorithm::Unigram { mut scores, byte_fallback } => {
            scores.resize(pieces.len(), 0.0);
            Algorithm::Unigram { scores, byte_fallback }
        }
        bpe @ Algorithm::Bpe { .. } => bpe,
    };
    if let Some(description) = pipeline_part::<serde_json::Value>(path, "normalizer", file.normalizer)? {
        charsmap::check_description(&description)
            .map_err(|problem| vocabulary(path, "normalizer", problem))?;
    }
    let normalizer = pipeline_part::<NormalizerWrapper>(path, "normalizer", file.normalizer)?;
    let stages = match pipeline_part::<PreTokenizerWrapper>(path, "pre_tokenizer", file.pre_tokenizer)? {
        Some(wrapper) => {
            Stage::from_library(wrapper).map_err(|problem| vocabulary(path, "pre_tokenizer", problem))?
        }
        None => Vec::new(),
    };
    let id_of = |text: &str| position(&pieces, text);
    let unknown = match (&file.model.unk_token, file.model.unk_id) {
        (Some(text), _) => Some(id_of(text).ok_or_else(|| {
            vocabulary(path, "model.unk_token", format!("{text:?} is not in the vocabulary"))
        })?),
        (None, id) => id,
    };
    let bos = specials.bos.as_deref().and_then(id_of);
    let eos = specials.eos.as_deref().and_then(id_of);
    let (template_bos, template_eos) = post_processor(path, file.post_processor, &id_of)?;
    Ok(Parts {
        spelling: spelling(path, file.decoder, &stages)?,
        normalizer,
        stages,
        algorithm,
        matching,
        bos: bos.or(template_bos),
        adds_bos: specials.add_bos.unwrap_or(template_bos.is_some()),
        adds_eos: specials.add_eos.unwrap_or(template_eos.is_some()),
        eos: eos.or(template_eos).or(specials.end_ids.first().copied()),
        unknown,
        ends: specials.end_ids,
        doubled: HashSet::new(),
        pieces,
    })
}

fn no_tokenizer(dir: &Path) -> LoadError {
    let old = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"];
    match old.into_iter().find(|name| dir.join(name).exists()) {
        Some(name) => LoadError::Unsupported {
            path: dir.join(name),
            feature: format!("a tokenizer given only as {name}"),
            hint: "get the model's tokenizer.json, or write one with \
                   transformers' AutoTokenizer.from_pretrained(dir).save_pretrained(dir)"
                .to_owned(),
        },
        None => LoadError::malformed(dir, "tokenizer.json", Fault::Missing { hint: " from this folder" }),
    }
}

fn position(pieces: &[VocabPiece], text: &str) -> Option<u32> {
    pieces.iter().position(|piece| piece.text == text).and_then(|id| u32::try_from(id).ok())
}

fn unsupported(path: &Path, feature: String, hint: &str) -> LoadError {
    LoadError::Unsupported { path: path.to_owned(), feature, hint: hint.to_owned() }
}

/// Puts `piece` at `id`, which must be free.
fn place(path: &Path, pieces: &mut Vec<VocabPiece>, id: u32, piece: VocabPiece) -> Result<()> {
    let field = || format!("token {:?}", piece.text);
    let at = id as usize;
    if at >= TOKENS_MAX {
        let fault = Fault::OutOfRange { found: id.to_string(), low: 0, high: TOKENS_MAX as u64 - 1 };
        return Err(LoadError::malformed(path, field(), fault));
    }
    if at >= pieces.len() {
        pieces.resize(at + 1, VocabPiece { text: String::new(), kind: TokenKind::Unused });
    }
    let slot = &mut pieces[at];
    if !slot.text.is_empty() && slot.text != piece.text {
        let fault =
            Fault::Contradiction { found: format!("id {id}"), other: format!("token {:?}", slot.text) };
        return Err(LoadError::malformed(path, field(), fault));
    }
    *slot = piece;
    Ok(())
}

fn model(path: &Path, file: &TokenizerFile, pieces: &mut Vec<VocabPiece>) -> Result<Algorithm> {
    let model = &file.model;
    for (name, affix) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if affix.as_ref().is_some_and(|affix| !affix.is_empty()) {
            return Err(unsupported(path, format!("a BPE tokenizer with {name}"), "only plain BPE is"));
        }
    }
    let kind = |text: &str| {
        if model.byte_fallback && byte_of(text).is_some() { TokenKind::Byte } else { TokenKind::Normal }
    };
    match (model.kind.as_deref(), &model.vocab) {
        (Some("BPE") | None, Entries::Ids(entries)) => {
            for (text, id) in entries {
                place(path, pieces, *id, VocabPiece { text: text.clone(), kind: kind(text) })?;
            }
            Ok(Algorithm::Bpe {
                merges: model.merges.iter().map(|merge| (merge.0.clone(), merge.1.clone())).collect(),
                byte_fallback: model.byte_fallback,
                ignore_merges: model.ignore_merges,
                fuse_unknown: model.fuse_unk,
            })
        }
        (Some("Unigram") | None, Entries::Scores(entries)) => {
            for (id, (text, _)) in (0_u32..).zip(entries) {
                place(path, pieces, id, VocabPiece { text: text.clone(), kind: kind(text) })?;
            }
            let scores = entries.iter().map(|(_, score)| *score).collect();
            Ok(Algorithm::Unigram { scores, byte_fallback: model.byte_fallback })
        }
        (kind, _) => Err(unsupported(
            path,
            format!("tokenizer model {:?}", kind.unwrap_or("without a type")),
            "supported are BPE (vocabulary by id) and Unigram (vocabulary with scores)",
        )),
    }
}

/// Adds the tokens of `added_tokens`. As in the library, a token that the vocabulary has keeps its id there,
/// whatever the list says, and one whose id is taken gets the next free one.
fn add_tokens(
    path: &Path,
    file: &TokenizerFile,
    pieces: &mut Vec<VocabPiece>,
    matching: &mut HashMap<u32, Matching>,
    notices: &mut Vec<String>,
) -> Result<()> {
    let unknown = file.model.unk_token.as_deref();
    let ids = (0_u32..).zip(pieces.iter());
    let mut known: HashMap<String, u32> = ids.map(|(id, piece)| (piece.text.clone(), id)).collect();
    for token in file.added_tokens.iter().filter(|token| !token.content.is_empty()) {
        let taken = pieces
            .get(token.id as usize)
            .is_some_and(|piece| !piece.text.is_empty() && piece.text != token.content);
        let free = || u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        let own = if taken { free() } else { token.id };
        let id = known.get(&token.content).copied().unwrap_or(own);
        if id != token.id {
            let text = &token.content;
            notices.push(format!(
                "tokenizer.json: added_tokens gives {text:?} the id {}; {id} is used",
                token.id
            ));
        }
        let kind = match token.special {
            _ if unknown == Some(token.content.as_str()) => TokenKind::Unknown,
            true => TokenKind::Control,
            false => TokenKind::UserDefined,
        };
        place(path, pieces, id, VocabPiece { text: token.content.clone(), kind })?;
        known.insert(token.content.clone(), id);
        let rules = Matching {
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            single_word: token.single_word,
            normalized: token.normalized,
        };
        if rules != Matching::default() {
            matching.insert(id, rules);
        }
    }
    Ok(())
}

/// Reads a part of the pipeline with the library's own types.
fn pipeline_part<T>(path: &Path, field: &str, raw: Option<&RawValue>) -> Result<Option<T>>
where
    T: for<'a> Deserialize<'a>,
{
    let Some(raw) = raw else { return Ok(None) };
    if raw.get().len() > PIPELINE_BYTES_MAX {
        let fault = Fault::TooLong { found: raw.get().len() as u64, limit: PIPELINE_BYTES_MAX as u64 };
        return Err(LoadError::malformed(path, field, fault));
    }
    let parse = || {
        json::parse_text::<Option<T>>(path, field, raw.get()).or_else(|error| {
            // A member that is null stands for one that is missing, which the library's types do not know.
            let value = serde_json::from_str(raw.get()).map(without_nulls);
            value.and_then(serde_json::from_value).map_err(|_| error)
        })
    };
    std::panic::catch_unwind(parse)
        .unwrap_or_else(|_| Err(vocabulary(path, field, "makes the tokenizer library fail".to_owned())))
}

/// `value` without members that are null.
fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(key, value)| (key, without_nulls(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// The spelling of pieces, from the description of the decoder.
fn spelling(path: &Path, raw: Option<&RawValue>, stages: &[Stage]) -> Result<Spelling> {
    #[derive(Deserialize)]
    struct Decoder {
        #[serde(rename = "type")]
        kind: String,
        #[serde(default, deserialize_with = "or_default")]
        decoders: Vec<Decoder>,
        #[serde(default, deserialize_with = "or_default")]
        start: usize,
        prepend_scheme: Option<String>,
        add_prefix_space: Option<bool>,
    }
    fn steps<'a>(decoder: &'a Decoder, out: &mut Vec<&'a Decoder>) {
        if decoder.kind == "Sequence" {
            decoder.decoders.iter().for_each(|inner| steps(inner, out));
        } else {
            out.push(decoder);
        }
    }
    let Some(decoder) = pipeline_part::<Decoder>(path, "decoder", raw)? else {
        let bytes =
            stages.iter().any(|stage| matches!(stage, Stage::Library(PreTokenizerWrapper::ByteLevel(_))));
        return if bytes {
            Ok(Spelling::ByteLevel)
        } else {
            Err(unsupported(
                path,
                "a tokenizer.json without a decoder".to_owned(),
                "byte-level ones may lack it",
            ))
        };
    };
    let mut flat = Vec::new();
    steps(&decoder, &mut flat);
    let mut spelling = None;
    for step in flat {
        match step.kind.as_str() {
            "ByteLevel" => spelling = Some(Spelling::ByteLevel),
            "Metaspace" => {
                let never =
                    step.prepend_scheme.as_deref() == Some("never") || step.add_prefix_space == Some(false);
                spelling = Some(Spelling::Metaspace { strip_first: !never });
            }
            "Replace" | "ByteFallback" => {
                spelling = spelling.or(Some(Spelling::Metaspace { strip_first: false }));
            }
            "Strip" if step.start > 0 => spelling = Some(Spelling::Metaspace { strip_first: true }),
            "Strip" | "Fuse" => {}
            other => {
                let hint = "supported are ByteLevel, Metaspace, Replace, ByteFallback, Strip and Fuse";
                return Err(unsupported(path, format!("decoder {other:?}"), hint));
            }
        }
    }
    spelling.ok_or_else(|| {
        unsupported(path, "an empty decoder".to_owned(), "tokenizer.json must say how to decode")
    })
}

/// The tokens that the post-processor puts before and after a text.
fn post_processor(
    path: &Path,
    raw: Option<&RawValue>,
    id_of: &dyn Fn(&str) -> Option<u32>,
) -> Result<(Option<u32>, Option<u32>)> {
    #[derive(Deserialize)]
    struct Processor {
        #[serde(default, deserialize_with = "or_default")]
        processors: Vec<Processor>,
        #[serde(default, deserialize_with = "or_default")]
        single: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        #[serde(rename = "SpecialToken")]
        special: Option<Special>,
    }
    #[derive(Deserialize)]
    struct Special {
        id: String,
    }
    fn templates<'a>(processor: &'a Processor, out: &mut Vec<&'a [Item]>) {
        out.push(&processor.single);
        processor.processors.iter().for_each(|inner| templates(inner, out));
    }
    let Some(processor) = pipeline_part::<Processor>(path, "post_processor", raw)? else {
        return Ok((None, None));
    };
    let mut all = Vec::new();
    templates(&processor, &mut all);
    let Some(items) = all.into_iter().find(|items| !items.is_empty()) else { return Ok((None, None)) };
    let text = items.iter().position(|item| item.special.is_none()).unwrap_or(0);
    let id = |item: Option<&Item>| {
        item.and_then(|item| item.special.as_ref()).and_then(|special| id_of(&special.id))
    };
    Ok((id(items.first().filter(|_| text > 0)), id(items.last().filter(|_| text + 1 < items.len()))))
}

/// Special tokens of the small files.
#[derive(Debug, Default)]
struct Specials {
    bos: Option<String>,
    eos: Option<String>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    end_ids: Vec<u32>,
}

impl Specials {
    fn read(dir: &Path, notices: &mut Vec<String>) -> Result<Self> {
        #[derive(Default, Deserialize)]
        struct Named {
            bos_token: Option<Name>,
            eos_token: Option<Name>,
            add_bos_token: Option<bool>,
            add_eos_token: Option<bool>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Name {
            Text(String),
            Token { content: String },
        }
        #[derive(Default, Deserialize)]
        struct Generation {
            eos_token_id: Option<Ids>,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Ids {
            One(i64),
            Many(Vec<i64>),
            Other(de::IgnoredAny),
        }
        fn file<T: Default + for<'a> Deserialize<'a>>(dir: &Path, name: &str) -> Result<T> {
            let path = dir.join(name);
            match json::read_text(&path, json::CONFIG_BYTES_MAX)? {
                Some(text) => json::parse_text(&path, name, &text),
                None => Ok(T::default()),
            }
        }
        let text = |name: Name| match name {
            Name::Text(text) | Name::Token { content: text } => text,
        };
        let config: Named = file(dir, "tokenizer_config.json")?;
        let map: Named = file(dir, "special_tokens_map.json")?;
        let generation: Generation = file(dir, "generation_config.json")?;
        let model: Generation = file(dir, "config.json")?;
        let listed = match generation.eos_token_id.or(model.eos_token_id) {
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
            Some(Ids::Other(_)) => {
                notices.push("eos_token_id is neither a token id nor a list of them; ignored".to_owned());
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok(Self {
            bos: config.bos_token.or(map.bos_token).map(text),
            eos: config.eos_token.or(map.eos_token).map(text),
            add_bos: config.add_bos_token,
            add_eos: config.add_eos_token,
            // -1 is "none"; ids beyond the vocabulary are said when it is checked.
            end_ids: listed.into_iter().filter_map(|id| u32::try_from(id).ok()).collect(),
        })
    }
}

/// The fields of `tokenizer.json` that are used here.
#[derive(Deserialize)]
struct TokenizerFile<'a> {
    #[serde(default, deserialize_with = "or_default")]
    added_tokens: Vec<AddedTokenEntry>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    model: ModelEntry,
}

#[derive(Deserialize)]
struct AddedTokenEntry {
    id: u32,
    content: String,
    #[serde(default, deserialize_with = "or_default")]
    single_word: bool,
    #[serde(default, deserialize_with = "or_default")]
    lstrip: bool,
    #[serde(default, deserialize_with = "or_default")]
    rstrip: bool,
    #[serde(default, deserialize_with = "or_default")]
    normalized: bool,
    #[serde(default, deserialize_with = "or_default")]
    special: bool,
}

#[derive(Deserialize)]
struct ModelEntry {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Entries,
    #[serde(default, deserialize_with = "merges")]
    merges: Vec<Merge>,
    unk_token: Option<String>,
    unk_id: Option<u32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    fuse_unk: bool,
    #[serde(default, deserialize_with = "or_default")]
    byte_fallback: bool,
    #[serde(default, deserialize_with = "or_default")]
    ignore_merges: bool,
}

/// `model.vocab` in its two forms.
enum Entries {
    Ids(Vec<(String, u32)>),
    Scores(Vec<(String, f64)>),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct EntriesVisitor;
        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tokens with ids or a list of [token, score]")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                    at_most(entries.len(), TOKENS_MAX, "tokens")?;
                }
                Ok(Entries::Ids(entries))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    entries.push(entry);
                    at_most(entries.len(), TOKENS_MAX, "tokens")?;
                }
                Ok(Entries::Scores(entries))
            }
        }
        deserializer.deserialize_any(EntriesVisitor)
    }
}

/// One merge, written `"a b"` or `["a", "b"]`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: \"left right\" or [left, right]")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Merge, E> {
                match text.split_once(' ') {
                    Some((left, right)) if !left.is_empty() && !right.is_empty() && !right.contains(' ') => {
                        Ok(Merge(left.to_owned(), right.to_owned()))
                    }
                    _ => Err(E::custom(format_args!("the merge {text:?} is not two tokens"))),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Merge, A::Error> {
                match (seq.next_element()?, seq.next_element()?, seq.next_element::<String>()?) {
                    (Some(left), Some(right), None) => Ok(Merge(left, right)),
                    _ => Err(de::Error::custom("a merge is not two tokens")),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

fn merges<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Vec<Merge>, D::Error> {
    struct MergesVisitor;
    impl<'de> Visitor<'de> for MergesVisitor {
        type Value = Vec<Merge>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of merges")
        }
        fn visit_unit<E: de::Error>(self) -> std::result::Result<Vec<Merge>, E> {
            Ok(Vec::new())
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<Merge>, A::Error> {
            let mut merges = Vec::new();
            while let Some(merge) = seq.next_element()? {
                merges.push(merge);
                at_most(merges.len(), MERGES_MAX, "merges")?;
            }
            Ok(merges)
        }
    }
    deserializer.deserialize_any(MergesVisitor)
}

/// A value; `null` stands for the default, as Python programs write it.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn at_most<E: de::Error>(found: usize, limit: usize, what: &str) -> std::result::Result<(), E> {
    if found > limit { Err(E::custom(format_args!("more than {limit} {what}"))) } else { Ok(()) }
}
