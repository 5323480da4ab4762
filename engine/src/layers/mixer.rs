//! Operations in which the tokens of a sequence exchange information.

pub mod attend;
pub mod attention;
pub mod contract;
pub mod delta;
pub mod latent;
