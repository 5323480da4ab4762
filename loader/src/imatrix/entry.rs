//! What both kinds of importance files have: entries with sums, and what the file was made of. It must not know how they
//! are written.

pub(super) const TYPE_KEY: &str = "general.type";
pub(super) const TYPE: &str = "imatrix";
pub(super) const DATASETS_KEY: &str = "imatrix.datasets";
pub(super) const CHUNKS_KEY: &str = "imatrix.chunk_count";
pub(super) const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
/// What follows a matrix's name in the names of its tensors.
pub(super) const SUMS: &str = ".in_sum2";
pub(super) const COUNTS: &str = ".counts";

/// What an importance file was made of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Pieces that the model read; 0 where the file does not say.
    pub chunks: u64,
    /// Tokens of a piece; 0 where the file does not say.
    pub chunk_size: u64,
    /// Tokens that went into the matrices that all go through; 0 where the file does not say.
    pub tokens: u64,
}

/// Sums of one matrix, of one expert's matrix, or of those of all experts.
#[derive(Debug, Clone)]
pub(super) struct MatrixSums {
    /// The matrix's name in the file.
    pub name: String,
    /// The expert, if each has an entry of its own.
    pub expert: Option<usize>,
    /// Offset of the sums in the file, f32 each, `[rows, cols]`.
    pub offset: u64,
    /// How many they are.
    pub len: usize,
    /// Columns, where the file says.
    pub cols: Option<usize>,
    /// Inputs that were added up, `[rows]`, or one number for all rows.
    pub counts: Vec<f32>,
    /// Whether a row of equal numbers stands for an expert that no token went to.
    pub equal_is_unseen: bool,
}

/// The numbers in some bytes of a file.
pub(super) fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + Clone + use<'_> {
    bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}
