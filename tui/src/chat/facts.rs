//! What a chat knows about its model: plain values that the program fills in. It must not know how they were
//! found.

use std::path::PathBuf;

/// What the machine allows a model, where it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Limits {
    /// Read bandwidth of RAM, 10^9 bytes per second.
    pub ram_gb_per_s: Option<f64>,
    /// Read bandwidth of the disk for expert-sized reads, 10^9 bytes per second.
    pub disk_gb_per_s: Option<f64>,
    /// Bytes that every token reads from RAM in addition to its experts.
    pub dense_bytes: Option<f64>,
}

/// What the card of a new conversation says about the model. Texts are not filtered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelCard {
    /// Family and format of its weights.
    pub kind: String,
    /// Size of its files, in bytes; 0 where it is unknown.
    pub bytes: u64,
    /// The memory budget, in bytes; 0 where it is unknown.
    pub budget_bytes: u64,
    /// Share of the experts that RAM holds, 0 to 1; `None` if the whole model is in RAM.
    pub cached: Option<f64>,
    /// The expected speed, such as `6.0 tok/s (4.5 to 8.1)`.
    pub speed: Option<String>,
}

/// What a chat knows about its model. Texts are not filtered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Name of the model, usually the file name.
    pub model: String,
    /// Its file or folder; `None` is the built-in model.
    pub path: Option<PathBuf>,
    /// Format of most of its weights.
    pub format: String,
    /// Tokens that the context holds; 0 where it is unknown.
    pub context: usize,
    /// Whether the chat template takes a system prompt.
    pub supports_system: bool,
    /// Whether the chat template can ask the model not to reason.
    pub can_skip_thinking: bool,
    /// What the machine allows the model.
    pub limits: Limits,
    /// What to expect of it.
    pub card: ModelCard,
    /// Bytes that its vocabulary has no token for: characters that need them are lost.
    pub unspellable: Vec<u8>,
    /// Rows for `/show`: a name and a value that stay the same while the model is open.
    pub rows: Vec<(&'static str, String)>,
}
