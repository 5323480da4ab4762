//! Builds the mix of residual streams that the head reads. It must not know layers.

use moelten_loader::spec::{StreamMix, StreamsSpec};
use moelten_loader::tensors::roles::Role;
use moelten_loader::tensors::store::TensorStore;

use crate::error::Result;
use crate::layers::streams::{MixWeights, StreamWeights};

/// How the head mixes residual streams.
pub fn head_streams(tensors: &TensorStore, spec: StreamsSpec, d_model: usize) -> Result<StreamWeights> {
    let kind = match spec.mix {
        StreamMix::Sinkhorn { .. } => MixWeights::Sinkhorn {
            matrix: tensors.get(Role::HeadStreamMix),
            base: tensors.vector(Role::HeadStreamBase)?,
            scale: tensors.vector(Role::HeadStreamScale)?,
        },
        StreamMix::Gated { .. } => MixWeights::Gated {
            norm: tensors.vector(Role::HeadStreamNorm)?,
            down: tensors.get(Role::HeadStreamDown),
            up: tensors.get(Role::HeadStreamUp),
            inject: None,
        },
    };
    Ok(StreamWeights { spec, d_model, kind })
}
