//! What quantising wants to know of a model at work: how large the inputs of each matrix are, column by column. Errors
//! of weights in columns with large inputs cost more. Roles, not names; what becomes of the sums is the caller's business.
//!
//! Inputs are taken before they are packed for products, so that the sums do not depend on the types of the weights' file.

use std::sync::{Arc, Mutex, PoisonError};

use moelten_loader::spec::{Ffn, Mixer, ModelSpec, MoeSpec, SharedExpert};
use moelten_loader::tensors::roles::{LayerTensor, Part, Role};

use crate::decoder::Observer;
use crate::error::Result;
use crate::layers::mlp::MOST_VISITS;
use crate::layers::moe::Visits;
use crate::ledger::{Charge, Ledger};
use crate::pool::Pool;
use crate::router::Routing;

/// Columns of a task.
const COLUMNS: usize = 64;

/// Sums of squares of the inputs of one matrix, of several that share them, or of each expert of a bank.
#[derive(Debug, Default)]
pub struct Squares {
    cols: usize,
    sums: Vec<f32>,
    counts: Vec<u64>,
}

impl Squares {
    fn new(rows: usize, cols: usize) -> Self {
        Self { cols, sums: vec![0.0; rows * cols], counts: vec![0; rows] }
    }

    /// Columns of the matrices.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `[rows, cols]`: one row, or one for each expert.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// `[rows]`: how many inputs were added up.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Adds all tokens of `x`, `[tokens, cols]`, to the only row.
    fn add(&mut self, pool: &Pool, x: &[f32]) {
        let cols = self.cols;
        self.counts[0] += (x.len() / cols) as u64;
        pool.chunks(&mut self.sums, 1, COLUMNS, |columns, sums| {
            add_columns(x.chunks_exact(cols).map(|x| &x[columns.clone()]), sums);
        });
    }

    /// Adds the visitors among the tokens of `x`, `[tokens, cols]`, to the experts that they visit.
    fn add_visits(&mut self, pool: &Pool, x: &[f32], visits: &Visits) {
        let cols = self.cols;
        for (index, &expert) in visits.experts.iter().enumerate() {
            self.counts[expert as usize] += visits.of(index).len() as u64;
        }
        pool.chunks(&mut self.sums, cols, 1, |expert, sums| {
            let Ok(index) = visits.experts.binary_search(&(expert.start as u32)) else { return };
            for (first, sums) in (0..).step_by(COLUMNS).zip(sums.chunks_mut(COLUMNS)) {
                let columns = first..first + sums.len();
                let tokens = visits.of(index).iter().map(|&(token, _)| &x[token as usize * cols..]);
                add_columns(tokens.map(|x| &x[columns.clone()]), sums);
            }
        });
    }

    /// Adds what a [`HiddenSum`] has of `inputs` inputs to a row, and clears it.
    pub(crate) fn add_hidden(&mut self, row: usize, inputs: usize, from: &mut HiddenSum) {
        let from = from.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.counts[row] += inputs as u64;
        for (sum, from) in self.sums[row * self.cols..][..self.cols].iter_mut().zip(from) {
            *sum += std::mem::take(from) as f32;
        }
    }
}

/// Adds squares to `sums`, each row as long, in double precision until the end.
fn add_columns<'a>(rows: impl Iterator<Item = &'a [f32]>, sums: &mut [f32]) {
    let mut wide = [0.0; COLUMNS];
    for row in rows {
        for (wide, &x) in wide.iter_mut().zip(row) {
            *wide += f64::from(x) * f64::from(x);
        }
    }
    for (sum, wide) in sums.iter_mut().zip(wide) {
        *sum += wide as f32;
    }
}

/// Squares of one visit's hidden layer: its groups of columns are added by any threads, each column by one.
#[derive(Debug, Default)]
pub(crate) struct HiddenSum(Mutex<Vec<f64>>);

impl HiddenSum {
    /// Adds `x`, `[tokens, width]`, which are the columns from `first` on.
    pub fn add(&self, first: usize, width: usize, x: &[f32]) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sums = &mut sums[first..first + width];
        for x in x.chunks_exact(width) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
    }
}

/// Where the hidden layers of one feed-forward block go.
pub(crate) struct HiddenSquares<'a> {
    /// Of the routed experts.
    pub experts: &'a mut Squares,
    /// Of the block that every token visits.
    pub whole: &'a mut Squares,
    /// Of each visit that is being computed.
    pub sums: &'a mut [HiddenSum],
}

/// Sums of one layer; what it does not have is empty.
#[derive(Debug)]
struct LayerSquares {
    /// Into queries, keys and values.
    attention: Squares,
    /// Into the attention's output projection.
    attention_out: Squares,
    /// Into the router, and into gate and up of the block that every token visits.
    ffn: Squares,
    /// Into the latter's down.
    hidden: Squares,
    /// Into gate and up of each expert.
    experts: Squares,
    /// Into down of each expert.
    expert_hidden: Squares,
}

/// Sums of squares of the inputs of all matrices of a model, of all tokens that were run with this as the observer. After a
/// forward pass that has failed they hold some of its inputs and not others.
#[derive(Debug)]
pub struct InputSquares {
    layers: Vec<LayerSquares>,
    head: Squares,
    hidden: Vec<HiddenSum>,
    _charge: Charge,
}

impl InputSquares {
    /// Sums for a model, all 0.
    ///
    /// # Errors
    /// [`crate::error::EngineError::Memory`] when they do not fit.
    pub fn new(spec: &ModelSpec, ledger: &Arc<Ledger>) -> Result<Self> {
        let hint = |_| "a larger --ram is needed".to_owned();
        let charge = ledger.charge("the sums of squares", Self::bytes_for(spec), hint)?;
        let hidden = (0..MOST_VISITS).map(|_| HiddenSum(Mutex::new(vec![0.0; widest(spec)]))).collect();
        Ok(Self {
            layers: (0..spec.layers.len()).map(|layer| LayerSquares::new(spec, layer)).collect(),
            head: Squares::new(1, spec.d_model),
            hidden,
            _charge: charge,
        })
    }

    /// Bytes of the sums.
    pub fn bytes_for(spec: &ModelSpec) -> u64 {
        let layer = |layer: usize| {
            Shapes::of(spec, layer).all().iter().map(|(rows, cols)| rows * cols).sum::<usize>()
        };
        let sums = (0..spec.layers.len()).map(layer).sum::<usize>() + spec.d_model;
        (sums * size_of::<f32>() + MOST_VISITS * widest(spec) * size_of::<f64>()) as u64
    }

    /// The sums by matrix, in the order of the layers. A head that is the embedding has its sums under [`Role::Embed`].
    pub fn by_role<'a>(&'a self, spec: &ModelSpec) -> Vec<(Role, &'a Squares)> {
        let mut out = Vec::new();
        for (index, (squares, layer)) in self.layers.iter().zip(&spec.layers).enumerate() {
            let mut add = |tensor, squares| out.push((Role::Layer(index, tensor), squares));
            for tensor in [LayerTensor::Q, LayerTensor::K, LayerTensor::V] {
                add(tensor, &squares.attention);
            }
            add(LayerTensor::O, &squares.attention_out);
            let mut mlp = |wrap: fn(Part) -> LayerTensor, inputs, hidden| {
                add(wrap(Part::Gate), inputs);
                add(wrap(Part::Up), inputs);
                add(wrap(Part::Down), hidden);
            };
            match &layer.ffn {
                Ffn::Dense(_) => mlp(LayerTensor::Dense, &squares.ffn, &squares.hidden),
                Ffn::Moe(moe) => {
                    mlp(LayerTensor::Experts, &squares.experts, &squares.expert_hidden);
                    if !matches!(moe.shared, SharedExpert::None) {
                        mlp(LayerTensor::Shared, &squares.ffn, &squares.hidden);
                    }
                    add(LayerTensor::Router, &squares.ffn);
                    if matches!(moe.shared, SharedExpert::Gated(_)) {
                        add(LayerTensor::SharedInput, &squares.ffn);
                    }
                }
            }
        }
        out.push((if spec.head.tied { Role::Embed } else { Role::Head }, &self.head));
        out
    }

    /// How many tokens each expert of a layer has seen; empty for a layer without experts.
    pub fn visitors(&self, layer: usize) -> &[u64] {
        self.layers[layer].experts.counts()
    }

    /// The inputs of an attention layer, `[tokens, d_model]`, and of its output projection, `[tokens, heads * head_dim]`.
    pub(crate) fn attention(&mut self, pool: &Pool, layer: usize, x: &[f32], mixed: &[f32]) {
        self.layers[layer].attention.add(pool, x);
        self.layers[layer].attention_out.add(pool, mixed);
    }

    /// The inputs of a feed-forward layer, `[tokens, d_model]`, and who goes where.
    pub(crate) fn ffn(&mut self, pool: &Pool, layer: usize, x: &[f32], visits: Option<&Visits>) {
        self.layers[layer].ffn.add(pool, x);
        if let Some(visits) = visits {
            self.layers[layer].experts.add_visits(pool, x, visits);
        }
    }

    /// Where that layer's hidden layers go.
    pub(crate) fn hidden(&mut self, layer: usize) -> HiddenSquares<'_> {
        let LayerSquares { hidden: whole, expert_hidden: experts, .. } = &mut self.layers[layer];
        HiddenSquares { experts, whole, sums: &mut self.hidden }
    }

    /// The inputs of the head, `[tokens, d_model]`.
    pub(crate) fn head(&mut self, pool: &Pool, x: &[f32]) {
        self.head.add(pool, x);
    }
}

impl Observer for InputSquares {
    fn routed(&mut self, _: usize, _: &Routing) {}

    fn squares(&mut self) -> Option<&mut Self> {
        Some(self)
    }
}

impl LayerSquares {
    fn new(spec: &ModelSpec, layer: usize) -> Self {
        let [attention, attention_out, ffn, hidden, experts, expert_hidden] =
            Shapes::of(spec, layer).all().map(|(rows, cols)| Squares::new(rows, cols));
        Self { attention, attention_out, ffn, hidden, experts, expert_hidden }
    }
}

/// Rows and columns of a layer's sums.
struct Shapes {
    d_model: usize,
    mixed: usize,
    /// Of the block that every token visits; 0 without one.
    hidden: usize,
    experts: usize,
    expert_hidden: usize,
}

impl Shapes {
    fn of(spec: &ModelSpec, layer: usize) -> Self {
        let layer = &spec.layers[layer];
        let Mixer::Attention(a) = &layer.mixer;
        let (hidden, experts, expert_hidden) = match &layer.ffn {
            Ffn::Dense(mlp) => (mlp.d_ff, 0, 0),
            Ffn::Moe(MoeSpec { shared, experts, expert, .. }) => match shared {
                SharedExpert::None => (0, *experts, expert.d_ff),
                SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp) => (mlp.d_ff, *experts, expert.d_ff),
            },
        };
        Self { d_model: spec.d_model, mixed: a.heads * a.head_dim, hidden, experts, expert_hidden }
    }

    /// In the order of [`LayerSquares`].
    fn all(&self) -> [(usize, usize); 6] {
        [
            (1, self.d_model),
            (1, self.mixed),
            (1, self.d_model),
            (1, self.hidden),
            (self.experts, self.d_model),
            (self.experts, self.expert_hidden),
        ]
    }
}

/// Columns of the widest hidden layer.
fn widest(spec: &ModelSpec) -> usize {
    let shapes = (0..spec.layers.len()).map(|layer| Shapes::of(spec, layer));
    shapes.map(|shapes| shapes.hidden.max(shapes.expert_hidden)).max().unwrap_or(0)
}
