//! The expert store under many schedules of its threads: the store, its requests and its readers as they are,
//! on modelled locks and threads, with a disk in memory. No wait times out unless a test moves the clock, so
//! a lost wake-up is a deadlock, which fails the test.
#![allow(
    dead_code,
    unused_imports,
    clippy::duplicate_mod,
    reason = "a second copy, of which the tests use a part"
)]

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use moelten_loader::io::read_at::{Access, ReadAt};
use moelten_loader::load::load;
use moelten_loader::tensors::store::TensorStore;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{spawn, yield_now};

use super::{cache, live, policy, room, slots, source, stats, tier, touch};
use crate::error::EngineError;
use crate::runtime::sync::modelled as sync;
use room::{CachePlan, CacheShape};
use slots::Slots;
use source::Source;
use stats::Phase;
use store::{AcquireBuffers, CANCEL_POLL, ExpertStore, Prefetch, Request};
use sync::{AtomicUsize, Condvar, Mutex, Ordering, advance, explore};

// The code under test once more, with the modelled primitives.
#[path = "acquired.rs"]
mod acquired;
#[path = "prefetch.rs"]
mod prefetch;
#[path = "readers.rs"]
mod readers;
#[path = "store.rs"]
mod store;
#[path = "streamed.rs"]
mod streamed;

/// Experts that each bank keeps, if a test does not say otherwise.
const QUOTA: usize = 2;
/// Slots beyond that.
const SPARE: usize = 2;
/// Schedules of each test.
const RUNS: usize = 1500;

/// A model of three layers with eight experts, and the bytes of its files.
struct Files {
    tensors: Arc<TensorStore>,
    bytes: Vec<Arc<Vec<u8>>>,
}

static FILES: LazyLock<Files> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/mixtral");
    let tensors = load(&folder).unwrap().tensors;
    let bytes = tensors.paths().map(|path| Arc::new(std::fs::read(path).unwrap())).collect();
    Files { tensors: Arc::new(tensors), bytes }
});

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Nothing.
    None,
    /// A read in three fails.
    Errors,
    /// A read in three panics.
    Panics,
}

/// A file on a disk that can stand still.
struct Disk {
    bytes: Arc<Vec<u8>>,
    fault: Fault,
    gate: Arc<Gate>,
}

/// Holds up reads while it is closed.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.lock().unwrap() = closed;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut closed = self.closed.lock().unwrap();
        while *closed {
            closed = self.opened.wait(closed).unwrap();
        }
    }
}

impl ReadAt for Disk {
    fn align(&self) -> usize {
        4096
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.pass();
        if self.fault != Fault::None && thread_rng().gen_ratio(1, 3) {
            buffer.fill(0xa5);
            match self.fault {
                // Without the message on the terminal.
                Fault::Panics => std::panic::resume_unwind(Box::new("the disk is on fire")),
                _ => return Err(io::Error::other("the disk is wet")),
            }
        }
        let rest = &self.bytes[offset as usize..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

fn the_room(quota: usize, spare: usize) -> CachePlan {
    let banks = FILES.tensors.banks();
    let shape = CacheShape {
        experts: banks.iter().map(|bank| bank.experts()).collect(),
        quotas: vec![quota; banks.len()],
        classes: vec![0; banks.len()],
        spare: vec![spare],
    };
    let slot_bytes = (0..banks.len()).map(|bank| Source::slot_bytes(&FILES.tensors, bank)).max().unwrap();
    CachePlan { direct: true, embedding_in_file: false, shape, slot_bytes: vec![slot_bytes] }
}

fn new_store(fault: Fault, gate: &Arc<Gate>) -> Arc<ExpertStore> {
    store_of(QUOTA, SPARE, fault, gate)
}

fn store_of(quota: usize, spare: usize, fault: Fault, gate: &Arc<Gate>) -> Arc<ExpertStore> {
    let tensors = Arc::clone(&FILES.tensors);
    let disk = |bytes: &Arc<Vec<u8>>| -> Box<dyn ReadAt> {
        Box::new(Disk { bytes: Arc::clone(bytes), fault, gate: Arc::clone(gate) })
    };
    let source = Source::slots(&tensors, FILES.bytes.iter().map(disk).collect(), Access::Direct);
    let room = the_room(quota, spare);
    let slots = Slots::reserve(&room).unwrap();
    Arc::new(ExpertStore::cached(tensors, source, (&room, slots), Prefetch::On).unwrap())
}

/// Asks for experts and uses them in order: each alone, or all that have a slot together.
fn request(
    store: &ExpertStore,
    bank: usize,
    ids: &[u32],
    together: bool,
    stop: &dyn Fn() -> bool,
) -> Result<(), EngineError> {
    let phase = if together { Phase::Decode } else { Phase::Prefill };
    let (mut held, first_most) = (AcquireBuffers::default(), thread_rng().r#gen());
    let uses = |index: usize| 1 + (if first_most { ids.len() - index } else { index }) as u32;
    let request = Request { bank, ids, uses: &uses, tokens: 1, phase, stop };
    store.pass_begun();
    let mut acquired = store.acquire(&request, &mut held);
    let mut next = 0;
    let mut used = || {
        while next < ids.len() {
            let more =
                (next + 1..ids.len()).take_while(|&index| together && acquired.has_slot(index)).count();
            for (index, &id) in ids.iter().enumerate().skip(next).take(1 + more) {
                acquired.wait(index)?;
                let matrices = store.matrices(bank, id);
                for (matrix, view) in matrices.iter().zip(acquired.view(index)) {
                    assert!(
                        view.unwrap().data() == FILES.tensors.view(matrix).data(),
                        "not this expert's bytes"
                    );
                }
            }
            acquired.release(next..next + 1 + more);
            next += 1 + more;
        }
        Ok(())
    };
    let result = used();
    drop(acquired);
    store.pass_ended();
    result
}

/// Waits until readers have nothing left to do, and checks that every slot is in one place with its memory.
fn at_rest(store: &ExpertStore) {
    let readers = &store.streamed().unwrap().readers;
    loop {
        let shared = readers.lock();
        let queued = shared.needs.len() + shared.guesses.len();
        if queued == 0 && shared.cache.is_at_rest() {
            shared.cache.check_at_rest(the_room(QUOTA, SPARE).slot_bytes[0]);
            assert_eq!(shared.problems.len(), 0);
            return;
        }
        drop(shared);
        yield_now();
    }
}

fn some_ids() -> Vec<u32> {
    let mut rng = thread_rng();
    let mut ids: Vec<u32> = (0..1 + rng.gen_range(0..4)).map(|_| rng.gen_range(0..8)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Some requests, each with guesses before it and broken off at any time, or not.
fn some_requests(store: &ExpertStore, fault: Fault) {
    for _ in 0..3 {
        let bank = thread_rng().gen_range(0..2);
        if thread_rng().r#gen() {
            store.prefetch(bank, &some_ids());
        }
        let left = Cell::new(thread_rng().gen_range(0..8_u32));
        let stops = thread_rng().gen_ratio(1, 3);
        let stop = || {
            left.set(left.get().saturating_sub(1));
            stops && left.get() == 0
        };
        match request(store, bank, &some_ids(), thread_rng().r#gen(), &stop) {
            Ok(()) => {}
            Err(EngineError::Cancelled) => assert!(stops),
            Err(EngineError::Expert { source, .. }) => {
                let message = source.to_string();
                assert!(fault != Fault::None, "{message}");
                let wet = message == "the disk is wet";
                assert!(wet || message == "reading an expert: the disk is on fire", "{message}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

/// Lowers and raises what banks keep.
fn some_pressure(store: &ExpertStore) {
    let banks = FILES.tensors.banks().len();
    for _ in 0..2 {
        let quota = thread_rng().gen_range(0..QUOTA);
        store.shrink(&vec![quota; banks]);
        store.grow(&vec![thread_rng().gen_range(quota..=QUOTA); banks]);
    }
}

fn requests_and_pressure(fault: Fault) {
    LazyLock::force(&FILES);
    explore(RUNS, move || {
        let store = new_store(fault, &Arc::default());
        let pressure = {
            let store = Arc::clone(&store);
            spawn(move || some_pressure(&store))
        };
        some_requests(&store, fault);
        pressure.join().unwrap();
        at_rest(&store);
        let quotas = |of: &ExpertStore| of.streamed().unwrap().readers.lock().cache.quota(0);
        assert!(store.resident().iter().all(|experts| experts.len() <= quotas(&store)));
    });
}

#[test]
fn requests_end_and_slots_are_kept_while_the_cache_shrinks_and_grows() {
    requests_and_pressure(Fault::None);
}

#[test]
fn requests_end_while_reads_fail() {
    requests_and_pressure(Fault::Errors);
}

#[test]
fn requests_end_while_readers_panic() {
    requests_and_pressure(Fault::Panics);
}

/// The only wait that needs the clock: a disk that does not answer wakes no one.
#[test]
fn a_request_is_stopped_and_the_store_can_go_while_the_disk_stands_still() {
    LazyLock::force(&FILES);
    explore(RUNS, || {
        let gate = Arc::<Gate>::default();
        let store = new_store(Fault::None, &gate);
        gate.set(true);
        let (asked, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let waiting = {
            let (asked, done) = (Arc::clone(&asked), Arc::clone(&done));
            spawn(move || {
                let stop = || asked.load(Ordering::SeqCst) > 0;
                let result = request(&store, 0, &[1, 4, 6], true, &stop);
                assert!(matches!(result, Err(EngineError::Cancelled)), "{result:?}");
                drop(store);
                done.store(1, Ordering::SeqCst);
            })
        };
        asked.store(1, Ordering::SeqCst);
        while done.load(Ordering::SeqCst) == 0 {
            advance(CANCEL_POLL);
            yield_now();
        }
        waiting.join().unwrap();
        gate.set(false);
    });
}

#[test]
fn requests_end_with_the_message_of_a_thread_that_has_panicked() {
    LazyLock::force(&FILES);
    explore(RUNS, || {
        let gate = Arc::<Gate>::default();
        let store = new_store(Fault::None, &gate);
        assert!(request(&store, 1, &[1, 4], true, &|| false).is_ok());
        // Reads that are asked for from now on end only after the request has.
        gate.set(true);
        let watch = {
            let store = Arc::clone(&store);
            spawn(move || store.break_down("watch: out of its depth".to_owned()))
        };
        let failed = |bank, ids| match request(&store, bank, ids, true, &|| false) {
            Err(EngineError::Expert { source, .. }) => source.to_string() == "watch: out of its depth",
            other => panic!("{other:?}"),
        };
        assert!(failed(0, &[2, 3]), "what has to be read");
        watch.join().unwrap();
        assert!(failed(1, &[1, 4]), "what is here");
        gate.set(false);
        at_rest(&store);
    });
}

/// Touching may hold the only free slot.
#[test]
fn slots_are_touched_while_a_sequence_rests_and_are_there_for_requests() {
    LazyLock::force(&FILES);
    explore(RUNS, || {
        let store = store_of(0, 1, Fault::None, &Arc::default());
        let clock = spawn(|| {
            for _ in 0..6 {
                advance(touch::CALM);
                yield_now();
            }
        });
        store.sequence_opened();
        some_requests(&store, Fault::None);
        clock.join().unwrap();
        store.sequence_closed();
        at_rest(&store);
    });
}

/// A slot whose memory is being discarded may be the only one that a request can get.
#[test]
fn slots_that_come_back_from_being_discarded_are_there_for_requests() {
    LazyLock::force(&FILES);
    let banks = FILES.tensors.banks().len();
    explore(RUNS, move || {
        let store = store_of(1, 1, Fault::None, &Arc::default());
        let fill = |expert| (0..banks).all(|bank| request(&store, bank, &[expert], true, &|| false).is_ok());
        assert!(fill(1));
        let pressure = {
            let store = Arc::clone(&store);
            spawn(move || store.shrink(&vec![0; banks]))
        };
        store.grow(&vec![1; banks]);
        assert!(fill(2));
        store.grow(&vec![1; banks]);
        // One of them stays, and the other one needs a slot as well.
        assert!(request(&store, 0, &[3, 4], true, &|| false).is_ok());
        pressure.join().unwrap();
        at_rest(&store);
    });
}

#[test]
fn the_store_can_go_while_reads_are_on_their_way() {
    LazyLock::force(&FILES);
    explore(RUNS, || {
        let store = new_store(Fault::None, &Arc::default());
        store.prefetch(0, &[1, 2]);
        if thread_rng().r#gen() {
            let left = Cell::new(thread_rng().gen_range(0..4_u32));
            let stop = || left.replace(left.get().saturating_sub(1)) == 0;
            let _ = request(&store, 0, &[1, 5], true, &stop);
        }
    });
}
