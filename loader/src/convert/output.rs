//! The tensors of an output: their names, types and shapes, and where the values of each come from. It must
//! not know how values are made.

use std::collections::HashSet;

use moelten_quant::Format;

use super::order::{Order, is_logarithm, order_of, written_as};
use super::shapes::dimensions;
use super::source::{bank, first_expert, first_path, is_router};
use crate::container::catalog::{Storage, TensorInfo};
use crate::container::gguf::GgmlType;
use crate::container::gguf::write::TensorPlan;
use crate::container::packed::{self, PackedLayer, RecordShape, record_name};
use crate::error::{LoadError, Result};
use crate::io::reader::{len_u64, narrow};
use crate::load::{LoadedModel, Source, gguf_names};
use crate::spec::{BankKey, ModelSpec, Part, RopeScaling, RopeSpec};
use crate::tensors::bank::{ExpertBank, MatrixRef};
use crate::tensors::roles::{LayerTensor, NameRule, Role, Rows};

/// The arrangement of the experts in the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileLayout {
    /// One tensor for all gates of a layer, one for all ups, one for all downs: the usual GGUF layout.
    #[default]
    Standard,
    /// One record for each expert; see [`crate::container::packed`].
    Packed,
}

/// Types of the output's matrices.
#[derive(Clone, Copy)]
pub enum Types<'f> {
    /// Those of the source; bytes are copied. Only GGUF sources can be kept.
    Kept,
    /// Those that the function gives. Vectors are F32, and so are routers for which it gives a block format.
    Chosen(&'f dyn Fn(Role) -> Format),
}

/// A tensor of the output.
pub(super) struct Output {
    pub plan: TensorPlan,
    pub bytes: u64,
    pub values: Values,
}

/// The source of a tensor's values. Experts are encoded or copied.
pub(super) enum Values {
    /// A copy of a tensor of the source.
    Tensor(TensorInfo),
    /// A matrix of the source in another format.
    Matrix { role: Role, matrix: MatrixRef, format: Format, order: Order },
    /// Matrices of the source, or vectors, one below the other, in another format.
    Stack { parts: Vec<(Role, MatrixRef, Order)>, format: Format },
    /// One matrix of each expert of a bank.
    Bank { bank: BankKey, part: Part, encode: Option<Format> },
    /// All matrices of one expert, laid out by the plan's index.
    Record { bank: BankKey, expert: usize, encode: bool },
    /// Numbers of the spec.
    Numbers(Vec<f32>),
    /// Whole numbers of the source.
    Integers(Vec<i32>),
}

impl Output {
    fn new(model: &LoadedModel, role: Role, shape: Vec<u64>, format: Format, values: Values) -> Result<Self> {
        let storage = Storage::Known(format);
        let stored = GgmlType::from_storage(storage).ok_or_else(|| LoadError::Unsupported {
            path: first_path(model).to_owned(),
            feature: format!("keeping {format} weights in the standard layout"),
            hint: "choose a type".into(),
        })?;
        let bytes = stored
            .tensor_bytes(&shape)
            .map_err(|fault| LoadError::malformed(first_path(model), role.to_string(), fault))?;
        let name = gguf_names(&model.spec).name(role);
        Ok(Self { plan: TensorPlan { name, storage, shape }, bytes, values })
    }

    /// A tensor of the source as it is.
    fn copy(tensor: &TensorInfo) -> Self {
        let TensorInfo { name, storage, shape, bytes, .. } = tensor.clone();
        Self { plan: TensorPlan { name, storage, shape }, bytes, values: Values::Tensor(tensor.clone()) }
    }
}

/// Every tensor of the output outside expert banks. Of a file whose types are kept, all others are copied.
pub(super) fn dense_outputs(model: &LoadedModel, types: Types<'_>) -> Result<Vec<Output>> {
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
    let names = gguf_names(spec);
    let mut out = rope_divisors(spec);
    out.extend(tensors.integers().map(|(role, _)| integers(model, role)).collect::<Result<Vec<_>>>()?);
    match &model.source {
        // Tables of many gigabytes are copied.
        Source::Gguf { .. } => out.extend(tensors.table_tensors().map(Output::copy)),
        Source::Hf { .. } => {
            let table = |role| table(model, role, choose);
            out.extend(tensors.table_roles().map(table).collect::<Result<Vec<_>>>()?);
        }
    }
    let mut written = HashSet::new();
    let folder = matches!(model.source, Source::Hf { .. });
    let roles = tensors.dense().flat_map(|(role, matrix)| {
        written_as(spec, role, folder).into_iter().map(move |output| (output, role, matrix))
    });
    for (role, source, matrix) in roles {
        let rule = names.of(role).next().expect("every role has a name");
        // One tensor may serve two roles, or hold those of several.
        if !written.insert(names.by(rule, role, 0)) {
            continue;
        }
        out.push(match stacked_with(rule, role) {
            Some(roles) => stack(model, role, roles, choose)?,
            None if tensors.is_centred(role) => numbers(spec, role, tensors.vector(role)?),
            None if is_logarithm(spec, role) => {
                let rates: Vec<f32> = tensors.vector(role)?.into_iter().map(|log| -log.exp()).collect();
                let rates = order_of(spec, role).of_vector(&rates);
                shaped(spec, role, rates, dimensions(spec, role, matrix.rows, matrix.cols))
            }
            None => dense_output(model, (role, source), matrix, choose)?,
        });
    }
    Ok(out)
}

/// A table that lies in several tensors of a folder. Its rows are read one by one like those of the
/// embedding, and have its type if they divide into blocks of it.
fn table(model: &LoadedModel, role: Role, choose: &dyn Fn(Role) -> Format) -> Result<Output> {
    let parts: Vec<(Role, MatrixRef, Order)> =
        model.tensors.table(role).map(|matrix| (role, matrix, Order::Same)).collect();
    let rows = parts.iter().map(|(_, matrix, _)| len_u64(matrix.rows)).sum();
    let (cols, stored) = parts.first().map_or((0, Format::F32), |(_, first, _)| (first.cols, first.format));
    let format = [choose(Role::Embed)].into_iter().find(|format| format.row_bytes(cols).is_some());
    let format = format.unwrap_or(stored);
    Output::new(model, role, vec![rows, len_u64(cols)], format, Values::Stack { parts, format })
}

/// The roles that the tensor of a rule holds, in order; `None` if it is one role's alone.
fn stacked_with(rule: &NameRule, role: Role) -> Option<Vec<Role>> {
    let Role::Layer(layer, own) = role else { return None };
    let others: Vec<LayerTensor> = match (rule.rows, own) {
        (Rows::All, _) => return None,
        (Rows::Stacked(all), _) => all.to_vec(),
        (_, LayerTensor::Shared(_)) => vec![LayerTensor::Shared(Part::Gate), LayerTensor::Shared(Part::Up)],
        _ => vec![LayerTensor::Dense(Part::Gate), LayerTensor::Dense(Part::Up)],
    };
    Some(others.into_iter().map(|tensor| Role::Layer(layer, tensor)).collect())
}

/// A tensor that holds several roles. `first` gives the name and the format.
fn stack(
    model: &LoadedModel,
    first: Role,
    roles: Vec<Role>,
    choose: &dyn Fn(Role) -> Format,
) -> Result<Output> {
    let (spec, tensors) = (&model.spec, &model.tensors);
    let part = |role| (role, tensors.get(role), order_of(spec, role));
    let parts: Vec<(Role, MatrixRef, Order)> = roles.into_iter().map(part).collect();
    let vectors = parts.iter().all(|(_, matrix, _)| matrix.rows == 1);
    let size = |matrix: &MatrixRef| len_u64(if vectors { matrix.cols } else { matrix.rows });
    let mut shape = vec![parts.iter().map(|(_, matrix, _)| size(matrix)).sum()];
    if !vectors {
        shape.extend(parts.first().map(|(_, matrix, _)| len_u64(matrix.cols)));
    }
    let format = if vectors { Format::F32 } else { choose(first) };
    Output::new(model, first, shape, format, Values::Stack { parts, format })
}

/// A tensor of one role, made from one of the source's.
fn dense_output(
    model: &LoadedModel,
    (role, source): (Role, Role),
    matrix: MatrixRef,
    choose: &dyn Fn(Role) -> Format,
) -> Result<Output> {
    let vector = matrix.rows == 1;
    let router = is_router(role);
    let chosen = choose(source);
    // Routers are never rounded to blocks: a small error would choose other experts.
    let exact = (vector && !router) || (router && !chosen.is_float());
    let format = if exact { Format::F32 } else { chosen };
    let order = order_of(&model.spec, role);
    let cols = order.columns(matrix.cols);
    // Rows that were columns may not divide into blocks that fit the others.
    let fits = |format: &Format| format.row_bytes(cols).is_some();
    let format = match order.moves_columns() {
        true => [format, Format::Q8_0].into_iter().find(fits).unwrap_or(Format::F16),
        false => format,
    };
    let rows = if vector { 1 } else { order.count(matrix.rows) };
    let shape = dimensions(&model.spec, role, rows, cols);
    let values = Values::Matrix { role: source, matrix, format, order };
    Output::new(model, role, shape, format, values)
}

/// Names under which the source may have experts.
fn expert_tensors(model: &LoadedModel) -> HashSet<String> {
    let (mut names, known) = (HashSet::new(), gguf_names(&model.spec));
    for bank in model.tensors.banks() {
        let count = bank.experts();
        names.extend((0..count).map(|expert| record_name(bank.kind, bank.key.layer, expert)));
        for role in Part::ALL.map(|part| bank.role(part)) {
            for rule in known.of(role) {
                let tensors = if rule.per_expert() { count } else { 1 };
                names.extend((0..tensors).map(|expert| known.by(rule, role, expert)));
                // Matrices of experts hold the scales that lay beside them.
                let beside = (0..tensors).map(|expert| known.by(rule, role, expert));
                names.extend(beside.flat_map(|name| scales_in(model, &name)));
            }
        }
    }
    names
}

/// Names of the scales that the matrices of an expert tensor hold, and of those for its inputs, which no
/// product uses.
fn scales_in(model: &LoadedModel, tensor: &str) -> Vec<String> {
    let Some(stem) = tensor.strip_suffix(".weight") else { return Vec::new() };
    let scale = format!("{stem}.scale");
    let held = model.tensors.holds_scale(&scale);
    if held { vec![scale, format!("{stem}.input_scale")] } else { Vec::new() }
}

/// The format of each matrix of a bank's experts in the output.
pub(super) type ExpertFormats = Vec<(Part, Format)>;

/// The banks of experts, and the formats of their matrices in the output.
///
/// # Errors
/// [`LoadError::Unsupported`] for experts of several formats that are to be kept.
pub(super) fn expert_types(model: &LoadedModel, types: Types<'_>) -> Result<Vec<(BankKey, ExpertFormats)>> {
    let banks = model.tensors.banks().iter();
    banks
        .map(|bank| {
            let format = |&part: &Part| match types {
                Types::Chosen(choose) => Ok((part, choose(bank.role(part)))),
                Types::Kept => Ok((part, kept_type(model, bank, part)?)),
            };
            Ok((bank.key, bank.parts().iter().map(format).collect::<Result<_>>()?))
        })
        .collect()
}

/// The one format of a matrix of all experts of a bank. Files with a tensor for each expert might have
/// several.
fn kept_type(model: &LoadedModel, bank: &ExpertBank, part: Part) -> Result<Format> {
    let mut formats =
        (0..bank.experts()).filter_map(|expert| bank.part(expert, part)).map(|matrix| matrix.format);
    let first = formats.next().expect("a bank has its parts");
    if let Some(other) = formats.find(|&format| format != first) {
        return Err(LoadError::Unsupported {
            path: first_path(model).to_owned(),
            feature: format!("keeping {first} and {other} for experts of layer {}", bank.key.layer),
            hint: "all experts of a layer need one type: choose it".into(),
        });
    }
    Ok(first)
}

/// The tensors of a bank, one for each matrix of an expert.
pub(super) fn bank_outputs(
    model: &LoadedModel,
    bank: &ExpertBank,
    formats: &[(Part, Format)],
    encoded: bool,
) -> Result<Vec<Output>> {
    formats
        .iter()
        .map(|&(part, format)| {
            let matrix = first_expert(bank, part);
            let shape = vec![len_u64(bank.experts()), len_u64(matrix.rows), len_u64(matrix.cols)];
            let values = Values::Bank { bank: bank.key, part, encode: encoded.then_some(format) };
            Output::new(model, bank.role(part), shape, format, values)
        })
        .collect()
}

/// The shape of the records of a bank. Checksums are 0 until they are computed.
pub(super) fn packed_layer(
    model: &LoadedModel,
    key: BankKey,
    formats: &[(Part, Format)],
) -> Result<PackedLayer> {
    let (bank, layer) = (bank(model, key), key.layer);
    let matrix = |part| {
        let (_, format) = formats.iter().find(|(known, _)| *known == part)?;
        let matrix = first_expert(bank, part);
        Some((*format, len_u64(matrix.rows), len_u64(matrix.cols)))
    };
    let shape = RecordShape::new(matrix);
    let shape = shape.map_err(|fault| packed::shape_fault(first_path(model), layer, fault))?;
    Ok(PackedLayer { layer, kind: bank.kind, shape, checksums: vec![0; bank.experts()] })
}

/// The records of a bank.
pub(super) fn records(
    bank: BankKey,
    packed: &PackedLayer,
    encode: bool,
) -> impl Iterator<Item = Output> + '_ {
    let PackedLayer { layer, kind, shape, checksums } = packed;
    (0..checksums.len()).map(move |expert| Output {
        plan: TensorPlan {
            name: record_name(*kind, *layer, expert),
            storage: Storage::Other(packed::RECORD_TYPE),
            shape: vec![shape.bytes],
        },
        bytes: shape.bytes,
        values: Values::Record { bank, expert, encode },
    })
}

/// Divisors that are configuration in a folder and tensors in a GGUF file.
fn rope_divisors(spec: &ModelSpec) -> Vec<Output> {
    // Layers with a window may have a plain rope beside.
    let mut ropes = spec.attention_layers().filter_map(|attention| attention.rope.as_ref());
    let Some(rope) = ropes.find(|rope| rope.scaling != RopeScaling::None) else { return Vec::new() };
    let tensor = |role, values| numbers(spec, role, values);
    match &rope.scaling {
        RopeScaling::Llama3 { .. } => vec![tensor(Role::RopeDivisors, llama3_divisors(rope))],
        RopeScaling::Factors { divisors } => vec![tensor(Role::RopeDivisors, divisors.clone())],
        RopeScaling::LongRope { short, long, .. } => {
            vec![tensor(Role::RopeShort, short.clone()), tensor(Role::RopeLong, long.clone())]
        }
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => Vec::new(),
    }
}

/// A tensor of whole numbers, of 32 bits each whatever the source has.
fn integers(model: &LoadedModel, role: Role) -> Result<Output> {
    let spec = &model.spec;
    let Role::Layer(layer, _) = role else { unreachable!("only layers have tables of whole numbers") };
    let moe = spec.layers.get(layer).and_then(|layer| layer.moe()).expect("a table belongs to experts");
    let end = u16::try_from(moe.experts).unwrap_or(u16::MAX);
    let values: Vec<i32> = model.tensors.whole_numbers(role, end)?.into_iter().map(i32::from).collect();
    let cols = moe.router.select.max_experts();
    let (name, storage) = (gguf_names(spec).name(role), Storage::Other("I32"));
    let shape = vec![len_u64(values.len() / cols.max(1)), len_u64(cols)];
    let plan = TensorPlan { name, storage, shape };
    Ok(Output { plan, bytes: len_u64(size_of_val(values.as_slice())), values: Values::Integers(values) })
}

/// A vector of the spec, or one that is computed from the source's.
fn numbers(spec: &ModelSpec, role: Role, values: Vec<f32>) -> Output {
    let shape = vec![len_u64(values.len())];
    shaped(spec, role, values, shape)
}

fn shaped(spec: &ModelSpec, role: Role, values: Vec<f32>, shape: Vec<u64>) -> Output {
    Output {
        plan: TensorPlan { name: gguf_names(spec).name(role), storage: Storage::Known(Format::F32), shape },
        bytes: len_u64(size_of_val(values.as_slice())),
        values: Values::Numbers(values),
    }
}

/// Divisor of each frequency under Llama 3.1's scaling, `[dim / 2]`.
fn llama3_divisors(rope: &RopeSpec) -> Vec<f32> {
    let frequencies = rope.frequencies(usize::MAX);
    let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.frequencies(usize::MAX);
    plain.iter().zip(frequencies).map(|(plain, scaled)| narrow(plain / scaled)).collect()
}
