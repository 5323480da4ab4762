//! Why a GPU is not used, or not used any longer. It must not know what happens then.

/// What went wrong with a GPU. Nothing of it is an error of an answer: experts are computed elsewhere.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum GpuError {
    /// A name that no adapter has.
    #[error("no GPU is called {name:?}; found: {found}")]
    NoSuch {
        /// The name that was asked for.
        name: String,
        /// All adapters.
        found: String,
    },
    /// The driver refused a device.
    #[error("the driver of {adapter} gives no device: {reason}")]
    NoDevice {
        /// Its name.
        adapter: String,
        /// The driver's words.
        reason: String,
    },
    /// The memory that was allowed, or that the driver gave, holds no expert.
    #[error("{given} bytes of VRAM hold no expert; the smallest has {smallest} bytes")]
    NoRoom {
        /// Bytes that were allocated.
        given: u64,
        /// Bytes of a slot.
        smallest: u64,
    },
    /// The results of the driver are not those of the CPU in any arithmetic that was allowed.
    #[error("it does not compute exactly: {0}")]
    Inexact(String),
    /// The device was lost, or the driver reported an error.
    #[error("{0}")]
    Lost(String),
    /// No answer within the time that is allowed.
    #[error("no answer for {0} seconds")]
    Hung(u64),
}
