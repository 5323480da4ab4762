//! From options to a model that is ready: what `chat`, `run` and the tools around them share. It must not
//! know what the model is used for.

pub mod builtin;
mod compute;
mod files;
mod oom;
mod session;
pub mod sizes;

pub use compute::ComputeArgs;
pub use files::{load, mention, name};
pub use oom::volunteer_for_the_oom_killer;
pub use session::{SessionArgs, context_words};
pub use sizes::{count, size, tokens};
