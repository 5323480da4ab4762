//! Reads the metadata of a GGUF file into a [`RawConfig`]. Keys follow the GGUF specification; what a file leaves to
//! its tensors (biases, tied head, layers without experts, rope divisors) is read off the tensor list. It must not
//! know what the values mean for a model.

use crate::config::raw::{Field, RawConfig, RawRope, narrow};
use crate::config::write::yarn_magnitude;
use crate::container::catalog::{Catalog, TensorInfo};
use crate::container::gguf::{Metadata, Value};
use crate::container::packed::PackedIndex;
use crate::error::{Fault, LoadError, Result};
use crate::spec::Part;
use crate::tensors::roles::{LayerTensor, Role, gguf_name};

/// Layers that are looked through; the lowering refuses more.
const MAX_LAYERS: u64 = 4096;

/// Reads the metadata and tensor list of a GGUF file, and what it says of its records if it is packed.
///
/// # Errors
/// [`LoadError::Malformed`] when a key has another type than it must have.
pub fn read(meta: &Metadata, catalog: &Catalog, packed: Option<&PackedIndex>) -> Result<RawConfig> {
    let architecture = meta.str("general.architecture")?.map(str::to_owned);
    let arch = architecture.clone().unwrap_or_default();
    let k = Keys { meta, arch: &arch };
    let layers = k.u64("block_count")?;
    let layer_count = layers.value.unwrap_or(0);
    let present = |name: &str| Some(catalog.get(name).is_some());
    let first = |tensor| present(&gguf_name(Role::Layer(0, tensor)).replace(".weight", ".bias"));
    let mut expert_d_ff = hidden_width(
        &k,
        "expert_feed_forward_length",
        catalog,
        layer_count,
        LayerTensor::Experts(Part::Down),
    )?;
    if let Some(layer) = packed.and_then(|packed| packed.layers().first()) {
        let columns = layer.shape.part(Part::Down).cols;
        expert_d_ff.value = expert_d_ff.value.or(u64::try_from(columns).ok());
    }
    let mut experts = k.u64("expert_count")?;
    let experts_used = k.u64("expert_used_count")?;
    let (kind, factor) = rope_scaling(&k, catalog)?;
    if experts.value == Some(0) && experts_used.value.unwrap_or(0) == 0 {
        experts.value = None; // how some dense files say "no experts"
    }
    Ok(RawConfig {
        path: meta.path().to_owned(),
        model_name: meta.str("general.name")?.unwrap_or("unnamed model").to_owned(),
        architecture: Field::new("general.architecture", architecture),
        vocab: vocab(catalog),
        moe_layers: moe_layers(catalog, &layers),
        layers,
        d_model: k.u64("embedding_length")?,
        heads: k.u64s("attention.head_count")?,
        kv_heads: k.u64s("attention.head_count_kv")?,
        head_dim: k.u64("attention.key_length")?,
        value_dim: k.u64("attention.value_length")?,
        d_ff: k.u64("feed_forward_length")?,
        max_context: k.u64("context_length")?,
        norm_eps: match k.f64("attention.layer_norm_rms_epsilon")? {
            rms if rms.value.is_some() => rms,
            _ => k.f64("attention.layer_norm_epsilon")?,
        },
        rope: RawRope {
            kind,
            theta: k.f64("rope.freq_base")?,
            dim: k.u64("rope.dimension_count")?,
            factor,
            original_context: k.u64("rope.scaling.original_context_length")?,
            low_freq_factor: Field::absent(),
            high_freq_factor: Field::absent(),
            beta_fast: k.f64("rope.scaling.yarn_beta_fast")?,
            beta_slow: k.f64("rope.scaling.yarn_beta_slow")?,
            attention_factor: attention_factor(&k)?,
            truncate: Field::absent(),
            short_divisors: numbers(catalog, Role::RopeShort)?,
            long_divisors: numbers(catalog, Role::RopeLong)?,
            short_mscale: Field::absent(),
            long_mscale: Field::absent(),
            divisors: numbers(catalog, Role::RopeDivisors)?,
        },
        window: k.u64("attention.sliding_window")?,
        window_layers: k.bools("attention.sliding_window_pattern")?,
        qkv_bias: Field::new("attn_q.bias", first(LayerTensor::Q)),
        out_bias: Field::new("attn_output.bias", first(LayerTensor::O)),
        head_bias: Field::new("output.bias", present(&gguf_name(Role::HeadBias))),
        tied: Field::new("output.weight", Some(catalog.get(&gguf_name(Role::Head)).is_none())),
        activation: Field::absent(),
        clip_qkv: k.f64("attention.clamp_kqv")?,
        experts,
        experts_used,
        expert_d_ff,
        shared_d_ff: hidden_width(
            &k,
            "expert_shared_feed_forward_length",
            catalog,
            layer_count,
            LayerTensor::Shared(Part::Down),
        )?,
        renormalise: k.bool("expert_weights_norm")?,
        router_jitter: k.f64("router_jitter_noise")?,
        embed_scale: k.f64("embedding_scale")?,
        residual_scale: k.f64("residual_scale")?,
        logit_divisor: k.f64("logit_scale")?,
        attention_scale: k.f64("attention.scale")?,
        unknown: Vec::new(),
    })
}

/// Rows of the embedding: the one number that every file must agree with.
fn vocab(catalog: &Catalog) -> Field<u64> {
    let name = gguf_name(Role::Embed);
    let rows = catalog.get(&name).and_then(|t| t.shape.first().copied());
    Field::new(name, rows)
}

/// The hidden width of experts: its key, or the columns of the first `down` matrix where older files have no key.
fn hidden_width(
    keys: &Keys<'_>,
    suffix: &str,
    catalog: &Catalog,
    layers: u64,
    down: LayerTensor,
) -> Result<Field<u64>> {
    let mut field = keys.u64(suffix)?;
    if field.value.is_none() {
        let layers = usize::try_from(layers.min(MAX_LAYERS)).unwrap_or(0);
        let mut names = (0..layers).map(|layer| gguf_name(Role::Layer(layer, down)));
        field.value = names.find_map(|name| catalog.get(&name)?.shape.last().copied());
    }
    Ok(field)
}

/// The scaling's name and factor. Converters write LongRoPE's two lists of divisors (Phi-3.5-MoE) without naming the
/// scheme; the specification's older key is a linear factor, and so is a factor without a name. A factor of 0 is none.
fn rope_scaling(keys: &Keys<'_>, catalog: &Catalog) -> Result<(Field<String>, Field<f64>)> {
    let mut kind = keys.str("rope.scaling.type")?;
    let mut factor = keys.f64("rope.scaling.factor")?;
    if factor.value.is_none() {
        let older = keys.f64("rope.scale_linear")?;
        factor = if older.value.is_some() { older } else { factor };
    }
    factor.value = factor.value.filter(|&factor| factor != 0.0);
    if catalog.get(&gguf_name(Role::RopeLong)).is_some()
        && matches!(kind.value.as_deref(), None | Some("none"))
    {
        kind.value = Some("longrope".to_owned());
    } else if kind.value.is_none() && factor.value.is_some_and(|factor| factor != 1.0) {
        kind.value = Some("linear".to_owned());
    }
    Ok((kind, factor))
}

/// Layers with a router have experts.
fn moe_layers(catalog: &Catalog, layers: &Field<u64>) -> Field<Vec<bool>> {
    let list = layers.value.filter(|&n| n <= MAX_LAYERS).and_then(|n| usize::try_from(n).ok()).map(|n| {
        (0..n)
            .map(|l| catalog.get(&gguf_name(Role::Layer(l, LayerTensor::Router))).is_some())
            .collect::<Vec<_>>()
    });
    // A file with no router at all is either dense or broken; the lowering tells by the expert count.
    let value = list.filter(|l| l.iter().any(|&moe| moe));
    Field::new("blk.*.ffn_gate_inp.weight", value)
}

/// GGUF readers multiply the factor of YaRN files with the scheme's own; of others it stands for itself.
fn attention_factor(keys: &Keys<'_>) -> Result<Field<f64>> {
    let mut field = keys.f64("rope.scaling.attn_factor")?;
    if keys.str("rope.scaling.type")?.value.as_deref() == Some("yarn") {
        let factor = keys.f64("rope.scaling.factor")?.value.unwrap_or(1.0);
        let own = f64::from(yarn_magnitude(narrow(factor)));
        field.value = Some(field.value.unwrap_or(1.0) * own);
    }
    Ok(field)
}

/// A small float tensor that is configuration rather than weight.
fn numbers(catalog: &Catalog, role: Role) -> Result<Field<Vec<f64>>> {
    let name = gguf_name(role);
    let Some(tensor) = catalog.get(&name) else { return Ok(Field::new(name, None)) };
    let values = floats(catalog, tensor)?;
    Ok(Field::new(name, Some(values)))
}

fn floats(catalog: &Catalog, tensor: &TensorInfo) -> Result<Vec<f64>> {
    const LIMIT: u64 = 4096;
    let count = tensor.shape.iter().product::<u64>();
    let path = catalog.path(tensor);
    if count > LIMIT {
        let fault = Fault::OutOfRange { found: count.to_string(), low: 1, high: LIMIT };
        return Err(LoadError::malformed(path, format!("number of values in {}", tensor.name), fault));
    }
    let format = tensor.known_format(path)?;
    let mut values = vec![0.0; usize::try_from(count).unwrap_or(0)];
    moelten_quant::decode(format, catalog.bytes(tensor), &mut values);
    Ok(values.into_iter().map(f64::from).collect())
}

struct Keys<'a> {
    meta: &'a Metadata,
    arch: &'a str,
}

impl Keys<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.arch)
    }

    fn is_array(&self, key: &str) -> bool {
        matches!(self.meta.get(key), Some(Value::Array(_)))
    }

    fn u64(&self, suffix: &str) -> Result<Field<u64>> {
        let key = self.key(suffix);
        Ok(Field { value: self.meta.u64(&key)?, name: key })
    }

    /// One number or an array of them.
    fn u64s(&self, suffix: &str) -> Result<Field<Vec<u64>>> {
        let key = self.key(suffix);
        let value =
            if self.is_array(&key) { self.meta.u64s(&key)? } else { self.meta.u64(&key)?.map(|v| vec![v]) };
        Ok(Field { value, name: key })
    }

    /// An array of flags; a single number (a period) is another family's form and is not read.
    fn bools(&self, suffix: &str) -> Result<Field<Vec<bool>>> {
        let key = self.key(suffix);
        let value = if self.is_array(&key) { self.meta.bools(&key)?.map(<[bool]>::to_vec) } else { None };
        Ok(Field { value, name: key })
    }

    fn f64(&self, suffix: &str) -> Result<Field<f64>> {
        let key = self.key(suffix);
        Ok(Field { value: self.meta.f32(&key)?.map(f64::from), name: key })
    }

    fn bool(&self, suffix: &str) -> Result<Field<bool>> {
        let key = self.key(suffix);
        Ok(Field { value: self.meta.bool(&key)?, name: key })
    }

    fn str(&self, suffix: &str) -> Result<Field<String>> {
        let key = self.key(suffix);
        Ok(Field { value: self.meta.str(&key)?.map(str::to_owned), name: key })
    }
}
