//! What fuzz targets need beyond the public interface. It exists in builds for fuzzing only, and must not
//! know what the targets check.

pub use crate::chat::transcript::{Transcript, code_blocks, to_markdown};
pub use crate::input::settings::Setting;
pub use crate::markdown::Document;
