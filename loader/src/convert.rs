//! Writes a loaded model as one GGUF file: names, row order and metadata as readers of the format expect, weights in
//! the formats that the caller chooses. Streams: no more than a few rows are in memory at once.

use std::path::Path;

use moelten_quant::{EncodeError, Format};

use crate::catalog::Storage;
use crate::error::{Fault, LoadError, Result};
use crate::gguf::Value;
use crate::gguf_keys;
use crate::gguf_write::{GgufWriter, TensorPlan};
use crate::load::{LoadedModel, Source};
use crate::roles::{LayerTensor, Part, Role, gguf_name};
use crate::spec::{Ffn, Mixer, ModelSpec, Pairing, RopeScaling, RopeSpec};
use crate::store::{MatrixRef, TensorStore};
use crate::text::{self, TEMPLATE_KEY};
use crate::tokenizer::gguf_metadata;

/// Weights that are converted at once.
const WEIGHTS_AT_ONCE: usize = 1 << 20;

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

/// A tensor of the output.
struct Output {
    plan: TensorPlan,
    format: Format,
    values: Values,
}

/// Where its values come from.
enum Values {
    /// Matrices of the source, one after the other (the experts of a bank).
    Matrices { parts: Vec<MatrixRef>, pairs: Option<RowPairs> },
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
    metadata: Entries,
    /// What the output cannot say, one line each, for people.
    pub notices: Vec<String>,
}

impl<'a> Conversion<'a> {
    /// Lays out `model`. `choose` names the format of each matrix; vectors and routers are always F32.
    ///
    /// # Errors
    /// [`Fault::PartialBlock`] for rows that a format cannot hold; [`LoadError::Unsupported`] for what GGUF cannot
    /// express.
    pub fn plan(model: &'a LoadedModel, choose: &dyn Fn(Role) -> Format) -> Result<Self> {
        let outputs = outputs(model, choose)?;
        let (metadata, notices) = metadata(model, &outputs)?;
        Ok(Self { model, outputs, metadata, notices })
    }

    /// Bytes of all weights.
    pub fn bytes(&self) -> u64 {
        self.outputs.iter().map(Output::bytes).sum()
    }

    /// Writes the file. `progress` is called after each run of rows and ends the work by returning `false`; then
    /// nothing is left behind and the result is `Ok(false)`.
    ///
    /// # Errors
    /// [`Fault::NotFinite`] for NaN or infinite weights; [`LoadError::Io`].
    pub fn write(&self, target: &Path, progress: &mut dyn FnMut(Progress) -> bool) -> Result<bool> {
        let tensors = &self.model.tensors;
        let plans: Vec<TensorPlan> = self.outputs.iter().map(|output| output.plan.clone()).collect();
        let sources: Vec<&Path> = tensors.catalog().files().iter().map(|file| file.path()).collect();
        let mut writer = GgufWriter::create(target, &self.metadata, &plans, &sources)?;
        let mut state = Copy { tensors, written: 0, total: self.bytes(), progress };
        for output in &self.outputs {
            if !state.tensor(output, &mut writer)? {
                return Ok(false);
            }
        }
        writer.finish()?;
        Ok(true)
    }
}

/// Every tensor of the output, in the order of the layers.
fn outputs(model: &LoadedModel, choose: &dyn Fn(Role) -> Format) -> Result<Vec<Output>> {
    let (spec, tensors) = (&model.spec, &model.tensors);
    let mut out = rope_divisors(spec);
    for (role, matrix) in tensors.dense() {
        let vector = matrix.rows == 1;
        let format = if vector || is_router(role) { Format::F32 } else { choose(role) };
        let shape = if vector { vec![dim(matrix.cols)] } else { vec![dim(matrix.rows), dim(matrix.cols)] };
        let values = Values::Matrices { parts: vec![matrix], pairs: row_pairs(spec, role) };
        out.push(Output::new(tensors, role, shape, format, values)?);
    }
    for (layer, spec) in spec.layers.iter().enumerate() {
        let Ffn::Moe(_) = &spec.ffn else { continue };
        for part in Part::ALL {
            let role = Role::Layer(layer, LayerTensor::Experts(part));
            let parts: Vec<MatrixRef> =
                tensors.experts(layer).iter().map(|expert| *expert.part(part)).collect();
            let Some(first) = parts.first().copied() else { continue };
            let shape = vec![dim(parts.len()), dim(first.rows), dim(first.cols)];
            out.push(Output::new(
                tensors,
                role,
                shape,
                choose(role),
                Values::Matrices { parts, pairs: None },
            )?);
        }
    }
    Ok(out)
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
        format: Format::F32,
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

/// Metadata of the output, and notices for people.
fn metadata(model: &LoadedModel, outputs: &[Output]) -> Result<(Entries, Vec<String>)> {
    let mut notices = Vec::new();
    let mut entries = match &model.source {
        // Another reader may know keys that we do not: everything is kept but what describes this very file.
        Source::Gguf { metadata, .. } => metadata
            .iter()
            .filter(|(key, _)| !key.starts_with("split.") && !FILE_KEYS.contains(key))
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
    entries.push(("general.quantization_version".into(), Value::U32(2)));
    if let Some(file_type) = file_type(outputs) {
        entries.push(("general.file_type".into(), Value::U32(file_type)));
    }
    Ok((entries, notices))
}

/// Keys that describe a file rather than a model.
const FILE_KEYS: &[&str] = &["general.alignment", "general.file_type", "general.quantization_version"];

/// The conventional number for the type that most bytes have.
fn file_type(outputs: &[Output]) -> Option<u32> {
    let bytes = |format| outputs.iter().filter(|o| o.format == format).map(Output::bytes).sum::<u64>();
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
    fn new(
        tensors: &TensorStore,
        role: Role,
        shape: Vec<u64>,
        format: Format,
        values: Values,
    ) -> Result<Self> {
        let cols = shape.last().copied().unwrap_or(0);
        if usize::try_from(cols).ok().and_then(|cols| format.row_bytes(cols)).is_none() {
            let fault =
                Fault::PartialBlock { columns: cols, format: format.name(), block: format.block_len() };
            let path = tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path());
            return Err(LoadError::malformed(path, role.to_string(), fault));
        }
        Ok(Self {
            plan: TensorPlan { name: gguf_name(role), storage: Storage::Known(format), shape },
            format,
            values,
        })
    }

    /// Bytes of its values.
    fn bytes(&self) -> u64 {
        let cols = self.plan.shape.last().and_then(|&cols| usize::try_from(cols).ok()).unwrap_or(0);
        let rows: u64 = self.plan.shape.iter().rev().skip(1).product();
        let row = self.format.row_bytes(cols).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0);
        rows.saturating_mul(row)
    }
}

/// The copying, row by row.
struct Copy<'a> {
    tensors: &'a TensorStore,
    written: u64,
    total: u64,
    progress: &'a mut dyn FnMut(Progress) -> bool,
}

impl Copy<'_> {
    fn tensor(&mut self, output: &Output, writer: &mut GgufWriter) -> Result<bool> {
        match &output.values {
            Values::Numbers(numbers) => self.write(output, numbers, writer),
            Values::Matrices { parts, pairs } => {
                for matrix in parts {
                    if !self.matrix(output, matrix, *pairs, writer)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    fn matrix(
        &mut self,
        output: &Output,
        matrix: &MatrixRef,
        pairs: Option<RowPairs>,
        writer: &mut GgufWriter,
    ) -> Result<bool> {
        let view = self.tensors.view(matrix);
        // A vector of pairs (a bias) is permuted by value, a matrix by row.
        let (rows, cols) = if matrix.rows == 1 { (matrix.cols, 1) } else { (matrix.rows, matrix.cols) };
        let mut vector = vec![0.0; if matrix.rows == 1 { rows } else { 0 }];
        if matrix.rows == 1 {
            view.decode_row(0, &mut vector);
        }
        let step = (WEIGHTS_AT_ONCE / cols).clamp(1, rows);
        let step = if matrix.rows == 1 { rows } else { step };
        let mut values = vec![0.0; step * cols];
        for first in (0..rows).step_by(step) {
            let count = step.min(rows - first);
            let values = &mut values[..count * cols];
            for (row, out) in (first..first + count).zip(values.chunks_exact_mut(cols)) {
                let source = pairs.map_or(row, |pairs| pairs.source(row));
                match vector.get(source) {
                    Some(&value) => out.fill(value),
                    None => view.decode_row(source, out),
                }
            }
            if !self.write(output, values, writer)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, output: &Output, values: &[f32], writer: &mut GgufWriter) -> Result<bool> {
        let name = &output.plan.name;
        let fail = |fault| {
            let path = self.tensors.catalog().files().first().map_or(Path::new("?"), |file| file.path());
            Err(LoadError::malformed(path, format!("tensor {name}"), fault))
        };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let found = if values.get(index).is_some_and(|v| v.is_nan()) { "NaN" } else { "infinity" };
            return fail(Fault::NotFinite { found, index: u64::try_from(index).unwrap_or(u64::MAX) });
        }
        let blocks = values.len() / output.format.block_len();
        let mut bytes = vec![0; blocks * output.format.block_bytes()];
        match moelten_quant::encode(output.format, values, &mut bytes) {
            Ok(()) => {}
            Err(EncodeError::Unsupported(format)) => {
                return Err(LoadError::Unsupported {
                    path: name.into(),
                    feature: format!("writing {format}"),
                    hint: "every format but Q2_K and Q3_K can be written".into(),
                });
            }
            Err(other) => return fail(Fault::Vocabulary { problem: other.to_string() }),
        }
        writer.write_tensor(name, &bytes)?;
        self.written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok((self.progress)(Progress { written: self.written, total: self.total }))
    }
}

fn dim(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
