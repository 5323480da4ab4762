//! Limits of this machine, measured with the threads and instructions of a model: RAM reads, int8 products in
//! registers, disk reads; and the speed of each tier's kernels. It must not know models beyond their tensors.

use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use moelten_engine::EngineError;
use moelten_engine::runtime::memory;
use moelten_engine::runtime::pool::Pool;
use moelten_engine::runtime::system::System;
use moelten_engine::runtime::topology::ThreadPlan;
use moelten_loader::io::Memory;
use moelten_loader::io::probe::{self, Pattern};
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, QMatrix, Reading, activations};

use super::generate;

/// Smallest and largest buffer to measure RAM, in bytes.
const BUFFER: std::ops::RangeInclusive<u64> = 256 << 20..=1 << 30;
/// The buffer is at least this many times the largest cache.
const TIMES_CACHE: u64 = 4;
/// Smallest page size of any system, in bytes.
const PAGE: usize = 4096;
/// Fewest passes over memory in each order, and the shortest time for all. The median of the faster order
/// counts: a run that is compared with it is an average of fast and slow moments too.
const PASSES: usize = 3;
const READING: Duration = Duration::from_millis(100);
/// Bytes of weights to read for [`weights`].
const WEIGHTS: u64 = 2 << 30;
/// Bytes that one thread reads at a time.
const PART: usize = 1 << 20;
/// Shortest time to measure products.
const PRODUCTS: Duration = Duration::from_millis(20);
/// Longest time to read a disk.
const DISK: Duration = Duration::from_millis(1500);

/// Speed of RAM in 10^9 bytes per second: reads a buffer far larger than the CPU's caches on all threads of
/// `pool`.
///
/// # Errors
/// No memory for the buffer.
pub fn ram(pool: &Pool, kernels: &Kernels) -> anyhow::Result<f64> {
    ram_within(pool, kernels, u64::MAX)
}

/// A buffer far larger than the CPU's caches, to measure RAM with.
pub struct RamBuffer {
    buffer: Memory,
    /// Bytes that one thread reads.
    part: usize,
}

impl RamBuffer {
    /// A buffer of at most `most` bytes, written once by the threads of `pool`. If it fits into the CPU's
    /// caches, their speed is measured.
    ///
    /// # Errors
    /// No memory for the buffer.
    pub fn within(pool: &Pool, most: u64) -> anyhow::Result<Self> {
        let free = memory::available_bytes().map_or(u64::MAX, |free| free / 4);
        let wanted = largest_cache(&System::here()).unwrap_or(0) * TIMES_CACHE;
        let bytes = wanted.clamp(*BUFFER.start(), *BUFFER.end()).min(free).min(most) as usize;
        let mut buffer = Memory::zeroed(bytes).context("no memory for the buffer that measures RAM")?;
        let part = bytes.div_ceil(pool.threads()).max(1);
        // Before the first write all pages are the same page of zeros.
        let places: Vec<_> = buffer.bytes_mut().chunks_mut(part).map(Mutex::new).collect();
        pool.broadcast(|index| {
            if let Some(Ok(mut part)) = places.get(index).map(Mutex::lock) {
                part.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
            }
        });
        drop(places);
        Ok(Self { buffer, part })
    }

    /// Speed of RAM in 10^9 bytes per second: the threads of `pool` read the buffer again and again.
    pub fn gb_per_s(&self, pool: &Pool, kernels: &Kernels) -> f64 {
        // Parts of one thread stay together.
        let parts: Vec<_> = self.buffer.bytes().chunks(self.part).flat_map(|own| own.chunks(PART)).collect();
        speed_of_reads(pool, kernels, &parts)
    }
}

/// 10^9 bytes per second of reads of all parts by the threads of `pool`.
fn speed_of_reads(pool: &Pool, kernels: &Kernels, parts: &[&[u8]]) -> f64 {
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    let begun = Instant::now();
    let mut speeds = Reading::ALL.map(|_| Vec::new());
    while speeds[0].len() < PASSES || begun.elapsed() < READING {
        for (order, speeds) in Reading::ALL.into_iter().zip(&mut speeds) {
            let started = Instant::now();
            read(pool, kernels, parts, order);
            speeds.push(bytes as f64 / started.elapsed().as_secs_f64() / 1e9);
        }
    }
    let median = |mut speeds: Vec<f64>| {
        speeds.sort_by(f64::total_cmp);
        speeds[speeds.len() / 2]
    };
    speeds.into_iter().map(median).fold(0.0, f64::max)
}

/// Reads all parts once. Every thread begins with its share, which is where its memory is, and then takes
/// what slower ones have left: products are shared by speed too, and a core that the system takes away for a
/// moment is not the speed of RAM.
fn read(pool: &Pool, kernels: &Kernels, parts: &[&[u8]], order: Reading) {
    let share = parts.len().div_ceil(pool.threads()).max(1);
    let shares: Vec<_> = parts.chunks(share).map(|parts| (parts, AtomicUsize::new(0))).collect();
    black_box(pool.broadcast(|index| {
        let mut folded = 0;
        for (parts, next) in shares.iter().cycle().skip(index).take(shares.len()) {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                folded ^= kernels.read_through(part, order);
            }
        }
        folded
    }));
}

/// As [`ram`] with a buffer of at most `most` bytes. If it fits into the CPU's caches, their speed is
/// measured.
///
/// # Errors
/// As [`ram`].
pub fn ram_within(pool: &Pool, kernels: &Kernels, most: u64) -> anyhow::Result<f64> {
    Ok(RamBuffer::within(pool, most)?.gb_per_s(pool, kernels))
}

/// As [`ram_within`] before a model is loaded: with its own threads and the instruction set that a model
/// would use.
///
/// # Errors
/// No threads, no memory, an unavailable instruction set.
pub fn ram_before(threads: ThreadPlan, most: u64) -> anyhow::Result<f64> {
    let isa = Isa::from_env().map_err(EngineError::from)?;
    let kernels = Kernels::for_isa(isa).expect("an available instruction set has kernels");
    ram_within(&Pool::new(threads)?, kernels, most)
}

/// Speed of plain reads of the weights in memory, 10^9 bytes per second, to compare with [`ram`]: the pages
/// of a mapped file may be smaller and more scattered than allocated memory.
pub fn weights(pool: &Pool, kernels: &Kernels, tensors: &TensorStore) -> f64 {
    let dense = tensors.dense().map(|(_, matrix)| matrix);
    let experts = tensors.banks().iter().flat_map(|bank| bank.iter().flatten().copied());
    let mut left = WEIGHTS;
    // What is arranged while it is read is nowhere to read plainly.
    let in_place = dense.chain(experts).filter(|matrix| !tensors.is_arranged(matrix));
    let some = in_place.take_while(|matrix| {
        let taken = left > 0;
        left = left.saturating_sub(matrix.bytes);
        taken
    });
    let some: Vec<_> = some.collect();
    let parts: Vec<_> = some.iter().flat_map(|matrix| tensors.view(matrix).data().chunks(PART)).collect();
    speed_of_reads(pool, kernels, &parts)
}

/// Bytes of the largest cache of the first CPU.
pub fn largest_cache(system: &System) -> Option<u64> {
    let size = |index: usize| {
        let text = system.text(&format!("sys/devices/system/cpu/cpu0/cache/index{index}/size"))?;
        text.trim().strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
    };
    (0..8).filter_map(size).max()
}

/// Int8 products in registers on all threads of `pool`, 10^12 operations per second.
pub fn int8(pool: &Pool, kernels: &Kernels) -> f64 {
    int8_with(timed(|rounds| pool.broadcast(|_| kernels.multiply_int8(rounds)).into_iter().sum()))
}

/// A function that performs rounds and returns their operations, with the time that they take.
fn timed(multiply: impl Fn(usize) -> u64) -> impl Fn(usize) -> (u64, Duration) {
    move |rounds| {
        let started = Instant::now();
        (multiply(rounds), started.elapsed())
    }
}

/// As [`int8`], for a function that performs rounds and returns their operations and time.
fn int8_with(time: impl Fn(usize) -> (u64, Duration)) -> f64 {
    let mut rounds = 1000;
    while time(rounds).1 < PRODUCTS {
        rounds *= 2;
    }
    let tops = |(operations, time): (u64, Duration)| operations as f64 / time.as_secs_f64() / 1e12;
    (0..5).map(|_| tops(time(rounds))).fold(0.0, f64::max)
}

/// Speed of the disk that `path` is on, 10^9 bytes per second.
///
/// # Errors
/// The reason why it could not be measured.
pub fn disk(path: Option<&Path>) -> Result<f64, String> {
    let path = path.ok_or("the weights are not in a file")?;
    disk_with(path, Pattern::large(DISK))
}

/// As [`disk`], with reads of this pattern.
///
/// # Errors
/// As [`disk`].
pub fn disk_with(path: &Path, pattern: Pattern) -> Result<f64, String> {
    probe::read_speed(path, pattern).map(|speed| speed.gb_per_s())
}

/// Speed of a tier on one thread.
#[derive(Debug, Clone, Copy)]
pub struct TierSpeed {
    /// Int8 products in registers, 10^9 operations per second.
    pub int8_gops: f64,
    /// Product of one token with a matrix larger than the caches, 10^9 bytes of weights per second.
    pub matvec_gb_per_s: f64,
    /// Product of [`TIER_TOKENS`] tokens, 10^9 operations per second.
    pub matmul_gops: f64,
}

/// Format on which tiers are compared.
pub const TIER_FORMAT: Format = Format::Q4_0;
/// Tokens of the larger product.
pub const TIER_TOKENS: usize = 128;
/// Weights per row of the matrices.
const COLS: usize = 2048;
/// Rows of a matrix larger than the caches, and of one that is reused.
const ROWS: [usize; 2] = [32768, 1024];

/// Measures the kernels of a tier on this thread.
pub fn tier(isa: Isa) -> Option<TierSpeed> {
    let kernels = Kernels::for_isa(isa)?;
    let bytes = generate::weights(TIER_FORMAT, ROWS[0] * TIER_FORMAT.row_bytes(COLS)?);
    let large = QMatrix::new(TIER_FORMAT, ROWS[0], COLS, &bytes).ok()?;
    let one = product_seconds(kernels, large, 1);
    let many = product_seconds(kernels, large.slice_rows(0..ROWS[1]), TIER_TOKENS);
    Some(TierSpeed {
        int8_gops: 1000.0 * int8_with(timed(|rounds| kernels.multiply_int8(rounds))),
        matvec_gb_per_s: bytes.len() as f64 / one / 1e9,
        matmul_gops: (2 * ROWS[1] * COLS * TIER_TOKENS) as f64 / many / 1e9,
    })
}

/// Seconds of the fastest of several products of `matrix` with `tokens` tokens.
fn product_seconds(kernels: &Kernels, matrix: QMatrix<'_>, tokens: usize) -> f64 {
    let (kind, cols) = (ActivationKind::of(matrix.format()), matrix.cols());
    let lines = activations(kernels, kind, &vec![0.5; tokens * cols], cols);
    let (x, mut out) = (Activations::new(kind, tokens, cols, &lines), vec![0.0; tokens * matrix.rows()]);
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    while best.is_infinite() || begun.elapsed() < 3 * PRODUCTS {
        let started = Instant::now();
        kernels.matmul(black_box(matrix), x, black_box(&mut out));
        best = best.min(started.elapsed().as_secs_f64());
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_cache_counts() {
        let root = tempfile::tempdir().unwrap();
        for (index, size) in ["48K", "2048K", "36864K"].into_iter().enumerate() {
            let folder = root.path().join(format!("sys/devices/system/cpu/cpu0/cache/index{index}"));
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("size"), format!("{size}\n")).unwrap();
        }
        assert_eq!(largest_cache(&System::at(root.path())), Some(36 << 20));
        assert_eq!(largest_cache(&System::at(Path::new("/nowhere"))), None);
    }

    #[test]
    fn products_are_counted_per_second() {
        // Ten million rounds per second, a million operations each; each call is slower than the one before.
        let slower = std::cell::Cell::new(0);
        let tops = int8_with(|rounds| {
            let delay = slower.replace(slower.get() + 1);
            (rounds as u64 * 1_000_000, Duration::from_nanos(rounds as u64 * 100 + delay))
        });
        assert!((tops - 10.0).abs() < 1e-3, "{tops}");
        assert!(disk(None).unwrap_err().contains("not in a file"));
    }
}
