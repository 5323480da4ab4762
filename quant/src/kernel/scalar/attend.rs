//! Attention in plain Rust: the definition that other tiers are tested against. It must not know vectors.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;

use super::floats::{axpy, axpy_f16};
use crate::kernel::attend::{Attend, BLOCK, KEY_GROUP, KvHead, MAX_HEAD_DIM, Running, SPAN, base};

/// [`crate::Kernels::attend`] in plain Rust.
pub(in crate::kernel) fn attend(task: &Attend<'_>, out: &mut [f32], state: &mut [Running]) {
    for span in task.spans.clone() {
        for row in 0..task.rows() {
            let sees = task.sees(row);
            let seen = sees.start.max(span * SPAN)..sees.end.min((span + 1) * SPAN);
            if seen.is_empty() {
                continue;
            }
            let (at, head_dim) = (task.at(row), task.head_dim);
            let (out, state) = (&mut out[at..at + head_dim], &mut state[at / head_dim]);
            if task.begins(row, span) {
                *state = attend_span(task, row, seen, out);
            } else {
                let later = &mut [0.0; MAX_HEAD_DIM][..head_dim];
                let later_state = attend_span(task, row, seen, later);
                attend_merge(later, later_state, out, state);
            }
        }
    }
}

/// One row, one span.
fn attend_span(task: &Attend<'_>, row: usize, seen: Range<usize>, out: &mut [f32]) -> Running {
    let mut state = Running::default();
    out.fill(0.0);
    for block in (seen.start / BLOCK * BLOCK..seen.end).step_by(BLOCK) {
        let seen = seen.start.max(block)..seen.end.min(block + BLOCK);
        let mut weights = [f32::NEG_INFINITY; BLOCK];
        scores(task, row, block, &seen, &mut weights);
        let max = weights.iter().copied().fold(state.max, f32::max);
        let shrink = (state.max - base(max)).exp();
        let mut sums = [0.0; KEY_GROUP];
        for weights in weights.chunks_exact_mut(KEY_GROUP) {
            for (weight, sum) in weights.iter_mut().zip(&mut sums) {
                *weight = (*weight - base(max)).exp();
                *sum += *weight;
            }
        }
        state = Running { max, sum: state.sum * shrink + sums.iter().sum::<f32>() };
        out.iter_mut().for_each(|out| *out *= shrink);
        for (position, &weight) in seen.clone().zip(&weights[seen.start - block..]) {
            let at = position * task.head_dim;
            match task.kv {
                KvHead::F16 { values, .. } => axpy_f16(weight, &values[at..at + out.len()], out),
                KvHead::F32 { values, .. } => axpy(weight, &values[at..at + out.len()], out),
            }
        }
    }
    state
}

/// Scores of the positions that are seen; the others keep minus infinity.
fn scores(task: &Attend<'_>, row: usize, block: usize, seen: &Range<usize>, out: &mut [f32; BLOCK]) {
    let query = &task.queries[task.at(row)..][..task.head_dim];
    for group in (seen.start / KEY_GROUP * KEY_GROUP..seen.end).step_by(KEY_GROUP) {
        let mut scores = [0.0; KEY_GROUP];
        for (dim, q) in query.iter().enumerate() {
            let at = group * task.head_dim + dim * KEY_GROUP;
            let mut wide = [0.0; KEY_GROUP];
            match task.kv {
                KvHead::F16 { keys, .. } => keys[at..at + KEY_GROUP].convert_to_f32_slice(&mut wide),
                KvHead::F32 { keys, .. } => wide.copy_from_slice(&keys[at..at + KEY_GROUP]),
            }
            let q = q * task.scale;
            scores.iter_mut().zip(wide).for_each(|(score, key)| *score += q * key);
        }
        if let Some(bias) = task.bias {
            let (of_query, token) = (bias.of_query(row % task.group), task.first + row / task.group);
            for (position, score) in (group..).zip(&mut scores) {
                *score += of_query[bias.place(token, position)];
            }
        }
        if let Some(cap) = task.softcap {
            scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
        }
        for (position, score) in (group..group + KEY_GROUP).zip(scores) {
            if seen.contains(&position) {
                out[position - block] = score;
            }
        }
    }
}

/// [`crate::Kernels::attend_merge`] in plain Rust.
pub(in crate::kernel) fn attend_merge(
    later: &[f32],
    later_state: Running,
    out: &mut [f32],
    state: &mut Running,
) {
    let max = state.max.max(later_state.max);
    let (shrink, weight) = ((state.max - base(max)).exp(), (later_state.max - base(max)).exp());
    for (out, later) in out.iter_mut().zip(later) {
        *out = *out * shrink + later * weight;
    }
    *state = Running { max, sum: state.sum * shrink + later_state.sum * weight };
}
