//! Models on this machine: where they may lie, and for each what it is and whether it runs. It must not know
//! how they are shown, nor load one.

mod inspector;
mod places;
#[cfg(test)]
mod tests;

pub use inspector::{ModelInspector, weight_type};
pub use places::Places;
