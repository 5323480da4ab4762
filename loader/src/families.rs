//! The families of models: what an architecture name implies that its configuration does not state, as data.

mod bases;
mod deepseek4;
mod family;
mod hybrids;
mod pairs;
mod qwen4exp;
mod recent;
mod table;

pub(crate) use family::{
    ActivationKind, AdjugateKind, BesideKind, DeltaKind, Demanded, ExpertWidth, Family, FolderSizes, Growth,
    KdaKind, LocalRope, LogitScale, NormKind, NormPlaces, PairKind, PairPositions, QkNormKind, RopeLayers,
    RouterInputKind, RouterKind, Setting, SharedKind, SinkLayers, SparseLayers, SsmKind, WindowRule,
};
pub(crate) use table::FAMILIES;
