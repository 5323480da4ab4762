//! The packed layout: each routed expert is one record, gate | up | down as in standard files, so that one
//! read loads all of it. The shape of a record and the metadata keys of a file's records; specified in
//! `docs/packed.md`. It must not know how records are read, written or cached.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use moelten_quant::Format;

use crate::container::gguf::{Array, Metadata, Value};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::{align_up, len_u64, printable};
use crate::spec::Part;

/// Version of the layout. In version 1, sixteen rows of a matrix were interleaved block by block.
pub const VERSION: u32 = 2;
/// Offsets and lengths of records are multiples of this, as unbuffered reads require on every system.
pub const RECORD_ALIGN: u32 = 65_536;
/// The type of a record tensor.
pub(crate) const RECORD_TYPE: &str = "I8";
/// Offsets of matrices in their record are multiples of this, a cache line.
const MATRIX_ALIGN: u64 = 64;
/// Layers with records; the lowering refuses more.
const MAX_LAYERS: usize = 4096;

/// Prefix of all keys of the layout.
pub(crate) const KEYS: &str = "moelten.packed.";
const VERSION_KEY: &str = "moelten.packed.version";
/// Also the field of a layer that has no experts.
pub(crate) const LAYERS_KEY: &str = "moelten.packed.layers";
/// Also the field of a count that does not go with the model.
pub(crate) const EXPERTS_KEY: &str = "moelten.packed.experts";
const TYPES_KEY: &str = "moelten.packed.types";
/// Also the field of a shape that does not go with the model.
pub(crate) const SHAPES_KEY: &str = "moelten.packed.shapes";
/// Written when all records are complete.
pub(crate) const CHECKSUMS_KEY: &str = "moelten.packed.checksums";

/// The name of a record's tensor.
pub fn record_name(layer: usize, expert: usize) -> String {
    format!("blk.{layer}.ffn_expert.{expert}")
}

/// Layer and expert of a record's tensor, `None` for names of other tensors.
pub fn record_of_name(name: &str) -> Option<(usize, usize)> {
    let (layer, expert) = name.strip_prefix("blk.")?.split_once(".ffn_expert.")?;
    Some((layer.parse().ok()?, expert.parse().ok()?))
}

/// The checksum of a record, all its bytes: XXH3 with 64 bits and seed 0. It detects damage, not tampering.
/// Source: the xxHash specification, version 0.2.0.
pub fn checksum(record: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(record)
}

/// Whether `record`, all bytes of a record, has the checksum that was computed when it was written.
pub fn verify_record(record: &[u8], expected: u64) -> bool {
    checksum(record) == expected
}

/// A matrix in the records of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedMatrix {
    /// Block format.
    pub format: Format,
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub cols: usize,
    /// Byte offset in the record.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// The layout of a layer's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordShape {
    /// Gate, up, down.
    matrices: [PackedMatrix; 3],
    /// Length of a record in bytes, a multiple of [`RECORD_ALIGN`].
    pub bytes: u64,
}

impl RecordShape {
    /// Lays out gate, up and down, given as format, rows and columns.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] for a matrix without values, [`Fault::PartialBlock`], [`Fault::Overflow`].
    pub fn new(matrices: [(Format, u64, u64); 3]) -> Result<Self, Fault> {
        let mut end = 0;
        let mut place = |(format, rows, cols): (Format, u64, u64)| {
            if rows == 0 || cols == 0 {
                return Err(Fault::OutOfRange { found: "0".to_owned(), low: 1, high: u64::MAX });
            }
            let narrow = |n: u64| usize::try_from(n).map_err(|_| Fault::Overflow);
            let (rows, columns) = (narrow(rows)?, narrow(cols)?);
            rows.checked_mul(columns).ok_or(Fault::Overflow)?;
            let block = format.block_len();
            let partial = Fault::PartialBlock { columns: cols, format: format.name(), block };
            let row_bytes = format.row_bytes(columns).ok_or(partial)?;
            let bytes = len_u64(rows.checked_mul(row_bytes).ok_or(Fault::Overflow)?);
            let offset = align_up(end, MATRIX_ALIGN).ok_or(Fault::Overflow)?;
            end = offset.checked_add(bytes).ok_or(Fault::Overflow)?;
            Ok(PackedMatrix { format, rows, cols: columns, offset, bytes })
        };
        let [gate, up, down] = matrices;
        let matrices = [place(gate)?, place(up)?, place(down)?];
        let bytes = align_up(end, RECORD_ALIGN.into()).ok_or(Fault::Overflow)?;
        Ok(Self { matrices, bytes })
    }

    /// One of the three matrices.
    pub fn part(&self, part: Part) -> &PackedMatrix {
        let [gate, up, down] = &self.matrices;
        match part {
            Part::Gate => gate,
            Part::Up => up,
            Part::Down => down,
        }
    }
}

/// The records of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayer {
    /// Number of the layer.
    pub layer: usize,
    /// The layout of each record.
    pub shape: RecordShape,
    /// [`checksum`] of each record, by expert.
    pub checksums: Vec<u64>,
}

/// The records of a packed file, from its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedIndex {
    layers: Vec<PackedLayer>,
}

impl PackedIndex {
    /// The index of `layers`, ascending.
    pub(crate) fn new(layers: Vec<PackedLayer>) -> Self {
        Self { layers }
    }

    /// Reads the index of a file; `None` when the file is not packed.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for another version of the layout or an unknown type of block,
    /// [`LoadError::Malformed`] when keys are missing, contradict each other or describe impossible records.
    pub fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(version) = metadata.u64(VERSION_KEY)? else { return Ok(None) };
        if version != u64::from(VERSION) {
            let feature = format!("version {version} of the packed layout");
            let hint = match version < VERSION.into() {
                true => "make it again from its source with `moelten quantize --layout packed`".to_owned(),
                false => format!("version {VERSION} is"),
            };
            return Err(unsupported(metadata, feature, hint));
        }
        let numbers = ascending_layers(metadata)?;
        let experts = array(metadata, EXPERTS_KEY, numbers.len(), Metadata::u64s)?;
        let types = array(metadata, TYPES_KEY, 3 * numbers.len(), Metadata::strings)?;
        let shapes = array(metadata, SHAPES_KEY, 6 * numbers.len(), Metadata::u64s)?;
        let total = experts.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
        let total = total.and_then(|sum| usize::try_from(sum).ok());
        let total = total.ok_or_else(|| metadata.fault(EXPERTS_KEY, Fault::Overflow))?;
        let checksums = array(metadata, CHECKSUMS_KEY, total, Metadata::u64s)?;

        let mut checksums = checksums.into_iter();
        let (types, shapes) = (types.as_chunks::<3>().0, shapes.as_chunks::<6>().0);
        let mut layers = Vec::with_capacity(numbers.len());
        for (((layer, experts), types), shape) in numbers.into_iter().zip(experts).zip(types).zip(shapes) {
            let shape = record_shape(metadata, layer, types, *shape)?;
            if experts == 0 {
                let fault = Fault::OutOfRange { found: "0".to_owned(), low: 1, high: len_u64(total) };
                return Err(metadata.fault(EXPERTS_KEY, fault));
            }
            let experts = usize::try_from(experts).expect("no more than all experts together");
            layers.push(PackedLayer { layer, shape, checksums: checksums.by_ref().take(experts).collect() });
        }
        Ok(Some(Self { layers }))
    }

    /// The index as metadata.
    pub(crate) fn metadata(&self) -> Vec<(String, Value)> {
        let parts = || self.layers.iter().flat_map(|layer| layer.shape.matrices);
        let small =
            |n: usize| u32::try_from(n).expect("the lowering bounds layers and experts far below 2^32");
        let layers = self.layers.iter().map(|layer| small(layer.layer)).collect();
        let experts = self.layers.iter().map(|layer| small(layer.checksums.len())).collect();
        let types = parts().map(|part| part.format.name().to_owned()).collect();
        let shapes = parts().flat_map(|part| [part.rows, part.cols].map(len_u64)).collect();
        let checksums = self.layers.iter().flat_map(|layer| layer.checksums.iter().copied()).collect();
        [
            (VERSION_KEY, Value::U32(VERSION)),
            (LAYERS_KEY, Value::Array(Array::U32(layers))),
            (EXPERTS_KEY, Value::Array(Array::U32(experts))),
            (TYPES_KEY, Value::Array(Array::Str(types))),
            (SHAPES_KEY, Value::Array(Array::U64(shapes))),
            (CHECKSUMS_KEY, Value::Array(Array::U64(checksums))),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// The layers with records, ascending.
    pub fn layers(&self) -> &[PackedLayer] {
        &self.layers
    }

    /// The records of a layer, if it has any.
    pub fn layer(&self, layer: usize) -> Option<&PackedLayer> {
        let found = self.layers.binary_search_by_key(&layer, |packed| packed.layer).ok()?;
        self.layers.get(found)
    }
}

/// The layers that have records.
fn ascending_layers(metadata: &Metadata) -> Result<Vec<usize>> {
    let fault = |fault| metadata.fault(LAYERS_KEY, fault);
    let Some(Value::Array(found)) = metadata.get(LAYERS_KEY) else {
        // The getter's error says whether it is missing or of another type.
        return array(metadata, LAYERS_KEY, 0, Metadata::u64s).map(|_| Vec::new());
    };
    let high = len_u64(MAX_LAYERS);
    if !(1..=MAX_LAYERS).contains(&found.len()) {
        return Err(fault(Fault::OutOfRange { found: format!("{} layers", found.len()), low: 1, high }));
    }
    let numbers = array(metadata, LAYERS_KEY, found.len(), Metadata::u64s)?;
    if let Some([before, after]) = numbers.array_windows().find(|[before, after]| before >= after) {
        return Err(fault(Fault::BadNumber { found: format!("{after} after {before}"), must: "ascending" }));
    }
    if let Some(large) = numbers.last().filter(|&&layer| layer >= high) {
        return Err(fault(Fault::OutOfRange { found: large.to_string(), low: 0, high: high - 1 }));
    }
    Ok(numbers.into_iter().map(|n| usize::try_from(n).expect("4096 fits")).collect())
}

/// A required array of `len` elements. The length is checked before `get` converts them.
fn array<'m, T>(
    metadata: &'m Metadata,
    key: &str,
    len: usize,
    get: impl FnOnce(&'m Metadata, &str) -> Result<Option<T>>,
) -> Result<T> {
    if let Some(Value::Array(found)) = metadata.get(key)
        && found.len() != len
    {
        let (found, other) = (format!("{} elements", found.len()), format!("the {len} of its other keys"));
        return Err(metadata.fault(key, Fault::Contradiction { found, other }));
    }
    get(metadata, key)?
        .ok_or_else(|| metadata.fault(key, Fault::Missing { hint: "; the file is not complete" }))
}

fn record_shape(
    metadata: &Metadata,
    layer: usize,
    types: &[String; 3],
    shape: [u64; 6],
) -> Result<RecordShape> {
    let format = |name: &String| {
        Format::from_name(name).ok_or_else(|| {
            let feature = format!("type {} of the experts of layer {layer}", printable(name));
            unsupported(
                metadata,
                feature,
                format!("supported are {}", Format::ALL.map(Format::name).join(", ")),
            )
        })
    };
    let [gate, up, down] = types;
    let [gate_rows, gate_cols, up_rows, up_cols, down_rows, down_cols] = shape;
    RecordShape::new([
        (format(gate)?, gate_rows, gate_cols),
        (format(up)?, up_rows, up_cols),
        (format(down)?, down_rows, down_cols),
    ])
    .map_err(|fault| shape_fault(metadata.path(), layer, fault))
}

/// The error `fault` of the shapes of a layer's records.
pub(crate) fn shape_fault(path: &std::path::Path, layer: usize, fault: Fault) -> LoadError {
    LoadError::malformed(path, format!("{SHAPES_KEY} of layer {layer}"), fault)
}

fn unsupported(metadata: &Metadata, feature: String, hint: String) -> LoadError {
    LoadError::Unsupported { path: metadata.path().to_owned(), feature, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matrices_begin_at_cache_lines_and_records_end_at_64_ki() {
        let shape = RecordShape::new([(Format::Q4_0, 48, 96), (Format::F16, 48, 96), (Format::Q8_0, 90, 64)])
            .unwrap();
        let places: Vec<_> = Part::ALL
            .iter()
            .map(|&part| {
                let m = shape.part(part);
                (m.offset, m.bytes)
            })
            .collect();
        // 48 rows of 3 blocks of 18 bytes, and so on.
        assert_eq!(places, [(0, 2592), (2624, 9216), (11840, 6120)]);
        assert_eq!(shape.bytes, 65_536);
        let exact =
            RecordShape::new([(Format::F32, 64, 64), (Format::F32, 64, 64), (Format::F32, 128, 64)]).unwrap();
        assert_eq!(exact.bytes, 65_536, "nothing is added to what fits");
    }

    #[test]
    fn impossible_records() {
        let of = |rows, cols| {
            RecordShape::new([(Format::Q4_0, 16, 32), (Format::Q4_0, rows, cols), (Format::Q4_0, 16, 32)])
        };
        assert!(matches!(of(0, 32), Err(Fault::OutOfRange { .. })));
        assert!(matches!(of(16, 0), Err(Fault::OutOfRange { .. })));
        assert!(matches!(of(16, 33), Err(Fault::PartialBlock { columns: 33, .. })));
        assert_eq!(of(1 << 40, 1 << 40), Err(Fault::Overflow));
        assert_eq!(of(u64::MAX, 32), Err(Fault::Overflow));
        let half = (Format::F32, 1 << 61, 1);
        assert_eq!(RecordShape::new([half; 3]), Err(Fault::Overflow), "together, not each");
    }

    #[test]
    fn checksums_are_those_of_the_specification() {
        // XXH3_64bits of the reference implementation, seed 0.
        assert_eq!(checksum(b""), 0x2d06_8005_38d3_94c2);
        let mut record = vec![7; 70_000];
        let sum = checksum(&record);
        assert!(verify_record(&record, sum));
        *record.last_mut().unwrap() ^= 1;
        assert!(!verify_record(&record, sum));
    }
}
