//! The model that the program carries: a tiny story-teller, so that the first command works without a
//! download. It must not know what it is used for.

use moelten_loader::error::Result;
use moelten_loader::load::{LoadedModel, load_static};

/// Its name where a path would stand.
pub const NAME: &str = "tiny-tales (built in)";

/// What to say when it is used.
pub const INTRODUCTION: &str = "This is a tiny story-teller to try the machinery with, not an assistant: it babbles \
                                fragments of tales.\nA real model: moelten chat path/to/model.gguf";

/// Written by `moelten quantize --type q8_0`; `models/README.md` says from what.
static BYTES: &[u8] = include_bytes!("../../../models/tiny-tales.gguf");

/// Opens it.
///
/// # Errors
/// As [`moelten_loader::load::load`].
pub fn load() -> Result<LoadedModel> {
    load_static(NAME, BYTES)
}
