//! The journal of an unfinished output: the tensors that are complete in the partial file beside it, with
//! their checksums. Text, one line for each tensor; an incomplete or foreign line ends it. It must not know
//! what the tensors are.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use twox_hash::XxHash3_64;

use crate::io::disk::{Disk, DiskFile};

/// The beginning of the file; the fingerprint of the conversion follows.
const TITLE: &str = "moelten-journal 1";

/// Checksums of a tensor that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Checksum of its bytes in the output.
    pub output: u64,
    /// Checksum of the source bytes that it was made from.
    pub source: u64,
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    file: DiskFile,
    disk: Disk,
    path: PathBuf,
    entries: Vec<Entry>,
    fingerprint: u64,
}

impl Journal {
    /// The journal beside the unfinished file `partial`.
    pub fn path(partial: &Path) -> PathBuf {
        let mut name = partial.as_os_str().to_owned();
        name.push(".journal");
        name.into()
    }

    /// Opens or begins the journal beside `partial`. The second value says whether it belonged to a
    /// conversion with another `fingerprint`; its entries are then discarded.
    pub fn open(partial: &Path, fingerprint: u64) -> io::Result<(Self, bool)> {
        let path = Self::path(partial);
        let disk = Disk::here();
        let mut file = disk.open(&path, false)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        let title = format!("{TITLE} {fingerprint:016x}\n");
        let mut lines = text.split_inclusive('\n');
        let mine = lines.next() == Some(&title);
        let mut entries = Vec::new();
        if mine {
            entries.extend(lines.enumerate().map_while(|(index, line)| parse(line, index, fingerprint)));
        }
        let mut journal = Self { file, disk, path, entries, fingerprint };
        if !mine {
            journal.file.set_len(0)?;
            journal.file.seek(SeekFrom::Start(0))?;
            journal.file.write_all(title.as_bytes())?;
        }
        journal.keep(journal.entries.len())?;
        Ok((journal, !mine && !bytes.is_empty()))
    }

    /// The entries so far.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Waits until the names of this file and of the one beside it are on the disk.
    pub fn sync_folder(&self) -> io::Result<()> {
        self.disk.sync_folder(&self.path)
    }

    /// Discards all but the first `count` entries.
    pub fn keep(&mut self, count: usize) -> io::Result<()> {
        self.entries.truncate(count);
        let title = TITLE.len() + 1 + 16 + 1;
        let len = u64::try_from(title + self.entries.len() * LINE).expect("the length of a small file");
        self.file.set_len(len)?;
        self.file.seek(SeekFrom::Start(len))?;
        Ok(())
    }

    /// Records that the next tensor is complete.
    pub fn push(&mut self, entry: Entry) -> io::Result<()> {
        let line = line(entry, self.entries.len(), self.fingerprint);
        debug_assert_eq!(line.len(), LINE);
        self.file.write_all(line.as_bytes())?;
        self.entries.push(entry);
        Ok(())
    }

    /// Removes the journal beside `partial`, whatever is in it.
    pub fn discard(partial: &Path) -> io::Result<()> {
        Disk::here().remove(&Self::path(partial))
    }

    /// Removes the file.
    pub fn remove(&self) -> io::Result<()> {
        self.disk.remove(&self.path)
    }
}

/// Bytes of a line: an index, two checksums, and one of the line itself.
const LINE: usize = 8 + 1 + 16 + 1 + 16 + 1 + 16 + 1;

fn line(entry: Entry, index: usize, fingerprint: u64) -> String {
    let words = format!("{index:08} {:016x} {:016x}", entry.output, entry.source);
    let own = XxHash3_64::oneshot_with_seed(fingerprint, words.as_bytes());
    format!("{words} {own:016x}\n")
}

fn parse(text: &str, index: usize, fingerprint: u64) -> Option<Entry> {
    let mut words = text.split(' ').skip(1);
    let mut number = || u64::from_str_radix(words.next()?, 16).ok();
    let entry = Entry { output: number()?, source: number()? };
    (line(entry, index, fingerprint) == text).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_and_foreign_lines_end_it() {
        let folder = tempfile::tempdir().unwrap();
        let partial = folder.path().join("x.partial");
        let entries = [1, 2, 3].map(|n| Entry { output: n, source: 10 * n });
        let (mut journal, other) = Journal::open(&partial, 7).unwrap();
        assert!(!other && journal.entries().is_empty());
        entries.iter().for_each(|&entry| journal.push(entry).unwrap());
        drop(journal);
        let path = Journal::path(&partial);
        let whole = std::fs::read(&path).unwrap();
        // Cut at every length and damaged at every byte, it reads as a prefix of the entries.
        for len in 0..=whole.len() {
            std::fs::write(&path, whole.get(..len).unwrap()).unwrap();
            let (journal, _) = Journal::open(&partial, 7).unwrap();
            let lines = whole.get(..len).unwrap().iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(journal.entries(), entries.get(..lines.saturating_sub(1)).unwrap());
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            *damaged.get_mut(at).unwrap() ^= 0x41;
            std::fs::write(&path, damaged).unwrap();
            let (mut journal, _) = Journal::open(&partial, 7).unwrap();
            let read = journal.entries().len();
            assert!(read < 3 && journal.entries() == entries.get(..read).unwrap());
            journal.push(entries[read]).unwrap();
            let (again, other) = Journal::open(&partial, 7).unwrap();
            assert!(!other && again.entries() == entries.get(..=read).unwrap());
        }
        std::fs::write(&path, &whole).unwrap();
        let (other, foreign) = Journal::open(&partial, 8).unwrap();
        assert!(foreign && other.entries().is_empty());
        other.remove().unwrap();
        // Windows may keep the name of a file that was removed until it is closed.
        drop(other);
        assert!(!path.exists());
    }
}
