//! Tensors by role: every tensor that a [`ModelSpec`] needs, found in the files under whichever name they use, its
//! shape checked once. The engine asks for roles and experts; it never sees a name.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;

use moelten_quant::{Format, QMatrix};

use crate::container::catalog::{Catalog, TensorInfo};
use crate::container::packed::{self, PackedIndex, PackedLayer, PackedMatrix, shape_fault};
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::spec::{Ffn, Mixer, MlpSpec, ModelSpec, NormSpec, QkNorm, SharedExpert};
use crate::tensors::roles::{IGNORED_SUFFIXES, LayerTensor, NameRule, Part, Role, Rows};

/// Where a matrix lies: a window of one file, or of memory of our own, already validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixRef {
    /// Block format.
    pub format: Format,
    /// Rows (outputs).
    pub rows: usize,
    /// Columns (inputs).
    pub cols: usize,
    /// Index of the file.
    pub file: usize,
    /// Byte offset in it.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl MatrixRef {
    /// Offset and length in bytes of some of its rows.
    pub(crate) fn place_of(&self, rows: Range<usize>) -> (u64, u64) {
        let wide = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let of_row = self.bytes / wide(self.rows.max(1));
        (self.offset + wide(rows.start) * of_row, wide(rows.len()) * of_row)
    }
}

/// The three matrices of one expert or dense block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlpRef {
    /// `[d_ff, d_model]`.
    pub gate: MatrixRef,
    /// `[d_ff, d_model]`.
    pub up: MatrixRef,
    /// `[d_model, d_ff]`.
    pub down: MatrixRef,
}

impl MlpRef {
    /// One of the three.
    pub fn part(&self, part: Part) -> &MatrixRef {
        match part {
            Part::Gate => &self.gate,
            Part::Up => &self.up,
            Part::Down => &self.down,
        }
    }

    /// Bytes of the three together.
    pub fn bytes(&self) -> u64 {
        self.gate.bytes + self.up.bytes + self.down.bytes
    }
}

/// The bytes of one expert in a packed file: its three matrices and what lies between them, to be had in one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordRef {
    /// Index of the file.
    pub file: usize,
    /// Byte offset in it, a multiple of [`packed::RECORD_ALIGN`].
    pub offset: u64,
    /// Length in bytes, a multiple as well.
    pub bytes: u64,
    /// What [`packed::verify_record`] holds the bytes against.
    pub checksum: u64,
}

/// Every tensor a model needs, by role.
#[derive(Debug)]
pub struct TensorStore {
    catalog: Catalog,
    /// The catalog's files, and perhaps memory of our own.
    pub(crate) files: Vec<FileBytes>,
    pub(crate) dense: BTreeMap<Role, MatrixRef>,
    pub(crate) experts: Vec<Vec<MlpRef>>,
    /// By layer, then by expert; empty for layers and files that are not packed.
    pub(crate) records: Vec<Vec<RecordRef>>,
    unused: Vec<String>,
}

impl TensorStore {
    /// Finds and checks every tensor that `spec` needs.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] for a missing tensor or a wrong shape, [`LoadError::Unsupported`] for a needed
    /// tensor of a type that cannot be computed with.
    pub fn resolve(spec: &ModelSpec, catalog: Catalog, names: &'static [NameRule]) -> Result<Self> {
        Self::resolve_with(spec, catalog, names, None)
    }

    /// As [`Self::resolve`], for a packed file: experts of the layers in `packed` are records.
    ///
    /// # Errors
    /// As [`Self::resolve`], and [`LoadError::Malformed`] for records that are not what `spec` and `packed` say.
    pub fn resolve_packed(
        spec: &ModelSpec,
        catalog: Catalog,
        names: &'static [NameRule],
        packed: &PackedIndex,
    ) -> Result<Self> {
        Self::resolve_with(spec, catalog, names, Some(packed))
    }

    fn resolve_with(
        spec: &ModelSpec,
        catalog: Catalog,
        names: &'static [NameRule],
        packed: Option<&PackedIndex>,
    ) -> Result<Self> {
        let mut resolver = Resolver { catalog: &catalog, names, used: HashSet::new() };
        let mut dense = BTreeMap::new();
        for (role, rows, cols) in needed(spec) {
            dense.insert(role, resolver.matrix(role, rows, cols)?);
        }
        let mut experts = Vec::with_capacity(spec.layers.len());
        let mut records = Vec::new();
        for (layer, spec_layer) in spec.layers.iter().enumerate() {
            let in_records = packed.and_then(|packed| packed.layer(layer));
            let (matrices, of_layer) = match (&spec_layer.ffn, in_records) {
                (Ffn::Dense(_), None) => (Vec::new(), Vec::new()),
                (Ffn::Moe(moe), None) => {
                    (resolver.experts(layer, moe.experts, moe.expert, spec.d_model)?, Vec::new())
                }
                (Ffn::Moe(moe), Some(packed)) => {
                    resolver.records(packed, moe.experts, moe.expert, spec.d_model)?
                }
                (Ffn::Dense(_), Some(_)) => return Err(resolver.not_a_layer_with_experts(layer)),
            };
            experts.push(matrices);
            records.push(of_layer);
        }
        if let Some(last) = packed.and_then(|packed| packed.layers().last())
            && last.layer >= spec.layers.len()
        {
            return Err(resolver.not_a_layer_with_experts(last.layer));
        }
        for role in [Role::RopeDivisors, Role::RopeShort, Role::RopeLong] {
            resolver.mark_configuration(role);
        }
        let used = resolver.used;
        let unused = catalog
            .tensors()
            .iter()
            .filter(|t| {
                !used.contains(t.name.as_str()) && !IGNORED_SUFFIXES.iter().any(|s| t.name.ends_with(s))
            })
            .map(|t| t.name.clone())
            .collect();
        let files = catalog.files().to_vec();
        Ok(Self { catalog, files, dense, experts, records, unused })
    }

    /// The matrix of a role that the spec needs; vectors are one row.
    ///
    /// # Panics
    /// If the spec does not need this role.
    pub fn get(&self, role: Role) -> MatrixRef {
        *self.dense.get(&role).unwrap_or_else(|| panic!("the spec of this model has no {role}"))
    }

    /// The roles of all matrices outside expert banks, with their places.
    pub fn dense(&self) -> impl Iterator<Item = (Role, MatrixRef)> + '_ {
        self.dense.iter().map(|(&role, &matrix)| (role, matrix))
    }

    /// The experts of a layer; empty for dense layers.
    pub fn experts(&self, layer: usize) -> &[MlpRef] {
        self.experts.get(layer).map_or(&[], Vec::as_slice)
    }

    /// Layers that the spec has.
    pub fn layers(&self) -> usize {
        self.experts.len()
    }

    /// The files, and perhaps memory of our own, that references name by index.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn file(&self, index: usize) -> &FileBytes {
        self.files.get(index).expect("a reference of this store names one of its files")
    }

    /// Says that everything will be used where it lies, for as long as the store lives.
    pub fn use_in_place(&self) {
        self.files.iter().for_each(FileBytes::prefer_huge_pages);
    }

    /// Paths of the files that experts lie in.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.catalog.files().iter().map(FileBytes::path)
    }

    /// The record that holds an expert, in a packed file.
    pub fn record(&self, layer: usize, expert: usize) -> Option<&RecordRef> {
        self.records.get(layer)?.get(expert)
    }

    /// All bytes of a record, where they lie.
    pub fn record_bytes(&self, record: &RecordRef) -> &[u8] {
        let bytes = self.file(record.file).range(record.offset, record.bytes);
        bytes.expect("records were checked when they were found")
    }

    /// Whether experts lie in files, from which they can be read when they are needed.
    pub fn in_files(&self) -> bool {
        self.experts
            .iter()
            .flatten()
            .flat_map(|e| [&e.gate, &e.up, &e.down])
            .all(|m| self.file(m.file).is_file())
    }

    /// The weights of a matrix, where they lie.
    pub fn view(&self, matrix: &MatrixRef) -> QMatrix<'_> {
        let bytes = self.file(matrix.file).range(matrix.offset, matrix.bytes);
        let bytes = bytes.expect("references were checked when they were made");
        QMatrix::new(matrix.format, matrix.rows, matrix.cols, bytes)
            .expect("references carry consistent sizes")
    }

    /// A role's values in f32, e.g. a norm weight.
    ///
    /// # Errors
    /// [`Fault::NotFinite`] when a value is NaN or infinite: such a model cannot answer.
    pub fn vector(&self, role: Role) -> Result<Vec<f32>> {
        let matrix = self.get(role);
        let mut out = vec![0.0; matrix.rows * matrix.cols];
        moelten_quant::decode(matrix.format, self.view(&matrix).data(), &mut out);
        self.refuse_not_finite(role, &matrix, &out, 0)?;
        Ok(out)
    }

    /// Reads a matrix through, row by row, for values that no model can answer with.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn check_finite(&self, role: Role) -> Result<()> {
        let matrix = self.get(role);
        let mut row = vec![0.0; matrix.cols];
        for index in 0..matrix.rows {
            self.view(&matrix).decode_row(index, &mut row);
            self.refuse_not_finite(role, &matrix, &row, index * matrix.cols)?;
        }
        Ok(())
    }

    /// `values` stand from place `first` on in the matrix of `role`.
    fn refuse_not_finite(&self, role: Role, matrix: &MatrixRef, values: &[f32], first: usize) -> Result<()> {
        let Some((index, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) else {
            return Ok(());
        };
        let found = if value.is_nan() { "NaN" } else { "infinity" };
        let fault = Fault::NotFinite { found, index: u64::try_from(first + index).unwrap_or(u64::MAX) };
        let path =
            self.catalog.files().get(matrix.file).map_or_else(Default::default, |f| f.path().to_owned());
        Err(LoadError::malformed(&path, role.to_string(), fault))
    }

    /// Names of tensors in the files that the spec has no use for.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// The tensors as the files list them.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Bytes of everything outside expert banks.
    pub fn dense_bytes(&self) -> u64 {
        self.dense.values().map(|m| m.bytes).sum()
    }

    /// Bytes of all routed experts.
    pub fn expert_bytes(&self) -> u64 {
        self.experts.iter().flatten().map(MlpRef::bytes).sum()
    }
}

/// Every role outside expert banks that a spec needs, with its rows and columns; vectors are one row.
pub fn needed(spec: &ModelSpec) -> Vec<(Role, usize, usize)> {
    let d = spec.d_model;
    let mut out = vec![(Role::Embed, spec.vocab, d), (Role::FinalNorm, 1, d)];
    if matches!(spec.final_norm, NormSpec::Layer { .. }) {
        out.push((Role::FinalNormBias, 1, d));
    }
    if !spec.head.tied {
        out.push((Role::Head, spec.vocab, d));
    }
    if spec.head.bias {
        out.push((Role::HeadBias, 1, spec.vocab));
    }
    for (index, layer) in spec.layers.iter().enumerate() {
        let mut add = |tensor, rows, cols| out.push((Role::Layer(index, tensor), rows, cols));
        add(LayerTensor::MixerNorm, 1, d);
        add(LayerTensor::FfnNorm, 1, d);
        if matches!(layer.mixer_norm, NormSpec::Layer { .. }) {
            add(LayerTensor::MixerNormBias, 1, d);
        }
        if matches!(layer.ffn_norm, NormSpec::Layer { .. }) {
            add(LayerTensor::FfnNormBias, 1, d);
        }
        let Mixer::Attention(a) = &layer.mixer;
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        add(LayerTensor::Q, q, d);
        add(LayerTensor::K, kv, d);
        add(LayerTensor::V, kv, d);
        add(LayerTensor::O, d, q);
        if a.qkv_bias {
            add(LayerTensor::QBias, 1, q);
            add(LayerTensor::KBias, 1, kv);
            add(LayerTensor::VBias, 1, kv);
        }
        if a.out_bias {
            add(LayerTensor::OBias, 1, d);
        }
        match a.qk_norm {
            QkNorm::None => {}
            QkNorm::PerHead { .. } => {
                add(LayerTensor::QNorm, 1, a.head_dim);
                add(LayerTensor::KNorm, 1, a.head_dim);
            }
            QkNorm::Full { .. } => {
                add(LayerTensor::QNorm, 1, q);
                add(LayerTensor::KNorm, 1, kv);
            }
        }
        let mut mlp = |wrap: fn(Part) -> LayerTensor, m: MlpSpec| {
            add(wrap(Part::Gate), m.d_ff, d);
            add(wrap(Part::Up), m.d_ff, d);
            add(wrap(Part::Down), d, m.d_ff);
        };
        match &layer.ffn {
            Ffn::Dense(m) => mlp(LayerTensor::Dense, *m),
            Ffn::Moe(moe) => {
                match moe.shared {
                    SharedExpert::None => {}
                    SharedExpert::Plain(m) | SharedExpert::Gated(m) => mlp(LayerTensor::Shared, m),
                }
                add(LayerTensor::Router, moe.experts, d);
                if matches!(moe.shared, SharedExpert::Gated(_)) {
                    add(LayerTensor::SharedInput, 1, d);
                }
            }
        }
    }
    out
}

struct Resolver<'a> {
    catalog: &'a Catalog,
    names: &'static [NameRule],
    used: HashSet<&'a str>,
}

impl<'a> Resolver<'a> {
    /// The first spelling of `role` that the files have, for expert 0 where tensors are per expert.
    fn find(&mut self, role: Role) -> Option<(&'static NameRule, &'a TensorInfo)> {
        let names: &'static [NameRule] = self.names;
        let found = names
            .iter()
            .filter(|rule| rule.spells(role))
            .find_map(|rule| Some((rule, self.catalog.get(&rule.name(role, 0))?)))?;
        self.used.insert(found.1.name.as_str());
        Some(found)
    }

    fn mark_configuration(&mut self, role: Role) {
        let _ = self.find(role);
    }

    /// A tensor by the file's name for it.
    fn named(&mut self, name: &str) -> Result<&'a TensorInfo> {
        let tensor = self.catalog.get(name).ok_or_else(|| {
            let fault = Fault::Missing { hint: "; the file is not complete" };
            LoadError::malformed(self.first_path(), format!("tensor {name}"), fault)
        })?;
        self.used.insert(tensor.name.as_str());
        Ok(tensor)
    }

    /// As [`Self::find`]; what is missing is named by its first spelling.
    fn require(&mut self, role: Role) -> Result<(&'static NameRule, &'a TensorInfo)> {
        if let Some(found) = self.find(role) {
            return Ok(found);
        }
        let rule = self.names.iter().find(|rule| rule.spells(role)).expect("every role has a spelling");
        Ok((rule, self.named(&rule.name(role, 0))?))
    }

    /// A matrix outside the expert banks; a vector is one row.
    fn matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<MatrixRef> {
        let (rule, tensor) = self.require(role)?;
        let whole = whole_rows(rule, rows);
        let vector = rows == 1 && tensor.shape.len() == 1;
        let expected = if vector { shape(&[cols]) } else { shape(&[whole, cols]) };
        self.check_shape(tensor, &expected)?;
        self.rows_of(tensor, rule.rows, rows, cols, 0)
    }

    fn experts(
        &mut self,
        layer: usize,
        count: usize,
        expert: MlpSpec,
        d_model: usize,
    ) -> Result<Vec<MlpRef>> {
        let mut part = |part: Part, rows: usize, cols: usize| -> Result<Vec<MatrixRef>> {
            let role = Role::Layer(layer, LayerTensor::Experts(part));
            let (rule, bank) = self.require(role)?;
            let whole = whole_rows(rule, rows);
            if rule.per_expert() {
                return (0..count)
                    .map(|e| {
                        let tensor = self.named(&rule.name(role, e))?;
                        self.check_shape(tensor, &shape(&[whole, cols]))?;
                        self.rows_of(tensor, rule.rows, rows, cols, 0)
                    })
                    .collect();
            }
            self.check_shape(bank, &shape(&[count, whole, cols]))?;
            (0..count).map(|e| self.rows_of(bank, rule.rows, rows, cols, e)).collect()
        };
        let gate = part(Part::Gate, expert.d_ff, d_model)?;
        let up = part(Part::Up, expert.d_ff, d_model)?;
        let down = part(Part::Down, d_model, expert.d_ff)?;
        let zipped = gate.into_iter().zip(up).zip(down);
        Ok(zipped.map(|((gate, up), down)| MlpRef { gate, up, down }).collect())
    }

    /// The experts of a layer that has records.
    fn records(
        &mut self,
        packed: &PackedLayer,
        count: usize,
        expert: MlpSpec,
        d_model: usize,
    ) -> Result<(Vec<MlpRef>, Vec<RecordRef>)> {
        let PackedLayer { layer, shape: record, checksums } = packed;
        for (part, rows, cols) in [
            (Part::Gate, expert.d_ff, d_model),
            (Part::Up, expert.d_ff, d_model),
            (Part::Down, d_model, expert.d_ff),
        ] {
            let found = record.part(part);
            if (found.rows, found.cols) != (rows, cols) {
                let (found, expected) = (shape(&[found.rows, found.cols]), shape(&[rows, cols]));
                return Err(shape_fault(self.first_path(), *layer, Fault::WrongShape { found, expected }));
            }
        }
        if checksums.len() != count {
            let found = format!("{} experts in layer {layer}", checksums.len());
            let fault = Fault::Contradiction { found, other: format!("the model's {count}") };
            return Err(LoadError::malformed(self.first_path(), packed::EXPERTS_KEY, fault));
        }
        let (mut experts, mut records) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (expert, &checksum) in checksums.iter().enumerate() {
            let tensor = self.named(&packed::record_name(*layer, expert))?;
            let &TensorInfo { file, offset, bytes, .. } = tensor;
            let fault = |fault| {
                LoadError::malformed(self.catalog.path(tensor), format!("tensor {}", tensor.name), fault)
            };
            if tensor.storage.name() != packed::RECORD_TYPE {
                let found = tensor.storage.name().to_owned();
                return Err(fault(Fault::WrongType { found, expected: packed::RECORD_TYPE }));
            }
            self.check_shape(tensor, &[record.bytes])?;
            let alignment = u64::from(packed::RECORD_ALIGN);
            if !offset.is_multiple_of(alignment) {
                return Err(fault(Fault::Unaligned { offset, alignment }));
            }
            let matrix = |part| {
                let &PackedMatrix { format, rows, cols, offset: inside, bytes } = record.part(part);
                // No overflow: the record lies within the file, the matrix within the record.
                MatrixRef { format, rows, cols, file, offset: offset + inside, bytes }
            };
            experts.push(MlpRef { gate: matrix(Part::Gate), up: matrix(Part::Up), down: matrix(Part::Down) });
            records.push(RecordRef { file, offset, bytes, checksum });
        }
        Ok((experts, records))
    }

    fn not_a_layer_with_experts(&self, layer: usize) -> LoadError {
        let (found, other) = (format!("layer {layer}"), "a model without experts there".to_owned());
        LoadError::malformed(self.first_path(), packed::LAYERS_KEY, Fault::Contradiction { found, other })
    }

    /// The file that carries the metadata, for messages.
    fn first_path(&self) -> &'a Path {
        self.catalog.files().first().map_or(Path::new("?"), |file| file.path())
    }

    fn check_shape(&self, tensor: &TensorInfo, expected: &[u64]) -> Result<()> {
        if tensor.shape == expected {
            return Ok(());
        }
        let fault = Fault::WrongShape { found: tensor.shape.clone(), expected: expected.to_vec() };
        Err(LoadError::malformed(self.catalog.path(tensor), format!("tensor {}", tensor.name), fault))
    }

    /// A run of rows of (one expert of) a tensor whose shape has been checked.
    fn rows_of(
        &self,
        tensor: &TensorInfo,
        take: Rows,
        rows: usize,
        cols: usize,
        expert: usize,
    ) -> Result<MatrixRef> {
        let path = self.catalog.path(tensor);
        let format = tensor.known_format(path)?;
        let overflow = || LoadError::malformed(path, format!("tensor {}", tensor.name), Fault::Overflow);
        let row_bytes = format.row_bytes(cols).ok_or_else(|| {
            let columns = u64::try_from(cols).unwrap_or(u64::MAX);
            let fault = Fault::PartialBlock { columns, format: format.name(), block: format.block_len() };
            LoadError::malformed(path, format!("tensor {}", tensor.name), fault)
        })?;
        let (per_expert, skip) = match take {
            Rows::All => (rows, 0),
            Rows::FirstHalf => (rows * 2, 0),
            Rows::SecondHalf => (rows * 2, rows),
        };
        let first = per_expert.checked_mul(expert).and_then(|r| r.checked_add(skip)).ok_or_else(overflow)?;
        let start = first.checked_mul(row_bytes).and_then(|b| u64::try_from(b).ok()).ok_or_else(overflow)?;
        let bytes = rows.checked_mul(row_bytes).and_then(|b| u64::try_from(b).ok()).ok_or_else(overflow)?;
        let offset = tensor.offset.checked_add(start).ok_or_else(overflow)?;
        Ok(MatrixRef { format, rows, cols, file: tensor.file, offset, bytes })
    }
}

fn whole_rows(rule: &NameRule, rows: usize) -> usize {
    if rule.rows == Rows::All { rows } else { rows.saturating_mul(2) }
}

fn shape(dims: &[usize]) -> Vec<u64> {
    dims.iter().map(|&d| u64::try_from(d).unwrap_or(u64::MAX)).collect()
}
