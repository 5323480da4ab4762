//! Small JSON files of a model folder: read with a size limit, parsed into types, errors with line and column.
//!
//! It never builds a tree of a whole file: nested garbage costs no more memory than its text.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;

use crate::error::{Fault, LoadError, Result};

/// Largest of the small configuration files, in bytes.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Reads a text file of at most `bytes_max` bytes; `None` if there is none.
pub(crate) fn read_text(path: &Path, bytes_max: u64) -> Result<Option<String>> {
    let io = |source| LoadError::io(path, "read the file", source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(LoadError::NotAModel {
            path: path.to_owned(),
            found: "not a regular file".to_owned(),
            hint: "a model folder holds plain files or links to them",
        });
    }
    let mut bytes = Vec::new();
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > bytes_max {
        let fault = Fault::TooLong { found: metadata.len().max(bytes.len() as u64), limit: bytes_max };
        return Err(LoadError::malformed(path, "file", fault));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| LoadError::malformed(path, "file", Fault::NotUtf8))
}

/// Parses `text`, the contents of `path`.
pub(crate) fn parse<'a, T: Deserialize<'a>>(path: &Path, field: &str, text: &'a str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        let fault = Fault::Json { message: error.to_string(), line: error.line(), column: error.column() };
        LoadError::malformed(path, field, fault)
    })
}
