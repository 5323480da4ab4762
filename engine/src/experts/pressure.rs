//! Releases memory of the expert cache when the machine runs short of it. A thread looks ten times a second
//! at the free memory and lowers the quotas of the cache until a floor is free again. When memory has been
//! plentiful for half a minute, it raises them by a part of what it released. Releasing is fast and taking is
//! slow, because the program that freed memory may need it again. It must not know what experts are, nor what
//! is done with its counters.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::room::CachePlan;
use super::store::ExpertStore;
use crate::runtime::memory;
use crate::runtime::system::System;
use moelten_loader::supervise::supervised;

/// Time between two looks: less than other processes need to use up the floor. A look takes about ten
/// microseconds.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Share of the time that processes may be stalled on memory without this being a shortage.
const STALLED: f64 = 0.1;
/// The part of the floor that is released in addition, so that not every look finds a little missing.
const MARGIN_PART: u64 = 4;
/// The growth of other processes is extrapolated this many looks ahead, since releasing memory takes time.
const LOOKS_AHEAD: u64 = 2;

/// Memory is plentiful when this many floors are free.
const PLENTY: u64 = 3;
/// The part of the memory above [`PLENTY`] that is taken again at a time.
const TAKE_PART: u64 = 2;
/// Looks in a row that must find plenty before memory is taken again: half a minute.
const CALM_LOOKS: u32 = 300;

/// The state of the machine's memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Look {
    /// Bytes that are free without swapping; `None` where the system does not say.
    pub free: Option<u64>,
    /// Bytes that other processes took since the last look.
    pub taken: u64,
    /// Bytes that this process owns.
    pub owned: u64,
    /// Share of the time since the last look in which some process was stalled on memory, 0 to 1.
    pub stalled: f64,
}

/// Bytes to release so that `floor` bytes are free at the next look.
pub fn to_give_back(look: Look, floor: u64) -> u64 {
    let margin = floor / MARGIN_PART;
    let wanted = floor.saturating_add(look.taken.saturating_mul(LOOKS_AHEAD));
    match look.free {
        Some(free) if free < wanted => wanted - free + margin,
        // Processes are stalled and little is free: the system's estimate may be too high.
        Some(free) if free < floor.saturating_mul(2) && look.stalled > STALLED => margin,
        _ => 0,
    }
}

/// Bytes that may be taken again without coming near the floor, even after `promised` bytes have been
/// written.
fn to_take(look: Look, promised: u64, floor: u64) -> u64 {
    let kept = floor.saturating_mul(PLENTY).saturating_add(promised);
    let above = look.free.map_or(0, |free| free.saturating_sub(kept));
    if look.stalled > STALLED { 0 } else { above / TAKE_PART }
}

/// New quotas: how many experts each bank keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quotas {
    /// Memory is short.
    Fewer(Vec<usize>),
    /// Memory is plentiful again.
    More(Vec<usize>),
}

/// Decides at each look how many experts each bank keeps.
#[derive(Debug)]
pub struct Keeper {
    system: System,
    cached: CachePlan,
    /// The present quotas, and the bytes of the cache with them.
    quotas: Vec<usize>,
    bytes: u64,
    /// Bytes that were taken again, of which some may not have been written yet, and what the process owned
    /// at that time.
    taken_again: u64,
    owned_then: u64,
    floor: u64,
    /// Looks in a row that found plenty.
    calm: u32,
    /// Free bytes and bytes of this process at the last look, added.
    before: Option<u64>,
    /// The time of the last look, and how long processes had been stalled until then.
    stalled: Option<(Instant, Duration)>,
}

impl Keeper {
    /// A keeper for a cache of this shape, on a machine where `floor` bytes are to stay free.
    pub fn new(system: System, cached: CachePlan, floor: u64) -> Self {
        let (bytes, quotas) = (cached.bytes(), cached.shape.quotas.clone());
        let (taken_again, owned_then) = (0, 0);
        Self {
            system,
            cached,
            quotas,
            bytes,
            taken_again,
            owned_then,
            floor,
            calm: 0,
            before: None,
            stalled: None,
        }
    }

    /// Looks at the machine.
    pub fn look(&mut self) -> Look {
        let now = memory::stalled(&self.system).map(|stalled| (Instant::now(), stalled));
        let stalled = self.stalled.zip(now).map_or(0.0, |((then, before), (now, after))| {
            let time = now.duration_since(then).as_secs_f64();
            after.saturating_sub(before).as_secs_f64() / time.max(1e-3)
        });
        self.stalled = now;
        let free = memory::free_bytes(&self.system);
        // What this process took or released is not growth of others.
        let ours = memory::owned_bytes_on(&self.system).unwrap_or(0);
        let both = free.map(|free| free + ours);
        let taken = self.before.zip(both).map_or(0, |(before, both)| before.saturating_sub(both));
        self.before = both;
        Look { free, taken, owned: ours, stalled: stalled.min(1.0) }
    }

    /// New quotas: lower ones in a shortage if anything is left to release, higher ones when memory has been
    /// plentiful for a while, never above the first ones. `None` if nothing changes.
    pub fn quotas(&mut self, look: Look) -> Option<Quotas> {
        let bytes = to_give_back(look, self.floor);
        if bytes > 0 {
            (self.calm, self.taken_again) = (0, 0);
            // A slot is released as a whole. Where banks have slots of different sizes, quotas for fewer
            // bytes may have more of the small ones: no bank gets any now.
            let fewer = self.cached.quotas_for(self.bytes.saturating_sub(bytes));
            let quotas = self.each_layer(fewer, |_, now, new| new.min(now));
            return (self.set(&quotas) < 0).then_some(Quotas::Fewer(quotas));
        }
        let written = look.owned.saturating_sub(self.owned_then);
        let promised = self.taken_again.saturating_sub(written);
        let (bytes, whole) = (to_take(look, promised, self.floor), self.cached.bytes());
        self.calm = if bytes > 0 && self.bytes < whole { self.calm + 1 } else { 0 };
        if self.calm < CALM_LOOKS {
            return None;
        }
        self.calm = 0;
        let more = self.cached.quotas_for(self.bytes.saturating_add(bytes).min(whole));
        let quotas = self.each_layer(more, |first, now, new| new.min(first).max(now));
        let taken = self.set(&quotas);
        (self.taken_again, self.owned_then) = (promised.saturating_add_signed(taken), look.owned);
        (taken > 0).then_some(Quotas::More(quotas))
    }

    /// Chooses a quota for each bank from the first one, the present one and a new one.
    fn each_layer(&self, new: Vec<usize>, choose: impl Fn(usize, usize, usize) -> usize) -> Vec<usize> {
        let first_and_now = self.cached.shape.quotas.iter().zip(&self.quotas);
        first_and_now.zip(new).map(|((&first, &now), new)| choose(first, now, new)).collect()
    }

    /// Sets the quotas; returns by how many bytes the cache may grow with them.
    fn set(&mut self, quotas: &[usize]) -> i64 {
        let after = self.cached.bytes_with(quotas);
        let more = after as i64 - self.bytes as i64;
        (self.bytes, self.quotas) = (after, quotas.to_vec());
        more
    }

    /// Bytes of the cache with the present quotas.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// The thread that looks; it ends when this is dropped.
#[derive(Debug)]
pub struct Watch {
    given_back: Arc<AtomicU64>,
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Option<()>>>,
}

impl Watch {
    /// Starts a thread that looks every `interval`.
    ///
    /// # Errors
    /// When the system starts no thread.
    pub fn begin(store: Arc<ExpertStore>, mut keeper: Keeper, interval: Duration) -> io::Result<Self> {
        let given_back = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = channel();
        let (counter, whole) = (Arc::clone(&given_back), keeper.bytes());
        let watched = Arc::clone(&store);
        let work = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let look = keeper.look();
                match keeper.quotas(look) {
                    Some(Quotas::Fewer(quotas)) => _ = store.shrink(&quotas),
                    Some(Quotas::More(quotas)) => store.grow(&quotas),
                    None => continue,
                }
                counter.store(whole - keeper.bytes(), Ordering::Relaxed);
            }
        };
        // Without this thread the cache no longer yields to other programs, so requests must not go on.
        let broken = move |message| watched.break_down(message);
        let thread = supervised("moelten-pressure", broken, work)?;
        Ok(Self { given_back, stop: Some(stop), thread: Some(thread) })
    }

    /// Bytes that the cache has released and not taken again.
    pub fn given_back(&self) -> u64 {
        self.given_back.load(Ordering::Relaxed)
    }

    /// The number that [`Self::given_back`] is read from.
    pub(crate) fn given_back_counter(&self) -> &Arc<AtomicU64> {
        &self.given_back
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::experts::room::CacheShape;

    const MB: u64 = 1 << 20;

    /// Four layers of eight experts, six of each kept, a megabyte each, two slots to spare.
    fn cached() -> CachePlan {
        let shape =
            CacheShape { experts: vec![8; 4], quotas: vec![6; 4], classes: vec![0; 4], spare: vec![2] };
        CachePlan { direct: true, embedding_in_file: false, shape, slot_bytes: vec![MB as usize] }
    }

    fn machine(root: &Path, free: u64, stalled_us: u64) {
        fs::create_dir_all(root.join("proc/pressure")).unwrap();
        fs::write(root.join("proc/meminfo"), format!("MemAvailable: {} kB\n", free / 1024)).unwrap();
        let line = |name| format!("{name} avg10=0.00 avg60=0.00 avg300=0.00 total={stalled_us}\n");
        fs::write(root.join("proc/pressure/memory"), line("some") + &line("full")).unwrap();
    }

    #[test]
    fn the_floor_becomes_free_with_a_margin() {
        let look = |free, stalled| to_give_back(Look { free, taken: 0, owned: 0, stalled }, 100);
        assert_eq!(look(Some(100), 0.0), 0);
        assert_eq!(look(Some(99), 0.0), 26);
        assert_eq!(look(Some(0), 0.0), 125);
        // Waiting counts only where little is left.
        assert_eq!((look(Some(150), 0.5), look(Some(250), 0.5), look(Some(150), 0.05)), (25, 0, 0));
        assert_eq!(look(None, 1.0), 0);
        // A growth of 60 is expected to go on.
        assert_eq!(to_give_back(Look { free: Some(200), taken: 60, owned: 0, stalled: 0.0 }, 100), 45);
        assert_eq!(to_give_back(Look { free: Some(220), taken: 60, owned: 0, stalled: 0.0 }, 100), 0);
    }

    #[test]
    fn quotas_fall_until_nothing_is_left() {
        let root = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(System::at(root.path()), cached(), 8 * MB);
        assert_eq!(keeper.bytes(), 26 * MB);
        let at = |free| Look { free: Some(free), taken: 0, owned: 0, stalled: 0.0 };
        assert_eq!(keeper.quotas(at(8 * MB)), None);
        // Three missing and two of margin: 21 stay, two of them to spare.
        assert_eq!(keeper.quotas(at(5 * MB)), Some(Quotas::Fewer(vec![5, 5, 5, 4])));
        // Others wait for memory, so the margin goes.
        assert_eq!(
            keeper.quotas(Look { stalled: 1.0, ..at(12 * MB) }),
            Some(Quotas::Fewer(vec![5, 4, 4, 4]))
        );
        assert_eq!(keeper.quotas(at(0)), Some(Quotas::Fewer(vec![2, 2, 2, 1])));
        assert_eq!(keeper.quotas(at(0)), Some(Quotas::Fewer(vec![0; 4])));
        assert_eq!(keeper.quotas(at(0)), None);
        assert_eq!(keeper.bytes(), 2 * MB);
    }

    #[test]
    fn what_was_released_is_taken_again_when_memory_is_plentiful() {
        let root = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(System::at(root.path()), cached(), 8 * MB);
        let at = |free| Look { free: Some(free), taken: 0, owned: 0, stalled: 0.0 };
        let plenty = at(34 * MB);
        let quiet = |keeper: &mut Keeper, look, looks| (0..looks).all(|_| keeper.quotas(look).is_none());
        assert!(quiet(&mut keeper, plenty, 2 * CALM_LOOKS), "nothing was given back");
        assert_eq!(keeper.quotas(at(0)), Some(Quotas::Fewer(vec![4, 4, 3, 3])));
        // Not near the floor, nor while others stand still for memory, nor before half a minute of calm.
        assert!(quiet(&mut keeper, at(24 * MB), 2 * CALM_LOOKS));
        assert!(quiet(&mut keeper, Look { stalled: 0.5, ..plenty }, 2 * CALM_LOOKS));
        assert!(quiet(&mut keeper, plenty, CALM_LOOKS - 1));
        assert!(quiet(&mut keeper, at(20 * MB), 1), "this begins the half minute anew");
        assert!(quiet(&mut keeper, plenty, CALM_LOOKS - 1));
        assert_eq!(keeper.quotas(plenty), Some(Quotas::More(vec![5, 5, 5, 4])));
        // All of it, and never more than that.
        assert!(quiet(&mut keeper, at(1000 * MB), CALM_LOOKS - 1));
        assert_eq!(keeper.quotas(at(1000 * MB)), Some(Quotas::More(vec![6; 4])));
        assert!(quiet(&mut keeper, at(1000 * MB), 2 * CALM_LOOKS));
        assert_eq!(keeper.bytes(), 26 * MB);
    }

    /// What was taken again and not written to is still free to the system, but promised.
    #[test]
    fn memory_that_was_promised_is_not_taken_twice() {
        let root = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(System::at(root.path()), cached(), 8 * MB);
        let at = |free, owned| Look { free: Some(free), taken: 0, owned, stalled: 0.0 };
        let quiet = |keeper: &mut Keeper, look, looks| (0..looks).all(|_| keeper.quotas(look).is_none());
        assert_eq!(keeper.quotas(at(0, 0)), Some(Quotas::Fewer(vec![4, 4, 3, 3])));
        // 32 are free, 24 of them stay so: four are taken, then two, then one.
        for bytes in [20, 22, 23] {
            assert!(quiet(&mut keeper, at(32 * MB, 0), CALM_LOOKS - 1));
            assert!(matches!(keeper.quotas(at(32 * MB, 0)), Some(Quotas::More(_))));
            assert_eq!(keeper.bytes(), bytes * MB);
        }
        assert!(quiet(&mut keeper, at(32 * MB, 0), 2 * CALM_LOOKS));
        // They were written to, and as much is free again.
        assert!(quiet(&mut keeper, at(32 * MB, 7 * MB), CALM_LOOKS - 1));
        assert_eq!(keeper.quotas(at(32 * MB, 7 * MB)), Some(Quotas::More(vec![6; 4])));
    }

    /// Quotas for fewer bytes can have more of the small slots: banks go one way only, never above their
    /// first quotas.
    #[test]
    fn layers_with_slots_of_two_sizes_go_one_way() {
        let root = tempfile::tempdir().unwrap();
        let shape =
            CacheShape { experts: vec![8; 2], quotas: vec![5, 4], classes: vec![0, 1], spare: vec![0, 0] };
        let slot_bytes = vec![6 * MB as usize, 4 * MB as usize];
        let first = shape.quotas.clone();
        let cached = CachePlan { direct: true, embedding_in_file: false, shape, slot_bytes };
        for missing in 1..46 {
            let mut keeper = Keeper::new(System::at(root.path()), cached.clone(), 8 * MB);
            let at = |free| Look { free: Some(free), taken: 0, owned: 0, stalled: 0.0 };
            let mut now = first.clone();
            let mut free = 8 * MB - (missing % 8 + 1) * MB;
            for _ in 0..40 * CALM_LOOKS {
                match keeper.quotas(at(free)) {
                    Some(Quotas::Fewer(new)) => {
                        assert!(new.iter().zip(&now).all(|(new, now)| new <= now), "{now:?} to {new:?}");
                        now = new;
                    }
                    Some(Quotas::More(new)) => {
                        assert!(new.iter().zip(&now).all(|(new, now)| new >= now), "{now:?} to {new:?}");
                        assert!(new.iter().zip(&first).all(|(new, first)| new <= first), "{new:?}");
                        now = new;
                    }
                    None => {}
                }
                assert_eq!(keeper.bytes(), cached.bytes_with(&now), "the bytes are those of the quotas");
                free = 24 * MB + missing * MB;
            }
        }
    }

    #[test]
    fn looks_read_the_machine() {
        let root = tempfile::tempdir().unwrap();
        let mut keeper = Keeper::new(System::at(root.path()), cached(), 8 * MB);
        assert_eq!(keeper.look(), Look { free: None, taken: 0, owned: 0, stalled: 0.0 });
        machine(root.path(), 7 * MB, 1000);
        assert_eq!(keeper.look(), Look { free: Some(7 * MB), taken: 0, owned: 0, stalled: 0.0 });
        // More than any time that can have passed.
        machine(root.path(), 5 * MB, 3_600_000_000);
        assert_eq!(keeper.look(), Look { free: Some(5 * MB), taken: 2 * MB, owned: 0, stalled: 1.0 });
        // Two megabytes of those that are missing now are our own.
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let status = "RssAnon:\t2048 kB\nRssShmem:\t0 kB\nVmLck:\t0 kB\n";
        fs::write(root.path().join("proc/self/status"), status).unwrap();
        machine(root.path(), 2 * MB, 3_600_000_000);
        let look = keeper.look();
        assert_eq!((look.taken, look.owned), (MB, 2 * MB));
    }
}
