//! Bytes and weights that a token reads: shared matrices, the chosen experts, keys and values. It must not
//! know time.

use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::Observer;
use moelten_engine::Routing;
use moelten_loader::spec::{AttentionSpec, BankKey, LayerSpec, ModelSpec};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::roles::{LayerTensor, Role};
use moelten_loader::tensors::store::TensorStore;

/// Size of matrices in bytes and in weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Bytes in the file's format.
    pub bytes: u64,
    /// Elements of the matrices; each is one multiplication and one addition for a token.
    pub weights: u64,
}

impl Size {
    fn of(matrix: &MatrixRef) -> Self {
        Self { bytes: matrix.bytes, weights: matrix.rows as u64 * matrix.cols as u64 }
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.weights += other.weights;
    }
}

/// Sizes of a model's parts.
#[derive(Debug)]
pub struct Traffic {
    /// Matrices that every token reads, except the head. Of the embedding a token reads one row, which is not
    /// counted.
    pub dense: Size,
    /// The same of a token of a prompt, or of the text that an encoder reads.
    pub prompt: Size,
    /// The head as a prompt reads it: not at all in an encoder.
    pub prompt_head: Size,
    /// The head, read once for a prompt and once for each decoded token.
    pub head: Size,
    /// The expert banks: where each is, and the size of each expert.
    banks: Vec<(BankKey, Vec<Size>)>,
    /// For each layer with attention: its window, and the bytes of keys and values of one position.
    kv: Vec<(usize, u64)>,
}

impl Traffic {
    /// Sizes of `model`.
    pub fn of(model: &Model, kv: KvFormat) -> Self {
        Self::weigh(model.spec(), model.tensors(), kv)
    }

    /// As [`Self::of`], before the model is loaded.
    pub fn weigh(spec: &ModelSpec, tensors: &TensorStore, kv: KvFormat) -> Self {
        let head_role = if spec.head.tied { Role::Embed } else { Role::Head };
        let (mut dense, mut prompt) = (Size::default(), Size::default());
        let encoder = spec.decoder_start();
        for (role, matrix) in tensors.dense().filter(|(role, _)| *role != Role::Embed && *role != head_role) {
            let size = Size::of(&matrix);
            match role {
                Role::Layer(layer, _) if layer < encoder => prompt.add(size),
                // Keys and values of the text are made once.
                Role::Layer(_, LayerTensor::CrossK | LayerTensor::CrossV) => prompt.add(size),
                _ => dense.add(size),
            }
        }
        let head = Size::of(&tensors.get(head_role));
        let alone = spec.encoder.is_none();
        let banks = tensors.banks().iter().map(|bank| {
            let expert = |matrices: &[MatrixRef]| {
                let mut size = Size::default();
                matrices.iter().for_each(|matrix| size.add(Size::of(matrix)));
                size
            };
            (bank.key, bank.iter().map(expert).collect())
        });
        let of_layer = |a: &AttentionSpec| {
            (a.window.unwrap_or(usize::MAX), (2 * a.kv_heads * a.head_dim * kv.bytes()) as u64)
        };
        Self {
            dense,
            prompt: if alone { dense } else { prompt },
            prompt_head: if alone { head } else { Size::default() },
            head,
            banks: banks.collect(),
            kv: spec.layers.iter().skip(encoder).filter_map(LayerSpec::attention).map(of_layer).collect(),
        }
    }

    /// Bytes of routed experts of each bank that a token reads, for uniform routing.
    pub fn routed_bytes(&self, spec: &ModelSpec) -> Vec<f64> {
        let banks = spec.banks().zip(&self.banks).map(|((_, bank), (_, sizes))| {
            let all: u64 = sizes.iter().map(|size| size.bytes).sum();
            all as f64 * bank.most_per_token as f64 / sizes.len().max(1) as f64
        });
        banks.collect()
    }

    /// Bytes of weights that a token reads, for uniform routing.
    pub fn token_bytes(&self, spec: &ModelSpec) -> f64 {
        (self.dense.bytes + self.head.bytes) as f64 + self.routed_bytes(spec).iter().sum::<f64>()
    }

    /// Bytes of keys and values that the token at `position` reads: its own and those of all visible
    /// positions.
    pub fn kv_bytes(&self, position: usize) -> u64 {
        self.kv.iter().map(|&(window, bytes)| (position + 1).min(window) as u64 * bytes).sum()
    }

    /// An observer that counts the chosen experts.
    pub fn counter(&self) -> Counter<'_> {
        let used = self.banks.iter().map(|(_, sizes)| vec![false; sizes.len()]).collect();
        Counter { traffic: self, chosen: Size::default(), used }
    }
}

/// Counts the experts chosen by tokens.
pub struct Counter<'a> {
    traffic: &'a Traffic,
    /// Total size of the chosen experts, over all tokens.
    pub chosen: Size,
    used: Vec<Vec<bool>>,
}

impl Counter<'_> {
    /// Number of distinct experts chosen and number of experts, over all layers.
    pub fn variety(&self) -> (usize, usize) {
        let all = self.used.iter().flatten();
        (all.clone().filter(|&&used| used).count(), all.count())
    }
}

impl Observer for Counter<'_> {
    fn routed(&mut self, bank: BankKey, routing: &Routing) {
        let known = self.traffic.banks.iter().position(|(key, _)| *key == bank);
        let number = known.expect("the traffic has every bank of the model");
        for token in 0..routing.tokens() {
            for &id in routing.token(token).0 {
                self.chosen.add(self.traffic.banks[number].1[id as usize]);
                self.used[number][id as usize] = true;
            }
        }
    }
}
