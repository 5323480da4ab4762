//! Operations in which the tokens of a sequence exchange information.

pub mod attend;
pub mod attention;
pub mod blocks;
pub mod compressed;
pub mod compressor;
pub mod contract;
pub mod conv;
pub mod cross;
pub mod delta;
pub mod heads;
pub mod history;
pub mod kda;
pub mod latent;
pub mod lstm;
pub mod recurrence;
pub mod selective;
pub mod sparse;
pub mod ssm;
