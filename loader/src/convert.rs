//! A loaded model as one GGUF file: how it is laid out, which types its matrices get, how it is written, and
//! whether a file is what was written. Streams: no more than a few batches of rows are in memory at once.

mod ahead;
mod checksums;
mod estimate;
mod journal;
mod metadata;
mod order;
mod output;
mod pieces;
mod plan;
mod provenance;
mod shapes;
mod source;
mod threads;
pub mod types;
pub mod verify;
mod write;

pub use estimate::Estimate;
pub use output::{FileLayout, Types};
pub use pieces::Importance;
pub use plan::{Change, Conversion, PlannedTensor};
pub use provenance::Description;
pub use write::{Event, Work};
