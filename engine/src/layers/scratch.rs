//! The buffers that layers work in. They are allocated once for the largest pass, so that decode never
//! allocates. It must not know how large they are, nor which pass uses them.

use moelten_quant::{Line, Running};

use crate::experts::store::AcquireBuffers;
use crate::layers::ffn::router::Routing;
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::Packed;

/// Tokens that pass through attention, a dense block or an expert at once: enough for fast products, few
/// enough for buffers of some MiB. What a chunk is larger for is that each expert is read once for all of it.
pub const PASS: usize = 512;

/// Queries, keys, values and their mix.
pub struct AttentionScratch {
    /// `[tokens, heads * head_dim]`.
    pub q: Vec<f32>,
    /// `[tokens, kv_heads * head_dim]`.
    pub k: Vec<f32>,
    /// `[tokens, kv_heads * head_dim]`.
    pub v: Vec<f32>,
    /// `[tokens, heads * head_dim]`.
    pub mixed: Vec<f32>,
    /// Sums over positions.
    pub attend: AttendScratch,
}

/// Sums of attention before they are finished.
pub struct AttendScratch {
    /// `[tokens, heads]`.
    pub running: Vec<Running>,
    /// One token's rows by head of the cache and span of positions `[kv_heads, spans, heads / kv_heads,
    /// head_dim]`; empty where the context is a single span.
    pub spans: Vec<f32>,
    /// `[kv_heads, spans, heads / kv_heads]`.
    pub spans_running: Vec<Running>,
}

/// Packed inputs and grouped outputs of products, and the hidden layers of feed-forward blocks.
pub struct ProductScratch {
    /// Input of the present products, as wide as any.
    pub packed: Packed,
    /// Their grouped outputs, as wide as all that are multiplied in one region.
    pub grouped: Vec<f32>,
    /// Packed hidden layers.
    pub hidden: Vec<Line>,
    /// The tokens of a block that every token visits, with their weights.
    pub visitors: Vec<(u32, f32)>,
}

/// Norm and router of a layer that is not reached yet, of the tokens of a decode batch.
pub struct AheadScratch {
    /// `[tokens, d_model]`.
    pub normed: Vec<f32>,
    /// The same, packed.
    pub packed: Packed,
    /// `[tokens, experts]`.
    pub grouped: Vec<f32>,
    /// Their routing.
    pub route: RouteScratch,
    /// Of each expert, how many tokens are expected and the best rank that one of them gives it.
    pub votes: Vec<(u32, u32)>,
    /// Experts, the likeliest first.
    pub ranked: Vec<u32>,
}

/// Routing of a batch.
pub struct RouteScratch {
    /// Router logits `[tokens, experts]`.
    pub logits: Vec<f32>,
    /// The experts of each token.
    pub routing: Routing,
}

/// Routing and the experts' inputs.
pub struct MoeScratch {
    /// Routing.
    pub route: RouteScratch,
    /// The same, by expert.
    pub visits: Visits,
    /// What is held of the store.
    pub acquired: AcquireBuffers,
    /// Packed inputs of experts.
    pub gathered: Vec<Line>,
}
