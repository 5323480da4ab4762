//! Records of passes for later use: routing traces, their replay against cache policies, and the sizes of
//! inputs that quantising takes. It must not know how a model is quantised, nor how results are shown.

pub mod importance;
pub mod replay;
pub mod tiers;
pub mod trace;
