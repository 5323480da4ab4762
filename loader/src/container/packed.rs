//! The packed layout: each routed expert is one record, its matrices as in standard files, so that one read
//! loads all of it. The shape of a record and the metadata keys of a file's records; specified in
//! `docs/packed.md`. It must not know how records are read, written or cached.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use moelten_quant::Format;

use crate::container::gguf::{Array, Metadata, Value};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::{align_up, len_u64, printable};
use crate::spec::{BankKind, Part};

/// Version of files whose experts are all feed-forward blocks of gate, up and down. In version 1, sixteen
/// rows of a matrix were interleaved block by block.
pub const VERSION: u32 = 2;
/// Version of files that have other experts too. They say for each bank what its experts are.
pub const VERSION_OF_ANY: u32 = 3;
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
/// Also the field of a layer that has no such experts.
pub(crate) const LAYERS_KEY: &str = "moelten.packed.layers";
/// Also the field of a count that does not go with the model.
pub(crate) const EXPERTS_KEY: &str = "moelten.packed.experts";
const KINDS_KEY: &str = "moelten.packed.kinds";
/// Also the field of matrices that do not go with the model.
pub(crate) const PARTS_KEY: &str = "moelten.packed.parts";
const TYPES_KEY: &str = "moelten.packed.types";
/// Also the field of a shape that does not go with the model.
pub(crate) const SHAPES_KEY: &str = "moelten.packed.shapes";
/// Written when all records are complete.
pub(crate) const CHECKSUMS_KEY: &str = "moelten.packed.checksums";

/// What experts are for: in metadata, and in names of records.
const KINDS: [(BankKind, &str, &str); 3] = [
    (BankKind::FeedForward, "ffn", "ffn_expert"),
    (BankKind::Adjugate, "adjugate", "ffn_adjugate_expert"),
    (BankKind::Heads, "heads", "attn_expert"),
];
/// Matrices in metadata.
const PARTS: [(Part, &str); 3] = [(Part::Gate, "gate"), (Part::Up, "up"), (Part::Down, "down")];

/// The name of a record's tensor.
pub fn record_name(kind: BankKind, layer: usize, expert: usize) -> String {
    let (.., name) = KINDS.iter().find(|(known, ..)| *known == kind).expect("every kind has a name");
    format!("blk.{layer}.{name}.{expert}")
}

/// Layer, kind and expert of a record's tensor, `None` for names of other tensors.
pub fn record_of_name(name: &str) -> Option<(usize, BankKind, usize)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (of, expert) = rest.split_once('.')?;
    let (kind, ..) = KINDS.iter().find(|(.., known)| *known == of)?;
    Some((layer.parse().ok()?, *kind, expert.parse().ok()?))
}

/// The version that a file says it has, if it is packed.
pub fn version(metadata: &Metadata) -> Option<u64> {
    metadata.u64(VERSION_KEY).ok().flatten()
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

/// The layout of a bank's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordShape {
    /// Gate, up, down, of those that there are.
    matrices: [Option<PackedMatrix>; 3],
    /// Length of a record in bytes, a multiple of [`RECORD_ALIGN`].
    pub bytes: u64,
}

impl RecordShape {
    /// Lays out matrices, given as format, rows and columns, in the order of [`Part::ALL`].
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] for a matrix without values, [`Fault::PartialBlock`], [`Fault::Overflow`].
    pub fn new(matrices: impl Fn(Part) -> Option<(Format, u64, u64)>) -> Result<Self, Fault> {
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
        let mut part = |part| matrices(part).map(&mut place).transpose();
        let matrices = [part(Part::Gate)?, part(Part::Up)?, part(Part::Down)?];
        let bytes = align_up(end, RECORD_ALIGN.into()).ok_or(Fault::Overflow)?;
        Ok(Self { matrices, bytes })
    }

    /// One of the matrices, if there is such a one.
    pub fn part(&self, part: Part) -> Option<&PackedMatrix> {
        let [gate, up, down] = &self.matrices;
        match part {
            Part::Gate => gate.as_ref(),
            Part::Up => up.as_ref(),
            Part::Down => down.as_ref(),
        }
    }

    /// The matrices, in the order in which they lie.
    pub fn parts(&self) -> impl Iterator<Item = (Part, &PackedMatrix)> {
        Part::ALL.into_iter().filter_map(|part| Some((part, self.part(part)?)))
    }

    /// The names of the matrices.
    pub(crate) fn names(&self) -> String {
        let names = PARTS.iter().filter(|(part, _)| self.part(*part).is_some()).map(|(_, name)| *name);
        names.collect::<Vec<_>>().join(",")
    }
}

/// The records of a bank of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackedLayer {
    /// Number of the layer.
    pub layer: usize,
    /// What the experts are for.
    pub kind: BankKind,
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
    /// The index of `layers`, ascending by layer and kind.
    pub(crate) fn new(layers: Vec<PackedLayer>) -> Self {
        Self { layers }
    }

    /// The version that files with these records have.
    fn version(&self) -> u32 {
        let usual = |layer: &PackedLayer| {
            layer.kind == BankKind::FeedForward && layer.shape.parts().count() == Part::ALL.len()
        };
        if self.layers.iter().all(usual) { VERSION } else { VERSION_OF_ANY }
    }

    /// Reads the index of a file; `None` when the file is not packed.
    ///
    /// # Errors
    /// [`LoadError::Unsupported`] for another version of the layout or an unknown type of block,
    /// [`LoadError::Malformed`] when keys are missing, contradict each other or describe impossible records.
    pub fn read(metadata: &Metadata) -> Result<Option<Self>> {
        let Some(version) = metadata.u64(VERSION_KEY)? else { return Ok(None) };
        let any = version == u64::from(VERSION_OF_ANY);
        if version != u64::from(VERSION) && !any {
            let feature = format!("version {version} of the packed layout");
            let hint = match version < VERSION.into() {
                true => "make it again from its source with `moelten quantize --layout packed`".to_owned(),
                false => format!("versions {VERSION} and {VERSION_OF_ANY} are"),
            };
            return Err(unsupported(metadata, feature, hint));
        }
        let banks = if any { banks(metadata)? } else { feed_forward_blocks(metadata)? };
        let matrices = banks.iter().map(|bank| bank.parts.len()).sum::<usize>();
        let experts = array(metadata, EXPERTS_KEY, banks.len(), Metadata::u64s)?;
        let types = array(metadata, TYPES_KEY, matrices, Metadata::strings)?;
        let shapes = array(metadata, SHAPES_KEY, 2 * matrices, Metadata::u64s)?;
        let total = experts.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
        let total = total.and_then(|sum| usize::try_from(sum).ok());
        let total = total.ok_or_else(|| metadata.fault(EXPERTS_KEY, Fault::Overflow))?;
        let checksums = array(metadata, CHECKSUMS_KEY, total, Metadata::u64s)?;

        let mut checksums = checksums.into_iter();
        let mut matrices = types.iter().zip(shapes.as_chunks::<2>().0);
        let mut layers = Vec::with_capacity(banks.len());
        for (Bank { layer, kind, parts }, experts) in banks.into_iter().zip(experts) {
            let shape = record_shape(metadata, layer, &parts, &mut matrices)?;
            if experts == 0 {
                let fault = Fault::OutOfRange { found: "0".to_owned(), low: 1, high: len_u64(total) };
                return Err(metadata.fault(EXPERTS_KEY, fault));
            }
            let experts = usize::try_from(experts).expect("no more than all experts together");
            let checksums = checksums.by_ref().take(experts).collect();
            layers.push(PackedLayer { layer, kind, shape, checksums });
        }
        Ok(Some(Self { layers }))
    }

    /// The index as metadata.
    pub(crate) fn metadata(&self) -> Vec<(String, Value)> {
        let parts = || self.layers.iter().flat_map(|layer| layer.shape.parts()).map(|(_, matrix)| matrix);
        let small =
            |n: usize| u32::try_from(n).expect("the lowering bounds layers and experts far below 2^32");
        let layers = self.layers.iter().map(|layer| small(layer.layer)).collect();
        let experts = self.layers.iter().map(|layer| small(layer.checksums.len())).collect();
        let types = parts().map(|part| part.format.name().to_owned()).collect();
        let shapes = parts().flat_map(|part| [part.rows, part.cols].map(len_u64)).collect();
        let checksums = self.layers.iter().flat_map(|layer| layer.checksums.iter().copied()).collect();
        let version = self.version();
        let mut entries = vec![
            (VERSION_KEY, Value::U32(version)),
            (LAYERS_KEY, Value::Array(Array::U32(layers))),
            (EXPERTS_KEY, Value::Array(Array::U32(experts))),
        ];
        if version == VERSION_OF_ANY {
            let kind = |layer: &PackedLayer| {
                KINDS.iter().find(|(kind, ..)| *kind == layer.kind).map(|(_, name, _)| (*name).to_owned())
            };
            let kinds = self.layers.iter().filter_map(kind).collect();
            let parts = self.layers.iter().map(|layer| layer.shape.names()).collect();
            entries.push((KINDS_KEY, Value::Array(Array::Str(kinds))));
            entries.push((PARTS_KEY, Value::Array(Array::Str(parts))));
        }
        entries.extend([
            (TYPES_KEY, Value::Array(Array::Str(types))),
            (SHAPES_KEY, Value::Array(Array::U64(shapes))),
            (CHECKSUMS_KEY, Value::Array(Array::U64(checksums))),
        ]);
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// The banks with records, ascending by layer and kind.
    pub fn layers(&self) -> &[PackedLayer] {
        &self.layers
    }

    /// The records of a bank, if it has any.
    pub fn bank(&self, layer: usize, kind: BankKind) -> Option<&PackedLayer> {
        let of = |packed: &PackedLayer| (packed.layer, packed.kind);
        let found = self.layers.binary_search_by_key(&(layer, kind), of).ok()?;
        self.layers.get(found)
    }
}

/// A bank that has records.
struct Bank {
    layer: usize,
    kind: BankKind,
    parts: Vec<Part>,
}

/// The banks of a file of [`VERSION`].
fn feed_forward_blocks(metadata: &Metadata) -> Result<Vec<Bank>> {
    let numbers = layer_numbers(metadata)?;
    if let Some([before, after]) = numbers.array_windows().find(|[before, after]| before >= after) {
        let fault = Fault::BadNumber { found: format!("{after} after {before}"), must: "ascending" };
        return Err(metadata.fault(LAYERS_KEY, fault));
    }
    let bank = |layer| Bank { layer, kind: BankKind::FeedForward, parts: Part::ALL.into() };
    Ok(numbers.into_iter().map(bank).collect())
}

/// The banks of a file of [`VERSION_OF_ANY`], which has its other banks too.
fn banks(metadata: &Metadata) -> Result<Vec<Bank>> {
    let numbers = layer_numbers(metadata)?;
    let kinds = array(metadata, KINDS_KEY, numbers.len(), Metadata::strings)?;
    let parts = array(metadata, PARTS_KEY, numbers.len(), Metadata::strings)?;
    let unknown = |key: &'static str, found: &str, known: &str| {
        unsupported(metadata, format!("{key} \"{}\"", printable(found)), format!("supported are {known}"))
    };
    let mut banks = Vec::with_capacity(numbers.len());
    for ((layer, kind), parts) in numbers.into_iter().zip(kinds).zip(parts) {
        let known = KINDS.iter().find(|(_, name, _)| *name == kind);
        let names = KINDS.map(|(_, name, _)| name).join(", ");
        let &(kind, ..) = known.ok_or_else(|| unknown(KINDS_KEY, kind, &names))?;
        // In the order of the record, each once.
        let of_name = |name: &str| PARTS.iter().find(|(_, known)| *known == name).map(|(part, _)| *part);
        let found: Option<Vec<Part>> = parts.split(',').map(of_name).collect();
        let ascending = found.filter(|parts| parts.is_sorted_by(|a, b| a < b));
        let parts = ascending.ok_or_else(|| unknown(PARTS_KEY, parts, "some of gate,up,down"))?;
        banks.push(Bank { layer, kind, parts });
    }
    let of = |bank: &Bank| (bank.layer, bank.kind);
    if let Some([before, after]) = banks.array_windows().find(|[before, after]| of(before) >= of(after)) {
        let found = format!("{} after {}", after.layer, before.layer);
        let fault = Fault::BadNumber { found, must: "ascending, and of one layer ffn, adjugate, heads" };
        return Err(metadata.fault(LAYERS_KEY, fault));
    }
    Ok(banks)
}

/// The layers of banks that have records.
fn layer_numbers(metadata: &Metadata) -> Result<Vec<usize>> {
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
    if let Some(large) = numbers.iter().find(|&&layer| layer >= high) {
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

/// The shape of the records of a layer, whose matrices are the next ones.
fn record_shape<'m>(
    metadata: &Metadata,
    layer: usize,
    parts: &[Part],
    matrices: &mut impl Iterator<Item = (&'m String, &'m [u64; 2])>,
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
    let mut known = Vec::with_capacity(parts.len());
    for (&part, (kind, &[rows, cols])) in parts.iter().zip(matrices) {
        known.push((part, (format(kind)?, rows, cols)));
    }
    let of = |part| known.iter().find(|(known, _)| *known == part).map(|(_, matrix)| *matrix);
    RecordShape::new(of).map_err(|fault| shape_fault(metadata.path(), layer, fault))
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

    /// The shape of gate, up and down.
    fn of([gate, up, down]: [(Format, u64, u64); 3]) -> Result<RecordShape, Fault> {
        RecordShape::new(|part| match part {
            Part::Gate => Some(gate),
            Part::Up => Some(up),
            Part::Down => Some(down),
        })
    }

    #[test]
    fn names_of_records() {
        for (kind, ..) in KINDS {
            let name = record_name(kind, 12, 345);
            assert_eq!(record_of_name(&name), Some((12, kind, 345)), "{name}");
        }
        for other in ["blk.1.ffn_expert.x", "blk.1.ffn_expert", "blk.1.ffn_norm.weight", "ffn_expert.1"] {
            assert_eq!(record_of_name(other), None, "{other}");
        }
    }

    #[test]
    fn matrices_begin_at_cache_lines_and_records_end_at_64_ki() {
        let shape = of([(Format::Q4_0, 48, 96), (Format::F16, 48, 96), (Format::Q8_0, 90, 64)]).unwrap();
        let places: Vec<_> = shape.parts().map(|(_, m)| (m.offset, m.bytes)).collect();
        // 48 rows of 3 blocks of 18 bytes, and so on.
        assert_eq!(places, [(0, 2592), (2624, 9216), (11840, 6120)]);
        assert_eq!(shape.bytes, 65_536);
        let exact = of([(Format::F32, 64, 64), (Format::F32, 64, 64), (Format::F32, 128, 64)]).unwrap();
        assert_eq!(exact.bytes, 65_536, "nothing is added to what fits");
        // Without a gate, up begins at the start.
        let two = |part| (part != Part::Gate).then_some((Format::Q8_0, 90, 64));
        let two = RecordShape::new(two).unwrap();
        let places: Vec<_> = two.parts().map(|(part, m)| (part, m.offset, m.bytes)).collect();
        assert_eq!(places, [(Part::Up, 0, 6120), (Part::Down, 6144, 6120)]);
        assert_eq!((two.part(Part::Gate), two.names()), (None, "up,down".to_owned()));
    }

    #[test]
    fn impossible_records() {
        let up =
            |rows, cols| of([(Format::Q4_0, 16, 32), (Format::Q4_0, rows, cols), (Format::Q4_0, 16, 32)]);
        assert!(matches!(up(0, 32), Err(Fault::OutOfRange { .. })));
        assert!(matches!(up(16, 0), Err(Fault::OutOfRange { .. })));
        assert!(matches!(up(16, 33), Err(Fault::PartialBlock { columns: 33, .. })));
        assert_eq!(up(1 << 40, 1 << 40), Err(Fault::Overflow));
        assert_eq!(up(u64::MAX, 32), Err(Fault::Overflow));
        let half = (Format::F32, 1 << 61, 1);
        assert_eq!(of([half; 3]), Err(Fault::Overflow), "together, not each");
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
