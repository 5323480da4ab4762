//! Ctrl-C and termination signals. Long computations poll one flag and stop by themselves; anything else is
//! ended at once, with the terminal restored. It must not know what is being computed.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use moelten_engine::runtime::cancel::Cancel;
#[cfg(unix)]
use moelten_loader::supervise::supervised;
#[cfg(any(unix, windows))]
use moelten_tui::chat::FORCE_QUIT_WITHIN;
#[cfg(unix)]
use moelten_tui::driver::SAVE_WAIT_MAX;
use moelten_tui::driver::SignalRequest;

#[cfg(any(unix, windows))]
use crate::health::running;

/// Set by a signal or by [`stop`]; cleared by [`Polling::begin`].
static STOP: LazyLock<Cancel> = LazyLock::new(Cancel::new);
#[cfg(unix)]
use signal_hook::consts::SIGINT;
/// The number that Unix has for Ctrl-C.
#[cfg(windows)]
const SIGINT: i32 = 2;

/// Number of the last signal, 0 before any.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
/// Number of [`Polling`] guards that are alive.
static POLLING: AtomicUsize = AtomicUsize::new(0);

/// While it lives, its owner polls [`Polling::stop`] often and stops by itself.
pub struct Polling(());

impl Polling {
    /// Begins to poll; earlier requests are discarded.
    pub fn begin() -> Self {
        STOP.reset();
        POLLING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }

    /// The request to stop.
    pub fn stop(&self) -> &'static Cancel {
        &STOP
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        POLLING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The signal that [`asked`] has not reported yet, 0 if there is none.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// Stops the computation that polls [`Polling::stop`].
pub fn stop() {
    STOP.cancel();
}

/// The request that arrived since the last call.
pub fn asked() -> Option<SignalRequest> {
    match ASKED.swap(0, Ordering::SeqCst) {
        0 => None,
        #[cfg(any(unix, windows))]
        SIGINT => Some(SignalRequest::Interrupt),
        #[cfg(unix)]
        signal_hook::consts::SIGTSTP => Some(SignalRequest::Suspend),
        #[cfg(unix)]
        signal_hook::consts::SIGCONT => Some(SignalRequest::Resume),
        _ => Some(SignalRequest::End),
    }
}

/// Whether the program was asked to end, by SIGTERM or SIGHUP.
pub fn ended() -> bool {
    #[cfg(unix)]
    return matches!(
        SIGNAL.load(Ordering::SeqCst),
        signal_hook::consts::SIGTERM | signal_hook::consts::SIGHUP
    );
    #[cfg(not(unix))]
    false
}

/// Reports SIGTSTP and SIGCONT through [`asked`] from now on, so that the terminal can be restored before the
/// process is suspended. `on_panic` gets the message if the thread fails.
#[cfg(unix)]
pub fn watch_job_control(on_panic: fn(String)) {
    use signal_hook::consts::{SIGCONT, SIGTSTP};
    // Without handlers the process is suspended with the terminal as it is; the shell restores it.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGTSTP, SIGCONT]) else { return };
    // A pending request to end takes precedence. A process that has just been continued may be suspended
    // again before it has seen that; then the terminal is taken later.
    let replace = |old, signal| ASKED.compare_exchange(old, signal, Ordering::SeqCst, Ordering::SeqCst);
    let ask = move |signal| {
        let asked = replace(0, signal);
        if asked.is_err() && signal == SIGTSTP {
            let _ = replace(SIGCONT, signal);
        }
    };
    let waiting = move || signals.forever().for_each(ask);
    let _ = supervised("job control", on_panic, waiting);
}

/// Without job control there is nothing to watch.
#[cfg(not(unix))]
pub fn watch_job_control(_on_panic: fn(String)) {}

/// Suspends this process group until a shell continues it.
///
/// # Errors
/// Without a shell that could continue it.
#[cfg(unix)]
pub fn suspend() -> Result<(), &'static str> {
    moelten_tui::terminal::stop_until_continued()
}

/// Without job control a process cannot be suspended.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub fn suspend() -> Result<(), &'static str> {
    Err("This system cannot suspend a program.")
}

/// The exit code after the last signal, or that of Ctrl-C without one.
pub fn exit_code() -> u8 {
    let signal = SIGNAL.load(Ordering::SeqCst);
    128 + u8::try_from(signal).ok().filter(|&signal| signal != 0).unwrap_or(2)
}

/// Starts the thread that waits for signals. `lost_bytes` is the exit code after a mapped file became
/// shorter; `on_panic` gets the message if the thread fails.
#[cfg(unix)]
pub fn install(lost_bytes: u8, on_panic: fn(String)) {
    use signal_hook::consts::{SIGHUP, SIGTERM, SIGXFSZ};

    moelten_loader::io::fault::end_on_lost_bytes(LOST_BYTES, lost_bytes.into());

    // A file beyond `ulimit -f` then fails the write, which cleans up, instead of ending the process.
    let _ = signal_hook::flag::register(SIGXFSZ, std::sync::Arc::default());
    // Without handlers the signals end the process directly.
    let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]) else { return };
    let waiting = move || {
        let mut last_interrupt: Option<std::time::Instant> = None;
        for signal in signals.forever() {
            SIGNAL.store(signal, Ordering::SeqCst);
            ASKED.store(signal, Ordering::SeqCst);
            STOP.cancel();
            let again = last_interrupt.is_some_and(|at| at.elapsed() < FORCE_QUIT_WITHIN);
            if POLLING.load(Ordering::SeqCst) == 0 || (signal == SIGINT && again) {
                end(signal);
            }
            if signal == SIGINT {
                last_interrupt = Some(std::time::Instant::now());
            } else {
                wait_for_the_owner();
                end(signal);
            }
        }
    };
    let _ = supervised("signals", on_panic, waiting);
}

/// Has Ctrl-C and Ctrl-Break stop the computation that polls [`Polling::stop`]. Without one, and again
/// within a short time, they end the process. The system ends it when the window is closed.
#[cfg(windows)]
pub fn install(_lost_bytes: u8, _on_panic: fn(String)) {
    let mut last_interrupt: Option<std::time::Instant> = None;
    let interrupted = move || {
        SIGNAL.store(SIGINT, Ordering::SeqCst);
        ASKED.store(SIGINT, Ordering::SeqCst);
        STOP.cancel();
        let again = last_interrupt.is_some_and(|at| at.elapsed() < FORCE_QUIT_WITHIN);
        if POLLING.load(Ordering::SeqCst) == 0 || again {
            end(SIGINT);
        }
        last_interrupt = Some(std::time::Instant::now());
    };
    // Without a handler they end the process directly.
    let _ = ctrlc::set_handler(interrupted);
}

/// Nothing to install: the system's default handling ends the process.
#[cfg(not(any(unix, windows)))]
pub fn install(_lost_bytes: u8, _on_panic: fn(String)) {}

/// As `exit::print` would word it, which a signal handler cannot call.
#[cfg(unix)]
const LOST_BYTES: &str = "\nerror[E-IO-06]: a model file became shorter or unreadable while it was in use (SIGBUS); the answer \
                          so far is kept; check the disk, and whether another program writes to the file\n";

/// Gives the owner of the flag a moment to finish its line and to remove temporary files.
#[cfg(unix)]
fn wait_for_the_owner() {
    let asked = std::time::Instant::now();
    while POLLING.load(Ordering::SeqCst) > 0 && asked.elapsed() < SAVE_WAIT_MAX {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[cfg(any(unix, windows))]
fn end(signal: i32) -> ! {
    moelten_tui::terminal::restore();
    running::end_now();
    std::process::exit(128 + signal)
}
