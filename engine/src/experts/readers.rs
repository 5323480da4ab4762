//! The threads that read, and the lock that they share with requests: two queues, needs before prefetches.
//! They are not workers of the pool and tied to no CPU; they mostly sleep in the system. They must not know
//! what an expert is for.
//!
//! What changes under the lock is announced by one of two condition variables: `work` when there is something
//! for readers (a part to read, memory to discard, the end), `arrived` when there is something for requests
//! (an expert, an error, a slot that became free).

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use moelten_loader::io::pieces::Piece;

use super::cache::{Cache, State};
use super::source::{PART, Part, Source, Tensors};
use super::stats::StoreStats;
use super::sync::{Condvar, JoinHandle, Mutex, MutexGuard, now, supervised};
use super::touch::{Due, Touch};
use moelten_loader::supervise::caught;

/// The number of readers, each with one read in flight.
pub const DEPTH: usize = 4;

/// How long the drop of a store waits for reads in flight.
const PATIENCE: Duration = Duration::from_millis(50);

/// What the lock guards.
pub struct Queues {
    /// Which expert is in which slot.
    pub cache: Cache,
    /// Parts of reads that a request waits for.
    pub needs: VecDeque<Part>,
    /// Parts of prefetches.
    pub guesses: VecDeque<Part>,
    /// The first error of each entry that a request waits for.
    pub problems: Vec<(u32, io::Error)>,
    /// Counters of reads and requests.
    pub stats: StoreStats,
    /// The number of reads in flight, and since when there has been one.
    busy: (usize, Option<Instant>),
    /// Whether free slots are to be touched.
    pub touch: Touch,
    /// Why requests fail from now on, if a thread that the store depends on has panicked.
    pub broken: Option<String>,
    stop: bool,
}

/// Readers and what they share with the store.
pub struct Readers {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<Option<()>>>,
}

struct Inner {
    source: Source,
    tensors: Tensors,
    shared: Mutex<Queues>,
    /// There is work for readers.
    work: Condvar,
    /// Something has arrived.
    arrived: Condvar,
}

impl Readers {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system starts no thread at all.
    pub fn start(source: Source, tensors: Tensors, cache: Cache, stats: StoreStats) -> io::Result<Self> {
        let shared = Queues {
            cache,
            needs: VecDeque::new(),
            guesses: VecDeque::new(),
            problems: Vec::new(),
            stats,
            busy: (0, None),
            touch: Touch::default(),
            broken: None,
            stop: false,
        };
        let inner = Arc::new(Inner {
            source,
            tensors,
            shared: Mutex::new(shared),
            work: Condvar::new(),
            arrived: Condvar::new(),
        });
        let mut threads = Vec::new();
        for index in 0..DEPTH {
            let (reader, watched) = (Arc::clone(&inner), Arc::clone(&inner));
            let name = format!("moelten-read-{index}");
            let broken = move |message| watched.break_down(message);
            match supervised(&name, broken, move || reader.work(index == 0)) {
                Ok(thread) => threads.push(thread),
                Err(error) if threads.is_empty() => return Err(error),
                // With fewer readers the store is slower, not wrong.
                Err(_) => break,
            }
        }
        Ok(Self { inner, threads })
    }

    /// Where the bytes of experts come from.
    pub fn source(&self) -> &Source {
        &self.inner.source
    }

    /// Locks the queues and the cache.
    pub fn lock(&self) -> MutexGuard<'_, Queues> {
        self.inner.lock()
    }

    /// Makes every request fail with this message, because a thread that the store depends on has panicked.
    pub fn break_down(&self, message: String) {
        self.inner.break_down(message);
    }

    /// Gives the memory of all retired slots back to the system.
    pub fn discard_retired(&self) {
        let mut shared = self.lock();
        while shared.cache.has_retired() {
            shared = self.inner.discard(shared);
        }
    }

    /// Wakes the readers, because there is something for them to do.
    pub fn wake(&self) {
        self.inner.work.notify_all();
    }

    /// Wakes the readers if slots were retired whose memory has to be discarded.
    pub fn wake_for_retired(&self, shared: &Queues) {
        if shared.cache.has_retired() {
            self.wake();
        }
    }

    /// Waits until something arrives, at most for `time`: then the caller checks whether to stop.
    pub fn wait<'a>(&self, shared: MutexGuard<'a, Queues>, time: Duration) -> MutexGuard<'a, Queues> {
        self.inner.arrived.wait_timeout(shared, time).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        let mut shared = self.lock();
        shared.stop = true;
        self.wake();
        let asked = now();
        while shared.busy.0 > 0 && now().duration_since(asked) < PATIENCE {
            shared = self.wait(shared, Duration::from_millis(5));
        }
        if shared.busy.0 > 0 {
            // A drive does not answer. Its readers share ownership of what they use, and end when it answers.
            return;
        }
        drop(shared);
        for thread in self.threads.drain(..) {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        // The cache and the queues are consistent between statements that can panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until it is told to stop. One reader `touches` free slots when there is nothing else to do.
    fn work(&self, touches: bool) {
        let mut shared = self.lock();
        while !shared.stop {
            let Some(mut part) = shared.take() else {
                if shared.cache.has_retired() {
                    shared = self.discard(shared);
                    continue;
                }
                let due = if touches { shared.touch.due(now()) } else { Due::NotBefore };
                shared = match due {
                    Due::NotBefore => self.work.wait(shared).unwrap_or_else(PoisonError::into_inner),
                    Due::Now => self.touch(shared),
                    Due::In(later) => {
                        self.work.wait_timeout(shared, later).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
                continue;
            };
            drop(shared);
            let mut result = self.read(&mut part);
            let retried = result.is_err();
            if retried {
                // A second attempt may succeed after an error of the drive or the network.
                result = self.read(&mut part);
            }
            shared = self.lock();
            shared.stats.retries += u64::from(retried && result.is_ok());
            shared = self.back(shared, part, result);
        }
    }

    /// Reads a part. A panic becomes an error of the read, which the request that waits for the part sees.
    fn read(&self, part: &mut Part) -> io::Result<()> {
        let read = caught("reading an expert", || self.source.read(&self.tensors, part));
        read.unwrap_or_else(|message| Err(io::Error::other(message)))
    }

    /// Makes every request fail with this message.
    fn break_down(&self, message: String) {
        self.lock().broken.get_or_insert(message);
        self.arrived.notify_all();
    }

    /// Gives the memory of a retired slot back to the system, without the lock.
    fn discard<'a>(&'a self, mut shared: MutexGuard<'a, Queues>) -> MutexGuard<'a, Queues> {
        let Some((entry, mut piece)) = shared.cache.next_retired() else { return shared };
        drop(shared);
        piece.discard();
        shared = self.lock();
        shared.cache.discarded(entry, piece);
        // If the cache has grown meanwhile, the slot is free, and a request may wait for one.
        self.arrived.notify_all();
        shared
    }

    /// Has the system bring the memory of a free slot, a part at a time; it stops as soon as a pass begins.
    fn touch<'a>(&'a self, mut shared: MutexGuard<'a, Queues>) -> MutexGuard<'a, Queues> {
        let Some((entry, mut slot)) = shared.cache.next_untouched() else {
            shared.touch.over();
            return shared;
        };
        let (mut done, mut refused) = (0, false);
        while !refused && done < slot.len() && !shared.stop && shared.touch.due(now()) == Due::Now {
            drop(shared);
            let part = done..slot.len().min(done + PART);
            done = part.end;
            refused = slot.populate(part).is_err();
            shared = self.lock();
        }
        let all = done == slot.len() && !refused;
        shared.stats.touched += u64::from(all);
        if refused {
            // The memory comes when an expert is read into it.
            shared.touch.over();
        }
        shared.cache.touched(entry, slot, all);
        // A request may wait for just this slot.
        self.arrived.notify_all();
        shared
    }

    /// Takes back a part after its read.
    fn back<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Queues>,
        part: Part,
        result: io::Result<()>,
    ) -> MutexGuard<'a, Queues> {
        shared.idle();
        if result.is_ok() {
            shared.stats.bytes_read += part.need() as u64;
            shared.stats.reads += 1;
            shared.cache.live().set_counters(&shared.stats);
        }
        let (entry, read) = (part.entry, result.is_ok());
        if let Err(error) = result {
            shared.fail(entry, error);
        }
        if let Some(slot) = shared.cache.came_back(entry, part.piece, read) {
            shared = self.finish(shared, entry, slot);
            self.arrived.notify_all();
        } else if shared.stop {
            // The store's end waits for the last part.
            self.arrived.notify_all();
        }
        shared
    }

    /// Ends a read of which all parts are back: verifies the expert, without the lock, if all reads were
    /// good.
    fn finish<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Queues>,
        entry: u32,
        slot: Piece,
    ) -> MutexGuard<'a, Queues> {
        let State::Reading(reading) = shared.cache.entry(entry).state else { return shared };
        if !reading.failed && !reading.orphan {
            drop(shared);
            let verify = || self.source.verify(&self.tensors, reading.bank as usize, reading.expert, &slot);
            let verified = caught("verifying an expert", verify);
            let verified = verified.unwrap_or_else(|message| Err(io::Error::other(message)));
            shared = self.lock();
            if let Err(error) = verified {
                shared.fail(entry, error);
                if let State::Reading(reading) = &mut shared.cache.entry_mut(entry).state {
                    reading.failed = true;
                }
            }
        }
        shared.cache.finish(entry, slot);
        shared
    }
}

impl Queues {
    /// Takes the next part to read: needs before prefetches.
    fn take(&mut self) -> Option<Part> {
        let part = self.needs.pop_front().or_else(|| self.guesses.pop_front())?;
        if self.busy.0 == 0 {
            self.busy.1 = Some(now());
        }
        self.busy.0 += 1;
        Some(part)
    }

    fn idle(&mut self) {
        self.busy.0 -= 1;
        if self.busy.0 == 0
            && let Some(since) = self.busy.1.take()
        {
            self.stats.busy += now().duration_since(since);
        }
    }

    fn fail(&mut self, entry: u32, error: io::Error) {
        let wanted = self.cache.entry(entry).pins > 0;
        if wanted && self.problems.iter().all(|(of, _)| *of != entry) {
            self.problems.push((entry, error));
        }
    }

    /// Turns a prefetch into a need.
    pub fn promote(&mut self, entry: u32) {
        for _ in 0..self.guesses.len() {
            let Some(part) = self.guesses.pop_front() else { break };
            let queue = if part.entry == entry { &mut self.needs } else { &mut self.guesses };
            queue.push_back(part);
        }
        if let State::Reading(reading) = &mut self.cache.entry_mut(entry).state {
            reading.guess = false;
        }
    }

    /// Takes the parts of prefetches that the cache has given up off the queues.
    pub fn recall_wrong(&mut self) {
        while let Some(wrong) = self.cache.next_wrong() {
            self.recall(wrong);
        }
    }

    /// Takes the parts of a read that was given up off the queues, unread.
    pub fn recall(&mut self, entry: u32) {
        let Self { needs, guesses, cache, .. } = self;
        let mut whole = None;
        for queue in [needs, guesses] {
            for _ in 0..queue.len() {
                let Some(part) = queue.pop_front() else { break };
                if part.entry == entry {
                    whole = cache.came_back(entry, part.piece, false).or(whole);
                } else {
                    queue.push_back(part);
                }
            }
        }
        if let Some(slot) = whole {
            cache.finish(entry, slot);
        }
    }
}
