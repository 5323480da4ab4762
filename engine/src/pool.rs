//! The worker threads: one rayon pool, placed as `topology` planned, and one way to split rows over it. Every row is
//! computed by exactly one task in a fixed order, so the number of threads never changes a bit of a result.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::error::{EngineError, Result};
use crate::topology::{Placement, ThreadPlan};

/// Tasks per thread in a parallel region: enough for threads to finish together, few enough to cost nothing.
const TASKS_PER_THREAD: usize = 4;
/// Looks for tasks before a worker offers its core to other processes: some microseconds.
const PATIENCE: u32 = 64;
/// Parts per thread of a region that is split by halves, at the finest.
const FINEST: usize = 32;
/// Rows of a task are a multiple of this, so that kernels work on whole register tiles.
const ROW_STEP: usize = 8;

/// Worker threads.
pub struct Pool {
    pool: rayon::ThreadPool,
    plan: ThreadPlan,
}

impl Pool {
    /// Starts the workers of `plan`.
    ///
    /// # Errors
    /// [`EngineError::Threads`].
    pub fn new(plan: ThreadPlan) -> Result<Self> {
        let threads = plan.threads;
        let cpus = match &plan.placement {
            Placement::Pinned(cpus) => cpus.clone(),
            Placement::Free(_) => Vec::new(),
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|index| format!("moelten-{index}"))
            .start_handler(move |index| {
                if let Some(&id) = cpus.get(index) {
                    // A refusal costs speed, not correctness: pinning is a hint.
                    let _ = core_affinity::set_for_current(core_affinity::CoreId { id });
                }
            })
            .build()
            .map_err(|error| EngineError::Threads { threads, problem: error.to_string() })?;
        Ok(Self { pool, plan })
    }

    /// How many workers there are and where they run.
    pub fn plan(&self) -> &ThreadPlan {
        &self.plan
    }

    /// Number of workers.
    pub fn threads(&self) -> usize {
        self.plan.threads
    }

    /// Runs `work(index)` on every worker at the same time and collects what it returns, by worker.
    pub fn broadcast<R: Send>(&self, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
        self.pool.broadcast(|context| work(context.index()))
    }

    /// Runs `work` on a worker; the other methods must be called from inside. While it runs the other workers look for
    /// tasks instead of falling asleep between regions: waking one takes longer than many a region. Nobody waits for a
    /// worker that the system has taken off its core: its tasks are taken by others.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(|| {
            if self.threads() == 1 {
                return work();
            }
            let (ended, worker) = (AtomicBool::new(false), rayon::current_thread_index());
            rayon::scope(|scope| {
                scope.spawn_broadcast(|_, context| {
                    if Some(context.index()) != worker {
                        look_for_tasks(&ended);
                    }
                });
                // Also when `work` panics.
                let _end = EndOnDrop(&ended);
                work()
            })
        })
    }

    /// Splits `out` (`[rows, width]`) into runs of rows and calls `work(rows, their part of out)` for each.
    pub fn rows<T: Send>(&self, out: &mut [T], width: usize, work: impl Fn(Range<usize>, &mut [T]) + Sync) {
        let rows = out.len() / width.max(1);
        let step = rows.div_ceil(self.threads() * TASKS_PER_THREAD).next_multiple_of(ROW_STEP);
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
        if self.threads() == 1 || a.len() <= step * a_width {
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
    pub fn chunks<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        step: usize,
        work: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        let run = |index: usize, part: &mut [T]| {
            let first = index * step;
            work(first..first + part.len() / width, part);
        };
        if self.threads() == 1 || out.len() <= step * width {
            out.chunks_mut(step * width).enumerate().for_each(|(index, part)| run(index, part));
        } else {
            out.par_chunks_mut(step * width)
                .enumerate()
                .with_max_len(1)
                .for_each(|(index, part)| run(index, part));
        }
    }

    /// Calls `work(task, its part of out)` for each of `tasks` tasks; `start(task)` is where a part starts, and the last ends
    /// where `out` ends. Neighbouring tasks mostly stay on one thread, which is where the memory they read is.
    pub fn parts<T: Send>(
        &self,
        out: &mut [T],
        tasks: usize,
        start: impl Fn(usize) -> usize + Sync,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let alone = if self.threads() == 1 { tasks } else { tasks.div_ceil(self.threads() * FINEST) };
        split(out, 0..tasks, alone.max(1), &start, &work);
    }
}

/// Takes tasks of the pool until `ended`.
fn look_for_tasks(ended: &AtomicBool) {
    let mut idle = 0;
    while !ended.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(rayon::Yield::Executed) => idle = 0,
            _ => {
                idle += 1;
                std::hint::spin_loop();
                if idle % PATIENCE == 0 {
                    // Another process may want the core.
                    std::thread::yield_now();
                }
            }
        }
    }
}

/// Sets a flag when it goes.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs a range of tasks: `alone` or fewer in order, more by halves that another thread may take.
fn split<T: Send>(
    out: &mut [T],
    tasks: Range<usize>,
    alone: usize,
    start: &(impl Fn(usize) -> usize + Sync),
    work: &(impl Fn(usize, &mut [T]) + Sync),
) {
    if tasks.len() <= alone {
        let mut rest = out;
        for task in tasks.clone() {
            let len = if task + 1 == tasks.end { rest.len() } else { start(task + 1) - start(task) };
            let (part, others) = rest.split_at_mut(len);
            work(task, part);
            rest = others;
        }
        return;
    }
    let middle = tasks.start + tasks.len() / 2;
    let (left, right) = out.split_at_mut(start(middle) - start(tasks.start));
    rayon::join(
        || split(left, tasks.start..middle, alone, start, work),
        || split(right, middle..tasks.end, alone, start, work),
    );
}
