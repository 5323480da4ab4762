//! Shapes of the latest families: adjugate experts, mixtures of attention heads, several residual streams,
//! attention to compressed tokens.

use moelten_loader::spec::{
    Activation, AttentionSpec, BlockChoice, BranchSpec, CompressedSpec, CompressorSpec, GroupWeights,
    HeadExpertsSpec, Join, KvSource, MlpSpec, ModelSpec, Op, Pairing, Place, Renormalise, RouterInput,
    RouterSpec, RowChoice, Scoring, Second, Select, SharedExpert, StreamMix, StreamsSpec,
};

use super::made::{EXPERTS, attention, branch, layer, mlp, model, moe};
use super::{check_choices, check_spec_choices, dense};
use Place::{Ffn, Mixer};

/// Experts chosen with the layer's experts, which read what these give.
#[test]
fn adjugate_experts_behind() {
    adjugate(GroupWeights::OfNumbers, Join::Output);
}

/// The same, which read what these read.
#[test]
fn adjugate_experts_beside() {
    adjugate(GroupWeights::OfExperts, Join::Beside);
}

fn adjugate(weights: GroupWeights, join: Join) {
    check_choices("adjugate", |d_ff| {
        let layers = [(6, 2, 2, 0.05), (6, 3, 4, 0.7)].map(|(experts, size, k, scale)| {
            let Op::Moe(mut spec) = moe(mlp(d_ff, true, false), SharedExpert::None) else {
                unreachable!("it is a mixture")
            };
            spec.experts = experts;
            spec.router.select = Select::SoftmaxTopK { k, renormalise: true };
            let mut adjugate = spec.clone();
            adjugate.experts = experts / size;
            adjugate.router_input = RouterInput::Groups { size, weights };
            let k = k.min(experts / size);
            adjugate.router.select = Select::SoftmaxTopK { k, renormalise: true };
            adjugate.router.scale = 1.0;
            let behind = branch(Place::Adjugate, Op::Moe(adjugate));
            let behind = BranchSpec { join, pre_norm: None, scale, ..behind };
            layer([branch(Mixer, attention(false)), branch(Ffn, Op::Moe(spec)), behind])
        });
        layers.into()
    });
}

/// Several residual streams with attention to compressed tokens: to the window alone, to all rows, and to a
/// choice of rows that stand for two runs each; experts that are listed by token, and chosen ones.
#[test]
fn streams_and_compressed_tokens() {
    let spec = |d_ff: usize| {
        let compressor = |rate, top: Option<usize>| {
            let choice = top.map(|top| RowChoice { heads: 16, head_dim: 32, top });
            Some(CompressorSpec { rate, choice })
        };
        let kinds = [None, compressor(5, None), compressor(4, Some(2)), compressor(3, Some(3))];
        let layers = kinds.into_iter().enumerate().map(|(layer_number, compressor)| {
            let Op::Attention(spec) = attention(false) else { unreachable!("it is attention") };
            let mut rope = spec.rope.clone().expect("it has a rope");
            rope.pairing = Pairing::Adjacent;
            let attention = AttentionSpec {
                kv_heads: 1,
                head_dim: 32,
                value_dim: 32,
                sinks: true,
                rope: Some(rope),
                window: Some(6),
                source: KvSource::Shared,
                ..spec
            };
            let (query_rank, norm_eps, groups, group_rank) = (32, 1e-5, 2, 32);
            let mixer = CompressedSpec { attention, query_rank, norm_eps, groups, group_rank, compressor };
            let clamped =
                MlpSpec { activation: Activation::ClampedSilu { limit: 0.7 }, ..mlp(d_ff, true, false) };
            let Op::Moe(mut experts) = moe(clamped, SharedExpert::Plain(clamped)) else {
                unreachable!("it is a mixture")
            };
            let (bias, renormalise) = (layer_number > 1, Renormalise::Plus(1e-20));
            let scoring = Scoring::SqrtSoftplus;
            experts.router.select = Select::Scored { k: 2, scoring, bias, groups: None, renormalise };
            experts.router.listed = !bias;
            layer([branch(Mixer, Op::Compressed(mixer)), branch(Ffn, Op::Moe(experts))])
        });
        let mix = StreamMix::Sinkhorn { iterations: 5, eps: 1e-6, norm_eps: 1e-5 };
        ModelSpec { streams: Some(StreamsSpec { count: 3, mix }), ..model(layers.collect()) }
    };
    check_spec_choices("streams", spec);
}

/// Attention experts and experts of two matrices, as many for each token as are over a threshold.
#[test]
fn experts_over_a_threshold() {
    check_choices("threshold", |d_ff| {
        let layers = [(0.9, EXPERTS, false), (0.5, 3, true)].map(|(eps, most, renormalise)| {
            let select = Select::Threshold { eps, most, renormalise };
            let Op::Attention(spec) = attention(false) else { unreachable!("it is attention") };
            let attention = AttentionSpec { heads: 2 * most, kv_heads: 2, ..spec };
            let router = RouterSpec {
                bias: false,
                select: select.clone(),
                scale: 1.5,
                listed: false,
                expert_scales: false,
                capacity: None,
            };
            let heads = HeadExpertsSpec { attention, experts: EXPERTS, router };
            let Op::Moe(mut experts) = moe(mlp(d_ff, false, false), SharedExpert::None) else {
                unreachable!("it is a mixture")
            };
            experts.router.select = select;
            layer([branch(Mixer, Op::HeadExperts(heads)), branch(Ffn, Op::Moe(experts))])
        });
        layers.into()
    });
}

/// Rules from before transformers' models: a softmax gate over all experts (Jacobs 1991), the weights of the
/// chosen ones alone (Shazeer 2017), every other layer dense (GLaM), the second expert where it has a part
/// (ST-MoE).
#[test]
fn older_rules() {
    check_choices("older", |d_ff| {
        let selects = [
            Some(Select::SoftmaxTopK { k: EXPERTS, renormalise: false }),
            Some(Select::SoftmaxTopK { k: 3, renormalise: true }),
            None,
            Some(Select::TopTwo { second: Second::Over(0.35) }),
        ];
        let layers = selects.map(|select| {
            let ffn = match select {
                None => Op::Mlp(mlp(d_ff, true, false)),
                Some(select) => {
                    let Op::Moe(mut experts) = moe(mlp(d_ff, false, false), SharedExpert::None) else {
                        unreachable!("it is a mixture")
                    };
                    experts.router.select = select;
                    Op::Moe(experts)
                }
            };
            layer([branch(Mixer, attention(false)), branch(Ffn, ffn)])
        });
        layers.into()
    });
}

/// Query heads out of experts, one and two for each key head, beside other experts and alone.
#[test]
fn mixtures_of_attention_heads() {
    check_choices("heads", |d_ff| {
        let heads = |heads, kv_heads, k, renormalise, out_bias| {
            let Op::Attention(spec) = attention(false) else { unreachable!("it is attention") };
            let attention = AttentionSpec { heads, kv_heads, out_bias, ..spec };
            let select = Select::SoftmaxTopK { k, renormalise };
            let router = RouterSpec {
                bias: false,
                select,
                scale: 1.5,
                listed: false,
                expert_scales: false,
                capacity: None,
            };
            Op::HeadExperts(HeadExpertsSpec { attention, experts: EXPERTS, router })
        };
        let Op::Moe(mut experts) = moe(mlp(d_ff, true, false), SharedExpert::None) else {
            unreachable!("it is a mixture")
        };
        experts.out_bias = true;
        vec![
            layer([branch(Mixer, heads(4, 2, 2, true, true)), branch(Ffn, Op::Moe(experts))]),
            layer([branch(Mixer, heads(8, 2, 2, false, false)), branch(Ffn, dense(d_ff, true, false))]),
            layer([branch(Mixer, heads(3, 1, 3, true, false))]),
        ]
    });
}

/// Gated residual streams, and attention to chosen blocks of tokens.
#[test]
fn gated_streams_and_blocks_of_tokens() {
    check_spec_choices("gated-streams", |d_ff| {
        let layers = [(3, 2), (4, 1)].map(|(size, top)| {
            let Op::Attention(spec) = attention(false) else { unreachable!("it is attention") };
            // Many heads: with few of them many scores are 0, and ties decide.
            let blocks = Some(BlockChoice { heads: 16, head_dim: 16, size, top, norm_eps: 1e-5 });
            let attention = AttentionSpec { blocks, ..spec };
            let experts = moe(mlp(d_ff, true, false), SharedExpert::Plain(mlp(d_ff, true, false)));
            let mut both = layer([branch(Mixer, Op::Attention(attention)), branch(Ffn, experts)]);
            both.branches.iter_mut().for_each(|branch| branch.pre_norm = None);
            both
        });
        let mix = StreamMix::Gated { rank: 32, norm_eps: 1e-5 };
        ModelSpec { streams: Some(StreamsSpec { count: 4, mix }), ..model(layers.into()) }
    });
}
