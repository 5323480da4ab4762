//! Checksums of an output's tensors and of their sources, in its metadata. It must not know when they are
//! computed.

use super::metadata::{Entries, set};
use super::output::Output;
use crate::container::gguf::{Array, Metadata, Value};
use crate::error::{Fault, Result};

/// Names of the tensors that have checksums.
pub(super) const NAMES_KEY: &str = "moelten.checksums.tensors";
/// XXH3 of the bytes of each; 0 until all are written.
pub(super) const OUTPUTS_KEY: &str = "moelten.checksums.values";
/// XXH3 of the source of each: over the checksums of the pieces that were read.
pub(super) const SOURCES_KEY: &str = "moelten.checksums.sources";

/// Adds the names of all tensors to the metadata, with checksums of 0.
pub(super) fn make_room(metadata: &mut Entries, outputs: &[Output]) {
    let names: Vec<String> = outputs.iter().map(|output| output.plan.name.clone()).collect();
    let none = || Some(Value::Array(Array::U64(vec![0; names.len()])));
    for (key, value) in [
        (OUTPUTS_KEY, none()),
        (SOURCES_KEY, none()),
        (NAMES_KEY, Some(Value::Array(Array::Str(names.clone())))),
    ] {
        set(metadata, key, value);
    }
}

/// Whether the metadata has such checksums.
pub(super) fn are_in(metadata: &Entries) -> bool {
    metadata.iter().any(|(key, _)| key == NAMES_KEY)
}

/// Checksums of a tensor, as the file states them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// The tensor's name.
    pub name: String,
    /// XXH3 of its bytes.
    pub values: u64,
    /// Checksum of the source bytes that it was made from.
    pub source: u64,
}

/// The checksums in a file's metadata; empty for files of other programs.
///
/// # Errors
/// [`crate::error::LoadError::Malformed`] for keys of other types or lengths.
pub fn recorded(metadata: &Metadata) -> Result<Vec<Recorded>> {
    let Some(names) = metadata.strings(NAMES_KEY)? else { return Ok(Vec::new()) };
    let sums = |key: &str| {
        let found = metadata.u64s(key)?.unwrap_or_default();
        if found.len() == names.len() {
            return Ok(found);
        }
        let (found, other) = (format!("{} elements", found.len()), format!("the {} names", names.len()));
        Err(metadata.fault(key, Fault::Contradiction { found, other }))
    };
    let (values, sources) = (sums(OUTPUTS_KEY)?, sums(SOURCES_KEY)?);
    let all = names.iter().cloned().zip(values).zip(sources);
    Ok(all.map(|((name, values), source)| Recorded { name, values, source }).collect())
}
