//! Branches of shapes that no released model has yet: feed-forward blocks of two matrices, biases, norms of
//! outputs, parallel branches, layers with one branch and with three, two expert banks in a layer. Each model
//! computes what a naive oracle computes. Threads, chunks, memory and batch neighbours never change a bit.

mod made;
mod oracle;
mod recent;

use std::sync::Arc;

use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::Observer;
use moelten_engine::Prefetch;
use moelten_engine::Routing;
use moelten_engine::Sequence;
use moelten_engine::plan::{Io, Ram, SequenceOptions};
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::spec::{
    Activation, AttentionSpec, BankKey, BranchSpec, ConvSpec, ExpertGroups, IndexerSpec, Join, KdaSpec,
    KvSource, LayerInputSpec, LayerInputs, LayerSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, Op, OutputGate,
    Place, QkNorm, Renormalise, RouterInput, Scoring, Select, SelectiveSpec, SharedExpert, SsmSpec,
    Temperature,
};
use moelten_quant::{Format, Isa};

use crate::batch::{alone, check_batch, scripts};
use crate::common::{How, deviation, distance, logits, session, spread, stepwise, whole};
use Place::{Ffn, Mixer};
use made::{
    D_FF, D_FF_BLOCKS, EXPERTS, Made, VOCAB, attention, branch, delta, latent, layer, mlp, model, moe,
    parallel,
};

/// Largest error of a logit, as a share of the standard deviation of all.
const TOLERANCE: f32 = 1e-4;
/// Root mean square of the errors that rounding activations to 8 bits may cause, as the same share.
const ROUNDING: f32 = 0.05;

fn text(tokens: usize) -> Vec<u32> {
    (0..tokens).map(|i| (i * i * 7 + i * 5 + 3) as u32 % VOCAB as u32).collect()
}

/// Compares logits with the oracle on every instruction set.
fn check_values(made: &Made, ids: &[u32]) {
    let expected = oracle::logits(made, ids);
    for isa in Isa::available() {
        let model = made.model(How { isa: Some(isa), threads: Some(2), ..Default::default() });
        let (got, _) = logits(&mut sequence(&model, ids.len()), ids);
        let error = distance(&got, &expected) / spread(&expected);
        println!("{:30} {:8} worst logit error {error:.1e} of the spread", made.name, isa.name());
        assert!(error <= TOLERANCE, "{} on {}: {error}", made.name, isa.name());
    }
}

/// A sequence with a cache in single precision.
fn sequence(model: &Arc<Model>, context: usize) -> Sequence {
    let options = SequenceOptions { context: Some(context), kv: KvFormat::F32 };
    Sequence::new(Arc::clone(model), options).unwrap()
}

/// Bits of the logits of a text that is read in pieces of these lengths in turn.
fn in_pieces(sequence: &mut Sequence, ids: &[u32], lengths: &[usize]) -> Vec<u32> {
    let (mut rest, mut all) = (ids, Vec::new());
    for &length in lengths.iter().cycle() {
        let (piece, others) = rest.split_at(length.min(rest.len()));
        all.extend(whole(sequence, piece));
        rest = others;
        if rest.is_empty() {
            break;
        }
    }
    all
}

/// Threads, chunks, the least memory and neighbours in a batch never change a bit.
fn check_bits(made: &Made, ids: &[u32]) {
    let name = &made.name;
    let one_thread = made.model(How { threads: Some(1), ..Default::default() });
    assert!(!one_thread.experts().streams(), "{name}");
    let expected = whole(&mut sequence(&one_thread, ids.len()), ids);
    let scripts = scripts(ids, 4);
    let of_scripts: Vec<_> = scripts.iter().map(|script| alone(&one_thread, script)).collect();
    let check = |model: &Arc<Model>, how: &str| {
        let new = || sequence(model, ids.len());
        assert!(whole(&mut new(), ids) == expected, "{name}, {how}: whole");
        for lengths in [&[1, 7, 4][..], &[9]] {
            assert!(in_pieces(&mut new(), ids, lengths) == expected, "{name}, {how}: {lengths:?}");
        }
        assert!(stepwise(&mut new(), ids) == expected, "{name}, {how}: token by token");
        for count in [2, 4] {
            check_batch(&format!("{name}, {how}, {count}"), model, &scripts[..count], &of_scripts[..count]);
        }
    };
    check(&one_thread, "1 thread");
    for threads in [2, 3] {
        let model = made.model(How { threads: Some(threads), ..Default::default() });
        check(&model, &format!("{threads} threads"));
    }
    if made.spec.banks().next().is_some() {
        for prefetch in [Prefetch::Off, Prefetch::On] {
            let how = How { threads: Some(2), ram: Ram::Min, io: Io::Direct, prefetch, ..Default::default() };
            let model = made.model(how);
            assert!(model.experts().streams(), "{name}");
            check(&model, &format!("streamed, {prefetch:?}"));
            let stats = model.experts().stats();
            assert!(stats.decode.missed > 0 && stats.prefill.missed > 0, "{name}: {stats:?}");
        }
    }
}

/// F32 weights against the oracle, and the bits of F32 and of quantised weights. `layers` takes the width of
/// hidden layers.
fn check(name: &str, layers: impl Fn(usize) -> Vec<LayerSpec>) {
    check_spec(name, |d_ff| model(layers(d_ff)));
}

/// As [`check`], but without comparing values of quantised weights: codes of activations are rounded, and a
/// token whose choice that moves computes something else altogether.
fn check_choices(name: &str, layers: impl Fn(usize) -> Vec<LayerSpec>) {
    check_spec_choices(name, |d_ff| model(layers(d_ff)));
}

fn check_spec_choices(name: &str, spec: impl Fn(usize) -> ModelSpec) {
    let dir = tempfile::tempdir().unwrap();
    let ids = text(24);
    let exact = Made::new(dir.path(), name, spec(D_FF), &[Format::F32]);
    check_values(&exact, &ids);
    check_bits(&exact, &ids);
    let formats = [Format::Q4_0, Format::F32, Format::Q8_0, Format::Q4_0, Format::BF16];
    let quantised = format!("{name}-quantised");
    check_bits(&Made::new(dir.path(), &quantised, spec(D_FF_BLOCKS), &formats), &ids);
}

fn check_spec(name: &str, spec: impl Fn(usize) -> ModelSpec) {
    let dir = tempfile::tempdir().unwrap();
    let ids = text(24);
    let exact = Made::new(dir.path(), name, spec(D_FF), &[Format::F32]);
    check_values(&exact, &ids);
    check_bits(&exact, &ids);
    // Formats of both kinds of activations, next to each other in a block.
    let formats = [Format::Q4_0, Format::F32, Format::Q8_0, Format::Q4_0, Format::BF16];
    let quantised = Made::new(dir.path(), &format!("{name}-quantised"), spec(D_FF_BLOCKS), &formats);
    check_bits(&quantised, &ids);
    // Codes of activations are rounded, which may move a token to another expert.
    let model = quantised.model(How { threads: Some(2), ..Default::default() });
    let (got, _) = logits(&mut sequence(&model, ids.len()), &ids);
    let error = deviation(&got, &oracle::logits(&quantised, &ids));
    println!("{:30} rms logit error {error:.1e} of the spread", quantised.name);
    assert!(error <= ROUNDING, "{}: {error}", quantised.name);
}

fn dense(d_ff: usize, gated: bool, bias: bool) -> Op {
    Op::Mlp(mlp(d_ff, gated, bias))
}

#[test]
fn feed_forward_blocks_of_two_matrices() {
    check("two-matrices-dense", |d_ff| {
        let layers =
            (0..2).map(|_| layer([branch(Mixer, attention(false)), branch(Ffn, dense(d_ff, false, false))]));
        layers.collect()
    });
    check("two-matrices-experts", |d_ff| {
        let expert = mlp(d_ff, false, false);
        let shared = [SharedExpert::None, SharedExpert::Plain(mlp(2 * d_ff, false, false))];
        let layers = shared
            .into_iter()
            .map(|shared| layer([branch(Mixer, attention(false)), branch(Ffn, moe(expert, shared))]));
        layers.collect()
    });
}

#[test]
fn gated_delta_nets() {
    use moelten_loader::spec::{DeltaLayout as Layout, DeltaOrder as Order};
    check("delta", |d_ff| {
        let kinds = [
            (Layout::Apart, Order::Grouped, true),
            (Layout::Apart, Order::Tiled, false),
            (Layout::StepsByKeyHead, Order::Grouped, false),
            (Layout::ByKeyHead, Order::Grouped, true),
        ];
        let layers = kinds.into_iter().map(|(layout, order, log)| {
            layer([branch(Mixer, delta(layout, order, log)), branch(Ffn, dense(d_ff, true, false))])
        });
        layers.chain([layer([branch(Mixer, attention(false))])]).collect()
    });
}

/// Mamba and Mamba-2 blocks, alone in their layers and beside others; blocks of two matrices with a squared
/// ReLU.
#[test]
fn state_space_recurrences() {
    check("ssm", |d_ff| {
        let ssm = |heads, groups, conv_bias, log_decay| {
            let (head_dim, state, conv_kernel, norm_eps) = (16, 24, 4, 1e-5);
            Op::Ssm(SsmSpec { heads, head_dim, groups, state, conv_kernel, conv_bias, norm_eps, log_decay })
        };
        let selective = |conv_bias, log_decay| {
            let (inner, state, rank, conv_kernel, norm_eps) = (96, 8, 32, 4, 1e-5);
            Op::Selective(SelectiveSpec { inner, state, rank, conv_kernel, conv_bias, norm_eps, log_decay })
        };
        let squared = MlpSpec { activation: Activation::ReluSquared, ..mlp(d_ff, false, false) };
        vec![
            layer([branch(Mixer, ssm(8, 2, true, false))]),
            layer([branch(Mixer, Op::Mlp(squared))]),
            layer([branch(Mixer, ssm(4, 1, false, true)), branch(Ffn, Op::Mlp(squared))]),
            layer([branch(Mixer, selective(true, false)), branch(Ffn, dense(d_ff, true, false))]),
            layer([branch(Mixer, selective(false, true))]),
            layer([branch(Mixer, attention(false))]),
        ]
    });
}

/// Delta attention with rates by row, beside latent attention without positions and with gates of heads.
#[test]
fn kimi_delta_attention() {
    check("kda", |d_ff| {
        let kda = |rank, lower_bound, log_decay| {
            let (heads, head_dim, conv_kernel, norm_eps) = (4, 32, 4, 1e-5);
            Op::Kda(KdaSpec { heads, head_dim, conv_kernel, rank, lower_bound, norm_eps, log_decay })
        };
        let latent = |rope: bool, gate| {
            let Op::Latent(mut spec) = latent(None, true) else { unreachable!("it is latent") };
            spec.attention.gate = gate;
            spec.attention.rope = spec.attention.rope.filter(|_| rope);
            Op::Latent(spec)
        };
        let mixers = [
            kda(Some(32), None, false),
            latent(false, None),
            kda(None, Some(-5.0), true),
            latent(true, Some(OutputGate::SigmoidPerHead)),
        ];
        mixers.map(|mixer| layer([branch(Mixer, mixer), branch(Ffn, dense(d_ff, true, false))])).into()
    });
}

/// Latent attention to a choice of tokens, which a short text does not need and a longer one does.
#[test]
fn sparse_attention() {
    check_choices("sparse", |d_ff| {
        let layers = [(6, true), (11, false)].map(|(top, split)| {
            let Op::Latent(mut spec) = latent(Some(64), split) else { unreachable!("it is latent") };
            let rope = spec.attention.rope.clone().expect("it has a rope");
            // Many heads: with few of them many scores are 0, and ties decide.
            spec.indexer = Some(IndexerSpec { heads: 16, head_dim: 32, top, rope, norm_eps: 1e-6 });
            layer([branch(Mixer, Op::Latent(spec)), branch(Ffn, dense(d_ff, true, false))])
        });
        layers.into()
    });
}

/// Experts whose inputs are weighed, a shared expert that counts half, and a bounded activation.
#[test]
fn experts_with_weighed_inputs() {
    check_choices("weighed-inputs", |d_ff| {
        let layers = [0.4, 2.0].map(|limit| {
            let bounded = MlpSpec { activation: Activation::BoundedSilu { limit }, ..mlp(d_ff, true, false) };
            let Op::Moe(mut spec) = moe(bounded, SharedExpert::Plain(bounded)) else {
                unreachable!("it is a mixture")
            };
            let (scoring, groups) = (Scoring::Sigmoid, None);
            let renormalise = Renormalise::No;
            spec.router.select = Select::Scored { k: 1, scoring, bias: false, groups, renormalise };
            (spec.weighs_inputs, spec.shared_scale) = (true, 0.5);
            layer([branch(Mixer, attention(false)), branch(Ffn, Op::Moe(spec))])
        });
        layers.into()
    });
}

/// Experts that are narrower than the residual stream.
#[test]
fn latent_experts() {
    check("latent-experts", |d_ff| {
        let shared = [SharedExpert::None, SharedExpert::Plain(mlp(d_ff, false, false))];
        let layers = shared.into_iter().map(|shared| {
            let Op::Moe(mut spec) = moe(mlp(d_ff, false, false), shared) else {
                unreachable!("it is a mixture")
            };
            spec.latent = Some(32);
            layer([branch(Mixer, attention(false)), branch(Ffn, Op::Moe(spec))])
        });
        layers.collect()
    });
}

#[test]
fn short_convolutions() {
    check("conv", |d_ff| {
        let conv = |kernel, bias| Op::Conv(ConvSpec { width: made::D_MODEL, kernel, bias });
        let mixers = [conv(3, false), conv(5, true), attention(false), conv(2, false)];
        mixers.map(|mixer| layer([branch(Mixer, mixer), branch(Ffn, dense(d_ff, true, false))])).into()
    });
}

#[test]
fn latent_attention() {
    check("latent", |d_ff| {
        let kinds = [(None, false), (Some(64), false), (None, true), (Some(32), true)];
        let layers = kinds.into_iter().map(|(query_rank, split)| {
            layer([branch(Mixer, latent(query_rank, split)), branch(Ffn, dense(d_ff, true, false))])
        });
        layers.collect()
    });
}

/// Blocks of three and of two matrices: dense, shared with and without a gate, and experts.
#[test]
fn biases_everywhere() {
    check_spec("biases", |d_ff| {
        let mixer = || branch(Mixer, attention(true));
        let blocks = [true, false].into_iter().flat_map(|gated| {
            let block = mlp(d_ff, gated, true);
            let shared = [SharedExpert::Plain(mlp(2 * d_ff, gated, true)), SharedExpert::Gated(block)];
            let experts = shared.map(|shared| moe(block, shared));
            [Op::Mlp(block)].into_iter().chain(experts)
        });
        let norm = NormSpec::Layer { eps: 1e-5 };
        let layers = blocks.map(|block| {
            let mut both = layer([mixer(), branch(Ffn, block)]);
            both.branches.iter_mut().for_each(|branch| branch.pre_norm = Some(norm));
            both
        });
        ModelSpec { final_norm: Some(norm), ..model(layers.collect()) }
    });
}

/// Norms of outputs, beside norms of inputs and instead of them, and factors on what joins.
#[test]
fn norms_of_outputs() {
    check("post-norms", |d_ff| {
        let (rms, norm) = (NormSpec::Rms { eps: 1e-5 }, NormSpec::Layer { eps: 1e-5 });
        let experts = moe(mlp(d_ff, true, false), SharedExpert::None);
        let ffns = [dense(d_ff, true, false), experts.clone(), experts];
        let kinds = [(Some(rms), rms), (None, rms), (Some(norm), norm)];
        let layers = ffns.into_iter().zip(kinds).map(|(ffn, (pre, post))| {
            let mut both = layer([branch(Mixer, attention(false)), branch(Ffn, ffn)]);
            for (branch, scale) in both.branches.iter_mut().zip([0.7, 1.3]) {
                (branch.pre_norm, branch.post_norm, branch.scale) = (pre, Some(post), scale);
            }
            both
        });
        layers.collect()
    });
}

/// Gates on mixed values, capped scores, queries that grow with their position, norms after rope, runs of
/// tokens, values that are narrower than keys; a layer norm without bias, ReLU, and a head whose logits are
/// capped.
#[test]
fn attention_of_other_kinds() {
    check_spec("attention-kinds", |d_ff| {
        let with = |change: &dyn Fn(&mut AttentionSpec)| {
            let Op::Attention(mut spec) = attention(false) else { unreachable!("it is attention") };
            change(&mut spec);
            let relu = MlpSpec { activation: Activation::Relu, ..mlp(d_ff, true, false) };
            let mut both = layer([branch(Mixer, Op::Attention(spec)), branch(Ffn, Op::Mlp(relu))]);
            let norm = NormSpec::LayerUnbiased { eps: 1e-5 };
            both.branches.iter_mut().for_each(|branch| branch.pre_norm = Some(norm));
            both
        };
        let layers = vec![
            with(&|spec| spec.gate = Some(OutputGate::SigmoidPerValue)),
            with(&|spec| spec.gate = Some(OutputGate::SigmoidWithQuery)),
            with(&|spec| spec.gate = Some(OutputGate::SoftplusPerHead)),
            with(&|spec| spec.softcap = Some(0.75)),
            with(&|spec| spec.temperature = Some(Temperature { beta: 0.5, period: 3, offset: 1 })),
            with(&|spec| spec.gate = Some(OutputGate::SigmoidPerHead)),
            with(&|spec| spec.qk_norm = QkNorm::PlainAfterRope { eps: 1e-5 }),
            with(&|spec| spec.chunk = Some(5)),
            with(&|spec| (spec.value_dim, spec.value_scale) = (8, 0.7)),
            with(&|spec| {
                (spec.value_dim, spec.gate) = (8, Some(OutputGate::SigmoidPerValue));
            }),
            with(&|spec| spec.qk_norm = QkNorm::PerHeadAfterRope { eps: 1e-5 }),
        ];
        let mut spec = model(layers);
        spec.head.softcap = Some(0.8);
        spec
    });
}

/// Keys that are values, too, values with a norm, keys of an earlier layer.
#[test]
fn keys_and_values_from_elsewhere() {
    check("kv-sources", |d_ff| {
        let with = |source, value_norm| {
            let Op::Attention(spec) = attention(false) else { unreachable!("it is attention") };
            let qk_norm = QkNorm::PerHeadAfterRope { eps: 1e-5 };
            let spec = AttentionSpec { source, value_norm, qk_norm, ..spec };
            layer([branch(Mixer, Op::Attention(spec)), branch(Ffn, dense(d_ff, true, false))])
        };
        vec![
            with(KvSource::Projected, None),
            with(KvSource::Shared, Some(1e-5)),
            with(KvSource::Layer(1), Some(1e-5)),
            with(KvSource::Layer(0), None),
        ]
    });
}

/// Experts beside a dense block whose sum has a norm, with a router that has its own norm and factors of
/// experts; a factor on the residual stream; the layer's own numbers of a token.
#[test]
fn sums_with_a_norm_and_numbers_of_a_layer() {
    check_spec("gemma4", |d_ff| {
        let experts = || {
            let Op::Moe(mut spec) = moe(mlp(d_ff, true, false), SharedExpert::None) else {
                unreachable!("it is a mixture")
            };
            spec.router.expert_scales = true;
            spec.router_input = RouterInput::Residual { eps: 1e-5 };
            let post_norm = Some(NormSpec::Rms { eps: 1e-5 });
            BranchSpec { post_norm, ..parallel(branch(Place::Experts, Op::Moe(spec))) }
        };
        let width = 32;
        let own = || {
            let spec = LayerInputSpec { width, activation: Activation::GeluTanh };
            let post_norm = Some(NormSpec::Rms { eps: 1e-5 });
            let branch = branch(Place::LayerInput, Op::LayerInput(spec));
            BranchSpec { pre_norm: None, post_norm, ..branch }
        };
        let mixer = || branch(Mixer, attention(false));
        let block = |place| branch(place, dense(d_ff, true, false));
        let summed = LayerSpec {
            sum_norm: Some(NormSpec::Rms { eps: 1e-5 }),
            ..layer([mixer(), block(Place::Dense), experts()])
        };
        let scaled = LayerSpec { scaled: true, ..layer([mixer(), block(Ffn), own()]) };
        let mut both = LayerSpec { scaled: true, ..summed.clone() };
        both.branches.push(own());
        ModelSpec {
            layer_inputs: Some(LayerInputs { width, eps: 1e-5 }),
            ..model(vec![summed, scaled, both])
        }
    });
}

/// Experts chosen by score and bias, out of all of them and out of the best groups.
#[test]
fn experts_by_score_and_bias() {
    check("scored-experts", |d_ff| {
        let groups = [None, Some(ExpertGroups { count: 3, kept: 2, summed: 2 })];
        let layers = groups.into_iter().zip([Renormalise::No, Renormalise::Plus(1e-20)]);
        let layers = layers.map(|(groups, renormalise)| {
            let Op::Moe(mut spec) = moe(mlp(d_ff, true, false), SharedExpert::None) else {
                unreachable!("it is a mixture")
            };
            spec.experts = 6;
            spec.router.select =
                Select::Scored { k: 3, scoring: Scoring::Sigmoid, bias: true, groups, renormalise };
            layer([branch(Mixer, attention(false)), branch(Ffn, Op::Moe(spec))])
        });
        layers.collect()
    });
}

/// Experts beside a dense block, and a router before attention: both read what the layer received.
#[test]
fn branches_that_read_what_the_layer_received() {
    check("outset", |d_ff| {
        let experts = || moe(mlp(d_ff, true, false), SharedExpert::None);
        let beside = BranchSpec { join: Join::Outset, ..branch(Place::Experts, experts()) };
        let Op::Moe(spec) = experts() else { unreachable!("it is a mixture") };
        let early = Op::Moe(MoeSpec { router_input: RouterInput::Outset, ..spec });
        vec![
            layer([branch(Mixer, attention(false)), branch(Ffn, dense(d_ff, true, false)), beside]),
            layer([branch(Mixer, attention(false)), branch(Ffn, early)]),
        ]
    });
}

/// Attention and feed-forward blocks that read the same residual stream, in either order.
fn parallel_layers(d_ff: usize) -> Vec<LayerSpec> {
    let block = || branch(Ffn, dense(d_ff, true, false));
    let experts = || branch(Ffn, moe(mlp(d_ff, true, false), SharedExpert::None));
    let mixer = || branch(Mixer, attention(false));
    let mut scaled = layer([mixer(), parallel(experts())]);
    scaled.branches[0].scale = 0.6;
    scaled.branches[1].post_norm = Some(NormSpec::Rms { eps: 1e-5 });
    vec![layer([mixer(), parallel(block())]), scaled, layer([block(), parallel(mixer())])]
}

#[test]
fn parallel_branches() {
    check("parallel", parallel_layers);
}

#[test]
fn layers_with_one_branch() {
    check("one-branch", |d_ff| {
        let experts = moe(mlp(d_ff, true, false), SharedExpert::None);
        let branches = [
            branch(Ffn, dense(d_ff, true, false)),
            branch(Mixer, attention(false)),
            branch(Ffn, experts.clone()),
            branch(Mixer, attention(false)),
            branch(Ffn, experts),
        ];
        branches.map(|branch| layer([branch])).into()
    });
}

/// Attention, a dense block and experts, joined in every way; and two attentions in one layer, each with its
/// own state.
fn layers_of_three(d_ff: usize) -> Vec<LayerSpec> {
    let mixer = || branch(Mixer, attention(false));
    let block = || branch(Ffn, dense(d_ff, true, false));
    let experts = || branch(Ffn, moe(mlp(d_ff, true, false), SharedExpert::None));
    vec![
        layer([mixer(), block(), experts()]),
        layer([mixer(), parallel(block()), parallel(experts())]),
        layer([mixer(), parallel(experts()), block()]),
        layer([mixer(), block(), parallel(experts())]),
        layer([mixer(), block(), mixer()]),
    ]
}

#[test]
fn layers_with_three_branches() {
    check("three-branches", layers_of_three);
}

/// Texts that are longer than a pass of attention.
#[test]
fn long_chunks_of_parallel_branches() {
    let dir = tempfile::tempdir().unwrap();
    let ids = text(530);
    let made = Made::new(dir.path(), "parallel-long", model(parallel_layers(D_FF)), &[Format::F32]);
    check_values(&made, &ids);
    let model = made.model(How { threads: Some(2), ..Default::default() });
    let expected = whole(&mut sequence(&model, ids.len()), &ids);
    assert!(in_pieces(&mut sequence(&model, ids.len()), &ids, &[100, 415, 1]) == expected);
}

/// The banks that routers have chosen from, in the order of computation.
#[derive(Default)]
struct Banks(Vec<BankKey>);

impl Observer for Banks {
    fn routed(&mut self, bank: BankKey, _: &Routing) {
        self.0.push(bank);
    }
}

/// Files have names for one bank of a layer. So both banks of a layer hold the same experts here, and differ
/// in the norm of their input alone.
#[test]
fn two_banks_in_a_layer() {
    let layers = |d_ff| {
        let experts = || moe(mlp(d_ff, true, false), SharedExpert::None);
        let in_order = layer([branch(Mixer, experts()), branch(Ffn, experts())]);
        let mixer = branch(Mixer, attention(false));
        let at_once = layer([mixer, branch(Ffn, experts()), parallel(branch(Mixer, experts()))]);
        vec![in_order, at_once]
    };
    check("two-banks", layers);
    let dir = tempfile::tempdir().unwrap();
    let made = Made::new(dir.path(), "two-banks", model(layers(D_FF)), &[Format::F32]);
    let expected: Vec<BankKey> =
        [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(layer, bank)| BankKey { layer, bank }).into();
    for ram in [Ram::Auto, Ram::Min] {
        let model = made.model(How { ram, io: Io::Auto, ..Default::default() });
        let (mut sequence, mut banks) = (session(&model, KvFormat::F32), Banks::default());
        sequence.append(&text(5), &Cancel::new(), &mut banks, &mut |_| {}).unwrap();
        assert_eq!(banks.0, expected);
        let rows = model.live().map().rows;
        let keys: Vec<BankKey> =
            rows.iter().map(|row| BankKey { layer: row.layer, bank: row.bank }).collect();
        assert_eq!(keys, expected, "{ram:?}");
        assert!(rows.iter().all(|row| row.cells.len() == EXPERTS && row.requested > 0), "{rows:?}");
    }
}
