//! Starts threads so that none of them ends silently: a panic is caught and its message is handed on. Every
//! thread of the crate is started here. It must not know what a thread does.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{Builder, JoinHandle};

/// Starts a thread called `name` that does `work`. If `work` panics, `on_panic` is called on that thread with
/// the message of the panic; it has to make whatever waits for the thread see an error. Joining the thread
/// gives `None` then.
///
/// # Errors
/// The system cannot start a thread.
pub fn supervised<T: Send + 'static>(
    name: &str,
    on_panic: impl FnOnce(String) + Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<Option<T>>> {
    let thread = name.to_owned();
    Builder::new().name(name.to_owned()).spawn(move || {
        // What `work` owns is dropped with it; nothing that it has changed half-way is used afterwards.
        let result = catch_unwind(AssertUnwindSafe(work));
        result.map_err(|panic| on_panic(format!("{thread}: {}", message(&*panic)))).ok()
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn the_message_of_a_panic_is_handed_on() {
        let (sender, receiver) = channel();
        let thread = supervised::<()>(
            "counter",
            move |message| sender.send(message).unwrap(),
            || panic!("{} of {}", 3, 2),
        );
        assert_eq!(thread.unwrap().join().unwrap(), None);
        assert_eq!(receiver.recv().unwrap(), "counter: 3 of 2");
    }

    #[test]
    fn work_without_a_panic_gives_its_result() {
        let thread = supervised("adder", |message| unreachable!("{message}"), || 1 + 1);
        assert_eq!(thread.unwrap().join().unwrap(), Some(2));
    }
}
