//! Writes a loaded model as one GGUF file: names, row order and metadata as readers of the format expect, weights in
//! the formats that the caller chooses or as they are, experts in banks or in records. Streams: no more than a few rows,
//! or one record, are in memory at once.

mod copy;

use std::collections::HashSet;
use std::path::Path;

use moelten_quant::Format;

use crate::catalog::{Storage, TensorInfo};
use crate::error::{LoadError, Result};
use crate::gguf::{ALIGNMENT_KEY, Array, GgmlType, Value};
use crate::gguf_keys;
use crate::gguf_write::{GgufWriter, TensorPlan};
use crate::load::{LoadedModel, Source};
use crate::packed::{self, PackedIndex, PackedLayer, RecordShape, record_name};
use crate::roles::{GGUF_NAMES, LayerTensor, Part, Role, gguf_name};
use crate::spec::{Ffn, Mixer, ModelSpec, Pairing, RopeScaling, RopeSpec};
use crate::store::{MatrixRef, MlpRef};
use crate::text::{self, TEMPLATE_KEY};
use crate::tokenizer::gguf_metadata;
use copy::Copy;

/// Keys and values of the output.
type Entries = Vec<(String, Value)>;

/// What is being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights written.
    pub written: u64,
    /// Bytes of weights in all.
    pub total: u64,
}

/// How the experts of the output lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileLayout {
    /// In banks, a tensor for all gates of a layer, one for all ups, one for all downs: what every reader of GGUF knows.
    #[default]
    Standard,
    /// In records, a tensor for each expert: see [`crate::packed`].
    Packed,
}

/// Types of the output's matrices.
#[derive(Clone, Copy)]
pub enum Types<'f> {
    /// Those of the source, bytes as they are. Only GGUF files have types that can be kept.
    Kept,
    /// What the function says of each matrix; vectors and routers are F32.
    Chosen(&'f dyn Fn(Role) -> Format),
}

/// A tensor of the output.
struct Output {
    plan: TensorPlan,
    bytes: u64,
    values: Values,
}

/// Where its values come from. Experts' are encoded, or kept as they are.
enum Values {
    /// A tensor of the source, as it is.
    Tensor(TensorInfo),
    /// A matrix of the source in another format.
    Matrix { matrix: MatrixRef, format: Format, pairs: Option<RowPairs> },
    /// One matrix of each expert of a layer.
    Bank { layer: usize, part: Part, encode: Option<Format> },
    /// All matrices of one expert, as the plan's index says.
    Record { layer: usize, expert: usize, encode: bool },
    /// Numbers of the spec.
    Numbers(Vec<f32>),
}

/// Rows of Q and K whose rope pairs move from halves to neighbours.
#[derive(Clone, Copy)]
struct RowPairs {
    head_dim: usize,
    rope_dim: usize,
}

impl RowPairs {
    /// The source row that stands at `row` in the output.
    fn source(self, row: usize) -> usize {
        let (head, inside) = (row / self.head_dim, row % self.head_dim);
        if inside >= self.rope_dim {
            return row;
        }
        head * self.head_dim + (inside % 2) * (self.rope_dim / 2) + inside / 2
    }
}

/// A model laid out as a GGUF file that is not written yet.
pub struct Conversion<'a> {
    model: &'a LoadedModel,
    outputs: Vec<Output>,
    /// What its records look like, if it has any; their checksums are not known yet.
    packed: Option<PackedIndex>,
    metadata: Entries,
    /// What the output cannot say, one line each, for people.
    pub notices: Vec<String>,
}

impl<'a> Conversion<'a> {
    /// Lays out `model` as a standard file. `choose` names the format of each matrix; vectors and routers are always F32.
    ///
    /// # Errors
    /// As [`Self::plan_as`].
    pub fn plan(model: &'a LoadedModel, choose: &dyn Fn(Role) -> Format) -> Result<Self> {
        Self::plan_as(model, FileLayout::Standard, Types::Chosen(choose))
    }

    /// Lays out `model`.
    ///
    /// # Errors
    /// [`crate::error::Fault::PartialBlock`] for rows that a format cannot hold; [`LoadError::Unsupported`] for what GGUF
    /// or the layout cannot express.
    pub fn plan_as(model: &'a LoadedModel, layout: FileLayout, types: Types<'_>) -> Result<Self> {
        let mut outputs = dense_outputs(model, types)?;
        let layers = expert_types(model, types)?;
        let encoded = matches!(types, Types::Chosen(_));
        let packed = match layout {
            FileLayout::Standard => {
                for (layer, formats) in layers {
                    outputs.extend(banks(model, layer, formats, encoded)?);
                }
                None
            }
            FileLayout::Packed if layers.is_empty() => {
                return Err(LoadError::Unsupported {
                    path: first_path(model).to_owned(),
                    feature: "the packed layout of a model without experts".into(),
                    hint: "the standard layout is".into(),
                });
            }
            FileLayout::Packed => {
                let mut index = Vec::with_capacity(layers.len());
                for (layer, formats) in layers {
                    let packed = packed_layer(model, layer, formats)?;
                    outputs.extend(records(&packed, encoded));
                    index.push(packed);
                }
                Some(PackedIndex::new(index))
            }
        };
        let (mut metadata, notices) = metadata(model)?;
        if encoded {
            set(&mut metadata, "general.quantization_version", Some(Value::U32(2)));
            let file_type = file_type(&outputs, packed.as_ref()).map(Value::U32);
            set(&mut metadata, "general.file_type", file_type);
        }
        if let Some(packed) = &packed {
            set(&mut metadata, ALIGNMENT_KEY, Some(Value::U32(packed::RECORD_ALIGN)));
            metadata.extend(packed.metadata());
        }
        Ok(Self { model, outputs, packed, metadata, notices })
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.bytes).sum()
    }

    /// Writes the file. `progress` is called after each run of rows and ends the work by returning `false`; then
    /// nothing is left behind and the result is `Ok(false)`.
    ///
    /// # Errors
    /// [`crate::error::Fault::NotFinite`] for NaN or infinite weights that are not kept as they are,
    /// [`crate::error::Fault::Checksum`] for damaged records of the source; [`LoadError::Io`].
    pub fn write(&self, target: &Path, progress: &mut dyn FnMut(Progress) -> bool) -> Result<bool> {
        let tensors = &self.model.tensors;
        let plans: Vec<TensorPlan> = self.outputs.iter().map(|output| output.plan.clone()).collect();
        let sources: Vec<&Path> = tensors.catalog().files().iter().map(|file| file.path()).collect();
        let mut writer = GgufWriter::create(target, &self.metadata, &plans, &sources)?;
        let mut copy = Copy::new(tensors, self.packed.as_ref(), self.bytes(), progress);
        for output in &self.outputs {
            if !copy.tensor(output, &mut writer)? {
                return Ok(false);
            }
        }
        if self.packed.is_some() {
            writer.replace(packed::CHECKSUMS_KEY, &Value::Array(Array::U64(copy.into_checksums())))?;
        }
        writer.finish()?;
        Ok(true)
    }
}

/// Every tensor of the output outside expert banks: of a file whose types are kept, all that it has.
fn dense_outputs(model: &LoadedModel, types: Types<'_>) -> Result<Vec<Output>> {
    let (spec, tensors) = (&model.spec, &model.tensors);
    let choose = match (types, &model.source) {
        (Types::Chosen(choose), _) => choose,
        (Types::Kept, Source::Gguf { .. }) => {
            let of_experts = expert_tensors(model);
            let rest = tensors.catalog().tensors().iter().filter(|t| !of_experts.contains(&t.name));
            return Ok(rest.map(Output::copy).collect());
        }
        (Types::Kept, Source::Hf { path, .. }) => {
            return Err(LoadError::Unsupported {
                path: path.clone(),
                feature: "keeping the types of a folder's tensors".into(),
                hint: "choose a type".into(),
            });
        }
    };
    let mut out = rope_divisors(spec);
    for (role, matrix) in tensors.dense() {
        let vector = matrix.rows == 1;
        let format = if vector || is_router(role) { Format::F32 } else { choose(role) };
        let shape = if vector { vec![dim(matrix.cols)] } else { vec![dim(matrix.rows), dim(matrix.cols)] };
        let values = Values::Matrix { matrix, format, pairs: row_pairs(spec, role) };
        out.push(Output::new(model, role, shape, format, values)?);
    }
    Ok(out)
}

/// Names under which the source may have experts.
fn expert_tensors(model: &LoadedModel) -> HashSet<String> {
    let mut names = HashSet::new();
    for (layer, count) in expert_layers(model) {
        names.extend((0..count).map(|expert| record_name(layer, expert)));
        for role in Part::ALL.map(|part| experts_role(layer, part)) {
            for rule in GGUF_NAMES.iter().filter(|rule| rule.spells(role)) {
                let tensors = if rule.per_expert() { count } else { 1 };
                names.extend((0..tensors).map(|expert| rule.name(role, expert)));
            }
        }
    }
    names
}

/// Layers with experts, and how many.
fn expert_layers(model: &LoadedModel) -> impl Iterator<Item = (usize, usize)> + '_ {
    model.spec.layers.iter().enumerate().filter_map(|(index, layer)| match &layer.ffn {
        Ffn::Dense(_) => None,
        Ffn::Moe(moe) => Some((index, moe.experts)),
    })
}

fn experts_role(layer: usize, part: Part) -> Role {
    Role::Layer(layer, LayerTensor::Experts(part))
}

/// Layers with experts, and the formats of their gates, ups and downs in the output.
fn expert_types(model: &LoadedModel, types: Types<'_>) -> Result<Vec<(usize, [Format; 3])>> {
    expert_layers(model)
        .map(|(layer, _)| {
            let [gate, up, down] = Part::ALL.map(|part| match types {
                Types::Chosen(choose) => Ok(choose(experts_role(layer, part))),
                Types::Kept => kept_type(model, layer, part),
            });
            Ok((layer, [gate?, up?, down?]))
        })
        .collect()
}

/// The one format of a matrix of all experts of a layer. Files with a tensor for each expert might have several.
fn kept_type(model: &LoadedModel, layer: usize, part: Part) -> Result<Format> {
    let mut formats = model.tensors.experts(layer).iter().map(|expert| expert.part(part).format);
    let first = formats.next().expect("a layer with experts has one");
    if let Some(other) = formats.find(|&format| format != first) {
        return Err(LoadError::Unsupported {
            path: first_path(model).to_owned(),
            feature: format!("keeping {first} and {other} for experts of layer {layer}"),
            hint: "all experts of a layer need one type: choose it".into(),
        });
    }
    Ok(first)
}

/// The banks of a layer.
fn banks(model: &LoadedModel, layer: usize, formats: [Format; 3], encoded: bool) -> Result<Vec<Output>> {
    let experts = model.tensors.experts(layer);
    let first = first_expert(model, layer);
    Part::ALL
        .into_iter()
        .zip(formats)
        .map(|(part, format)| {
            let matrix = first.part(part);
            let shape = vec![dim(experts.len()), dim(matrix.rows), dim(matrix.cols)];
            let values = Values::Bank { layer, part, encode: encoded.then_some(format) };
            Output::new(model, experts_role(layer, part), shape, format, values)
        })
        .collect()
}

/// What the records of a layer look like; their checksums are not known yet.
fn packed_layer(model: &LoadedModel, layer: usize, formats: [Format; 3]) -> Result<PackedLayer> {
    let first = first_expert(model, layer);
    let [gate, up, down] = formats;
    let matrix = |part, format| {
        let matrix = first.part(part);
        (format, dim(matrix.rows), dim(matrix.cols))
    };
    let shape = RecordShape::new([matrix(Part::Gate, gate), matrix(Part::Up, up), matrix(Part::Down, down)]);
    let shape = shape.map_err(|fault| packed::shape_fault(first_path(model), layer, fault))?;
    Ok(PackedLayer { layer, shape, checksums: vec![0; model.tensors.experts(layer).len()] })
}

/// The records of a layer.
fn records(packed: &PackedLayer, encode: bool) -> impl Iterator<Item = Output> + '_ {
    let PackedLayer { layer, shape, checksums } = packed;
    (0..checksums.len()).map(move |expert| Output {
        plan: TensorPlan {
            name: record_name(*layer, expert),
            storage: Storage::Other(packed::RECORD_TYPE),
            shape: vec![shape.bytes],
        },
        bytes: shape.bytes,
        values: Values::Record { layer: *layer, expert, encode },
    })
}

fn first_expert(model: &LoadedModel, layer: usize) -> &MlpRef {
    model.tensors.experts(layer).first().expect("a layer with experts has one")
}

fn first_path(model: &LoadedModel) -> &Path {
    model.tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path())
}

/// Divisors that are configuration in a folder and tensors in a GGUF file.
fn rope_divisors(spec: &ModelSpec) -> Vec<Output> {
    let ropes = spec.layers.iter().find_map(|layer| {
        let Mixer::Attention(attention) = &layer.mixer;
        attention.rope.as_ref()
    });
    let Some(rope) = ropes else { return Vec::new() };
    let tensor = |role: Role, values: Vec<f32>| Output {
        plan: TensorPlan {
            name: gguf_name(role),
            storage: Storage::Known(Format::F32),
            shape: vec![dim(values.len())],
        },
        bytes: dim(size_of_val(values.as_slice())),
        values: Values::Numbers(values),
    };
    match &rope.scaling {
        RopeScaling::Llama3 { .. } => vec![tensor(Role::RopeDivisors, llama3_divisors(rope))],
        RopeScaling::Factors { divisors } => vec![tensor(Role::RopeDivisors, divisors.clone())],
        RopeScaling::LongRope { short, long, .. } => {
            vec![tensor(Role::RopeShort, short.clone()), tensor(Role::RopeLong, long.clone())]
        }
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => Vec::new(),
    }
}

/// By how much Llama 3.1's scaling divides each frequency.
fn llama3_divisors(rope: &RopeSpec) -> Vec<f32> {
    let frequencies = rope.frequencies(usize::MAX);
    let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.frequencies(usize::MAX);
    plain.iter().zip(frequencies).map(|(plain, scaled)| crate::raw::narrow(plain / scaled)).collect()
}

fn is_router(role: Role) -> bool {
    matches!(role, Role::Layer(_, LayerTensor::Router | LayerTensor::SharedInput))
}

/// How rows of this role are reordered: Q and K of a family whose GGUF files pair neighbours.
fn row_pairs(spec: &ModelSpec, role: Role) -> Option<RowPairs> {
    let Role::Layer(layer, tensor) = role else { return None };
    let rotated = matches!(tensor, LayerTensor::Q | LayerTensor::K | LayerTensor::QBias | LayerTensor::KBias);
    let Mixer::Attention(attention) = &spec.layers.get(layer)?.mixer;
    let rope = attention.rope.as_ref()?;
    let moves =
        rope.pairing == Pairing::Split && gguf_keys::family_of(spec).gguf_pairing == Pairing::Adjacent;
    (rotated && moves).then_some(RowPairs { head_dim: attention.head_dim, rope_dim: rope.dim })
}

/// Metadata of the output, but what describes its types and layout, and notices for people.
fn metadata(model: &LoadedModel) -> Result<(Entries, Vec<String>)> {
    let mut notices = Vec::new();
    let entries = match &model.source {
        // Another reader may know keys that we do not: everything is kept but what describes how this very file lies.
        Source::Gguf { metadata, .. } => metadata
            .iter()
            .filter(|(key, _)| {
                *key != ALIGNMENT_KEY && !key.starts_with("split.") && !key.starts_with(packed::KEYS)
            })
            .map(|(key, value)| (key.to_owned(), value.clone()))
            .collect(),
        Source::Hf { path, .. } => {
            let mut entries = gguf_keys::metadata(&model.spec)?;
            entries.extend(sampling(model)?);
            if path.join("tokenizer.json").exists() {
                let export = gguf_metadata(path, Some(model.spec.vocab))?;
                entries.extend(text::vocab_keys(export.vocab));
                entries.extend(export.chat_template.map(|source| (TEMPLATE_KEY.into(), Value::Str(source))));
                notices = export.notices;
            } else {
                notices.push("the folder has no tokenizer.json, so the file has no tokenizer".into());
            }
            entries
        }
    };
    Ok((entries, notices))
}

/// Gives `key` another value, or none.
fn set(metadata: &mut Entries, key: &str, value: Option<Value>) {
    metadata.retain(|(found, _)| found != key);
    metadata.extend(value.map(|value| (key.to_owned(), value)));
}

/// The conventional number for the type that most bytes have.
fn file_type(outputs: &[Output], packed: Option<&PackedIndex>) -> Option<u32> {
    let in_records = |format| {
        let layers = packed.iter().flat_map(|packed| packed.layers());
        let of_layer = |layer: &PackedLayer| {
            let parts = Part::ALL.map(|part| *layer.shape.part(part));
            let each: u64 = parts.iter().filter(|m| m.format == format).map(|m| m.bytes).sum();
            each * dim(layer.checksums.len())
        };
        layers.map(of_layer).sum::<u64>()
    };
    let bytes = |format| {
        let typed = outputs.iter().filter(|output| output.plan.storage == Storage::Known(format));
        typed.map(|output| output.bytes).sum::<u64>() + in_records(format)
    };
    match Format::ALL.into_iter().max_by_key(|&format| bytes(format))? {
        Format::F32 => Some(0),
        Format::F16 => Some(1),
        Format::Q8_0 => Some(7),
        Format::BF16 => Some(32),
        _ => None,
    }
}

fn sampling(model: &LoadedModel) -> Result<Vec<(String, Value)>> {
    let hints = model.sampling_hints()?;
    let float =
        |key: &str, value: Option<f32>| value.map(|v| (format!("general.sampling.{key}"), Value::F32(v)));
    let top_k = hints.top_k.and_then(|k| i32::try_from(k).ok());
    let temperature = if hints.greedy { Some(0.0) } else { hints.temperature };
    Ok([
        float("temp", temperature),
        top_k.map(|k| ("general.sampling.top_k".to_owned(), Value::I32(k))),
        float("top_p", hints.top_p),
        float("min_p", hints.min_p),
        float("penalty_repeat", hints.repetition_penalty),
    ]
    .into_iter()
    .flatten()
    .collect())
}

impl Output {
    fn new(model: &LoadedModel, role: Role, shape: Vec<u64>, format: Format, values: Values) -> Result<Self> {
        let storage = Storage::Known(format);
        let stored = GgmlType::from_storage(storage).expect("GGUF has every format");
        let bytes = stored
            .tensor_bytes(&shape)
            .map_err(|fault| LoadError::malformed(first_path(model), role.to_string(), fault))?;
        Ok(Self { plan: TensorPlan { name: gguf_name(role), storage, shape }, bytes, values })
    }

    /// A tensor of the source as it is.
    fn copy(tensor: &TensorInfo) -> Self {
        let TensorInfo { name, storage, shape, bytes, .. } = tensor.clone();
        Self { plan: TensorPlan { name, storage, shape }, bytes, values: Values::Tensor(tensor.clone()) }
    }
}

fn dim(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
