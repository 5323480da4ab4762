//! The header of a GGUF file of which a long list of texts is not read, such as a vocabulary of megabytes.
//! The records of the tensors lie somewhere behind it. A few small pieces of the file tell where, and what is
//! found there counts only if it agrees with the length of the file to the byte. It reads no file, and must
//! not know what keys mean.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

mod kind;
mod tail;

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::header::{
    ALIGNMENT_KEY, ARRAY, EntryReader, MAX_ELEMENTS, MAX_ENTRIES, MAX_KEY, MAX_TENSORS, TEXT, read_version,
    sound_alignment,
};
use crate::io::reader::{Reader, Scalar, len_u64};
use kind::Look;
use tail::Tail;

/// Searches with pieces; further ones would make the part where the tensors are no smaller.
const SEARCHES: usize = 2;
/// Pieces that are read at a time, and the bytes of each.
const PIECES: u64 = 16;
const PIECE: u64 = 4 << 10;
/// Most bytes that are read in one go.
const WINDOW_MAX: u64 = 1536 << 10;
/// Where the header ends in a file without tensors, which is all header: its last bytes.
const LAST: u64 = 64 << 10;
/// The end of the longest metadata that is looked for.
const END_MAX: u64 = 64 << 20;
/// Offset of the number of entries in a file.
const ENTRIES_AT: usize = 16;
/// Elements of the list that must be known to tell how long they are.
const ELEMENTS_LEAST: u64 = 64;
/// The first bytes of a file whose header goes on in the middle of a list of texts.
#[derive(Debug)]
pub struct Beginning {
    path: PathBuf,
    file_len: u64,
    /// All bytes that are known, up to the type of the list's value.
    bytes: Vec<u8>,
    n_tensors: u64,
    n_entries: u64,
    /// Keys before the list, and the list's own.
    keys: Vec<String>,
    alignment: Option<u64>,
    /// Where the known bytes end.
    known: u64,
    /// Elements of the list, how many of them are known, and the bytes of these.
    elements: u64,
    seen: u64,
    seen_bytes: u64,
}

/// A header with a gap.
#[derive(Debug, PartialEq, Eq)]
pub struct Gapped {
    /// The bytes from the start of the file to the gap, with a text of zeros in place of the list. The gap
    /// belongs to this text.
    pub head: Vec<u8>,
    /// Where the file goes on, and the bytes there, to the end of the header at least.
    pub tail_at: u64,
    /// These bytes.
    pub tail: Vec<u8>,
    /// All keys but those in the gap.
    pub keys: Vec<String>,
    /// Entries in the gap beside the list where it begins.
    pub hidden: u64,
    /// Bytes that were not read.
    pub skipped: u64,
}

impl Gapped {
    /// Whether the gap has as many entries as those of these lists that are nowhere else.
    pub fn hides(&self, lists: &[&str]) -> bool {
        let missing = lists.iter().filter(|list| !self.keys.iter().any(|key| key == *list)).count();
        self.hidden == len_u64(missing)
    }
}

impl Beginning {
    /// From the first bytes of a file of `file_len` bytes; `None` if no list of texts is cut by their end.
    pub fn of(path: &Path, first: &[u8], file_len: u64) -> Option<Self> {
        let mut reader = Reader::new(path, first);
        read_version(&mut reader).ok()?;
        let n_tensors = reader.scalar::<u64>("n_tensors").ok()?;
        let n_entries = reader.scalar::<u64>("n_kv").ok()?;
        if n_tensors > MAX_TENSORS || n_entries > MAX_ENTRIES {
            return None;
        }
        let (mut keys, mut alignment) = (Vec::new(), None);
        let mut values = EntryReader::new(&mut reader);
        for _ in 0..n_entries {
            let key = values.reader.name(MAX_KEY, "key").ok()?;
            let at = values.reader.offset();
            let value = values.value(&key);
            keys.push(key);
            match value {
                Ok(value) if keys.last().is_some_and(|key| key == ALIGNMENT_KEY) => {
                    alignment = Some(sound_alignment(&value)?);
                }
                Ok(_) => {}
                Err(_) => {
                    let (elements, seen, seen_bytes) = cut_list(path, first, at)?;
                    let bytes = first.get(..usize::try_from(at).ok()?)?.to_vec();
                    let known = len_u64(first.len());
                    let path = path.to_owned();
                    #[rustfmt::skip]
                    return Some(Self {
                        path, file_len, bytes, n_tensors, n_entries, keys, alignment, known, elements, seen,
                        seen_bytes,
                    });
                }
            }
        }
        None
    }

    /// Looks for the end of the header with a few calls of `read`, which gives the bytes at offsets and of
    /// lengths, all at once. `None` if it is not found, or is not beyond doubt.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn find<E>(
        &self,
        mut read: impl FnMut(&[(u64, u64)]) -> Result<Vec<Vec<u8>>, E>,
    ) -> Result<Option<Gapped>, E> {
        let mut span = self.span();
        for _ in 0..SEARCHES {
            if span.end - span.start <= WINDOW_MAX {
                break;
            }
            let step = (span.end - span.start) / PIECES;
            let places: Vec<_> = (1..PIECES).map(|n| (span.start + n * step, PIECE)).collect();
            let kinds = read(&places)?.into_iter().map(|piece| Look::of(&piece));
            let kinds: Vec<_> = places.iter().map(|place| place.0).zip(kinds).collect();
            span = narrowed(&span, &kinds);
        }
        let bytes = span.end - span.start;
        if bytes > WINDOW_MAX {
            return Ok(None);
        }
        let window = read(&[(span.start, bytes)])?;
        Ok(window.first().and_then(|window| self.join(span.start, window)))
    }

    /// Where the header may end: the rest of the list, and perhaps another one behind it, as a vocabulary is
    /// followed by two numbers for each token and by merges. Real files have up to 2.2 merges for a token.
    /// Their first texts have 13 to 14 bytes, all of them 15 to 19.
    fn span(&self) -> Range<u64> {
        if self.n_tensors == 0 {
            return self.file_len.saturating_sub(LAST).max(self.known)..self.file_len;
        }
        let longest = self.seen_bytes.saturating_mul(3) / 2 / self.seen.max(1);
        let most = self.elements.saturating_mul(longest.saturating_mul(17) / 5 + 8);
        let end = self.known.saturating_add(most).saturating_add(WINDOW_MAX / 4);
        self.known..end.min(END_MAX).min(self.file_len).max(self.known)
    }

    /// Joins the beginning and the bytes at `at`, which have the end of the header. `None` unless these bytes
    /// have exactly one sequence of tensors that fits the length of the file, behind entries.
    fn join(&self, at: u64, window: &[u8]) -> Option<Gapped> {
        let tail = Tail {
            path: &self.path,
            at,
            window,
            n_tensors: self.n_tensors,
            alignment: self.alignment,
            file_len: self.file_len,
        };
        let found = tail.find()?;
        let mut keys = self.keys.clone();
        keys.extend(found.keys);
        let hidden = self.n_entries.checked_sub(len_u64(keys.len()))?;
        let tail_at = at + len_u64(found.start);
        let mut head = self.bytes.clone();
        let entries = (self.n_entries - hidden).to_le_bytes();
        head.get_mut(ENTRIES_AT..ENTRIES_AT + entries.len())?.copy_from_slice(&entries);
        TEXT.put_le(&mut head);
        let text_at = len_u64(head.len()) + len_u64(size_of::<u64>());
        tail_at.checked_sub(text_at)?.put_le(&mut head);
        let skipped = at.saturating_sub(self.known);
        Some(Gapped { head, tail_at, tail: window.get(found.start..)?.to_vec(), keys, hidden, skipped })
    }
}

/// The part of a span in which the tensors are, by pieces in it.
fn narrowed(span: &Range<u64>, kinds: &[(u64, Look)]) -> Range<u64> {
    let known = kinds.iter().rposition(|(_, kind)| *kind != Look::Other).map_or(0, |last| last + 1);
    let end = kinds.get(known).map_or(span.end, |(at, _)| *at);
    // Behind a piece of a list all entries can be read, from the middle of a long text none.
    let list = kinds.iter().take(known).rfind(|(_, kind)| kind.is_list());
    list.map_or(span.start, |(at, _)| *at)..end
}

/// The list of texts whose value begins at `at` and is cut by the end of `bytes`: its number of elements, how
/// many are there, and their bytes.
fn cut_list(path: &Path, bytes: &[u8], at: u64) -> Option<(u64, u64, u64)> {
    let mut reader = Reader::new(path, bytes);
    reader.skip(at, "value").ok()?;
    let kinds = [reader.scalar::<u32>("type").ok()?, reader.scalar::<u32>("type").ok()?];
    let elements = reader.scalar::<u64>("count").ok()?;
    if kinds != [ARRAY, TEXT] || elements > MAX_ELEMENTS {
        return None;
    }
    let (start, mut seen, mut end) = (reader.offset(), 0, reader.offset());
    while let Ok(len) = reader.scalar::<u64>("length")
        && reader.skip(len, "text").is_ok()
    {
        (seen, end) = (seen + 1, reader.offset());
    }
    (seen >= ELEMENTS_LEAST && seen < elements).then_some((elements, seen, end - start))
}
