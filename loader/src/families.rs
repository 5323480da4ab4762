//! The families of models: what an architecture name implies that its configuration does not state, as data.

mod family;
mod table;

pub(crate) use family::{
    ActivationKind, ExpertWidth, Family, NormKind, QkNormKind, RouterKind, Setting, SharedKind, WindowRule,
};
pub(crate) use table::{FAMILIES, family_of};
