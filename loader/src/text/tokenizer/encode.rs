//! The tokenizer: a vocabulary with its pipeline. Texts are encoded part by part, so that a text of any
//! length takes memory for its ids and for one part. It must not know files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokenizers::pattern::Pattern;
use tokenizers::{
    Model, ModelWrapper, NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType,
    Offsets, PreTokenizedString, SplitDelimiterBehavior,
};

use super::added::{AddedWords, Span};
use super::cuts::{self, Cuts, Units};
use super::kind::TokenKind;
use super::markup::{self, Marks, Markup};
use super::stages::{Stage, TextPlace};
use super::stream::{PieceTable, StreamDecoder};
use crate::error::{Fault, LoadError, Result};

/// A vocabulary without safe cuts encodes at most this many bytes for each id of the limit. No language has
/// such long tokens.
const WHOLE_BYTES_PER_ID: usize = 16;
/// Bytes that such a vocabulary encodes whatever the limit.
const WHOLE_BYTES: usize = 64 << 10;

/// Longest text without a cut, in bytes, that is encoded in bounded memory. The library takes about 300 bytes
/// for each.
const UNIT_BYTES_MAX: usize = 128 << 10;

/// The ids of a text, or of its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Ids of the text up to `read`: all of them, or a few more than the limit.
    pub ids: Vec<u32>,
    /// Bytes of the text that were encoded. Approximate if a normaliser changes lengths and the text did not
    /// end.
    pub read: usize,
    /// A lower bound of the number of ids of the whole text.
    pub at_least: usize,
    /// Why encoding ended.
    pub ended: Ended,
}

/// Why an encoding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The text ended.
    Text,
    /// The text has more ids than the limit.
    Limit,
    /// `stop` was set.
    Stopped,
}

/// A vocabulary with its pipeline. Meant to be shared behind an `Arc`.
pub struct Tokenizer {
    pub(super) source: PathBuf,
    pub(super) table: Arc<PieceTable>,
    pub(super) model: ModelWrapper,
    pub(super) normalizer: Option<NormalizerWrapper>,
    pub(super) stages: Vec<Stage>,
    /// User-defined tokens.
    pub(super) words: AddedWords,
    /// Where a text may be cut.
    pub(super) cuts: Cuts,
    /// Approximate size of a part in bytes.
    pub(super) part: usize,
    /// Longest text of a token in bytes; `None` if text can vanish or become one unknown token.
    pub(super) longest: Option<usize>,
    /// Control tokens in markup.
    pub(super) marks: Marks,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) unknown: Option<u32>,
    pub(super) adds_bos: bool,
    pub(super) adds_eos: bool,
    pub(super) ends: Vec<u32>,
    /// Those of `ends` that the file names.
    pub(super) named_ends: Vec<u32>,
    /// Ids from this one on cannot be used: the embedding has no rows for them.
    pub(super) rows: usize,
    /// Bytes that no token spells.
    pub(super) unspellable: Vec<u8>,
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

/// What to say about bytes that a vocabulary has no token for.
pub(super) fn unspellable_notice(bytes: &[u8]) -> Option<String> {
    let count = bytes.len();
    (count > 0).then(|| {
        format!("{count} byte values have no token in this vocabulary: characters that need them are lost")
    })
}

impl Tokenizer {
    /// The bytes of UTF-8 text that no token spells: characters with one of them are lost when a text is
    /// encoded.
    pub fn unspellable(&self) -> &[u8] {
        &self.unspellable
    }

    /// The notice about these bytes that was given when the vocabulary was read.
    pub fn unspellable_notice(&self) -> Option<String> {
        unspellable_notice(&self.unspellable)
    }

    /// Number of ids, gaps included: the largest id plus one.
    pub fn vocab_len(&self) -> usize {
        self.table.len()
    }

    /// Takes the rows of the model's embedding: tokens beyond them are refused when a text or a template
    /// needs one. Gives a notice if there are any.
    pub fn limit(&mut self, rows: usize) -> Option<String> {
        self.rows = rows;
        self.ends.retain(|id| (*id as usize) < rows);
        let first = self.piece(u32::try_from(rows).ok()?).unwrap_or_default();
        let count = self.vocab_len().checked_sub(rows).filter(|count| *count > 0)?;
        Some(format!(
            "{count} tokens have no row in the embedding of {rows} rows and cannot be used, the first is {first:?}"
        ))
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

    /// All tokens that end an answer, ascending: those the files name, control tokens with a well-known
    /// end-of-turn spelling, and, for the tokenizer of a whole model, those with which its chat template
    /// closes the assistant's turn or opens the next one.
    pub fn end_ids(&self) -> &[u32] {
        &self.ends
    }

    /// Adds the tokens `ends`. Tokens `within` an answer end it only if the file says so.
    pub(crate) fn learn_ends(&mut self, ends: &[u32], within: &[u32]) {
        self.ends.retain(|id| !within.contains(id) || self.named_ends.contains(id));
        self.ends.extend(ends);
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    /// Encodes untrusted text: no BOS, no EOS, and never a control token, whatever the text contains.
    ///
    /// # Errors
    /// Faults of a vocabulary that only some texts reveal: a pre-tokenizer expression that exceeds its limit,
    /// a missing unknown token.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>> {
        let stop = AtomicBool::new(false);
        Ok(self.encode_text_into(text, Sink { unit_max: usize::MAX, ..Sink::new(usize::MAX, &stop) })?.ids)
    }

    /// As [`Self::encode_text`], until there are more than `limit` ids or `stop` is set. It takes memory for
    /// the ids and for a part of the text, not for the whole text. The ids are the first ones of the whole
    /// text.
    ///
    /// # Errors
    /// As [`Self::encode_text`]; [`LoadError::Unsupported`] for a text far beyond the limit with a vocabulary
    /// that has no safe cuts, and for a word of more than 128 KiB that could be within the limit.
    pub fn encode_text_up_to(&self, text: &str, limit: usize, stop: &AtomicBool) -> Result<Encoded> {
        self.encode_text_into(text, Sink::new(limit, stop))
    }

    fn encode_text_into(&self, text: &str, mut sink: Sink<'_>) -> Result<Encoded> {
        self.guarded(|| self.encode_run(text, true, &mut sink))?;
        self.usable(sink.finish(self)?)
    }

    /// Encodes a rendered chat template. Its control tokens become ids; those inside messages stay text. BOS
    /// comes first if [`Tokenizer::adds_bos`] or the template says so, and only once.
    ///
    /// # Errors
    /// As [`Tokenizer::encode_text`].
    pub fn encode_markup(&self, markup: &Markup) -> Result<Vec<u32>> {
        Ok(self.encode_markup_up_to(markup, usize::MAX, &AtomicBool::new(false))?.ids)
    }

    /// As [`Self::encode_markup`], with the limits of [`Self::encode_text_up_to`].
    ///
    /// # Errors
    /// As [`Self::encode_text_up_to`].
    pub fn encode_markup_up_to(&self, markup: &Markup, limit: usize, stop: &AtomicBool) -> Result<Encoded> {
        let mut sink = Sink::new(limit, stop);
        self.guarded(|| {
            for (position, run) in self.marks.runs(markup).into_iter().enumerate() {
                match run {
                    markup::Run::Control(id) => sink.push(id),
                    markup::Run::Text(text) => self.encode_run(&text, position == 0, &mut sink)?,
                }
                if sink.ended() {
                    break;
                }
            }
            Ok(())
        })?;
        let mut encoded = sink.finish(self)?;
        if let Some(bos) = self.bos.filter(|_| self.adds_bos) {
            let doubled = encoded.ids.iter().take_while(|id| **id == bos).count();
            encoded.ids.splice(..doubled, [bos]);
        }
        self.usable(encoded)
    }

    /// Refuses tokens that the model has no embedding for.
    fn usable(&self, encoded: Encoded) -> Result<Encoded> {
        let Some(id) = encoded.ids.iter().find(|id| **id as usize >= self.rows) else { return Ok(encoded) };
        let problem = format!(
            "{:?} is needed here, but the embedding has {} rows",
            self.piece(*id).unwrap_or_default(),
            self.rows
        );
        Err(LoadError::malformed(&self.source, format!("token {id}"), Fault::Vocabulary { problem }))
    }

    /// The control tokens that a template can write, for guarding messages.
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

    /// Runs `work`, turning a panic inside of the tokenizers crate into an error. Vocabularies are checked
    /// when they are loaded; this is the last resort.
    fn guarded(&self, work: impl FnOnce() -> tokenizers::Result<()>) -> Result<()> {
        let problem = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => format!("cannot encode with this vocabulary: {error}"),
            Err(_) => "the vocabulary made the tokenizer library fail".to_owned(),
        };
        Err(LoadError::malformed(&self.source, "tokenizer", Fault::Vocabulary { problem }))
    }

    /// Encodes text between control tokens; `first` if nothing came before it.
    fn encode_run(&self, text: &str, first: bool, sink: &mut Sink<'_>) -> tokenizers::Result<()> {
        if matches!(self.cuts, Cuts::Nowhere) {
            let place = if first { TextPlace::First } else { TextPlace::Later };
            return self.encode_whole(text, place, sink);
        }
        for span in self.words.spans(text) {
            match span {
                Span::Word(id, place) => sink.take(place.len(), [id]),
                Span::Text(place) => {
                    let place_of_text =
                        if first && place.start == 0 { TextPlace::First } else { TextPlace::Later };
                    self.encode_between(&text[place], place_of_text, sink)?;
                }
            }
            if sink.ended() {
                break;
            }
        }
        Ok(())
    }

    /// Encodes text that has no added word in it.
    fn encode_between(&self, text: &str, place: TextPlace, sink: &mut Sink<'_>) -> tokenizers::Result<()> {
        match &self.cuts {
            Cuts::Units(stages) => {
                let in_form = match &self.normalizer {
                    Some(normalizer) => cuts::in_form(normalizer, text, self.part)?,
                    None => text.into(),
                };
                let begun = sink.read;
                self.encode_units(&in_form, *stages, place, sink)?;
                // The normalised text may be longer or shorter.
                let end = begun + text.len();
                sink.read = if sink.ended() { sink.read.min(end) } else { end };
                Ok(())
            }
            Cuts::Merges(merges) => {
                for part in merges.parts(text, self.part) {
                    let (normalizer, place) = match part.start {
                        0 => (self.normalizer.as_ref(), place),
                        _ => (merges.within.as_ref(), TextPlace::Within),
                    };
                    let text = &text[part];
                    if sink.ended() || !sink.has_room_for(text.len(), self) {
                        break;
                    }
                    let mut normalized = NormalizedString::from(text);
                    if let Some(normalizer) = normalizer {
                        normalizer.normalize(&mut normalized)?;
                    }
                    self.encode_part(normalized.into(), &self.stages, place, text.len(), sink)?;
                }
                Ok(())
            }
            Cuts::Nowhere => Ok(()),
        }
    }

    /// Encodes text of which the first `stages` make units.
    fn encode_units(
        &self,
        text: &str,
        stages: usize,
        mut place: TextPlace,
        sink: &mut Sink<'_>,
    ) -> tokenizers::Result<()> {
        let (isolating, others) = self.stages.split_at(stages);
        let (mut start, mut units) = (0, Vec::new());
        let mut encode = |start: usize, end: usize, units: &mut Vec<_>, sink: &mut Sink<'_>| {
            let part = &text[start..end];
            if sink.ended() || !sink.has_room_for(part.len(), self) {
                return Ok(());
            }
            let mut pieces = PreTokenizedString::from(part);
            let known = KnownUnits(std::mem::take(units));
            pieces.split(|_, piece| piece.split(&known, SplitDelimiterBehavior::Isolated))?;
            let of_part = std::mem::replace(&mut place, TextPlace::Later);
            self.encode_part(pieces, others, of_part, part.len(), sink)
        };
        for unit in Units::new(isolating, text) {
            let unit = unit?;
            if !units.is_empty() && unit.end - start > self.part {
                encode(start, unit.start, &mut units, sink)?;
                start = unit.start;
                if sink.ended() {
                    return Ok(());
                }
            }
            units.push(((unit.start - start, unit.end - start), false));
        }
        encode(start, text.len(), &mut units, sink)
    }

    /// Encodes text with all that is in it at once.
    fn encode_whole(&self, text: &str, place: TextPlace, sink: &mut Sink<'_>) -> tokenizers::Result<()> {
        if text.is_empty() || !sink.takes_whole(text.len()) {
            return Ok(());
        }
        let pieces = self.words.library().extract_and_normalize(self.normalizer.as_ref(), text);
        self.encode_part(pieces, &self.stages, place, text.len(), sink)
    }

    /// Applies `stages` and the model to a part of `bytes` bytes of text.
    fn encode_part(
        &self,
        mut pieces: PreTokenizedString,
        stages: &[Stage],
        place: TextPlace,
        bytes: usize,
        sink: &mut Sink<'_>,
    ) -> tokenizers::Result<()> {
        for stage in stages {
            stage.apply(&mut pieces, place)?;
        }
        pieces.tokenize(|piece| self.model.tokenize(piece.get()))?;
        let splits = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let tokens = splits.iter().flat_map(|(_, _, tokens)| tokens.iter().flatten());
        // Control tokens are kept out of the model; this check holds even if a vocabulary gets around that.
        sink.take(
            bytes,
            tokens.filter_map(|token| match self.table.kind(token.id) {
                Some(TokenKind::Control) => self.unknown,
                _ => Some(token.id),
            }),
        );
        Ok(())
    }
}

/// Units that were computed on the whole text.
struct KnownUnits(Vec<(Offsets, bool)>);

impl Pattern for &KnownUnits {
    fn find_matches(&self, _: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        Ok(self.0.clone())
    }
}

/// Takes ids until there are more than a limit.
struct Sink<'s> {
    ids: Vec<u32>,
    read: usize,
    limit: usize,
    stop: &'s AtomicBool,
    /// Lower bound of the number of ids after those taken.
    beyond: usize,
    /// Longest part in bytes.
    unit_max: usize,
    /// Size of what was too long to be encoded at once, and what it is.
    refused: Option<(usize, &'static str)>,
}

impl<'s> Sink<'s> {
    fn new(limit: usize, stop: &'s AtomicBool) -> Self {
        Self { ids: Vec::new(), read: 0, limit, stop, beyond: 0, unit_max: UNIT_BYTES_MAX, refused: None }
    }

    fn push(&mut self, id: u32) {
        self.ids.push(id);
    }

    /// Takes the ids of the next `bytes` bytes of text.
    fn take(&mut self, bytes: usize, ids: impl IntoIterator<Item = u32>) {
        self.read += bytes;
        self.ids.extend(ids);
    }

    /// Whether a part of `bytes` bytes can be within the limit. Parts of the usual size are always taken, so
    /// that the first ids of a text are there whatever the limit; a longer part is a single unit, which
    /// cannot be cut.
    fn has_room_for(&mut self, bytes: usize, tokenizer: &Tokenizer) -> bool {
        let longest = tokenizer.longest.filter(|_| bytes > tokenizer.part.saturating_mul(2));
        let at_least = longest.map_or(0, |longest| bytes.div_ceil(longest));
        if self.ids.len().saturating_add(at_least) > self.limit {
            self.beyond = at_least;
            return false;
        }
        if bytes > self.unit_max {
            self.refused = Some((bytes, "one word"));
        }
        self.refused.is_none()
    }

    /// Whether a vocabulary without safe cuts may encode `bytes` bytes.
    fn takes_whole(&mut self, bytes: usize) -> bool {
        if bytes > self.limit.saturating_mul(WHOLE_BYTES_PER_ID).max(WHOLE_BYTES) {
            self.refused = Some((bytes, "a text"));
        }
        self.refused.is_none()
    }

    fn at_least(&self) -> usize {
        self.ids.len().saturating_add(self.beyond)
    }

    fn ended(&self) -> bool {
        self.at_least() > self.limit || self.refused.is_some() || self.stop.load(Ordering::Relaxed)
    }

    fn finish(self, tokenizer: &Tokenizer) -> Result<Encoded> {
        if let Some((bytes, what)) = self.refused {
            let hint = match what {
                "one word" => {
                    "it is encoded as a whole, which takes hundreds of bytes of memory for each byte; break it by spaces or line ends"
                }
                _ => "it encodes texts as a whole; give a shorter text",
            };
            return Err(LoadError::Unsupported {
                path: tokenizer.source.clone(),
                feature: format!("{what} of {bytes} bytes{} with this tokenizer", of_limit(self.limit)),
                hint: hint.to_owned(),
            });
        }
        let at_least = self.at_least();
        let ended = if at_least > self.limit {
            Ended::Limit
        } else if self.stop.load(Ordering::Relaxed) {
            Ended::Stopped
        } else {
            Ended::Text
        };
        Ok(Encoded { ids: self.ids, read: self.read, at_least, ended })
    }
}

/// What a limit is called in a message; nothing if there is none.
fn of_limit(limit: usize) -> String {
    if limit == usize::MAX { String::new() } else { format!(" for {limit} tokens") }
}

#[cfg(test)]
mod tests;
