//! The allocator of a program: that of the system, with an orderly end where the system refuses memory. The
//! standard library would abort, without a chance to give the terminal back or to say what to do. A test may
//! decide which requests are refused. It must not know what the program is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::memory::Memory;

/// Address space that is kept for the end of the program, which allocates too: messages have to be composed.
const RESERVE: usize = 1 << 20;

/// How a program ends when the system refuses memory.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// Ends the program, with the number of bytes that were refused: on the thread that asked for them, which
    /// may hold locks. It may allocate a little.
    pub with_message: fn(usize) -> LastWord,
    /// What is written to stderr where even that fails.
    pub last_words: &'static str,
    /// The exit code then.
    pub code: i32,
}

static END: OnceLock<End> = OnceLock::new();
static KEPT: Mutex<Option<Memory>> = Mutex::new(None);
/// Whether a thread is ending the program.
static ENDED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Whether this thread ends the program.
    static ENDING: Cell<bool> = const { Cell::new(false) };
}

/// What a function that ends the program returns, since it does not return.
pub type LastWord = std::convert::Infallible;

/// The system's allocator, for `#[global_allocator]`. A refused request ends the program as
/// [`OrEnd::install`] says; before that it is an abort, as usual.
#[derive(Debug, Clone, Copy)]
pub struct OrEnd {
    /// Whether the next request is refused, whatever the system has.
    refuses: Option<fn() -> bool>,
}

impl OrEnd {
    /// As the system has memory.
    pub const fn system() -> Self {
        Self { refuses: None }
    }

    /// As the system has memory, unless `refuses` says otherwise: a shortage that a test makes. It must not
    /// allocate.
    pub const fn refusing(refuses: fn() -> bool) -> Self {
        Self { refuses: Some(refuses) }
    }

    /// What `allocate` gives for a request of `bytes`, after the end of the program was tried if that is
    /// null.
    fn or_end(self, bytes: usize, allocate: impl FnOnce() -> *mut u8) -> *mut u8 {
        let memory =
            if self.refuses.is_some_and(|refuses| refuses()) { std::ptr::null_mut() } else { allocate() };
        if memory.is_null() {
            refused(bytes);
        }
        memory
    }

    /// From now on a refusal of the system ends the program in this way.
    pub fn install(end: End) {
        if END.set(end).is_ok()
            && let Ok(mut kept) = KEPT.lock()
        {
            // Without it the message may be missing, the exit code is the same.
            *kept = Memory::growing(RESERVE).ok();
        }
    }
}

/// Ends the program in the way that was installed; does nothing before that.
#[cold]
fn refused(bytes: usize) {
    let Some(end) = END.get() else { return };
    if ENDING.replace(true) {
        // The message itself needs more than was kept.
        exit_at_once(end);
    }
    if ENDED.swap(true, Ordering::AcqRel) {
        // Another thread is at it, and may need this one's locks no more than for a moment.
        std::thread::sleep(Duration::from_secs(2));
        exit_at_once(end);
    }
    if let Ok(mut kept) = KEPT.lock() {
        *kept = None;
    }
    // An allocator must not unwind.
    let Err(_panic) = std::panic::catch_unwind(|| (end.with_message)(bytes));
    exit_at_once(end);
}

/// Ends the process without running anything of it.
fn exit_at_once(end: &End) -> ! {
    #[cfg(unix)]
    // SAFETY: the pointer and the length are those of a text that is never freed; leaving the process touches
    // no memory of it.
    unsafe {
        libc::write(libc::STDERR_FILENO, end.last_words.as_ptr().cast(), end.last_words.len());
        libc::_exit(end.code)
    }
    #[cfg(not(unix))]
    std::process::exit(end.code)
}

// SAFETY: every call is passed on to the system's allocator unchanged, or answered by null. What is done when
// that gives no memory either returns its answer or does not return, and does not unwind.
unsafe impl GlobalAlloc for OrEnd {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very method.
        self.or_end(layout.size(), || unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very method.
        self.or_end(layout.size(), || unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very method.
        self.or_end(size, || unsafe { System.realloc(old, layout, size) })
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Whether the system has `bytes` of address space in one piece now. Nothing is kept of it: it is a look
/// before buffers are allocated whose allocation cannot fail.
///
/// # Errors
/// The refusal of the system.
pub fn room_for(bytes: u64) -> std::io::Result<()> {
    let bytes = usize::try_from(bytes).map_err(|_| std::io::ErrorKind::OutOfMemory)?;
    Memory::growing(bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_address_space_is_refused() {
        assert!(room_for(1 << 20).is_ok());
        assert!(room_for(u64::MAX / 4).is_err() && room_for(u64::MAX).is_err());
    }
}
