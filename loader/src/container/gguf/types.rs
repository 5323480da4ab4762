//! The table of tensor types: ggml's numbers, and the block sizes of the types that no kernel reads.
//! Source: the GGUF specification and the constants of the `gguf` Python package.

use moelten_quant::Format;

use crate::container::catalog::Storage;
use crate::error::Fault;
use crate::io::reader::len_u64;

/// A tensor type: its number in the file and the size of its blocks.
#[derive(Debug, Clone, Copy)]
pub struct GgmlType {
    /// The number in the file.
    pub id: u32,
    /// How the rest of the crate sees it.
    pub storage: Storage,
    block_len: u64,
    block_bytes: u64,
}

/// The types that [`Format`] covers.
const KNOWN: [(u32, Format); 28] = [
    (0, Format::F32),
    (1, Format::F16),
    (2, Format::Q4_0),
    (3, Format::Q4_1),
    (6, Format::Q5_0),
    (7, Format::Q5_1),
    (8, Format::Q8_0),
    (10, Format::Q2K),
    (11, Format::Q3K),
    (12, Format::Q4K),
    (13, Format::Q5K),
    (14, Format::Q6K),
    (20, Format::Iq4Nl),
    (23, Format::Iq4Xs),
    (30, Format::BF16),
    (39, Format::Mxfp4),
    (15, Format::Q8K),
    (16, Format::Iq2Xxs),
    (17, Format::Iq2Xs),
    (18, Format::Iq3Xxs),
    (19, Format::Iq1S),
    (21, Format::Iq3S),
    (22, Format::Iq2S),
    (29, Format::Iq1M),
    (34, Format::Tq1_0),
    (35, Format::Tq2_0),
    (40, Format::Nvfp4),
    (41, Format::Q1_0),
];

/// The others: `(number, name, values per block, bytes per block)`. 4, 5, 31 to 33 and 36 to 38 were removed
/// from ggml and are unknown types.
const OTHER: [(u32, &str, u64, u64); 6] = [
    (9, "Q8_1", 32, 40),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
];

impl GgmlType {
    /// Every type, in no order.
    fn all() -> impl Iterator<Item = Self> {
        let known = KNOWN.into_iter().map(|(id, format)| Self {
            id,
            storage: Storage::Known(format),
            block_len: len_u64(format.block_len()),
            block_bytes: len_u64(format.block_bytes()),
        });
        let other = OTHER.into_iter().map(|(id, name, block_len, block_bytes)| Self {
            id,
            storage: Storage::Other(name),
            block_len,
            block_bytes,
        });
        known.chain(other)
    }

    /// The type of that number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::all().find(|t| t.id == id)
    }

    /// The type that stores `storage`; `None` for types that only safetensors has.
    pub fn from_storage(storage: Storage) -> Option<Self> {
        Self::all().find(|t| t.storage == storage)
    }

    /// Bytes of a tensor of that shape, outermost dimension first.
    ///
    /// # Errors
    /// [`Fault::Overflow`] when the number of values or of bytes does not fit 64 bits,
    /// [`Fault::PartialBlock`] when a row is not a whole number of blocks.
    pub fn tensor_bytes(&self, shape: &[u64]) -> Result<u64, Fault> {
        let product =
            |dims: &[u64]| dims.iter().try_fold(1_u64, |n, &d| n.checked_mul(d)).ok_or(Fault::Overflow);
        product(shape)?;
        let (&columns, outer) = shape.split_last().ok_or(Fault::Empty)?;
        if columns % self.block_len != 0 {
            let block = usize::try_from(self.block_len).expect("blocks are small");
            return Err(Fault::PartialBlock { columns, format: self.storage.name(), block });
        }
        let row_bytes = (columns / self.block_len).checked_mul(self.block_bytes).ok_or(Fault::Overflow)?;
        product(outer)?.checked_mul(row_bytes).ok_or(Fault::Overflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_has_one_number() {
        for format in Format::ALL {
            let found = GgmlType::from_storage(Storage::Known(format));
            assert_eq!(found.is_some(), format.is_in_files(), "{format}");
            let Some(t) = found else { continue };
            assert_eq!(GgmlType::from_id(t.id).unwrap().storage, Storage::Known(format));
        }
        let mut ids: Vec<u32> = GgmlType::all().map(|t| t.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), KNOWN.len() + OTHER.len());
    }

    #[test]
    fn sizes() {
        let q4k = GgmlType::from_storage(Storage::Known(Format::Q4K)).unwrap();
        assert_eq!(q4k.tensor_bytes(&[3, 2, 512]), Ok(6 * 288));
        assert!(matches!(
            q4k.tensor_bytes(&[2, 128]),
            Err(Fault::PartialBlock { columns: 128, block: 256, .. })
        ));
        assert_eq!(q4k.tensor_bytes(&[0, 256]), Ok(0));
        assert_eq!(
            q4k.tensor_bytes(&[1 << 32, 1 << 32]),
            Err(Fault::Overflow),
            "the bytes fit, the values do not"
        );
        let f64 = GgmlType::from_id(28).unwrap();
        assert_eq!(f64.tensor_bytes(&[1 << 61]), Err(Fault::Overflow), "the values fit, the bytes do not");
        assert_eq!(f64.tensor_bytes(&[1 << 32, 1 << 32]), Err(Fault::Overflow));
    }
}
