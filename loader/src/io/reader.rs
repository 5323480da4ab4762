//! The checked reader of untrusted binary input: every read is compared with the bytes that are left, every
//! error names file, field and byte offset. Little-endian. It must not know formats.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fmt::Display;
use std::io;
use std::path::Path;

use super::read_at::{ReadAt, read_fully};
use crate::error::{Fault, LoadError, Result};

/// Bytes of a file that are read at a time.
const WINDOW: u64 = 64 << 10;

/// A cursor over the bytes of a file. It returns copies and reads each byte once, so what was checked in a
/// copy cannot be changed by another process that writes the file.
pub struct Reader<'a> {
    path: &'a Path,
    len: u64,
    at: u64,
    source: Source<'a>,
}

enum Source<'a> {
    Memory(&'a [u8]),
    File(&'a dyn ReadAt, Window),
}

/// A number with a fixed little-endian encoding.
pub trait Scalar: Copy {
    /// Bytes it takes.
    const BYTES: usize;

    /// Decodes from exactly [`Self::BYTES`] bytes; `None` for any other length.
    fn from_le(bytes: &[u8]) -> Option<Self>;

    /// Appends its bytes to `out`.
    fn put_le(self, out: &mut Vec<u8>);
}

macro_rules! scalars {
    ($($t:ty),*) => {$(
        impl Scalar for $t {
            const BYTES: usize = size_of::<$t>();

            fn from_le(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_le_bytes(bytes.try_into().ok()?))
            }

            fn put_le(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
scalars!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`. Messages show `path`.
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, len: len_u64(bytes.len()), at: 0, source: Source::Memory(bytes) }
    }

    /// A reader at the start of a file of `len` bytes, which can be read at any offset. Messages show `path`.
    pub fn of_file(path: &'a Path, file: &'a dyn ReadAt, len: u64) -> Self {
        Self { path, len, at: 0, source: Source::File(file, Window::default()) }
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.at
    }

    /// Bytes left.
    pub fn remaining(&self) -> u64 {
        self.len - self.at
    }

    /// The path that messages show.
    pub fn path(&self) -> &'a Path {
        self.path
    }

    /// The error `fault` of `field` at the byte that comes next.
    pub fn fault(&self, field: impl Display, fault: Fault) -> LoadError {
        self.fault_at(self.offset(), field, fault)
    }

    /// The error `fault` of `field` at byte `offset`.
    pub fn fault_at(&self, offset: u64, field: impl Display, fault: Fault) -> LoadError {
        let (path, field) = (self.path.to_owned(), field.to_string());
        LoadError::Malformed { path, field, offset: Some(offset), fault }
    }

    /// Steps over `len` bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if there are fewer.
    pub fn skip(&mut self, len: u64, field: impl Display) -> Result<()> {
        self.require(len, field)?;
        self.at += len;
        Ok(())
    }

    /// A copy of the next `len` bytes. Takes no memory if there are fewer.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if there are fewer; [`LoadError::Io`].
    pub fn bytes(&mut self, len: u64, field: impl Display) -> Result<Vec<u8>> {
        let at = self.at;
        self.skip(len, &field)?;
        let Ok(len) = usize::try_from(len) else { return Err(self.fault_at(at, field, Fault::Overflow)) };
        let mut bytes = vec![0; len];
        self.copy(at, &mut bytes)?;
        Ok(bytes)
    }

    /// The next number.
    ///
    /// # Errors
    /// [`Fault::Truncated`]; [`LoadError::Io`].
    pub fn scalar<T: Scalar>(&mut self, field: impl Display) -> Result<T> {
        let at = self.at;
        self.skip(len_u64(T::BYTES), field)?;
        let mut bytes = [0; 8];
        let (number, _) = bytes.split_at_mut(T::BYTES);
        self.copy(at, number)?;
        Ok(T::from_le(number).expect("there are as many bytes as the number takes"))
    }

    /// The next `count` numbers. Takes as much memory as they have bytes, and none if there are fewer.
    ///
    /// # Errors
    /// [`Fault::Truncated`], or [`Fault::Overflow`] when `count` numbers have no size; [`LoadError::Io`].
    pub fn scalars<T: Scalar>(&mut self, count: u64, field: impl Display) -> Result<Vec<T>> {
        let (Some(len), Ok(capacity)) = (count.checked_mul(len_u64(T::BYTES)), usize::try_from(count)) else {
            return Err(self.fault(field, Fault::Overflow));
        };
        self.require(len, &field)?;
        let mut numbers = Vec::with_capacity(capacity);
        let mut left = len;
        while left > 0 {
            // A window is a whole number of numbers.
            let part = left.min(WINDOW);
            let bytes = self.bytes(part, &field)?;
            numbers.extend(bytes.chunks_exact(T::BYTES).filter_map(T::from_le));
            left -= part;
        }
        Ok(numbers)
    }

    /// A count of records that follow: at most `cap`, and no more than fit into the bytes left if each takes
    /// at least `record_bytes`. Memory may be reserved for that many.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] beyond the cap, [`Fault::Truncated`] beyond the file; [`LoadError::Io`].
    pub fn count(&mut self, cap: u64, record_bytes: u64, field: impl Display) -> Result<u64> {
        let at = self.offset();
        let count = self.scalar::<u64>(&field)?;
        if count > cap {
            let fault = Fault::OutOfRange { found: count.to_string(), low: 0, high: cap };
            return Err(self.fault_at(at, field, fault));
        }
        let need = count.saturating_mul(record_bytes);
        if need > self.remaining() {
            return Err(self.fault_at(at, field, Fault::Truncated { need, have: self.remaining() }));
        }
        Ok(count)
    }

    /// A byte string with a 64-bit length before it, at most `cap` bytes.
    ///
    /// # Errors
    /// [`Fault::TooLong`] beyond the cap, [`Fault::Truncated`] beyond the file; [`LoadError::Io`].
    pub fn byte_string(&mut self, cap: u64, field: impl Display) -> Result<Vec<u8>> {
        let at = self.offset();
        let len = self.scalar::<u64>(&field)?;
        if len > self.remaining() {
            return Err(self.fault_at(at, field, Fault::Truncated { need: len, have: self.remaining() }));
        }
        if len > cap {
            return Err(self.fault_at(at, field, Fault::TooLong { found: len, limit: cap }));
        }
        self.bytes(len, field)
    }

    /// A name: a byte string of 1 to `cap` bytes of UTF-8 without control characters.
    ///
    /// # Errors
    /// As [`Self::byte_string`], and [`Fault::NotUtf8`], [`Fault::Empty`], [`Fault::ControlCharacters`].
    pub fn name(&mut self, cap: u64, field: impl Display) -> Result<String> {
        let at = self.offset();
        let Ok(name) = String::from_utf8(self.byte_string(cap, &field)?) else {
            return Err(self.fault_at(at, field, Fault::NotUtf8));
        };
        match name_fault(&name) {
            None => Ok(name),
            Some(fault) => Err(self.fault_at(at, format_args!("{field} {}", printable(&name)), fault)),
        }
    }

    fn require(&self, len: u64, field: impl Display) -> Result<()> {
        if len > self.remaining() {
            return Err(self.fault(field, Fault::Truncated { need: len, have: self.remaining() }));
        }
        Ok(())
    }

    /// Copies bytes; the caller has checked that the file has them. None is read twice.
    fn copy(&mut self, offset: u64, to: &mut [u8]) -> Result<()> {
        match &mut self.source {
            Source::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let found = bytes.get(start..).and_then(|rest| rest.get(..to.len()));
                to.copy_from_slice(found.expect("the caller has checked the length"));
                Ok(())
            }
            Source::File(file, window) => window
                .copy(*file, offset, to, self.len)
                .map_err(|source| LoadError::io(self.path, "read the file", source)),
        }
    }
}

/// Bytes of a file that were read last.
#[derive(Default)]
struct Window {
    bytes: Vec<u8>,
    /// Offset of the first.
    start: u64,
}

impl Window {
    /// Copies the bytes at `offset` of a file of `len` bytes. Offsets only grow.
    fn copy(&mut self, file: &dyn ReadAt, offset: u64, to: &mut [u8], len: u64) -> io::Result<()> {
        if len_u64(to.len()) < WINDOW && self.after(offset).len() < to.len() {
            self.advance(file, offset, len)?;
        }
        let known = self.after(offset);
        let (first, rest) = to.split_at_mut(known.len().min(to.len()));
        first.copy_from_slice(known.get(..first.len()).unwrap_or_default());
        let need = rest.len();
        read_fully(file, rest, offset + len_u64(first.len()), need)
    }

    /// The bytes in memory from `offset` on.
    fn after(&self, offset: u64) -> &[u8] {
        let passed = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        self.bytes.get(passed..).unwrap_or_default()
    }

    /// Moves the window to `offset`. Bytes in memory are kept, the rest is read.
    fn advance(&mut self, file: &dyn ReadAt, offset: u64, len: u64) -> io::Result<()> {
        let mut bytes = self.after(offset).to_vec();
        let known = bytes.len();
        bytes.resize(usize::try_from(WINDOW.min(len - offset)).map_err(io::Error::other)?, 0);
        let (_, next) = bytes.split_at_mut(known);
        let need = next.len();
        read_fully(file, next, offset + len_u64(known), need)?;
        *self = Self { bytes, start: offset };
        Ok(())
    }
}

/// The fault of a key or tensor name, if it has one.
pub(crate) fn name_fault(name: &str) -> Option<Fault> {
    if name.is_empty() {
        return Some(Fault::Empty);
    }
    name.chars().any(char::is_control).then_some(Fault::ControlCharacters)
}

/// A name from a file for messages: escaped, and truncated to a readable length.
pub(crate) fn printable(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_default).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push_str("...");
    }
    text
}

/// A `usize` as a `u64`.
pub(crate) fn len_u64(len: usize) -> u64 {
    u64::try_from(len).expect("no machine has more than 64 address bits")
}

/// `n` rounded up to a multiple of `alignment`, a power of two; `None` on overflow.
pub(crate) fn align_up(n: u64, alignment: u64) -> Option<u64> {
    n.checked_next_multiple_of(alignment)
}

/// The nearest f32; too large becomes infinite, which checks of the value refuse.
#[expect(clippy::as_conversions, reason = "there is no other conversion that rounds")]
pub(crate) fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &[u8]) -> Reader<'_> {
        Reader::new(Path::new("f"), bytes)
    }

    #[test]
    fn reads_numbers_and_names_the_byte_where_they_end() {
        let mut r = reader(&[1, 0, 2, 0, 0, 0, 9]);
        assert_eq!(r.scalar::<u16>("a").unwrap(), 1);
        assert_eq!(r.scalar::<i32>("b").unwrap(), 2);
        let error = r.scalar::<u64>("c").unwrap_err();
        assert_eq!(
            error.to_string(),
            "f: c at byte 6: needs 8 bytes, but 1 are left (is the file complete?)"
        );
        assert_eq!(r.offset(), 6, "a failed read consumes nothing");
    }

    #[test]
    fn counts_are_held_against_the_cap_and_the_bytes_left() {
        let mut bytes = 3_u64.to_le_bytes().to_vec();
        bytes.extend([0; 24]);
        assert_eq!(reader(&bytes).count(3, 8, "n").unwrap(), 3);
        assert!(matches!(
            reader(&bytes).count(2, 8, "n"),
            Err(LoadError::Malformed { fault: Fault::OutOfRange { high: 2, .. }, offset: Some(0), .. })
        ));
        assert!(matches!(
            reader(&bytes).count(3, 9, "n"),
            Err(LoadError::Malformed { fault: Fault::Truncated { need: 27, have: 24 }, .. })
        ));
    }

    #[test]
    fn printable_escapes_and_cuts() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(printable(&"x".repeat(200)).len(), 123);
    }
}
