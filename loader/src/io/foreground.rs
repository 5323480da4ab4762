//! Which processes have the terminal: those of one group at a time. Whoever touches it from the background is stopped by the
//! system, and that includes taking it back. It must not know why somebody else has it.

use std::io;

/// Gives the terminal that is stdin to a group of processes, also from the background.
///
/// # Errors
/// Those of the system: no terminal, or no such group in its session.
pub fn give(group: i32) -> io::Result<()> {
    // SAFETY: a signal set is plain data that `sigemptyset` fills; the other calls take no memory of ours but the two sets,
    // which live until the end. The mask is of this thread only, and is as before when this returns.
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
