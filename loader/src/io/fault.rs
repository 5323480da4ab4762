//! SIGBUS: a mapped file has become shorter, or its drive has failed, while it is in use. The read cannot be
//! resumed, but the program can print a message and exit as after any other failed read. It must not know the
//! message, nor the exit code.

use std::path::PathBuf;

/// Prints `message` to stderr and exits with `exit` when bytes of a mapped file cannot be read. Only the
/// first call has an effect, and only on Linux. Other causes of SIGBUS keep their default action.
pub fn end_on_lost_bytes(message: &'static str, exit: i32) {
    #[cfg(target_os = "linux")]
    handler::install(message, exit);
    #[cfg(not(target_os = "linux"))]
    let _ = (message, exit);
}

/// Sets the bytes that are written to stdout before that exit, to restore a terminal; `None` writes none.
pub fn write_before_the_end(bytes: Option<&'static &'static [u8]>) {
    #[cfg(target_os = "linux")]
    handler::write_first(bytes);
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
}

/// Sets the files that are removed before that exit, in place of those set before.
pub fn remove_before_the_end(files: &[PathBuf]) {
    #[cfg(target_os = "linux")]
    handler::remove_first(files);
    #[cfg(not(target_os = "linux"))]
    let _ = files;
}

#[cfg(target_os = "linux")]
mod handler {
    use std::ffi::CString;
    use std::mem::MaybeUninit;
    use std::os::unix::ffi::OsStrExt;
    use std::path::PathBuf;
    use std::ptr::null_mut;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicPtr, Ordering};

    /// Message and exit code, set before the handler is installed.
    static LAST_WORDS: OnceLock<(&str, i32)> = OnceLock::new();
    /// Bytes to write first, or null.
    static FIRST_WORDS: AtomicPtr<&'static [u8]> = AtomicPtr::new(null_mut());
    /// Files to remove, or null. Lists are never freed, since the handler may be reading one; they are few
    /// and short.
    static FILES: AtomicPtr<Vec<CString>> = AtomicPtr::new(null_mut());
    /// Modes of the terminal at stdin when the handler was installed.
    static MODES: OnceLock<libc::termios> = OnceLock::new();
    /// `si_code` for a mapped address that cannot be read: beyond the end of the file, or a failed read.
    /// From `asm-generic/siginfo.h`.
    const BUS_ADRERR: i32 = 2;

    pub fn install(message: &'static str, exit: i32) {
        if LAST_WORDS.set((message, exit)).is_err() {
            return;
        }
        // SAFETY: `termios` is plain data for which zeros are valid; the call fills it or returns an error.
        unsafe {
            let mut modes = MaybeUninit::<libc::termios>::zeroed().assume_init();
            if libc::tcgetattr(libc::STDIN_FILENO, &raw mut modes) == 0 {
                let _ = MODES.set(modes);
            }
        }
        let handle: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = lost_bytes;
        // SAFETY: `sigaction` is plain data for which zeros are valid; its fields are set before the call,
        // and the handler calls only async-signal-safe functions. If the call fails, the signal keeps its
        // action.
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

    pub fn remove_first(files: &[PathBuf]) {
        let name = |file: &PathBuf| CString::new(file.as_os_str().as_bytes()).ok();
        let names: Vec<CString> = files.iter().filter_map(name).collect();
        FILES.store(Box::into_raw(Box::new(names)), Ordering::SeqCst);
    }

    /// Runs on the thread that read the bytes, at any point of its work: only async-signal-safe calls, no
    /// locks, no allocation.
    extern "C" fn lost_bytes(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system hands a valid `siginfo_t` to handlers with SA_SIGINFO. `write`, `tcsetattr`,
        // `unlink`, `_exit`, `signal` and `raise` are async-signal-safe (POSIX 2.4.3), and reading a
        // `OnceLock` that was set is one atomic load. What FIRST_WORDS and FILES point to, if anything, is
        // never written or freed.
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
                for file in FILES.load(Ordering::SeqCst).as_ref().into_iter().flatten() {
                    libc::unlink(file.as_ptr());
                }
                let _ = libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
                libc::_exit(*exit);
            }
            // Any other cause: the default action.
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
    }
}
