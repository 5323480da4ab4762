//! The end of a header in bytes from the middle of a GGUF file: entries, then the records of all tensors. It
//! is found from the tensors backwards, and every record is checked. It must not know how the bytes came.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::path::Path;

use super::kind::next_text;
use crate::container::gguf::header::{
    ALIGNMENT_KEY, ARRAY, DEFAULT_ALIGNMENT, EntryReader, TEXT, read_tensor, sound_alignment,
};
use crate::io::reader::{Reader, align_up, len_u64};

/// Longest name of a tensor and of a key behind the gap, in bytes.
const NAME_MAX: u64 = 64;
const KEY_MAX: u64 = 255;
/// Bytes that may be looked at while entries are looked for; more are an attempt to keep the program busy.
const WORK_MAX: u64 = 64 << 20;

/// Where the end of a header is looked for.
pub struct Tail<'a> {
    pub path: &'a Path,
    /// Offset of the bytes in the file.
    pub at: u64,
    pub window: &'a [u8],
    pub n_tensors: u64,
    /// What a key before the gap says.
    pub alignment: Option<u64>,
    pub file_len: u64,
}

/// The entries at the end.
#[derive(Debug)]
pub struct LastEntries {
    /// Where the first begins in the window.
    pub start: usize,
    pub keys: Vec<String>,
    alignment: Option<u64>,
}

/// Records of all tensors.
struct Records {
    /// Where they begin and end in the window.
    start: usize,
    end: usize,
    /// Offset and bytes of each, in order.
    ranges: Vec<(u64, u64)>,
}

impl Tail<'_> {
    /// The entries before the one sequence of records that fits the file, if there is one and no other.
    pub fn find(&self) -> Option<LastEntries> {
        let mut found = self.candidates().into_iter().filter_map(|records| {
            let entries = self.entries(records.start)?;
            self.fits(&records, &entries).then_some(entries)
        });
        let only = found.next()?;
        found.next().is_none().then_some(only)
    }

    /// Everything that reads as records of as many tensors as the file has, one behind the other.
    fn candidates(&self) -> Vec<Records> {
        let len = self.window.len();
        if self.n_tensors == 0 {
            // The file ends with the header and the zeros that align it.
            let zeros = self.window.iter().rev().take_while(|byte| **byte == 0).count();
            let ends = len - zeros..=len;
            return ends.map(|end| Records { start: end, end, ranges: Vec::new() }).collect();
        }
        (0..len).filter_map(|start| self.records(start)).collect()
    }

    fn records(&self, start: usize) -> Option<Records> {
        let bytes = self.window.get(start..)?;
        // Most places are refused without a look at more.
        let name = u64::from_le_bytes(*bytes.first_chunk()?);
        let dims = bytes.get(8 + usize::try_from(name).ok().filter(|_| (1..=NAME_MAX).contains(&name))?..)?;
        if !(1..=4).contains(&u32::from_le_bytes(*dims.first_chunk()?)) {
            return None;
        }
        let mut reader = Reader::new(self.path, bytes);
        let (mut ranges, mut before) = (Vec::new(), 0);
        for index in 0..self.n_tensors {
            let tensor = read_tensor(&mut reader, index).ok()?.tensor;
            if tensor.bytes == 0 || tensor.offset < before || (index == 0 && tensor.offset != 0) {
                return None;
            }
            before = tensor.offset.checked_add(tensor.bytes)?;
            ranges.push((tensor.offset, tensor.bytes));
        }
        Some(Records { start, end: start + usize::try_from(reader.offset()).ok()?, ranges })
    }

    /// Whether the tensors are as writers lay them out: each behind the one before, aligned, and the last one
    /// ends with the file.
    fn fits(&self, records: &Records, entries: &LastEntries) -> bool {
        let alignment = self.alignment.or(entries.alignment).unwrap_or_else(|| DEFAULT_ALIGNMENT.into());
        let end = self.at + len_u64(records.end);
        let Some(data) = align_up(end, alignment) else { return false };
        let mut next = 0;
        let mut last = 0;
        for &(offset, bytes) in &records.ranges {
            if offset != next {
                return false;
            }
            last = offset.saturating_add(bytes);
            let Some(aligned) = align_up(last, alignment) else { return false };
            next = aligned;
        }
        // Zeros reach from the header to the first tensor, and where writers like it behind the last one.
        let pad = self.window.iter().skip(records.end).zip(end..data);
        let lengths = [data.saturating_add(last), data.saturating_add(next), end];
        let lengths = if records.ranges.is_empty() { &lengths[..] } else { &lengths[..2] };
        lengths.contains(&self.file_len) && pad.into_iter().all(|(byte, _)| *byte == 0)
    }

    /// The longest row of entries that ends at `end`. In front of them is the end of a list.
    fn entries(&self, end: usize) -> Option<LastEntries> {
        let before = self.window.get(..end)?;
        let mut work = WORK_MAX;
        // From each place where entries begin that lead to the end: where the first of them ends.
        let mut ways: BTreeMap<usize, usize> = BTreeMap::new();
        for start in (0..end).rev() {
            let bytes = before.get(start..)?;
            let Some(key) = bytes.first_chunk().map(|len| u64::from_le_bytes(*len)) else { continue };
            if !(1..=KEY_MAX).contains(&key) {
                continue;
            }
            let Some(next) = entry_end(self.path, bytes, &mut work).map(|len| start + len) else { continue };
            if next == end || ways.contains_key(&next) {
                ways.insert(start, next);
            }
        }
        if work == 0 {
            return None;
        }
        let start = ways.keys().next().copied().unwrap_or(end);
        if !self.follows_a_list(start, start == end) {
            return None;
        }
        let mut entries = LastEntries { start, keys: Vec::new(), alignment: None };
        let mut at = start;
        while at < end {
            let next = *ways.get(&at)?;
            let mut reader = Reader::new(self.path, before.get(at..next)?);
            let key = reader.name(KEY_MAX, "key").ok()?;
            if key == ALIGNMENT_KEY {
                entries.alignment = Some(sound_alignment(&EntryReader::new(&mut reader).value(&key).ok()?)?);
            }
            entries.keys.push(key);
            at = next;
        }
        Some(entries)
    }

    /// Whether a list of texts in front of `start` ends there, so that no entry was read out of a text. Of
    /// other lists nothing is known, and without entries behind them they say nothing (`alone`).
    fn follows_a_list(&self, start: usize, alone: bool) -> bool {
        let in_list = |from: usize| {
            let mut at = from;
            let mut texts = 0;
            while at < start
                && let Some((_, end)) = next_text(self.window, at, self.window.len())
            {
                (at, texts) = (end, texts + 1);
            }
            (texts, at)
        };
        const TEXTS: u64 = 12;
        let first = (0..self.window.len().min(1 << 10)).map(in_list).find(|(texts, _)| *texts >= TEXTS);
        first.map_or(!alone, |(_, at)| at == start)
    }
}

/// The bytes of the entry at the beginning of `bytes`; `None` if that is none. Takes what it looks at from
/// `work`.
fn entry_end(path: &Path, bytes: &[u8], work: &mut u64) -> Option<usize> {
    let mut reader = Reader::new(path, bytes);
    reader.name(KEY_MAX, "key").ok()?;
    let kind = reader.scalar::<u32>("type").ok()?;
    match kind {
        TEXT => skip_text(&mut reader)?,
        ARRAY => {
            let kind = reader.scalar::<u32>("type").ok()?;
            let count = reader.scalar::<u64>("count").ok()?;
            if kind == TEXT {
                for _ in 0..count {
                    *work = work.saturating_sub(1);
                    if *work == 0 {
                        return None;
                    }
                    skip_text(&mut reader)?;
                }
            } else {
                reader.skip(count.checked_mul(number_bytes(kind)?)?, "numbers").ok()?;
            }
        }
        number => reader.skip(number_bytes(number)?, "number").ok()?,
    }
    usize::try_from(reader.offset()).ok()
}

fn skip_text(reader: &mut Reader<'_>) -> Option<()> {
    let len = reader.scalar::<u64>("length").ok()?;
    reader.skip(len, "text").ok()
}

/// Bytes of a number or a truth value, from the specification.
fn number_bytes(kind: u32) -> Option<u64> {
    Some(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        10..=12 => 8,
        _ => return None,
    })
}
