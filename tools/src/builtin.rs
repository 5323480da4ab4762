//! The model that the program carries. It must not know what it is used for.

use moelten_loader::load::LoadedModel;

/// Its name where a path would stand.
pub const NAME: &str = "tiny-tales (built in)";

/// Opens it.
///
/// # Errors
/// As [`moelten_loader::load::load`].
pub fn load() -> moelten_loader::error::Result<LoadedModel> {
    Err(moelten_loader::error::LoadError::Unsupported {
        path: NAME.into(),
        feature: "the built-in model".into(),
        hint: "name a model".into(),
    })
}
