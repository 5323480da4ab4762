//! Operations that compute each token by itself: dense feed-forward blocks, and mixtures of experts with
//! their routers.

pub mod dense;
pub mod device;
pub mod given;
pub mod group;
pub mod mlp;
pub mod moe;
pub mod router;
pub mod router_weights;
pub mod visits;
