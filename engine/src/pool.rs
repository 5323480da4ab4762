//! The worker threads: one rayon pool, pinned where the system allows it, and one way to split rows over it. Every
//! row is computed by exactly one task in a fixed order, so the number of threads never changes a bit of a result.

use std::ops::Range;

use rayon::prelude::*;

use crate::error::{EngineError, Result};

/// Tasks per thread in a parallel region: enough for threads to finish together, few enough to cost nothing.
const TASKS_PER_THREAD: usize = 4;
/// Rows of a task are a multiple of this, so that kernels work on whole register tiles.
const ROW_STEP: usize = 8;

/// Worker threads.
pub struct Pool {
    pool: rayon::ThreadPool,
    threads: usize,
}

impl Pool {
    /// Starts `threads` workers, each pinned to its core when they are as many as the cores. Fewer are left to the
    /// system: the first cores may be busy with another process, or be two halves of one.
    ///
    /// # Errors
    /// [`EngineError::Threads`].
    pub fn new(threads: usize) -> Result<Self> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let pin = threads == cores.len() && threads > 1;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("moelten-{index}"))
            .start_handler(move |index| {
                if let Some(&core) = cores.get(index).filter(|_| pin) {
                    // A refusal costs speed, not correctness: pinning is a hint.
                    let _ = core_affinity::set_for_current(core);
                }
            })
            .build()
            .map_err(|error| EngineError::Threads { threads, problem: error.to_string() })?;
        Ok(Self { pool, threads })
    }

    /// How many threads this process may use.
    pub fn default_threads() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on a worker; the other methods must be called from inside.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Splits `out` (`[rows, width]`) into runs of rows and calls `work(rows, their part of out)` for each.
    pub fn rows(&self, out: &mut [f32], width: usize, work: impl Fn(Range<usize>, &mut [f32]) + Sync) {
        let rows = out.len() / width.max(1);
        let step = rows.div_ceil(self.threads * TASKS_PER_THREAD).next_multiple_of(ROW_STEP);
        self.chunks(out, width, step, work);
    }

    /// As [`Self::chunks`] for two buffers with as many rows, `[rows, a_width]` and `[rows, b_width]`.
    pub fn chunks_of_two<A: Send, B: Send>(
        &self,
        (a, a_width): (&mut [A], usize),
        (b, b_width): (&mut [B], usize),
        step: usize,
        work: impl Fn(Range<usize>, &mut [A], &mut [B]) + Sync,
    ) {
        assert_eq!(a.len() / a_width, b.len() / b_width, "both have the same rows");
        let run = |index: usize, a: &mut [A], b: &mut [B]| {
            let first = index * step;
            work(first..first + a.len() / a_width, a, b);
        };
        if self.threads == 1 || a.len() <= step * a_width {
            let parts = a.chunks_mut(step * a_width).zip(b.chunks_mut(step * b_width));
            parts.enumerate().for_each(|(index, (a, b))| run(index, a, b));
        } else {
            a.par_chunks_mut(step * a_width)
                .zip(b.par_chunks_mut(step * b_width))
                .enumerate()
                .with_max_len(1)
                .for_each(|(index, (a, b))| run(index, a, b));
        }
    }

    /// As [`Self::rows`], with `step` rows per task.
    pub fn chunks(
        &self,
        out: &mut [f32],
        width: usize,
        step: usize,
        work: impl Fn(Range<usize>, &mut [f32]) + Sync,
    ) {
        let run = |index: usize, part: &mut [f32]| {
            let first = index * step;
            work(first..first + part.len() / width, part);
        };
        if self.threads == 1 || out.len() <= step * width {
            out.chunks_mut(step * width).enumerate().for_each(|(index, part)| run(index, part));
        } else {
            out.par_chunks_mut(step * width)
                .enumerate()
                .with_max_len(1)
                .for_each(|(index, part)| run(index, part));
        }
    }
}
