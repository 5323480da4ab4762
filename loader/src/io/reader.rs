//! The one checked reader for binary input from strangers: every read knows how many bytes are left, every
//! failure names file, field and byte offset. Little-endian. Knows no format.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::fmt::Display;
use std::path::Path;

use crate::error::{Fault, LoadError, Result};

/// A cursor over the bytes of a file.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    path: &'a Path,
    len: u64,
    rest: &'a [u8],
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
    /// A reader at the start of `bytes`; `path` is for messages.
    pub fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self { path, len: len_u64(bytes.len()), rest: bytes }
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.len - self.remaining()
    }

    /// Bytes left.
    pub fn remaining(&self) -> u64 {
        len_u64(self.rest.len())
    }

    /// The file, for messages.
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

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Fault::Truncated`] if there are fewer.
    pub fn take(&mut self, len: u64, field: impl Display) -> Result<&'a [u8]> {
        match usize::try_from(len).ok().and_then(|n| self.rest.split_at_checked(n)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.fault(field, Fault::Truncated { need: len, have: self.remaining() })),
        }
    }

    /// The next number.
    ///
    /// # Errors
    /// [`Fault::Truncated`].
    pub fn scalar<T: Scalar>(&mut self, field: impl Display) -> Result<T> {
        let bytes = self.take(len_u64(T::BYTES), field)?;
        Ok(T::from_le(bytes).expect("take gives as many bytes as asked for"))
    }

    /// The next `count` numbers. Allocates no more than the bytes it consumes.
    ///
    /// # Errors
    /// [`Fault::Truncated`], or [`Fault::Overflow`] when `count` numbers have no size.
    pub fn scalars<T: Scalar>(&mut self, count: u64, field: impl Display) -> Result<Vec<T>> {
        let Some(len) = count.checked_mul(len_u64(T::BYTES)) else {
            return Err(self.fault(field, Fault::Overflow));
        };
        let bytes = self.take(len, field)?;
        Ok(bytes.chunks_exact(T::BYTES).filter_map(T::from_le).collect())
    }

    /// A count of records that follow: at most `cap`, and no more than fit into the bytes left when each takes at
    /// least `record_bytes`. What passes may be used to reserve memory.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] beyond the cap, [`Fault::Truncated`] beyond the file.
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
    /// [`Fault::TooLong`] beyond the cap, [`Fault::Truncated`] beyond the file.
    pub fn byte_string(&mut self, cap: u64, field: impl Display) -> Result<&'a [u8]> {
        let at = self.offset();
        let len = self.scalar::<u64>(&field)?;
        if len > self.remaining() {
            return Err(self.fault_at(at, field, Fault::Truncated { need: len, have: self.remaining() }));
        }
        if len > cap {
            return Err(self.fault_at(at, field, Fault::TooLong { found: len, limit: cap }));
        }
        self.take(len, field)
    }

    /// A name: a byte string of 1 to `cap` bytes of UTF-8 without control characters.
    ///
    /// # Errors
    /// As [`Self::byte_string`], and [`Fault::NotUtf8`], [`Fault::Empty`], [`Fault::ControlCharacters`].
    pub fn name(&mut self, cap: u64, field: impl Display) -> Result<&'a str> {
        let at = self.offset();
        let bytes = self.byte_string(cap, &field)?;
        let Ok(name) = std::str::from_utf8(bytes) else {
            return Err(self.fault_at(at, field, Fault::NotUtf8));
        };
        match name_fault(name) {
            None => Ok(name),
            Some(fault) => Err(self.fault_at(at, format_args!("{field} {}", printable(name)), fault)),
        }
    }
}

/// What is wrong with a key or tensor name as such, if anything.
pub(crate) fn name_fault(name: &str) -> Option<Fault> {
    if name.is_empty() {
        return Some(Fault::Empty);
    }
    name.chars().any(char::is_control).then_some(Fault::ControlCharacters)
}

/// A name from a file as error texts carry it: escaped, and cut to a readable length.
pub(crate) fn printable(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut text: String = name.chars().take(LONGEST).flat_map(char::escape_default).collect();
    if name.chars().nth(LONGEST).is_some() {
        text.push_str("...");
    }
    text
}

/// A length in memory as a length in a file.
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
        assert_eq!(error.to_string(), "f: c at byte 6: needs 8 bytes, 1 are left (is the file complete?)");
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
