//! The buffers that layers compute in. They are allocated once for the largest pass, so that decode never
//! allocates. It must not know how large they are, nor which pass uses them.

use std::ops::Range;

use moelten_quant::{Line, Running};

use crate::experts::store::AcquireBuffers;
use crate::experts::tier::DeviceWork;
use crate::layers::ffn::router::Routing;
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::Packed;
use crate::layers::rope::Angles;
use crate::layers::streams::StreamScratch;

/// Tokens that attention, a dense block or an expert computes at once: enough for fast products, few enough
/// for buffers of some MiB. A chunk may be larger, because each expert is read only once per chunk.
pub const PASS: usize = 512;

/// Buffers of an attention branch.
pub struct AttentionScratch {
    /// Queries, `[tokens, heads * head_dim]`.
    pub q: Vec<f32>,
    /// Keys, `[tokens, kv_heads * head_dim]`.
    pub k: Vec<f32>,
    /// Values, `[tokens, kv_heads * head_dim]`.
    pub v: Vec<f32>,
    /// Gates on the mixed values before their function, `[tokens, gates]`; empty without gates.
    pub gate: Vec<f32>,
    /// Values mixed by attention, `[tokens, heads * head_dim]`.
    pub mixed: Vec<f32>,
    /// Unfinished sums over positions.
    pub attend: AttendScratch,
    /// What latent attention has beside.
    pub latent: LatentScratch,
    /// What sparse attention has beside.
    pub sparse: SparseScratch,
    /// Values and logits of tokens that become rows.
    pub compress: CompressScratch,
    /// The same of the small rows by which these are chosen.
    pub compress_small: CompressScratch,
    /// Angles by which rows are rotated, and mixed values back.
    pub turned: Angles,
    /// What a delta net has in place of all of these.
    pub delta: DeltaScratch,
}

/// Values and logits of the tokens of a pass.
#[derive(Default)]
pub struct CompressScratch {
    /// `[tokens, series * width]`.
    pub values: Vec<f32>,
    /// `[tokens, series * width]`.
    pub gates: Vec<f32>,
}

impl CompressScratch {
    /// Two buffers of `numbers` numbers each.
    pub fn new(numbers: usize) -> Self {
        Self { values: vec![0.0; numbers], gates: vec![0.0; numbers] }
    }

    /// Values and logits of some tokens of the pass, each `wide` numbers.
    pub fn of(&self, tokens: &Range<usize>, wide: usize) -> (&[f32], &[f32]) {
        let at = tokens.start * wide..tokens.end * wide;
        (&self.values[at.clone()], &self.gates[at])
    }

    /// Numbers of the buffers.
    pub fn numbers(&self) -> usize {
        self.values.capacity() + self.gates.capacity()
    }
}

/// Buffers of recurrences and short convolutions; empty in models without them. The lengths are those of a
/// gated delta net.
pub struct DeltaScratch {
    /// Projections, one after the other.
    pub projected: Vec<f32>,
    /// Inputs of the convolution, `[tokens, channels]`.
    pub channels: Vec<f32>,
    /// Its outputs, `[tokens, channels]`.
    pub convolved: Vec<f32>,
    /// Gates, `[tokens, values]`.
    pub gates: Vec<f32>,
    /// Logits of strengths and of steps, `[tokens, 2, value_heads]`.
    pub steps: Vec<f32>,
    /// Logits of rates by row, `[tokens, rates]`; empty in all but Kimi delta attention.
    pub rates: Vec<f32>,
    /// Outputs of the heads, `[value_heads, tokens, value_dim]`.
    pub by_head: Vec<f32>,
    /// The same by token, `[tokens, values]`.
    pub mixed: Vec<f32>,
    /// For products between the convolution and the recurrence; empty in all but Mamba.
    pub inner: InnerProducts,
}

/// Buffers of products that an operation computes while it has its state.
pub struct InnerProducts {
    /// Packed inputs.
    pub packed: Packed,
    /// Grouped outputs.
    pub grouped: Vec<f32>,
}

impl DeltaScratch {
    /// Buffers for passes of `tokens` tokens. The widths are the largest of any layer.
    pub fn new(tokens: usize, [channels, values, heads, rates, inner]: [usize; 5]) -> Self {
        let numbers = |width: usize| vec![0.0; tokens * width];
        Self {
            projected: numbers(channels + values + 2 * heads),
            channels: numbers(channels),
            convolved: numbers(channels),
            gates: numbers(values),
            steps: numbers(2 * heads),
            rates: numbers(rates),
            by_head: numbers(values),
            mixed: numbers(values),
            inner: InnerProducts {
                packed: Packed::with_capacity([(tokens, inner)]),
                grouped: numbers(inner),
            },
        }
    }

    /// Numbers that [`Self::new`] allocates.
    pub fn numbers_for(tokens: usize, [channels, values, heads, rates, inner]: [usize; 5]) -> usize {
        tokens * (3 * channels + 4 * values + 4 * heads + rates + inner)
    }

    /// Numbers of the buffers.
    pub fn numbers(&self) -> usize {
        let all = [
            &self.projected,
            &self.channels,
            &self.convolved,
            &self.gates,
            &self.steps,
            &self.rates,
            &self.by_head,
            &self.mixed,
            &self.inner.grouped,
        ];
        all.iter().map(|buffer| buffer.capacity()).sum()
    }
}

/// Buffers of a latent attention branch; empty in models without one.
pub struct LatentScratch {
    /// Latent queries, `[tokens, query_rank]`.
    pub narrow: Vec<f32>,
    /// Queries as they are projected, `[tokens, heads * (nope + rope)]`, and later values, `[tokens, heads *
    /// value_dim]`.
    pub wide: Vec<f32>,
    /// Inputs of the heads' own products, head by head.
    pub inputs: Vec<f32>,
    /// Their outputs.
    pub outputs: Vec<f32>,
    /// The packed inputs.
    pub packed: Packed,
}

/// Buffers of sparse attention; empty in models without it.
#[derive(Default)]
pub struct SparseScratch {
    /// Queries of choices, `[tokens, heads * head_dim]`.
    pub queries: Vec<f32>,
    /// Keys of choices, `[tokens, head_dim]`.
    pub keys: Vec<f32>,
    /// Weights of their heads, `[tokens, heads]`.
    pub weights: Vec<f32>,
    /// Scores of the positions of one token, `[context]`.
    pub scores: Vec<f32>,
    /// Positions in order of preference, then the chosen ones in order.
    pub order: Vec<u32>,
    /// The number of the first token of the pass in its batch.
    pub first: usize,
    /// The positions that each token of the batch has chosen, for layers that take the choice of one before,
    /// `[batch, top]`; empty where none does.
    pub kept: Vec<u32>,
    /// The positions of chosen blocks, in order.
    pub positions: Vec<u32>,
    /// Keys of the chosen positions as attention reads them.
    pub chosen_keys: Vec<f32>,
    /// Their values.
    pub chosen_values: Vec<f32>,
    /// Maximum and sum of weights of each head.
    pub running: Vec<Running>,
}

/// Sums of attention before they are divided by the sum of weights.
pub struct AttendScratch {
    /// Maximum and sum of weights of each row, `[tokens, heads]`.
    pub running: Vec<Running>,
    /// Rows of a single token by key and value head and by span of positions, `[kv_heads, spans, heads /
    /// kv_heads, head_dim]`. Empty where the context is one span.
    pub spans: Vec<f32>,
    /// Maximum and sum of weights of each row in `spans`, `[kv_heads, spans, heads / kv_heads]`.
    pub spans_running: Vec<Running>,
}

/// Buffers of the numbers that every layer gets of a token; empty in models without them.
pub struct LayerInputScratch {
    /// All of them, `[tokens, layers, width]`.
    pub all: Vec<f32>,
    /// What a layer's gate gives, `[tokens, width]`.
    pub gates: Vec<f32>,
    /// A layer's numbers times its gates, `[tokens, width]`.
    pub hidden: Vec<f32>,
}

/// Buffers that all branches use: packed inputs, grouped outputs, hidden layers.
pub struct ProductScratch {
    /// Packed inputs of products.
    pub packed: Packed,
    /// Grouped outputs of the products of one parallel region.
    pub grouped: Vec<f32>,
    /// Packed hidden layers of feed-forward blocks.
    pub hidden: Vec<Line>,
    /// The visitors of a block that every token visits: token and weight.
    pub visitors: Vec<(u32, f32)>,
}

/// Buffers for predicting the experts of the next bank for the tokens of a decode batch.
pub struct AheadScratch {
    /// Input of the router, `[tokens, d_model]`.
    pub normed: Vec<f32>,
    /// Packed input of the router.
    pub packed: Packed,
    /// Grouped logits of the router, `[tokens, experts]`.
    pub grouped: Vec<f32>,
    /// Predicted routing of each token.
    pub route: RouteScratch,
    /// For each expert, the number of tokens that it is predicted for and its best rank among them.
    pub votes: Vec<(u32, u32)>,
    /// Predicted experts, the likeliest first.
    pub ranked: Vec<u32>,
    /// For mixing the residual streams that the router reads; empty where there is one.
    pub streams: StreamScratch,
}

/// Buffers for routing a batch.
pub struct RouteScratch {
    /// Router logits, `[tokens, experts]`.
    pub logits: Vec<f32>,
    /// The experts of each token.
    pub routing: Routing,
}

/// Buffers of a mixture of experts.
pub struct MoeScratch {
    /// The experts of each token.
    pub route: RouteScratch,
    /// The tokens of each expert.
    pub visits: Visits,
    /// Buffers of the request to the store.
    pub acquired: AcquireBuffers,
    /// Packed inputs of experts, gathered from those of all tokens.
    pub gathered: Vec<Line>,
    /// Inputs of experts that are narrower than the residual stream, `[tokens, latent]`; empty without them.
    pub latent: Vec<f32>,
    /// Which of its token's experts an expert is, in mixtures of attention heads, `[2, tokens]`.
    pub taken: Vec<u32>,
    /// Buffers of a device that computes some of the experts.
    pub device: DeviceScratch,
}

/// Buffers of experts that a device computes; empty until there is one.
#[derive(Default)]
pub struct DeviceScratch {
    /// What the device does.
    pub work: DeviceWork,
    /// The visits that stay with the CPU.
    pub host: Visits,
    /// Index of each expert of these among all of the token.
    pub host_at: Vec<usize>,
    /// Outputs of the device, `[hits, width]`, and of the shared expert after them.
    pub outputs: Vec<f32>,
    /// What the device gave for the shared expert; empty where the CPU computes it.
    pub shared: Vec<f32>,
}
