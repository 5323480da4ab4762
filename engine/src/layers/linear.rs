//! Matrix products over the worker threads, and what a layer needs to call them.
//!
//! Products take activations in blocks of 32 columns and give outputs in groups of 32 rows, `[rows / 32,
//! tokens, 32]`: "grouped" outputs, of which each task writes one contiguous part. [`Compute::ungroup`]
//! reorders them to rows of tokens. It must not know which layer is computed.

use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{
    ActivationKind, Activations, BLOCK, Columns, Format, GROUP_ROWS, Kernels, Line, QMatrix, Record,
};

use crate::runtime::pool::Pool;

/// Tokens of one task that ungroups outputs.
const TOKENS: usize = 16;
/// Tokens that a task packs at a time.
const PACKED: usize = 8;
/// With fewer numbers than these, packing takes one task: a second thread would not pay.
const SMALL: usize = 1 << 14;
/// Fewest bytes of a range of rows that is multiplied with a single token, as far as there are as many: with
/// fewer, the streams that the lanes of a kernel read are too short.
const LEAST_BYTES: usize = 64 << 10;
/// Most matrices that are multiplied in one parallel region.
const MOST_PRODUCTS: usize = 3;

/// What every layer computes with: the kernels of one instruction set, the threads, the weights.
#[derive(Clone, Copy)]
pub struct Compute<'a> {
    /// The kernels of the chosen instruction set.
    pub kernels: &'static Kernels,
    /// The worker threads. The caller runs on one of them.
    pub pool: &'a Pool,
    /// The weights that matrix references point to.
    pub tensors: &'a TensorStore,
}

/// Fewest groups of rows of `row_bytes` bytes that one thread multiplies with a single token at a time.
pub fn least_groups(row_bytes: usize) -> usize {
    LEAST_BYTES.div_ceil(GROUP_ROWS * row_bytes.max(1))
}

/// A dense projection: a matrix and an optional bias `[rows]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[rows, cols]`.
    pub weight: MatrixRef,
    /// `[rows]`, added to the product.
    pub bias: Option<Vec<f32>>,
}

/// Activations `[tokens, cols]`, packed once for all products that take them.
pub struct Packed {
    floats: Vec<Line>,
    codes: Vec<Line>,
    /// Whether the present activations are packed as floats, and as codes.
    packed: [bool; 2],
    tokens: usize,
    cols: usize,
}

impl Packed {
    /// Room for activations of any of these shapes `(tokens, cols)`, in both kinds.
    pub fn with_capacity<const N: usize>(shapes: [(usize, usize); N]) -> Self {
        let lines = |kind: ActivationKind| vec![Line::ZERO; most_lines(kind, shapes)];
        let (floats, codes) = (lines(ActivationKind::F32), lines(ActivationKind::Q8));
        Self { floats, codes, packed: [false; 2], tokens: 0, cols: 0 }
    }

    /// Lines that [`Self::with_capacity`] allocates.
    pub fn lines_for<const N: usize>(shapes: [(usize, usize); N]) -> usize {
        most_lines(ActivationKind::F32, shapes) + most_lines(ActivationKind::Q8, shapes)
    }

    /// Lines that were allocated.
    pub fn lines(&self) -> usize {
        self.floats.len() + self.codes.len()
    }

    /// The activations of a kind. It must have been packed.
    pub fn view(&self, kind: ActivationKind) -> Activations<'_> {
        let lines = match kind {
            ActivationKind::F32 => &self.floats,
            ActivationKind::Q8 => &self.codes,
        };
        Activations::new(kind, self.tokens, self.cols, &lines[..kind.lines(self.tokens, self.cols)])
    }

    /// The activations of the kind that products with `w` take. It must have been packed.
    pub fn for_matrix(&self, w: &QMatrix<'_>) -> Activations<'_> {
        self.view(ActivationKind::of(w.format()))
    }
}

fn most_lines<const N: usize>(kind: ActivationKind, shapes: [(usize, usize); N]) -> usize {
    shapes.into_iter().map(|(tokens, cols)| kind.lines(tokens, cols)).max().unwrap_or(0)
}

impl Compute<'_> {
    /// Packs `x`, `[tokens, cols]`, for products with weights of these formats.
    pub fn pack(&self, x: &[f32], cols: usize, formats: impl IntoIterator<Item = Format>, into: &mut Packed) {
        (into.tokens, into.cols, into.packed) = (x.len() / cols, cols, [false; 2]);
        self.pack_also(x, formats, into);
    }

    /// Packs the same `x` for further formats. A kind that is packed already is not packed again.
    pub fn pack_also(&self, x: &[f32], formats: impl IntoIterator<Item = Format>, into: &mut Packed) {
        for format in formats {
            let kind = ActivationKind::of(format);
            let (packed, lines) = match kind {
                ActivationKind::F32 => (&mut into.packed[0], &mut into.floats),
                ActivationKind::Q8 => (&mut into.packed[1], &mut into.codes),
            };
            if !std::mem::replace(packed, true) {
                self.pack_as(kind, x, into.cols, lines);
            }
        }
    }

    fn pack_as(&self, kind: ActivationKind, x: &[f32], cols: usize, lines: &mut [Line]) {
        let tokens = x.len() / cols;
        let (record, blocks) = (kind.record_lines(tokens), cols.div_ceil(BLOCK));
        let step = if x.len() < SMALL { blocks } else { blocks.div_ceil(4 * self.pool.threads()) };
        self.pool.chunks(&mut lines[..blocks * record], record, step, |blocks, lines| {
            // A few tokens at a time, so that a task goes along a few rows. A block of all tokens is a
            // piece of every row, each in another page.
            for (first, x) in (0..).step_by(PACKED).zip(x.chunks(PACKED * cols)) {
                for (block, lines) in blocks.clone().zip(lines.chunks_exact_mut(record)) {
                    self.kernels.fill(Columns::of(x, cols, block), first, Record { kind, tokens, lines });
                }
            }
        });
    }

    /// Multiplies up to three matrices with the same tokens in one parallel region. `out` gets their grouped
    /// outputs, one after the other.
    ///
    /// # Panics
    /// If there are more than three.
    pub fn products(&self, products: &[(QMatrix<'_>, Activations<'_>)], out: &mut [f32]) {
        assert!(products.len() <= MOST_PRODUCTS, "{} products in one region", products.len());
        let Some((_, x)) = products.first() else { return };
        let tokens = x.tokens();
        if tokens == 1 {
            return self.products_of_one(products, out);
        }
        let rows: usize = products.iter().map(|(w, _)| w.rows()).sum();
        // Tasks are small enough for threads to finish together. They are whole groups of rows.
        let step = rows.div_ceil(self.pool.threads() * 16).next_multiple_of(GROUP_ROWS);
        // The matrix of a task, the rows of all matrices before it, and the first row of the task.
        let find = |mut task: usize| {
            let mut before = 0;
            for (w, x) in products {
                let tasks = w.rows().div_ceil(step);
                if task < tasks {
                    return (w, x, before, task * step);
                }
                task -= tasks;
                before += w.rows();
            }
            unreachable!("tasks were counted over the same matrices")
        };
        let tasks = products.iter().map(|(w, _)| w.rows().div_ceil(step)).sum();
        let start = |task| {
            let (_, _, before, row) = find(task);
            (before + row) * tokens
        };
        self.pool.parts(out, tasks, start, |task, out| {
            let (w, x, _, row) = find(task);
            self.kernels.matmul(w.slice_rows(row..w.rows().min(row + step)), *x, out);
        });
    }

    /// [`Self::products`] of a single token, in ranges of groups of rows.
    fn products_of_one(&self, products: &[(QMatrix<'_>, Activations<'_>)], out: &mut [f32]) {
        // The first group of each matrix, and the rows of all matrices before it; beyond the last, of all.
        let mut firsts = [(0, 0); MOST_PRODUCTS + 1];
        for i in 0..MOST_PRODUCTS {
            let rows = products.get(i).map_or(0, |(w, _)| w.rows());
            firsts[i + 1] = (firsts[i].0 + rows.div_ceil(GROUP_ROWS), firsts[i].1 + rows);
        }
        let (groups, rows) = firsts[MOST_PRODUCTS];
        let start = |group: usize| {
            let i = firsts.iter().rposition(|&(first, _)| first <= group).unwrap_or(0);
            (firsts[i].1 + (group - firsts[i].0) * GROUP_ROWS).min(rows)
        };
        let least = least_groups(products[0].0.row_bytes());
        self.pool.ranges(out, groups, least, start, |range, out| {
            let mut rest = out;
            for ((w, x), &(first, _)) in products.iter().zip(&firsts) {
                let own = |group: usize| (group.saturating_sub(first) * GROUP_ROWS).min(w.rows());
                let rows = own(range.start)..own(range.end);
                let (part, others) = rest.split_at_mut(rows.len());
                rest = others;
                if !rows.is_empty() {
                    self.kernels.matmul(w.slice_rows(rows), *x, part);
                }
            }
        });
    }

    /// `out[t, r] = x[t] . w[r] + bias[r]`; `out` is `[tokens, rows]`. `tmp` is as long, but may be empty for
    /// one token.
    pub fn linear(&self, linear: &Linear, x: &Packed, out: &mut [f32], tmp: &mut [f32]) {
        let w = self.tensors.view(&linear.weight);
        if x.tokens == 1 {
            // The grouped outputs of a single token are in order already.
            self.products(&[(w, x.for_matrix(&w))], out);
            return linear.bias.iter().for_each(|bias| self.kernels.axpy(1.0, bias, out));
        }
        let tmp = &mut tmp[..out.len()];
        self.products(&[(w, x.for_matrix(&w))], tmp);
        self.ungroup(tmp, w.rows(), linear.bias.as_deref(), out);
    }

    /// Reorders the grouped outputs of `rows` rows to `[tokens, rows]` and adds the bias.
    pub fn ungroup(&self, grouped: &[f32], rows: usize, bias: Option<&[f32]>, out: &mut [f32]) {
        let tokens = out.len() / rows;
        self.pool.chunks(out, rows, TOKENS, |range, out| {
            for (group, from) in grouped.chunks(GROUP_ROWS * tokens).enumerate() {
                let width = GROUP_ROWS.min(rows - group * GROUP_ROWS);
                for (t, out) in range.clone().zip(out.chunks_exact_mut(rows)) {
                    out[group * GROUP_ROWS..][..width].copy_from_slice(&from[t * width..][..width]);
                }
            }
            if let Some(bias) = bias {
                out.chunks_exact_mut(rows).for_each(|out| self.kernels.axpy(1.0, bias, out));
            }
        });
    }

    /// `x += factor * y`; both are `[tokens, width]`.
    pub fn add(&self, factor: f32, y: &[f32], x: &mut [f32], width: usize) {
        let kernels = self.kernels;
        self.pool.rows(x, width, |rows, x| kernels.axpy(factor, &y[rows.start * width..rows.end * width], x));
    }
}
