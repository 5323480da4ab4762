//! The built-in model: a tiny story-teller, so that the first command works without a download. It must not
//! know what it is used for.

use std::path::Path;

use moelten_loader::error::Result;
use moelten_loader::load::{LoadedModel, load_static};

/// Shown where other models show their path.
pub const NAME: &str = "tiny-tales (built in)";

/// Printed when a chat opens it.
pub const INTRODUCTION: &str = "This is a tiny story-teller for trying the program, not an assistant: it writes \
                                fragments of tales.\nReal models for this machine: moelten models --suggest";

/// Written by `moelten quantize --type q8_0`; `models/README.md` says from what.
static BYTES: &[u8] = include_bytes!("../../../models/tiny-tales.gguf");

/// Whether it is meant by a name on the command line; a file of that name comes first.
pub fn is_name(name: &Path) -> bool {
    let short = NAME.split(' ').next().unwrap_or(NAME);
    (name.as_os_str() == NAME || name.as_os_str() == short) && !name.exists()
}

/// Opens it from the program's own bytes.
///
/// # Errors
/// As [`moelten_loader::load::load`].
pub fn load() -> Result<LoadedModel> {
    load_static(NAME, BYTES)
}
