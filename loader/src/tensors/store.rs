//! Tensors by role: every tensor that a [`ModelSpec`] needs, found in the files under any of its names, its
//! shape checked once. The engine asks for roles and experts; it never sees a name.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use moelten_quant::QMatrix;

use crate::container::catalog::{Catalog, TensorInfo};
use crate::container::packed::{PackedIndex, PackedLayer};
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::spec::{BankKey, BankKind, ModelSpec};
use crate::tensors::bank::{ExpertBank, MatrixRef, RecordRef};
use crate::tensors::needed::{large_numbers, needed, tables as needed_tables, whole_numbers};
use crate::tensors::resolve::Resolver;
use crate::tensors::roles::{IGNORED_SUFFIXES, Names, Role};

/// Every tensor a model needs, by role.
#[derive(Debug)]
pub struct TensorStore {
    catalog: Catalog,
    /// The catalog's files, and generated memory behind them.
    pub(crate) files: Vec<FileBytes>,
    pub(crate) dense: BTreeMap<Role, MatrixRef>,
    /// Tensors of whole numbers.
    integers: BTreeMap<Role, TensorInfo>,
    /// Tensors of whole numbers of 64 bits.
    large: BTreeMap<Role, TensorInfo>,
    /// Tables whose rows are read one by one.
    tables: BTreeMap<Role, Vec<(MatrixRef, TensorInfo)>>,
    /// In the order of [`ModelSpec::banks`].
    banks: Vec<ExpertBank>,
    unused: Vec<String>,
    /// Tensors of scales of whole matrices, which the matrices hold.
    held: Vec<String>,
    /// Whether the weights of norms are stored less 1.
    centred_norms: bool,
}

impl TensorStore {
    /// Finds and checks every tensor that `spec` needs.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] for a missing tensor or a wrong shape, [`LoadError::Unsupported`] for a
    /// needed tensor of a type that cannot be computed with.
    pub fn resolve(spec: &ModelSpec, catalog: Catalog, names: impl Into<Names>) -> Result<Self> {
        Self::resolve_with(spec, catalog, names.into(), None)
    }

    /// As [`Self::resolve`], for a packed file: experts of the layers in `packed` are records.
    ///
    /// # Errors
    /// As [`Self::resolve`], and [`LoadError::Malformed`] for records that are not what `spec` and `packed`
    /// say.
    pub fn resolve_packed(
        spec: &ModelSpec,
        catalog: Catalog,
        names: Names,
        packed: &PackedIndex,
    ) -> Result<Self> {
        Self::resolve_with(spec, catalog, names, Some(packed))
    }

    fn resolve_with(
        spec: &ModelSpec,
        catalog: Catalog,
        names: Names,
        packed: Option<&PackedIndex>,
    ) -> Result<Self> {
        let needed = needed(spec);
        let size = |&(role, rows, cols): &(Role, usize, usize)| (role, if rows == 1 { cols } else { rows });
        let sizes = needed.iter().map(size).collect();
        let mut resolver = Resolver::new(&catalog, names, sizes);
        let mut dense = BTreeMap::new();
        for (role, rows, cols) in needed {
            dense.insert(role, resolver.matrix(role, rows, cols)?);
        }
        let mut integers = BTreeMap::new();
        for (role, rows, cols) in whole_numbers(spec) {
            integers.insert(role, resolver.integers(role, rows, cols)?);
        }
        let mut large = BTreeMap::new();
        for (role, length) in large_numbers(spec) {
            large.insert(role, resolver.large_numbers(role, length)?);
        }
        let mut tables = BTreeMap::new();
        for (role, parts, cols) in needed_tables(spec) {
            tables.insert(role, resolver.table(role, parts, cols)?);
        }
        let mut banks = Vec::new();
        for (key, bank) in spec.banks() {
            // Records hold the first bank of its kind in a layer.
            let mut others = banks.iter();
            let first =
                !others.any(|other: &ExpertBank| (other.key.layer, other.kind) == (key.layer, bank.kind));
            let in_records = packed.filter(|_| first).and_then(|packed| packed.bank(key.layer, bank.kind));
            banks.push(match in_records {
                None => resolver.bank(key, &bank)?,
                Some(packed) => resolver.records(key, packed, &bank)?,
            });
        }
        let has = |packed: &&PackedLayer| {
            banks.iter().any(|bank| (bank.key.layer, bank.kind) == (packed.layer, packed.kind))
        };
        if let Some(none) = packed.into_iter().flat_map(PackedIndex::layers).find(|packed| !has(packed)) {
            return Err(resolver.not_a_layer_with_experts(none.layer));
        }
        for role in [Role::RopeDivisors, Role::RopeShort, Role::RopeLong] {
            resolver.mark_configuration(role);
        }
        let Resolver { used, arranged, wholes, .. } = resolver;
        let held = wholes.into_iter().map(str::to_owned).collect();
        let unused = catalog
            .tensors()
            .iter()
            .filter(|t| {
                !used.contains(t.name.as_str()) && !IGNORED_SUFFIXES.iter().any(|s| t.name.ends_with(s))
            })
            .map(|t| t.name.clone())
            .collect();
        let mut files = catalog.files().to_vec();
        if !arranged.is_empty() {
            let path = files.first().map_or_else(Default::default, |file| file.path().to_owned());
            files.push(FileBytes::made(&path, Arc::new(arranged), catalog.files().to_vec()));
        }
        Ok(Self { catalog, files, dense, integers, large, tables, banks, unused, held, centred_norms: false })
    }

    /// The same tensors, of a folder whose norms are stored less 1.
    pub(crate) fn with_centred_norms(self) -> Self {
        Self { centred_norms: true, ..self }
    }

    /// Whether the values of a role are what is stored plus 1.
    pub(crate) fn is_centred(&self, role: Role) -> bool {
        self.centred_norms && role.is_norm()
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

    /// All expert banks, in the order of [`ModelSpec::banks`].
    pub fn banks(&self) -> &[ExpertBank] {
        &self.banks
    }

    /// The bank of a number in [`Self::banks`].
    ///
    /// # Panics
    /// If the model has fewer banks.
    pub fn bank(&self, bank: usize) -> &ExpertBank {
        self.banks.get(bank).expect("a bank's number comes from the spec of this model")
    }

    /// The first bank of feed-forward blocks of a layer; `None` for layers without one.
    pub fn bank_of_layer(&self, layer: usize) -> Option<&ExpertBank> {
        self.bank_of(layer, BankKind::FeedForward)
    }

    /// The first bank of a kind in a layer, which packed files have as records; `None` if there is none.
    pub fn bank_of(&self, layer: usize, kind: BankKind) -> Option<&ExpertBank> {
        self.banks.iter().find(|bank| (bank.key.layer, bank.kind) == (layer, kind))
    }

    /// The bank at a place of the model; `None` if there is none.
    pub fn bank_at(&self, key: BankKey) -> Option<&ExpertBank> {
        self.banks.iter().find(|bank| bank.key == key)
    }

    /// The file, or generated memory, of an index in a reference.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn file(&self, index: usize) -> &FileBytes {
        self.files.get(index).expect("a reference of this store names one of its files")
    }

    /// Prepares the files for use in place, for the lifetime of the store.
    pub fn use_in_place(&self) {
        self.files.iter().for_each(FileBytes::prefer_huge_pages);
    }

    /// Paths of the model's files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.catalog.files().iter().map(FileBytes::path)
    }

    /// All bytes of a record, in place.
    pub fn record_bytes(&self, record: &RecordRef) -> &[u8] {
        let bytes = self.file(record.file).range(record.offset, record.bytes);
        bytes.expect("records were checked when they were found")
    }

    /// Whether experts are in files, from which they can be streamed.
    pub fn in_files(&self) -> bool {
        let mut matrices = self.banks.iter().flat_map(|bank| &bank.matrices);
        matrices.all(|matrix| self.file(matrix.file).is_file())
    }

    /// Bytes of weights that the process owns by now: generated or copied ones.
    pub fn owned_bytes(&self) -> u64 {
        self.files.iter().filter(|file| file.is_owned()).map(FileBytes::size).sum()
    }

    /// Bytes of dense weights that are arranged when they are read, and have to be copied to memory.
    pub fn arranged_dense_bytes(&self) -> u64 {
        self.dense.values().filter(|matrix| self.is_arranged(matrix)).map(|matrix| matrix.bytes).sum()
    }

    /// Whether experts are arranged when they are read, so that they cannot be used in their files.
    pub fn arranges_experts(&self) -> bool {
        self.banks.iter().flat_map(|bank| &bank.matrices).any(|matrix| self.is_arranged(matrix))
    }

    /// Whether a matrix is arranged when it is read.
    pub fn is_arranged(&self, matrix: &MatrixRef) -> bool {
        self.file(matrix.file).is_made()
    }

    /// The files that references of banks name, and perhaps more: those of the model, and that of arranged
    /// matrices.
    pub fn readable_files(&self) -> impl Iterator<Item = &FileBytes> {
        self.files.iter().take_while(|file| file.is_file())
    }

    /// The bytes of some rows of a matrix, in place or arranged.
    ///
    /// # Errors
    /// [`LoadError::Io`] when what they are made from cannot be read.
    pub fn rows(&self, matrix: &MatrixRef, rows: Range<usize>) -> Result<Cow<'_, [u8]>> {
        let (offset, bytes) = matrix.place_of(rows);
        let file = self.file(matrix.file);
        file.read_rows(offset, bytes).map_err(|error| LoadError::io(file.path(), "read weights of", error))
    }

    /// The weights of a matrix, in place.
    ///
    /// # Panics
    /// If they are arranged and have not been copied to memory.
    pub fn view(&self, matrix: &MatrixRef) -> QMatrix<'_> {
        let bytes = self.file(matrix.file).range(matrix.offset, matrix.bytes);
        let bytes = bytes.expect("references were checked when they were made");
        QMatrix::new(matrix.format, matrix.rows, matrix.cols, bytes)
            .expect("references carry consistent sizes")
    }

    /// A role's values in f32, e.g. a norm weight.
    ///
    /// # Errors
    /// [`Fault::NotFinite`] for NaN and infinity, with which every logit is NaN.
    pub fn vector(&self, role: Role) -> Result<Vec<f32>> {
        let matrix = self.get(role);
        let mut out = vec![0.0; matrix.rows * matrix.cols];
        moelten_quant::decode(matrix.format, &self.rows(&matrix, 0..matrix.rows)?, &mut out);
        self.refuse_not_finite(role, &matrix, &out, 0)?;
        if self.is_centred(role) {
            out.iter_mut().for_each(|weight| *weight += 1.0);
        }
        Ok(out)
    }

    /// The tensors of whole numbers of 32 bits, by role.
    pub fn integers(&self) -> impl Iterator<Item = (Role, &TensorInfo)> + '_ {
        self.integers.iter().map(|(&role, tensor)| (role, tensor))
    }

    /// Tensors of tables whose rows are read one by one.
    pub(crate) fn table_tensors(&self) -> impl Iterator<Item = &TensorInfo> + '_ {
        self.tables.values().flatten().map(|(_, tensor)| tensor)
    }

    /// The roles of such tables.
    pub(crate) fn table_roles(&self) -> impl Iterator<Item = Role> + '_ {
        self.tables.keys().copied()
    }

    /// The roles of whole numbers of 64 bits.
    pub(crate) fn large_roles(&self) -> impl Iterator<Item = Role> + '_ {
        self.large.keys().copied()
    }

    /// The parts of a table, one below the other.
    ///
    /// # Panics
    /// If the spec does not need this role.
    pub fn table(&self, role: Role) -> impl Iterator<Item = MatrixRef> + '_ {
        let parts = self.tables.get(&role).unwrap_or_else(|| panic!("the spec of this model has no {role}"));
        parts.iter().map(|(matrix, _)| *matrix)
    }

    /// The values of a role that holds whole numbers of 64 bits.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] for numbers below 0.
    ///
    /// # Panics
    /// If the spec does not need this role.
    pub fn large_numbers(&self, role: Role) -> Result<Vec<u64>> {
        let tensor = self.large.get(&role).unwrap_or_else(|| panic!("the spec of this model has no {role}"));
        let file = self.file(tensor.file);
        let bytes = file.read_rows(tensor.offset, tensor.bytes);
        let bytes = bytes.map_err(|error| LoadError::io(file.path(), "read numbers of", error))?;
        let (values, _) = bytes.as_chunks();
        let value = |&value: &[u8; 8]| {
            let value = i64::from_le_bytes(value);
            u64::try_from(value).map_err(|_| {
                let fault =
                    Fault::OutOfRange { found: value.to_string(), low: 0, high: i64::MAX.unsigned_abs() };
                LoadError::malformed(file.path(), format!("tensor {}", tensor.name), fault)
            })
        };
        values.iter().map(value).collect()
    }

    /// The values of a role that holds rows of whole numbers, each of them below `end` and once in its row.
    ///
    /// # Errors
    /// [`Fault::OutOfRange`] or [`Fault::Contradiction`] for other values.
    ///
    /// # Panics
    /// If the spec does not need this role.
    pub fn whole_numbers(&self, role: Role, end: u16) -> Result<Vec<u16>> {
        let tensor =
            self.integers.get(&role).unwrap_or_else(|| panic!("the spec of this model has no {role}"));
        let file = self.file(tensor.file);
        let bytes = file.read_rows(tensor.offset, tensor.bytes);
        let bytes = bytes.map_err(|error| LoadError::io(file.path(), "read numbers of", error))?;
        let checked = |value: i64| match u16::try_from(value) {
            Ok(value) if value < end => Ok(value),
            _ => {
                let fault = Fault::OutOfRange { found: value.to_string(), low: 0, high: u64::from(end) - 1 };
                Err(LoadError::malformed(file.path(), format!("tensor {}", tensor.name), fault))
            }
        };
        let values: Vec<u16> = if tensor.storage.name() == "I64" {
            let (values, _) = bytes.as_chunks();
            values.iter().map(|&value| checked(i64::from_le_bytes(value))).collect::<Result<_>>()?
        } else {
            let (values, _) = bytes.as_chunks();
            values.iter().map(|&value| checked(i32::from_le_bytes(value).into())).collect::<Result<_>>()?
        };
        let width = tensor.shape.last().and_then(|&width| usize::try_from(width).ok()).unwrap_or(1);
        for (number, row) in values.chunks(width.max(1)).enumerate() {
            let twice = row.iter().enumerate().find(|(at, value)| row.iter().take(*at).any(|v| v == *value));
            if let Some((_, value)) = twice {
                let (found, other) = (value.to_string(), format!("the same number in row {number}"));
                let fault = Fault::Contradiction { found, other };
                return Err(LoadError::malformed(file.path(), format!("tensor {}", tensor.name), fault));
            }
        }
        Ok(values)
    }

    /// Checks all values of a matrix, row by row.
    ///
    /// # Errors
    /// As [`Self::vector`].
    pub fn check_finite(&self, role: Role) -> Result<()> {
        let matrix = self.get(role);
        let mut row = vec![0.0; matrix.cols];
        for index in 0..matrix.rows {
            moelten_quant::decode(matrix.format, &self.rows(&matrix, index..index + 1)?, &mut row);
            self.refuse_not_finite(role, &matrix, &row, index * matrix.cols)?;
        }
        Ok(())
    }

    /// `values` begin at index `first` of the matrix of `role`.
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

    /// Whether a tensor is a scale that a matrix holds.
    pub(crate) fn holds_scale(&self, name: &str) -> bool {
        self.held.iter().any(|held| held == name)
    }

    /// Names of tensors in the files that the spec does not need.
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

    /// Bytes of the numbers of every layer by token, if they are in a file, of which rows are read when they
    /// are needed.
    pub fn rows_in_file_bytes(&self) -> u64 {
        let table = self.dense.get(&Role::LayerInputTable);
        table.filter(|matrix| self.file(matrix.file).is_file()).map_or(0, |matrix| matrix.bytes)
    }

    /// Bytes of all routed experts.
    pub fn expert_bytes(&self) -> u64 {
        self.banks.iter().flat_map(|bank| &bank.matrices).map(|matrix| matrix.bytes).sum()
    }
}
