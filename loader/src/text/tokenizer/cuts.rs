//! Positions at which a text may be cut: no rule of the tokenizer looks across them, so the parts, encoded
//! one after the other, give exactly the ids of the whole text. It must not know ids.

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;

use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper};

use super::kind::TokenKind;
use super::split::Spans;
use super::stages::Stage;
use super::stream::{VocabPiece, byte_of};

/// Approximate size of a part in bytes. The library takes about 300 bytes of memory for each byte.
pub(super) const PART: usize = 16 << 10;

/// How text becomes pieces.
#[derive(Debug)]
pub(super) enum Algorithm {
    /// Byte-pair encoding; merges in order of rank.
    Bpe { merges: Vec<(String, String)>, byte_fallback: bool, ignore_merges: bool, fuse_unknown: bool },
    /// The most likely segmentation; one score per id.
    Unigram { scores: Vec<f64>, byte_fallback: bool },
}

/// Cutting rule of a vocabulary.
pub(super) enum Cuts {
    /// After each match and each gap of the first stages, of which this is the number. They isolate their
    /// matches and are applied to the whole text.
    Units(usize),
    /// Between two characters that no merge joins.
    Merges(Box<Merges>),
    /// No safe position is known.
    Nowhere,
}

/// Pairs of characters that merges join.
pub(super) struct Merges {
    /// The last character of the left side and the first of the right side of each merge.
    joined: HashSet<(char, char)>,
    /// Characters that are tokens: unknown ones may become one token with their neighbours.
    known: HashSet<char>,
    /// Whether unknown characters become tokens. If they vanish, the characters beside them become
    /// neighbours.
    keeps_unknown: bool,
    /// The normaliser for parts within a text: without the prefix of a text.
    pub within: Option<NormalizerWrapper>,
}

impl Cuts {
    /// The rule for a pipeline. `unknown` says that characters without a token become the unknown token.
    pub fn of(
        algorithm: &Algorithm,
        pieces: &[VocabPiece],
        unknown: bool,
        normalizer: Option<&NormalizerWrapper>,
        stages: &[Stage],
    ) -> Self {
        let units = stages.iter().take_while(|stage| stage.isolates().is_some()).count();
        if units > 0 && normalizer.is_none_or(is_unicode_form) {
            return Self::Units(units);
        }
        match algorithm {
            Algorithm::Bpe { merges, ignore_merges: false, byte_fallback, .. } => {
                let keeps_unknown = unknown || (*byte_fallback && has_all_bytes(pieces));
                let rule = Merges::of(merges, pieces, normalizer, stages);
                rule.map_or(Self::Nowhere, |rule| Self::Merges(Box::new(Merges { keeps_unknown, ..rule })))
            }
            _ => Self::Nowhere,
        }
    }
}

impl Merges {
    fn of(
        merges: &[(String, String)],
        pieces: &[VocabPiece],
        normalizer: Option<&NormalizerWrapper>,
        stages: &[Stage],
    ) -> Option<Self> {
        let (mut joined, mut known) = (HashSet::new(), HashSet::new());
        for (left, right) in merges {
            if byte_of(left).is_some() || byte_of(right).is_some() {
                return None;
            }
            joined.insert((left.chars().next_back()?, right.chars().next()?));
        }
        for piece in pieces {
            let mut chars = piece.text.chars();
            if let (true, Some(c), None) = (piece.kind == TokenKind::Normal, chars.next(), chars.next()) {
                known.insert(c);
            }
        }
        let within = within(normalizer)?;
        let harmless = |stage: &Stage| match stage {
            Stage::Metaspace(space) => space.get_replacement() == VISIBLE_SPACE,
            // Never matches: the normaliser has replaced all spaces.
            Stage::Split { splitter, .. } => splitter.source() == " " && within.is_some(),
            Stage::Library(_) => false,
        };
        stages.iter().all(harmless).then_some(Self { joined, known, keeps_unknown: false, within })
    }

    /// Whether text may be cut between two characters.
    fn between(&self, left: char, right: char) -> bool {
        let (left, right) = (visible(left), visible(right));
        self.known.contains(&right)
            && (self.keeps_unknown || self.known.contains(&left))
            && !self.joined.contains(&(left, right))
    }

    /// The parts of a text, each of `bytes` bytes or a little more.
    pub fn parts<'t>(&'t self, text: &'t str, bytes: usize) -> impl Iterator<Item = Range<usize>> + 't {
        let mut start = 0;
        std::iter::from_fn(move || {
            let begin = start;
            let first = text.ceil_char_boundary((begin + bytes).min(text.len()));
            let mut left = text[begin..first].chars().next_back()?;
            start = text.len();
            for (at, right) in text[first..].char_indices() {
                if self.between(left, right) {
                    start = first + at;
                    break;
                }
                left = right;
            }
            Some(begin..start)
        })
    }
}

/// Whether a vocabulary has a token for each byte.
pub(super) fn has_all_bytes(pieces: &[VocabPiece]) -> bool {
    let bytes = pieces.iter().filter(|piece| piece.kind == TokenKind::Byte);
    bytes.filter_map(|piece| byte_of(&piece.text)).collect::<HashSet<u8>>().len() == 256
}

const VISIBLE_SPACE: char = '\u{2581}';

fn visible(c: char) -> char {
    if c == ' ' { VISIBLE_SPACE } else { c }
}

/// The steps of a space-replacing normaliser that apply within a text; `None` for any other normaliser.
fn within(normalizer: Option<&NormalizerWrapper>) -> Option<Option<NormalizerWrapper>> {
    let Some(normalizer) = normalizer else { return Some(None) };
    let mut replace = None;
    for step in steps(normalizer) {
        match step {
            NormalizerWrapper::Prepend(prepend) if prepend.prepend == "\u{2581}" => {}
            NormalizerWrapper::Replace(_) if replace.is_none() && replaces_spaces(step) => {
                replace = Some(step.clone());
            }
            _ => return None,
        }
    }
    Some(replace)
}

fn steps(normalizer: &NormalizerWrapper) -> Vec<&NormalizerWrapper> {
    match normalizer {
        NormalizerWrapper::Sequence(sequence) => sequence.as_ref().iter().flat_map(steps).collect(),
        other => vec![other],
    }
}

/// Whether a step replaces spaces by U+2581.
fn replaces_spaces(replace: &NormalizerWrapper) -> bool {
    let description = serde_json::to_value(replace).unwrap_or_default();
    description["pattern"]["String"] == " " && description["content"] == "\u{2581}"
}

/// Whether a normaliser is a Unicode normalisation form.
fn is_unicode_form(normalizer: &NormalizerWrapper) -> bool {
    use NormalizerWrapper::{NFC, NFD, NFKC, NFKD};
    steps(normalizer).iter().all(|step| matches!(step, NFC(_) | NFD(_) | NFKC(_) | NFKD(_)))
}

/// `text` in a Unicode normalisation form, made in parts of `bytes` bytes. It is copied only if it changes.
pub(super) fn in_form<'t>(
    normalizer: &NormalizerWrapper,
    text: &'t str,
    bytes: usize,
) -> tokenizers::Result<Cow<'t, str>> {
    let (mut out, mut start) = (None::<String>, 0);
    while start < text.len() {
        let near = text.ceil_char_boundary((start + bytes).min(text.len()));
        let starter = text[near..].char_indices().find(|(_, c)| begins_anew(*c));
        let end = starter.map_or(text.len(), |(at, _)| near + at);
        let part = &text[start..end];
        if part.is_ascii() {
            out.iter_mut().for_each(|out| out.push_str(part));
        } else {
            let mut normalized = NormalizedString::from(part);
            normalizer.normalize(&mut normalized)?;
            if out.is_none() && normalized.get() != part {
                out = Some(text[..start].to_owned());
            }
            out.iter_mut().for_each(|out| out.push_str(normalized.get()));
        }
        start = end;
    }
    Ok(out.map_or(Cow::Borrowed(text), Cow::Owned))
}

/// Characters that never compose with the one before: ASCII, Greek and Cyrillic letters, Kana, Han, Hangul
/// syllables.
fn begins_anew(c: char) -> bool {
    matches!(c,
        '\0'..='\u{7f}' | '\u{391}'..='\u{3a9}' | '\u{3b1}'..='\u{3c9}' | '\u{410}'..='\u{44f}'
        | '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7a3}')
}

/// The pieces into which the first stages of a pipeline split a text, computed one after the other. Together
/// they are the text.
pub(super) struct Units<'s, 't> {
    stages: &'s [Stage],
    text: &'t str,
    /// For each stage that is open, its iterator and the offset of its text.
    open: Vec<(Spans<'s, 't>, usize)>,
    started: bool,
}

impl<'s, 't> Units<'s, 't> {
    /// `stages` isolate what they match.
    pub fn new(stages: &'s [Stage], text: &'t str) -> Self {
        Self { stages, text, open: Vec::new(), started: false }
    }

    fn open(&mut self, piece: Range<usize>) {
        if let Some(splitter) = self.stages.get(self.open.len()).and_then(Stage::isolates) {
            self.open.push((splitter.spans(&self.text[piece.clone()]), piece.start));
        }
    }
}

impl Iterator for Units<'_, '_> {
    type Item = tokenizers::Result<Range<usize>>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.started {
            self.started = true;
            self.open(0..self.text.len());
        }
        loop {
            let (spans, base) = self.open.last_mut()?;
            let (start, end) = match spans.next() {
                Some(Ok(((start, end), _))) => (*base + start, *base + end),
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.open.pop();
                    continue;
                }
            };
            if start == end {
                continue;
            }
            if self.open.len() == self.stages.len() {
                return Some(Ok(start..end));
            }
            self.open(start..end);
        }
    }
}
