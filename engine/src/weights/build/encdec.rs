//! Builds attention of a model's own text, with what distances add to its scores, and attention to the text
//! of an encoder, and what makes rows of an image. It must not know how weights are used.

use std::sync::Arc;

use moelten_loader::spec::{AttentionSpec, ImageSpec, KvSource, ModelSpec};
use moelten_loader::tensors::roles::{AttentionTensors, LayerTensor, Role};

use super::{Builder, OfLayer};
use crate::error::{EngineError, Result};
use crate::layers::linear::Linear;
use crate::layers::mixer::cross::Cross;
use crate::weights::{ImageWeights, OpWeights};

impl Builder<'_> {
    /// What makes rows of an image.
    pub(super) fn image(&self, spec: &ImageSpec) -> Result<ImageWeights> {
        let of_task = |role| Ok::<_, EngineError>(self.task.numbers(&self.tensors.vector(role)?));
        let bias = Some(of_task(Role::PatchBias)?);
        let first = if spec.first_row { of_task(Role::FirstRow)? } else { Vec::new() };
        let weight = self.task.rows(self.tensors.get(Role::Patches));
        Ok(ImageWeights { patches: Linear { weight, bias }, first })
    }

    /// The head: that of the task in a model with several.
    pub(super) fn head(&self, spec: &ModelSpec) -> Result<Linear> {
        let mut weight = self.tensors.get(if spec.head.tied { Role::Embed } else { Role::Head });
        let mut bias = spec.head.bias.then(|| self.tensors.vector(Role::HeadBias)).transpose()?;
        if let Some(ImageSpec { head, first_class, .. }) = spec.image {
            let rows = first_class..first_class + head.classes;
            bias = bias.map(|bias| bias[rows.clone()].to_vec());
            weight = weight.some_rows(rows);
        }
        Ok(Linear { weight, bias })
    }

    /// Attention of layer `layer`.
    pub(super) fn attention(
        &mut self,
        of_layer: OfLayer<'_>,
        layer: usize,
        spec: &AttentionSpec,
    ) -> Result<OpWeights> {
        let distances = self.distances(spec)?;
        let attention = of_layer.attention(spec, distances, &mut self.ropes)?;
        if spec.whole {
            // The layers of an encoder work in one state, apart from those of a sequence.
            return Ok(OpWeights::Attention { attention, state: 0 });
        }
        let state = match spec.source {
            KvSource::Layer(layer) => self.of_layers[layer],
            KvSource::Projected | KvSource::Shared | KvSource::Encoded => self.states,
        };
        self.states = self.states.max(state + 1);
        self.of_layers.resize(layer + 1, state);
        Ok(OpWeights::Attention { attention, state })
    }

    /// What distances add to the scores of heads, `[heads, 2 * reach + 1]`. Layers that share numbers share
    /// them here.
    fn distances(&mut self, spec: &AttentionSpec) -> Result<Option<Arc<[f32]>>> {
        let Some(relative) = spec.relative else { return Ok(None) };
        if let Some((_, known)) = self.distances.iter().find(|(layer, _)| *layer == relative.of_layer) {
            return Ok(Some(Arc::clone(known)));
        }
        let buckets = self.tensors.vector(Role::Layer(relative.of_layer, LayerTensor::RelativeBias))?;
        let reach = relative.reach as isize;
        let of_head = |head: usize| {
            let buckets = &buckets;
            (-reach..=reach).map(move |after| buckets[relative.bucket(after) * spec.heads + head])
        };
        let values: Arc<[f32]> = (0..spec.heads).flat_map(of_head).collect();
        self.distances.push((relative.of_layer, Arc::clone(&values)));
        Ok(Some(values))
    }
}

impl OfLayer<'_> {
    /// Attention to the encoder's text.
    pub(super) fn cross(self, spec: &AttentionSpec) -> Result<Cross> {
        let AttentionTensors { matrices: [_, k, v, _], biases: [_, k_bias, v_bias, _] } =
            AttentionTensors::CROSS;
        let linear = |weight, bias| -> Result<Linear> {
            let bias = spec.qkv_bias.then(|| self.tensors.vector(self.role(bias))).transpose()?;
            Ok(Linear { weight: self.matrix(weight), bias })
        };
        Ok(Cross {
            attention: self.attention(spec, None, &mut Vec::new())?,
            k: linear(k, k_bias)?,
            v: linear(v, v_bias)?,
        })
    }
}
