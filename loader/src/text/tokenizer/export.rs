//! Export: the tokenizer of a Hugging Face folder as the metadata of a GGUF file.
//!
//! What the metadata cannot express is an error or, if usual texts are not affected, a notice. It writes no
//! file.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::{Model, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::build::{Parts, model};
use super::charsmap::base64;
use super::cuts::Algorithm;
use super::gguf::{GgufVocab, derive_merges};
use super::hf;
use super::kind::{TOKENS_MAX, TokenKind};
use super::pre::{self, PreTokenizer};
use super::stages::Stage;
use super::stream::{Spelling, VocabPiece};
use crate::error::{Fault, LoadError, Result};
use crate::text::chat;

/// The tokenizer's part of GGUF metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufTokenizerExport {
    /// The `tokenizer.ggml.*` keys.
    pub vocab: GgufVocab,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// Properties that the metadata cannot express.
    pub notices: Vec<String>,
}

/// Turns the tokenizer of the folder `dir` into GGUF metadata. If the embedding has more rows than the
/// vocabulary has ids, pass them as `rows`: the rest becomes unused `[PADn]` tokens.
///
/// # Errors
/// [`LoadError::Unsupported`] if the metadata cannot express this tokenizer, e.g. a pre-tokenizer without
/// a name; otherwise as [`Tokenizer::from_hf_folder`](super::Tokenizer::from_hf_folder).
pub fn gguf_metadata(dir: &Path, rows: Option<usize>) -> Result<GgufTokenizerExport> {
    let mut notices = Vec::new();
    let (path, mut parts) = hf::parts(dir, &mut notices)?;
    if let Some(rows) = rows.filter(|rows| *rows > 0) {
        parts.cut(rows, &mut notices);
    }
    // The same checks that reading the result will make.
    super::build::check(&path, &mut parts, &mut notices)?;
    let chat_template = chat::template_source(dir)?.map(|(_, source)| source);
    let mut vocab = match (&parts.algorithm, parts.spelling) {
        (Algorithm::Bpe { .. }, Spelling::ByteLevel) => byte_level(&path, &parts, &mut notices)?,
        (Algorithm::Bpe { .. }, Spelling::Metaspace { .. }) => sentence_piece(&path, &parts)?,
        (Algorithm::Unigram { .. }, _) => unigram(&path, &parts)?,
    };
    let (tokens, types) = tokens(&path, &parts.pieces, rows)?;
    let padding = tokens.len() - parts.pieces.len();
    if !vocab.scores.is_empty() {
        vocab.scores.extend(std::iter::repeat_n(-1e6, padding));
    }
    let at = |text: &str| {
        let found =
            parts.pieces.iter().position(|piece| piece.text == text && piece.kind == TokenKind::Control);
        found.and_then(|id| u32::try_from(id).ok())
    };
    let other_end = |text| at(text).filter(|id| parts.eos != Some(*id));
    let listed = parts.ends.iter().copied().find(|id| parts.eos != Some(*id));
    Ok(GgufTokenizerExport {
        vocab: GgufVocab {
            tokens,
            types,
            bos: parts.bos,
            eos: parts.eos,
            eot: ["<|eot_id|>", "<|im_end|>", "<end_of_turn>"].into_iter().find_map(other_end).or(listed),
            eom: other_end("<|eom_id|>"),
            unk: parts.unknown,
            add_bos: Some(parts.adds_bos && parts.bos.is_some()),
            add_eos: Some(parts.adds_eos && parts.eos.is_some()),
            ..vocab
        },
        chat_template,
        notices,
    })
}

fn unsupported(path: &Path, feature: String) -> LoadError {
    let hint = "GGUF metadata cannot express it".to_owned();
    LoadError::Unsupported { path: path.to_owned(), feature, hint }
}

fn tokens(path: &Path, pieces: &[VocabPiece], rows: Option<usize>) -> Result<(Vec<String>, Vec<i32>)> {
    let rows = rows.unwrap_or(pieces.len());
    if rows < pieces.len() || rows > TOKENS_MAX {
        let fault =
            Fault::OutOfRange { found: rows.to_string(), low: pieces.len() as u64, high: TOKENS_MAX as u64 };
        return Err(LoadError::malformed(path, "rows of the embedding", fault));
    }
    let text = |id: usize| match pieces.get(id) {
        Some(piece) if !piece.text.is_empty() => piece.text.clone(),
        _ => format!("[PAD{id}]"),
    };
    let kind = |id: usize| match pieces.get(id).map_or(TokenKind::Unused, |piece| piece.kind) {
        TokenKind::Normal => 1,
        TokenKind::Unknown => 2,
        TokenKind::Control => 3,
        TokenKind::UserDefined => 4,
        TokenKind::Unused => 5,
        TokenKind::Byte => 6,
    };
    Ok(((0..rows).map(text).collect(), (0..rows).map(kind).collect()))
}

fn byte_level(path: &Path, parts: &Parts, notices: &mut Vec<String>) -> Result<GgufVocab> {
    let Algorithm::Bpe { merges, ignore_merges, .. } = &parts.algorithm else {
        return Err(unsupported(path, "this tokenizer model".to_owned()));
    };
    let composes = match normalizer(parts).as_slice() {
        [] => false,
        [form] if form["type"] == "NFC" => true,
        other => return Err(unsupported(path, format!("the normalizer {}", Value::from(other.to_vec())))),
    };
    let row = pre_tokenizer(path, parts, composes)?;
    if row.composes != composes {
        let (does, others) = if composes { ("composes", "does not") } else { ("does not compose", "does") };
        notices.push(format!(
            "the tokenizer {does} characters first (NFC), the GGUF form {others}: text with combining accents gets \
             other tokens"
        ));
    }
    if row.ignore_merges != *ignore_merges {
        whole_pieces_survive(path, parts)?;
    }
    Ok(GgufVocab {
        model: "gpt2".to_owned(),
        pre: row.names.first().map(|name| (*name).to_owned()),
        merges: merges.iter().map(|(left, right)| format!("{left} {right}")).collect(),
        ..GgufVocab::default()
    })
}

/// The row of the table that splits as `parts` do, and composes as they do if there is one.
fn pre_tokenizer(path: &Path, parts: &Parts, composes: bool) -> Result<&'static PreTokenizer> {
    let Some((Stage::Library(PreTokenizerWrapper::ByteLevel(last)), splits)) = parts.stages.split_last()
    else {
        return Err(unsupported(path, "a pre-tokenizer that does not end in ByteLevel".to_owned()));
    };
    if last.add_prefix_space || last.use_regex {
        return Err(unsupported(path, "a ByteLevel pre-tokenizer with add_prefix_space".to_owned()));
    }
    let mut found = Vec::new();
    for stage in splits {
        found.push(match stage {
            Stage::Split { splitter, behavior: SplitDelimiterBehavior::Isolated, invert: false } => {
                canonical(splitter.source())
            }
            // The form of older files: matches are kept, nothing is removed.
            Stage::Split { splitter, behavior: SplitDelimiterBehavior::Removed, invert: true } => {
                canonical(splitter.source())
            }
            Stage::Library(PreTokenizerWrapper::Digits(digits)) => match digits.individual_digits {
                true => r"\p{N}".to_owned(),
                false => r"\p{N}+".to_owned(),
            },
            other => return Err(unsupported(path, format!("the pre-tokenizer stage {other:?}"))),
        });
    }
    let Algorithm::Bpe { ignore_merges, .. } = &parts.algorithm else {
        return Err(unsupported(path, "this tokenizer model".to_owned()));
    };
    let same =
        |row: &&PreTokenizer| row.splits.iter().map(|split| canonical(split)).eq(found.iter().cloned());
    let rows: Vec<&'static PreTokenizer> = pre::TABLE.iter().filter(same).collect();
    let merges_so = |row: &&&PreTokenizer| row.ignore_merges == *ignore_merges;
    let composes_so = |row: &&&PreTokenizer| row.composes == composes;
    let exact = rows.iter().find(|row| merges_so(row) && composes_so(row));
    let near = exact.or_else(|| rows.iter().find(composes_so)).or_else(|| rows.iter().find(merges_so));
    near.or(rows.first()).copied().ok_or_else(|| LoadError::Unsupported {
        path: path.to_owned(),
        feature: format!("a pre-tokenizer that splits by {found:?}"),
        hint: format!("pre-tokenizers with a name are {}", pre::names()),
    })
}

/// A canonical form of equivalent expressions.
fn canonical(expression: &str) -> String {
    expression
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", "(?i:'s|'t|'re|'ve|'m|'ll|'d)")
        .replace("'(?i:[sdmt]|ll|ve|re)", "'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])")
        .replace("?+", "?")
        .replace("++", "+")
        .replace(r"\p{N}{1}|", r"\p{N}|")
}

/// Whether merges alone produce every piece. Then `ignore_merges` makes no difference.
fn whole_pieces_survive(path: &Path, parts: &Parts) -> Result<()> {
    let Algorithm::Bpe { merges, byte_fallback, fuse_unknown, .. } = &parts.algorithm else { return Ok(()) };
    let plain = Parts {
        pieces: parts.pieces.clone(),
        algorithm: Algorithm::Bpe {
            merges: merges.clone(),
            byte_fallback: *byte_fallback,
            ignore_merges: false,
            fuse_unknown: *fuse_unknown,
        },
        normalizer: None,
        stages: Vec::new(),
        spelling: parts.spelling,
        matching: HashMap::new(),
        ends: Vec::new(),
        doubled: parts.doubled.clone(),
        ..*parts
    };
    let failed = |problem: String| super::build::vocabulary(path, "model", problem);
    let plain_model = model(&plain).map_err(failed)?;
    for piece in parts.pieces.iter().filter(|piece| piece.kind == TokenKind::Normal) {
        let tokens = plain_model.tokenize(&piece.text).map_err(|error| failed(error.to_string()))?;
        if tokens.len() > 1 {
            let feature =
                format!("ignore_merges with this pre-tokenizer: no merges lead to {:?},", piece.text);
            return Err(unsupported(path, feature));
        }
    }
    Ok(())
}

/// The normaliser's steps as plain JSON.
fn normalizer(parts: &Parts) -> Vec<Value> {
    fn steps(value: Value, out: &mut Vec<Value>) {
        match value {
            Value::Object(mut map) if map.get("type") == Some(&json!("Sequence")) => {
                if let Some(Value::Array(inner)) = map.remove("normalizers") {
                    inner.into_iter().for_each(|step| steps(step, out));
                }
            }
            Value::Null => {}
            step => out.push(step),
        }
    }
    let mut out = Vec::new();
    steps(serde_json::to_value(&parts.normalizer).unwrap_or_default(), &mut out);
    out
}

fn sentence_piece(path: &Path, parts: &Parts) -> Result<GgufVocab> {
    let Algorithm::Bpe { merges, byte_fallback, ignore_merges: false, .. } = &parts.algorithm else {
        return Err(unsupported(path, "ignore_merges in a SentencePiece vocabulary".to_owned()));
    };
    if !byte_fallback {
        return Err(unsupported(path, "a SentencePiece vocabulary without byte fallback".to_owned()));
    }
    let visible_space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let steps = normalizer(parts);
    let mut prefix = steps.first() == Some(&prepend);
    let replaced = steps[usize::from(prefix)..] == [visible_space];
    if !replaced && !steps.is_empty() {
        return Err(unsupported(path, format!("the normalizer {}", Value::from(steps))));
    }
    for stage in &parts.stages {
        match stage {
            Stage::Metaspace(metaspace) if !metaspace.get_split() && !replaced => {
                prefix = metaspace.get_prepend_scheme()
                    != tokenizers::pre_tokenizers::metaspace::PrependScheme::Never;
            }
            // The normaliser leaves no space to split at.
            Stage::Split { splitter, .. } if replaced && matches!(splitter.source(), " " | r"\ ") => {}
            other => return Err(unsupported(path, format!("the pre-tokenizer stage {other:?}"))),
        }
    }
    // The score of a piece is the rank of the first merge that makes it. The merges must follow from the
    // scores.
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (at, (left, right)) in merges.iter().enumerate() {
        rank.entry(format!("{left}{right}")).or_insert(at);
    }
    let unranked = merges.len();
    let score = |piece: &VocabPiece| -(rank.get(&piece.text).copied().unwrap_or(unranked) as f32);
    let scores: Vec<f32> = parts.pieces.iter().map(score).collect();
    // Merges of one piece share its score; the format does not store their order.
    let ranks = merges.iter().map(|(left, right)| rank.get(&format!("{left}{right}")));
    if !ranks.is_sorted() {
        return Err(unsupported(path, "a merge list whose order scores cannot express".to_owned()));
    }
    let listed: HashSet<&(String, String)> = merges.iter().collect();
    let derived: HashSet<(String, String)> =
        derive_merges(path, &parts.pieces, &scores)?.into_iter().collect();
    if let Some((left, right)) = derived.iter().find(|merge| !listed.contains(merge)) {
        return Err(unsupported(path, format!("a merge list without {left:?} + {right:?}")));
    }
    if let Some((left, right)) = merges.iter().find(|merge| !derived.contains(*merge)) {
        return Err(unsupported(path, format!("the merge {left:?} + {right:?}")));
    }
    Ok(GgufVocab {
        model: "llama".to_owned(),
        pre: Some("default".to_owned()),
        scores,
        add_space_prefix: Some(prefix),
        ..GgufVocab::default()
    })
}

fn unigram(path: &Path, parts: &Parts) -> Result<GgufVocab> {
    let Algorithm::Unigram { scores, .. } = &parts.algorithm else {
        return Err(unsupported(path, "this tokenizer model".to_owned()));
    };
    let mut charsmap = None;
    let mut squeeze = false;
    for step in normalizer(parts) {
        match step["type"].as_str() {
            Some("Precompiled") => {
                let text = step["precompiled_charsmap"].as_str().unwrap_or_default();
                charsmap =
                    Some(base64(text).ok_or_else(|| unsupported(path, "this character map".to_owned()))?);
            }
            Some("Strip") => {}
            Some("Replace") if step["pattern"] == json!({"Regex": " {2,}"}) => squeeze = true,
            _ => return Err(unsupported(path, format!("the normalizer {step}"))),
        }
    }
    let mut prefix = false;
    for stage in &parts.stages {
        match stage {
            Stage::Library(PreTokenizerWrapper::WhitespaceSplit(_)) => squeeze = true,
            Stage::Metaspace(metaspace) => {
                prefix = metaspace.get_prepend_scheme()
                    != tokenizers::pre_tokenizers::metaspace::PrependScheme::Never;
            }
            other => return Err(unsupported(path, format!("the pre-tokenizer stage {other:?}"))),
        }
    }
    Ok(GgufVocab {
        model: "t5".to_owned(),
        pre: Some("default".to_owned()),
        scores: scores.iter().map(|score| *score as f32).collect(),
        add_space_prefix: Some(prefix),
        remove_extra_whitespaces: Some(squeeze),
        precompiled_charsmap: charsmap,
        ..GgufVocab::default()
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_is_in_the_table_once() {
        let mut names: Vec<&str> = super::pre::TABLE.iter().flat_map(|row| row.names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
