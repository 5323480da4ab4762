//! Builds weights from a spec and its tensors. Damaged vectors are found here, before anything is computed.
//! It must not know how weights are used.

mod encdec;
mod recent;

use std::sync::Arc;

use moelten_loader::spec::{
    Activation, AttentionSpec, BankKey, BranchSpec, ConvSpec, DeltaSpec, KdaSpec, KvSource, LatentSpec,
    LayerInputSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, Op, OutputGate, Part, QkNorm, RopeSpec,
    RouterInput, RouterSpec, SelectiveSpec, SharedExpert, SsmSpec, StreamsSpec,
};
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::needed::delta_inputs;
use moelten_loader::tensors::roles::{AttentionTensors, LayerTensor, Role};
use moelten_loader::tensors::store::TensorStore;

use super::embedding::Embedding;
use super::head_streams::head_streams;
use super::layer_inputs::LayerInputWeights;
use super::task::Task;
use super::{Branch, Layer, OpWeights, Weights};
use crate::error::{EngineError, Result};
use crate::layers::ffn::dense::{Mlp, MlpBiases};
use crate::layers::ffn::moe::{LatentProjections, Moe, Shared};
use crate::layers::ffn::router_weights::RouterWeights;
use crate::layers::layer_input::LayerInput;
use crate::layers::linear::Linear;
use crate::layers::mixer::attention::Attention;
use crate::layers::mixer::conv::Conv;
use crate::layers::mixer::delta::Delta;
use crate::layers::mixer::kda::{Kda, Narrowed};
use crate::layers::mixer::latent::{HeadMatrices, Latent, Query};
use crate::layers::mixer::selective::Selective;
use crate::layers::mixer::sparse::Indexer;
use crate::layers::mixer::ssm::Ssm;
use crate::layers::norm::Norm;

/// Which tables stay in their files.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadRows {
    /// The token embedding.
    pub embedding: bool,
    /// The numbers of every layer.
    pub layer_inputs: bool,
}

impl Weights {
    /// The weights of `spec` in `tensors`. Rows of the tables that `read` says are read from their files when
    /// they are needed.
    ///
    /// # Errors
    /// [`EngineError::Load`] for norms, biases or routers with NaN or infinity; [`EngineError::Store`] when
    /// the file of the embedding cannot be opened again.
    pub fn build(spec: &ModelSpec, tensors: &TensorStore, read: ReadRows) -> Result<Self> {
        let d_model = spec.d_model;
        let (ropes, of_layers, distances) = (Vec::new(), Vec::new(), Vec::new());
        let streams = spec.streams;
        let task = Task::of(spec);
        let mut builder =
            Builder { tensors, d_model, streams, task, ropes, states: 0, of_layers, distances, banks: 0 };
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            let mut branches = Vec::with_capacity(layer.branches.len());
            let mut banks = 0;
            for (number, branch) in layer.branches.iter().enumerate() {
                let key = BankKey { layer: index, bank: banks };
                branches.push(builder.branch((index, number), key, branch)?);
                banks += usize::from(branch.op.bank(spec.d_model).is_some());
            }
            let sum_norm = layer.sum_norm.map(|spec| {
                // No such norm has a bias in files.
                norm(tensors, spec, Role::Layer(index, LayerTensor::SumNorm), Role::FinalNormBias)
            });
            let scale = layer.scaled.then(|| tensors.vector(Role::Layer(index, LayerTensor::LayerScale)));
            let scale = scale.transpose()?.and_then(|values| values.first().copied());
            layers.push(Layer { branches, sum_norm: sum_norm.transpose()?, scale });
        }
        link_banks(&mut layers);
        let head = builder.head(spec)?;
        let table = |role, in_file| match in_file {
            true => Embedding::in_file(tensors, role).map_err(EngineError::Store),
            false => Ok(Embedding::InMemory(tensors.get(role))),
        };
        let embedding = table(Role::Embed, read.embedding)?;
        let layer_inputs = match spec.layer_inputs {
            None => None,
            Some(spec) => Some(LayerInputWeights {
                spec,
                table: table(Role::LayerInputTable, read.layer_inputs)?,
                projection: tensors.get(Role::LayerInputProjection),
                norm: tensors.vector(Role::LayerInputNorm)?,
            }),
        };
        let final_norm = spec
            .final_norm
            .map(|spec| norm(tensors, spec, Role::FinalNorm, Role::FinalNormBias))
            .transpose()?;
        let encoder_norm = spec
            .encoder
            .map(|encoder| norm(tensors, encoder.final_norm, Role::EncoderNorm, Role::EncoderNormBias));
        let encoder_norm = encoder_norm.transpose()?;
        let image = spec.image.map(|image| builder.image(&image)).transpose()?;
        let streams = spec.streams.map(|streams| head_streams(tensors, streams, d_model)).transpose()?;
        let ropes = builder.ropes;
        Ok(Self { layers, ropes, embedding, layer_inputs, encoder_norm, image, streams, final_norm, head })
    }
}

/// Stores in each branch with experts which branch with experts follows.
fn link_banks(layers: &mut [Layer]) {
    let mut next_bank = None;
    for branch in layers.iter_mut().flat_map(|layer| &mut layer.branches).rev() {
        if let OpWeights::Moe { next, .. } | OpWeights::HeadExperts { next, .. } = &mut branch.op {
            *next = next_bank.replace(branch.key);
        }
    }
}

fn norm(tensors: &TensorStore, spec: NormSpec, weight: Role, bias: Role) -> Result<Norm> {
    let weight = tensors.vector(weight)?;
    let bias = match spec {
        NormSpec::Rms { .. } => Vec::new(),
        NormSpec::Layer { .. } => tensors.vector(bias)?,
        NormSpec::LayerUnbiased { .. } => vec![0.0; weight.len()],
    };
    Ok(Norm { spec, weight, bias })
}

/// Builds branches in order.
struct Builder<'a> {
    tensors: &'a TensorStore,
    /// Width of the residual stream.
    d_model: usize,
    /// The residual streams, where there are several.
    streams: Option<StreamsSpec>,
    /// The task that is computed.
    task: Task,
    /// The distinct ropes of the branches so far.
    ropes: Vec<RopeSpec>,
    /// Number of branches with a state so far.
    states: usize,
    /// The state of attention of each layer so far.
    of_layers: Vec<usize>,
    /// What distances add to scores, by the layer whose numbers they are.
    distances: Vec<(usize, Arc<[f32]>)>,
    /// Number of expert banks so far.
    banks: usize,
}

impl Builder<'_> {
    /// The number of another state.
    fn next_state(&mut self) -> usize {
        self.states += 1;
        self.states - 1
    }

    fn branch(&mut self, key: (usize, usize), bank: BankKey, spec: &BranchSpec) -> Result<Branch> {
        let of_layer =
            OfLayer { tensors: self.tensors, layer: key.0, d_model: self.d_model, task: self.task };
        let norm = |spec: Option<NormSpec>, weight, bias| {
            let of = |spec| norm(self.tensors, spec, of_layer.role(weight), of_layer.role(bias));
            spec.map(of).transpose()
        };
        let pre =
            norm(spec.pre_norm, LayerTensor::PreNorm(spec.place), LayerTensor::PreNormBias(spec.place))?;
        let post =
            norm(spec.post_norm, LayerTensor::PostNorm(spec.place), LayerTensor::PostNormBias(spec.place))?;
        let op = match &spec.op {
            Op::Attention(attention) => self.attention(of_layer, key.0, attention)?,
            Op::Cross(attention) => {
                let state = self.next_state();
                OpWeights::Cross { cross: Box::new(of_layer.cross(attention)?), state }
            }
            Op::HeadExperts(heads) => {
                let (state, number) = (self.next_state(), self.banks);
                self.banks += 1;
                let heads = Box::new(of_layer.head_experts(number, heads, &mut self.ropes)?);
                OpWeights::HeadExperts { heads, state, key: bank, next: None }
            }
            Op::Latent(latent) => {
                let state = self.next_state();
                OpWeights::Latent { latent: of_layer.latent(latent, &mut self.ropes)?, state }
            }
            Op::Compressed(compressed) => {
                let state = self.next_state();
                let compressed = Box::new(of_layer.compressed(compressed, &mut self.ropes)?);
                OpWeights::Compressed { compressed, state }
            }
            Op::Conv(conv) => OpWeights::Conv { conv: of_layer.conv(*conv)?, state: self.next_state() },
            Op::Lstm(_) => OpWeights::Lstm { lstm: of_layer.lstm()?, state: self.next_state() },
            Op::Selective(ssm) => {
                let state = self.next_state();
                OpWeights::Selective { ssm: Box::new(of_layer.selective(*ssm)?), state }
            }
            Op::Kda(kda) => {
                let state = self.next_state();
                OpWeights::Kda { kda: Box::new(of_layer.kda(*kda)?), state }
            }
            Op::Ssm(ssm) => {
                let state = self.next_state();
                OpWeights::Ssm { ssm: of_layer.ssm(*ssm)?, state }
            }
            Op::Delta(delta) => {
                let state = self.next_state();
                OpWeights::Delta { delta: of_layer.delta(delta)?, state }
            }
            Op::Ngram(ngram) => {
                let state = self.states;
                self.states += 1;
                OpWeights::Ngram { ngram: Box::new(of_layer.ngram(ngram)?), state }
            }
            Op::LayerInput(input) => OpWeights::LayerInput(of_layer.layer_input(*input)),
            Op::Mlp(mlp) => OpWeights::Mlp(of_layer.mlp((LayerTensor::Dense, LayerTensor::DenseBias), mlp)?),
            Op::Moe(moe) => {
                let number = self.banks;
                self.banks += 1;
                OpWeights::Moe { moe: of_layer.moe(number, moe)?, key: bank, next: None }
            }
        };
        let streams = match self.streams.filter(|_| !matches!(spec.op, Op::Ngram(_))) {
            None => None,
            Some(streams) => Some(of_layer.streams(streams, spec.place)?),
        };
        Ok(Branch { key, join: spec.join, streams, pre, op, post, scale: spec.scale })
    }
}

/// The index of a rope among those of the model. Layers with equal ropes share one set of angles.
fn shared_rope(rope: &RopeSpec, ropes: &mut Vec<RopeSpec>) -> usize {
    ropes.iter().position(|known| known == rope).unwrap_or_else(|| {
        ropes.push(rope.clone());
        ropes.len() - 1
    })
}

/// The tensors of one layer.
#[derive(Clone, Copy)]
struct OfLayer<'a> {
    tensors: &'a TensorStore,
    layer: usize,
    /// Width of the residual stream.
    d_model: usize,
    /// The task that is computed.
    task: Task,
}

/// The roles of a block's matrices and of their biases.
type MlpRoles = (fn(Part) -> LayerTensor, fn(Part) -> LayerTensor);

impl OfLayer<'_> {
    fn role(self, tensor: LayerTensor) -> Role {
        Role::Layer(self.layer, tensor)
    }

    fn matrix(self, tensor: LayerTensor) -> MatrixRef {
        self.tensors.get(self.role(tensor))
    }

    fn attention(
        self,
        spec: &AttentionSpec,
        distances: Option<Arc<[f32]>>,
        ropes: &mut Vec<RopeSpec>,
    ) -> Result<Attention> {
        let encoded = spec.source == KvSource::Encoded;
        let tensors = if encoded { AttentionTensors::CROSS } else { AttentionTensors::OWN };
        let AttentionTensors { matrices: [q, k, v, o], biases: [q_bias, k_bias, v_bias, o_bias] } = tensors;
        let linear = |weight, bias, has_bias: bool| -> Result<Linear> {
            Ok(Linear {
                weight: self.matrix(weight),
                bias: if has_bias { Some(self.tensors.vector(self.role(bias))?) } else { None },
            })
        };
        let qk_norm = |tensor| match spec.qk_norm {
            QkNorm::None => Ok(Vec::new()),
            QkNorm::PlainAfterRope { .. } => Ok(vec![1.0; spec.head_dim]),
            QkNorm::PerHead { .. } | QkNorm::PerHeadAfterRope { .. } | QkNorm::Full { .. } => {
                self.tensors.vector(self.role(tensor))
            }
        };
        let rope = spec.rope.as_ref().map(|rope| shared_rope(rope, ropes));
        Ok(Attention {
            q: linear(q, q_bias, spec.qkv_bias)?,
            k: spec.source.is_own().then(|| linear(k, k_bias, spec.qkv_bias)).transpose()?,
            v: match spec.source {
                KvSource::Projected => Some(linear(v, v_bias, spec.qkv_bias)?),
                _ => None,
            },
            o: linear(o, o_bias, spec.out_bias)?,
            gate: match spec.gate {
                None | Some(OutputGate::SigmoidWithQuery) => None,
                Some(_) => Some(self.matrix(LayerTensor::AttentionGate)),
            },
            q_norm: qk_norm(LayerTensor::QNorm)?,
            k_norm: if spec.source.is_own() { qk_norm(LayerTensor::KNorm)? } else { Vec::new() },
            v_norm: spec.value_norm.map_or_else(Vec::new, |_| vec![1.0; spec.value_dim]),
            blocks: spec.blocks.map(|blocks| self.blocks(spec, blocks)).transpose()?,
            sinks: if spec.sinks { self.tensors.vector(self.role(LayerTensor::Sinks))? } else { Vec::new() },
            distances,
            rope,
            spec: spec.clone(),
        })
    }

    fn layer_input(self, spec: LayerInputSpec) -> LayerInput {
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let (gate, up) = (linear(LayerTensor::LayerInputGate), linear(LayerTensor::LayerInputUp));
        LayerInput { spec, layer: self.layer, gate, up }
    }

    fn conv(self, spec: ConvSpec) -> Result<Conv> {
        use LayerTensor as T;
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let linear = |weight, bias| -> Result<Linear> {
            Ok(Linear { weight: self.matrix(weight), bias: spec.bias.then(|| vector(bias)).transpose()? })
        };
        Ok(Conv {
            spec,
            input: linear(T::ConvIn, T::ConvInBias)?,
            taps: vector(T::ConvTaps)?,
            bias: if spec.bias { vector(T::ConvBias)? } else { Vec::new() },
            out: linear(T::ConvOut, T::ConvOutBias)?,
        })
    }

    fn selective(self, spec: SelectiveSpec) -> Result<Selective> {
        use LayerTensor as T;
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let mut decay = vector(T::SsmDecay)?;
        if spec.log_decay {
            decay.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        Ok(Selective {
            spec,
            input: linear(T::SsmIn),
            conv: vector(T::SsmConv)?,
            conv_bias: if spec.conv_bias { vector(T::SsmConvBias)? } else { Vec::new() },
            project: linear(T::SsmX),
            norms: [vector(T::SsmStepNorm)?, vector(T::SsmBNorm)?, vector(T::SsmCNorm)?],
            step: Linear { weight: self.matrix(T::SsmStep), bias: Some(vector(T::SsmStepBias)?) },
            decay,
            skip: vector(T::SsmSkip)?,
            out: linear(T::SsmOut),
        })
    }

    fn kda(self, spec: KdaSpec) -> Result<Kda> {
        use LayerTensor as T;
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let narrowed = |down, up| Narrowed { down: spec.rank.map(|_| linear(down)), up: linear(up) };
        let mut decay = vector(T::DeltaDecay)?;
        if spec.log_decay {
            decay.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        let mut conv = vector(T::KdaConvQ)?;
        conv.extend(vector(T::KdaConvK)?);
        conv.extend(vector(T::KdaConvV)?);
        Ok(Kda {
            spec,
            qkv: [T::Q, T::K, T::V].map(linear),
            strength: linear(T::DeltaStrength),
            rates: narrowed(T::KdaRateDown, T::KdaRateUp),
            gates: narrowed(T::KdaGateDown, T::KdaGateUp),
            conv,
            decay,
            rate_bias: vector(T::DeltaStepBias)?,
            norm: vector(T::DeltaNorm)?,
            out: linear(T::O),
        })
    }

    fn ssm(self, spec: SsmSpec) -> Result<Ssm> {
        use LayerTensor as T;
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let mut decay = vector(T::SsmDecay)?;
        if spec.log_decay {
            decay.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        Ok(Ssm {
            spec,
            input: linear(T::SsmIn),
            conv: vector(T::SsmConv)?,
            conv_bias: if spec.conv_bias { vector(T::SsmConvBias)? } else { Vec::new() },
            decay,
            step_bias: vector(T::SsmStepBias)?,
            skip: vector(T::SsmSkip)?,
            norm: vector(T::SsmNorm)?,
            out: linear(T::SsmOut),
        })
    }

    fn delta(self, spec: &DeltaSpec) -> Result<Delta> {
        use LayerTensor as T;
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let vector = |tensor| self.tensors.vector(self.role(tensor));
        let mut decay = vector(T::DeltaDecay)?;
        if spec.log_decay {
            decay.iter_mut().for_each(|rate| *rate = -rate.exp());
        }
        Ok(Delta {
            spec: *spec,
            inputs: delta_inputs(spec.layout).iter().map(|&tensor| linear(tensor)).collect(),
            conv: vector(T::DeltaConv)?,
            decay,
            step_bias: vector(T::DeltaStepBias)?,
            norm: vector(T::DeltaNorm)?,
            out: linear(T::DeltaOut),
        })
    }

    fn latent(self, spec: &LatentSpec, ropes: &mut Vec<RopeSpec>) -> Result<Latent> {
        let linear = |tensor| Linear { weight: self.matrix(tensor), bias: None };
        let query = match spec.query_rank {
            None => Query::Direct(linear(LayerTensor::Q)),
            Some(_) => Query::Latent {
                down: linear(LayerTensor::QDown),
                norm: self.tensors.vector(self.role(LayerTensor::QDownNorm))?,
                up: linear(LayerTensor::QUp),
            },
        };
        let heads = match spec.split {
            true => HeadMatrices::Split {
                keys: self.matrix(LayerTensor::KUp),
                values: self.matrix(LayerTensor::VUp),
            },
            false => HeadMatrices::Whole(self.matrix(LayerTensor::KvUp)),
        };
        let rope = spec.attention.rope.as_ref().map(|rope| shared_rope(rope, ropes));
        let gate = spec.attention.gate.map(|_| linear(LayerTensor::AttentionGate));
        let indexer = match &spec.indexer {
            None => None,
            Some(index) => Some(Box::new(Indexer {
                spec: index.clone(),
                queries: linear(LayerTensor::IndexQ),
                keys: linear(LayerTensor::IndexK),
                key_norm: self.tensors.vector(self.role(LayerTensor::IndexKNorm))?,
                key_bias: self.tensors.vector(self.role(LayerTensor::IndexKNormBias))?,
                weights: linear(LayerTensor::IndexWeights),
                rope: shared_rope(&index.rope, ropes),
            })),
        };
        Ok(Latent {
            query,
            down: linear(LayerTensor::KvDown),
            norm: self.tensors.vector(self.role(LayerTensor::KvDownNorm))?,
            heads,
            o: linear(LayerTensor::O),
            rope,
            indexer,
            gate,
            spec: spec.clone(),
        })
    }

    fn moe(self, bank: usize, spec: &MoeSpec) -> Result<Moe> {
        let shared_roles: MlpRoles = (LayerTensor::Shared, LayerTensor::SharedBias);
        Ok(Moe {
            spec: spec.clone(),
            bank,
            d_model: self.d_model,
            router: match spec.router_input {
                RouterInput::Groups { .. } => None,
                _ => Some(self.router(&spec.router, LayerTensor::Router)?),
            },
            router_norm: self.router_norm(spec)?,
            out_bias: match spec.out_bias {
                true => Some(self.tensors.vector(self.role(LayerTensor::ExpertsOutBias))?),
                false => None,
            },
            biases: self.biases(LayerTensor::ExpertsBias, &spec.expert)?,
            latent: spec.latent.map(|_| LatentProjections {
                down: self.matrix(LayerTensor::LatentDown),
                up: self.matrix(LayerTensor::LatentUp),
            }),
            shared: match &spec.shared {
                SharedExpert::None => None,
                SharedExpert::Plain(mlp) => {
                    let scale = spec.shared_scale;
                    Some(Shared { mlp: self.mlp(shared_roles, mlp)?, gate: None, scale })
                }
                SharedExpert::Gated(mlp) => Some(Shared {
                    mlp: self.mlp(shared_roles, mlp)?,
                    gate: Some(self.matrix(LayerTensor::SharedInput)),
                    scale: spec.shared_scale,
                }),
            },
        })
    }

    /// The norm of what a router reads that has its own.
    fn router_norm(self, spec: &MoeSpec) -> Result<Option<Norm>> {
        let RouterInput::Residual { eps } = spec.router_input else { return Ok(None) };
        let mut weight = self.tensors.vector(self.role(LayerTensor::RouterNorm))?;
        let root = (weight.len() as f32).sqrt();
        weight.iter_mut().for_each(|weight| *weight /= root);
        Ok(Some(Norm { spec: NormSpec::Rms { eps }, weight, bias: Vec::new() }))
    }

    /// The router. NaN or infinity in it is refused at once, because one such value spoils the routing of
    /// every token.
    fn router(self, spec: &RouterSpec, weight: LayerTensor) -> Result<RouterWeights> {
        self.tensors.check_finite(self.role(weight))?;
        let vector = |there: bool, tensor| match there {
            true => self.tensors.vector(self.role(tensor)),
            false => Ok(Vec::new()),
        };
        let bias = vector(spec.bias, LayerTensor::RouterBias)?;
        Ok(RouterWeights {
            spec: spec.clone(),
            weight: self.task.rows(self.matrix(weight)),
            bias: spec.bias.then_some(bias),
            expert_scales: vector(spec.expert_scales, LayerTensor::ExpertScales)?,
            select_bias: vector(spec.select.has_bias(), LayerTensor::SelectBias)?,
            listed: match spec.listed {
                true => {
                    let experts = u16::try_from(self.matrix(weight).rows).unwrap_or(u16::MAX);
                    self.tensors.whole_numbers(self.role(LayerTensor::TokenExperts), experts)?
                }
                false => Vec::new(),
            },
        })
    }

    fn mlp(self, (weight, bias): MlpRoles, spec: &MlpSpec) -> Result<Mlp> {
        let activation: Activation = spec.activation;
        Ok(Mlp {
            gate: spec.gated.then(|| self.matrix(weight(Part::Gate))),
            up: self.matrix(weight(Part::Up)),
            down: self.matrix(weight(Part::Down)),
            biases: self.biases(bias, spec)?,
            activation,
        })
    }

    fn biases(self, role: fn(Part) -> LayerTensor, spec: &MlpSpec) -> Result<MlpBiases> {
        let part = |part, has: bool| match has {
            true => self.tensors.vector(self.role(role(part))),
            false => Ok(Vec::new()),
        };
        Ok(MlpBiases {
            gate: part(Part::Gate, spec.bias && spec.gated)?,
            up: part(Part::Up, spec.bias)?,
            down: part(Part::Down, spec.bias)?,
        })
    }
}
