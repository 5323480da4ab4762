//! The buffers of a pass, allocated once for the largest batch, so that decode never allocates. They belong
//! to the pass that runs, not to a sequence. It must not know what is computed in them.

use moelten_loader::spec::{
    AttentionSpec, BlockChoice, CompressedSpec, HeadExpertsSpec, Join, LatentSpec, LayerSpec, ModelSpec,
    MoeSpec, NgramSpec, Op, Pairing, RopeScaling, RopeSpec, SharedExpert,
};
use moelten_quant::{ActivationKind, BLOCK, KEY_GROUP, Line, Running};

use crate::experts::store::AcquireBuffers;
use crate::layers::ffn::mlp::MOST_VISITS;
use crate::layers::ffn::router::Routing;
use crate::layers::ffn::visits::Visits;
use crate::layers::linear::Packed;
use crate::layers::mixer::attend::most_spans;
use crate::layers::mixer::compressed::pass_tokens as compressed_pass;
use crate::layers::mixer::latent::pass_tokens;
use crate::layers::ngram::NgramScratch;
use crate::layers::rope::Angles;
use crate::layers::scratch::{
    AheadScratch, AttendScratch, AttentionScratch, CompressScratch, DeltaScratch, DeviceScratch,
    LatentScratch, LayerInputScratch, MoeScratch, PASS, ProductScratch, RouteScratch, SparseScratch,
};
use crate::layers::streams::{STREAM_TOKENS, StreamScratch};
use crate::weights::layer_inputs::LAYER_INPUT_TOKENS;

/// The most sequences of a decode batch whose next experts are guessed.
pub const AHEAD_TOKENS: usize = 8;

/// Buffers for batches of up to `chunk` tokens.
pub struct Executor {
    /// Most tokens of a batch.
    pub chunk: usize,
    /// Residual stream `[tokens, d_model]`, or streams `[tokens, streams, d_model]`.
    pub x: Vec<f32>,
    /// Normed input of a branch `[tokens, d_model]`.
    pub normed: Vec<f32>,
    /// Output of a branch `[tokens, d_model]`.
    pub branch: Vec<f32>,
    /// Sum of the outputs of parallel branches `[tokens, d_model]`; empty where branches join one after the
    /// other.
    pub joined: Vec<f32>,
    /// The residual stream as the present layer received it `[tokens, d_model]`; empty where no branch reads
    /// it.
    pub outset: Vec<f32>,
    /// The positions of the batch, by rope of the model.
    pub angles: Vec<Angles>,
    /// Queries, keys, values and sums over positions.
    pub attention: AttentionScratch,
    /// What all branches share.
    pub products: ProductScratch,
    /// Experts.
    pub moe: MoeScratch,
    /// The numbers that every layer gets of a token.
    pub layer_input: LayerInputScratch,
    /// Mixes of residual streams.
    pub streams: StreamScratch,
    /// Numbers of runs of tokens.
    pub ngram: NgramScratch,
    /// The guess at the next bank's experts.
    pub ahead: AheadScratch,
    /// Logits of some rows `[rows, vocab]`.
    pub logits: Vec<f32>,
    /// Grouped head product of several tokens; empty in plain decoding.
    pub head_grouped: Vec<f32>,
}

impl Executor {
    /// Buffers for batches of `chunk` tokens of `spec` with these ropes, in contexts of up to `context`
    /// tokens.
    pub fn new(spec: &ModelSpec, ropes: &[RopeSpec], chunk: usize, context: usize) -> Self {
        let (w, d, pass) = (Widths::of(spec, chunk, context), spec.d_model, PASS.min(chunk));
        let buffer = |width: usize| vec![0.0; chunk * width];
        let ahead = AHEAD_TOKENS.min(chunk);
        Self {
            chunk,
            x: buffer(d * spec.streams.map_or(1, |streams| streams.count)),
            normed: buffer(d),
            branch: buffer(d),
            joined: buffer(if w.parallel { d } else { 0 }),
            outset: buffer(if w.outset { d } else { 0 }),
            angles: ropes.iter().map(|rope| Angles::with_capacity(rope, chunk)).collect(),
            attention: w.attention(pass),
            products: ProductScratch {
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
                acquired: AcquireBuffers::default(),
                visits: Visits::with_capacity(chunk, w.experts, w.per_token),
                gathered: vec![Line::ZERO; w.gathered_lines(pass, d)],
                latent: buffer(w.expert_width),
                device: DeviceScratch::default(),
                taken: Vec::with_capacity(if w.has_heads { 2 * chunk } else { 0 }),
            },
            layer_input: LayerInputScratch::new(chunk, pass, w.layer_input),
            streams: StreamScratch::new(spec.streams, d, chunk),
            ngram: NgramScratch::new(w.ngram.as_ref(), w.streams * d, d, chunk),
            ahead: AheadScratch {
                streams: StreamScratch::new(spec.streams, d, ahead),
                normed: vec![0.0; ahead * d],
                packed: Packed::with_capacity([(ahead, d)]),
                grouped: vec![0.0; ahead * w.experts],
                route: RouteScratch {
                    logits: vec![0.0; ahead * w.experts],
                    routing: Routing::with_capacity(ahead, w.experts, w.per_token),
                },
                votes: Vec::with_capacity(w.experts),
                ranked: Vec::with_capacity(w.experts),
            },
            logits: vec![0.0; spec.vocab],
            head_grouped: Vec::new(),
        }
    }

    /// Bytes that [`Self::new`] would allocate, but for a few lists of token numbers.
    pub fn bytes_for(spec: &ModelSpec, chunk: usize, context: usize) -> u64 {
        let (w, d, pass) = (Widths::of(spec, chunk, context), spec.d_model, PASS.min(chunk));
        let lines = Packed::lines_for(w.packed(chunk, d))
            + Packed::lines_for([w.latent.packed])
            + Packed::lines_for([(pass, w.delta[4])])
            + w.hidden_lines(pass)
            + w.gathered_lines(pass, d);
        let rows = 2 + spec.streams.map_or(1, |streams| streams.count);
        let rows = rows + usize::from(w.parallel) + usize::from(w.outset);
        let (of_streams, stream_lines) = StreamScratch::sizes_for(spec.streams, d, chunk);
        let lines = lines + stream_lines;
        let numbers = chunk * (rows * d + w.experts + w.expert_width)
            + pass * (2 * w.q + 2 * w.kv + w.gate)
            + w.grouped(chunk, d);
        let numbers = numbers
            .saturating_add(spec.vocab)
            .saturating_add(w.spans)
            .saturating_add(w.latent.numbers())
            .saturating_add(w.sparse.numbers())
            .saturating_add(w.compress.numbers())
            .saturating_add(of_streams)
            .saturating_add(NgramScratch::numbers_for(w.ngram.as_ref(), w.streams * d, d, chunk))
            .saturating_add(DeltaScratch::numbers_for(pass, w.delta))
            .saturating_add(LayerInputScratch::numbers_for(chunk, pass, w.layer_input));
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
            &self.joined,
            &self.outset,
            &a.q,
            &a.k,
            &a.v,
            &a.gate,
            &a.mixed,
            &a.attend.spans,
            &a.latent.narrow,
            &a.latent.wide,
            &a.latent.inputs,
            &a.latent.outputs,
            &a.sparse.queries,
            &a.sparse.keys,
            &a.sparse.weights,
            &a.sparse.scores,
            &a.sparse.chosen_keys,
            &a.sparse.chosen_values,
            &self.products.grouped,
            &self.moe.route.logits,
            &self.moe.latent,
            &self.logits,
        ];
        let numbers = numbers.iter().map(|buffer| buffer.capacity()).sum::<usize>()
            + a.delta.numbers()
            + a.compress.numbers()
            + a.compress_small.numbers()
            + a.turned.capacity()
            + a.sparse.kept.capacity()
            + self.streams.sizes().0
            + self.ngram.numbers()
            + self.layer_input.numbers();
        let packed = self.products.packed.lines() + a.latent.packed.lines() + a.delta.inner.packed.lines();
        let lines = packed + self.products.hidden.capacity() + self.moe.gathered.capacity();
        let lines = lines + self.streams.sizes().1;
        let running = a.attend.running.capacity() + a.attend.spans_running.capacity();
        (numbers * size_of::<f32>() + lines * size_of::<Line>() + running * size_of::<Running>()) as u64
    }
}

#[derive(Default)]
struct Widths {
    q: usize,
    kv: usize,
    gate: usize,
    heads: usize,
    /// Numbers of a token's rows by span; spans times heads.
    spans: usize,
    span_heads: usize,
    d_ff: usize,
    experts: usize,
    per_token: usize,
    /// Width of what experts read, where it is their own.
    expert_width: usize,
    /// Whether some heads are experts.
    has_heads: bool,
    /// Whether some branches are parallel.
    parallel: bool,
    /// Whether some branches read what their layer received.
    outset: bool,
    latent: LatentWidths,
    sparse: SparseWidths,
    compress: CompressWidths,
    /// Numbers of runs of tokens, where there are some, and residual streams.
    ngram: Option<NgramSpec>,
    streams: usize,
    /// Channels, values, value heads and rates of recurrences, and the width of products inside them.
    delta: [usize; 5],
    /// Layers that get numbers of a token, and how many each gets.
    layer_input: (usize, usize),
    /// Numbers of a patch of an image.
    patch: usize,
}

/// Numbers in the buffers of latent attention.
#[derive(Default)]
struct LatentWidths {
    narrow: usize,
    wide: usize,
    inputs: usize,
    outputs: usize,
    /// Tokens and columns of the largest inputs of heads.
    packed: (usize, usize),
    /// Tokens of a pass, and the widest input of a product beside that of the layer.
    product: (usize, usize),
}

impl LatentWidths {
    /// Room for a branch as well.
    fn include(&mut self, spec: &LatentSpec, tokens: usize) {
        let (heads, rank) = (spec.attention.heads, spec.rank);
        let (queries, values) = (heads * spec.query_dim(), heads * spec.value_dim);
        let inner = spec.query_rank.unwrap_or(0);
        let both = |a: (usize, usize), b: (usize, usize)| (a.0.max(b.0), a.1.max(b.1));
        self.narrow = self.narrow.max(tokens * inner);
        self.wide = self.wide.max(tokens * queries.max(values));
        self.inputs = self.inputs.max(tokens * heads * rank.max(spec.nope));
        self.outputs = self.outputs.max(tokens * heads * rank.max(spec.value_dim));
        self.packed = both(self.packed, (tokens * heads, rank.max(spec.nope)));
        self.product = both(self.product, (tokens, values.max(inner)));
    }

    fn numbers(&self) -> usize {
        self.narrow + self.wide + self.inputs + self.outputs
    }
}

/// Numbers in the buffers of sparse attention.
#[derive(Default)]
struct SparseWidths {
    positions: usize,
    queries: usize,
    keys: usize,
    weights: usize,
    context: usize,
    chosen: usize,
    heads: usize,
    kept: usize,
}

impl SparseWidths {
    /// Room for a branch as well.
    fn include(&mut self, spec: &LatentSpec, (chunk, tokens): (usize, usize), context: usize) {
        if let Some(top) = spec.chosen_before.filter(|&top| context > top) {
            self.kept = self.kept.max(chunk * top);
        }
        let Some(indexer) = &spec.indexer else { return };
        // Positions are chosen only where there are more than may be.
        let top = indexer.top.min(context).next_multiple_of(KEY_GROUP);
        self.queries = self.queries.max(tokens * indexer.heads * indexer.head_dim);
        self.keys = self.keys.max(tokens * indexer.head_dim);
        self.weights = self.weights.max(tokens * indexer.heads);
        self.context = context;
        self.chosen = self.chosen.max(top * spec.attention.head_dim);
        self.heads = self.heads.max(spec.attention.heads);
    }

    fn numbers(&self) -> usize {
        // A plan also asks for contexts that no memory could hold.
        let parts =
            [self.queries, self.keys, self.weights, self.context, self.chosen, self.chosen, self.kept];
        parts.into_iter().fold(0, usize::saturating_add)
    }

    fn buffers(&self) -> SparseScratch {
        SparseScratch {
            queries: vec![0.0; self.queries],
            keys: vec![0.0; self.keys],
            weights: vec![0.0; self.weights],
            scores: vec![0.0; self.context],
            order: Vec::with_capacity(self.context),
            first: 0,
            kept: vec![0; self.kept],
            positions: Vec::with_capacity(self.positions),
            chosen_keys: vec![0.0; self.chosen],
            chosen_values: vec![0.0; self.chosen],
            running: vec![Running::default(); self.heads],
        }
    }
}

/// Numbers in the buffers of compressed tokens.
#[derive(Default)]
struct CompressWidths {
    wide: usize,
    small: usize,
    tokens: usize,
    rotated: usize,
}

impl CompressWidths {
    fn numbers(&self) -> usize {
        2 * (self.wide + self.small) + self.tokens * self.rotated
    }

    /// A rope of as many dimensions as any.
    fn rope(&self) -> RopeSpec {
        let (pairing, scaling) = (Pairing::Adjacent, RopeScaling::None);
        RopeSpec { theta: 1.0, dim: self.rotated, pairing, scaling }
    }
}

impl Widths {
    /// The widest of each over all branches.
    fn of(spec: &ModelSpec, chunk: usize, context: usize) -> Self {
        let outset = spec.layers.iter().any(LayerSpec::reads_outset);
        let width = spec.layer_inputs.map_or(0, |inputs| inputs.width);
        let layer_input = if width > 0 { (spec.layers.len(), width) } else { (0, 0) };
        let streams = spec.streams.map_or(1, |streams| streams.count);
        let patch = spec.image.map_or(0, |image| image.patch_numbers());
        let mut w = Self { outset, layer_input, streams, patch, ..Self::default() };
        for branch in spec.layers.iter().flat_map(|layer| &layer.branches) {
            w.parallel |= branch.join == Join::Parallel;
            match &branch.op {
                Op::Attention(a) | Op::Cross(a) => {
                    w.q = w.q.max(a.heads * a.head_dim);
                    w.kv = w.kv.max(a.kv_heads * a.head_dim);
                    w.gate = w.gate.max(if a.gate.is_some() { a.query_rows() } else { 0 });
                    w.heads = w.heads.max(a.heads);
                    w.spans(a, context);
                    if let Some(blocks) = &a.blocks {
                        w.blocks(a, blocks, PASS.min(chunk), context);
                    }
                }
                Op::Compressed(compressed) => w.compressed(compressed, chunk, context),
                Op::HeadExperts(heads) => w.head_experts(heads, spec.d_model, chunk, context),
                Op::Latent(latent) => {
                    let (a, pass) = (&latent.attention, PASS.min(chunk));
                    let tokens = pass_tokens(latent).min(pass);
                    // Buffers are for a whole pass, of which this branch takes a part.
                    let share = |width: usize| (width * tokens).div_ceil(pass);
                    w.q = w.q.max(share(a.heads * a.head_dim));
                    w.kv = w.kv.max(a.head_dim);
                    w.gate = w.gate.max(if a.gate.is_some() { a.heads } else { 0 });
                    w.heads = w.heads.max(a.heads);
                    w.latent.include(latent, tokens);
                    w.sparse.include(latent, (chunk, tokens), context);
                    w.spans(a, context);
                }
                Op::Conv(conv) => {
                    let widths = [2 * conv.width, conv.width, 1, 0, 0];
                    w.delta.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
                }
                Op::Lstm(lstm) => {
                    let widths = [lstm.width, lstm.width, lstm.width, 4 * lstm.width, lstm.width];
                    w.delta.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
                }
                Op::Selective(ssm) => {
                    let narrow = ssm.projected().div_ceil(2);
                    let widest = ssm.inner.max(ssm.projected());
                    let widths = [ssm.inner, ssm.inner.max(ssm.rank), narrow, ssm.inner, widest];
                    w.delta.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
                }
                Op::Kda(kda) => {
                    let widths = [3 * kda.inner(), kda.inner(), kda.heads, kda.inner(), 0];
                    w.delta.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
                }
                Op::Ssm(ssm) => {
                    let widths = [ssm.channels(), ssm.inner(), ssm.heads, 0, 0];
                    w.delta.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
                }
                Op::Delta(delta) => {
                    let widths = [delta.channels(), delta.values(), delta.value_heads, 0, 0];
                    w.delta.iter_mut().zip(widths).for_each(|(widest, width)| *widest = width.max(*widest));
                }
                Op::Ngram(ngram) => w.ngram = Some(ngram.clone()),
                Op::LayerInput(_) => {}
                Op::Mlp(mlp) => w.d_ff = w.d_ff.max(mlp.d_ff),
                Op::Moe(moe) => w.moe(moe, spec.d_model),
            }
        }
        w
    }

    /// Buffers of attention and recurrences for passes of this many tokens.
    fn attention(&self, pass: usize) -> AttentionScratch {
        let small = |width: usize| vec![0.0; pass * width];
        AttentionScratch {
            q: small(self.q),
            k: small(self.kv),
            v: small(self.kv),
            gate: small(self.gate),
            mixed: small(self.q),
            attend: AttendScratch {
                running: vec![Running::default(); pass * self.heads],
                spans: vec![0.0; self.spans],
                spans_running: vec![Running::default(); self.span_heads],
            },
            latent: LatentScratch {
                narrow: vec![0.0; self.latent.narrow],
                wide: vec![0.0; self.latent.wide],
                inputs: vec![0.0; self.latent.inputs],
                outputs: vec![0.0; self.latent.outputs],
                packed: Packed::with_capacity([self.latent.packed]),
            },
            sparse: self.sparse.buffers(),
            compress: CompressScratch::new(self.compress.wide),
            compress_small: CompressScratch::new(self.compress.small),
            turned: Angles::with_capacity(&self.compress.rope(), self.compress.tokens),
            delta: DeltaScratch::new(pass, self.delta),
        }
    }

    /// Room for a mixture of experts.
    fn moe(&mut self, moe: &MoeSpec, d_model: usize) {
        self.d_ff = self.d_ff.max(moe.expert.d_ff);
        if let SharedExpert::Plain(m) | SharedExpert::Gated(m) = &moe.shared {
            self.d_ff = self.d_ff.max(m.d_ff);
        }
        self.experts = self.experts.max(moe.experts);
        let weighed = if moe.weighs_inputs { d_model } else { 0 };
        self.expert_width = self.expert_width.max(moe.latent.unwrap_or(weighed));
        self.per_token = self.per_token.max(moe.router.select.max_experts());
    }

    /// Room for attention to chosen blocks of tokens.
    fn blocks(&mut self, a: &AttentionSpec, blocks: &BlockChoice, tokens: usize, context: usize) {
        let sparse = &mut self.sparse;
        let seen = (blocks.top.saturating_add(1)).saturating_mul(blocks.size).min(context);
        sparse.queries = sparse.queries.max(tokens * blocks.heads * blocks.head_dim);
        sparse.keys = sparse.keys.max(tokens * blocks.head_dim);
        sparse.weights = sparse.weights.max(tokens * blocks.heads);
        sparse.context = sparse.context.max(context / blocks.size);
        sparse.chosen = sparse.chosen.max(seen.next_multiple_of(KEY_GROUP) * a.head_dim);
        sparse.heads = sparse.heads.max(a.heads);
        sparse.positions = sparse.positions.max(seen);
        let rotated = a.rope.as_ref().map_or(0, |rope| rope.dim);
        let compress = &mut self.compress;
        (compress.tokens, compress.rotated) = (compress.tokens.max(1), compress.rotated.max(rotated));
    }

    /// Room for attention to compressed tokens.
    fn compressed(&mut self, c: &CompressedSpec, chunk: usize, context: usize) {
        let (a, pass) = (&c.attention, PASS.min(chunk));
        let tokens = compressed_pass(c).min(pass);
        let width = a.heads * a.head_dim;
        // Buffers are for a whole pass, of which this branch takes a part.
        self.q = self.q.max((width * tokens).div_ceil(pass));
        self.kv = self.kv.max(a.head_dim);
        self.heads = self.heads.max(a.heads);
        let latent = &mut self.latent;
        let given = c.groups * c.group_rank;
        latent.narrow = latent.narrow.max(tokens * c.query_rank);
        latent.wide = latent.wide.max(tokens * given.max(width));
        latent.inputs = latent.inputs.max(tokens * width);
        latent.outputs = latent.outputs.max(tokens * given);
        let both = |a: (usize, usize), b: (usize, usize)| (a.0.max(b.0), a.1.max(b.1));
        latent.packed = both(latent.packed, (tokens * c.groups, width / c.groups));
        latent.product = both(latent.product, (tokens, given.max(c.query_rank)));
        let rotated = a.rope.as_ref().map_or(0, |rope| rope.dim);
        let compress = &mut self.compress;
        (compress.tokens, compress.rotated) = (compress.tokens.max(tokens), compress.rotated.max(rotated));
        if let Some(compressor) = &c.compressor {
            compress.wide = compress.wide.max(tokens * compressor.series() * a.head_dim);
            let sparse = &mut self.sparse;
            sparse.context = sparse.context.max(context / compressor.rate);
            sparse.chosen = sparse.chosen.max(c.most_rows(context).next_multiple_of(KEY_GROUP) * a.head_dim);
            sparse.heads = sparse.heads.max(a.heads);
            if let Some(choice) = &compressor.choice {
                compress.small = compress.small.max(tokens * compressor.series() * choice.head_dim);
                sparse.queries = sparse.queries.max(tokens * choice.heads * choice.head_dim);
                sparse.weights = sparse.weights.max(tokens * choice.heads);
            }
        }
        self.spans(a, context);
    }

    /// Room for a mixture of heads, which takes the tokens of a whole chunk at once.
    fn head_experts(&mut self, heads: &HeadExpertsSpec, d_model: usize, chunk: usize, context: usize) {
        let (a, pass) = (&heads.attention, PASS.min(chunk));
        // Buffers are for a pass of tokens.
        let times = chunk.div_ceil(pass);
        self.has_heads = true;
        self.q = self.q.max(times * a.heads * a.head_dim);
        self.kv = self.kv.max(times * a.kv_heads * a.head_dim);
        self.heads = self.heads.max(times * a.heads);
        let own = heads.own_width();
        self.latent.wide = self.latent.wide.max(pass * own);
        self.latent.outputs = self.latent.outputs.max(pass * d_model);
        let (tokens, cols) = self.latent.packed;
        self.latent.packed = (tokens.max(pass), cols.max(own));
        self.experts = self.experts.max(heads.experts);
        self.per_token = self.per_token.max(heads.router.select.max_experts());
        self.spans(a, context);
    }

    /// Room for the spans of a branch.
    fn spans(&mut self, a: &AttentionSpec, context: usize) {
        let spans = most_spans(a, context);
        if spans > 1 {
            self.spans = self.spans.max(spans.saturating_mul(a.heads * a.head_dim));
            self.span_heads = self.span_heads.max(spans.saturating_mul(a.heads));
        }
    }

    /// Inputs of products: tokens and columns of the largest.
    fn packed(&self, chunk: usize, d_model: usize) -> [(usize, usize); 8] {
        let pass = PASS.min(chunk);
        let own = (pass, self.layer_input.1);
        [
            (chunk, d_model),
            (pass, self.q),
            self.latent.product,
            (pass, self.delta[1]),
            own,
            (pass, self.patch),
            (chunk, self.expert_width),
            (STREAM_TOKENS.min(chunk), self.ngram.as_ref().map_or(0, NgramSpec::read_width)),
        ]
    }

    /// The widest grouped outputs of a region.
    fn grouped(&self, chunk: usize, d_model: usize) -> usize {
        let passing =
            PASS.min(chunk) * (self.q.max(self.gate) + 2 * self.kv).max(self.delta.iter().sum::<usize>());
        let (layers, width) = self.layer_input;
        let of_layers = (chunk.min(LAYER_INPUT_TOKENS) * layers * width).max(PASS.min(chunk) * width);
        let all = (chunk * d_model.max(self.experts).max(self.expert_width)).max(passing).max(of_layers);
        let of_ngram =
            if self.ngram.is_some() { STREAM_TOKENS.min(chunk) * self.streams * d_model } else { 0 };
        let all = all.max(of_ngram);
        let compressed = self.compress.wide.max(self.compress.small).max(self.sparse.weights);
        all.max(self.latent.wide).max(self.latent.narrow).max(self.sparse.queries).max(compressed)
    }

    /// Room for the hidden layer of one block that a pass of tokens visits, in the larger kind, and for all
    /// visits of experts of quantised models, as far as they are computed at once.
    fn hidden_lines(&self, pass: usize) -> usize {
        self.visit_lines(pass, self.d_ff)
    }

    /// The same for the inputs of experts, which may be of both kinds.
    fn gathered_lines(&self, pass: usize, d_model: usize) -> usize {
        if self.experts == 0 {
            return 0;
        }
        let width = d_model.max(self.expert_width);
        self.visit_lines(pass, width).max(Packed::lines_for([(pass, width)]))
    }

    fn visit_lines(&self, pass: usize, width: usize) -> usize {
        let visits = pass * self.per_token.min(MOST_VISITS);
        // Each expert's records end on a whole line.
        let padding = MOST_VISITS.min(self.experts) * width.div_ceil(BLOCK);
        let codes = ActivationKind::Q8.lines(visits, width) + padding;
        codes.max(ActivationKind::F32.lines(pass, width))
    }
}
