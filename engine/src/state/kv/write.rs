//! Writing new keys and values into the memory of a layer. It must not know the layer's precision.

use moelten_loader::io::Number;
use moelten_quant::KEY_GROUP;

use crate::runtime::pool::Pool;

/// Tokens from which on heads are written by several threads.
const SHARED_WRITE: usize = 16;
/// Numbers of a key that are converted at once.
const PIECE: usize = 64;

/// Keys and values to write, `[tokens, kv_heads, head_dim]` each.
pub(super) struct NewRows<'a> {
    /// Position of the first.
    pub first: usize,
    /// `[tokens, kv_heads, head_dim]`.
    pub keys: &'a [f32],
    /// `[tokens, kv_heads, head_dim]`.
    pub values: &'a [f32],
    /// Heads of keys.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

impl NewRows<'_> {
    pub fn tokens(&self) -> usize {
        self.keys.len() / (self.kv_heads * self.head_dim)
    }

    /// Into the `width` numbers of each head; `convert` turns numbers into stored ones.
    pub fn write<T>(
        &self,
        pool: &Pool,
        numbers: &mut [T],
        width: usize,
        convert: impl Fn(&[f32], &mut [T]) + Sync,
    ) where
        T: Number + Default + Send + Sync,
    {
        let (&Self { first, kv_heads, head_dim, .. }, tokens) = (self, self.tokens());
        let heads_per_task = if tokens < SHARED_WRITE { kv_heads } else { 1 };
        let (keys, values) = numbers.split_at_mut(kv_heads * width);
        let (keys, values) = ((keys, width), (values, width));
        pool.chunks_of_two(keys, values, heads_per_task, |heads, keys, values| {
            let parts = keys.chunks_exact_mut(width).zip(values.chunks_exact_mut(width));
            for (head, (keys, values)) in heads.zip(parts) {
                for token in 0..tokens {
                    let (row, position) = ((token * kv_heads + head) * head_dim, first + token);
                    let (key, value) = (&self.keys[row..row + head_dim], &self.values[row..row + head_dim]);
                    convert(value, &mut values[position * head_dim..][..head_dim]);
                    let group = position / KEY_GROUP * KEY_GROUP * head_dim;
                    let lane = keys[group + position % KEY_GROUP..].iter_mut().step_by(KEY_GROUP);
                    let mut lane = lane.take(head_dim);
                    for piece in key.chunks(PIECE) {
                        let stored = &mut [T::default(); PIECE][..piece.len()];
                        convert(piece, stored);
                        // The lane second: a pair that has no number left takes none of it.
                        stored.iter().zip(lane.by_ref()).for_each(|(stored, to)| *to = *stored);
                    }
                }
            }
        });
    }
}
