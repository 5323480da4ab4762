//! The tensors of a model by role: which names stand for which role, where each matrix lies, and copies in
//! memory. No file here knows how a layer computes.

mod arranged;
pub mod bank;
pub mod copied;
mod forms;
pub(crate) mod joined;
pub mod needed;
mod resolve;
mod role;
pub mod roles;
mod small_floats;
pub mod store;
mod turned;
