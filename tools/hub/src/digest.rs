//! Checksums of files on the hub: SHA-256 of large files, git's SHA-1 of a blob for small ones. It must not
//! know where bytes come from.

use std::fmt::Write as _;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// A checksum that grows with the bytes of a file.
pub enum FileDigest {
    /// Of files in large file storage.
    Large(Sha256),
    /// Git's: over `blob LENGTH\0` and the bytes.
    Blob(Sha1),
}

impl FileDigest {
    /// For a checksum of this many digits and a file of `size` bytes. `None` if it is neither of the two.
    pub fn for_checksum(checksum: &str, size: u64) -> Option<Self> {
        let hex = checksum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match checksum.len() {
            64 if hex => Some(Self::Large(Sha256::new())),
            40 if hex => Some(Self::Blob(Sha1::new_with_prefix(format!("blob {size}\0")))),
            _ => None,
        }
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Large(digest) => digest.update(bytes),
            Self::Blob(digest) => digest.update(bytes),
        }
    }

    /// In hexadecimal digits.
    pub fn finish(self) -> String {
        let hex = |bytes: &[u8]| {
            bytes.iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        match self {
            Self::Large(digest) => hex(&digest.finalize()),
            Self::Blob(digest) => hex(&digest.finalize()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_hub() {
        let digest = |digits: usize, bytes: &[u8]| {
            let mut digest =
                FileDigest::for_checksum(&"a".repeat(digits), bytes.len() as u64).expect("known");
            digest.update(bytes);
            digest.finish()
        };
        // As `printf 'hello\n' | git hash-object --stdin` and `| sha256sum` print them.
        assert_eq!(digest(40, b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(
            digest(64, b"hello\n"),
            "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
        );
        assert!(FileDigest::for_checksum(&"g".repeat(64), 1).is_none());
        assert!(FileDigest::for_checksum("../../x", 1).is_none());
    }
}
