//! Importance files ("imatrix"): how large the inputs of each matrix were while a model read some text, by
//! column, and by expert where there are experts. Reads the GGUF kind and the older binary one, and writes
//! the GGUF kind; both are llama.cpp's. Gives importance by role.

mod entry;
mod file;
mod gguf;
mod legacy;
mod write;

pub use entry::Provenance;
pub use file::{Gaps, ImportanceFile};
pub use write::{ImportanceEntry, write};
