//! What both kinds of importance files contain: entries with sums, and the file's provenance. It must not
//! know file formats.

pub(super) const TYPE_KEY: &str = "general.type";
pub(super) const TYPE: &str = "imatrix";
pub(super) const DATASETS_KEY: &str = "imatrix.datasets";
pub(super) const CHUNKS_KEY: &str = "imatrix.chunk_count";
pub(super) const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
/// Suffixes of a matrix's name in the names of its tensors.
pub(super) const SUMS: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";

/// How an importance file was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Chunks that the model read; 0 if unknown.
    pub chunks: u64,
    /// Tokens of a chunk; 0 if unknown.
    pub chunk_size: u64,
    /// Tokens that the model read; 0 if unknown.
    pub tokens: u64,
}

/// Sums of one matrix, of one expert's matrix, or of those of all experts.
#[derive(Debug, Clone)]
pub(super) struct MatrixSums {
    /// The matrix's name in the file.
    pub name: String,
    /// The expert, if each expert has a separate entry.
    pub expert: Option<usize>,
    /// Offset of the sums in the file, f32 each, `[rows, cols]`.
    pub offset: u64,
    /// Number of sums.
    pub len: usize,
    /// Columns, if the file states them.
    pub cols: Option<usize>,
    /// Number of inputs in the sums, `[rows]`, or one number for all rows.
    pub counts: Vec<f32>,
    /// Whether a row of equal numbers represents an expert that no token was routed to.
    pub equal_is_unseen: bool,
}

/// The numbers in some bytes of a file.
pub(super) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + Clone + use<'_> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}
