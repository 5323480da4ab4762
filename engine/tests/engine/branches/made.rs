//! Small models of any shape, with random weights, in GGUF files without metadata: the spec is made here, so
//! that shapes that no released model has can be run. It must not know how a layer computes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_engine::{Model, ModelOptions};
use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::spec::{
    Activation, AttentionSpec, BankMatrix, BranchSpec, DeltaLayout, DeltaOrder, DeltaSpec, HeadSpec, Join,
    KvSource, LatentSpec, LayerSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, Op, Pairing, Place, QkNorm,
    RopeScaling, RopeSpec, RouterInput, RouterSpec, Select, SharedExpert,
};
use moelten_loader::tensors::needed::{needed, whole_numbers};
use moelten_loader::tensors::roles::{GGUF_NAMES, LayerTensor, Role, gguf_name};
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{Format, decode, encode};

use crate::common::How;

/// Width of the residual stream.
pub const D_MODEL: usize = 64;
/// Width of hidden layers in F32 files: a group of 32 rows and a part of one.
pub const D_FF: usize = 40;
/// Width of hidden layers in quantised files: whole blocks.
pub const D_FF_BLOCKS: usize = 96;
/// Tokens that the models know.
pub const VOCAB: usize = 48;
/// Experts of a bank.
pub const EXPERTS: usize = 5;

/// A model in a file, and its weights as the kernels see them.
pub struct Made {
    pub name: String,
    pub spec: ModelSpec,
    pub path: PathBuf,
    weights: BTreeMap<Role, Vec<f32>>,
    /// Experts of each token of the vocabulary.
    tables: BTreeMap<Role, Vec<u16>>,
}

impl Made {
    /// Writes a model of this spec whose matrices have these formats in turn. Vectors and routers are F32.
    pub fn new(dir: &Path, name: &str, spec: ModelSpec, formats: &[Format]) -> Self {
        let path = dir.join(format!("{name}.gguf"));
        let shapes = shapes(&spec);
        let mut formats = formats.iter().copied().cycle();
        let whole = whole_numbers(&spec).into_iter().map(|(role, rows, cols)| TensorPlan {
            name: gguf_name(role),
            storage: Storage::Other("I32"),
            shape: vec![rows as u64, cols as u64],
        });
        let plans: Vec<TensorPlan> = shapes
            .iter()
            .map(|(&role, shape)| {
                let format = if is_matrix(role) { formats.next().unwrap() } else { Format::F32 };
                let shape = shape.iter().map(|&size| size as u64).collect();
                TensorPlan { name: gguf_name(role), storage: Storage::Known(format), shape }
            })
            .chain(whole)
            .collect();
        let mut writer = GgufWriter::create(&path, &[], &plans, &[]).unwrap();
        let (mut weights, mut random) = (BTreeMap::new(), Random(1));
        for ((&role, shape), plan) in shapes.iter().zip(&plans) {
            let Storage::Known(format) = plan.storage else { unreachable!("known formats were planned") };
            let drawn = random.tensor(role, shape);
            let cols = shape[shape.len() - 1];
            let mut bytes = vec![0; drawn.len() / cols * format.row_bytes(cols).unwrap()];
            let blocks = bytes.chunks_exact_mut(format.block_bytes());
            for (values, block) in drawn.chunks_exact(format.block_len()).zip(blocks) {
                encode(format, values, block).unwrap();
            }
            let mut values = vec![0.0; drawn.len()];
            decode(format, &bytes, &mut values);
            writer.write_tensor(&plan.name, &bytes).unwrap();
            weights.insert(role, values);
        }
        let mut tables = BTreeMap::new();
        for (role, rows, cols) in whole_numbers(&spec) {
            let row =
                |row: usize| (0..cols).map(move |col| ((row * 3 + col * (1 + row % 2)) % EXPERTS) as u16);
            let table: Vec<u16> = (0..rows).flat_map(row).collect();
            let bytes: Vec<u8> = table.iter().flat_map(|&expert| i32::from(expert).to_le_bytes()).collect();
            writer.write_tensor(&gguf_name(role), &bytes).unwrap();
            tables.insert(role, table);
        }
        writer.finish().unwrap();
        Self { name: name.to_owned(), spec, path, weights, tables }
    }

    /// The weights of a role, row by row.
    pub fn weights(&self, role: Role) -> &[f32] {
        &self.weights[&role]
    }

    /// The experts that are listed for a token.
    pub fn listed(&self, role: Role, token: u32, count: usize) -> &[u16] {
        &self.tables[&role][token as usize * count..][..count]
    }

    /// The same for tensors that only some models have.
    pub fn weights_if(&self, there: bool, role: Role) -> Option<&[f32]> {
        there.then(|| self.weights(role))
    }

    /// The model, ready to run.
    pub fn model(&self, how: How) -> Arc<Model> {
        let catalog = Gguf::open(&self.path).unwrap().catalog;
        let tensors = TensorStore::resolve(&self.spec, catalog, GGUF_NAMES).unwrap();
        // Neighbours in a batch need room, which the least memory has none of.
        let options = ModelOptions { extra: 8 << 20, ..how.options() };
        let model = Model::new(&how.runtime(), self.spec.clone(), tensors, &options);
        Arc::new(model.unwrap_or_else(|error| panic!("{}: {error}", self.name)))
    }
}

/// Every tensor of a spec with its shape, outermost dimension first.
fn shapes(spec: &ModelSpec) -> BTreeMap<Role, Vec<usize>> {
    let dense = needed(spec).into_iter().map(|(role, rows, cols)| {
        let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
        (role, shape)
    });
    let banks = spec.banks().flat_map(|(key, bank)| {
        let role = move |part| Role::Layer(key.layer, LayerTensor::of_bank(bank.kind, part));
        let tensor = move |m: BankMatrix| (role(m.part), vec![bank.experts, m.rows, m.cols]);
        bank.matrices.into_iter().map(tensor)
    });
    dense.chain(banks).collect()
}

/// Whether a tensor may be quantised.
fn is_matrix(role: Role) -> bool {
    match role {
        Role::Embed | Role::Head => true,
        Role::LayerInputTable | Role::LayerInputProjection => true,
        Role::Layer(_, LayerTensor::Router | LayerTensor::SharedInput) => false,
        Role::Layer(_, tensor) => tensor.is_matrix(),
        _ => false,
    }
}

/// Knuth's MMIX generator; its high bits are good enough for weights.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    /// Matrices keep the size of what they multiply. Norms vary around 1, biases around 0.
    fn tensor(&mut self, role: Role, shape: &[usize]) -> Vec<f32> {
        use LayerTensor as T;
        let cols = shape[shape.len() - 1] as f32;
        let (middle, reach) = match role {
            Role::Embed => (0.0, 1.7),
            Role::LayerInputTable => (0.0, 0.3),
            // Divided by the root of the width.
            Role::Layer(_, T::RouterNorm) => (8.0, 4.0),
            Role::HeadStreamScale | Role::Layer(_, T::StreamScale(_)) => (1.0, 0.5),
            Role::HeadStreamBase => (0.0, 0.5),
            Role::HeadStreamNorm => (1.0, 0.5),
            Role::FinalNorm
            | Role::LayerInputNorm
            | Role::Layer(
                _,
                T::PreNorm(_)
                | T::PostNorm(_)
                | T::SumNorm
                | T::LayerScale
                | T::IndexKNorm
                | T::SsmNorm
                | T::SsmStepNorm
                | T::SsmBNorm
                | T::SsmCNorm
                | T::ExpertScales
                | T::QNorm
                | T::KNorm
                | T::QDownNorm
                | T::CompressNorm
                | T::StreamNorm(_)
                | T::BlockQNorm
                | T::BlockKNorm
                | T::IndexCompressNorm
                | T::KvDownNorm,
            ) => (1.0, 0.5),
            // Memories must forget, or their size runs away.
            Role::Layer(_, T::DeltaDecay | T::SsmDecay) => (-0.7, 0.3),
            Role::FinalNormBias | Role::HeadBias => (0.0, 0.5),
            Role::Layer(_, tensor) if !tensor.is_matrix() => (0.0, 0.5),
            _ => (0.0, (3.0 / cols).sqrt()),
        };
        (0..shape.iter().product()).map(|_| middle + reach * self.unit()).collect()
    }
}

/// A model of these layers.
pub fn model(layers: Vec<LayerSpec>) -> ModelSpec {
    ModelSpec {
        name: "made".to_owned(),
        family: "made",
        vocab: VOCAB,
        d_model: D_MODEL,
        max_context: 4096,
        embed_scale: 1.25,
        streams: None,
        layer_inputs: None,
        positions: None,
        encoder: None,
        image: None,
        tasks: Vec::new(),
        layers,
        final_norm: Some(NormSpec::Rms { eps: 1e-5 }),
        head: HeadSpec { tied: false, bias: true, scale: 0.5, softcap: None },
    }
}

/// A layer of these branches.
pub fn layer(branches: impl IntoIterator<Item = BranchSpec>) -> LayerSpec {
    LayerSpec { branches: branches.into_iter().collect(), sum_norm: None, scaled: false }
}

/// A branch with a norm of its input, joined in order.
pub fn branch(place: Place, op: Op) -> BranchSpec {
    let pre_norm = Some(NormSpec::Rms { eps: 1e-5 });
    BranchSpec { place, join: Join::InOrder, pre_norm, op, post_norm: None, scale: 1.0 }
}

/// The same branch, reading what the branch before it reads.
pub fn parallel(branch: BranchSpec) -> BranchSpec {
    BranchSpec { join: Join::Parallel, ..branch }
}

/// Attention of 4 heads over 2 key and value heads, with rope.
pub fn attention(bias: bool) -> Op {
    let rope = RopeSpec { theta: 1e4, dim: 8, pairing: Pairing::Split, scaling: RopeScaling::None };
    Op::Attention(AttentionSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        value_dim: 16,
        scale: 0.25,
        qkv_bias: bias,
        out_bias: bias,
        sinks: bias,
        qk_norm: QkNorm::None,
        rope: Some(rope),
        window: None,
        clip_qkv: None,
        softcap: None,
        temperature: None,
        gate: None,
        source: KvSource::Projected,
        value_norm: None,
        value_scale: 1.0,
        chunk: None,
        whole: false,
        relative: None,
        blocks: None,
    })
}

/// A gated delta net of 2 key heads and 4 value heads.
pub fn delta(layout: DeltaLayout, order: DeltaOrder, log_decay: bool) -> Op {
    let (key_heads, value_heads, key_dim, value_dim) = (2, 4, 16, 32);
    let norm_eps = 1e-5;
    Op::Delta(DeltaSpec {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        conv_kernel: 4,
        norm_eps,
        layout,
        order,
        log_decay,
        sigmoid_gate: log_decay,
    })
}

/// Latent attention of 4 heads, with or without a latent query, with one matrix for keys and values or two.
pub fn latent(query_rank: Option<usize>, split: bool) -> Op {
    let rope = RopeSpec { theta: 1e4, dim: 8, pairing: Pairing::Split, scaling: RopeScaling::None };
    let (rank, nope) = (32, 32);
    let attention = AttentionSpec {
        heads: 4,
        kv_heads: 1,
        head_dim: rank + rope.dim,
        value_dim: rank + rope.dim,
        scale: 0.15,
        qkv_bias: false,
        out_bias: false,
        sinks: false,
        qk_norm: QkNorm::None,
        rope: Some(rope),
        window: None,
        clip_qkv: None,
        softcap: None,
        temperature: None,
        gate: None,
        source: KvSource::Projected,
        value_norm: None,
        value_scale: 1.0,
        chunk: None,
        whole: false,
        relative: None,
        blocks: None,
    };
    Op::Latent(LatentSpec {
        attention,
        rank,
        nope,
        value_dim: 64,
        query_rank,
        norm_eps: 1e-6,
        split,
        indexer: None,
        chosen_before: None,
    })
}

/// A feed-forward block of three matrices, or of two.
pub fn mlp(d_ff: usize, gated: bool, bias: bool) -> MlpSpec {
    let activation = match (gated, bias) {
        (true, false) => Activation::Silu,
        (true, true) => Activation::ClampedSwiglu { alpha: 1.7, limit: 0.5 },
        (false, _) => Activation::GeluTanh,
    };
    MlpSpec { d_ff, gated, activation, bias }
}

/// Five experts, two of them for each token.
pub fn moe(expert: MlpSpec, shared: SharedExpert) -> Op {
    let select = Select::SoftmaxTopK { k: 2, renormalise: true };
    Op::Moe(MoeSpec {
        experts: EXPERTS,
        expert,
        router: RouterSpec {
            bias: expert.bias,
            select,
            scale: 1.5,
            listed: false,
            expert_scales: false,
            capacity: None,
        },
        router_input: RouterInput::Branch,
        shared,
        latent: None,
        shared_scale: 1.0,
        out_bias: false,
        squashed: false,
        weighs_inputs: false,
    })
}
