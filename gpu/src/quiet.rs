//! Drivers print to stderr when they are opened. On the full screen of the chat that leaves marks, and
//! elsewhere it tells the user nothing. It must not know what a driver does.

/// Runs `work`, which calls a driver. If stderr is a terminal, nothing is printed to it meanwhile.
#[cfg(unix)]
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    use std::fs::File;
    use std::io::{IsTerminal, stderr};
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::{Mutex, PoisonError};

    use rustix::stdio::dup2_stderr;

    /// Of two at once, the second would take the first one's silence for the terminal.
    static ONE: Mutex<()> = Mutex::new(());

    /// Stderr as it was.
    struct Before(OwnedFd);

    impl Drop for Before {
        fn drop(&mut self) {
            let _ = dup2_stderr(&self.0);
        }
    }

    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !stderr().is_terminal() {
        return work();
    }
    let silence = File::options().write(true).open("/dev/null");
    let _before = match (stderr().as_fd().try_clone_to_owned(), silence) {
        (Ok(before), Ok(silence)) if dup2_stderr(&silence).is_ok() => Some(Before(before)),
        _ => None,
    };
    work()
}

/// Runs `work`, which calls a driver.
#[cfg(not(unix))]
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    work()
}
