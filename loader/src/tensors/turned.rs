//! Transposing numbers of one to four bytes in tiles, each of which touches a cache line of the source and of
//! the target once. It must not know where the numbers come from.

use std::ops::Range;

/// Lines, and columns, of a tile.
pub(super) const TILE: usize = 32;

/// Some columns of numbers of a few bytes, each of which has `of_column` bytes.
#[derive(Clone, Copy)]
pub(super) struct Columns<'a> {
    pub bytes: &'a [u8],
    pub of_column: usize,
    pub count: usize,
}

impl Columns<'_> {
    /// The numbers of at most [`TILE`] lines, in which a column has one each, line by line: `to` becomes
    /// `[lines, columns]`. Numbers have `size` bytes.
    pub fn lines(&self, lines: Range<usize>, size: usize, to: &mut Vec<u8>) {
        to.clear();
        to.resize(lines.len() * self.count * size, 0);
        match size {
            1 => self.turn::<1>(lines, to),
            2 => self.turn::<2>(lines, to),
            4 => self.turn::<4>(lines, to),
            _ => self.turn_slowly(lines, size, to),
        }
    }

    fn turn<const SIZE: usize>(&self, lines: Range<usize>, to: &mut [u8]) {
        let row_bytes = self.count * SIZE;
        let mut tile = [[[0_u8; SIZE]; TILE]; TILE];
        for first in (0..self.count).step_by(TILE) {
            let some = first..self.count.min(first + TILE);
            let columns = self.bytes.chunks_exact(self.of_column).skip(first).take(some.len());
            for (tile, column) in tile.iter_mut().zip(columns) {
                let (numbers, _) = column[lines.start * SIZE..lines.end * SIZE].as_chunks::<SIZE>();
                tile[..numbers.len()].copy_from_slice(numbers);
            }
            for (line, row) in to.chunks_exact_mut(row_bytes).enumerate() {
                let (row, _) = row[some.start * SIZE..some.end * SIZE].as_chunks_mut::<SIZE>();
                match <&mut [[u8; SIZE]; TILE]>::try_from(&mut *row) {
                    // Of known length, without checks.
                    Ok(row) => row.iter_mut().zip(&tile).for_each(|(to, column)| *to = column[line]),
                    Err(_) => row.iter_mut().zip(&tile).for_each(|(to, column)| *to = column[line]),
                }
            }
        }
    }

    fn turn_slowly(&self, lines: Range<usize>, size: usize, to: &mut [u8]) {
        for (line, row) in lines.zip(to.chunks_exact_mut(self.count * size)) {
            let columns = self.bytes.chunks_exact(self.of_column);
            for (to, column) in row.chunks_exact_mut(size).zip(columns) {
                to.copy_from_slice(&column[line * size..][..size]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_at_its_place() {
        for size in [1, 2, 3, 4] {
            for (lines, count, some) in [(40, 70, 3..35), (33, 32, 0..32), (5, 3, 1..4), (64, 33, 32..64)] {
                let bytes: Vec<u8> = (0..lines * count * size).map(|i| (i * 7 % 251) as u8).collect();
                let columns = Columns { bytes: &bytes, of_column: lines * size, count };
                let mut got = vec![9; 3];
                columns.lines(some.clone(), size, &mut got);
                let expected: Vec<u8> = some
                    .flat_map(|line| (0..count).map(move |column| (column * lines + line) * size))
                    .flat_map(|at| bytes[at..at + size].to_vec())
                    .collect();
                assert_eq!(got, expected, "{lines} lines, {count} columns of {size} bytes");
            }
        }
    }

    /// Prints the speed: `cargo test --release -p moelten-loader --lib turned -- --ignored --nocapture`.
    #[test]
    #[ignore = "measures; run it alone on a quiet machine"]
    fn speed() {
        for (lines, count, size) in
            [(1536, 352, 2), (2048, 256, 2), (768, 704, 2), (2048, 512, 1), (4096, 64, 4)]
        {
            let bytes: Vec<u8> = (0..lines * count * size).map(|i| i as u8).collect();
            let columns = Columns { bytes: &bytes, of_column: lines * size, count };
            let (mut to, mut sum, rounds) = (Vec::new(), 0_u64, 400);
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                for first in (0..lines).step_by(TILE) {
                    columns.lines(first..lines.min(first + TILE), size, &mut to);
                    sum += u64::from(to[0]);
                }
            }
            let rate = (rounds * bytes.len()) as f64 / start.elapsed().as_secs_f64() / 1e9;
            println!("{lines} lines, {count} columns of {size} bytes: {rate:.1} GB/s ({sum})");
        }
    }
}
