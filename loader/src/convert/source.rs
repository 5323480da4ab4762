//! What a conversion reads from a model: its experts bank by bank, and its files. It must not know outputs.

use std::path::Path;

use crate::load::LoadedModel;
use crate::spec::{BankKey, Part};
use crate::tensors::bank::{ExpertBank, MatrixRef};
use crate::tensors::roles::{LayerTensor, Role};

pub(super) fn is_router(role: Role) -> bool {
    use LayerTensor::{HeadRouter, Router, SharedInput};
    matches!(role, Role::Layer(_, Router | HeadRouter | SharedInput))
}

/// The expert bank at a place of the model.
///
/// # Panics
/// If there is none.
pub(super) fn bank(model: &LoadedModel, key: BankKey) -> &ExpertBank {
    model.tensors.bank_at(key).expect("only banks of the model are asked for")
}

pub(super) fn first_expert(bank: &ExpertBank, part: Part) -> &MatrixRef {
    bank.part(0, part).expect("only parts of the bank are asked for")
}

pub(super) fn first_path(model: &LoadedModel) -> &Path {
    model.tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path())
}
