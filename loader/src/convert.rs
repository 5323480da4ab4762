//! Lays out a loaded model as one GGUF file: names, row order and metadata as readers of the format expect, weights in
//! the formats that the caller chooses or as they are, experts in banks or in records. Streams: no more than a few batches
//! of rows are in memory at once. How the file is written is `write`.

mod ahead;
mod estimate;
mod journal;
mod metadata;
mod pieces;
pub mod provenance;
mod threads;
pub mod types;
pub mod verify;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use moelten_quant::Format;

use crate::config::write as gguf_keys;
use crate::container::catalog::{Storage, TensorInfo};
use crate::container::gguf::write::{GgufPlan, TensorPlan};
use crate::container::gguf::{ALIGNMENT_KEY, GgmlType, Value};
use crate::container::packed::{self, PackedIndex, PackedLayer, RecordShape, record_name};
use crate::error::{LoadError, Result};
use crate::io::output::PartialFile;
use crate::io::reader::len_u64;
use crate::load::{LoadedModel, Source};
use crate::spec::{ModelSpec, Pairing, Part, RopeScaling, RopeSpec};
use crate::tensors::bank::{ExpertBank, MatrixRef};
use crate::tensors::roles::{GGUF_NAMES, LayerTensor, Role, gguf_name};
use metadata::{metadata, set};
use pieces::Maker;
use types::Class;

pub use estimate::Estimate;
pub use write::Work;

/// Keys and values of the output.
type Entries = Vec<(String, Value)>;

/// What happens while a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An unfinished file of the same conversion is being checked: so many bytes of weights are in order.
    Checked {
        /// Bytes.
        bytes: u64,
    },
    /// The work goes on after so many bytes of weights.
    Resumed {
        /// Bytes.
        bytes: u64,
    },
    /// An unfinished file of so many bytes is of no use and replaced.
    Replaced {
        /// Bytes.
        bytes: u64,
        /// Whether it was of another source or other options.
        foreign: bool,
    },
    /// So many bytes of weights are made, those from before included.
    Written {
        /// Bytes.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// What becomes of a matrix, or of one matrix of all experts of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What kind of matrix it is.
    pub class: Class,
    /// Its type in the source.
    pub before: Format,
    /// Its type in the output.
    pub after: Format,
    /// How many weights.
    pub weights: u64,
    /// Bytes in the source.
    pub bytes_before: u64,
    /// Bytes in the output.
    pub bytes_after: u64,
}

/// By how much errors count in the columns of matrices.
pub trait Importance: Sync {
    /// A number for each of the `cols` columns of a matrix, or of that of one expert; `None` where nothing is known.
    ///
    /// # Errors
    /// When what is known is of another model.
    fn columns(&self, role: Role, expert: Option<usize>, cols: usize) -> Result<Option<Vec<f32>>>;

    /// Something that differs where the numbers do.
    fn fingerprint(&self) -> u64;
}

/// How the experts of the output lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileLayout {
    /// In banks, a tensor for all gates of a layer, one for all ups, one for all downs: what every reader of GGUF knows.
    #[default]
    Standard,
    /// In records, a tensor for each expert: see [`crate::container::packed`].
    Packed,
}

/// Types of the output's matrices.
#[derive(Clone, Copy)]
pub enum Types<'f> {
    /// Those of the source, bytes as they are. Only GGUF files have types that can be kept.
    Kept,
    /// What the function says of each matrix; vectors are F32, and so are routers for which it says blocks.
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
    Matrix { role: Role, matrix: MatrixRef, format: Format, pairs: Option<RowPairs> },
    /// One matrix of each expert of a layer.
    Bank { layer: usize, part: Part, encode: Option<Format> },
    /// All matrices of one expert, as the plan's index says.
    Record { layer: usize, expert: usize, encode: bool },
    /// Numbers of the spec.
    Numbers(Vec<f32>),
}

/// Rows of Q and K whose rope pairs move from halves to neighbours.
#[derive(Debug, Clone, Copy)]
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
    /// Layers with experts, and the formats of their gates, ups and downs.
    experts: Vec<(usize, [Format; 3])>,
    /// What its records look like, if it has any; their checksums are not known yet.
    packed: Option<PackedIndex>,
    metadata: Entries,
    importance: Option<&'a dyn Importance>,
    /// Inputs beside the model's own.
    protected: Vec<PathBuf>,
    /// Whether the metadata has room for checksums of every tensor.
    described: bool,
    /// What the output cannot say, one line each, for people.
    pub notices: Vec<String>,
}

impl<'a> Conversion<'a> {
    /// Lays out `model` as a standard file. `choose` names the format of each matrix, as in [`Types::Chosen`].
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
                for &(layer, formats) in &layers {
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
                for &(layer, formats) in &layers {
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
            // What it said of the source's types is not true any more; `describe` says what is.
            set(&mut metadata, "general.file_type", None);
            metadata.retain(|(key, _)| !key.starts_with("quantize.imatrix."));
        }
        if let Some(packed) = &packed {
            set(&mut metadata, ALIGNMENT_KEY, Some(Value::U32(packed::RECORD_ALIGN)));
            metadata.extend(packed.metadata());
        }
        let mut plan = Self {
            model,
            outputs,
            experts: layers,
            packed,
            metadata,
            importance: None,
            protected: Vec::new(),
            described: false,
            notices,
        };
        plan.renew_checksums();
        Ok(plan)
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(|output| output.bytes).sum()
    }

    /// Every matrix, before and after.
    pub fn matrices(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut change = |role: Role, matrix: &MatrixRef, after: Option<Format>, count: usize| {
            let after = after.unwrap_or(matrix.format);
            let of_row = len_u64(after.row_bytes(matrix.cols).unwrap_or(0));
            changes.push(Change {
                class: Class::of(role, matrix.rows),
                before: matrix.format,
                after,
                weights: len_u64(count) * len_u64(matrix.rows) * len_u64(matrix.cols),
                bytes_before: len_u64(count) * matrix.bytes,
                bytes_after: len_u64(count) * len_u64(matrix.rows) * of_row,
            });
        };
        let tensors = &self.model.tensors;
        let chosen: BTreeMap<Role, Format> = self
            .outputs
            .iter()
            .filter_map(|output| match output.values {
                Values::Matrix { role, format, .. } => Some((role, format)),
                _ => None,
            })
            .collect();
        for (role, matrix) in tensors.dense() {
            change(role, &matrix, chosen.get(&role).copied(), 1);
        }
        for &(layer, formats) in &self.experts {
            let count = tensors.bank_of_layer(layer).map_or(0, ExpertBank::experts);
            for (part, format) in Part::ALL.into_iter().zip(formats) {
                let matrix = first_expert(bank(self.model, layer), part);
                change(experts_role(layer, part), matrix, Some(format), count);
            }
        }
        changes
    }

    /// Has errors in columns count as `importance` says, wherever that makes a difference.
    pub fn weigh(&mut self, importance: &'a dyn Importance) {
        self.importance = Some(importance);
    }

    /// Has `path` count as an input, which the output must not replace.
    pub fn protect(&mut self, path: &Path) {
        self.protected.push(path.to_owned());
    }

    /// Refuses a target that cannot be written, as [`Self::write_with`] would.
    ///
    /// # Errors
    /// [`LoadError::Io`].
    pub fn check_target(&self, target: &Path) -> Result<()> {
        let inputs = self.inputs();
        let sources: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        PartialFile::places(target, &sources).map(drop)
    }

    /// Everything that is read: weights, what lies beside them in a folder, and what else was named.
    fn inputs(&self) -> Vec<PathBuf> {
        let mut inputs: Vec<PathBuf> =
            self.model.tensors.catalog().files().iter().map(|file| file.path().to_owned()).collect();
        if let Source::Hf { path, .. } = &self.model.source {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            // An output beside its source is not an input of the next one.
            let output = |path: &Path| {
                path.extension().is_some_and(|e| e == "gguf" || e == "partial" || e == "journal")
            };
            inputs.extend(entries.map(|entry| entry.path()).filter(|path| !output(path)));
        }
        inputs.extend(self.protected.iter().cloned());
        inputs
    }

    /// How the file that will be `target` lies.
    ///
    /// # Errors
    /// As [`GgufPlan::new`].
    pub fn layout(&self, target: &Path) -> Result<GgufPlan> {
        let plans: Vec<TensorPlan> = self.outputs.iter().map(|output| output.plan.clone()).collect();
        GgufPlan::new(target, &self.metadata, &plans)
    }

    /// Writes the file as is quickest: [`Self::write_with`].
    ///
    /// # Errors
    /// As [`Self::write_with`].
    pub fn write(&self, target: &Path, on_event: &mut dyn FnMut(Event) -> bool) -> Result<bool> {
        self.write_with(target, Work::default(), on_event)
    }

    fn maker(&self) -> Maker<'_> {
        Maker { tensors: &self.model.tensors, packed: self.packed.as_ref(), importance: self.importance }
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
        let router = is_router(role);
        let chosen = choose(role);
        // What decides between experts is never rounded to blocks.
        let exact = (vector && !router) || (router && chosen.block_len() > 1);
        let format = if exact { Format::F32 } else { chosen };
        let shape = if vector {
            vec![len_u64(matrix.cols)]
        } else {
            vec![len_u64(matrix.rows), len_u64(matrix.cols)]
        };
        let values = Values::Matrix { role, matrix, format, pairs: row_pairs(spec, role) };
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
    model.tensors.banks().iter().map(|bank| (bank.key.layer, bank.experts()))
}

fn experts_role(layer: usize, part: Part) -> Role {
    Role::Layer(layer, LayerTensor::Experts(part))
}

/// Layers with experts, and the formats of their gates, ups and downs in the output.
///
/// # Errors
/// [`LoadError::Unsupported`] for experts that are not of three matrices: neither layout has a place for them.
fn expert_types(model: &LoadedModel, types: Types<'_>) -> Result<Vec<(usize, [Format; 3])>> {
    if let Some(bank) = model.tensors.banks().iter().find(|bank| bank.parts() != Part::ALL) {
        return Err(LoadError::Unsupported {
            path: first_path(model).to_owned(),
            feature: format!("writing experts of {} matrices", bank.parts().len()),
            hint: "files hold experts of gate, up and down".into(),
        });
    }
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
    let bank = bank(model, layer);
    let mut formats =
        (0..bank.experts()).filter_map(|expert| bank.part(expert, part)).map(|matrix| matrix.format);
    let first = formats.next().expect("experts have gate, up and down");
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
    let bank = bank(model, layer);
    Part::ALL
        .into_iter()
        .zip(formats)
        .map(|(part, format)| {
            let matrix = first_expert(bank, part);
            let shape = vec![len_u64(bank.experts()), len_u64(matrix.rows), len_u64(matrix.cols)];
            let values = Values::Bank { layer, part, encode: encoded.then_some(format) };
            Output::new(model, experts_role(layer, part), shape, format, values)
        })
        .collect()
}

/// What the records of a layer look like; their checksums are not known yet.
fn packed_layer(model: &LoadedModel, layer: usize, formats: [Format; 3]) -> Result<PackedLayer> {
    let bank = bank(model, layer);
    let [gate, up, down] = formats;
    let matrix = |part, format| {
        let matrix = first_expert(bank, part);
        (format, len_u64(matrix.rows), len_u64(matrix.cols))
    };
    let shape = RecordShape::new([matrix(Part::Gate, gate), matrix(Part::Up, up), matrix(Part::Down, down)]);
    let shape = shape.map_err(|fault| packed::shape_fault(first_path(model), layer, fault))?;
    Ok(PackedLayer { layer, shape, checksums: vec![0; bank.experts()] })
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

/// The experts of a layer that has some.
fn bank(model: &LoadedModel, layer: usize) -> &ExpertBank {
    model.tensors.bank_of_layer(layer).expect("only layers with experts are asked for")
}

fn first_expert(bank: &ExpertBank, part: Part) -> &MatrixRef {
    bank.part(0, part).expect("the plan refuses experts without gate, up and down")
}

fn first_path(model: &LoadedModel) -> &Path {
    model.tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path())
}

/// Divisors that are configuration in a folder and tensors in a GGUF file.
fn rope_divisors(spec: &ModelSpec) -> Vec<Output> {
    let ropes = spec.attention_layers().find_map(|attention| attention.rope.as_ref());
    let Some(rope) = ropes else { return Vec::new() };
    let tensor = |role: Role, values: Vec<f32>| Output {
        plan: TensorPlan {
            name: gguf_name(role),
            storage: Storage::Known(Format::F32),
            shape: vec![len_u64(values.len())],
        },
        bytes: len_u64(size_of_val(values.as_slice())),
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
    plain.iter().zip(frequencies).map(|(plain, scaled)| crate::io::reader::narrow(plain / scaled)).collect()
}

fn is_router(role: Role) -> bool {
    matches!(role, Role::Layer(_, LayerTensor::Router | LayerTensor::SharedInput))
}

/// How rows of this role are reordered: Q and K of a family whose GGUF files pair neighbours.
fn row_pairs(spec: &ModelSpec, role: Role) -> Option<RowPairs> {
    let Role::Layer(layer, tensor) = role else { return None };
    let rotated = matches!(tensor, LayerTensor::Q | LayerTensor::K | LayerTensor::QBias | LayerTensor::KBias);
    let attention = spec.layers.get(layer)?.attention()?;
    let rope = attention.rope.as_ref()?;
    let moves =
        rope.pairing == Pairing::Split && gguf_keys::family_of(spec).gguf_pairing == Pairing::Adjacent;
    (rotated && moves).then_some(RowPairs { head_dim: attention.head_dim, rope_dim: rope.dim })
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
