//! The worker threads: one rayon pool, placed as `topology` planned, and one way to split rows over it. Every
//! row is computed by exactly one task in a fixed order, so the number of threads never changes a bit of a
//! result.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use moelten_loader::supervise::room_for_threads;

use crate::error::{EngineError, Result};
use crate::runtime::idle::{Idle, Pass};
use crate::runtime::shares::{Board, Divide, Speeds};
use crate::runtime::topology::{Placement, ThreadPlan};

/// Tasks per thread in a parallel region: enough for threads to finish together, few enough to cost nothing.
const TASKS_PER_THREAD: usize = 4;
/// Parts per thread of a region that is split by halves, at the finest.
const FINEST: usize = 32;
/// Rows of a task are a multiple of this, so that kernels work on whole register tiles.
const ROW_STEP: usize = 8;
/// Looks for tasks of a worker before it parks while passes wait: about as long as waking it takes.
const LAST_LOOKS: u32 = 2048;

/// Worker threads.
pub struct Pool {
    pool: rayon::ThreadPool,
    plan: ThreadPlan,
    idle: Arc<Idle>,
    speeds: Speeds,
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
        let refused = |problem: String| EngineError::Threads { threads, problem };
        room_for_threads(threads).map_err(|error| refused(error.to_string()))?;
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
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { pool, plan, idle: Arc::new(Idle::new(LAST_LOOKS)), speeds: Speeds::alike(threads) })
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
        // Wakes workers that are parked.
        let _pass = self.idle.begin();
        self.pool.broadcast(|context| {
            let _busy = Busy::begin();
            work(context.index())
        })
    }

    /// Runs `work`, a pass, on a worker; the other methods must be called from inside. Meanwhile the other
    /// workers look for tasks instead of falling asleep between regions: waking one takes longer than many a
    /// region. No region waits for a worker that the system has taken off its core: its tasks are taken by
    /// others. A panic of `work` or of a task goes on in the caller.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let pass = self.begin();
        self.pool.install(|| self.run_pass(pass, work))
    }

    /// As [`Self::install`], while `beside` runs on this thread, which is none of the workers.
    pub fn install_beside<R: Send>(&self, work: impl FnOnce() -> R + Send, mut beside: impl FnMut()) -> R {
        let mut result = None;
        let pass = self.begin();
        self.pool.in_place_scope(|scope| {
            scope.spawn(|_| result = Some(self.run_pass(pass, work)));
            beside();
        });
        result.expect("the scope has waited for it")
    }

    /// Does `work`, which waits for the disk and computes nothing, in the pass that this worker runs. The
    /// other workers park meanwhile if no other pass computes.
    pub fn rest_during<R>(&self, work: impl FnOnce() -> R) -> R {
        let _resting = (self.threads() > 1).then(|| self.idle.rest());
        work()
    }

    /// Begins a pass, before a worker is asked to run it, because all of them may be parked. Also returns how
    /// many workers look for tasks. `None` where there is only one worker.
    fn begin(&self) -> Option<(Pass<'_>, usize)> {
        (self.threads() > 1).then(|| self.idle.begin())
    }

    /// Runs a pass on this worker, while the others look for tasks.
    fn run_pass<R>(&self, pass: Option<(Pass<'_>, usize)>, work: impl FnOnce() -> R) -> R {
        let _busy = Busy::begin();
        let Some((_pass, looking)) = pass else { return work() };
        // This worker may have found the pass while it looked.
        let others = self.threads() - 1 + usize::from(LOOKING.get());
        if looking < others {
            let idle = Arc::clone(&self.idle);
            self.pool.spawn_broadcast(move |_| look_for_tasks(&idle));
        }
        work()
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

    /// Calls `work(task, its part of out)` for each of `tasks` tasks; `start(task)` is where a part starts,
    /// and the last ends where `out` ends. Neighbouring tasks mostly stay on one thread, which is where the
    /// memory they read is.
    pub fn parts<T: Send>(
        &self,
        out: &mut [T],
        tasks: usize,
        start: impl Fn(usize) -> usize + Sync,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        self.run(out, tasks, &start, &work);
    }

    /// Calls `work(units, their part of out)` for ranges of `units` units; `start(unit)` is where a unit
    /// starts in `out`. The pool chooses the ranges, of at least `least` units as far as there are as many:
    /// long ones first, by the speed of each worker, and short ones in the end, which go to workers that are
    /// done.
    pub fn ranges<T: Send>(
        &self,
        out: &mut [T],
        units: usize,
        least: usize,
        start: impl Fn(usize) -> usize + Sync,
        work: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        if self.threads() == 1 || units < 2 * least.max(1) {
            return if units > 0 {
                work(0..units, out)
            };
        }
        let board = Board::new(out, units, least, &start, &self.speeds);
        let as_worker = || {
            let index = rayon::current_thread_index().unwrap_or(0).min(self.threads() - 1);
            board.work(index, &work);
        };
        on_each(self.threads(), &as_worker);
        board.tell(&self.speeds);
    }

    fn run<P: Divide>(
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
    /// How many passes, regions and loops of this module are on this thread's stack.
    static BUSY: Cell<u32> = const { Cell::new(0) };
    /// Whether the outermost of them looks for tasks.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

/// Counts as busy the thread that it lives on.
struct Busy;

impl Busy {
    fn begin() -> Self {
        BUSY.set(BUSY.get() + 1);
        Self
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(BUSY.get() - 1);
    }
}

/// Takes tasks of the pool as long as there is a pass.
fn look_for_tasks(idle: &Idle) {
    // A worker may come here while it waits for tasks of a region that others have taken: the region would
    // wait for the end of the pass, and the pass for the region.
    if BUSY.get() > 0 {
        return;
    }
    let _busy = Busy::begin();
    LOOKING.set(true);
    idle.look(|| matches!(rayon::yield_now(), Some(rayon::Yield::Executed)));
    LOOKING.set(false);
}

/// Rows of two buffers.
struct Two<'a, A, B> {
    a: &'a mut [A],
    a_width: usize,
    b: &'a mut [B],
    b_width: usize,
}

impl<A: Send, B: Send> Divide for Two<'_, A, B> {
    fn cut(self, rows: usize) -> (Self, Self) {
        let Self { a_width, b_width, .. } = self;
        let (a, a_rest) = self.a.split_at_mut(rows * a_width);
        let (b, b_rest) = self.b.split_at_mut(rows * b_width);
        (Self { a, a_width, b, b_width }, Self { a: a_rest, a_width, b: b_rest, b_width })
    }
}

/// Calls `work` `times` times, at the same time if workers are free.
fn on_each(times: usize, work: &(impl Fn() + Sync)) {
    if times <= 1 {
        return work();
    }
    let _busy = Busy::begin();
    rayon::join(|| on_each(times / 2, work), || on_each(times - times / 2, work));
}

/// Runs a range of tasks: `alone` or fewer in order, more by halves that another thread may take.
fn split<P: Divide>(
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
    let _busy = Busy::begin();
    rayon::join(
        || split(left, tasks.start..middle, alone, start, work),
        || split(right, middle..tasks.end, alone, start, work),
    );
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::runtime::topology::Pin;
    use moelten_loader::supervise::caught;

    fn pool(threads: usize) -> Pool {
        Pool::new(ThreadPlan::here(Some(threads), Pin::Off).unwrap()).unwrap()
    }

    /// A region that needs every worker: each task waits until all are there.
    fn meet(pool: &Pool) {
        let there = std::sync::Barrier::new(pool.threads());
        pool.chunks(&mut vec![0; pool.threads()], 1, 1, |_, _| _ = there.wait());
    }

    #[test]
    fn every_row_is_given_out_once() {
        for threads in [1, 2, 3] {
            let pool = pool(threads);
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
        let pool = pool(3);
        let mut out = vec![0_u32; 96];
        for _ in 0..50_000 {
            pool.install(|| pool.chunks(&mut out, 1, 1, |_, part| part.iter_mut().for_each(|x| *x += 1)));
        }
        assert!(out.iter().all(|&x| x == 50_000));
    }

    /// All workers may be parked when it comes.
    #[test]
    fn a_pass_is_served_while_another_waits_for_the_disk() {
        let pool = pool(2);
        std::thread::scope(|scope| {
            let ((answer, disk), (began, begun)) = (channel(), channel());
            let pool = &pool;
            let waiting = scope.spawn(move || {
                pool.install(move || {
                    pool.rest_during(|| {
                        began.send(()).unwrap();
                        disk.recv_timeout(Duration::from_secs(20))
                    })
                })
            });
            begun.recv().unwrap();
            // Long enough for the other worker to park.
            std::thread::sleep(Duration::from_millis(50));
            pool.install(|| pool.chunks(&mut [0; 64], 1, 1, |_, part| part[0] += 1));
            answer.send(()).unwrap();
            assert_eq!(waiting.join().unwrap(), Ok(()), "the other pass did not wait for this one");
        });
    }

    #[test]
    fn a_panic_goes_on_in_the_caller_and_the_workers_go_on() {
        let pool = pool(3);
        for round in 0..50 {
            let broken = caught("pass", || {
                pool.install(|| {
                    if round % 2 == 0 {
                        pool.rest_during(|| panic!("of the pass"));
                    }
                    pool.chunks(&mut [0; 96], 1, 1, |rows, _| assert!(rows.start != 77, "of a task"));
                });
            });
            let message = if round % 2 == 0 { "pass: of the pass" } else { "pass: of a task" };
            assert_eq!(broken, Err(message.to_owned()));
            assert_eq!(pool.broadcast(|index| index), [0, 1, 2], "all workers are there");
            pool.install(|| meet(&pool));
        }
        let beside = caught("pass", || pool.install_beside(|| panic!("beside"), || ()));
        assert_eq!(beside, Err("pass: beside".to_owned()));
        let started = Instant::now();
        while !pool.idle.is_unused() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "workers look without a pass: {:?}",
                pool.idle
            );
            std::thread::yield_now();
        }
    }
}
