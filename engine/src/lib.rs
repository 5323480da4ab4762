//! The engine: forward pass, router, expert store, KV cache, sampler, sessions.
//!
//! It never knows tensor names, file formats or terminals. [`api`] is what user interfaces are written against.

pub mod api;
pub mod decoder;
pub mod error;
pub mod experts;
mod generate;
pub mod importance;
pub mod kv_cache;
pub mod layers;
pub mod ledger;
pub mod memory;
pub mod model;
pub mod plan;
pub mod pool;
pub mod pressure;
pub mod router;
pub mod sampler;
mod scratch;
pub mod session;
pub mod stop;
pub mod system;
pub mod topology;
