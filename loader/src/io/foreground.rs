//! The foreground process group of the terminal. A background process that uses the terminal is stopped by
//! the system, even if it only takes the foreground back. It must not know why another group has it.

use std::io;

/// Makes a process group the foreground group of the terminal at stdin, also from the background.
///
/// # Errors
/// Errors of the system: no terminal, or no such group in its session.
pub fn give(group: i32) -> io::Result<()> {
    // SAFETY: a signal set is plain data that `sigemptyset` fills; the other calls use no memory but the two
    // sets, which live until the end. Only this thread's mask changes, and it is restored before the return.
    unsafe {
        let mut stops = std::mem::zeroed::<libc::sigset_t>();
        let mut before = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut stops);
        libc::sigaddset(&raw mut stops, libc::SIGTTOU);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const stops, &raw mut before);
        let given = libc::tcsetpgrp(libc::STDIN_FILENO, group);
        let result = if given == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        result
    }
}
