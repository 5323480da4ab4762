//! Every buffer of the forward pass, allocated once for the largest chunk, so that decode never allocates.

use moelten_loader::spec::{Ffn, Mixer, ModelSpec, SharedExpert};
use moelten_quant::{ActivationKind, BLOCK, Line, Running};

use crate::experts::Held;
use crate::layers::attend::most_spans;
use crate::layers::linear::Packed;
use crate::layers::mlp::MOST_VISITS;
use crate::layers::moe::Visits;
use crate::router::Routing;

/// Tokens of a chunk that pass through attention, a dense block or an expert at once: enough for fast products, few enough
/// for buffers of some MiB. What a chunk is larger for is that each expert is read once for all of it.
pub const PASS: usize = 512;

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
    /// Attention.
    pub attention: AttentionScratch,
    /// What attention and feed-forward blocks share.
    pub ffn: FfnScratch,
    /// Experts.
    pub moe: MoeScratch,
    /// The guess at the next layer's experts.
    pub ahead: AheadScratch,
    /// Logits of the last chunk's wanted tokens `[wanted, vocab]`.
    pub logits: Vec<f32>,
    /// Grouped head product of several tokens; empty in plain decoding.
    pub head_grouped: Vec<f32>,
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
    /// One token's rows by head of the cache and span of positions `[kv_heads, spans, heads / kv_heads, head_dim]`; empty where the
    /// context is a single span.
    pub spans: Vec<f32>,
    /// `[kv_heads, spans, heads / kv_heads]`.
    pub spans_running: Vec<Running>,
}

/// Packed inputs and grouped outputs of products, and the hidden layers of feed-forward blocks.
pub struct FfnScratch {
    /// Input of the present products, as wide as any.
    pub packed: Packed,
    /// Their grouped outputs, as wide as all that are multiplied in one region.
    pub grouped: Vec<f32>,
    /// Packed hidden layers.
    pub hidden: Vec<Line>,
    /// Tokens of a block that all visit, with their weights.
    pub visitors: Vec<(u32, f32)>,
}

/// Norm and router of a layer that is not reached yet, of one token.
pub struct AheadScratch {
    /// `[d_model]`.
    pub normed: Vec<f32>,
    /// The same, packed.
    pub packed: Packed,
    /// `[experts]`.
    pub grouped: Vec<f32>,
    /// Routing.
    pub route: RouteScratch,
    /// Experts, the likeliest first.
    pub ranked: Vec<u32>,
}

/// Routing.
pub struct RouteScratch {
    /// Router logits `[tokens, experts]`.
    pub logits: Vec<f32>,
    /// Who goes where.
    pub routing: Routing,
}

/// Routing and the experts' inputs.
pub struct MoeScratch {
    /// Routing.
    pub route: RouteScratch,
    /// The same, by expert.
    pub visits: Visits,
    /// What is held of the store.
    pub held: Held,
    /// Packed inputs of experts.
    pub gathered: Vec<Line>,
}

impl Scratch {
    /// Buffers for chunks of `chunk` tokens of `spec` in a context of `context`.
    pub fn new(spec: &ModelSpec, chunk: usize, context: usize) -> Self {
        let (w, d, pass) = (Widths::of(spec, context), spec.d_model, PASS.min(chunk));
        let buffer = |width: usize| vec![0.0; chunk * width];
        let small = |width: usize| vec![0.0; pass * width];
        Self {
            chunk,
            x: buffer(d),
            normed: buffer(d),
            branch: buffer(d),
            attention: AttentionScratch {
                q: small(w.q),
                k: small(w.kv),
                v: small(w.kv),
                mixed: small(w.q),
                attend: AttendScratch {
                    running: vec![Running::default(); pass * w.heads],
                    spans: vec![0.0; w.spans],
                    spans_running: vec![Running::default(); w.span_heads],
                },
            },
            ffn: FfnScratch {
                packed: Packed::with_capacity(w.packed(chunk, d)),
                grouped: vec![0.0; w.grouped(chunk, d)],
                hidden: vec![Line::ZERO; w.hidden_lines(pass)],
                visitors: Vec::with_capacity(chunk),
            },
            moe: MoeScratch {
                route: RouteScratch {
                    logits: buffer(w.experts),
                    routing: Routing::with_capacity(chunk, w.experts, w.per_token),
                },
                held: Held::default(),
                visits: Visits::with_capacity(chunk, w.experts, w.per_token),
                gathered: vec![Line::ZERO; w.gathered_lines(pass, d)],
            },
            ahead: AheadScratch {
                normed: vec![0.0; d],
                packed: Packed::with_capacity([(1, d)]),
                grouped: vec![0.0; w.experts],
                route: RouteScratch {
                    logits: vec![0.0; w.experts],
                    routing: Routing::with_capacity(1, w.experts, w.per_token),
                },
                ranked: Vec::with_capacity(w.experts),
            },
            logits: vec![0.0; spec.vocab],
            head_grouped: Vec::new(),
        }
    }

    /// Bytes that [`Self::new`] would allocate, but for a few lists of token numbers.
    pub fn bytes_for(spec: &ModelSpec, chunk: usize, context: usize) -> u64 {
        let (w, d, pass) = (Widths::of(spec, context), spec.d_model, PASS.min(chunk));
        let lines = Packed::lines_for(w.packed(chunk, d)) + w.hidden_lines(pass) + w.gathered_lines(pass, d);
        let numbers = chunk * (3 * d + w.experts) + pass * (2 * w.q + 2 * w.kv) + w.grouped(chunk, d);
        let numbers = numbers.saturating_add(spec.vocab).saturating_add(w.spans);
        let running = (pass * w.heads).saturating_add(w.span_heads);
        let bytes = |count: usize, size: usize| (count as u64).saturating_mul(size as u64);
        [(numbers, size_of::<f32>()), (running, size_of::<Running>()), (lines, size_of::<Line>())]
            .into_iter()
            .fold(0, |sum: u64, (count, size)| sum.saturating_add(bytes(count, size)))
    }

    /// Bytes of the buffers.
    pub fn bytes(&self) -> u64 {
        let a = &self.attention;
        let numbers = [
            &self.x,
            &self.normed,
            &self.branch,
            &a.q,
            &a.k,
            &a.v,
            &a.mixed,
            &a.attend.spans,
            &self.ffn.grouped,
            &self.moe.route.logits,
            &self.logits,
        ];
        let numbers = numbers.iter().map(|buffer| buffer.capacity()).sum::<usize>();
        let lines = self.ffn.packed.lines() + self.ffn.hidden.capacity() + self.moe.gathered.capacity();
        let running = a.attend.running.capacity() + a.attend.spans_running.capacity();
        (numbers * size_of::<f32>() + lines * size_of::<Line>() + running * size_of::<Running>()) as u64
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

    /// Inputs of products: tokens and columns of the largest.
    fn packed(&self, chunk: usize, d_model: usize) -> [(usize, usize); 2] {
        [(chunk, d_model), (PASS.min(chunk), self.q)]
    }

    /// The widest grouped outputs of a region.
    fn grouped(&self, chunk: usize, d_model: usize) -> usize {
        let passing = PASS.min(chunk) * (self.q + 2 * self.kv);
        (chunk * d_model.max(self.experts)).max(passing)
    }

    /// Room for the hidden layer of one block that a pass of tokens visits, in the larger kind, and for all visits of experts of
    /// quantised models, as far as they are computed at once.
    fn hidden_lines(&self, pass: usize) -> usize {
        self.visit_lines(pass, self.d_ff)
    }

    /// The same for the inputs of experts, which may be of both kinds.
    fn gathered_lines(&self, pass: usize, d_model: usize) -> usize {
        if self.experts == 0 {
            return 0;
        }
        self.visit_lines(pass, d_model).max(Packed::lines_for([(pass, d_model)]))
    }

    fn visit_lines(&self, pass: usize, width: usize) -> usize {
        let visits = pass * self.per_token.min(MOST_VISITS);
        // Each expert's records end on a whole line.
        let padding = MOST_VISITS.min(self.experts) * width.div_ceil(BLOCK);
        let codes = ActivationKind::Q8.lines(visits, width) + padding;
        codes.max(ActivationKind::F32.lines(pass, width))
    }
}
