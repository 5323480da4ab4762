//! Vocabularies from GGUF metadata (the `tokenizer.ggml.*` keys).
//!
//! It must not know files: the reader fills [`GgufVocab`]. Keys and defaults follow the convention of
//! llama.cpp.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use tokenizers::NormalizerWrapper;
use tokenizers::normalizers::{NFC, Precompiled, Prepend, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};

use super::build::{Matching, Parts, check_count, looks_like_markup, vocabulary};
use super::cuts::Algorithm;
use super::kind::{MERGES_MAX, TOKENS_MAX, TokenKind};
use super::stages::Stage;
use super::stream::{Spelling, VocabPiece, byte_of};
use super::{charsmap, pre};
use crate::error::{Fault, LoadError, Result};

/// The `tokenizer.ggml.*` metadata of a GGUF file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocab {
    /// `model`: `gpt2`, `llama`, `t5`.
    pub model: String,
    /// `pre`: name of the pre-tokenizer.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `scores`, by id; empty if there are none.
    pub scores: Vec<f32>,
    /// `token_type`, by id: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty.
    pub types: Vec<i32>,
    /// `merges`: `left right`, by rank.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`: end of turn.
    pub eot: Option<u32>,
    /// `eom_token_id`: end of message.
    pub eom: Option<u32>,
    /// `unknown_token_id`.
    pub unk: Option<u32>,
    /// `padding_token_id`.
    pub pad: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`: a text begins with a space.
    pub add_space_prefix: Option<bool>,
    /// `remove_extra_whitespaces`: runs of spaces become one.
    pub remove_extra_whitespaces: Option<bool>,
    /// `precompiled_charsmap`: SentencePiece's normalisation rules.
    pub precompiled_charsmap: Option<Vec<u8>>,
}

/// Work bound for deriving merges: the sum of squared token lengths, in bytes.
const DERIVE_WORK_MAX: usize = 1 << 30;

/// Reads the metadata into parts.
pub(super) fn parts(path: &Path, vocab: GgufVocab, notices: &mut Vec<String>) -> Result<Parts> {
    check_count(path, "tokenizer.ggml.tokens", vocab.tokens.len(), TOKENS_MAX)?;
    match vocab.model.as_str() {
        "gpt2" => byte_level(path, vocab, notices),
        "llama" => sentence_piece_bpe(path, vocab, notices),
        "t5" => unigram(path, vocab, notices),
        other => Err(LoadError::Unsupported {
            path: path.to_owned(),
            feature: format!("tokenizer model {other:?}"),
            hint: "supported are gpt2 (byte-level BPE), llama (SentencePiece BPE) and t5 (Unigram)"
                .to_owned(),
        }),
    }
}

fn byte_level(path: &Path, vocab: GgufVocab, notices: &mut Vec<String>) -> Result<Parts> {
    let name = vocab.pre.clone().unwrap_or_else(|| {
        notices.push(
            "the file does not name its pre-tokenizer; \"default\" is used and may split words wrongly"
                .to_owned(),
        );
        "default".to_owned()
    });
    let pre = pre::by_name(&name).ok_or_else(|| LoadError::Unsupported {
        path: path.to_owned(),
        feature: format!("pre-tokenizer {name:?} (tokenizer.ggml.pre)"),
        hint: format!("supported are {}", pre::names()),
    })?;
    let mut stages = Vec::new();
    for expression in pre.splits {
        let stage = Stage::isolate(expression);
        stages.push(stage.map_err(|problem| vocabulary(path, "tokenizer.ggml.pre", problem))?);
    }
    stages.push(Stage::byte_level());
    let merges = merges(path, &vocab.merges)?;
    let pieces = pieces(&vocab, false, notices);
    let adds_bos = vocab.add_bos.unwrap_or(pre.adds_bos);
    Ok(Parts {
        algorithm: Algorithm::Bpe {
            merges,
            byte_fallback: false,
            ignore_merges: pre.ignore_merges,
            fuse_unknown: false,
        },
        normalizer: pre.composes.then(|| {
            notices.push(format!(
                "characters are composed first (NFC), as tokenizers of the kind {name:?} do; the file cannot say it"
            ));
            NFC.into()
        }),
        stages,
        spelling: Spelling::ByteLevel,
        matching: HashMap::new(),
        unknown: None,
        ..common(vocab, pieces, adds_bos, false)
    })
}

fn sentence_piece_bpe(path: &Path, mut vocab: GgufVocab, notices: &mut Vec<String>) -> Result<Parts> {
    check_scores(path, &mut vocab, notices)?;
    let pieces = pieces(&vocab, true, notices);
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let byte_fallback = pieces.iter().any(|piece| piece.kind == TokenKind::Byte);
    let merges = derive_merges(path, &pieces, &vocab.scores)?;
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if prefix {
        normalizers.push(Prepend::new("\u{2581}".to_owned()).into());
    }
    normalizers
        .push(replace(" ", "\u{2581}").map_err(|problem| vocabulary(path, "tokenizer.ggml.model", problem))?);
    let matching = phi3_matching(&pieces);
    Ok(Parts {
        algorithm: Algorithm::Bpe { merges, byte_fallback, ignore_merges: false, fuse_unknown: true },
        normalizer: Some(Sequence::new(normalizers).into()),
        stages: Vec::new(),
        spelling: Spelling::Metaspace { strip_first: prefix },
        matching,
        ..common_with_unknown(vocab, pieces, true, false)
    })
}

fn unigram(path: &Path, mut vocab: GgufVocab, notices: &mut Vec<String>) -> Result<Parts> {
    check_scores(path, &mut vocab, notices)?;
    let pieces = pieces(&vocab, false, notices);
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let squeeze = vocab.remove_extra_whitespaces.unwrap_or(false);
    let problem = |problem: String| vocabulary(path, "tokenizer.ggml.precompiled_charsmap", problem);
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if let Some(charsmap) = vocab.precompiled_charsmap.as_deref().filter(|map| !map.is_empty()) {
        charsmap::check(charsmap).map_err(problem)?;
        let charsmap = Precompiled::from(charsmap).map_err(|error| problem(error.to_string()))?;
        normalizers.push(charsmap.into());
    }
    if squeeze {
        normalizers.push(Strip::new(true, true).into());
        normalizers.push(replace_expression(" {2,}", " ").map_err(problem)?);
    }
    let scheme = if prefix { PrependScheme::Always } else { PrependScheme::Never };
    let byte_fallback = pieces.iter().any(|piece| piece.kind == TokenKind::Byte);
    let scores = vocab.scores.iter().map(|score| f64::from(*score)).collect();
    Ok(Parts {
        algorithm: Algorithm::Unigram { scores, byte_fallback },
        normalizer: (!normalizers.is_empty()).then(|| Sequence::new(normalizers).into()),
        // If runs of spaces are kept, pieces may span several, and the text is not split at them.
        stages: vec![Stage::Metaspace(Metaspace::new('\u{2581}', scheme, squeeze))],
        spelling: Spelling::Metaspace { strip_first: prefix },
        matching: HashMap::new(),
        ..common_with_unknown(vocab, pieces, false, true)
    })
}

/// The parts that all models share; the caller sets the rest.
fn common(vocab: GgufVocab, pieces: Vec<VocabPiece>, adds_bos: bool, adds_eos: bool) -> Parts {
    Parts {
        pieces,
        algorithm: Algorithm::Unigram { scores: Vec::new(), byte_fallback: false },
        normalizer: None,
        stages: Vec::new(),
        spelling: Spelling::ByteLevel,
        matching: HashMap::new(),
        bos: vocab.bos,
        eos: vocab.eos,
        unknown: vocab.unk,
        ends: vocab.eot.into_iter().chain(vocab.eom).collect(),
        adds_bos: vocab.add_bos.unwrap_or(adds_bos),
        adds_eos: vocab.add_eos.unwrap_or(adds_eos),
        doubled: HashSet::new(),
    }
}

fn common_with_unknown(vocab: GgufVocab, pieces: Vec<VocabPiece>, adds_bos: bool, adds_eos: bool) -> Parts {
    let marked = pieces.iter().position(|piece| piece.kind == TokenKind::Unknown);
    let mut parts = common(vocab, pieces, adds_bos, adds_eos);
    parts.unknown = parts.unknown.or_else(|| marked.and_then(|id| u32::try_from(id).ok()));
    parts
}

/// The pieces with their kinds. A kind that is missing or that no specification knows is that of ordinary
/// text, unless the piece looks like structure.
fn pieces(vocab: &GgufVocab, guess_bytes: bool, notices: &mut Vec<String>) -> Vec<VocabPiece> {
    if !vocab.types.is_empty() && vocab.types.len() != vocab.tokens.len() {
        let (types, tokens) = (vocab.types.len(), vocab.tokens.len());
        notices.push(format!(
            "tokenizer.ggml.token_type has {types} entries for {tokens} tokens; tokens without one are text"
        ));
    }
    let (mut pieces, mut unknown) = (Vec::with_capacity(vocab.tokens.len()), Vec::new());
    for (id, text) in vocab.tokens.iter().enumerate() {
        let kind = match vocab.types.get(id) {
            None if guess_bytes && byte_of(text).is_some() => TokenKind::Byte,
            None | Some(0 | 1) => TokenKind::Normal,
            Some(2) => TokenKind::Unknown,
            Some(3) => TokenKind::Control,
            Some(4) => TokenKind::UserDefined,
            Some(5) => TokenKind::Unused,
            Some(6) if byte_of(text).is_some() => TokenKind::Byte,
            Some(other) => {
                unknown.push((id, *other));
                if looks_like_markup(text) { TokenKind::Control } else { TokenKind::Normal }
            }
        };
        let kind = if text.is_empty() { TokenKind::Unused } else { kind };
        pieces.push(VocabPiece { text: text.clone(), kind });
    }
    if let Some((id, kind)) = unknown.first() {
        let text = vocab.tokens.get(*id).map_or("", String::as_str);
        notices.push(format!(
            "{} tokens have a type that does not suit them, the first is token {id} {text:?} with type {kind}; they are \
             text, or control tokens if they look so",
            unknown.len()
        ));
    }
    pieces
}

/// Each token needs a score. Where the list is too short, the rest is less likely than all others.
fn check_scores(path: &Path, vocab: &mut GgufVocab, notices: &mut Vec<String>) -> Result<()> {
    let field = "tokenizer.ggml.scores";
    if vocab.scores.is_empty() {
        return Err(LoadError::malformed(
            path,
            field,
            Fault::Missing { hint: "; this tokenizer model needs it" },
        ));
    }
    if let Some(id) = vocab.scores.iter().position(|score| score.is_nan()) {
        let fault = Fault::BadNumber { found: "NaN".to_owned(), must: "a number" };
        return Err(LoadError::malformed(path, format!("{field}[{id}]"), fault));
    }
    let (scores, tokens) = (vocab.scores.len(), vocab.tokens.len());
    if scores != tokens {
        notices.push(format!(
            "{field} has {scores} entries for {tokens} tokens; tokens without one are the least likely"
        ));
        let least = vocab.scores.iter().copied().filter(|score| score.is_finite()).fold(0.0, f32::min);
        vocab.scores.resize(tokens, least - 1.0);
    }
    Ok(())
}

fn merges(path: &Path, lines: &[String]) -> Result<Vec<(String, String)>> {
    let field = "tokenizer.ggml.merges";
    check_count(path, field, lines.len(), MERGES_MAX)?;
    let split = |(rank, line): (usize, &String)| {
        // The left part may itself be a space in some vocabularies: the separator is never the first byte.
        let at = line.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
        match at.map(|at| (&line[..at], &line[at + 1..])) {
            Some((left, right)) if !right.is_empty() => Ok((left.to_owned(), right.to_owned())),
            _ => Err(vocabulary(path, format!("{field}[{rank}]"), format!("{line:?} is not two tokens"))),
        }
    };
    lines.iter().enumerate().map(split).collect()
}

/// The merges that a SentencePiece BPE vocabulary implies: a pair merges if its union is a token, better
/// scores first; of the ways to make one token, longer left parts first.
pub(super) fn derive_merges(
    path: &Path,
    pieces: &[VocabPiece],
    scores: &[f32],
) -> Result<Vec<(String, String)>> {
    let ids: HashMap<&str, usize> = pieces
        .iter()
        .enumerate()
        .filter(|(_, piece)| {
            matches!(piece.kind, TokenKind::Normal | TokenKind::UserDefined) && !piece.text.is_empty()
        })
        .map(|(id, piece)| (piece.text.as_str(), id))
        .collect();
    let work =
        ids.keys().map(|text| text.len().saturating_mul(text.len())).fold(0_usize, usize::saturating_add);
    if work > DERIVE_WORK_MAX {
        let problem = "the tokens are too long to derive merges from".to_owned();
        return Err(vocabulary(path, "tokenizer.ggml.tokens", problem));
    }
    let mut found: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    for (text, id) in &ids {
        if pieces.get(*id).is_some_and(|piece| piece.kind == TokenKind::UserDefined) {
            continue;
        }
        let score = scores.get(*id).copied().unwrap_or_default();
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push((score, left.chars().count(), right.chars().count(), left, right));
            }
        }
        if found.len() > 2 * MERGES_MAX {
            let fault =
                Fault::OutOfRange { found: found.len().to_string(), low: 0, high: 2 * MERGES_MAX as u64 };
            return Err(LoadError::malformed(path, "merges implied by tokenizer.ggml.tokens", fault));
        }
    }
    found.sort_by(|a, b| {
        b.0.total_cmp(&a.0)
            .then_with(|| b.1.cmp(&a.1))
            .then_with(|| b.2.cmp(&a.2))
            .then_with(|| ids.get(a.3).cmp(&ids.get(b.3)))
            .then_with(|| ids.get(a.4).cmp(&ids.get(b.4)))
    });
    Ok(found.into_iter().map(|(_, _, _, left, right)| (left.to_owned(), right.to_owned())).collect())
}

/// Phi-3 and Phi-3.5 were trained with control tokens that absorb the white space after them. GGUF metadata
/// has no key for it. Such a vocabulary is recognised by its placeholder tokens.
fn phi3_matching(pieces: &[VocabPiece]) -> HashMap<u32, Matching> {
    let control =
        |text: &str| pieces.iter().any(|piece| piece.text == text && piece.kind == TokenKind::Control);
    if !(control("<|placeholder1|>") && control("<|assistant|>") && control("<|end|>")) {
        return HashMap::new();
    }
    let plain = ["<unk>", "<s>", "<|endoftext|>"];
    (0_u32..)
        .zip(pieces)
        .filter(|(_, piece)| piece.kind == TokenKind::Control && !plain.contains(&piece.text.as_str()))
        .map(|(id, _)| (id, Matching { rstrip: true, ..Matching::default() }))
        .collect()
}

fn replace(from: &str, to: &str) -> std::result::Result<NormalizerWrapper, String> {
    Ok(Replace::new(from, to).map_err(|error| error.to_string())?.into())
}

fn replace_expression(from: &str, to: &str) -> std::result::Result<NormalizerWrapper, String> {
    use tokenizers::normalizers::replace::ReplacePattern;
    Ok(Replace::new(ReplacePattern::Regex(from.to_owned()), to).map_err(|error| error.to_string())?.into())
}
