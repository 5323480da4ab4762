//! What happens when a mapped file becomes shorter, or its drive fails, while it is being used: the system can give no bytes
//! and sends SIGBUS. There is no way back to whoever needed them, but there is one to say what happened and to end as
//! after any other failed read. It must not know what is printed, nor with which code the program ends.

/// Ends the program with `exit` after printing `message` to stderr when bytes of a mapped file cannot be had. What was set
/// up by an earlier call stays.
///
/// Other causes of SIGBUS end it as they always do. Does nothing but on Linux.
pub fn end_on_lost_bytes(message: &'static str, exit: i32) {
    #[cfg(target_os = "linux")]
    handler::install(message, exit);
    #[cfg(not(target_os = "linux"))]
    let _ = (message, exit);
}

/// What such an end writes to stdout first, for a terminal that shows something else than lines; `None` takes it back.
pub fn write_before_the_end(bytes: Option<&'static &'static [u8]>) {
    #[cfg(target_os = "linux")]
    handler::write_first(bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

#[cfg(target_os = "linux")]
mod handler {
    use std::mem::MaybeUninit;
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, Ordering};

    /// What to say and how to end, set before the handler is there.
    static LAST_WORDS: OnceLock<(&str, i32)> = OnceLock::new();
    /// What to write before, or null.
    static FIRST_WORDS: AtomicPtr<&'static [u8]> = AtomicPtr::new(null_mut());
    /// The modes of the terminal that stdin is, as they were found.
    static MODES: OnceLock<libc::termios> = OnceLock::new();
    /// `si_code` for an address that is mapped and has nothing behind it: beyond the end of the file, or a failed read.
    /// From `asm-generic/siginfo.h`.
    const BUS_ADRERR: i32 = 2;

    pub fn install(message: &'static str, exit: i32) {
        if LAST_WORDS.set((message, exit)).is_err() {
            return;
        }
        // SAFETY: `termios` is plain data for which zeros are valid; the call fills it or says that it did not.
        unsafe {
            let mut modes = MaybeUninit::<libc::termios>::zeroed().assume_init();
            if libc::tcgetattr(libc::STDIN_FILENO, &raw mut modes) == 0 {
                let _ = MODES.set(modes);
            }
        }
        let handle: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = lost_bytes;
        // SAFETY: `sigaction` is plain data for which zeros are valid; it is filled as the call wants it, and the handler
        // does only what a handler may. A refusal leaves the signal as it was.
        unsafe {
            let mut action = MaybeUninit::<libc::sigaction>::zeroed().assume_init();
            action.sa_sigaction = handle as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
        }
    }

    pub fn write_first(bytes: Option<&'static &'static [u8]>) {
        let bytes = bytes.map_or(null_mut(), |bytes| std::ptr::from_ref(bytes).cast_mut());
        FIRST_WORDS.store(bytes, Ordering::SeqCst);
    }

    /// Runs on the thread that touched the bytes, in the middle of anything: only calls that are safe in a signal handler,
    /// no locks, no memory taken.
    extern "C" fn lost_bytes(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system hands a valid `siginfo_t` to handlers with SA_SIGINFO. `write`, `tcsetattr`, `_exit`, `signal` and
        // `raise` are async-signal-safe (POSIX 2.4.3), and reading a `OnceLock` that was set is one atomic load. What
        // FIRST_WORDS points to, if anything, lives for ever and is never written.
        unsafe {
            if let Some((message, exit)) = LAST_WORDS.get()
                && (*info).si_code == BUS_ADRERR
            {
                if let Some(first) = FIRST_WORDS.load(Ordering::SeqCst).as_ref() {
                    let _ = libc::write(libc::STDOUT_FILENO, first.as_ptr().cast(), first.len());
                }
                if let Some(modes) = MODES.get() {
                    libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &raw const *modes);
                }
                let _ = libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
                libc::_exit(*exit);
            }
            // Not ours: as if there were no handler.
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}
