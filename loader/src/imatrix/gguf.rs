//! The GGUF kind of importance files: for each matrix a tensor of sums and one of counts.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use moelten_quant::Format;

use super::entry::{
    CHUNK_SIZE_KEY, CHUNKS_KEY, COUNTS, DATASETS_KEY, MatrixSums, Provenance, SUMS, TYPE, TYPE_KEY, floats,
};
use crate::container::catalog::{Storage, TensorInfo};
use crate::container::gguf::{Header, Metadata};
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::io::reader::printable;

/// Entries and provenance of a file of the GGUF kind.
pub(super) fn read(file: &FileBytes, notices: &mut Vec<String>) -> Result<(Vec<MatrixSums>, Provenance)> {
    let header = Header::read(file)?;
    let m: &Metadata = &header.metadata;
    let kind = m.require_str(TYPE_KEY)?;
    if kind != TYPE {
        let fault =
            Fault::WrongType { found: format!("{kind:?}"), expected: "\"imatrix\": an importance file" };
        return Err(m.fault(TYPE_KEY, fault));
    }
    let mut provenance = Provenance {
        datasets: m.strings(DATASETS_KEY)?.unwrap_or_default().to_vec(),
        chunks: m.u64(CHUNKS_KEY)?.unwrap_or(0),
        chunk_size: m.u64(CHUNK_SIZE_KEY)?.unwrap_or(0),
        tokens: 0,
    };
    let by_name: BTreeMap<&str, &TensorInfo> =
        header.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut entries = Vec::new();
    for (name, sums) in &by_name {
        if let Some(matrix) = name.strip_suffix(COUNTS)
            && !by_name.contains_key(format!("{matrix}{SUMS}").as_str())
        {
            return Err(missing(file.path(), format_args!("{matrix}{SUMS}")));
        }
        let Some(matrix) = name.strip_suffix(SUMS) else { continue };
        let counts_name = format!("{matrix}{COUNTS}");
        let counts = by_name.get(counts_name.as_str()).ok_or_else(|| missing(file.path(), &counts_name))?;
        let len = values(file, sums)?.count();
        let counts: Vec<f32> = values(file, counts)?.collect();
        if let Some(count) =
            counts.iter().find(|count| !(count.is_finite() && (**count == 0.0 || **count >= 1.0)))
        {
            let fault = Fault::BadNumber { found: count.to_string(), must: "0, or a number from 1 up" };
            return Err(LoadError::malformed(
                file.path(),
                format!("tensor {}", printable(&counts_name)),
                fault,
            ));
        }
        let cols = sums.shape.last().and_then(|&cols| usize::try_from(cols).ok());
        let rows = cols.and_then(|cols| len.checked_div(cols)).unwrap_or(0);
        if counts.len() != 1 && counts.len() != rows || rows == 0 {
            let found = format!("{} counts", counts.len());
            let fault = Fault::Contradiction { found, other: format!("{rows} rows of sums") };
            return Err(LoadError::malformed(
                file.path(),
                format!("tensor {}", printable(&counts_name)),
                fault,
            ));
        }
        provenance.tokens = counts.iter().fold(provenance.tokens, |most, &count| most.max(whole(count)));
        let (name, offset) = ((*matrix).to_owned(), sums.offset);
        entries.push(MatrixSums { name, expert: None, offset, len, cols, counts, equal_is_unseen: false });
    }
    notices.extend(header.notices);
    Ok((entries, provenance))
}

fn missing(path: &Path, tensor: impl Display) -> LoadError {
    let field = format!("tensor {}", printable(&tensor.to_string()));
    LoadError::malformed(path, field, Fault::Missing { hint: "; the file is not complete" })
}

/// The values of a tensor, which must be F32.
fn values<'a>(
    file: &'a FileBytes,
    tensor: &TensorInfo,
) -> Result<impl Iterator<Item = f32> + Clone + use<'a>> {
    if tensor.storage != Storage::Known(Format::F32) {
        let fault = Fault::WrongType { found: tensor.storage.name().to_owned(), expected: "F32" };
        return Err(LoadError::malformed(file.path(), format!("tensor {}", printable(&tensor.name)), fault));
    }
    Ok(floats(file.range(tensor.offset, tensor.bytes).expect("the header's ranges are checked")))
}

/// A count.
#[expect(clippy::as_conversions, reason = "counts are finite and not negative; beyond 2^64 this saturates")]
fn whole(count: f32) -> u64 {
    count as u64
}
