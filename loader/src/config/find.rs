//! Finds the family of a spec. It must not know what families imply.

use crate::families::{FAMILIES, Family};
use crate::spec::ModelSpec;

/// The family of a spec.
///
/// # Panics
/// If the spec was not lowered by this crate.
pub(crate) fn family_of(spec: &ModelSpec) -> &'static Family {
    let found = FAMILIES.iter().find(|family| family.label == spec.family);
    found.expect("every lowered spec carries its family's label")
}
