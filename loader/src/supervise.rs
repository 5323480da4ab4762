//! Starting threads so that none of them ends silently: a panic is caught, put into words, and handed to a
//! function that passes it on to the code that waits for the thread. Every thread of the program is started
//! here or by a pool that does the same. It must not know what a thread is for.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, JoinHandle, Scope, ScopedJoinHandle};

use crate::io::room_for;

/// Starts a thread called `name` that does `work`. If `work` panics, `on_panic` is called on that thread with
/// what the panic said; it must make whatever waits for the thread see an error. Joining the thread gives
/// `None` then.
///
/// # Errors
/// When the system starts no thread.
pub fn supervised<T: Send + 'static>(
    name: &str,
    on_panic: impl FnOnce(String) + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<Option<T>>> {
    let of_thread = name.to_owned();
    room_for_threads(1)?;
    Builder::new().name(name.to_owned()).spawn(move || caught(&of_thread, work).map_err(on_panic).ok())
}

/// As [`supervised`], for a thread that borrows and ends before `scope` does. Joining it gives the result of
/// `work`, or what a panic said.
///
/// # Errors
/// When the system starts no thread.
pub fn supervised_in<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, Result<T, String>>> {
    let of_thread = name.to_owned();
    room_for_threads(1)?;
    Builder::new().name(name.to_owned()).spawn_scoped(scope, move || caught(&of_thread, work))
}

/// Whether the address space has room for `count` threads and for what they allocate at once. Where it has
/// not, the C library ends the process as soon as a thread has begun.
///
/// # Errors
/// [`io::ErrorKind::OutOfMemory`].
pub fn room_for_threads(count: usize) -> io::Result<()> {
    /// A stack of 2 MiB, and something beside it.
    const EACH: u64 = 6 << 20;
    /// Stacks that are looked for at once, at most: the system lends address space beyond its memory, but
    /// not in one piece.
    const MOST: u64 = 16;
    let count = u64::try_from(count).unwrap_or(MOST).min(MOST);
    room_for(EACH * count).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// Does `work` on this thread; a panic becomes its message with the name of the thread or task.
///
/// # Errors
/// What the panic said.
pub fn caught<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, String> {
    // What `work` had in its hands is given up with it, or is guarded by locks whose data is whole between
    // statements.
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| format!("{name}: {}", message(&*panic)))
}

/// Does the same `work` on `count` threads, this one among them, and waits for all. Where the system starts
/// fewer threads, those that run do the work of the others.
///
/// # Errors
/// What the first panic said.
pub fn on_threads(name: &str, count: usize, work: impl Fn() + Sync) -> Result<(), String> {
    let failed = Mutex::new(None);
    let work = || {
        if let Err(message) = caught(name, &work) {
            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(message);
        }
    };
    std::thread::scope(|scope| {
        for _ in (1..count).take_while(|_| room_for_threads(1).is_ok()) {
            let _ = Builder::new().name(name.to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// What a panic said, as far as it is text.
fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_panic_reaches_the_code_that_waits() {
        let (sender, receiver) = channel();
        let thread = supervised(
            "counter",
            move |message| sender.send(message).unwrap(),
            || {
                let numbers = [1, 2];
                numbers[std::hint::black_box(2)]
            },
        );
        assert_eq!(thread.unwrap().join().unwrap(), None);
        let message = receiver.recv().unwrap();
        assert!(message.starts_with("counter: index out of bounds"), "{message}");
    }

    #[test]
    fn work_that_ends_gives_its_result() {
        let thread = supervised("adder", |_| unreachable!("nothing panics"), || 1 + 1);
        assert_eq!(thread.unwrap().join().unwrap(), Some(2));
        assert_eq!(caught::<()>("task", || panic!("{}", "in words")), Err("task: in words".to_owned()));
    }

    #[test]
    fn a_panic_on_one_of_several_threads_is_an_error() {
        let calls = AtomicUsize::new(0);
        let work = || assert_ne!(calls.fetch_add(1, Ordering::Relaxed), 2, "the third call");
        let message = on_threads("copier", 4, work).unwrap_err();
        assert!(message.starts_with("copier: assertion") && message.contains("the third call"), "{message}");
        assert_eq!(calls.into_inner(), 4, "the others have done their work");
        assert_eq!(on_threads("copier", 3, || ()), Ok(()));
    }
}
