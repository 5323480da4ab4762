//! What a conversion reads from a model: its experts layer by layer, and the row order of its files. It must
//! not know outputs.

use std::path::Path;

use crate::config::find::family_of;
use crate::load::LoadedModel;
use crate::spec::{ModelSpec, Pairing, Part};
use crate::tensors::bank::{ExpertBank, MatrixRef};
use crate::tensors::roles::{LayerTensor, Role};

/// Rows of Q and K whose rope pairs are reordered from halves to neighbours.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowPairs {
    pub head_dim: usize,
    pub rope_dim: usize,
}

impl RowPairs {
    /// The source row for `row` of the output.
    pub fn source(self, row: usize) -> usize {
        let (head, inside) = (row / self.head_dim, row % self.head_dim);
        if inside >= self.rope_dim {
            return row;
        }
        head * self.head_dim + (inside % 2) * (self.rope_dim / 2) + inside / 2
    }
}

/// How rows of this role are reordered: Q and K of a family whose GGUF files pair neighbours.
pub(super) fn row_pairs(spec: &ModelSpec, role: Role) -> Option<RowPairs> {
    let Role::Layer(layer, tensor) = role else { return None };
    let rotated = matches!(tensor, LayerTensor::Q | LayerTensor::K | LayerTensor::QBias | LayerTensor::KBias);
    let attention = spec.layers.get(layer)?.attention()?;
    let rope = attention.rope.as_ref()?;
    let moves = rope.pairing == Pairing::Split && family_of(spec).gguf_pairing == Pairing::Adjacent;
    (rotated && moves).then_some(RowPairs { head_dim: attention.head_dim, rope_dim: rope.dim })
}

/// Layers with experts, and how many.
pub(super) fn expert_layers(model: &LoadedModel) -> impl Iterator<Item = (usize, usize)> + '_ {
    model.tensors.banks().iter().map(|bank| (bank.key.layer, bank.experts()))
}

pub(super) fn experts_role(layer: usize, part: Part) -> Role {
    Role::Layer(layer, LayerTensor::Experts(part))
}

pub(super) fn is_router(role: Role) -> bool {
    matches!(role, Role::Layer(_, LayerTensor::Router | LayerTensor::SharedInput))
}

/// The expert bank of a layer.
///
/// # Panics
/// If the layer has none.
pub(super) fn bank(model: &LoadedModel, layer: usize) -> &ExpertBank {
    model.tensors.bank_of_layer(layer).expect("only layers with experts are asked for")
}

pub(super) fn first_expert(bank: &ExpertBank, part: Part) -> &MatrixRef {
    bank.part(0, part).expect("the plan refuses experts without gate, up and down")
}

pub(super) fn first_path(model: &LoadedModel) -> &Path {
    model.tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path())
}
