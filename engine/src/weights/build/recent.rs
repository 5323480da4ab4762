//! Builds mixtures of attention heads, attention to compressed tokens, and mixes of residual streams. It must
//! not know how weights are used.

use moelten_loader::spec::{CompressedSpec, HeadExpertsSpec, Place, RopeSpec, StreamsSpec};
use moelten_loader::tensors::roles::LayerTensor;

use super::{OfLayer, shared_rope};
use crate::error::Result;
use crate::layers::linear::Linear;
use crate::layers::mixer::compressed::{Compressed, RowChooser};
use crate::layers::mixer::compressor::Compressor;
use crate::layers::mixer::heads::HeadExperts;
use crate::layers::rope::Rope;
use crate::layers::streams::StreamWeights;

impl OfLayer<'_> {
    /// How a branch mixes residual streams.
    pub(super) fn streams(self, spec: StreamsSpec, place: Place) -> Result<StreamWeights> {
        Ok(StreamWeights {
            spec,
            d_model: self.d_model,
            matrix: self.matrix(LayerTensor::StreamMix(place)),
            base: self.tensors.vector(self.role(LayerTensor::StreamBase(place)))?,
            scale: self.tensors.vector(self.role(LayerTensor::StreamScale(place)))?,
        })
    }

    pub(super) fn compressed(self, spec: &CompressedSpec, ropes: &mut Vec<RopeSpec>) -> Result<Compressed> {
        use LayerTensor as T;
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let rope = spec.attention.rope.as_ref().expect("the lowering gives it a rope");
        let compressor = |width, [values, gates, places, norm]: [T; 4]| -> Result<Option<Compressor>> {
            let Some(compressor) = &spec.compressor else { return Ok(None) };
            Ok(Some(Compressor {
                spec: compressor.clone(),
                width,
                values: linear(values),
                gates: linear(gates),
                places: vector(places)?,
                norm: vector(norm)?,
                norm_eps: spec.norm_eps,
                rope: rope.clone(),
                own_rope: Rope::new(rope, 0),
            }))
        };
        let choice = spec.compressor.as_ref().and_then(|compressor| compressor.choice.clone());
        let small =
            [T::IndexCompressValue, T::IndexCompressGate, T::IndexCompressPlace, T::IndexCompressNorm];
        let choice = match choice {
            None => None,
            Some(choice) => compressor(choice.head_dim, small)?.map(|rows| RowChooser {
                spec: choice,
                queries: linear(T::IndexQ),
                weights: linear(T::IndexWeights),
                rows,
            }),
        };
        let whole = [T::CompressValue, T::CompressGate, T::CompressPlace, T::CompressNorm];
        Ok(Compressed {
            query_down: linear(T::QDown),
            query_norm: vector(T::QDownNorm)?,
            query_up: linear(T::QUp),
            row: linear(T::KvDown),
            row_norm: vector(T::KvDownNorm)?,
            sinks: vector(T::Sinks)?,
            group_out: self.matrix(T::OutDown),
            out: linear(T::O),
            rope: shared_rope(rope, ropes),
            own_rope: Rope::new(rope, 0),
            compressor: compressor(spec.attention.head_dim, whole)?,
            choice,
            spec: spec.clone(),
        })
    }

    pub(super) fn head_experts(
        self,
        bank: usize,
        spec: &HeadExpertsSpec,
        ropes: &mut Vec<RopeSpec>,
    ) -> Result<HeadExperts> {
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        Ok(HeadExperts {
            bank,
            d_model: self.d_model,
            router: self.router(&spec.router, LayerTensor::HeadRouter)?,
            k: linear(LayerTensor::K),
            v: linear(LayerTensor::V),
            out_bias: match spec.attention.out_bias {
                true => self.tensors.vector(self.role(LayerTensor::OBias))?,
                false => Vec::new(),
            },
            rope: spec.attention.rope.as_ref().map(|rope| shared_rope(rope, ropes)),
            spec: spec.clone(),
        })
    }
}
