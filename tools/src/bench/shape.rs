//! Shapes: the dimensions of a model, from a name or a file, and the spec made from them. A file is TOML
//! with the fields below, or the `config.json` of a model. The named shapes are files in `tools/shapes`. It
//! must not know weights.

use std::path::Path;

use anyhow::Context;
use moelten_loader::load::spec_of_config;
use moelten_loader::spec::{
    Activation, AttentionSpec, EncoderSpec, HeadSpec, KvSource, LayerSpec, MlpSpec, ModelSpec, MoeSpec,
    NormSpec, Op, Pairing, QkNorm, RopeScaling, RopeSpec, RouterInput, RouterSpec, Select, SharedExpert,
};
use serde::Deserialize;

use crate::exit::CommandError;

/// The named shapes, as TOML.
const NAMED: [&str; 6] = [
    include_str!("../../shapes/qwen3-30b-a3b.toml"),
    include_str!("../../shapes/mixtral-8x7b.toml"),
    include_str!("../../shapes/olmoe.toml"),
    include_str!("../../shapes/gpt-oss-20b.toml"),
    include_str!("../../shapes/mixtral-mini.toml"),
    include_str!("../../shapes/qwen3-half.toml"),
];

/// The named shapes that are configurations.
const CONFIGS: [&str; 8] = [
    include_str!("../../shapes/qwen3.5-35b-a3b.json"),
    include_str!("../../shapes/glm-4.7-flash.json"),
    include_str!("../../shapes/lfm2-8b-a1b.json"),
    include_str!("../../shapes/gemma-4-26b-a4b.json"),
    include_str!("../../shapes/nemotron-3-nano.json"),
    include_str!("../../shapes/switch-base-8.json"),
    include_str!("../../shapes/switch-base-128.json"),
    include_str!("../../shapes/nllb-moe-54b.json"),
];

/// Their names.
pub const CONFIG_NAMES: &str = "qwen3.5-35b-a3b, glm-4.7-flash, lfm2-8b-a1b, gemma-4-26b-a4b, \
                                nemotron-3-nano, switch-base-8, switch-base-128, nllb-moe-54b";

/// Largest shape file in bytes; usual ones have a few hundred.
const FILE_MAX: u64 = 1 << 16;
/// Epsilon of every norm.
const EPS: f32 = 1e-6;

/// A shape with the spec made from it.
pub struct FoundShape {
    /// As on the command line, or as its file calls it.
    pub name: String,
    /// Features of the real model that it lacks.
    pub approximated: Option<String>,
    /// What is computed.
    pub spec: ModelSpec,
}

/// The shape named `argument`, or that of the file `argument`, with its first `layers` layers.
///
/// # Errors
/// Unknown names, files that cannot be read, invalid dimensions.
pub fn found(argument: &str, layers: Option<usize>) -> anyhow::Result<FoundShape> {
    if let Some(text) = configuration(argument)? {
        return cut(from_config(argument, &text)?, layers);
    }
    let shape = Shape::find(argument, layers)?;
    Ok(FoundShape { spec: shape.spec(), name: shape.name, approximated: shape.approximated })
}

/// The `config.json` of a shape that is one, or in the file `argument`. `None` for other names.
///
/// # Errors
/// Files that cannot be read.
pub fn configuration(argument: &str) -> anyhow::Result<Option<String>> {
    let named = CONFIG_NAMES.split(", ").zip(CONFIGS).find(|(name, _)| *name == argument);
    match named {
        Some((_, text)) => Ok(Some(text.to_owned())),
        None if argument.ends_with(".json") => read(Path::new(argument)).map(Some),
        None => Ok(None),
    }
}

/// The shape with its first layers.
fn cut(mut shape: FoundShape, layers: Option<usize>) -> anyhow::Result<FoundShape> {
    if let (Some(encoder), Some(wanted)) = (shape.spec.encoder, layers) {
        return cut_both(shape, encoder, wanted);
    }
    let (all, wanted) = (shape.spec.layers.len(), layers.unwrap_or(shape.spec.layers.len()));
    if !(1..=all).contains(&wanted) {
        let problem = format!("{} has {all} layers, not {wanted}", shape.name);
        return Err(CommandError::Usage(problem).into());
    }
    shape.spec.layers.truncate(wanted);
    Ok(shape)
}

/// The shape with the first `wanted` layers of its encoder and of its decoder.
fn cut_both(mut shape: FoundShape, encoder: EncoderSpec, wanted: usize) -> anyhow::Result<FoundShape> {
    let all = encoder.layers.min(shape.spec.layers.len() - encoder.layers);
    if !(1..=all).contains(&wanted) {
        let problem = format!("encoder and decoder of {} have {all} layers, not {wanted}", shape.name);
        return Err(CommandError::Usage(problem).into());
    }
    let written = shape.spec.layers.split_off(encoder.layers);
    shape.spec.layers.truncate(wanted);
    shape.spec.layers.extend(written.into_iter().take(wanted));
    for branch in shape.spec.layers.iter_mut().skip(wanted).flat_map(|layer| &mut layer.branches) {
        if let Op::Attention(AttentionSpec { relative: Some(relative), .. }) = &mut branch.op {
            relative.of_layer = relative.of_layer - encoder.layers + wanted;
        }
    }
    shape.spec.encoder = Some(EncoderSpec { layers: wanted, ..encoder });
    Ok(shape)
}

fn from_config(path: &str, text: &str) -> anyhow::Result<FoundShape> {
    let failed = || format!("{path} is not the configuration of a model");
    let config = serde_json::from_str(text).with_context(failed)?;
    let mut spec = spec_of_config(Path::new(path), &config)?;
    for branch in spec.layers.iter_mut().flat_map(|layer| &mut layer.branches) {
        if let Op::Latent(latent) = &mut branch.op {
            // As GGUF files have it.
            latent.split = true;
        }
    }
    Ok(FoundShape { name: spec.name.clone(), approximated: None, spec })
}

/// The text of a file of a shape.
fn read(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("cannot read {}", path.display());
    let found = std::fs::metadata(path).with_context(failed)?;
    if !found.is_file() || found.len() > FILE_MAX {
        let problem = format!("{} is not a shape: not a file of at most {FILE_MAX} bytes", path.display());
        return Err(CommandError::Usage(problem).into());
    }
    std::fs::read_to_string(path).with_context(failed)
}

/// Dimensions of a mixture-of-experts decoder: the fields of the TOML file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Name of the shape.
    pub name: String,
    /// Features of the real model that the shape lacks.
    #[serde(default)]
    pub approximated: Option<String>,
    /// Number of layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// Longest context in tokens.
    pub context: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Norms on queries and keys.
    #[serde(default)]
    pub qk_norm: ShapeQkNorm,
    /// Biases on the q, k and v projections.
    #[serde(default)]
    pub qkv_bias: bool,
    /// Bias on the output projection.
    #[serde(default)]
    pub out_bias: bool,
    /// Tokens that a windowed layer sees; all of them if absent.
    #[serde(default)]
    pub window: Option<usize>,
    /// Every n-th layer is windowed, beginning with the first.
    #[serde(default = "one")]
    pub window_every: usize,
    /// Base of the rope frequencies.
    pub rope_theta: f32,
    /// Routed experts of a layer.
    pub experts: usize,
    /// Experts that a token visits.
    pub experts_per_token: usize,
    /// Whether the chosen weights are divided by their sum.
    #[serde(default = "yes")]
    pub renormalise: bool,
    /// Hidden width of a routed expert.
    pub expert_d_ff: usize,
    /// Hidden width of the shared expert; there is none if absent.
    #[serde(default)]
    pub shared_d_ff: Option<usize>,
    /// The embedding is the head as well.
    #[serde(default)]
    pub tied_head: bool,
}

/// Norms on queries and keys before rope: `qk_norm = "per_head"` in the TOML file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShapeQkNorm {
    /// Queries and keys stay as projected.
    #[default]
    None,
    /// Each head by itself.
    PerHead,
    /// All heads together.
    Full,
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

impl Shape {
    /// The shape named `argument`, or that of the TOML file `argument`; `layers` replaces its number of
    /// layers.
    ///
    /// # Errors
    /// Unknown names, files that cannot be read, invalid dimensions.
    pub fn find(argument: &str, layers: Option<usize>) -> anyhow::Result<Self> {
        let named = NAMED.iter().map(|text| Self::parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
        let names: Vec<String> = named.iter().map(|shape| shape.name.clone()).collect();
        let mut shape = match named.into_iter().find(|shape| shape.name == argument) {
            Some(shape) => shape,
            None if argument.ends_with(".toml") => Self::read(Path::new(argument))?,
            None => {
                let problem = format!(
                    "unknown shape {argument}; use {}, {CONFIG_NAMES}, or a file SHAPE.toml or config.json",
                    names.join(", ")
                );
                return Err(CommandError::Usage(problem).into());
            }
        };
        shape.layers = layers.unwrap_or(shape.layers);
        shape.check()?;
        Ok(shape)
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        Self::parse(&read(path)?).with_context(|| format!("{} is not a shape", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        toml::from_str(text).map_err(|error| CommandError::Usage(error.to_string()).into())
    }

    /// Refuses invalid dimensions, and models too large for any machine.
    fn check(&self) -> anyhow::Result<()> {
        let within = |field: &str, value: usize, low: usize, high: usize| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(CommandError::Usage(format!("{field} is {value}, but must be {low} to {high}")))
        };
        within("layers", self.layers, 1, 1024)?;
        within("d_model", self.d_model, 32, 1 << 16)?;
        within("vocab", self.vocab, 2, 1 << 20)?;
        within("context", self.context, 1, 1 << 24)?;
        within("heads", self.heads, 1, 1024)?;
        within("kv_heads", self.kv_heads, 1, self.heads)?;
        within("head_dim", self.head_dim, 2, 1024)?;
        within("window", self.window.unwrap_or(1), 1, 1 << 24)?;
        within("window_every", self.window_every, 1, 1024)?;
        within("experts", self.experts, 1, 4096)?;
        within("experts_per_token", self.experts_per_token, 1, self.experts)?;
        within("expert_d_ff", self.expert_d_ff, 32, 1 << 18)?;
        within("shared_d_ff", self.shared_d_ff.unwrap_or(32), 32, 1 << 18)?;
        let inputs =
            [self.d_model, self.heads * self.head_dim, self.expert_d_ff, self.shared_d_ff.unwrap_or(32)];
        let problem = match inputs.into_iter().find(|width| !width.is_multiple_of(32)) {
            Some(width) => {
                format!("a matrix has rows of {width} weights, not a multiple of the block size 32")
            }
            None if !self.heads.is_multiple_of(self.kv_heads) => {
                format!("{} heads are not a multiple of {} kv_heads", self.heads, self.kv_heads)
            }
            None if !self.head_dim.is_multiple_of(2) => {
                format!("head_dim is {}, but rope needs an even number", self.head_dim)
            }
            None if !(self.rope_theta > 1.0 && self.rope_theta.is_finite()) => {
                format!("rope_theta is {}, but must be above 1", self.rope_theta)
            }
            None => return Ok(()),
        };
        Err(CommandError::Usage(problem).into())
    }

    /// The experts of a layer.
    fn moe(&self) -> MoeSpec {
        let mlp = |d_ff| MlpSpec::gated(d_ff, Activation::Silu);
        MoeSpec {
            experts: self.experts,
            expert: mlp(self.expert_d_ff),
            router: RouterSpec {
                bias: false,
                select: Select::SoftmaxTopK { k: self.experts_per_token, renormalise: self.renormalise },
                scale: 1.0,
                listed: false,
                expert_scales: false,
                capacity: None,
            },
            router_input: RouterInput::Branch,
            shared: self.shared_d_ff.map_or(SharedExpert::None, |d_ff| SharedExpert::Plain(mlp(d_ff))),
            latent: None,
            shared_scale: 1.0,
            out_bias: false,
            squashed: false,
            weighs_inputs: false,
        }
    }

    /// The model spec with these dimensions.
    pub fn spec(&self) -> ModelSpec {
        let norm = NormSpec::Rms { eps: EPS };
        let layer = |index: usize| {
            let attention = AttentionSpec {
                heads: self.heads,
                kv_heads: self.kv_heads,
                head_dim: self.head_dim,
                value_dim: self.head_dim,
                scale: (self.head_dim as f32).powf(-0.5),
                qkv_bias: self.qkv_bias,
                out_bias: self.out_bias,
                sinks: false,
                qk_norm: match self.qk_norm {
                    ShapeQkNorm::None => QkNorm::None,
                    ShapeQkNorm::PerHead => QkNorm::PerHead { eps: EPS },
                    ShapeQkNorm::Full => QkNorm::Full { eps: EPS },
                },
                rope: Some(RopeSpec {
                    theta: self.rope_theta,
                    dim: self.head_dim,
                    pairing: Pairing::Split,
                    scaling: RopeScaling::None,
                }),
                window: self.window.filter(|_| index.is_multiple_of(self.window_every)),
                clip_qkv: None,
                softcap: None,
                temperature: None,
                gate: None,
                source: KvSource::Projected,
                value_norm: None,
                value_scale: 1.0,
                chunk: None,
                whole: false,
                relative: None,
                blocks: None,
            };
            LayerSpec::pre_norm(norm, Op::Attention(attention), Op::Moe(self.moe()), 1.0)
        };
        ModelSpec {
            name: self.name.clone(),
            family: "generated",
            vocab: self.vocab,
            d_model: self.d_model,
            max_context: self.context,
            embed_scale: 1.0,
            streams: None,
            layer_inputs: None,
            positions: None,
            encoder: None,
            image: None,
            tasks: Vec::new(),
            layers: (0..self.layers).map(layer).collect(),
            final_norm: Some(norm),
            head: HeadSpec { tied: self.tied_head, bias: false, scale: 1.0, softcap: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use moelten_engine::KvFormat;
    use moelten_engine::plan::context::state_bytes;

    #[test]
    fn named_shapes_are_sound() {
        for text in NAMED {
            let name = Shape::parse(text).unwrap().name;
            let shape = Shape::find(&name, Some(2)).unwrap();
            assert_eq!(shape.spec().layers.len(), 2, "{name}");
        }
        for name in CONFIG_NAMES.split(", ") {
            let spec = found(name, Some(3)).unwrap().spec;
            let stacks = if spec.encoder.is_some() { 2 } else { 1 };
            assert_eq!(spec.layers.len(), 3 * stacks, "{name}");
        }
        assert!(found("lfm2-8b-a1b", Some(25)).is_err());
        let windows: Vec<_> = Shape::find("gpt-oss-20b", Some(3))
            .unwrap()
            .spec()
            .layers
            .iter()
            .map(|layer| layer.attention().unwrap().window)
            .collect();
        assert_eq!(windows, [Some(128), None, Some(128)]);
    }

    /// The table of what contexts take in memory, in `docs/memory.md`.
    #[test]
    fn contexts_take_what_the_documentation_says() {
        let documented = include_str!("../../../docs/memory.md");
        let names = [
            "mixtral-8x7b",
            "qwen3-30b-a3b",
            "olmoe",
            "gpt-oss-20b",
            "gemma-4-26b-a4b",
            "glm-4.7-flash",
            "qwen3.5-35b-a3b",
            "nemotron-3-nano",
            "lfm2-8b-a1b",
        ];
        let rows = names.map(|name| {
            let spec = found(name, None).unwrap().spec;
            let mib = |tokens| state_bytes(&spec, tokens, KvFormat::F16) as f64 / f64::from(1 << 20);
            let sizes = [8 << 10, 32 << 10, 128 << 10].map(|tokens| format!("{:.0}", mib(tokens)));
            format!("| {name} | {} |", sizes.join(" | "))
        });
        let table = rows.join("\n");
        assert!(documented.contains(&table), "the table is\n{table}");
    }

    #[test]
    fn nonsense_is_refused_with_its_numbers() {
        let refused = |change: (&str, &str)| {
            let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
            std::fs::write(file.path(), NAMED[2].replace(change.0, change.1)).unwrap();
            let error = Shape::find(file.path().to_str().unwrap(), None).unwrap_err();
            format!("{error:#}")
        };
        assert!(refused(("layers = 16", "layers = 0")).contains("layers is 0"));
        assert!(refused(("d_model = 2048", "d_model = 2050")).contains("2050"));
        assert!(refused(("experts_per_token = 8", "experts_per_token = 65")).contains("1 to 64"));
        assert!(refused(("heads = 16", "heads = 16\nextra = 1")).contains("extra"));
        assert!(refused(("1e4", "nan")).contains("rope_theta"));
        assert!(Shape::find("gpt-5", None).unwrap_err().to_string().contains("olmoe"));
    }
}
