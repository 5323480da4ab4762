//! The families of models: what an architecture name implies that its configuration does not state, as data.

mod bases;
mod family;
mod find;
mod table;

pub(crate) use family::{
    ActivationKind, DeltaKind, ExpertWidth, Family, LocalRope, LogitScale, NormKind, NormPlaces, QkNormKind,
    RopeLayers, RouterKind, Setting, SharedKind, WindowRule,
};
pub(crate) use find::family_of;
pub(crate) use table::FAMILIES;
