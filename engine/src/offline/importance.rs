//! Importance for quantising: how large the inputs of each matrix are, column by column. Errors of weights in
//! columns with large inputs cost more. It must not know tensor names, nor how the sums are used.
//!
//! Inputs are observed before they are packed for products, so that the sums do not depend on the formats of
//! the weights.

use std::sync::Arc;

use moelten_loader::spec::{
    AttentionSpec, BankKind, BranchSpec, CompressedSpec, KvSource, MlpSpec, ModelSpec, MoeSpec, Op, Part,
    RouterInput, SharedExpert,
};
use moelten_loader::tensors::needed::delta_inputs;
use moelten_loader::tensors::roles::{LayerTensor, Role};

use crate::error::Result;
use crate::forward::observe::{InputObserver, Observer};
use crate::layers::ffn::mlp::MOST_VISITS;
use crate::layers::ffn::visits::Visits;
use crate::layers::squares::{HiddenSquares, HiddenSum, Squares};
use crate::runtime::ledger::{Charge, Ledger};
use crate::runtime::pool::Pool;

/// The sums of one branch. A list is empty where the branch has no such matrices.
#[derive(Debug)]
struct BranchSquares {
    /// Inputs of queries, keys and values; or of the router, and of gate and up of the dense block or shared
    /// expert.
    input: Squares,
    /// Inputs of the output projection; or of down of the dense block or shared expert.
    output: Squares,
    /// Inputs of gate and up of each routed expert.
    experts: Squares,
    /// Inputs of down of each routed expert.
    expert_hidden: Squares,
}

/// Sums of squares of the inputs of all matrices of a model, over all tokens of the passes that it observes.
/// After a failed pass they hold only some inputs of that pass.
#[derive(Debug)]
pub struct InputSquares {
    layers: Vec<Vec<BranchSquares>>,
    head: Squares,
    hidden: Vec<HiddenSum>,
    _charge: Charge,
}

impl InputSquares {
    /// Sums for a model that are all 0.
    ///
    /// # Errors
    /// [`crate::error::EngineError::Memory`] when they do not fit.
    pub fn new(spec: &ModelSpec, ledger: &Arc<Ledger>) -> Result<Self> {
        let hint = |_| "use a larger --ram".to_owned();
        let charge = ledger.charge("the sums of squares", Self::bytes_for(spec), hint)?;
        let branch = |branch: &BranchSpec| BranchSquares::new(spec.d_model, &branch.op);
        Ok(Self {
            layers: spec.layers.iter().map(|layer| layer.branches.iter().map(branch).collect()).collect(),
            head: Squares::new(1, spec.d_model),
            hidden: (0..MOST_VISITS).map(|_| HiddenSum::new(widest(spec))).collect(),
            _charge: charge,
        })
    }

    /// Bytes that the sums for a model take.
    pub fn bytes_for(spec: &ModelSpec) -> u64 {
        let branch = |branch: &BranchSpec| {
            let shapes = Shapes::of(spec.d_model, &branch.op).all();
            shapes.iter().map(|(rows, cols)| rows * cols).sum::<usize>()
        };
        let branches = spec.layers.iter().flat_map(|layer| &layer.branches);
        let sums = branches.map(branch).sum::<usize>() + spec.d_model;
        (sums * size_of::<f32>() + MOST_VISITS * widest(spec) * size_of::<f64>()) as u64
    }

    /// The sums of each matrix, in the order of the layers. The sums of a tied head are those of
    /// [`Role::Embed`].
    pub fn by_role<'a>(&'a self, spec: &ModelSpec) -> Vec<(Role, &'a Squares)> {
        let mut out = Vec::new();
        for (index, (squares, layer)) in self.layers.iter().zip(&spec.layers).enumerate() {
            for (squares, branch) in squares.iter().zip(&layer.branches) {
                squares.by_tensor(&branch.op, &mut |tensor, sums| {
                    out.push((Role::Layer(index, tensor), sums));
                });
            }
        }
        out.push((if spec.head.tied { Role::Embed } else { Role::Head }, &self.head));
        out
    }

    /// The number of tokens that visited each expert of a layer's first bank; empty for a layer without
    /// experts.
    pub fn visitors(&self, layer: usize) -> &[u64] {
        let counts = self.layers[layer].iter().map(|branch| branch.experts.counts());
        counts.into_iter().find(|counts| !counts.is_empty()).unwrap_or_default()
    }

    fn branch(&mut self, (layer, branch): (usize, usize)) -> &mut BranchSquares {
        &mut self.layers[layer][branch]
    }
}

impl InputObserver for InputSquares {
    fn attention(&mut self, pool: &Pool, branch: (usize, usize), x: &[f32], mixed: &[f32]) {
        let squares = self.branch(branch);
        squares.input.add(pool, x);
        squares.output.add(pool, mixed);
    }

    fn ffn(&mut self, pool: &Pool, branch: (usize, usize), x: &[f32], visits: Option<&Visits>) {
        let squares = self.branch(branch);
        squares.input.add(pool, x);
        if let Some(visits) = visits {
            squares.experts.add_visits(pool, x, visits);
        }
    }

    fn hidden(&mut self, (layer, branch): (usize, usize)) -> HiddenSquares<'_> {
        let BranchSquares { output: dense, expert_hidden: experts, .. } = &mut self.layers[layer][branch];
        HiddenSquares { experts, dense, sums: &mut self.hidden }
    }

    fn head(&mut self, pool: &Pool, x: &[f32]) {
        self.head.add(pool, x);
    }
}

impl Observer for InputSquares {
    fn inputs(&mut self) -> Option<&mut dyn InputObserver> {
        Some(self)
    }
}

impl BranchSquares {
    fn new(d_model: usize, op: &Op) -> Self {
        let [input, output, experts, expert_hidden] =
            Shapes::of(d_model, op).all().map(|(rows, cols)| Squares::new(rows, cols));
        Self { input, output, experts, expert_hidden }
    }

    /// Passes each matrix of attention and its sums to `add`.
    fn attention_tensors<'a>(&'a self, spec: &AttentionSpec, add: &mut dyn FnMut(LayerTensor, &'a Squares)) {
        if spec.gate.is_some() {
            add(LayerTensor::AttentionGate, &self.input);
        }
        if spec.blocks.is_some() {
            add(LayerTensor::BlockQ, &self.input);
            add(LayerTensor::BlockK, &self.input);
        }
        add(LayerTensor::Q, &self.input);
        if spec.source.is_own() {
            add(LayerTensor::K, &self.input);
        }
        if spec.source == KvSource::Projected {
            add(LayerTensor::V, &self.input);
        }
        add(LayerTensor::O, &self.output);
    }

    /// Passes each matrix of the branch and its sums to `add`.
    fn by_tensor<'a>(&'a self, op: &Op, add: &mut dyn FnMut(LayerTensor, &'a Squares)) {
        match op {
            Op::Attention(attention) => self.attention_tensors(attention, add),
            // What keys and values are made from is not observed.
            Op::Cross(_) => {
                add(LayerTensor::CrossQ, &self.input);
                add(LayerTensor::CrossO, &self.output);
            }
            // What the heads of experts mix is not observed.
            Op::HeadExperts(_) => {
                for tensor in [LayerTensor::K, LayerTensor::V, LayerTensor::HeadRouter] {
                    add(tensor, &self.input);
                }
                add(LayerTensor::HeadExperts(Part::Up), &self.experts);
            }
            Op::Latent(latent) => {
                let query = if latent.query_rank.is_some() { LayerTensor::QDown } else { LayerTensor::Q };
                add(query, &self.input);
                add(LayerTensor::KvDown, &self.input);
                if latent.attention.gate.is_some() {
                    add(LayerTensor::AttentionGate, &self.input);
                }
                add(LayerTensor::O, &self.output);
            }
            Op::Compressed(compressed) => self.compressed_tensors(compressed, add),
            Op::Kda(kda) => {
                for tensor in [LayerTensor::Q, LayerTensor::K, LayerTensor::V, LayerTensor::DeltaStrength] {
                    add(tensor, &self.input);
                }
                let (rates, gates) = match kda.rank {
                    Some(_) => (LayerTensor::KdaRateDown, LayerTensor::KdaGateDown),
                    None => (LayerTensor::KdaRateUp, LayerTensor::KdaGateUp),
                };
                add(rates, &self.input);
                add(gates, &self.input);
                add(LayerTensor::O, &self.output);
            }
            Op::Ssm(_) | Op::Selective(_) => {
                add(LayerTensor::SsmIn, &self.input);
                add(LayerTensor::SsmOut, &self.output);
            }
            Op::Conv(_) => {
                add(LayerTensor::ConvIn, &self.input);
                add(LayerTensor::ConvOut, &self.output);
            }
            Op::Lstm(_) => {
                add(LayerTensor::LstmIn, &self.input);
                add(LayerTensor::LstmBack, &self.output);
            }
            Op::Delta(delta) => {
                delta_inputs(delta.layout).iter().for_each(|&tensor| add(tensor, &self.input));
                add(LayerTensor::DeltaOut, &self.output);
            }
            // What tables give is not observed.
            Op::Ngram(_) => {}
            Op::LayerInput(_) => {
                add(LayerTensor::LayerInputGate, &self.input);
                add(LayerTensor::LayerInputUp, &self.output);
            }
            Op::Mlp(mlp) => mlp_tensors(mlp, LayerTensor::Dense, [&self.input, &self.output], add),
            Op::Moe(moe) => self.moe_tensors(moe, add),
        }
    }

    fn compressed_tensors<'a>(
        &'a self,
        compressed: &CompressedSpec,
        add: &mut dyn FnMut(LayerTensor, &'a Squares),
    ) {
        let compressor = compressed.compressor.as_ref();
        let choice = compressor.and_then(|compressor| compressor.choice.as_ref());
        let rows = [LayerTensor::CompressValue, LayerTensor::CompressGate];
        let small =
            [LayerTensor::IndexCompressValue, LayerTensor::IndexCompressGate, LayerTensor::IndexWeights];
        add(LayerTensor::QDown, &self.input);
        add(LayerTensor::KvDown, &self.input);
        rows.into_iter().filter(|_| compressor.is_some()).for_each(|tensor| add(tensor, &self.input));
        small.into_iter().filter(|_| choice.is_some()).for_each(|tensor| add(tensor, &self.input));
        add(LayerTensor::O, &self.output);
    }

    fn moe_tensors<'a>(&'a self, moe: &MoeSpec, add: &mut dyn FnMut(LayerTensor, &'a Squares)) {
        match moe.latent {
            // What experts read is not observed.
            Some(_) => {
                add(LayerTensor::Experts(Part::Down), &self.expert_hidden);
                add(LayerTensor::LatentDown, &self.input);
            }
            None => {
                let of_experts = [&self.experts, &self.expert_hidden];
                let tensor = match moe.kind() {
                    BankKind::FeedForward => LayerTensor::Experts,
                    BankKind::Adjugate => LayerTensor::AdjugateExperts,
                    BankKind::Heads => LayerTensor::HeadExperts,
                };
                mlp_tensors(&moe.expert, tensor, of_experts, add);
            }
        }
        if let SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp) = &moe.shared {
            mlp_tensors(mlp, LayerTensor::Shared, [&self.input, &self.output], add);
        }
        // The sums are not of what a router under its own norm reads.
        if !matches!(moe.router_input, RouterInput::Residual { .. } | RouterInput::Groups { .. }) {
            add(LayerTensor::Router, &self.input);
        }
        if matches!(moe.shared, SharedExpert::Gated(_)) {
            add(LayerTensor::SharedInput, &self.input);
        }
    }
}

/// Passes each matrix of a feed-forward block and its sums to `add`.
fn mlp_tensors<'a>(
    mlp: &MlpSpec,
    wrap: fn(Part) -> LayerTensor,
    [inputs, hidden]: [&'a Squares; 2],
    add: &mut dyn FnMut(LayerTensor, &'a Squares),
) {
    // The width is not used: only the parts matter here.
    for matrix in mlp.matrices(1) {
        add(wrap(matrix.part), if matrix.part == Part::Down { hidden } else { inputs });
    }
}

/// The shapes of the sums of a branch.
struct Shapes {
    d_model: usize,
    /// Columns of the output projection, or of down of the dense block or shared expert; 0 without one.
    output: usize,
    experts: usize,
    expert_hidden: usize,
}

impl Shapes {
    fn of(d_model: usize, op: &Op) -> Self {
        let (output, experts, expert_hidden) = match op {
            Op::Attention(a) | Op::Cross(a) => (a.heads * a.value_dim, 0, 0),
            Op::HeadExperts(a) => (0, a.experts, 0),
            Op::Compressed(a) => (a.groups * a.group_rank, 0, 0),
            Op::Latent(a) => (a.attention.heads * a.value_dim, 0, 0),
            Op::Conv(conv) => (conv.width, 0, 0),
            Op::Lstm(lstm) => (lstm.width, 0, 0),
            Op::Ssm(ssm) => (ssm.inner(), 0, 0),
            Op::Selective(ssm) => (ssm.inner, 0, 0),
            Op::Kda(kda) => (kda.inner(), 0, 0),
            Op::Delta(delta) => (delta.values(), 0, 0),
            Op::Ngram(_) => (0, 0, 0),
            Op::LayerInput(input) => (input.width, 0, 0),
            Op::Mlp(mlp) => (mlp.d_ff, 0, 0),
            Op::Moe(moe) => match &moe.shared {
                SharedExpert::None => (0, moe.experts, moe.expert.d_ff),
                SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp) => {
                    (mlp.d_ff, moe.experts, moe.expert.d_ff)
                }
            },
        };
        Self { d_model, output, experts, expert_hidden }
    }

    /// Rows and columns of the sums, in the order of the fields of [`BranchSquares`].
    fn all(&self) -> [(usize, usize); 4] {
        [
            (1, self.d_model),
            (1, self.output),
            (self.experts, self.d_model),
            (self.experts, self.expert_hidden),
        ]
    }
}

/// Columns of the widest hidden layer of any branch.
fn widest(spec: &ModelSpec) -> usize {
    let branches = spec.layers.iter().flat_map(|layer| &layer.branches);
    let shapes = branches.map(|branch| Shapes::of(spec.d_model, &branch.op));
    shapes.map(|shapes| shapes.output.max(shapes.expert_hidden)).max().unwrap_or(0)
}
