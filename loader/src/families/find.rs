//! Finds the family of a spec. It must not know what families imply.

use super::family::Family;
use super::table::FAMILIES;
use crate::spec::ModelSpec;

/// The family of a spec.
///
/// # Panics
/// If the spec was not lowered by this crate.
pub(crate) fn family_of(spec: &ModelSpec) -> &'static Family {
    let found = FAMILIES.iter().find(|family| family.label == spec.family);
    found.expect("every lowered spec carries its family's label")
}
