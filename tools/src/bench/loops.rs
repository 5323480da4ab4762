//! Times the loops that every tier has for products of quantised weights, and picks one for each format. All
//! of them give the same bits, so only time counts. It must not know where the answer is kept.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::Context;
use moelten_engine::runtime::system::System;
use moelten_loader::io::Memory;
use moelten_quant::{
    ActivationKind, Activations, Format, Isa, Kernels, Picks, QMatrix, Reading, activations,
};

use super::limits::largest_cache;

/// Tokens of a product with several.
pub const SEVERAL: usize = 64;
/// Time for products with one token and for all of them, the buffer included.
const UNTIL: [Duration; 2] = [Duration::from_millis(130), Duration::from_millis(190)];
/// Weights per row.
const COLS: usize = 2048;
/// Bytes of weights of a piece, about as many as a thread takes at a time, and pieces that are timed
/// together.
const PIECE: usize = 512 << 10;
const PIECES: usize = 3;
/// Rows of a product with several tokens, whose weights stay in the caches.
const ROWS: usize = 128;
/// Smallest and largest buffer of weights. It is twice the largest cache, so that they come from RAM.
const BUFFER: std::ops::RangeInclusive<u64> = 48 << 20..=256 << 20;
/// Bytes of the buffer. In every format they give scales that are ordinary numbers.
const FILLER: u8 = 0x33;
/// Another tier's loop is picked if it is faster by this factor: smaller differences may be chance.
const FASTER: f64 = 1.03;

/// The loops for one format.
#[derive(Debug, Clone, PartialEq)]
pub struct LoopSpeeds {
    /// Of the weights.
    pub format: Format,
    /// Tokens of the product: 1 or [`SEVERAL`].
    pub tokens: usize,
    /// The best of all turns: 10^9 bytes of weights per second with one token, 10^9 operations per second
    /// with several.
    pub speeds: Vec<(Isa, f64)>,
    /// The tier whose loop is used.
    pub pick: Isa,
}

/// Times all loops of this machine within 0.2 seconds, where `tier` is the one that is used otherwise.
/// Candidates take turns, each time with other weights.
///
/// # Errors
/// No memory for the weights.
pub fn measure(tier: Isa) -> anyhow::Result<Vec<LoopSpeeds>> {
    let begun = Instant::now();
    let mut all = Vec::new();
    for tokens in [1, SEVERAL] {
        let candidates = Picks::candidates(tokens);
        for format in formats() {
            all.push(Timed {
                format,
                tokens,
                seconds: candidates.iter().map(|&isa| (isa, Vec::new())).collect(),
            });
        }
    }
    if all.iter().all(|timed| timed.seconds.len() < 2) {
        return Ok(Vec::new());
    }
    let bytes = (2 * largest_cache(&System::here()).unwrap_or(0)).clamp(*BUFFER.start(), *BUFFER.end());
    let mut buffer = Memory::zeroed(bytes as usize).context("no memory to time the kernels with")?;
    buffer.bytes_mut().fill(FILLER);
    let mut weights = Weights { bytes: buffer.bytes(), at: 0 };
    for (tokens, until) in [1, SEVERAL].into_iter().zip(UNTIL) {
        let mut turn = 0;
        while turn == 0 || begun.elapsed() < until {
            for timed in all.iter_mut().filter(|timed| timed.tokens == tokens) {
                timed.take_turn(turn, &mut weights);
            }
            turn += 1;
        }
    }
    Ok(all.into_iter().map(|timed| timed.result(tier)).collect())
}

/// The formats whose loops are picked.
pub fn formats() -> impl Iterator<Item = Format> {
    Format::ALL.into_iter().filter(|format| !format.is_float())
}

/// The picks of a table, for kernels of `tier`.
pub fn picks(tier: Isa, table: &[LoopSpeeds]) -> Picks {
    let mut picks = Picks::of(tier);
    table.iter().for_each(|row| picks.set(row.format, row.tokens, row.pick));
    picks
}

/// Weights that were not read lately.
struct Weights<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Weights<'a> {
    fn take(&mut self, bytes: usize) -> &'a [u8] {
        if self.at + bytes > self.bytes.len() {
            self.at = 0;
        }
        self.at += bytes;
        &self.bytes[self.at - bytes..self.at]
    }
}

/// The times of the loops for one format.
struct Timed {
    format: Format,
    tokens: usize,
    seconds: Vec<(Isa, Vec<f64>)>,
}

impl Timed {
    /// Times each candidate once. They begin in turn: the first may find the processor slower.
    fn take_turn(&mut self, turn: usize, weights: &mut Weights<'_>) {
        let row_bytes = self.format.row_bytes(COLS).unwrap_or(1);
        let (rows, pieces) = if self.tokens == 1 { (PIECE / row_bytes / 32 * 32, PIECES) } else { (ROWS, 1) };
        let kind = ActivationKind::of(self.format);
        let mut out = vec![0.0; rows * self.tokens];
        let first = turn % self.seconds.len();
        self.seconds.rotate_left(first);
        for (isa, seconds) in &mut self.seconds {
            let kernels = Kernels::for_isa(*isa).expect("candidates are available");
            let lines = activations(kernels, kind, &vec![0.5; self.tokens * COLS], COLS);
            let x = Activations::new(kind, self.tokens, COLS, &lines);
            let bytes = weights.take(pieces * rows * row_bytes);
            let mut product = |bytes: &[u8]| {
                let matrix = QMatrix::new(self.format, rows, COLS, bytes).expect("the bytes are its rows");
                kernels.matmul(black_box(matrix), x, black_box(&mut out));
            };
            if self.tokens > 1 {
                // Into the caches.
                black_box(kernels.read_through(bytes, Reading::InTurn));
            }
            let started = Instant::now();
            bytes.chunks_exact(rows * row_bytes).for_each(&mut product);
            seconds.push(started.elapsed().as_secs_f64());
        }
    }

    fn result(self, tier: Isa) -> LoopSpeeds {
        let Self { format, tokens, seconds } = self;
        let row_bytes = format.row_bytes(COLS).unwrap_or(1);
        let work = match tokens {
            1 => (PIECES * (PIECE / row_bytes / 32 * 32) * row_bytes) as f64,
            _ => (2 * ROWS * COLS * tokens) as f64,
        };
        let mut speeds: Vec<(Isa, f64)> =
            seconds.into_iter().map(|(isa, s)| (isa, work / fastest(&s) / 1e9)).collect();
        speeds.sort_by_key(|&(isa, _)| isa);
        let pick = pick(tier, &speeds);
        LoopSpeeds { format, tokens, speeds, pick }
    }
}

/// The shortest time. Other programs only ever add to one, and on a busy machine they may add to most.
fn fastest(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(f64::INFINITY, f64::min)
}

/// The fastest tier if it is clearly faster than the loop that `tier` would use.
fn pick(tier: Isa, speeds: &[(Isa, f64)]) -> Isa {
    let Some(&(own, speed)) = speeds.iter().rfind(|&&(isa, _)| isa <= tier) else { return tier };
    let best = speeds.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
    best.filter(|&(_, best)| best > FASTER * speed).map_or(own, |(isa, _)| isa)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_loop_must_be_clearly_faster() {
        let speeds = |avx2, avx512| [(Isa::Avx2, avx2), (Isa::Avx512Vnni, avx512)];
        assert_eq!(pick(Isa::Avx512Vnni, &speeds(20.0, 15.0)), Isa::Avx2);
        assert_eq!(pick(Isa::Avx512Vnni, &speeds(20.0, 19.8)), Isa::Avx512Vnni);
        assert_eq!(pick(Isa::Avx512Vnni, &speeds(15.0, 20.0)), Isa::Avx512Vnni);
        // AMX has no loop of its own for one token.
        assert_eq!(pick(Isa::Amx, &speeds(19.0, 20.0)), Isa::Avx512Vnni);
        assert_eq!(pick(Isa::Scalar, &[]), Isa::Scalar);
    }

    #[test]
    fn every_format_is_timed_on_every_candidate() {
        let table = measure(Isa::best()).unwrap();
        if Picks::candidates(SEVERAL).len() < 2 {
            return assert_eq!(table, []);
        }
        assert_eq!(table.len(), 2 * formats().count());
        for row in &table {
            let isas: Vec<Isa> = row.speeds.iter().map(|&(isa, _)| isa).collect();
            assert_eq!(isas, Picks::candidates(row.tokens), "{row:?}");
            assert!(row.speeds.iter().all(|(_, speed)| speed.is_finite() && *speed > 0.0), "{row:?}");
            assert!(isas.contains(&row.pick), "{row:?}");
        }
        let picks = picks(Isa::best(), &table);
        assert!(table.iter().all(|row| picks.get(row.format, row.tokens) == row.pick));
    }
}
