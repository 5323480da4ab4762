//! [`super::idle`] under many schedules: a pool of modelled workers in place of rayon's, whose tasks wake no
//! worker. So a region ends only if the workers that should look for tasks do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::PoisonError;

use super::sync::modelled as sync;
use super::sync::modelled::{Condvar, Mutex, MutexGuard, explore};

/// The code under test, with the modelled primitives.
#[allow(dead_code, clippy::duplicate_mod, reason = "a second copy, of which the tests use a part")]
#[path = "idle.rs"]
mod idle;

use idle::Idle;

/// Workers of the pool.
const WORKERS: usize = 3;
/// Looks before a worker parks.
const LAST_LOOKS: u32 = 2;

/// What a worker can be asked to do.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// Look for tasks.
    Look,
    /// End.
    Stop,
}

/// A task of a region.
#[derive(Debug, Clone, Copy)]
struct Task {
    /// The pass that waits for it.
    pass: usize,
    /// Whether it needs as many tasks at the same time as there are workers.
    together: bool,
}

/// Tasks, and jobs of each worker.
#[derive(Default)]
struct Queues {
    tasks: VecDeque<Task>,
    jobs: [VecDeque<Job>; WORKERS],
    /// Tasks of each pass that have not been run.
    open: [usize; 2],
    /// Tasks that run at the same time.
    met: usize,
}

struct Pool {
    queues: Mutex<Queues>,
    /// A worker has a job.
    job: Condvar,
    /// A task has been run.
    done: Condvar,
    idle: Idle,
}

impl Pool {
    fn new() -> Arc<Self> {
        let queues = Mutex::default();
        Arc::new(Self { queues, job: Condvar::new(), done: Condvar::new(), idle: Idle::new(LAST_LOOKS) })
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask_all(&self, job: Job) {
        self.lock().jobs.iter_mut().for_each(|jobs| jobs.push_back(job));
        self.job.notify_all();
    }

    /// What a worker does until it is told to stop.
    fn work(&self, worker: usize) {
        let mut queues = self.lock();
        loop {
            match queues.jobs[worker].pop_front() {
                Some(Job::Look) => {
                    drop(queues);
                    self.idle.look(|| {
                        sync::yield_now();
                        self.take(worker)
                    });
                    queues = self.lock();
                }
                Some(Job::Stop) => return,
                None => queues = self.job.wait(queues).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Runs a task, or a request to look, which a worker that looks has nothing to do for.
    fn take(&self, worker: usize) -> bool {
        let mut queues = self.lock();
        if let Some(Job::Look) = queues.jobs[worker].front() {
            queues.jobs[worker].pop_front();
            return true;
        }
        let Some(task) = queues.tasks.pop_front() else { return false };
        if task.together {
            queues.met += 1;
            self.done.notify_all();
            while queues.met < WORKERS {
                queues = self.done.wait(queues).unwrap_or_else(PoisonError::into_inner);
            }
        }
        queues.open[task.pass] -= 1;
        self.done.notify_all();
        true
    }

    /// A region of some tasks, which only workers run.
    fn region(&self, pass: usize, tasks: usize) {
        self.tasks(Task { pass, together: false }, tasks);
    }

    /// A region that needs every worker at the same time.
    fn meeting(&self, pass: usize) {
        self.lock().met = 0;
        self.tasks(Task { pass, together: true }, WORKERS);
    }

    fn tasks(&self, task: Task, count: usize) {
        let mut queues = self.lock();
        queues.tasks.extend(std::iter::repeat_n(task, count));
        queues.open[task.pass] += count;
        while queues.open[task.pass] > 0 {
            queues = self.done.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A pass as [`crate::runtime::pool::Pool`] runs it.
    fn pass(&self, work: impl FnOnce()) {
        let (_pass, looking) = self.idle.begin();
        if looking < WORKERS {
            self.ask_all(Job::Look);
        }
        work();
    }
}

/// A disk that answers when its thread comes to it.
#[derive(Default)]
struct Disk(Mutex<bool>, Condvar);

impl Disk {
    fn answer(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn wait(&self) {
        let mut answered = self.0.lock().unwrap();
        while !*answered {
            answered = self.1.wait(answered).unwrap();
        }
    }
}

/// Runs `work` with the workers, and checks that they are all free afterwards.
fn with_workers(work: impl FnOnce(&Arc<Pool>)) {
    let pool = Pool::new();
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let pool = Arc::clone(&pool);
            shuttle::thread::spawn(move || pool.work(worker))
        })
        .collect();
    work(&pool);
    pool.ask_all(Job::Stop);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    assert!(pool.idle.is_unused(), "{:?}", pool.idle);
}

/// A pass of two regions with a wait for the disk between them.
fn streams(pool: &Pool, regions: [&dyn Fn(); 2]) {
    let disk = Arc::new(Disk::default());
    let reader = {
        let disk = Arc::clone(&disk);
        shuttle::thread::spawn(move || disk.answer())
    };
    pool.pass(|| {
        regions[0]();
        let resting = pool.idle.rest();
        disk.wait();
        drop(resting);
        regions[1]();
    });
    reader.join().unwrap();
}

#[test]
fn workers_wake_after_every_wait() {
    explore(4000, || {
        with_workers(|pool| {
            streams(pool, [&|| pool.region(0, 2), &|| pool.meeting(0)]);
            // The next pass follows at once, while workers stop looking.
            pool.pass(|| pool.meeting(0));
        });
    });
}

#[test]
fn passes_at_the_same_time_do_not_park_each_others_workers() {
    explore(4000, || {
        with_workers(|pool| {
            let other = {
                let pool = Arc::clone(pool);
                shuttle::thread::spawn(move || streams(&pool, [&|| pool.region(1, 1), &|| pool.region(1, 2)]))
            };
            streams(pool, [&|| pool.region(0, 2), &|| pool.region(0, 2)]);
            other.join().unwrap();
        });
    });
}

#[test]
fn a_pass_is_served_while_another_waits_for_ever() {
    explore(2000, || {
        with_workers(|pool| {
            let disk = Arc::new(Disk::default());
            let stuck = {
                let (pool, disk) = (Arc::clone(pool), Arc::clone(&disk));
                shuttle::thread::spawn(move || {
                    pool.pass(|| {
                        let _resting = pool.idle.rest();
                        disk.wait();
                    });
                })
            };
            pool.pass(|| pool.region(1, 2));
            // Only now the disk answers.
            disk.answer();
            stuck.join().unwrap();
        });
    });
}

#[test]
fn a_pass_that_panics_while_it_waits_leaves_workers_that_go_on() {
    explore(2000, || {
        with_workers(|pool| {
            let broken = moelten_loader::supervise::caught("pass", || {
                pool.pass(|| {
                    let _resting = pool.idle.rest();
                    std::panic::resume_unwind(Box::new("the disk is gone"));
                });
            });
            assert_eq!(broken, Err("pass: the disk is gone".to_owned()));
            pool.pass(|| pool.region(0, 2));
        });
    });
}
