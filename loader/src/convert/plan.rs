//! The plan of a conversion: a loaded model laid out as one GGUF file that is not written yet, with names,
//! row order and metadata as readers of the format expect, weights in the formats that the caller chooses or
//! as they are, experts in banks or in records. It must not know how the file is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use moelten_quant::Format;

use super::checksums;
use super::metadata::{Entries, metadata, set};
use super::output::{
    ExpertFormats, FileLayout, Output, Types, Values, bank_outputs, dense_outputs, expert_types,
    packed_layer, records,
};
use super::pieces::{Importance, Maker};
use super::source::{bank, first_expert, first_path};
use super::types::Class;
use crate::container::gguf::write::{GgufPlan, TensorPlan};
use crate::container::gguf::{ALIGNMENT_KEY, Value};
use crate::container::packed::{self, PackedIndex};
use crate::error::{LoadError, Result};
use crate::io::output::PartialFile;
use crate::io::reader::len_u64;
use crate::load::{LoadedModel, Source};
use crate::spec::BankKey;
use crate::tensors::bank::MatrixRef;
use crate::tensors::roles::Role;

/// Types and sizes of a matrix before and after, or of one matrix of all experts of a layer.
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

/// A tensor of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlannedTensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its type.
    pub kind: &'static str,
    /// Its dimensions, the fastest first.
    pub shape: &'a [u64],
    /// Its size in bytes.
    pub bytes: u64,
}

/// A model laid out as a GGUF file that is not written yet.
pub struct Conversion<'a> {
    pub(super) model: &'a LoadedModel,
    pub(super) outputs: Vec<Output>,
    /// The banks of experts, and the formats of their matrices.
    experts: Vec<(BankKey, ExpertFormats)>,
    /// The shapes of its records, if it has any. Checksums are 0 until they are computed.
    pub(super) packed: Option<PackedIndex>,
    pub(super) metadata: Entries,
    pub(super) importance: Option<&'a dyn Importance>,
    /// Inputs beside the model's own.
    protected: Vec<PathBuf>,
    /// Whether the metadata has room for checksums of every tensor.
    pub(super) described: bool,
    /// Properties of the source that the output cannot express, one line each.
    pub notices: Vec<String>,
}

impl<'a> Conversion<'a> {
    /// Lays out `model` as a standard file. `choose` names the format of each matrix, as in
    /// [`Types::Chosen`].
    ///
    /// # Errors
    /// As [`Self::plan_as`].
    pub fn plan(model: &'a LoadedModel, choose: &dyn Fn(Role) -> Format) -> Result<Self> {
        Self::plan_as(model, FileLayout::Standard, Types::Chosen(choose))
    }

    /// Lays out `model`.
    ///
    /// # Errors
    /// [`crate::error::Fault::PartialBlock`] for rows that a format cannot hold; [`LoadError::Unsupported`]
    /// for what GGUF or the layout cannot express.
    pub fn plan_as(model: &'a LoadedModel, layout: FileLayout, types: Types<'_>) -> Result<Self> {
        let mut outputs = dense_outputs(model, types)?;
        let experts = expert_types(model, types)?;
        let encoded = matches!(types, Types::Chosen(_));
        let packed = match layout {
            FileLayout::Standard => {
                for (key, formats) in &experts {
                    outputs.extend(bank_outputs(model, bank(model, *key), formats, encoded)?);
                }
                None
            }
            FileLayout::Packed if experts.is_empty() => {
                return Err(LoadError::Unsupported {
                    path: first_path(model).to_owned(),
                    feature: "the packed layout of a model without experts".into(),
                    hint: "the standard layout is".into(),
                });
            }
            FileLayout::Packed => {
                let layout = |(key, formats): &(BankKey, ExpertFormats)| {
                    Ok((*key, packed_layer(model, *key, formats)?))
                };
                let mut banks = experts.iter().map(layout).collect::<Result<Vec<_>>>()?;
                banks.sort_by_key(|(_, packed)| (packed.layer, packed.kind));
                for (key, packed) in &banks {
                    outputs.extend(records(*key, packed, encoded));
                }
                Some(PackedIndex::new(banks.into_iter().map(|(_, packed)| packed).collect()))
            }
        };
        let (mut metadata, notices) = metadata(model)?;
        if encoded {
            set(&mut metadata, "general.quantization_version", Some(Value::U32(2)));
            // The source's type no longer applies; `describe` sets the new one.
            set(&mut metadata, "general.file_type", None);
            metadata.retain(|(key, _)| !key.starts_with("quantize.imatrix."));
        }
        if let Some(packed) = &packed {
            set(&mut metadata, ALIGNMENT_KEY, Some(Value::U32(packed::RECORD_ALIGN)));
            metadata.extend(packed.metadata());
        }
        // The output of a source with checksums gets its own: its tensors may be others.
        let described = checksums::are_in(&metadata);
        if described {
            checksums::make_room(&mut metadata, &outputs);
        }
        Ok(Self {
            model,
            outputs,
            experts,
            packed,
            metadata,
            importance: None,
            protected: Vec::new(),
            described,
            notices,
        })
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
            .flat_map(|output| match &output.values {
                Values::Matrix { role, format, .. } => vec![(*role, *format)],
                Values::Stack { parts, format } => parts.iter().map(|&(role, ..)| (role, *format)).collect(),
                _ => Vec::new(),
            })
            .collect();
        for (role, matrix) in tensors.dense() {
            change(role, &matrix, chosen.get(&role).copied(), 1);
        }
        for &(key, ref formats) in &self.experts {
            let bank = bank(self.model, key);
            for &(part, format) in formats {
                change(bank.role(part), first_expert(bank, part), Some(format), bank.experts());
            }
        }
        changes
    }

    /// The tensors of the output, in the order of the file.
    pub fn tensors(&self) -> impl Iterator<Item = PlannedTensor<'_>> {
        self.outputs.iter().map(|output| PlannedTensor {
            name: &output.plan.name,
            kind: output.plan.storage.name(),
            shape: &output.plan.shape,
            bytes: output.bytes,
        })
    }

    /// Weights errors in columns by `importance`, for formats whose encoder can use it.
    pub fn weigh(&mut self, importance: &'a dyn Importance) {
        self.importance = Some(importance);
    }

    /// Declares `path` an input, which the output must not replace.
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

    /// All inputs: weights, other files of the folder, and those given to [`Self::protect`].
    pub(super) fn inputs(&self) -> Vec<PathBuf> {
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

    /// The header and byte ranges of the file that will be `target`.
    ///
    /// # Errors
    /// As [`GgufPlan::new`].
    pub fn layout(&self, target: &Path) -> Result<GgufPlan> {
        let plans: Vec<TensorPlan> = self.outputs.iter().map(|output| output.plan.clone()).collect();
        GgufPlan::new(target, &self.metadata, &plans)
    }

    pub(super) fn maker(&self) -> Maker<'_> {
        Maker { tensors: &self.model.tensors, packed: self.packed.as_ref(), importance: self.importance }
    }
}
