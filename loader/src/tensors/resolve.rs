//! Finds tensors in files under any of their names and checks their shapes. It must not know which tensors a
//! model needs.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use moelten_quant::Format;

use crate::container::catalog::{Catalog, TensorInfo};
use crate::container::packed::{self, PackedLayer, PackedMatrix, shape_fault};
use crate::error::{Fault, LoadError, Result};
use crate::io::reader::printable;
use crate::spec::{BankKey, BankMatrix, BankSpec, Part};
use crate::tensors::arranged::{Arranged, EIGHTS};
use crate::tensors::bank::{ExpertBank, MatrixRef, RecordRef};
use crate::tensors::roles::{LayerTensor, Lie, NameRule, Names, Role, Rows};

/// What names of a language model begin with, and what they begin with inside a model for several kinds of
/// input.
const WRAPPED: [(&str, &str); 4] = [
    ("model.", "model.language_model."),
    ("model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    // Models without a head are saved without the word, and DeepSeek-V4 is released so.
    ("model.", ""),
];

/// What names of matrices end with, and what is behind it where two numbers are in a byte.
const WEIGHT: &str = "weight";
const PACKED: &str = "weight_packed";

/// Finds tensors by role and notes which it has found.
pub(super) struct Resolver<'a> {
    pub catalog: &'a Catalog,
    pub names: Names,
    /// Rows of every role outside expert banks; for a vector, its length.
    pub sizes: HashMap<Role, usize>,
    /// Names of tensors that were found.
    pub used: HashSet<&'a str>,
    /// Matrices that are arranged when they are read.
    pub arranged: Arranged,
    /// Where units begin that several matrices share, by file, offset and expert.
    pub units: HashMap<(usize, u64, usize), u64>,
    /// Names of scales of whole matrices, which may serve several experts.
    pub wholes: HashSet<&'a str>,
}

impl<'a> Resolver<'a> {
    /// The first name of `role` that the files have; of expert 0 if tensors are per expert.
    fn find(&mut self, role: Role) -> Option<(&'static NameRule, &'a TensorInfo)> {
        let found =
            self.names.of(role).find_map(|rule| Some((rule, self.get(&self.names.by(rule, role, 0))?)))?;
        self.used.insert(found.1.name.as_str());
        Some(found)
    }

    /// A tensor of the language model, which folders of models for several kinds of input may have wrapped.
    fn get(&self, name: &str) -> Option<&'a TensorInfo> {
        let found = |name: &str| {
            let wrapped = |(plain, wrapped): &(&str, &str)| {
                let rest = name.strip_prefix(plain)?;
                self.catalog.get(&format!("{wrapped}{rest}"))
            };
            self.catalog.get(name).or_else(|| WRAPPED.iter().find_map(wrapped))
        };
        // Two numbers in a byte have a name of their own in some folders.
        found(name).or_else(|| found(&format!("{}{PACKED}", name.strip_suffix(WEIGHT)?)))
    }

    pub fn mark_configuration(&mut self, role: Role) {
        let _ = self.find(role);
    }

    /// A tensor by the file's name for it.
    fn named(&mut self, name: &str) -> Result<&'a TensorInfo> {
        let tensor = self.get(name).ok_or_else(|| {
            let fault = Fault::Missing { hint: "; the file is not complete" };
            LoadError::malformed(self.first_path(), format!("tensor {name}"), fault)
        })?;
        self.used.insert(tensor.name.as_str());
        Ok(tensor)
    }

    /// A tensor of whole numbers, `[rows, cols]`.
    pub fn integers(&mut self, role: Role, rows: usize, cols: usize) -> Result<TensorInfo> {
        let (_, tensor) = self.require(role)?;
        self.check_shape(tensor, &shape(&[rows, cols]))?;
        if matches!(tensor.storage.name(), "I32" | "I64") {
            return Ok(tensor.clone());
        }
        let fault = Fault::WrongType { found: tensor.storage.name().to_owned(), expected: "I32 or I64" };
        Err(LoadError::malformed(self.catalog.path(tensor), format!("tensor {}", tensor.name), fault))
    }

    /// A table of rows of `cols` numbers that lies in `parts` tensors, one below the other.
    pub fn table(&mut self, role: Role, parts: usize, cols: usize) -> Result<Vec<(MatrixRef, TensorInfo)>> {
        let (rule, _) = self.require(role)?;
        let part = |part| {
            let tensor = self.named(&rule.name(role, part))?;
            let rows = tensor.shape.first().and_then(|&rows| usize::try_from(rows).ok()).unwrap_or(0);
            self.check_shape(tensor, &shape(&[rows.max(1), cols]))?;
            Ok((self.rows_of(tensor, 0, (rows, rows), cols, 0)?, tensor.clone()))
        };
        (0..parts).map(part).collect()
    }

    /// A vector of whole numbers of 64 bits.
    pub fn large_numbers(&mut self, role: Role, length: usize) -> Result<TensorInfo> {
        let (_, tensor) = self.require(role)?;
        self.check_shape(tensor, &shape(&[length]))?;
        if tensor.storage.name() == "I64" {
            return Ok(tensor.clone());
        }
        let fault = Fault::WrongType { found: tensor.storage.name().to_owned(), expected: "I64" };
        Err(LoadError::malformed(self.catalog.path(tensor), format!("tensor {}", tensor.name), fault))
    }

    /// As [`Self::find`]; the error for a missing tensor shows the name that fits its neighbours in the file.
    fn require(&mut self, role: Role) -> Result<(&'static NameRule, &'a TensorInfo)> {
        if let Some(found) = self.find(role) {
            return Ok(found);
        }
        let mut rules = self.names.of(role);
        let first = rules.next().expect("every role has a spelling");
        let fits = |rule: &&NameRule| self.has_neighbours(&self.names.by(rule, role, 0));
        let rule = std::iter::once(first).chain(rules).find(fits).unwrap_or(first);
        Ok((rule, self.named(&self.names.by(rule, role, 0))?))
    }

    /// Whether the files have other tensors of the module that a name belongs to.
    fn has_neighbours(&self, name: &str) -> bool {
        let stem = name.strip_suffix(".weight").or_else(|| name.strip_suffix(".bias")).unwrap_or(name);
        let module = stem.rfind('.').map_or("", |dot| &stem[..=dot]);
        self.catalog.tensors().iter().any(|tensor| tensor.name.starts_with(module))
    }

    /// A matrix outside the expert banks; a vector is one row.
    pub fn matrix(&mut self, role: Role, rows: usize, cols: usize) -> Result<MatrixRef> {
        let (rule, tensor) = self.require(role)?;
        if rule.per_expert() {
            let of_expert = |expert| self.named(&self.names.by(rule, role, expert));
            let tensors = (0..rows).map(of_expert).collect::<Result<Vec<_>>>()?;
            return self.vectors_apart(&tensors, cols);
        }
        if let Rows::Stacked(all) = rule.rows {
            return self.stacked(tensor, role, all, rows, cols);
        }
        if matches!(rule.rows, Rows::Even | Rows::Odd) {
            self.check_shape(tensor, &shape(&[rows, cols.saturating_mul(2)]))?;
            return self.alternating_vectors(tensor, (rows, cols), rule.rows == Rows::Odd);
        }
        let whole = whole_rows(rule, rows);
        let vector = rows == 1 && tensor.shape.len() == 1;
        // Dimensions of 1 say nothing.
        let dims: Vec<u64> = tensor.shape.iter().copied().filter(|&size| size != 1).collect();
        let by_head = match dims[..] {
            [heads, of_head, inner] => shape(&[whole, cols]) == [heads.saturating_mul(of_head), inner],
            // Vectors may be stored by group.
            [groups, of_group] if rows == 1 => shape(&[cols]) == [groups.saturating_mul(of_group)],
            [length] if rows == 1 => shape(&[cols]) == [length],
            [] => shape(&[whole, cols]) == [1, 1],
            // Projections of patches are stored as convolutions.
            [outputs, a, b, c] => shape(&[whole, cols]) == [outputs, a.saturating_mul(b).saturating_mul(c)],
            [first, second] if tensor.shape.len() > 2 => shape(&[whole, cols]) == [first, second],
            _ => false,
        };
        // Matrices that lie head by head may have the heads as a dimension of their own.
        if !by_head {
            let expected = if vector { shape(&[cols]) } else { shape(&[whole, cols]) };
            self.check_shape(tensor, &expected)?;
        }
        self.rows_of(tensor, skipped(rule, rows), (whole, rows), cols, 0)
    }

    /// The part of a fused matrix, or of its fused bias, that belongs to a role.
    fn stacked(
        &mut self,
        tensor: &TensorInfo,
        role: Role,
        all: &[LayerTensor],
        rows: usize,
        cols: usize,
    ) -> Result<MatrixRef> {
        let Role::Layer(layer, own) = role else { unreachable!("only tensors of a layer are stacked") };
        let size = |tensor: &LayerTensor| self.sizes.get(&Role::Layer(layer, *tensor)).copied().unwrap_or(0);
        let whole = all.iter().map(size).fold(0, usize::saturating_add);
        let skip = all.iter().take_while(|&&tensor| tensor != own).map(size).fold(0, usize::saturating_add);
        if rows > 1 || own.is_matrix() {
            self.check_shape(tensor, &shape(&[whole, cols]))?;
            return self.rows_of(tensor, skip, (whole, rows), cols, 0);
        }
        self.check_shape(tensor, &shape(&[whole]))?;
        let part = self.rows_of(tensor, skip, (whole, cols), 1, 0)?;
        Ok(MatrixRef { rows, cols, ..part })
    }

    /// A bank with one tensor for each part, or with tensors for each expert.
    pub fn bank(&mut self, key: BankKey, bank: &BankSpec) -> Result<ExpertBank> {
        let mut by_part = Vec::with_capacity(bank.matrices.len());
        let columns = self.lies_as_columns(key.layer, bank);
        for &BankMatrix { part, rows, cols } in &bank.matrices {
            let role = Role::Layer(key.layer, LayerTensor::of_bank(bank.kind, part));
            by_part.push(self.bank_part(role, bank.experts, (rows, cols), columns)?);
        }
        let experts = 0..bank.experts;
        let matrices = experts.flat_map(|expert| by_part.iter().filter_map(move |part| part.get(expert)));
        let parts = bank.matrices.iter().map(|matrix| matrix.part).collect();
        let matrices = matrices.copied().collect();
        Ok(ExpertBank { key, kind: bank.kind, parts, matrices, records: Vec::new() })
    }

    /// Whether the first matrix that tells lies as columns, for banks that may lie in either way.
    fn lies_as_columns(&mut self, layer: usize, bank: &BankSpec) -> bool {
        let told = bank.matrices.iter().find_map(|&BankMatrix { part, rows, cols }| {
            let (rule, tensor) = self.find(Role::Layer(layer, LayerTensor::of_bank(bank.kind, part)))?;
            let whole = whole_rows(rule, rows);
            let tells = rule.lie == Lie::ByShape && whole != cols && tensor.shape.len() == 3;
            tells.then(|| tensor.shape.ends_with(&shape(&[cols, whole])))
        });
        told.unwrap_or(false)
    }

    /// One part of every expert.
    fn bank_part(
        &mut self,
        role: Role,
        experts: usize,
        (rows, cols): (usize, usize),
        columns: bool,
    ) -> Result<Vec<MatrixRef>> {
        let (rule, bank) = self.require(role)?;
        let columns = match rule.lie {
            Lie::AsRows => false,
            Lie::AsColumns => true,
            Lie::ByShape => columns,
        };
        let whole = whole_rows(rule, rows);
        let by_inputs = whole != cols / 2 && bank.shape.ends_with(&shape(&[cols / 2, whole]));
        let turned = columns || alternate(rule) || by_inputs;
        if turned && bank.shape.len() == 3 && self.is_sixteens(bank) {
            return Err(self.refuse_turned_sixteens(bank));
        }
        let fours = bank.shape.len() == 4 && self.is_fours(bank);
        if columns || fours || bank.shape.len() == 2 && !rule.per_expert() || alternate(rule) {
            return self.lying_part(bank, (rule.rows, columns), experts, (rows, cols));
        }
        if rule.per_expert() {
            return (0..experts)
                .map(|e| {
                    let tensor = self.named(&self.names.by(rule, role, e))?;
                    self.check_shape(tensor, &shape(&[whole, cols]))?;
                    self.rows_of(tensor, skipped(rule, rows), (whole, rows), cols, 0)
                })
                .collect();
        }
        self.check_shape(bank, &shape(&[experts, whole, cols]))?;
        (0..experts).map(|e| self.rows_of(bank, skipped(rule, rows), (whole, rows), cols, e)).collect()
    }

    /// A bank whose experts have records.
    pub fn records(&mut self, key: BankKey, packed: &PackedLayer, bank: &BankSpec) -> Result<ExpertBank> {
        let PackedLayer { layer, kind, shape: record, checksums } = packed;
        let matrices = record.parts().map(|(part, _)| part);
        if !matrices.eq(bank.matrices.iter().map(|matrix| matrix.part)) {
            let (found, other) =
                (record.names(), format!("the {} matrices of the model's experts", bank.matrices.len()));
            let field = format!("{} of layer {layer}", packed::PARTS_KEY);
            let fault = Fault::Contradiction { found, other };
            return Err(LoadError::malformed(self.first_path(), field, fault));
        }
        for (&BankMatrix { rows, cols, .. }, (_, found)) in bank.matrices.iter().zip(record.parts()) {
            if (found.rows, found.cols) != (rows, cols) {
                let (found, expected) = (shape(&[found.rows, found.cols]), shape(&[rows, cols]));
                return Err(shape_fault(self.first_path(), *layer, Fault::WrongShape { found, expected }));
            }
        }
        if checksums.len() != bank.experts {
            let found = format!("{} experts in layer {layer}", checksums.len());
            let fault = Fault::Contradiction { found, other: format!("the model's {}", bank.experts) };
            return Err(LoadError::malformed(self.first_path(), packed::EXPERTS_KEY, fault));
        }
        let parts: Vec<Part> = bank.matrices.iter().map(|matrix| matrix.part).collect();
        let (mut matrices, mut records) = (Vec::new(), Vec::with_capacity(bank.experts));
        for (expert, &checksum) in checksums.iter().enumerate() {
            let tensor = self.named(&packed::record_name(*kind, *layer, expert))?;
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
            matrices.extend(record.parts().map(|(_, matrix)| {
                let &PackedMatrix { format, rows, cols, offset: inside, bytes } = matrix;
                // No overflow: the record is inside the file, the matrix inside the record.
                MatrixRef { format, rows, cols, file, offset: offset + inside, bytes }
            }));
            records.push(RecordRef { file, offset, bytes, checksum });
        }
        Ok(ExpertBank { key, kind: bank.kind, parts, matrices, records })
    }

    pub fn not_a_layer_with_experts(&self, layer: usize) -> LoadError {
        let (found, other) = (format!("layer {layer}"), "a model without experts there".to_owned());
        LoadError::malformed(self.first_path(), packed::LAYERS_KEY, Fault::Contradiction { found, other })
    }

    /// The file with the metadata, for messages.
    fn first_path(&self) -> &'a Path {
        self.catalog.files().first().map_or(Path::new("?"), |file| file.path())
    }

    pub(super) fn check_shape(&self, tensor: &TensorInfo, expected: &[u64]) -> Result<()> {
        let pairs = || {
            let halved = tensor.shape.len() == expected.len()
                && tensor.shape.iter().zip(expected).rev().skip(1).all(|(a, b)| a == b)
                && tensor.shape.last().map(|last| last.saturating_mul(2)) == expected.last().copied();
            halved && (self.is_fours(tensor) || self.is_sixteens(tensor))
        };
        if tensor.shape == expected || pairs() {
            return Ok(());
        }
        let fault = Fault::WrongShape { found: tensor.shape.clone(), expected: expected.to_vec() };
        Err(LoadError::malformed(self.catalog.path(tensor), format!("tensor {}", tensor.name), fault))
    }

    /// A run of rows of (one expert of) a tensor whose shape has been checked: `rows` of the `whole` rows,
    /// after the first `skip`.
    fn rows_of(
        &mut self,
        tensor: &TensorInfo,
        skip: usize,
        (whole, rows): (usize, usize),
        cols: usize,
        expert: usize,
    ) -> Result<MatrixRef> {
        if tensor.storage.name() == EIGHTS {
            return self.scaled_rows(tensor, skip, (whole, rows), cols, expert);
        }
        if self.is_fours(tensor) {
            return self.four_bit_rows(tensor, skip, (whole, rows), cols, expert);
        }
        if self.is_sixteens(tensor) {
            return self.sixteen_rows(tensor, skip, (whole, rows), cols, expert);
        }
        let path = self.catalog.path(tensor);
        let format = tensor.known_format(path)?;
        match self.scale_beside(tensor).filter(|_| format.block_len() > 1) {
            Some(scale) if format == Format::Nvfp4 => {
                return self.scaled_blocks(tensor, scale, skip, (whole, rows), cols, expert);
            }
            Some(scale) => {
                return Err(LoadError::Unsupported {
                    path: path.to_owned(),
                    feature: format!("tensor {} beside {format} weights", printable(&scale.name)),
                    hint: "scales of whole tensors of NVFP4 are; or use a file in another type".into(),
                });
            }
            None => {}
        }
        let overflow = || LoadError::malformed(path, format!("tensor {}", tensor.name), Fault::Overflow);
        let row_bytes = format.row_bytes(cols).ok_or_else(|| {
            let columns = u64::try_from(cols).unwrap_or(u64::MAX);
            let fault = Fault::PartialBlock { columns, format: format.name(), block: format.block_len() };
            LoadError::malformed(path, format!("tensor {}", tensor.name), fault)
        })?;
        let first = whole.checked_mul(expert).and_then(|r| r.checked_add(skip)).ok_or_else(overflow)?;
        let start = first.checked_mul(row_bytes).and_then(|b| u64::try_from(b).ok()).ok_or_else(overflow)?;
        let bytes = rows.checked_mul(row_bytes).and_then(|b| u64::try_from(b).ok()).ok_or_else(overflow)?;
        let offset = tensor.offset.checked_add(start).ok_or_else(overflow)?;
        Ok(MatrixRef { format, rows, cols, file: tensor.file, offset, bytes })
    }
}

/// Rows of the whole tensor, for roles that are not stacked with others.
fn whole_rows(rule: &NameRule, rows: usize) -> usize {
    match rule.rows {
        Rows::FirstHalf | Rows::SecondHalf | Rows::Even | Rows::Odd => rows.saturating_mul(2),
        Rows::All | Rows::Stacked(_) => rows,
    }
}

/// Whether the rows of two matrices alternate.
fn alternate(rule: &NameRule) -> bool {
    matches!(rule.rows, Rows::Even | Rows::Odd)
}

/// Rows of the tensor before those of the role.
fn skipped(rule: &NameRule, rows: usize) -> usize {
    if rule.rows == Rows::SecondHalf { rows } else { 0 }
}

fn shape(dims: &[usize]) -> Vec<u64> {
    dims.iter().map(|&d| u64::try_from(d).unwrap_or(u64::MAX)).collect()
}
