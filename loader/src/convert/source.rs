//! What a conversion reads from a model: its experts layer by layer, and its files. It must not know outputs.

use std::path::Path;

use crate::load::LoadedModel;
use crate::spec::Part;
use crate::tensors::bank::{ExpertBank, MatrixRef};
use crate::tensors::roles::{LayerTensor, Role};

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
