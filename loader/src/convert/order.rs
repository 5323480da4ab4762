//! Where the rows and columns of an output matrix are in its source: files order some of them in another way
//! than folders. It must not know how values are made.

use std::ops::Range;
use std::sync::Arc;

use crate::config::find::family_of;
use crate::error::Result;
use crate::families::DeltaKind;
use crate::spec::{DeltaLayout, DeltaOrder, DeltaSpec, LatentSpec, ModelSpec, Op, Pairing};
use crate::tensors::roles::{LayerTensor as T, Role};

/// The order of a matrix, or of the numbers of a vector.
#[derive(Debug, Clone)]
pub(super) enum Order {
    /// That of the source.
    Same,
    /// Rope pairs are neighbours.
    Pairs(RowPairs),
    /// Every row or column of the output by its number in the source.
    Listed(Arc<Listing>),
    /// Rows are columns of the first rows of each head.
    Across(Across),
}

/// The first `width` of the `of_head` rows of each head, transposed: `[rank, width]` from `[width, rank]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Across {
    of_head: usize,
    width: usize,
    rank: usize,
}

impl Across {
    /// The heads that rows of the output belong to.
    fn heads(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start / self.rank..rows.end.div_ceil(self.rank)
    }

    /// The numbers of `rows` of the output; `read` gives those of rows of the source, in ascending order.
    pub fn values(
        &self,
        rows: &Range<usize>,
        mut read: impl FnMut(Range<usize>) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let mut out = Vec::with_capacity(rows.len() * self.width);
        for head in self.heads(rows) {
            let first = head * self.of_head;
            let source = read(first..first + self.width)?;
            let own = head * self.rank..(head + 1) * self.rank;
            for row in own.start.max(rows.start)..own.end.min(rows.end) {
                out.extend(source.iter().skip(row - own.start).step_by(self.rank));
            }
        }
        Ok(out)
    }
}

/// Rows of Q and K whose rope pairs are reordered from halves to neighbours.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowPairs {
    head_dim: usize,
    rope_dim: usize,
}

/// For each row and each column of the output that of the source. An empty list leaves the order as it is.
#[derive(Debug)]
pub(super) struct Listing {
    rows: Vec<usize>,
    columns: Vec<usize>,
}

impl RowPairs {
    fn source(self, row: usize) -> usize {
        let (head, inside) = (row / self.head_dim, row % self.head_dim);
        if inside >= self.rope_dim {
            return row;
        }
        head * self.head_dim + (inside % 2) * (self.rope_dim / 2) + inside / 2
    }
}

impl Order {
    fn rows(rows: Vec<usize>) -> Self {
        Self::Listed(Arc::new(Listing { rows, columns: Vec::new() }))
    }

    /// Whether it is that of the source.
    pub fn is_same(&self) -> bool {
        matches!(self, Self::Same)
    }

    /// Whether columns are reordered.
    pub fn moves_columns(&self) -> bool {
        match self {
            Self::Listed(listing) => !listing.columns.is_empty(),
            Self::Across(_) => true,
            Self::Same | Self::Pairs(_) => false,
        }
    }

    /// The source row for `row` of the output.
    pub fn source(&self, row: usize) -> usize {
        match self {
            Self::Same | Self::Across(_) => row,
            Self::Pairs(pairs) => pairs.source(row),
            Self::Listed(listing) => listing.rows.get(row).copied().unwrap_or(row),
        }
    }

    /// Columns of the output of a source with `cols` columns.
    pub fn columns(&self, cols: usize) -> usize {
        if let Self::Across(across) = self { across.width } else { cols }
    }

    /// Rows of the output of a source with `all` rows.
    pub fn count(&self, all: usize) -> usize {
        match self {
            Self::Across(across) => all / across.of_head * across.rank,
            Self::Listed(listing) if !listing.rows.is_empty() && all > 1 => listing.rows.len(),
            _ => all,
        }
    }

    /// The rows of the source, `all` of them, that rows of the output are made from.
    pub fn within(&self, rows: &Range<usize>, all: usize) -> Range<usize> {
        match self {
            // Rows are reordered within their head only.
            Self::Pairs(RowPairs { head_dim, .. }) => {
                rows.start / head_dim * head_dim..rows.end.next_multiple_of(*head_dim).min(all)
            }
            Self::Listed(listing) if !listing.rows.is_empty() => 0..all,
            Self::Across(across) => {
                let heads = across.heads(rows);
                heads.start * across.of_head..(heads.end * across.of_head).min(all)
            }
            _ => rows.clone(),
        }
    }

    /// Puts the numbers of a row of the source into the order of the output.
    pub fn arrange(&self, row: &mut [f32]) {
        if let Self::Listed(listing) = self
            && !listing.columns.is_empty()
        {
            let source = row.to_vec();
            for (to, &from) in row.iter_mut().zip(&listing.columns) {
                *to = source.get(from).copied().unwrap_or_default();
            }
        }
    }

    /// The numbers of a vector in the order of the output.
    pub fn of_vector(&self, vector: &[f32]) -> Vec<f32> {
        (0..vector.len()).filter_map(|i| vector.get(self.source(i)).copied()).collect()
    }
}

/// The roles that files have in place of one of the source. Files have the matrix for keys and that for
/// values apart where a folder, as `folder` says, has them in one.
pub(super) fn written_as(spec: &ModelSpec, role: Role, folder: bool) -> Vec<Role> {
    match role {
        Role::Layer(layer, T::DeltaByKeyHead) if delta(spec, role).is_some() => {
            vec![Role::Layer(layer, T::DeltaQkv), Role::Layer(layer, T::DeltaGate)]
        }
        Role::Layer(layer, T::KvUp) if folder => {
            vec![Role::Layer(layer, T::KUp), Role::Layer(layer, T::VUp)]
        }
        _ => vec![role],
    }
}

/// The role of the source that a role of a file is made from.
pub(super) fn made_from(spec: &ModelSpec, role: Role) -> Role {
    let by_key_head = delta(spec, role).is_some_and(|delta| delta.layout == DeltaLayout::ByKeyHead);
    match role {
        Role::Layer(layer, T::DeltaQkv | T::DeltaGate) if by_key_head => {
            Role::Layer(layer, T::DeltaByKeyHead)
        }
        Role::Layer(layer, T::KUp | T::VUp) if latent(spec, role).is_some_and(|latent| !latent.split) => {
            Role::Layer(layer, T::KvUp)
        }
        _ => role,
    }
}

fn latent(spec: &ModelSpec, role: Role) -> Option<&LatentSpec> {
    let Role::Layer(layer, _) = role else { return None };
    spec.layers.get(layer)?.latent()
}

fn delta(spec: &ModelSpec, role: Role) -> Option<&DeltaSpec> {
    let Role::Layer(layer, _) = role else { return None };
    spec.layers.get(layer)?.delta()
}

/// Whether the source has the logarithms of rates that files have as negative rates.
pub(super) fn is_logarithm(spec: &ModelSpec, role: Role) -> bool {
    let Role::Layer(layer, T::DeltaDecay | T::SsmDecay) = role else { return false };
    let branches = spec.layers.get(layer).into_iter().flat_map(|layer| &layer.branches);
    let mut recurrences = branches.filter_map(|branch| match &branch.op {
        Op::Delta(delta) => Some(delta.log_decay),
        Op::Kda(kda) => Some(kda.log_decay),
        Op::Ssm(ssm) => Some(ssm.log_decay),
        Op::Selective(selective) => Some(selective.log_decay),
        _ => None,
    });
    recurrences.next().unwrap_or(false)
}

/// How a role of a file is ordered that is made from a model of `spec`.
pub(super) fn order_of(spec: &ModelSpec, role: Role) -> Order {
    let Role::Layer(layer, tensor) = role else { return Order::Same };
    if let Some(delta) = delta(spec, role) {
        return order_of_delta(spec, delta, tensor);
    }
    if let Some(latent) = latent(spec, role) {
        return order_of_latent(latent, tensor);
    }
    let rotated = matches!(tensor, T::Q | T::K | T::QBias | T::KBias);
    let attention = spec.layers.get(layer).and_then(|layer| layer.attention());
    // Without a rope no order of rows changes a score.
    let Some((attention, rope)) = attention.and_then(|a| Some((a, a.rope.as_ref()?))) else {
        return Order::Same;
    };
    let moves = rope.pairing == Pairing::Split && family_of(spec).gguf_pairing == Pairing::Adjacent;
    match rotated && moves {
        true => Order::Pairs(RowPairs { head_dim: attention.head_dim, rope_dim: rope.dim }),
        false => Order::Same,
    }
}

/// The matrices for keys and for values, out of one that has those of each head one after the other.
fn order_of_latent(latent: &LatentSpec, tensor: T) -> Order {
    let (width, of_head) = (latent.nope, latent.nope + latent.value_dim);
    match tensor {
        T::KUp if !latent.split => Order::Across(Across { of_head, width, rank: latent.rank }),
        T::VUp if !latent.split => {
            let of = |head: usize| head * of_head + width..(head + 1) * of_head;
            Order::rows((0..latent.attention.heads).flat_map(of).collect())
        }
        _ => Order::Same,
    }
}

fn order_of_delta(spec: &ModelSpec, delta: &DeltaSpec, tensor: T) -> Order {
    if delta.layout == DeltaLayout::ByKeyHead {
        return by_kind(delta, tensor);
    }
    // Files of this kind alone reorder value heads.
    let tiles = family_of(spec).delta == Some(DeltaKind::Apart);
    let one_each = delta.value_heads == delta.key_heads;
    if !tiles || delta.order == DeltaOrder::Tiled || one_each {
        return Order::Same;
    }
    let (before, width) = match tensor {
        T::DeltaQkv | T::DeltaConv => (2 * delta.key_heads * delta.key_dim, delta.value_dim),
        T::DeltaGate | T::DeltaOut => (0, delta.value_dim),
        T::DeltaStrength | T::DeltaStep | T::DeltaDecay | T::DeltaStepBias => (0, 1),
        _ => return Order::Same,
    };
    let listed = tiled(delta, before, width);
    match tensor {
        T::DeltaOut => Order::Listed(Arc::new(Listing { rows: Vec::new(), columns: listed })),
        _ => Order::rows(listed),
    }
}

/// The first value head of each key head, then the second of each, and so on, from the order of folders: all
/// of the first key head, all of the second. `before` rows come before them, a head has `width`.
fn tiled(delta: &DeltaSpec, before: usize, width: usize) -> Vec<usize> {
    let (keys, of_key) = (delta.key_heads, delta.value_heads / delta.key_heads);
    let heads = (0..delta.value_heads).map(|head| head % keys * of_key + head / keys);
    let values = heads.flat_map(|head| (0..width).map(move |i| before + head * width + i));
    (0..before).chain(values).collect()
}

/// All queries, all keys, all values, or all gates, from a matrix that has those of each key head one after
/// the other.
fn by_kind(delta: &DeltaSpec, tensor: T) -> Order {
    let (keys, values) = (delta.key_dim, delta.value_heads / delta.key_heads * delta.value_dim);
    let of_head = 2 * keys + 2 * values;
    let kind = |first: usize, width: usize| {
        (0..delta.key_heads).flat_map(move |head| (0..width).map(move |i| head * of_head + first + i))
    };
    match tensor {
        T::DeltaQkv => {
            Order::rows(kind(0, keys).chain(kind(keys, keys)).chain(kind(2 * keys, values)).collect())
        }
        T::DeltaGate => Order::rows(kind(2 * keys + values, values).collect()),
        _ => Order::Same,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELTA: DeltaSpec = DeltaSpec {
        key_heads: 2,
        value_heads: 4,
        key_dim: 3,
        value_dim: 2,
        conv_kernel: 4,
        norm_eps: 1e-6,
        layout: DeltaLayout::ByKeyHead,
        order: DeltaOrder::Grouped,
        log_decay: true,
        sigmoid_gate: false,
    };

    #[test]
    fn value_heads_are_dealt_to_key_heads_in_turn() {
        assert_eq!(tiled(&DELTA, 0, 1), [0, 2, 1, 3]);
        assert_eq!(tiled(&DELTA, 2, 2), [0, 1, 2, 3, 6, 7, 4, 5, 8, 9]);
    }

    #[test]
    fn matrices_by_key_head_are_taken_apart_into_each_row_once() {
        let [qkv, gate] = [T::DeltaQkv, T::DeltaGate].map(|tensor| by_kind(&DELTA, tensor));
        let rows = |order: &Order, count: usize| (0..count).map(|row| order.source(row)).collect::<Vec<_>>();
        let (qkv, gate) = (rows(&qkv, DELTA.channels()), rows(&gate, DELTA.values()));
        assert_eq!(qkv[..6], [0, 1, 2, 14, 15, 16], "queries of both key heads");
        assert_eq!(qkv[12..], [6, 7, 8, 9, 20, 21, 22, 23], "values of both");
        assert_eq!(gate, [10, 11, 12, 13, 24, 25, 26, 27]);
        let mut all: Vec<usize> = qkv.into_iter().chain(gate).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..28));
    }
}
