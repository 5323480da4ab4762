//! Models on this machine: the search for them, and for each its type and whether it fits. It must not know
//! how they are shown, nor load one.

mod catalogue;
mod inspector;
mod places;
mod remote;
mod suggest;
#[cfg(test)]
mod tests;

pub use inspector::{ModelInspector, weight_type};
pub use places::{Candidate, Places};
pub use remote::RemoteModel;
pub use suggest::{Fit, Suggestion, suggestions, three};
