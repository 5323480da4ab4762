//! Every buffer of the forward pass, allocated once for the largest chunk, so that decode never allocates.

use moelten_loader::spec::{Ffn, Mixer, ModelSpec, SharedExpert};
use moelten_quant::Running;

use crate::layers::attend::most_spans;
use crate::router::Routing;

/// Buffers for chunks of up to `chunk` tokens.
pub struct Scratch {
    /// Most tokens of a chunk.
    pub chunk: usize,
    /// Residual stream `[tokens, d_model]`.
    pub x: Vec<f32>,
    /// Normed input of a branch `[tokens, d_model]`.
    pub normed: Vec<f32>,
    /// Output of a branch `[tokens, d_model]`.
    pub branch: Vec<f32>,
    /// Result of a product before transposition, as large as the largest product.
    pub tmp: Vec<f32>,
    /// Attention.
    pub attention: AttentionScratch,
    /// Feed-forward blocks.
    pub mlp: MlpScratch,
    /// Experts.
    pub moe: MoeScratch,
    /// Logits of the last chunk's wanted tokens `[wanted, vocab]`.
    pub logits: Vec<f32>,
    /// Head product of several tokens before transposition; empty in plain decoding.
    pub head_tmp: Vec<f32>,
}

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
    /// What attends to the cache.
    pub attend: AttendScratch,
}

/// Sums of attention before they are finished.
pub struct AttendScratch {
    /// `[tokens, heads]`.
    pub running: Vec<Running>,
    /// One token's rows by span of positions `[spans, heads, head_dim]`; empty where the context is a single span.
    pub spans: Vec<f32>,
    /// `[spans, heads]`.
    pub spans_running: Vec<Running>,
}

/// Hidden layers of a feed-forward block.
pub struct MlpScratch {
    /// `[d_ff, tokens]`, then the activated hidden layer `[tokens, d_ff]`.
    pub gate: Vec<f32>,
    /// `[d_ff, tokens]`.
    pub hidden: Vec<f32>,
}

/// Routing and the experts' inputs and outputs.
pub struct MoeScratch {
    /// Router logits `[tokens, experts]`.
    pub logits: Vec<f32>,
    /// Who goes where.
    pub routing: Routing,
    /// Experts that the chunk needs, ascending.
    pub needed: Vec<u32>,
    /// Tokens of one expert and their weights.
    pub visitors: Vec<(usize, f32)>,
    /// Their normed inputs `[visitors, d_model]`.
    pub gathered: Vec<f32>,
    /// The expert's outputs `[d_model, visitors]`.
    pub by_rows: Vec<f32>,
}

impl Scratch {
    /// Buffers for chunks of `chunk` tokens of `spec` in a context of `context`.
    pub fn new(spec: &ModelSpec, chunk: usize, context: usize) -> Self {
        let w = Widths::of(spec, context);
        let d = spec.d_model;
        let buffer = |width: usize| vec![0.0; chunk * width];
        Self {
            chunk,
            x: buffer(d),
            normed: buffer(d),
            branch: buffer(d),
            tmp: buffer(w.product(d)),
            attention: AttentionScratch {
                q: buffer(w.q),
                k: buffer(w.kv),
                v: buffer(w.kv),
                mixed: buffer(w.q),
                attend: AttendScratch {
                    running: vec![Running::default(); chunk * w.heads],
                    spans: vec![0.0; w.spans],
                    spans_running: vec![Running::default(); w.span_heads],
                },
            },
            mlp: MlpScratch { gate: buffer(w.d_ff), hidden: buffer(w.d_ff) },
            moe: MoeScratch {
                logits: buffer(w.experts),
                routing: Routing::with_capacity(chunk, w.experts, w.per_token),
                needed: Vec::with_capacity(chunk * w.per_token),
                visitors: Vec::with_capacity(chunk),
                gathered: Vec::with_capacity(if w.experts > 0 { chunk * d } else { 0 }),
                by_rows: if w.experts > 0 { buffer(d) } else { Vec::new() },
            },
            logits: vec![0.0; spec.vocab],
            head_tmp: Vec::new(),
        }
    }

    /// Bytes that [`Self::new`] would allocate, but for a few lists of token numbers.
    pub fn bytes_for(spec: &ModelSpec, chunk: usize, context: usize) -> u64 {
        let (w, d) = (Widths::of(spec, context), spec.d_model);
        let gathered = if w.experts > 0 { 2 * d } else { 0 };
        let per_token = 3 * d + w.product(d) + 2 * w.q + 2 * w.kv + 2 * w.d_ff + w.experts + gathered;
        let numbers = (chunk * per_token).saturating_add(spec.vocab).saturating_add(w.spans);
        let running = (chunk * w.heads).saturating_add(w.span_heads);
        let bytes = |count: usize, size: usize| (count as u64).saturating_mul(size as u64);
        bytes(numbers, size_of::<f32>()).saturating_add(bytes(running, size_of::<Running>()))
    }

    /// Bytes of the buffers.
    pub fn bytes(&self) -> u64 {
        let a = &self.attention;
        let numbers = [
            &self.x,
            &self.normed,
            &self.branch,
            &self.tmp,
            &a.q,
            &a.k,
            &a.v,
            &a.mixed,
            &a.attend.spans,
            &self.mlp.gate,
            &self.mlp.hidden,
            &self.moe.logits,
            &self.moe.gathered,
            &self.moe.by_rows,
            &self.logits,
        ]
        .iter()
        .map(|buffer| buffer.capacity())
        .sum::<usize>();
        let running = a.attend.running.capacity() + a.attend.spans_running.capacity();
        (numbers * size_of::<f32>() + running * size_of::<Running>()) as u64
    }
}

#[derive(Default)]
struct Widths {
    q: usize,
    kv: usize,
    heads: usize,
    /// Numbers of a token's rows by span; spans times heads.
    spans: usize,
    span_heads: usize,
    d_ff: usize,
    experts: usize,
    per_token: usize,
}

impl Widths {
    /// The widest of each over all layers.
    fn of(spec: &ModelSpec, context: usize) -> Self {
        let mut w = Self::default();
        for layer in &spec.layers {
            let Mixer::Attention(a) = &layer.mixer;
            w.q = w.q.max(a.heads * a.head_dim);
            w.kv = w.kv.max(a.kv_heads * a.head_dim);
            w.heads = w.heads.max(a.heads);
            let spans = most_spans(a, context);
            if spans > 1 {
                w.spans = w.spans.max(spans.saturating_mul(a.heads * a.head_dim));
                w.span_heads = w.span_heads.max(spans.saturating_mul(a.heads));
            }
            match &layer.ffn {
                Ffn::Dense(mlp) => w.d_ff = w.d_ff.max(mlp.d_ff),
                Ffn::Moe(moe) => {
                    w.d_ff = w.d_ff.max(moe.expert.d_ff);
                    if let SharedExpert::Plain(m) | SharedExpert::Gated(m) = &moe.shared {
                        w.d_ff = w.d_ff.max(m.d_ff);
                    }
                    w.experts = w.experts.max(moe.experts);
                    w.per_token = w.per_token.max(moe.router.select.max_experts());
                }
            }
        }
        w
    }

    /// The widest product that is transposed through `tmp`.
    fn product(&self, d_model: usize) -> usize {
        d_model.max(self.q).max(self.kv).max(self.experts)
    }
}
