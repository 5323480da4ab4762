//! The engine: forward pass, router, expert store, states, sampler, sequences.
//!
//! It never knows tensor names, file formats or terminals. [`api`] is what user interfaces are written
//! against.

pub mod api;
pub mod error;
pub mod experts;
pub mod forward;
pub mod layers;
pub mod model;
pub mod offline;
pub mod plan;
pub mod runtime;
pub mod sequence;
pub mod state;
mod weights;
