//! Operations in which the tokens of a sequence exchange information.

pub mod attend;
pub mod attention;
