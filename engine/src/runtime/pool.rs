//! The worker threads: one rayon pool, placed as `topology` planned, and one way to split rows over it. Every row is
//! computed by exactly one task in a fixed order, so the number of threads never changes a bit of a result.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{EngineError, Result};
use crate::runtime::rest::Rest;
use crate::runtime::topology::{Placement, ThreadPlan};

/// Tasks per thread in a parallel region: enough for threads to finish together, few enough to cost nothing.
const TASKS_PER_THREAD: usize = 4;
/// Looks for tasks before a worker offers its core to other processes: some microseconds.
const PATIENCE: u32 = 64;
/// Parts per thread of a region that is split by halves, at the finest.
const FINEST: usize = 32;
/// Rows of a task are a multiple of this, so that kernels work on whole register tiles.
const ROW_STEP: usize = 8;

/// Looks for tasks of a worker during a rest before it parks: about as long as waking it takes.
const LAST_LOOKS: u32 = 2048;

/// Worker threads.
pub struct Pool {
    pool: rayon::ThreadPool,
    plan: ThreadPlan,
    rest: Rest,
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
        Ok(Self { pool, plan, rest: Rest::default() })
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
    /// tasks instead of falling asleep between regions: waking one takes longer than many a region. No region waits for a
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
                        self.look_for_tasks(&ended);
                    }
                });
                // Also when `work` panics.
                let _end = EndOnDrop(&ended);
                work()
            })
        })
    }

    /// As [`Self::install`], while `beside` runs on this thread, which is none of the workers.
    pub fn install_beside<R: Send>(&self, work: impl FnOnce() -> R + Send, mut beside: impl FnMut()) -> R {
        let mut result = None;
        self.pool.in_place_scope(|scope| {
            scope.spawn(|_| result = Some(self.install(work)));
            beside();
        });
        result.expect("the scope has waited for it")
    }

    /// Does `work`, which waits for something and computes nothing, on this worker. The others park meanwhile.
    pub fn rest_during<R>(&self, work: impl FnOnce() -> R) -> R {
        let _resting = self.rest.begin();
        work()
    }

    /// Takes tasks of the pool until `ended`.
    fn look_for_tasks(&self, ended: &AtomicBool) {
        // A worker that was quicker to take a task than to look may come here while it waits inside that task: what ends the
        // looking would wait for the task, and the task for this.
        if WAITING.get() > 0 {
            return;
        }
        let mut idle = 0_u32;
        while !ended.load(Ordering::Acquire) {
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => idle = 0,
                _ => {
                    idle = idle.saturating_add(1);
                    std::hint::spin_loop();
                    if idle.is_multiple_of(PATIENCE) {
                        // Another process may want the core.
                        std::thread::yield_now();
                    }
                    if idle >= LAST_LOOKS && self.rest.is_resting() {
                        self.rest.park();
                        idle = 0;
                    }
                }
            }
        }
    }

    /// Splits `out` (`[rows, width]`) into runs of rows and calls `work(rows, their part of out)` for each.
    pub fn rows<T: Send>(&self, out: &mut [T], width: usize, work: impl Fn(Range<usize>, &mut [T]) + Sync) {
        let rows = out.len() / width.max(1);
        let step = rows.div_ceil(self.threads() * TASKS_PER_THREAD).next_multiple_of(ROW_STEP);
        self.chunks(out, width, step, work);
    }

    /// As [`Self::rows`], with `step` rows per task.
    pub fn chunks<T: Send>(
        &self,
        out: &mut [T],
        width: usize,
        step: usize,
        work: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        let tasks = (out.len() / width.max(1)).div_ceil(step);
        self.parts(
            out,
            tasks,
            |task| task * step * width,
            |task, part| {
                let first = task * step;
                work(first..first + part.len() / width, part);
            },
        );
    }

    /// As [`Self::chunks`] for two buffers with as many rows, `[rows, a_width]` and `[rows, b_width]`.
    pub fn chunks_of_two<A: Send, B: Send>(
        &self,
        (a, a_width): (&mut [A], usize),
        (b, b_width): (&mut [B], usize),
        step: usize,
        work: impl Fn(Range<usize>, &mut [A], &mut [B]) + Sync,
    ) {
        let rows = a.len() / a_width;
        assert_eq!(rows, b.len() / b_width, "both have the same rows");
        self.run(
            Two { a, a_width, b, b_width },
            rows.div_ceil(step),
            &|task| task * step,
            &|task, Two { a, b, .. }: Two<'_, A, B>| {
                let first = task * step;
                work(first..first + a.len() / a_width, a, b);
            },
        );
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
        self.run(out, tasks, &start, &work);
    }

    fn run<P: Part>(
        &self,
        out: P,
        tasks: usize,
        start: &(impl Fn(usize) -> usize + Sync),
        work: &(impl Fn(usize, P) + Sync),
    ) {
        let alone = if self.threads() == 1 { tasks } else { tasks.div_ceil(self.threads() * FINEST) };
        split(out, 0..tasks, alone.max(1), start, work);
    }
}

thread_local! {
    /// Regions that this thread waits in.
    static WAITING: Cell<u32> = const { Cell::new(0) };
}

/// Sets a flag when it goes.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Memory that tasks write, each a part of it.
trait Part: Send + Sized {
    /// What is before and from `at` on, counted as `start` of a region counts.
    fn cut(self, at: usize) -> (Self, Self);
}

impl<T: Send> Part for &mut [T] {
    fn cut(self, at: usize) -> (Self, Self) {
        self.split_at_mut(at)
    }
}

/// Rows of two buffers.
struct Two<'a, A, B> {
    a: &'a mut [A],
    a_width: usize,
    b: &'a mut [B],
    b_width: usize,
}

impl<A: Send, B: Send> Part for Two<'_, A, B> {
    fn cut(self, rows: usize) -> (Self, Self) {
        let Self { a_width, b_width, .. } = self;
        let (a, a_rest) = self.a.split_at_mut(rows * a_width);
        let (b, b_rest) = self.b.split_at_mut(rows * b_width);
        (Self { a, a_width, b, b_width }, Self { a: a_rest, a_width, b: b_rest, b_width })
    }
}

/// Runs a range of tasks: `alone` or fewer in order, more by halves that another thread may take.
fn split<P: Part>(
    out: P,
    tasks: Range<usize>,
    alone: usize,
    start: &(impl Fn(usize) -> usize + Sync),
    work: &(impl Fn(usize, P) + Sync),
) {
    if tasks.is_empty() {
        return;
    }
    if tasks.len() <= alone {
        let mut rest = out;
        for task in tasks.start..tasks.end - 1 {
            let (part, others) = rest.cut(start(task + 1) - start(task));
            work(task, part);
            rest = others;
        }
        return work(tasks.end - 1, rest);
    }
    let middle = tasks.start + tasks.len() / 2;
    let (left, right) = out.cut(start(middle) - start(tasks.start));
    let _waiting = Waiting::begin();
    rayon::join(
        || split(left, tasks.start..middle, alone, start, work),
        || split(right, middle..tasks.end, alone, start, work),
    );
}

/// While this lives its thread waits in a region.
struct Waiting;

impl Waiting {
    fn begin() -> Self {
        WAITING.set(WAITING.get() + 1);
        Self
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        WAITING.set(WAITING.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::topology::Pin;

    #[test]
    fn every_row_is_given_out_once() {
        for threads in [1, 2, 3] {
            let pool = Pool::new(ThreadPlan::here(Some(threads), Pin::Off).unwrap()).unwrap();
            for (rows, step) in [(0, 1), (1, 1), (7, 2), (64, 5), (1000, 3)] {
                let (mut a, mut b) = (vec![0; rows * 3], vec![0; rows * 2]);
                pool.install(|| {
                    pool.chunks(&mut a, 3, step, |rows, part| {
                        assert_eq!(rows.len() * 3, part.len());
                        part.iter_mut().for_each(|x| *x += 1);
                    });
                    pool.chunks_of_two((&mut a, 3), (&mut b, 2), step, |rows, a, b| {
                        a.iter_mut().for_each(|x| *x += rows.start);
                        b.iter_mut().for_each(|x| *x += rows.start + 1);
                    });
                });
                let first = |row: usize| row / step * step;
                assert!(a.iter().enumerate().all(|(i, &x)| x == first(i / 3) + 1), "{threads} {rows} {step}");
                assert!(b.iter().enumerate().all(|(i, &x)| x == first(i / 2) + 1), "{threads} {rows} {step}");
            }
        }
    }

    /// A worker that takes a task before it is told to look for tasks must not look from inside that task.
    #[test]
    fn workers_that_look_for_tasks_never_stand_in_their_way() {
        let pool = Pool::new(ThreadPlan::here(Some(3), Pin::Off).unwrap()).unwrap();
        let mut out = vec![0_u32; 96];
        for _ in 0..50_000 {
            pool.install(|| pool.chunks(&mut out, 1, 1, |_, part| part.iter_mut().for_each(|x| *x += 1)));
        }
        assert!(out.iter().all(|&x| x == 50_000));
    }
}
