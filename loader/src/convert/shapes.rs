//! Dimensions of output tensors beyond rows and columns: other readers of files check them. It must not know
//! values.

use crate::io::reader::len_u64;
use crate::spec::{LayerSpec, ModelSpec, Op};
use crate::tensors::roles::{LayerTensor as T, Role};

/// The dimensions of a tensor of `rows` rows of `cols` numbers, the slowest first.
pub(super) fn dimensions(spec: &ModelSpec, role: Role, rows: usize, cols: usize) -> Vec<u64> {
    let usual = if rows == 1 { vec![cols] } else { vec![rows, cols] };
    let own = match role {
        Role::Layer(layer, tensor) => {
            spec.layers.get(layer).and_then(|layer| of_layer(layer, tensor, rows, cols))
        }
        _ => None,
    };
    own.unwrap_or(usual).into_iter().map(len_u64).collect()
}

fn of_layer(layer: &LayerSpec, tensor: T, rows: usize, cols: usize) -> Option<Vec<usize>> {
    match tensor {
        // A matrix of each head.
        T::KUp | T::VUp => {
            let heads = layer.latent()?.attention.heads;
            Some(vec![heads, rows / heads, cols])
        }
        T::KdaConvQ | T::KdaConvK | T::KdaConvV => Some(vec![1, rows, 1, cols]),
        _ => layer.branches.iter().find_map(|branch| of_recurrence(&branch.op, tensor, cols)),
    }
}

fn of_recurrence(op: &Op, tensor: T, cols: usize) -> Option<Vec<usize>> {
    match (op, tensor) {
        // Numbers of heads are columns.
        (Op::Ssm(_), T::SsmDecay | T::SsmSkip) => Some(vec![cols, 1]),
        (Op::Ssm(ssm), T::SsmNorm) => Some(vec![ssm.groups, cols / ssm.groups]),
        (Op::Kda(_), T::DeltaDecay) => Some(vec![1, 1, cols, 1]),
        _ => None,
    }
}
