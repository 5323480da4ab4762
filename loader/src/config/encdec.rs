//! Lowering of encoder-decoders: two stacks of layers, of which the second attends to what the first makes of
//! a text. It must not know decoders that are alone.

use crate::config::experts::named_activation;
use crate::config::field::{Field, PerLayer, Uniform};
use crate::config::fields::RawConfig;
use crate::config::limits::{
    Container, MAX_CONTEXT, MAX_EXPERTS, MAX_EXPERTS_TOTAL, MAX_FF, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS,
    MAX_VOCAB, MAX_WIDTH, embed_scale, root, setting,
};
use crate::config::positions::distances;
use crate::error::{Fault, LoadError, Result};
use crate::families::{Family, NormKind, PairKind, PairPositions, SparseLayers};
use crate::io::reader::narrow;
use crate::spec::{
    Activation, AttentionSpec, BranchSpec, CapacitySpec, EncoderSpec, ExpertLimit, HeadSpec, Join, KvSource,
    LayerSpec, MlpSpec, ModelSpec, MoeSpec, NormSpec, Op, Place, QkNorm, RouterInput, RouterSpec, Select,
    SharedExpert, SinusoidSpec,
};

/// Tokens that a model reads and writes if its file names no bound: distances are told for texts of any
/// length.
const USUAL_CONTEXT: usize = 2048;
/// The first position of M2M100 is 2: two are for padding.
const SINUSOID_OFFSET: usize = 2;

/// Lowers the configuration of an encoder-decoder.
///
/// # Errors
/// [`LoadError::Malformed`] naming the field, or [`LoadError::Unsupported`].
pub(super) fn pair(
    raw: &RawConfig,
    family: &Family,
    kind: PairKind,
    container: Container,
) -> Result<ModelSpec> {
    let d_model = raw.count(&raw.d_model, 1, MAX_WIDTH)?;
    let vocab = raw.count(&raw.vocab, 1, MAX_VOCAB)?;
    let eps = raw.positive_or(&raw.norm_eps, family.default_eps)?;
    let norm = match family.norm {
        NormKind::Rms => NormSpec::Rms { eps },
        NormKind::Layer => NormSpec::Layer { eps },
        NormKind::LayerUnbiased => NormSpec::LayerUnbiased { eps },
    };
    let encoder_layers = raw.count(&raw.encoder_layers, 1, MAX_LAYERS)?;
    let decoder_layers = raw.count_or(&raw.decoder_layers, encoder_layers, 1, MAX_LAYERS)?;
    let stacks = Stacks { raw, family, kind, d_model, norm, encoder_layers, decoder_layers };
    let tied = raw.tied.value.unwrap_or(family.default_tied);
    let scaled = kind.scaled_head && raw.scaled_head.value.unwrap_or(tied);
    let relative = kind.positions != PairPositions::Sinusoids;
    Ok(ModelSpec {
        name: raw.text(&raw.model_name)?,
        family: family.label,
        vocab,
        d_model,
        max_context: if relative { USUAL_CONTEXT } else { raw.count(&raw.max_context, 1, MAX_CONTEXT)? },
        embed_scale: match container {
            Container::HfFolder => embed_scale(raw, family, d_model)?,
            Container::Gguf => raw.positive(&raw.embed_scale)?,
        },
        layer_inputs: None,
        streams: None,
        positions: (!relative).then_some(SinusoidSpec { offset: SINUSOID_OFFSET }),
        encoder: Some(EncoderSpec {
            layers: encoder_layers,
            final_norm: norm,
            start: start(raw, vocab)?,
            purpose: kind.purpose,
        }),
        image: None,
        tasks: Vec::new(),
        layers: stacks.layers()?,
        final_norm: Some(norm),
        head: HeadSpec {
            tied,
            bias: false,
            scale: if scaled { narrow(1.0 / root(d_model)) } else { 1.0 },
            softcap: None,
        },
    })
}

/// The token that texts of the decoder begin with.
fn start(raw: &RawConfig, vocab: usize) -> Result<u32> {
    if raw.decoder_start.value.is_none() {
        let hint = ": it is the token that the answers of an encoder-decoder begin with; add it to the file";
        return Err(raw.fault(&raw.decoder_start.name, Fault::Missing { hint }));
    }
    let last = u64::try_from(vocab).unwrap_or(MAX_VOCAB).saturating_sub(1);
    let start = raw.count(&raw.decoder_start, 0, last)?;
    Ok(u32::try_from(start).unwrap_or(u32::MAX))
}

/// What both stacks are made from.
struct Stacks<'a> {
    raw: &'a RawConfig,
    family: &'a Family,
    kind: PairKind,
    d_model: usize,
    norm: NormSpec,
    encoder_layers: usize,
    decoder_layers: usize,
}

/// A number that both stacks have once for all of their layers, under a key that other models may have a list
/// in.
fn once(raw: &RawConfig, field: &Field<PerLayer>) -> Result<Field<u64>> {
    let value = match &field.value {
        None => None,
        Some(PerLayer(values)) => {
            let one = Uniform::of(values).map(u64::from);
            let fault = || {
                let found = format!("{} numbers", values.len());
                raw.fault(
                    &field.name,
                    Fault::Contradiction { found, other: "layers of one shape".to_owned() },
                )
            };
            Some(one.ok_or_else(fault)?)
        }
    };
    Ok(Field::new(field.name.clone(), value))
}

impl Stacks<'_> {
    /// The layers of the encoder, then those of the decoder.
    fn layers(&self) -> Result<Vec<LayerSpec>> {
        let &Self { raw, encoder_layers, decoder_layers, .. } = self;
        let all = encoder_layers + decoder_layers;
        let own = self.attention(true)?;
        let written = self.attention(false)?;
        let sparse = self.sparse_layers(all)?;
        let (read, written_block) = (self.mlp(true)?, self.mlp(false)?);
        let experts = self.experts(sparse.iter().filter(|&&sparse| sparse).count())?;
        if experts.is_none() && sparse.contains(&true) {
            return Err(raw.missing(&raw.experts.name));
        }
        Ok((0..all)
            .map(|layer| {
                let encoder = layer < encoder_layers;
                let mlp = if encoder { read } else { written_block };
                let ffn = match experts.as_ref().filter(|_| sparse.get(layer) == Some(&true)) {
                    None => Op::Mlp(mlp),
                    Some((experts, router, bias)) => {
                        Op::Moe(moe(*experts, router, MlpSpec { bias: *bias, ..mlp }, encoder))
                    }
                };
                let mut attention = if encoder { own.clone() } else { written.clone() };
                self.place_numbers(&mut attention, layer);
                let cross = AttentionSpec { source: KvSource::Encoded, relative: None, ..written.clone() };
                let mut branches = vec![self.branch(Place::Mixer, Op::Attention(attention))];
                if !encoder {
                    branches.push(self.branch(Place::Cross, Op::Cross(cross)));
                }
                branches.push(self.branch(Place::Ffn, ffn));
                LayerSpec { branches, sum_norm: None, scaled: false }
            })
            .collect())
    }

    fn branch(&self, place: Place, op: Op) -> BranchSpec {
        let (join, pre_norm) = (Join::InOrder, Some(self.norm));
        BranchSpec { place, join, pre_norm, op, post_norm: None, scale: 1.0 }
    }

    /// Says whose numbers for distances a layer has.
    fn place_numbers(&self, attention: &mut AttentionSpec, layer: usize) {
        let by_layer = match self.raw.relative_by_layer.value {
            Some(by_layer) => by_layer,
            None => self.kind.positions == PairPositions::RelativeByLayer,
        };
        let first = if layer < self.encoder_layers { 0 } else { self.encoder_layers };
        if let Some(relative) = &mut attention.relative {
            relative.of_layer = if by_layer { layer } else { first };
        }
    }

    /// Attention of a stack to its own text.
    fn attention(&self, encoder: bool) -> Result<AttentionSpec> {
        let &Self { raw, kind, d_model, .. } = self;
        let of_encoder = once(raw, &raw.encoder_heads)?;
        let heads = raw.count(&of_encoder, 1, MAX_HEADS)?;
        let (heads, field) = match encoder {
            true => (heads, &of_encoder),
            false => (raw.count_or(&raw.decoder_heads, heads, 1, MAX_HEADS)?, &raw.decoder_heads),
        };
        if raw.pair_head_dim.value.is_none() && !d_model.is_multiple_of(heads) {
            let other = format!("a width of {d_model}");
            return Err(raw.fault(&field.name, Fault::Contradiction { found: heads.to_string(), other }));
        }
        let head_dim = raw.count_or(&raw.pair_head_dim, d_model / heads, 1, MAX_HEAD_DIM)?;
        let relative = match kind.positions {
            PairPositions::Sinusoids => None,
            PairPositions::Relative | PairPositions::RelativeByLayer => Some(distances(raw, encoder, 0)?),
        };
        Ok(AttentionSpec {
            heads,
            kv_heads: heads,
            head_dim,
            value_dim: head_dim,
            scale: if relative.is_some() { 1.0 } else { narrow(1.0 / root(head_dim)) },
            qkv_bias: kind.biases,
            out_bias: kind.biases,
            sinks: false,
            qk_norm: QkNorm::None,
            rope: None,
            window: None,
            clip_qkv: None,
            softcap: None,
            temperature: None,
            gate: None,
            source: KvSource::Projected,
            value_norm: None,
            value_scale: 1.0,
            chunk: None,
            whole: encoder,
            relative,
            blocks: None,
        })
    }

    fn mlp(&self, encoder: bool) -> Result<MlpSpec> {
        let raw = self.raw;
        let d_ff = raw.count(&once(raw, &raw.encoder_d_ff)?, 1, MAX_FF)?;
        let d_ff = if encoder { d_ff } else { raw.count_or(&raw.decoder_d_ff, d_ff, 1, MAX_FF)? };
        let named = raw.feed_forward.value.as_deref();
        let (gated, name) = match named.map(|name| (name, name.strip_prefix("gated-"))) {
            Some((_, Some(rest))) => (true, Some(rest)),
            Some((name, None)) => (false, Some(name)),
            None => (raw.feed_forward_gated.value.unwrap_or(false), None),
        };
        let activation = match name {
            None if gated => Activation::GeluTanh,
            None => Activation::Relu,
            // Version 1.1 says `gated-gelu` and means the approximation.
            Some("gelu") if gated => Activation::GeluTanh,
            Some(name) => named_activation(raw, name)?,
        };
        Ok(MlpSpec { d_ff, gated, activation, bias: self.kind.biases })
    }

    /// Which layers have experts.
    fn sparse_layers(&self, all: usize) -> Result<Vec<bool>> {
        let raw = self.raw;
        if let Some(listed) = &raw.pair_sparse.value {
            if listed.len() == all {
                return Ok(listed.clone());
            }
            let (found, other) = (format!("a list of {} layers", listed.len()), format!("{all} layers"));
            return Err(raw.fault(&raw.pair_sparse.name, Fault::Contradiction { found, other }));
        }
        if raw.experts.value.is_none() {
            return Ok(vec![false; all]);
        }
        let of_stack = |layers: usize, count: &Field<u64>, step: &Field<u64>| -> Result<Vec<bool>> {
            let most = u64::try_from(layers).unwrap_or(MAX_LAYERS);
            let stated = raw.count_or(step, 0, 0, MAX_LAYERS)?;
            let step = match (self.kind.sparse, count.value) {
                (SparseLayers::LastOfRun, _) | (SparseLayers::SecondOfRun, None) => stated,
                (SparseLayers::SecondOfRun, Some(_)) => match raw.count(count, 0, most)? {
                    0 => 0,
                    count => layers / count,
                },
            };
            let place = match self.kind.sparse {
                SparseLayers::SecondOfRun => 1,
                SparseLayers::LastOfRun => step.saturating_sub(1),
            };
            Ok((0..layers).map(|layer| step == 1 || step > 1 && layer % step == place).collect())
        };
        let encoder = of_stack(self.encoder_layers, &raw.encoder_sparse_layers, &raw.encoder_sparse_step)?;
        let decoder = of_stack(self.decoder_layers, &raw.decoder_sparse_layers, &raw.sparse_step)?;
        Ok(encoder.into_iter().chain(decoder).collect())
    }

    /// The number of experts of a layer, their router, and whether they have biases. `layers` have them.
    fn experts(&self, layers: usize) -> Result<Option<(usize, RouterSpec, bool)>> {
        let &Self { raw, family, kind, .. } = self;
        if raw.experts.value.is_none() {
            return Ok(None);
        }
        let experts = raw.count(&raw.experts, kind.experts_used.try_into().unwrap_or(1), MAX_EXPERTS)?;
        if experts.saturating_mul(layers) > MAX_EXPERTS_TOTAL {
            let (found, other) = (experts.to_string(), format!("{layers} layers: too many experts in all"));
            return Err(raw.fault(&raw.experts.name, Fault::Contradiction { found, other }));
        }
        self.refuse_chance()?;
        let renormalise = setting(family.renormalise, &raw.renormalise);
        let limit = match (raw.expert_capacity_part.value, raw.expert_capacity.value) {
            (Some(part), _) if part > 0.0 => {
                Some(ExpertLimit::Part(raw.positive(&raw.expert_capacity_part)?))
            }
            // Without a part, transformers takes the capacity of training.
            (Some(_), None) => Some(ExpertLimit::Factor(kind.experts_used)),
            (_, Some(_)) => Some(ExpertLimit::Tokens(raw.count(&raw.expert_capacity, 1, MAX_CONTEXT)?)),
            (None, None) => None,
        };
        let after = renormalise && raw.weights_before_capacity.get() != Some(&true);
        let dropout = raw.non_negative(&raw.token_dropout)?;
        if dropout >= 1.0 {
            let (found, must) = (dropout.to_string(), "below 1");
            return Err(raw.fault(&raw.token_dropout.name, Fault::BadNumber { found, must }));
        }
        let stated = raw.router_scale.value.map(|_| raw.positive(&raw.router_scale)).transpose()?;
        let router = RouterSpec {
            bias: raw.router_bias.get() == Some(&true),
            select: Select::SoftmaxTopK { k: kind.experts_used, renormalise },
            scale: stated.unwrap_or(1.0 - dropout),
            listed: false,
            expert_scales: false,
            capacity: limit.map(|limit| CapacitySpec { limit, renormalise: after, prioritised: false }),
        };
        Ok(Some((experts, router, family.expert_bias)))
    }

    /// Rules of transformers that draw by chance, or that look at a whole batch.
    fn refuse_chance(&self) -> Result<()> {
        let raw = self.raw;
        let unsupported = |feature: String, hint: &str| LoadError::Unsupported {
            path: raw.path.clone(),
            feature,
            hint: hint.to_owned(),
        };
        if raw.prioritised.get() == Some(&true) {
            let feature = format!("{} = true", raw.prioritised.name);
            return Err(unsupported(feature, "it lets tokens of other texts decide; set it to false"));
        }
        match raw.second_expert.value.as_deref() {
            None | Some("all") => Ok(()),
            Some(other) => {
                let feature = format!("{} = \"{}\"", raw.second_expert.name, other.escape_default());
                Err(unsupported(feature, "it draws by chance; \"all\" is supported"))
            }
        }
    }
}

/// A mixture of experts. A decoder computes token by token, where capacity never binds.
pub(super) fn moe(experts: usize, router: &RouterSpec, expert: MlpSpec, encoder: bool) -> MoeSpec {
    MoeSpec {
        experts,
        expert,
        router: RouterSpec { capacity: router.capacity.filter(|_| encoder), ..router.clone() },
        router_input: RouterInput::Branch,
        shared: SharedExpert::None,
        latent: None,
        shared_scale: 1.0,
        out_bias: false,
        squashed: false,
        weighs_inputs: false,
    }
}
