//! From options to a model that is ready to run, shared by all commands. It must not know what the model is
//! used for.

pub mod builtin;
mod compute;
mod files;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod kept;
pub mod loops;
mod oom;
mod session;
pub mod sizes;
pub mod tuned;

#[cfg(not(feature = "gpu"))]
pub use compute::NoGpu as TriedGpu;
#[cfg(feature = "gpu")]
pub use compute::TriedGpu;
pub use compute::{ComputeArgs, PrefetchArg};
pub use files::{decoder_alone, has_text, load, mention, name};
pub use oom::prefer_as_oom_victim;
pub use session::{SessionArgs, context_words, long_rope_words};
pub use sizes::{count, size, tokens};
