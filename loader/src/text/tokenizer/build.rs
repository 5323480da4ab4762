//! From the parts of a vocabulary to a [`Tokenizer`]: all checks that do not depend on the file format, and
//! the construction of the library's objects.
//!
//! Control tokens are kept out of the model and out of the merges, so that no text can spell them.

use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::models::unigram::Unigram;
use tokenizers::{AddedToken, ModelWrapper, NormalizerWrapper, PreTokenizerWrapper};

use super::added::AddedWords;
use super::cuts::{Algorithm, Cuts, PART, has_all_bytes};
use super::encode::{Tokenizer, unspellable_notice};
use super::kind::{MERGES_MAX, TOKENS_MAX, TokenKind};
use super::markup::{Mark, Marks};
use super::stages::Stage;
use super::stream::{PieceTable, Spelling, VocabPiece, byte_of, byte_of_char};
use crate::error::{Fault, LoadError, Result};

/// Most bytes of all control and user-defined tokens together.
const ADDED_BYTES_MAX: usize = 1 << 20;
/// Longest token, in bytes.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Control tokens with these spellings end an answer even if the file does not list them.
const WELL_KNOWN_ENDS: [&str; 18] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end_of_turn|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot|>",
    "<EOT>",
    "_<EOT>",
    "<|return|>",
    "<|call|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "[e~[",
];

/// So do these, but only where the file marks them as control tokens: some are ordinary text elsewhere.
/// Models that were trained further under another end token still make the one of their base.
const ENDS_IF_CONTROL: [&str; 6] = ["</s>", "<eos>", "<|eos|>", "<EOS>", "[EOS]", "<|end▁of▁sentence|>"];
/// Control tokens with these spellings open a turn or name its speaker. Files of fine-tuned models often mark
/// them as added words, which text could spell.
const WELL_KNOWN_ROLES: [&str; 9] = [
    "<|im_start|>",
    "<start_of_turn>",
    "<|turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|START_OF_TURN_TOKEN|>",
];

/// How a token that is not made by the model is matched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Matching {
    pub lstrip: bool,
    pub rstrip: bool,
    pub single_word: bool,
    pub normalized: bool,
}

/// A vocabulary before it is checked and built.
#[derive(Debug)]
pub(super) struct Parts {
    /// By id; an empty text is an id without a token.
    pub pieces: Vec<VocabPiece>,
    pub algorithm: Algorithm,
    pub normalizer: Option<NormalizerWrapper>,
    pub stages: Vec<Stage>,
    pub spelling: Spelling,
    /// Only for tokens that need more than the default.
    pub matching: HashMap<u32, Matching>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub unknown: Option<u32>,
    /// Tokens that end an answer besides `eos`.
    pub ends: Vec<u32>,
    pub adds_bos: bool,
    pub adds_eos: bool,
    /// Ids that text never becomes, because another one has the same spelling. Found by [`check`].
    pub doubled: HashSet<u32>,
}

impl Parts {
    /// Leaves out the tokens beyond the `rows` of an embedding, and the merges that need them.
    pub fn cut(&mut self, rows: usize, notices: &mut Vec<String>) {
        let Some(first) = self.pieces.get(rows).map(|piece| piece.text.clone()) else { return };
        let count = self.pieces.len() - rows;
        notices.push(format!(
            "{count} tokens have no row in the embedding of {rows} rows and are left out, the first is {first:?}"
        ));
        let gone: HashSet<String> = self.pieces.drain(rows..).map(|piece| piece.text).collect();
        match &mut self.algorithm {
            Algorithm::Bpe { merges, .. } => merges.retain(|(left, right)| {
                !gone.contains(left) && !gone.contains(right) && !gone.contains(&format!("{left}{right}"))
            }),
            Algorithm::Unigram { scores, .. } => scores.truncate(rows),
        }
        self.matching.retain(|id, _| (*id as usize) < rows);
    }
}

/// Checks `parts` and builds the tokenizer.
pub(super) fn assemble(path: &Path, mut parts: Parts, notices: &mut Vec<String>) -> Result<Tokenizer> {
    check(path, &mut parts, notices)?;
    let marks = marks(path, &parts)?;
    let (named_ends, ends) = ends(&parts);
    let unspellable = unspellable_bytes(&parts);
    notices.extend(unspellable_notice(&unspellable));
    let library = |problem: String| vocabulary(path, "tokenizer", problem);
    // The library indexes with values of the file in some places: a panic is a fault of the file.
    let built = catch_unwind(AssertUnwindSafe(|| {
        let model = model(&parts)?;
        let added = added(&parts, &model)?;
        Ok::<_, String>((model, added))
    }));
    let (model, words) =
        built.map_err(|_| library("made the tokenizer library fail".to_owned()))?.map_err(library)?;
    let cuts = cuts(&parts);
    let spells_all = spells_all_bytes(&parts, &cuts);
    let table = Arc::new(PieceTable::new(parts.pieces, parts.spelling));
    Ok(Tokenizer {
        source: path.to_owned(),
        model,
        normalizer: parts.normalizer,
        stages: parts.stages,
        words,
        cuts,
        part: PART,
        longest: spells_all.then(|| table.longest().max(1)),
        table,
        marks,
        bos: parts.bos,
        eos: parts.eos,
        unknown: parts.unknown,
        adds_bos: parts.adds_bos && parts.bos.is_some(),
        adds_eos: parts.adds_eos && parts.eos.is_some(),
        ends,
        named_ends,
        rows: usize::MAX,
        unspellable,
    })
}

/// Where texts may be cut.
fn cuts(parts: &Parts) -> Cuts {
    if parts.normalizer.is_some() && parts.matching.values().any(|rules| rules.normalized) {
        // Such words are found only when a whole text has been normalised.
        return Cuts::Nowhere;
    }
    let unknown = parts.unknown.and_then(|id| parts.pieces.get(id as usize));
    let unknown = unknown.is_some_and(|piece| in_model(piece.kind));
    Cuts::of(&parts.algorithm, &parts.pieces, unknown, parts.normalizer.as_ref(), &parts.stages)
}

/// All checks that need no library object; makes control tokens of those that must be.
pub(super) fn check(path: &Path, parts: &mut Parts, notices: &mut Vec<String>) -> Result<()> {
    check_sizes(path, parts)?;
    one_token_for_each_text(parts, notices);
    check_special_ids(parts, notices);
    Ok(())
}

/// A vocabulary error.
pub(super) fn vocabulary(path: &Path, field: impl Into<String>, problem: String) -> LoadError {
    LoadError::malformed(path, field, Fault::Vocabulary { problem })
}

/// An error unless `found` is from 1 to `limit`.
pub(super) fn check_count(path: &Path, field: &str, found: usize, limit: usize) -> Result<()> {
    if found == 0 || found > limit {
        let fault = Fault::OutOfRange { found: found.to_string(), low: 1, high: limit as u64 };
        return Err(LoadError::malformed(path, field, fault));
    }
    Ok(())
}

fn check_sizes(path: &Path, parts: &Parts) -> Result<()> {
    check_count(path, "tokens", parts.pieces.len(), TOKENS_MAX)?;
    let mut added_bytes = 0_usize;
    for (id, piece) in parts.pieces.iter().enumerate() {
        let text = piece.text.as_str();
        if text.len() > PIECE_BYTES_MAX {
            let fault = Fault::TooLong { found: text.len() as u64, limit: PIECE_BYTES_MAX as u64 };
            return Err(LoadError::malformed(path, format!("token {id}"), fault));
        }
        if matches!(piece.kind, TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown) {
            added_bytes = added_bytes.saturating_add(text.len());
        }
        if piece.kind == TokenKind::Byte && byte_of(text).is_none() {
            let problem = format!("{text:?} is marked as a byte, but is not of the form <0x00> to <0xFF>");
            return Err(vocabulary(path, format!("token {id}"), problem));
        }
    }
    if added_bytes > ADDED_BYTES_MAX {
        let fault = Fault::TooLong { found: added_bytes as u64, limit: ADDED_BYTES_MAX as u64 };
        return Err(LoadError::malformed(path, "control and user-defined tokens", fault));
    }
    if let Algorithm::Bpe { merges, .. } = &parts.algorithm
        && merges.len() > MERGES_MAX
    {
        let fault = Fault::OutOfRange { found: merges.len().to_string(), low: 0, high: MERGES_MAX as u64 };
        return Err(LoadError::malformed(path, "merges", fault));
    }
    Ok(())
}

/// Text must become one token. Of several with the same spelling it is the last one that text can make, as
/// other programs do it; the others are only read. Text makes no control token in any case.
fn one_token_for_each_text(parts: &mut Parts, notices: &mut Vec<String>) {
    let rank = |kind: TokenKind| match kind {
        TokenKind::Unused => 0,
        TokenKind::Unknown => 1,
        _ => 2,
    };
    let (mut last, mut losers) = (HashMap::<&str, u32>::with_capacity(parts.pieces.len()), Vec::new());
    let texts = (0_u32..).zip(&parts.pieces);
    for (id, piece) in texts.filter(|(_, piece)| !piece.text.is_empty() && in_model(piece.kind)) {
        let Some(before) = last.insert(&piece.text, id) else { continue };
        if parts.pieces.get(before as usize).is_some_and(|before| rank(before.kind) > rank(piece.kind)) {
            last.insert(&piece.text, before);
            losers.push(id);
        } else {
            losers.push(before);
        }
    }
    let first = losers.first().and_then(|id| parts.pieces.get(*id as usize));
    if let Some(VocabPiece { text, .. }) = first {
        notices.push(format!(
            "{} tokens have the spelling of another token, the first is {text:?}; text becomes the last of them",
            losers.len()
        ));
    }
    parts.doubled = losers.into_iter().collect();
}

/// Special ids beyond the vocabulary stand for nothing. Begin and end tokens that look like markup become
/// control tokens even if the file marks them otherwise, so that text cannot spell them; neither may text
/// that cannot be spelled become one of them.
fn check_special_ids(parts: &mut Parts, notices: &mut Vec<String>) {
    let count = parts.pieces.len();
    let mut exists = |name: &str, id: &u32| {
        let exists = (*id as usize) < count;
        if !exists {
            notices.push(format!("the {name} token is {id}, but there are {count} tokens; ignored"));
        }
        exists
    };
    parts.bos = parts.bos.filter(|id| exists("begin-of-text", id));
    parts.eos = parts.eos.filter(|id| exists("end-of-text", id));
    parts.unknown = parts.unknown.filter(|id| exists("unknown", id));
    parts.ends.retain(|id| exists("end-of-turn", id));
    let structural: Vec<u32> =
        parts.bos.into_iter().chain(parts.eos).chain(parts.ends.iter().copied()).collect();
    for (id, piece) in (0_u32..).zip(parts.pieces.iter_mut()) {
        let listed = structural.contains(&id);
        let plain = matches!(piece.kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused);
        let text = piece.text.as_str();
        let known = WELL_KNOWN_ENDS.contains(&text) || WELL_KNOWN_ROLES.contains(&text);
        if plain && (listed && looks_like_markup(&piece.text) || known) {
            notices.push(format!(
                "token {id} {:?} is not marked as a control token; treated as one",
                piece.text
            ));
            piece.kind = TokenKind::Control;
        }
        // Files mark the unknown token as control, and name an end token as the unknown one.
        if parts.unknown == Some(id) && piece.kind == TokenKind::Control && !listed && !known {
            piece.kind = TokenKind::Unknown;
        } else if listed && piece.kind == TokenKind::Unknown {
            piece.kind = TokenKind::Control;
        }
    }
    let kind = |id: u32| parts.pieces.get(id as usize).map(|piece| piece.kind);
    if let Some(id) = parts.unknown.filter(|id| kind(*id) == Some(TokenKind::Control)) {
        notices.push(format!("token {id} is a control token, so text that has no token does not become it"));
        parts.unknown = None;
    }
}

/// Whether a piece is written as structure, not as text.
pub(super) fn looks_like_markup(text: &str) -> bool {
    text.len() >= 3
        && (text.starts_with('<') && text.ends_with('>') || text.starts_with('[') && text.ends_with(']'))
}

fn marks(path: &Path, parts: &Parts) -> Result<Marks> {
    let mut marks = Vec::new();
    for (id, piece) in (0_u32..).zip(&parts.pieces) {
        if matches!(piece.kind, TokenKind::Control | TokenKind::Unknown) && !piece.text.is_empty() {
            let Matching { lstrip, rstrip, .. } = parts.matching.get(&id).copied().unwrap_or_default();
            marks.push(Mark { text: piece.text.clone(), id, lstrip, rstrip });
        }
    }
    Marks::new(marks).map_err(|problem| vocabulary(path, "control tokens", problem))
}

/// The tokens that the file names as ends, and with them those with well-known spellings.
fn ends(parts: &Parts) -> (Vec<u32>, Vec<u32>) {
    let named: Vec<u32> = parts.ends.iter().copied().chain(parts.eos).collect();
    let mut ends = named.clone();
    let all = |text: &'static str| {
        let pieces = (0_u32..).zip(&parts.pieces);
        pieces
            .filter(move |(_, piece)| piece.text == text && piece.kind == TokenKind::Control)
            .map(|(id, _)| id)
    };
    let control = |text: &'static str| all(text).next();
    // In gpt-oss vocabularies `<|end|>` closes a message within an answer; `<|return|>` closes the answer.
    let within_answer = control("<|return|>").and(control("<|call|>")).and(control("<|end|>"));
    for text in WELL_KNOWN_ENDS.into_iter().chain(ENDS_IF_CONTROL) {
        ends.extend(all(text));
    }
    ends.retain(|id| Some(*id) != within_answer);
    ends.sort_unstable();
    ends.dedup();
    (named, ends)
}

/// The bytes of UTF-8 text that a byte-level vocabulary has no piece for.
fn unspellable_bytes(parts: &Parts) -> Vec<u8> {
    if parts.spelling != Spelling::ByteLevel || parts.unknown.is_some() {
        return Vec::new();
    }
    missing_bytes(parts)
}

fn missing_bytes(parts: &Parts) -> Vec<u8> {
    let mut missing: HashSet<u8> = (0..=0xbf).chain(0xc2..=0xf4).collect();
    for piece in parts.pieces.iter().filter(|piece| in_model(piece.kind)) {
        let mut chars = piece.text.chars();
        if let (Some(c), None) = (chars.next(), chars.next()) {
            byte_of_char(c).map(|byte| missing.remove(&byte));
        }
    }
    let mut missing: Vec<u8> = missing.into_iter().collect();
    missing.sort_unstable();
    missing
}

/// Whether every byte of a text that is cut so becomes a part of a token.
fn spells_all_bytes(parts: &Parts, cuts: &Cuts) -> bool {
    match cuts {
        Cuts::Units(units) => {
            let plain = |stage: &Stage| match stage {
                Stage::Library(PreTokenizerWrapper::ByteLevel(bytes)) => {
                    !bytes.add_prefix_space && !bytes.use_regex
                }
                _ => false,
            };
            let others = parts.stages.get(*units..).unwrap_or_default();
            others.len() == 1 && others.iter().all(plain) && missing_bytes(parts).is_empty()
        }
        Cuts::Merges(_) => {
            matches!(parts.algorithm, Algorithm::Bpe { byte_fallback: true, .. })
                && has_all_bytes(&parts.pieces)
        }
        Cuts::Nowhere => false,
    }
}

/// Whether the model itself may produce such a token.
fn in_model(kind: TokenKind) -> bool {
    !matches!(kind, TokenKind::Control)
}

pub(super) fn model(parts: &Parts) -> std::result::Result<ModelWrapper, String> {
    let unknown = parts.unknown.and_then(|id| parts.pieces.get(id as usize).map(|piece| (id, piece)));
    match &parts.algorithm {
        Algorithm::Bpe { merges, byte_fallback, ignore_merges, fuse_unknown } => {
            let vocab: Vocab = (0_u32..)
                .zip(&parts.pieces)
                .filter(|(_, piece)| !piece.text.is_empty() && in_model(piece.kind))
                .filter(|(id, _)| !parts.doubled.contains(id))
                .map(|(id, piece)| (piece.text.clone(), id))
                .collect();
            let control: HashSet<&str> = parts
                .pieces
                .iter()
                .filter(|piece| {
                    !matches!(piece.kind, TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused)
                })
                .map(|piece| piece.text.as_str())
                .collect();
            let mut kept = Vec::with_capacity(merges.len());
            for (left, right) in merges {
                let joined = format!("{left}{right}");
                let parts = [left, right, &joined];
                if parts.into_iter().any(|part| control.contains(part.as_str())) {
                    continue;
                }
                // The library checks this too, but panics at some merges before it does.
                if let Some(missing) = parts.into_iter().find(|part| !vocab.contains_key(*part)) {
                    return Err(format!(
                        "the merge {left:?} + {right:?} needs the token {missing:?}, which does not exist"
                    ));
                }
                kept.push((left.clone(), right.clone()));
            }
            let mut builder = BPE::builder()
                .vocab_and_merges(vocab, kept)
                .byte_fallback(*byte_fallback)
                .ignore_merges(*ignore_merges)
                .fuse_unk(*fuse_unknown);
            if let Some((_, piece)) = unknown.filter(|(_, piece)| in_model(piece.kind)) {
                builder = builder.unk_token(piece.text.clone());
            }
            builder.build().map(ModelWrapper::BPE).map_err(|error| error.to_string())
        }
        Algorithm::Unigram { scores, byte_fallback } => {
            // Lower than any segmentation with unknown tokens, so never chosen.
            const NEVER: f64 = -1e30;
            let scored = (0_u32..).zip(parts.pieces.iter().zip(scores));
            let mut worst = f64::INFINITY;
            let vocab = scored
                .map(|(id, (piece, score))| match piece.kind {
                    _ if parts.doubled.contains(&id) => (format!("\u{fffe} {id}"), NEVER),
                    TokenKind::Normal if !piece.text.is_empty() => {
                        worst = worst.min(*score);
                        (piece.text.clone(), *score)
                    }
                    // The library looks unknown text up by its spelling, so the spelling must not be there.
                    TokenKind::Control | TokenKind::Unused | TokenKind::Normal => {
                        (format!("\u{fffe} {id}"), NEVER)
                    }
                    _ => (piece.text.clone(), NEVER),
                })
                .collect();
            let unknown = unknown.map(|(id, _)| id as usize);
            let mut model =
                Unigram::from(vocab, unknown, *byte_fallback).map_err(|error| error.to_string())?;
            model.min_score = if worst.is_finite() { worst } else { 0.0 };
            Ok(ModelWrapper::Unigram(model))
        }
    }
}

fn added(parts: &Parts, model: &ModelWrapper) -> std::result::Result<AddedWords, String> {
    let mut words = Vec::new();
    for (id, piece) in (0_u32..).zip(&parts.pieces) {
        let doubled = parts.doubled.contains(&id);
        if piece.kind == TokenKind::UserDefined && !piece.text.is_empty() && !doubled {
            let matching = parts.matching.get(&id).copied().unwrap_or_default();
            words.push(
                AddedToken::from(piece.text.clone(), false)
                    .lstrip(matching.lstrip)
                    .rstrip(matching.rstrip)
                    .single_word(matching.single_word)
                    .normalized(matching.normalized),
            );
        }
    }
    AddedWords::new(words, model, parts.normalizer.as_ref())
}
