//! The error type of the crate.
//!
//! Every error names the file, the field and, for binary files, the byte offset. Texts from the file are kept
//! as they are; the code that prints them has to filter control characters.

use std::io;
use std::path::{Path, PathBuf};

/// The crate's result type.
pub type Result<T, E = LoadError> = std::result::Result<T, E>;

/// Why a model could not be loaded or rendered to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The operating system refused: missing file, permission, read error.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The failed action as a verb phrase: "open the model", "map the file".
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The path is not a model: a device, a pipe, a web page, an LFS pointer.
    #[error("{path}: not a model file: {found}; {hint}", path = path.display())]
    NotAModel {
        /// The path as the user gave it.
        path: PathBuf,
        /// The kind of file.
        found: String,
        /// A remedy.
        hint: &'static str,
    },
    /// The file contradicts its format or itself.
    #[error("{path}: {field}{at}: {fault}", path = path.display(), at = At(*offset))]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The field, key, tensor or JSON path at fault.
        field: String,
        /// Byte offset in the file, where there is one.
        offset: Option<u64>,
        /// What is wrong with it.
        fault: Fault,
    },
    /// The file is valid, but needs a feature that this version does not have.
    #[error("{path}: {feature} is not supported; {hint}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The missing feature, e.g. `architecture "rwkv7"`.
        feature: String,
        /// Supported alternatives, or a remedy.
        hint: String,
    },
    /// A file that was made from another model.
    #[error("{path}: {matrix} has {found} in this file, but {expected} in the model; the file was made from another model", path = path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// Name of the first matrix that differs.
        matrix: String,
        /// Its size in the file.
        found: String,
        /// Its size in the model.
        expected: String,
    },
    /// The chat template refused the conversation or exceeded its limits.
    #[error("chat template of {source_name}, line {line}: {problem}")]
    Template {
        /// Where the template came from: a file name or a metadata key.
        source_name: String,
        /// Line in the template, 0 when unknown.
        line: usize,
        /// Message of the template engine or of the template.
        problem: String,
    },
}

/// What is wrong with a field of a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Fewer bytes than the format needs here.
    #[error("needs {need} bytes, but {have} are left (is the file complete?)")]
    Truncated {
        /// Bytes needed.
        need: u64,
        /// Bytes left in the file.
        have: u64,
    },
    /// The file does not start with the format's magic bytes.
    #[error("starts with {found:02x?}, not with the magic bytes of its format")]
    BadMagic {
        /// The first bytes.
        found: Vec<u8>,
    },
    /// A version this reader does not know.
    #[error("version {found} is not readable ({known}){hint}")]
    Version {
        /// The version in the file.
        found: u64,
        /// The readable ones.
        known: &'static str,
        /// An explanation, e.g. of a big-endian file; may be empty.
        hint: &'static str,
    },
    /// A count, length or number outside what is possible or allowed.
    #[error("is {found}, but must be {low} to {high}")]
    OutOfRange {
        /// The number as text (it may be negative, huge or not finite).
        found: String,
        /// Lowest allowed.
        low: u64,
        /// Highest allowed.
        high: u64,
    },
    /// A number that is not finite or not positive where it must be.
    #[error("is {found}, but must be {must}")]
    BadNumber {
        /// The number as text.
        found: String,
        /// The condition that it breaks.
        must: &'static str,
    },
    /// A type tag that does not exist.
    #[error("type {found} does not exist")]
    UnknownType {
        /// The tag.
        found: i64,
    },
    /// A value of another type than the key needs.
    #[error("is {found}, but must be {expected}")]
    WrongType {
        /// The type found.
        found: String,
        /// The type needed.
        expected: &'static str,
    },
    /// An array within an array, or JSON nested too deep.
    #[error("is nested deeper than {limit}")]
    TooDeep {
        /// Deepest nesting allowed.
        limit: usize,
    },
    /// Text that is not UTF-8.
    #[error("is not valid UTF-8")]
    NotUtf8,
    /// An empty name.
    #[error("is empty")]
    Empty,
    /// A name with control characters.
    #[error("contains control characters")]
    ControlCharacters,
    /// The same name twice.
    #[error("occurs twice")]
    Duplicate,
    /// A name longer than the format allows.
    #[error("is {found} bytes long, but at most {limit} are allowed")]
    TooLong {
        /// Length found.
        found: u64,
        /// Longest allowed.
        limit: u64,
    },
    /// A product or sum that does not fit 64 bits.
    #[error("its size overflows 64 bits")]
    Overflow,
    /// A row that is not a whole number of blocks.
    #[error("rows of {columns} do not divide into {format} blocks of {block}")]
    PartialBlock {
        /// Columns of the tensor.
        columns: u64,
        /// Block format.
        format: &'static str,
        /// Weights per block.
        block: usize,
    },
    /// A tensor's offset breaks the file's alignment.
    #[error("offset {offset} is not a multiple of the alignment {alignment}")]
    Unaligned {
        /// Offset of the tensor in bytes.
        offset: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// Data beyond the end of the file.
    #[error("ends at byte {end}, but the file has {file_len} (is the download complete?)")]
    BeyondEnd {
        /// Where the data would end.
        end: u64,
        /// The file's length.
        file_len: u64,
    },
    /// Two tensors share bytes.
    #[error("overlaps {other}")]
    Overlap {
        /// The other tensor.
        other: String,
    },
    /// Bytes that belong to no tensor.
    #[error("{bytes} bytes before it belong to no tensor")]
    Hole {
        /// How many.
        bytes: u64,
    },
    /// A tensor with another shape than the configuration says.
    #[error("has shape {found:?}, but the configuration needs {expected:?}")]
    WrongShape {
        /// Shape found, outermost first.
        found: Vec<u64>,
        /// Shape expected.
        expected: Vec<u64>,
    },
    /// A required file, key or tensor is missing.
    #[error("is missing{hint}")]
    Missing {
        /// A remedy, beginning with punctuation; may be empty.
        hint: &'static str,
    },
    /// The parts of a split file do not belong together.
    #[error("is {found}, but {expected} in the other parts")]
    PartMismatch {
        /// Value in this part.
        found: String,
        /// Value in the first part.
        expected: String,
    },
    /// A part of a split model whose name does not say which part it is, so that the others are not found.
    #[error(
        "the file is part {part} of {count} of a split model, but its name does not end in {suffix:?}; give all parts \
         their names back, NAME{suffix} and so on, in one folder, and name any of them"
    )]
    SplitName {
        /// Its number, from 1.
        part: u64,
        /// Number of parts.
        count: u64,
        /// How its name must end.
        suffix: String,
    },
    /// JSON that does not parse.
    #[error("is not valid JSON: {message} (line {line}, column {column})")]
    Json {
        /// Message of the parser.
        message: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A shard or file name that leaves its folder.
    #[error("names {name:?}, which is not a plain file name in the model's folder")]
    BadFileName {
        /// As the index states it.
        name: String,
    },
    /// Two settings that exclude each other.
    #[error("is {found}, which contradicts {other}")]
    Contradiction {
        /// This setting.
        found: String,
        /// The other one.
        other: String,
    },
    /// A token, merge or piece that the vocabulary cannot contain.
    #[error("{problem}")]
    Vocabulary {
        /// Description of the fault.
        problem: String,
    },
    /// A chat template that does not compile.
    #[error("template error in line {line}: {message}")]
    TemplateSyntax {
        /// Line in the template, from 1.
        line: usize,
        /// Message of the template engine.
        message: String,
    },
    /// Bytes that differ from those that were written.
    #[error("has checksum {found:016x}, but {expected:016x} was written; the file or the drive is damaged")]
    Checksum {
        /// The checksum of the bytes.
        found: u64,
        /// The checksum when they were written.
        expected: u64,
    },
    /// Data of an image that cannot be decoded.
    #[error("cannot be decoded: {message}")]
    Undecodable {
        /// Message of the decoder.
        message: String,
    },
    /// NaN or infinity among the weights.
    #[error("contains {found} at index {index}")]
    NotFinite {
        /// "NaN" or "infinity".
        found: &'static str,
        /// Index of the first such weight.
        index: u64,
    },
}

/// Kind of an error; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A wrong path or option.
    Usage,
    /// The file is damaged or contradicts itself.
    Corrupt,
    /// The file is valid but not supported.
    Unsupported,
    /// The operating system failed.
    Io,
}

impl LoadError {
    /// The kind, which decides the exit code.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::NotAModel { .. } | Self::Malformed { .. } | Self::Template { .. } => ErrorKind::Corrupt,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::OtherModel { .. } => ErrorKind::Usage,
        }
    }

    /// A [`LoadError::Malformed`] without an offset.
    pub fn malformed(path: &Path, field: impl Into<String>, fault: Fault) -> Self {
        Self::Malformed { path: path.to_owned(), field: field.into(), offset: None, fault }
    }

    /// A [`LoadError::Io`] for a thread that ended with a panic.
    pub(crate) fn panicked(message: String) -> Self {
        Self::io(Path::new("a thread"), "finish its work", io::Error::other(message))
    }

    /// A [`LoadError::Io`].
    pub fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

/// Prints ` at byte N` or nothing.
struct At(Option<u64>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(offset) => write!(f, " at byte {offset}"),
            None => Ok(()),
        }
    }
}
