//! Sequences in files: tokens and states, so that a text that was read once need not be read again by another
//! process. A file is used only by the model, instruction set and settings that wrote it. It must not know
//! what the text says.
//!
//! Little-endian. Everything before the checksum is covered by it.
//!
//! | bytes | field |
//! |---|---|
//! | 8 | magic, `MOELSEQS` |
//! | 4 | version, 1 |
//! | 8 | fingerprint of the model, the instruction set and the settings |
//! | 8, then 4 for each | tokens: number, ids |
//! | 8, then 4 for each | of models with an encoder: the text that it has read: number, ids |
//! | any number | states, one after the other, as [`crate::state::contract::BranchState::save`] writes them |
//! | 8 | checksum, XXH3 of 64 bits |

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use moelten_loader::error::{Fault, LoadError};
use moelten_loader::io::output::PartialFile;
use twox_hash::XxHash3_64;

use crate::error::Result;
use crate::model::Model;
use crate::sequence::session::Sequence;

const MAGIC: &[u8; 8] = b"MOELSEQS";
const VERSION: u32 = 1;
/// Bytes of each matrix that count for the fingerprint of a model.
const SAMPLE: usize = 256;

/// What became of loading a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// There is no such file.
    Absent,
    /// The number of tokens that the sequence has now.
    Tokens(usize),
    /// The file is sound, but of another model or made with other settings. The sequence is empty.
    OtherModel,
    /// The number of tokens of the file, more than the context holds. The sequence is empty.
    TooLong(usize),
}

impl Sequence {
    /// Writes the sequence to a file that only its owner may read. The file appears complete or not at all.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn save_to(&self, path: &Path) -> Result<()> {
        let file = Failing { file: PartialFile::create_private(path)?, problem: None };
        let mut out = Hashing { inner: file, hasher: XxHash3_64::new() };
        let mut write = || -> io::Result<()> {
            out.write_all(MAGIC)?;
            out.write_all(&VERSION.to_le_bytes())?;
            out.write_all(&self.fingerprint().to_le_bytes())?;
            out.write_all(&(self.tokens().len() as u64).to_le_bytes())?;
            for token in self.tokens() {
                out.write_all(&token.to_le_bytes())?;
            }
            self.save(&mut out)?;
            let checksum = out.hasher.finish_64();
            out.write_all(&checksum.to_le_bytes())
        };
        let written = write();
        let Failing { file, problem } = out.inner;
        if let Some(problem) = problem {
            return Err(problem.into());
        }
        written.map_err(|error| LoadError::io(path, "write the sequence", error))?;
        Ok(file.commit()?)
    }

    /// Becomes the sequence of a file, whatever it was before.
    ///
    /// # Errors
    /// [`LoadError::Io`]; [`LoadError::Malformed`] for a damaged file, or one of another kind. The sequence
    /// is empty then.
    pub fn load_from(&mut self, path: &Path) -> Result<Restored> {
        self.keep_prefix(&[]);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Restored::Absent),
            Err(error) => return Err(LoadError::io(path, "open the sequence", error).into()),
        };
        let mut from = Hashing { inner: BufReader::with_capacity(1 << 20, file), hasher: XxHash3_64::new() };
        let restored = self.read_file(path, &mut from);
        if !matches!(restored, Ok(Restored::Tokens(_))) {
            self.keep_prefix(&[]);
        }
        restored
    }

    fn read_file(&mut self, path: &Path, from: &mut Hashing<BufReader<File>>) -> Result<Restored> {
        let malformed = |field: &str, fault| LoadError::malformed(path, field, fault);
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                malformed("sequence", Fault::Truncated { need: 1, have: 0 })
            }
            _ => LoadError::io(path, "read the sequence", error),
        };
        let magic: [u8; 8] = from.array().map_err(failed)?;
        if &magic != MAGIC {
            return Err(malformed("magic", Fault::BadMagic { found: magic.to_vec() }).into());
        }
        let version = u32::from_le_bytes(from.array().map_err(failed)?);
        if version != VERSION {
            let fault = Fault::Version { found: version.into(), known: "1", hint: "; delete the file" };
            return Err(malformed("version", fault).into());
        }
        if u64::from_le_bytes(from.array().map_err(failed)?) != self.fingerprint() {
            return Ok(Restored::OtherModel);
        }
        let count = u64::from_le_bytes(from.array().map_err(failed)?);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > self.context() {
            return Ok(Restored::TooLong(count));
        }
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            tokens.push(u32::from_le_bytes(from.array().map_err(failed)?));
        }
        self.load(&tokens, from).map_err(failed)?;
        let expected = from.hasher.finish_64();
        let found = u64::from_le_bytes(from.array().map_err(failed)?);
        if found != expected {
            return Err(malformed("checksum", Fault::Checksum { found, expected }).into());
        }
        Ok(Restored::Tokens(count))
    }

    /// A number that two sequences share only if their states have the same meaning, to the bit.
    fn fingerprint(&self) -> u64 {
        let model: &Model = self.model();
        let mut hasher = XxHash3_64::new();
        let kernels = model.runtime().isa().name();
        hasher.write(format!("{kernels}\n{:?}\n{:?}", self.settings(), model.spec()).as_bytes());
        let tensors = model.tensors();
        for (role, matrix) in tensors.dense() {
            let bytes = tensors.view(&matrix).data();
            hasher.write(format!("{role:?} {} {}", matrix.format, bytes.len()).as_bytes());
            hasher.write(&bytes[..bytes.len().min(SAMPLE)]);
        }
        for path in tensors.paths() {
            // Experts are not read for this. A file that was written anew since is taken for another one.
            let file = std::fs::metadata(path).ok();
            let modified = file.as_ref().and_then(|file| file.modified().ok());
            hasher.write(format!("{:?} {modified:?}", file.map(|file| file.len())).as_bytes());
        }
        hasher.finish_64()
    }
}

/// Passes bytes on and hashes them.
struct Hashing<I> {
    inner: I,
    hasher: XxHash3_64,
}

/// The hasher's methods by names that say their width.
trait Hash64 {
    fn write(&mut self, bytes: &[u8]);
    fn finish_64(&self) -> u64;
}

impl Hash64 for XxHash3_64 {
    fn write(&mut self, bytes: &[u8]) {
        std::hash::Hasher::write(self, bytes);
    }

    fn finish_64(&self) -> u64 {
        std::hash::Hasher::finish(self)
    }
}

/// A file that keeps the first problem of writing it, which says more than an [`io::Error`] can.
struct Failing {
    file: PartialFile,
    problem: Option<LoadError>,
}

impl Write for Hashing<Failing> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Err(problem) = self.inner.file.write(bytes) {
            self.inner.problem.get_or_insert(problem);
            return Err(io::ErrorKind::Other.into());
        }
        Hash64::write(&mut self.hasher, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        Hash64::write(&mut self.hasher, &buffer[..count]);
        Ok(count)
    }
}

impl<R: Read> Hashing<R> {
    /// The next bytes.
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
