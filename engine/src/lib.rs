//! The engine: forward pass, router, expert store, states, sampler, sequences.
//!
//! It never knows tensor names, file formats or terminals. [`api`] is what user interfaces are written
//! against. A program starts a [`runtime::Runtime`], opens a [`Model`] on it, and appends tokens to a
//! [`Sequence`].

pub mod api;
mod error;
mod experts;
mod forward;
mod layers;
mod model;
pub mod offline;
pub mod plan;
pub mod runtime;
mod sequence;
mod state;
mod weights;

pub use error::{EngineError, Result};
pub use experts::device::{
    DeviceOffer, ExpertDevice, ExpertShape, ExpertView, HeadOffer, MatrixShape, SharedOffer, SharedWeights,
    expert_shapes, most_experts, shared_experts,
};
pub use experts::live::LiveView;
pub use experts::policy::Policy;
pub use experts::pressure::{Keeper, Watch};
pub use experts::reuse::{PARTS, Reuse};
pub use experts::room::{CachePlan, CacheShape};
pub use experts::source::PART as READ_BYTES;
pub use experts::split::{LayerTimes, SharedTimes, Split};
pub use experts::stats::{Phase, PhaseStats, PrefetchStats, StoreStats};
pub use experts::store::{DEPTH as READ_DEPTH, ExpertStore, Prefetch};
pub use experts::tier::DeviceStats;
pub use forward::batch::{Batch, Ended, Run, Wanted};
pub use forward::observe::{InputObserver, Observer};
pub use layers::ffn::router::Routing;
pub use model::{CopyProgress, Model, ModelOptions, Turn};
pub use sequence::images::{Classifier, most_images};
pub use sequence::sampler::SamplerParams;
pub use sequence::saved::Restored;
pub use sequence::session::{Sequence, Step, advance};
pub use state::kv::format::KvFormat;
