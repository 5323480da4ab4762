//! An open importance file, queried by role. It must not know how the encoder uses it.
#![deny(clippy::as_conversions, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use twox_hash::XxHash3_64;

use super::entry::{MatrixSums, Provenance, floats};
use super::{gguf, legacy};
use crate::container::sniff;
use crate::convert::Importance;
use crate::error::{Fault, LoadError, Result};
use crate::io::FileBytes;
use crate::io::reader::{len_u64, printable};
use crate::spec::ModelSpec;
use crate::tensors::needed::needed;
use crate::tensors::roles::{LayerTensor, Role, gguf_roles};

/// An open importance file. All values were checked to be finite and not negative. They stay in the file and
/// are read when they are needed.
#[derive(Debug)]
pub struct ImportanceFile {
    file: FileBytes,
    /// One entry for a role, or one for each expert.
    entries: BTreeMap<Role, Vec<MatrixSums>>,
    provenance: Provenance,
    notices: Vec<String>,
}

/// Matrices of a model for which a file has no data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Matrices without values, and banks in which no expert has values.
    pub matrices: Vec<Role>,
    /// Experts that no token was routed to, in banks where others have values. They get the mean of those.
    pub experts: Vec<(Role, Vec<usize>)>,
}

impl ImportanceFile {
    /// Opens a file of either kind and checks all values.
    ///
    /// # Errors
    /// [`LoadError::Io`]; [`LoadError::NotAModel`] for files of other known kinds; [`LoadError::Malformed`]
    /// for numbers that are negative or not finite, sums above 0 with a count of 0, incomplete entries, files
    /// that end early, and files without values.
    pub fn open(path: &Path) -> Result<Self> {
        Self::read(FileBytes::open(path)?)
    }

    /// As [`Self::open`], for an open file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn read(file: FileBytes) -> Result<Self> {
        let head = file.head(sniff::HEAD)?;
        sniff::not_foreign(file.path(), &head)?;
        let mut this =
            Self { file, entries: BTreeMap::new(), provenance: Provenance::default(), notices: Vec::new() };
        let (entries, provenance) = match sniff::kind(&head) {
            sniff::FileKind::Gguf => gguf::read(&this.file, &mut this.notices)?,
            _ => legacy::read(&this.file)?,
        };
        this.provenance = provenance;
        let (mut unknown, mut places) = (Vec::new(), BTreeSet::new());
        for entry in entries {
            this.check_sums(&entry)?;
            let roles = gguf_roles(&entry.name);
            if roles.is_empty() {
                unknown.push(printable(&entry.name));
            }
            for (role, expert) in roles {
                let known = this.entries.entry(role).or_default();
                let mixed = known.first().is_some_and(|other| other.expert.is_none() != expert.is_none());
                if mixed || !places.insert((role, expert)) {
                    return Err(this.fault(&entry.name, Fault::Duplicate));
                }
                known.push(MatrixSums { expert, ..entry.clone() });
            }
        }
        if let Some(first) = unknown.first() {
            let number = unknown.len();
            this.notices.push(format!("{number} entries of unknown matrices, such as {first}; ignored"));
        }
        if !this.entries.values().flatten().any(|entry| entry.counts.iter().any(|&count| count > 0.0)) {
            let hint = ": no matrix has any; make the file again, with more text";
            return Err(LoadError::malformed(this.file.path(), "importance", Fault::Missing { hint }));
        }
        Ok(this)
    }

    /// The texts and the number of tokens that it was made from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// Harmless oddities of the files, to be shown to the user.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The mean square of a matrix's inputs, `[cols]`: the weight of an error in each column. `expert`
    /// selects a matrix of an expert bank. Without it, and for an expert that no token was routed to, it is
    /// the mean over all experts with values. `None` if the file does not have the matrix or all inputs were
    /// 0.
    ///
    /// # Errors
    /// [`LoadError::OtherModel`] if the file has another number of columns or fewer experts.
    pub fn importance(&self, role: Role, expert: Option<usize>, cols: usize) -> Result<Option<Vec<f32>>> {
        let Some(entries) = self.entries.get(&role) else { return Ok(None) };
        let (mut mean, mut inputs) = (vec![0.0_f64; cols], 0.0_f64);
        for entry in entries {
            let rows = self.rows(role, entry, cols)?;
            let first = entry.expert.unwrap_or(0);
            if let Some(expert) = expert.filter(|&expert| entry.expert.is_none() && expert >= rows) {
                let (found, expected) = (format!("{rows} experts"), format!("more than {expert}"));
                return Err(self.other_model(&entry.name, found, expected));
            }
            for row in 0..rows {
                let Some((sums, count)) = self.seen(entry, row, cols) else { continue };
                if expert == Some(first.saturating_add(row)) {
                    return self.weights(&entry.name, sums.map(|sum| sum / count).collect());
                }
                mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean += f64::from(sum));
                inputs += f64::from(count);
            }
        }
        if inputs == 0.0 {
            return Ok(None);
        }
        let name = entries.first().map_or("", |entry| &entry.name);
        self.weights(name, mean.into_iter().map(|sum| narrow(sum / inputs)).collect())
    }

    /// Compares the file with a model and lists what it has no data for.
    ///
    /// # Errors
    /// [`LoadError::OtherModel`] for matrices that the model does not have or that have other sizes.
    pub fn check(&self, spec: &ModelSpec) -> Result<Gaps> {
        let wanted = matrices(spec);
        for (role, entries) in &self.entries {
            // A tied head may have either name.
            let known = wanted.iter().any(|(of, ..)| of == role) || matches!(role, Role::Embed | Role::Head);
            if let (false, Some(entry)) = (known, entries.first()) {
                return Err(self.other_model(&entry.name, "sums".to_owned(), "no place".to_owned()));
            }
        }
        let mut gaps = Gaps::default();
        for (role, experts, cols) in wanted {
            let Some(entries) = self.entries.get(&role) else {
                gaps.matrices.push(role);
                continue;
            };
            let mut seen = vec![false; experts];
            for entry in entries {
                let rows = self.rows(role, entry, cols)?;
                let first = entry.expert.unwrap_or(0);
                let places = seen.get_mut(first..first.saturating_add(rows));
                let Some(places) = places.filter(|places| places.len() == experts || entry.expert.is_some())
                else {
                    let found = format!("{} experts", first.saturating_add(rows));
                    return Err(self.other_model(&entry.name, found, experts.to_string()));
                };
                for (row, seen) in places.iter_mut().enumerate() {
                    *seen = self.seen(entry, row, cols).is_some();
                }
            }
            let unseen: Vec<usize> =
                seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(expert, _)| expert).collect();
            if unseen.len() == experts {
                gaps.matrices.push(role);
            } else if !unseen.is_empty() {
                gaps.experts.push((role, unseen));
            }
        }
        Ok(gaps)
    }

    /// Rows of an entry that has `cols` columns. Only banks have several.
    fn rows(&self, role: Role, entry: &MatrixSums, cols: usize) -> Result<usize> {
        let rows = entry.len.checked_div(cols).unwrap_or(0);
        let whole = rows > 0 && rows.checked_mul(cols) == Some(entry.len);
        let of_experts = matches!(role, Role::Layer(_, tensor) if tensor.expert_part().is_some());
        let bank = entry.expert.is_none() && of_experts;
        if !whole || (rows > 1 && !bank) || entry.cols.is_some_and(|found| found != cols) {
            let found = match entry.cols {
                Some(found) if found != cols => format!("{found} columns"),
                _ => format!("{} sums", entry.len),
            };
            return Err(self.other_model(&entry.name, found, cols.to_string()));
        }
        Ok(rows)
    }

    /// Sums and count of a row; `None` if no token was routed to it.
    fn seen(
        &self,
        entry: &MatrixSums,
        row: usize,
        cols: usize,
    ) -> Option<(impl Iterator<Item = f32> + Clone, f32)> {
        let count = *entry.counts.get(row).or_else(|| entry.counts.first())?;
        let start = row.checked_mul(cols)?.checked_mul(size_of::<f32>())?;
        let bytes = cols.checked_mul(size_of::<f32>())?;
        let offset = entry.offset.checked_add(len_u64(start))?;
        let sums = floats(self.file.range(offset, len_u64(bytes))?);
        let first = sums.clone().next()?;
        let filler = entry.equal_is_unseen && entry.len > cols && sums.clone().all(|sum| sum == first);
        let seen = count > 0.0 && !filler && sums.clone().any(|sum| sum > 0.0);
        seen.then_some((sums, count))
    }

    /// Checks that all sums of an entry are finite and not negative, and 0 if the count is 0.
    fn check_sums(&self, entry: &MatrixSums) -> Result<()> {
        let bytes = len_u64(entry.len).saturating_mul(len_u64(size_of::<f32>()));
        let data =
            self.file.range(entry.offset, bytes).expect("ranges of entries were checked when they were made");
        let per_count = entry.len.div_ceil(entry.counts.len().max(1)).max(1);
        for (index, sum) in floats(data).enumerate() {
            let count = entry.counts.get(index / per_count).copied().unwrap_or(0.0);
            let must = match sum {
                sum if !sum.is_finite() || sum < 0.0 => "a sum of squares: a number from 0 up",
                sum if count <= 0.0 && sum > 0.0 => "0, because its count is 0",
                _ => continue,
            };
            let offset = entry.offset + len_u64(index) * len_u64(size_of::<f32>());
            let field = format!("sum {index} of {}", printable(&entry.name));
            let fault = Fault::BadNumber { found: sum.to_string(), must };
            let path = self.file.path().to_owned();
            return Err(LoadError::Malformed { path, field, offset: Some(offset), fault });
        }
        Ok(())
    }

    /// The means, or `None` if all are 0: small sums of many inputs can be too small for a number. The sums
    /// are in the file, where another process may have changed them since they were checked.
    fn weights(&self, name: &str, means: Vec<f32>) -> Result<Option<Vec<f32>>> {
        if let Some(bad) = means.iter().find(|mean| !(mean.is_finite() && **mean >= 0.0)) {
            let must = "a mean of squares: a number from 0 up (was the file changed meanwhile?)";
            return Err(self.fault(name, Fault::BadNumber { found: bad.to_string(), must }));
        }
        Ok(means.iter().any(|&mean| mean > 0.0).then_some(means))
    }

    fn fault(&self, name: &str, fault: Fault) -> LoadError {
        LoadError::malformed(self.file.path(), printable(name), fault)
    }

    fn other_model(&self, name: &str, found: String, expected: String) -> LoadError {
        let path = self.file.path().to_owned();
        LoadError::OtherModel { path, matrix: printable(name), found, expected }
    }
}

impl Importance for ImportanceFile {
    fn columns(&self, role: Role, expert: Option<usize>, cols: usize) -> Result<Option<Vec<f32>>> {
        self.importance(role, expert, cols)
    }

    fn fingerprint(&self) -> u64 {
        XxHash3_64::oneshot(self.file.range(0, self.file.size()).expect("it has all of its bytes"))
    }
}

/// The matrices of a model that have importance: role, experts (1 outside banks), columns.
fn matrices(spec: &ModelSpec) -> Vec<(Role, usize, usize)> {
    let is_matrix = |role: &Role| match role {
        Role::Embed => spec.head.tied,
        Role::Head => true,
        Role::Layer(_, tensor) => tensor.is_matrix(),
        _ => false,
    };
    let dense =
        needed(spec).into_iter().filter(|(role, ..)| is_matrix(role)).map(|(role, _, cols)| (role, 1, cols));
    let mut all: Vec<_> = dense.collect();
    for (key, bank) in spec.banks() {
        let role = |part| Role::Layer(key.layer, LayerTensor::of_bank(bank.kind, part));
        all.extend(bank.matrices.iter().map(|matrix| (role(matrix.part), bank.experts, matrix.cols)));
    }
    all
}

/// A mean of f32 numbers.
#[expect(
    clippy::as_conversions,
    reason = "there is no other conversion that rounds; a mean is within their range"
)]
fn narrow(mean: f64) -> f32 {
    mean as f32
}
