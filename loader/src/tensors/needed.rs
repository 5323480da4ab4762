//! Which tensors a [`ModelSpec`] needs outside its expert banks, and their shapes. A new operation names its
//! tensors here. It must not know files.

use crate::spec::{
    AttentionSpec, BankMatrix, BranchSpec, CompressedSpec, ConvSpec, DeltaLayout, DeltaSpec, EncoderSpec,
    HeadExpertsSpec, KdaSpec, KvSource, LatentSpec, LayerInputs, LstmSpec, MlpSpec, ModelSpec, MoeSpec,
    NgramSpec, NormSpec, Op, OutputGate, Part, Place, QkNorm, RouterInput, SelectiveSpec, SharedExpert,
    SsmSpec, StreamMix, StreamsSpec,
};
use crate::tensors::roles::{AttentionTensors, LayerTensor, LayerTensor as T, Role};

/// Every role outside expert banks that a spec needs, with its rows and columns; vectors are one row.
pub fn needed(spec: &ModelSpec) -> Vec<(Role, usize, usize)> {
    let d = spec.d_model;
    let mut out = vec![(Role::Embed, spec.vocab, d)];
    if spec.final_norm.is_some() {
        out.push((Role::FinalNorm, 1, d));
    }
    if matches!(spec.final_norm, Some(NormSpec::Layer { .. })) {
        out.push((Role::FinalNormBias, 1, d));
    }
    if let Some(EncoderSpec { final_norm, .. }) = spec.encoder {
        out.push((Role::EncoderNorm, 1, d));
        if matches!(final_norm, NormSpec::Layer { .. }) {
            out.push((Role::EncoderNormBias, 1, d));
        }
    }
    ends(spec, &mut out);
    if let Some(LayerInputs { width, .. }) = spec.layer_inputs {
        let all = spec.layers.len() * width;
        out.push((Role::LayerInputTable, spec.vocab, all));
        out.push((Role::LayerInputProjection, all, d));
        out.push((Role::LayerInputNorm, 1, width));
    }
    if let Some(streams) = &spec.streams {
        head_streams(streams, d, &mut out);
    }
    for (index, layer) in spec.layers.iter().enumerate() {
        if layer.sum_norm.is_some() {
            out.push((Role::Layer(index, T::SumNorm), 1, d));
        }
        if layer.scaled {
            out.push((Role::Layer(index, T::LayerScale), 1, 1));
        }
        for branch in &layer.branches {
            let mut add = |tensor, rows, cols| out.push((Role::Layer(index, tensor), rows, cols));
            norms(branch, d, &mut add);
            relative_bias(branch, index, &mut add);
            match (&spec.streams, &branch.op) {
                (Some(streams), Op::Ngram(ngram)) => ngram_tensors(ngram, streams.count, d, &mut add),
                (Some(streams), _) => stream_tensors(streams, branch.place, d, &mut add),
                (None, _) => {}
            }
            match &branch.op {
                Op::Attention(attention) => attention_tensors(attention, d, &mut add),
                Op::Cross(attention) => cross_tensors(attention, d, &mut add),
                Op::Compressed(compressed) => compressed_tensors(compressed, d, &mut add),
                Op::HeadExperts(heads) => head_tensors(heads, d, &mut add),
                Op::Conv(conv) => conv_tensors(conv, d, &mut add),
                Op::Lstm(lstm) => lstm_tensors(lstm, d, &mut add),
                Op::Ssm(ssm) => ssm_tensors(ssm, d, &mut add),
                Op::Selective(ssm) => selective_tensors(ssm, d, &mut add),
                Op::Kda(kda) => kda_tensors(kda, d, &mut add),
                Op::Delta(delta) => delta_tensors(delta, d, &mut add),
                Op::Latent(latent) => latent_tensors(latent, d, &mut add),
                Op::Mlp(mlp) => mlp_tensors(mlp, d, (T::Dense, T::DenseBias), &mut add),
                Op::Moe(moe) => moe_tensors(moe, (d, spec.task_count()), &mut add),
                Op::Ngram(_) => {}
                Op::LayerInput(input) => {
                    add(T::LayerInputGate, input.width, d);
                    add(T::LayerInputUp, d, input.width);
                }
            }
        }
    }
    out
}

/// What makes rows of images, and the head.
fn ends(spec: &ModelSpec, out: &mut Vec<(Role, usize, usize)>) {
    let d = spec.d_model;
    if let Some(image) = &spec.image {
        out.push((Role::Patches, image.tasks * d, image.patch_numbers()));
        out.push((Role::PatchBias, 1, image.tasks * d));
        if image.first_row {
            out.push((Role::FirstRow, 1, image.tasks * d));
        }
    }
    if !spec.head.tied {
        out.push((Role::Head, spec.head_rows(), d));
    }
    if spec.head.bias {
        out.push((Role::HeadBias, 1, spec.head_rows()));
    }
}

/// The mix of residual streams that the head reads.
fn head_streams(streams: &StreamsSpec, d: usize, out: &mut Vec<(Role, usize, usize)>) {
    let (count, width) = (streams.count, streams.count * d);
    match streams.mix {
        StreamMix::Sinkhorn { .. } => {
            out.push((Role::HeadStreamMix, count, width));
            out.push((Role::HeadStreamBase, 1, count));
            out.push((Role::HeadStreamScale, 1, 1));
        }
        StreamMix::Gated { rank, .. } => {
            out.push((Role::HeadStreamNorm, 1, width));
            out.push((Role::HeadStreamDown, rank, width));
            out.push((Role::HeadStreamUp, width, rank));
        }
    }
}

/// Takes a tensor of a layer with its rows and columns.
type Add<'a> = &'a mut dyn FnMut(LayerTensor, usize, usize);

/// What distances add to scores, in the layer whose tensor it is.
fn relative_bias(branch: &BranchSpec, layer: usize, add: Add<'_>) {
    if let Some(attention) = branch.op.attention()
        && let Some(relative) = attention.relative
        && relative.of_layer == layer
    {
        add(T::RelativeBias, relative.buckets, attention.heads);
    }
}

/// The norms of a branch.
fn norms(branch: &BranchSpec, d_model: usize, add: Add<'_>) {
    let pre = (branch.pre_norm, T::PreNorm(branch.place), T::PreNormBias(branch.place));
    let post = (branch.post_norm, T::PostNorm(branch.place), T::PostNormBias(branch.place));
    for (norm, weight, bias) in [pre, post] {
        if norm.is_some() {
            add(weight, 1, d_model);
        }
        if matches!(norm, Some(NormSpec::Layer { .. })) {
            add(bias, 1, d_model);
        }
    }
}

fn attention_tensors(a: &AttentionSpec, d_model: usize, add: Add<'_>) {
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    add(T::Q, a.query_rows(), d_model);
    if !matches!(a.source, KvSource::Layer(_)) {
        add(T::K, kv, d_model);
    }
    if a.source == KvSource::Projected {
        add(T::V, a.kv_heads * a.value_dim, d_model);
    }
    add(T::O, d_model, a.heads * a.value_dim);
    if a.gate.is_some_and(|gate| gate != OutputGate::SigmoidWithQuery) {
        add(T::AttentionGate, a.gate_rows(), d_model);
    }
    if a.qkv_bias {
        add(T::QBias, 1, a.query_rows());
        if !matches!(a.source, KvSource::Layer(_)) {
            add(T::KBias, 1, kv);
        }
        if a.source == KvSource::Projected {
            add(T::VBias, 1, a.kv_heads * a.value_dim);
        }
    }
    if let Some(blocks) = &a.blocks {
        add(T::BlockQ, blocks.heads * blocks.head_dim, d_model);
        add(T::BlockK, blocks.head_dim, d_model);
        add(T::BlockQNorm, 1, blocks.head_dim);
        add(T::BlockKNorm, 1, blocks.head_dim);
    }
    if a.out_bias {
        add(T::OBias, 1, d_model);
    }
    if a.sinks {
        add(T::Sinks, 1, a.heads);
    }
    match a.qk_norm {
        QkNorm::None | QkNorm::PlainAfterRope { .. } => {}
        QkNorm::PerHead { .. } | QkNorm::PerHeadAfterRope { .. } => {
            add(T::QNorm, 1, a.head_dim);
            if !matches!(a.source, KvSource::Layer(_)) {
                add(T::KNorm, 1, a.head_dim);
            }
        }
        QkNorm::Full { .. } => {
            add(T::QNorm, 1, q);
            add(T::KNorm, 1, kv);
        }
    }
}

fn cross_tensors(a: &AttentionSpec, d_model: usize, add: Add<'_>) {
    let rows = [a.heads * a.head_dim, a.kv_heads * a.head_dim, a.kv_heads * a.value_dim, d_model];
    let AttentionTensors { matrices, biases } = AttentionTensors::CROSS;
    let has_bias = [a.qkv_bias, a.qkv_bias, a.qkv_bias, a.out_bias];
    for (((matrix, bias), rows), has_bias) in matrices.into_iter().zip(biases).zip(rows).zip(has_bias) {
        let cols = if matrix == T::CrossO { a.heads * a.value_dim } else { d_model };
        add(matrix, rows, cols);
        if has_bias {
            add(bias, 1, rows);
        }
    }
}

/// Every role that holds whole numbers, with its rows and columns.
pub fn whole_numbers(spec: &ModelSpec) -> Vec<(Role, usize, usize)> {
    let tables = spec.layers.iter().enumerate().filter_map(|(index, layer)| {
        let router = &layer.moe()?.router;
        let role = Role::Layer(index, T::TokenExperts);
        router.listed.then(|| (role, spec.vocab, router.select.max_experts()))
    });
    tables.collect()
}

/// How a branch mixes residual streams.
fn stream_tensors(streams: &StreamsSpec, place: Place, d_model: usize, add: Add<'_>) {
    let width = streams.count * d_model;
    match streams.mix {
        StreamMix::Sinkhorn { .. } => {
            add(T::StreamMix(place), streams.rows(), width);
            add(T::StreamBase(place), 1, streams.rows());
            add(T::StreamScale(place), 1, 3);
        }
        StreamMix::Gated { rank, .. } => {
            add(T::StreamNorm(place), 1, width);
            add(T::StreamDown(place), rank, width);
            add(T::StreamUp(place), width, rank);
            add(T::StreamInject(place), streams.count, width);
        }
    }
}

fn ngram_tensors(ngram: &NgramSpec, streams: usize, d_model: usize, add: Add<'_>) {
    let width = streams * d_model;
    add(T::NgramKey, width, ngram.read_width());
    add(T::NgramValue, d_model, ngram.read_width());
    for norm in [T::NgramKeyNorm, T::NgramQueryNorm, T::NgramConvNorm] {
        add(norm, 1, width);
    }
    add(T::NgramConv, width, ngram.kernel);
}

/// The numbers of runs of tokens of a model, with their layer.
fn ngrams(spec: &ModelSpec) -> impl Iterator<Item = (usize, &NgramSpec)> {
    let branches = spec.layers.iter().enumerate();
    branches.flat_map(|(index, layer)| {
        layer.branches.iter().filter_map(move |branch| match &branch.op {
            Op::Ngram(ngram) => Some((index, ngram)),
            _ => None,
        })
    })
}

/// Every table whose rows are read one by one, with the number of tensors that it is in, and its columns.
pub fn tables(spec: &ModelSpec) -> Vec<(Role, usize, usize)> {
    ngrams(spec).map(|(layer, ngram)| (Role::Layer(layer, T::NgramTable), ngram.parts, ngram.width)).collect()
}

/// Every vector of large whole numbers, with its length.
pub fn large_numbers(spec: &ModelSpec) -> Vec<(Role, usize)> {
    let of = |(layer, ngram): (usize, &NgramSpec)| {
        let heads = ngram.all_heads();
        let all = [(T::NgramFactors, ngram.most_tokens), (T::NgramFirst, heads), (T::NgramRows, heads)];
        let all = if ngram.hash.is_some() { Vec::new() } else { all.to_vec() };
        all.into_iter().map(move |(tensor, length)| (Role::Layer(layer, tensor), length))
    };
    ngrams(spec).flat_map(of).collect()
}

fn compressed_tensors(c: &CompressedSpec, d_model: usize, add: Add<'_>) {
    let (a, given) = (&c.attention, c.groups * c.group_rank);
    let width = a.heads * a.head_dim;
    add(T::QDown, c.query_rank, d_model);
    add(T::QDownNorm, 1, c.query_rank);
    add(T::QUp, width, c.query_rank);
    add(T::KvDown, a.head_dim, d_model);
    add(T::KvDownNorm, 1, a.head_dim);
    add(T::Sinks, 1, a.heads);
    add(T::OutDown, given, width / c.groups);
    add(T::O, d_model, given);
    let Some(compressor) = &c.compressor else { return };
    let wide = |width: usize| compressor.series() * width;
    add(T::CompressValue, wide(a.head_dim), d_model);
    add(T::CompressGate, wide(a.head_dim), d_model);
    add(T::CompressPlace, compressor.rate, wide(a.head_dim));
    add(T::CompressNorm, 1, a.head_dim);
    let Some(choice) = &compressor.choice else { return };
    add(T::IndexQ, choice.heads * choice.head_dim, c.query_rank);
    add(T::IndexWeights, choice.heads, d_model);
    add(T::IndexCompressValue, wide(choice.head_dim), d_model);
    add(T::IndexCompressGate, wide(choice.head_dim), d_model);
    add(T::IndexCompressPlace, compressor.rate, wide(choice.head_dim));
    add(T::IndexCompressNorm, 1, choice.head_dim);
}

fn head_tensors(heads: &HeadExpertsSpec, d_model: usize, add: Add<'_>) {
    let a = &heads.attention;
    add(T::K, a.kv_heads * a.head_dim, d_model);
    add(T::V, a.kv_heads * a.value_dim, d_model);
    add(T::HeadRouter, heads.experts, d_model);
    if a.out_bias {
        add(T::OBias, 1, d_model);
    }
}

/// The projections of a delta net's input, in order.
pub fn delta_inputs(layout: DeltaLayout) -> &'static [LayerTensor] {
    match layout {
        DeltaLayout::Apart => &[T::DeltaQkv, T::DeltaGate, T::DeltaStrength, T::DeltaStep],
        DeltaLayout::StepsByKeyHead => &[T::DeltaQkv, T::DeltaGate, T::DeltaRates],
        DeltaLayout::ByKeyHead => &[T::DeltaByKeyHead, T::DeltaRates],
    }
}

fn conv_tensors(conv: &ConvSpec, d_model: usize, add: Add<'_>) {
    add(T::ConvIn, 3 * conv.width, d_model);
    add(T::ConvTaps, conv.width, conv.kernel);
    add(T::ConvOut, d_model, conv.width);
    if conv.bias {
        add(T::ConvInBias, 1, 3 * conv.width);
        add(T::ConvBias, 1, conv.width);
        add(T::ConvOutBias, 1, d_model);
    }
}

fn lstm_tensors(lstm: &LstmSpec, d_model: usize, add: Add<'_>) {
    add(T::LstmIn, 4 * lstm.width, d_model);
    add(T::LstmBack, 4 * lstm.width, lstm.width);
    add(T::LstmBias, 1, 4 * lstm.width);
}

fn selective_tensors(a: &SelectiveSpec, d_model: usize, add: Add<'_>) {
    add(T::SsmIn, 2 * a.inner, d_model);
    add(T::SsmConv, a.inner, a.conv_kernel);
    if a.conv_bias {
        add(T::SsmConvBias, 1, a.inner);
    }
    add(T::SsmX, a.projected(), a.inner);
    add(T::SsmStepNorm, 1, a.rank);
    add(T::SsmBNorm, 1, a.state);
    add(T::SsmCNorm, 1, a.state);
    add(T::SsmStep, a.inner, a.rank);
    add(T::SsmStepBias, 1, a.inner);
    add(T::SsmDecay, a.inner, a.state);
    add(T::SsmSkip, 1, a.inner);
    add(T::SsmOut, d_model, a.inner);
}

fn kda_tensors(a: &KdaSpec, d_model: usize, add: Add<'_>) {
    let inner = a.inner();
    for tensor in [T::Q, T::K, T::V] {
        add(tensor, inner, d_model);
    }
    for tensor in [T::KdaConvQ, T::KdaConvK, T::KdaConvV] {
        add(tensor, inner, a.conv_kernel);
    }
    add(T::DeltaStrength, a.heads, d_model);
    for (down, up) in [(T::KdaRateDown, T::KdaRateUp), (T::KdaGateDown, T::KdaGateUp)] {
        if let Some(rank) = a.rank {
            add(down, rank, d_model);
        }
        add(up, inner, a.rank.unwrap_or(d_model));
    }
    add(T::DeltaDecay, 1, a.heads);
    add(T::DeltaStepBias, 1, inner);
    add(T::DeltaNorm, 1, a.head_dim);
    add(T::O, d_model, inner);
}

fn ssm_tensors(a: &SsmSpec, d_model: usize, add: Add<'_>) {
    add(T::SsmIn, a.projected(), d_model);
    add(T::SsmConv, a.channels(), a.conv_kernel);
    if a.conv_bias {
        add(T::SsmConvBias, 1, a.channels());
    }
    add(T::SsmDecay, 1, a.heads);
    add(T::SsmStepBias, 1, a.heads);
    add(T::SsmSkip, 1, a.heads);
    add(T::SsmNorm, 1, a.inner());
    add(T::SsmOut, d_model, a.inner());
}

fn delta_tensors(a: &DeltaSpec, d_model: usize, add: Add<'_>) {
    let (channels, values, heads) = (a.channels(), a.values(), a.value_heads);
    for &tensor in delta_inputs(a.layout) {
        let rows = match tensor {
            T::DeltaByKeyHead => channels + values,
            T::DeltaQkv => channels,
            T::DeltaGate => values,
            T::DeltaRates => 2 * heads,
            _ => heads,
        };
        add(tensor, rows, d_model);
    }
    add(T::DeltaConv, channels, a.conv_kernel);
    add(T::DeltaDecay, 1, heads);
    add(T::DeltaStepBias, 1, heads);
    add(T::DeltaNorm, 1, a.value_dim);
    add(T::DeltaOut, d_model, values);
}

fn latent_tensors(a: &LatentSpec, d_model: usize, add: Add<'_>) {
    let (heads, queries) = (a.attention.heads, a.attention.heads * a.query_dim());
    match a.query_rank {
        None => add(T::Q, queries, d_model),
        Some(rank) => {
            add(T::QDown, rank, d_model);
            add(T::QDownNorm, 1, rank);
            add(T::QUp, queries, rank);
        }
    }
    add(T::KvDown, a.rank + a.rope_dim(), d_model);
    add(T::KvDownNorm, 1, a.rank);
    if a.split {
        add(T::KUp, heads * a.rank, a.nope);
        add(T::VUp, heads * a.value_dim, a.rank);
    } else {
        add(T::KvUp, heads * (a.nope + a.value_dim), a.rank);
    }
    add(T::O, d_model, heads * a.value_dim);
    if a.attention.gate.is_some() {
        add(T::AttentionGate, heads, d_model);
    }
    if let (Some(index), Some(rank)) = (&a.indexer, a.query_rank) {
        add(T::IndexQ, index.heads * index.head_dim, rank);
        add(T::IndexK, index.head_dim, d_model);
        add(T::IndexKNorm, 1, index.head_dim);
        add(T::IndexKNormBias, 1, index.head_dim);
        add(T::IndexWeights, index.heads, d_model);
    }
}

/// The roles of a block's matrices and of their biases.
type MlpRoles = (fn(Part) -> LayerTensor, fn(Part) -> LayerTensor);

fn mlp_tensors(mlp: &MlpSpec, d_model: usize, (weight, bias): MlpRoles, add: Add<'_>) {
    for BankMatrix { part, rows, cols } in mlp.matrices(d_model) {
        add(weight(part), rows, cols);
        if mlp.bias {
            add(bias(part), 1, rows);
        }
    }
}

fn moe_tensors(moe: &MoeSpec, (d_model, tasks): (usize, usize), add: Add<'_>) {
    if let SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp) = &moe.shared {
        mlp_tensors(mlp, d_model, (T::Shared, T::SharedBias), add);
    }
    if !matches!(moe.router_input, RouterInput::Groups { .. }) {
        add(T::Router, tasks * moe.experts, d_model);
    }
    if moe.out_bias {
        add(T::ExpertsOutBias, 1, d_model);
    }
    if moe.router.bias {
        add(T::RouterBias, 1, moe.experts);
    }
    if matches!(moe.router_input, RouterInput::Residual { .. }) {
        add(T::RouterNorm, 1, d_model);
    }
    if moe.router.expert_scales {
        add(T::ExpertScales, 1, moe.experts);
    }
    if moe.router.select.has_bias() {
        add(T::SelectBias, 1, moe.experts);
    }
    if matches!(moe.shared, SharedExpert::Gated(_)) {
        add(T::SharedInput, 1, d_model);
    }
    if let Some(latent) = moe.latent {
        add(T::LatentDown, latent, d_model);
        add(T::LatentUp, d_model, latent);
    }
    if moe.expert.bias {
        moe.expert.matrices(d_model).for_each(|m| add(T::ExpertsBias(m.part), moe.experts, m.rows));
    }
}
