//! Activations of whole buffers. It must not know weights.

use super::lines::Line;
use super::table::Kernels;
use crate::activations::{ActivationKind, Columns, Record};

/// Fills a whole buffer of lines from `[tokens, cols]` floats, on this thread.
///
/// # Panics
/// If `x` is not a whole number of rows of `cols`.
pub fn activations(kernels: &Kernels, kind: ActivationKind, x: &[f32], cols: usize) -> Vec<Line> {
    assert!(cols > 0 && x.len().is_multiple_of(cols), "activations: x is not [tokens, {cols}]");
    let tokens = x.len() / cols;
    let mut lines = vec![Line::ZERO; kind.lines(tokens, cols)];
    for (block, lines) in lines.chunks_mut(kind.record_lines(tokens).max(1)).enumerate() {
        kernels.fill(Columns::of(x, cols, block), 0, Record { kind, tokens, lines });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activations::{BLOCK, room};
    use crate::isa::Isa;
    use crate::kernel::lines::words;

    /// What kernels read: codes, scales, negated sums of all and of the first 16 codes, each in its place
    /// for the room.
    #[test]
    fn a_record_is_laid_out_as_it_says() {
        let kernels = Kernels::for_isa(Isa::best()).expect("the best is available");
        assert_eq!([31, 32, 33].map(room), [31, 32, 48]);
        for tokens in [1, 3, 8, 17, 31] {
            let room = room(tokens);
            // Token t has 127 in column t, a code of 127 for it, and 1 in the last.
            let x: Vec<f32> = (0..tokens * BLOCK)
                .map(|i| match (i / BLOCK, i % BLOCK) {
                    (_, 31) => 1.0,
                    (t, column) if t == column => 127.0,
                    _ => 0.0,
                })
                .collect();
            let lines = activations(kernels, ActivationKind::Q8, &x, BLOCK);
            let words = words(&lines);
            assert_eq!(words.len(), (11 * room).next_multiple_of(16), "{tokens} tokens");
            for t in 0..tokens {
                let mut codes = [0u8; BLOCK];
                codes[t] = 127;
                codes[31] = 1;
                let written: Vec<u8> =
                    words[t * 8..][..8].iter().flat_map(|word| word.to_le_bytes()).collect();
                assert_eq!(written, codes, "token {t} of {tokens}");
                assert_eq!(f32::from_bits(words[room * 8 + t]), 1.0, "scale of token {t} of {tokens}");
                assert_eq!(words[room * 9 + t] as i32, -128, "sum of token {t} of {tokens}");
                let low = if t < 16 { -127 } else { 0 };
                assert_eq!(words[room * 10 + t] as i32, low, "first sum of token {t} of {tokens}");
            }
        }
    }
}
