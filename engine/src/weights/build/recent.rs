//! Builds mixtures of attention heads, attention to compressed tokens, and mixes of residual streams. It must
//! not know how weights are used.

use moelten_loader::error::{Fault, LoadError};
use moelten_loader::spec::{
    AttentionSpec, BlockChoice, CompressedSpec, HeadExpertsSpec, NgramHash, NgramSpec, Place, RopeSpec,
    StreamMix, StreamsSpec,
};
use moelten_loader::tensors::roles::LayerTensor;

use super::{OfLayer, shared_rope};
use crate::error::{EngineError, Result};
use crate::layers::linear::Linear;
use crate::layers::mixer::blocks::Blocks;
use crate::layers::mixer::compressed::{Compressed, RowChooser};
use crate::layers::mixer::compressor::Compressor;
use crate::layers::mixer::heads::HeadExperts;
use crate::layers::mixer::lstm::Lstm;
use crate::layers::ngram::Ngram;
use crate::layers::rope::Rope;
use crate::layers::streams::{MixWeights, StreamWeights};
use crate::weights::embedding::Embedding;

impl OfLayer<'_> {
    /// How a branch mixes residual streams.
    pub(super) fn streams(self, spec: StreamsSpec, place: Place) -> Result<StreamWeights> {
        use LayerTensor as T;
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let kind = match spec.mix {
            StreamMix::Sinkhorn { .. } => MixWeights::Sinkhorn {
                matrix: self.matrix(T::StreamMix(place)),
                base: vector(T::StreamBase(place))?,
                scale: vector(T::StreamScale(place))?,
            },
            StreamMix::Gated { .. } => MixWeights::Gated {
                norm: vector(T::StreamNorm(place))?,
                down: self.matrix(T::StreamDown(place)),
                up: self.matrix(T::StreamUp(place)),
                inject: Some(self.matrix(T::StreamInject(place))),
            },
        };
        Ok(StreamWeights { spec, d_model: self.d_model, kind })
    }

    /// How tokens choose the blocks that they attend to.
    pub(super) fn blocks(self, spec: &AttentionSpec, blocks: BlockChoice) -> Result<Box<Blocks>> {
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        Ok(Box::new(Blocks {
            spec: blocks,
            queries: linear(LayerTensor::BlockQ),
            keys: linear(LayerTensor::BlockK),
            query_norm: self.tensors.vector(self.role(LayerTensor::BlockQNorm))?,
            key_norm: self.tensors.vector(self.role(LayerTensor::BlockKNorm))?,
            rope: spec.rope.as_ref().map(|rope| (rope.clone(), Rope::new(rope, 0))),
        }))
    }

    pub(super) fn lstm(self) -> Result<Lstm> {
        let bias = Some(self.tensors.vector(self.role(LayerTensor::LstmBias))?);
        let input = Linear { weight: self.matrix(LayerTensor::LstmIn), bias };
        Ok(Lstm { input, back: Linear { weight: self.matrix(LayerTensor::LstmBack), bias: None } })
    }

    /// Numbers of runs of tokens.
    pub(super) fn ngram(self, spec: &NgramSpec) -> Result<Ngram> {
        use LayerTensor as T;
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let numbers = |tensor| self.tensors.large_numbers(self.role(tensor));
        let hash = match &spec.hash {
            Some(hash) => hash.clone(),
            None => NgramHash {
                factors: numbers(T::NgramFactors)?,
                first: numbers(T::NgramFirst)?,
                rows: numbers(T::NgramRows)?,
            },
        };
        let (mut table, mut end) = (Vec::new(), 0);
        for matrix in self.tensors.table(self.role(T::NgramTable)) {
            let file = self.tensors.file(matrix.file).is_file();
            let part = match file {
                true => Embedding::part_in_file(self.tensors, matrix).map_err(EngineError::Store)?,
                false => Embedding::InMemory(matrix),
            };
            table.push((end, part));
            end += matrix.rows as u64;
        }
        let heads = hash.first.iter().zip(&hash.rows);
        let beyond = |(first, rows): &(&u64, &u64)| {
            **rows == 0 || first.checked_add(**rows).is_none_or(|last| last > end)
        };
        if let Some((first, rows)) = heads.clone().find(beyond) {
            return Err(EngineError::Load(LoadError::Malformed {
                path: self.tensors.paths().next().map_or_else(Default::default, Into::into),
                field: "hash of runs of tokens".to_owned(),
                offset: None,
                fault: Fault::Contradiction {
                    found: format!("{rows} rows from row {first} on"),
                    other: format!("a table of {end} rows"),
                },
            }));
        }
        Ok(Ngram {
            d_model: self.d_model,
            table,
            hash,
            key: linear(T::NgramKey),
            value: linear(T::NgramValue),
            norms: [vector(T::NgramKeyNorm)?, vector(T::NgramQueryNorm)?, vector(T::NgramConvNorm)?],
            taps: vector(T::NgramConv)?,
            spec: spec.clone(),
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
