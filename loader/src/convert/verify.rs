//! Verifies a file: checksums of its tensors, and the error of its weights against the source. It must not
//! know how results are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::ops::Range;

use moelten_quant::Format;
use rayon::prelude::*;
use twox_hash::XxHash3_64;

use super::ahead::{Window, batched, each_batch};
use super::checksums::{Recorded, recorded};
use super::order::{Order, is_logarithm, made_from, order_of};
use super::output::{FileLayout, Types};
use super::plan::Conversion;
use super::source::first_path;
use super::threads::Threads;
use super::types::{Class, matrices};
use crate::container::catalog::TensorInfo;
use crate::container::packed::record_of_name;
use crate::error::{LoadError, Result};
use crate::io::FileBytes;
use crate::io::reader::len_u64;
use crate::load::{LoadedModel, Source};
use crate::spec::BankKind;
use crate::tensors::bank::{MatrixRef, RecordRef};
use crate::tensors::roles::{Role, gguf_name};
use crate::tensors::store::TensorStore;

/// Weights of a piece, which one thread checks.
const WEIGHTS_AT_ONCE: usize = 1 << 18;
/// Bytes of files that are read together.
const BATCH_BYTES: u64 = 32 << 20;

/// Something wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A tensor whose bytes differ from those that were written.
    Checksum {
        /// As the file calls it.
        tensor: String,
    },
    /// A tensor that was written and is missing.
    Missing {
        /// As the checksums call it.
        tensor: String,
    },
    /// A weight that is NaN or infinite.
    NotFinite {
        /// The GGUF name of the matrix.
        tensor: String,
        /// The expert, if the matrix belongs to one.
        expert: Option<usize>,
        /// The row of the first such weight.
        row: usize,
    },
    /// A tensor that was made from another source.
    Source {
        /// As the file calls it.
        tensor: String,
    },
}

/// The error of weights against their source.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Distance {
    /// Sum of squares of the differences.
    errors: f64,
    /// Sum of squares of the weights of the source.
    squares: f64,
    /// The largest difference.
    pub largest: f32,
}

impl Distance {
    /// The root mean square of the differences, divided by that of the source's weights.
    pub fn relative(&self) -> f64 {
        if self.squares > 0.0 { (self.errors / self.squares).sqrt() } else { 0.0 }
    }

    fn and(self, other: Self) -> Self {
        Self {
            errors: self.errors + other.errors,
            squares: self.squares + other.squares,
            largest: self.largest.max(other.largest),
        }
    }
}

/// Matrices of one class and type.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Weights {
    /// How many weights.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Error against the source, if one was given.
    pub distance: Option<Distance>,
}

/// The result of a check.
#[derive(Debug, Default)]
pub struct Report {
    /// Tensors whose checksum was verified.
    pub checked: usize,
    /// Tensors without one.
    pub unchecked: usize,
    /// The faults, in file order.
    pub damage: Vec<Damage>,
    /// Statistics of all weights, by class and type.
    pub classes: BTreeMap<(Class, &'static str), Weights>,
    /// Tensors that were made from the given source, by their checksums.
    pub from_source: usize,
}

/// Checks a file, and compares it with its source if one is given, on `threads` threads. `progress` gets
/// bytes done and bytes in all, and ends the work by returning `false`; the result is then `None`.
///
/// # Errors
/// [`LoadError::Io`]; [`LoadError::Unsupported`] for a source whose matrices are others.
pub fn verify(
    model: &LoadedModel,
    source: Option<&LoadedModel>,
    threads: usize,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<Option<Report>> {
    let mut report = Report::default();
    let looks = looks(model, source)?;
    let threads = Threads::new(threads)?;
    let both = Both { model: &model.tensors, source: source.map(|source| &source.tensors) };
    let of_looks: u64 = looks
        .iter()
        .map(|look| look.matrix.bytes + look.source.as_ref().map_or(0, |source| source.matrix.bytes))
        .sum();
    let of_tensors: u64 = model.tensors.catalog().tensors().iter().map(|tensor| tensor.bytes).sum();
    let of_source = source.map_or(0, |source| source.tensors.dense_bytes() + source.tensors.expert_bytes());
    let total = of_tensors + of_looks + of_source;
    let mut done = 0;
    let mut step = |bytes: u64| {
        done += bytes;
        progress(done.min(total), total)
    };
    let complete = checksums(model, &mut report, &mut step)?
        && weights(&looks, both, &threads, &mut report, &mut step)?
        && match source {
            Some(source) => sources(model, source, &threads, &mut report, &mut step)?,
            None => true,
        };
    Ok(complete.then_some(report))
}

/// Verifies the checksums of tensors.
fn checksums(model: &LoadedModel, report: &mut Report, step: &mut dyn FnMut(u64) -> bool) -> Result<bool> {
    let catalog = model.tensors.catalog();
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for Recorded { name, values, .. } in checksums_of(model)? {
        if catalog.get(&name).is_none() {
            report.damage.push(Damage::Missing { tensor: name });
            continue;
        }
        expected.insert(name, values);
    }
    for tensor in catalog.tensors() {
        let record = record_of_name(&tensor.name)
            .and_then(|(layer, kind, expert)| record(&model.tensors, layer, kind, expert));
        let sum = record.map(|record| record.checksum).or_else(|| expected.get(&tensor.name).copied());
        let Some(sum) = sum else {
            report.unchecked += 1;
            if !step(tensor.bytes) {
                return Ok(false);
            }
            continue;
        };
        report.checked += 1;
        let mut hash = XxHash3_64::with_seed(0);
        let mut go_on = true;
        let file =
            catalog.files().get(tensor.file).expect("a tensor of this catalogue names one of its files");
        each_batch(
            windows(file, tensor),
            |window| Some(*window),
            |batch| {
                for &Window { file, offset, bytes } in batch {
                    let found = file.range(offset, bytes);
                    hash.write(found.expect("the container reader checked every range"));
                    go_on = step(bytes);
                }
                Ok(go_on)
            },
        )?;
        if !go_on {
            return Ok(false);
        }
        if hash.finish() != sum {
            report.damage.push(Damage::Checksum { tensor: tensor.name.clone() });
        }
    }
    Ok(true)
}

/// A tensor in batches.
fn windows<'f>(
    file: &'f FileBytes,
    tensor: &TensorInfo,
) -> impl Iterator<Item = Result<Vec<Window<'f>>>> + Send + use<'f> {
    let &TensorInfo { offset, bytes: all, .. } = tensor;
    (0..all.div_ceil(BATCH_BYTES)).map(move |batch| {
        let start = batch * BATCH_BYTES;
        Ok(vec![Window { file, offset: offset + start, bytes: BATCH_BYTES.min(all - start) }])
    })
}

fn checksums_of(model: &LoadedModel) -> Result<Vec<Recorded>> {
    match &model.source {
        Source::Gguf { metadata, .. } => recorded(metadata),
        Source::Hf { .. } => Ok(Vec::new()),
    }
}

/// The matrix of the source that one was made from.
struct Counterpart {
    matrix: MatrixRef,
    order: Order,
    /// Whether it has logarithms of rates that the file has as negative rates.
    logarithms: bool,
}

/// A matrix to check, and the one that it was made from.
struct Look {
    role: Role,
    expert: Option<usize>,
    matrix: MatrixRef,
    source: Option<Counterpart>,
}

/// All matrices of the model, with their counterparts.
fn looks(model: &LoadedModel, source: Option<&LoadedModel>) -> Result<Vec<Look>> {
    let mut looks = all(&model.tensors);
    let Some(source) = source else { return Ok(looks) };
    let other_shape = || LoadError::Unsupported {
        path: first_path(source).to_owned(),
        feature: "comparing with a model of another shape".into(),
        hint: "give the model that the file was made from".into(),
    };
    let all_of_source = all(&source.tensors);
    let mut left: BTreeSet<_> = all_of_source.iter().map(|look| (look.role, look.expert)).collect();
    let counterparts: BTreeMap<_, _> =
        all_of_source.iter().map(|look| ((look.role, look.expert), look.matrix)).collect();
    for look in &mut looks {
        // Rows were reordered if the file has the order of files and the source has not.
        let in_order = order_of(&model.spec, look.role).is_same();
        let order = if in_order { order_of(&source.spec, look.role) } else { Order::Same };
        let from = if in_order { made_from(&source.spec, look.role) } else { look.role };
        let matrix = *counterparts.get(&(from, look.expert)).ok_or_else(other_shape)?;
        if (order.count(matrix.rows), order.columns(matrix.cols)) != (look.matrix.rows, look.matrix.cols) {
            return Err(other_shape());
        }
        left.remove(&(from, look.expert));
        let [of_file, of_source] = [&model.spec, &source.spec].map(|spec| is_logarithm(spec, look.role));
        look.source = Some(Counterpart { matrix, order, logarithms: of_source && !of_file });
    }
    if !left.is_empty() {
        return Err(other_shape());
    }
    Ok(looks)
}

fn record(tensors: &TensorStore, layer: usize, kind: BankKind, expert: usize) -> Option<&RecordRef> {
    tensors.bank_of(layer, kind)?.record(expert)
}

/// Every matrix of a model.
fn all(tensors: &TensorStore) -> Vec<Look> {
    let dense = tensors.dense().map(|(role, matrix)| Look { role, expert: None, matrix, source: None });
    let experts = tensors.banks().iter().flat_map(|bank| {
        bank.iter().enumerate().flat_map(move |(expert, matrices)| {
            bank.parts().iter().zip(matrices).map(move |(&part, &matrix)| Look {
                role: bank.role(part),
                expert: Some(expert),
                matrix,
                source: None,
            })
        })
    });
    dense.chain(experts).collect()
}

/// Some rows of a matrix.
struct Piece<'l> {
    look: &'l Look,
    rows: Range<usize>,
}

/// The result for a piece.
struct Seen {
    /// The first row with a weight that is NaN or infinite.
    broken: Option<usize>,
    distance: Option<Distance>,
}

/// The two models.
#[derive(Clone, Copy)]
struct Both<'m> {
    model: &'m TensorStore,
    source: Option<&'m TensorStore>,
}

impl<'m> Both<'m> {
    /// What a piece reads.
    fn windows(self, Piece { look, rows }: &Piece<'_>) -> impl Iterator<Item = Window<'m>> + use<'m> {
        let window = |tensors: &'m TensorStore, matrix: &MatrixRef, rows: Range<usize>| {
            let (offset, bytes) = matrix.place_of(rows);
            Window { file: tensors.file(matrix.file), offset, bytes }
        };
        let of_source = look.source.as_ref().zip(self.source);
        [
            Some(window(self.model, &look.matrix, rows.clone())),
            of_source.map(|(source, tensors)| {
                window(tensors, &source.matrix, source.order.within(rows, source.matrix.rows))
            }),
        ]
        .into_iter()
        .flatten()
    }

    fn look(self, Piece { look, rows }: &Piece<'_>) -> Result<Seen> {
        let cols = look.matrix.cols;
        let values = decoded(self.model, &look.matrix, rows.clone())?;
        let mut of_rows = rows.clone().zip(values.chunks_exact(cols));
        let broken = of_rows.find(|(_, row)| !row.iter().all(|value| value.is_finite())).map(|(row, _)| row);
        let distance = look.source.as_ref().zip(self.source).map(|(source, tensors)| {
            let Counterpart { matrix, order, logarithms } = source;
            let mut from = match order {
                Order::Same => decoded(tensors, matrix, rows.clone())?,
                Order::Across(across) => across.values(rows, |rows| decoded(tensors, matrix, rows))?,
                order if matrix.rows == 1 => order.of_vector(&decoded(tensors, matrix, 0..1)?),
                order => {
                    let mut from = Vec::with_capacity(rows.len() * cols);
                    for row in rows.clone().map(|row| order.source(row)) {
                        let mut values = decoded(tensors, matrix, row..row + 1)?;
                        order.arrange(&mut values);
                        from.extend(values);
                    }
                    from
                }
            };
            if *logarithms {
                from.iter_mut().for_each(|log| *log = -log.exp());
            }
            // A folder may store the weights of norms less 1.
            let centre = if tensors.is_centred(look.role) { 1.0 } else { 0.0 };
            let from: Vec<f32> = from.into_iter().map(|value| value + centre).collect();
            Ok(values.iter().zip(&from).fold(Distance::default(), |sum, (a, b)| {
                let error = a - b;
                sum.and(Distance {
                    errors: f64::from(error).powi(2),
                    squares: f64::from(*b).powi(2),
                    largest: error.abs(),
                })
            }))
        });
        Ok(Seen { broken, distance: distance.transpose()? })
    }
}

/// The weights of some rows of a matrix, `[rows, cols]`.
fn decoded(tensors: &TensorStore, matrix: &MatrixRef, rows: Range<usize>) -> Result<Vec<f32>> {
    let mut values = vec![0.0; rows.len() * matrix.cols];
    moelten_quant::decode(matrix.format, &tensors.rows(matrix, rows)?, &mut values);
    Ok(values)
}

/// Checks every weight: whether it is finite, and its error against the source.
fn weights(
    looks: &[Look],
    both: Both<'_>,
    threads: &Threads,
    report: &mut Report,
    step: &mut dyn FnMut(u64) -> bool,
) -> Result<bool> {
    let pieces = looks.iter().flat_map(|look| {
        let (rows, cols) = (look.matrix.rows, look.matrix.cols);
        let step = (WEIGHTS_AT_ONCE / cols.max(1)).max(1).next_multiple_of(16);
        (0..rows).step_by(step).map(move |first| Ok(Piece { look, rows: first..rows.min(first + step) }))
    });
    let bytes = |piece: &Piece<'_>| both.windows(piece).map(|window| window.bytes).sum::<u64>();
    let mut broken_before = None;
    let mut go_on = true;
    each_batch(
        batched(pieces, BATCH_BYTES, bytes),
        |piece| both.windows(piece),
        |batch| {
            let look = |piece| both.look(piece);
            let seen: Vec<Seen> = threads.run(|| batch.par_iter().map(look).collect::<Result<_>>())??;
            // In order, so that the sums do not depend on threads.
            for (Piece { look, rows }, seen) in batch.iter().zip(seen) {
                let place = (look.role, look.expert);
                if let Some(row) = seen.broken.filter(|_| broken_before != Some(place)) {
                    broken_before = Some(place);
                    let (tensor, expert) = (gguf_name(look.role), look.expert);
                    report.damage.push(Damage::NotFinite { tensor, expert, row });
                }
                let class = Class::of(look.role, look.matrix.rows);
                let weights = report.classes.entry((class, look.matrix.format.name())).or_default();
                weights.count += len_u64(rows.len()) * len_u64(look.matrix.cols);
                weights.bytes += look.matrix.place_of(rows.clone()).1;
                if let Some(distance) = seen.distance {
                    weights.distance = Some(weights.distance.unwrap_or_default().and(distance));
                }
            }
            go_on = step(batch.iter().map(bytes).sum());
            Ok(go_on)
        },
    )?;
    Ok(go_on)
}

/// Compares the source checksums in the file with the given source.
fn sources(
    model: &LoadedModel,
    source: &LoadedModel,
    threads: &Threads,
    report: &mut Report,
    step: &mut dyn FnMut(u64) -> bool,
) -> Result<bool> {
    let expected: BTreeMap<String, u64> =
        checksums_of(model)?.into_iter().map(|recorded| (recorded.name, recorded.source)).collect();
    let packed = model.tensors.banks().iter().any(|bank| bank.record(0).is_some());
    let layout = if packed { FileLayout::Packed } else { FileLayout::Standard };
    let formats: BTreeMap<Role, Format> =
        matrices(model).into_iter().map(|(role, m)| (role, m.format)).collect();
    let choose = |role: Role| formats.get(&role).copied().unwrap_or(Format::F32);
    let conversion = Conversion::plan_as(source, layout, Types::Chosen(&choose))?;
    let mut go_on = true;
    conversion.each_source(threads, &mut |name, sum, bytes| {
        match expected.get(name) {
            Some(&expected) if expected == sum => report.from_source += 1,
            Some(_) => report.damage.push(Damage::Source { tensor: name.to_owned() }),
            None => {}
        }
        go_on = step(bytes);
        go_on
    })?;
    Ok(go_on)
}
