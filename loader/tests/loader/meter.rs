//! What bad input may cost: a counting allocator, and the assertion that a refusal is quick and small.
#![allow(unsafe_code, reason = "an allocator is unsafe to implement; this one counts and passes on")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::{Duration, Instant};

use moelten_loader::error::{Fault, LoadError, Result};

/// More than any refusal may allocate.
const MEMORY: usize = 64 << 20;
/// Longer than any refusal may take.
const TIME: Duration = Duration::from_secs(2);

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(change: isize) {
    // At the end of a thread the cells are gone; nothing is measured then.
    let _gone = NOW.try_with(|now| {
        now.set(now.get() + change);
        let _gone = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

// SAFETY: every call is passed on to the system allocator unchanged; counting touches no memory of the heap.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// The result of `work` and the most memory that it had taken on this thread, in bytes.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// The result of `open`, which must cost no more than a refusal may.
pub fn metered<T>(open: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let (result, grown) = peak(open);
    let time = start.elapsed();
    assert!(grown <= MEMORY, "allocated {grown} bytes");
    assert!(time <= TIME, "took {time:?}");
    result
}

/// What a [`LoadError::Malformed`] says.
pub struct Refusal {
    pub field: String,
    pub offset: Option<u64>,
    pub fault: Fault,
}

/// The refusal by `open`, which must be [`LoadError::Malformed`], cheap, and fit for a terminal.
pub fn refusal<T>(open: impl FnOnce() -> Result<T>) -> Refusal {
    let error = metered(open).map(|_| ()).expect_err("must be refused");
    let text = error.to_string();
    assert!(!text.chars().any(char::is_control), "control characters in {text:?}");
    match error {
        LoadError::Malformed { field, offset, fault, .. } => Refusal { field, offset, fault },
        other => panic!("not Malformed: {other:?}"),
    }
}

#[test]
fn the_meter_sees_allocations() {
    let caught = std::panic::catch_unwind(|| metered(|| Ok(vec![0_u8; 65 << 20].len())));
    assert!(caught.is_err(), "65 MiB went unnoticed");
}
