//! The terminal's modes: taken for the full screen, given back for a while or for good, and restored at every
//! exit. It must not know what is drawn.

use std::fmt;
#[cfg(unix)]
use std::io::IsTerminal;
use std::io::{self, Write};
#[cfg(unix)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crossterm::{event, execute, terminal};
use moelten_loader::io::fault::write_before_the_end;

pub use super::fold::fold;
pub use super::notes::{Notes, has_escape_sequences, stdout_columns, stdout_styled};
pub use crate::chat::Tone;

/// The modes that [`remember`] found.
#[cfg(unix)]
static FOUND: OnceLock<rustix::termios::Termios> = OnceLock::new();

/// Whether the full screen is shown.
static SCREEN: Mutex<ScreenHold> = Mutex::new(ScreenHold::Free);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScreenHold {
    /// The terminal is as it was found.
    Free,
    /// The full screen is shown.
    Taken,
    /// The terminal was given back for good: nothing is drawn from here on.
    Ended,
}

/// How long [`restore`] waits for a frame in progress. On a terminal that does not read, the frame may never
/// end.
const FRAME_WAIT_MAX: Duration = Duration::from_millis(300);

/// Remembers the terminal's modes for [`restore`]. To be called before anything changes them.
pub fn remember() {
    #[cfg(unix)]
    if let Ok(modes) = rustix::termios::tcgetattr(rustix::stdio::stdin()) {
        let _ = FOUND.set(modes);
    }
}

/// Whether the full screen takes the wheel of the mouse.
static MOUSE: AtomicBool = AtomicBool::new(true);

/// Takes the wheel of the mouse, or leaves the mouse to the terminal, so that text can be selected as usual.
///
/// # Errors
/// Writing to the terminal failed.
pub fn set_mouse(on: bool) -> io::Result<()> {
    MOUSE.store(on, Ordering::Relaxed);
    while_taken(|| execute!(io::stdout(), Wheel { on }))
}

/// Takes the terminal for the full screen: alternate screen, raw mode, bracketed paste, the wheel of the
/// mouse. The wheel must not send arrow keys. Lines do not wrap: where the terminal gives a character more
/// columns than Unicode does, the rest of a full row would begin the next one.
///
/// # Errors
/// The terminal cannot be used.
pub fn take_screen() -> io::Result<()> {
    let mut hold = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *hold == ScreenHold::Ended || !in_the_foreground() {
        return Ok(());
    }
    // Another program may have used the terminal since (SIGSTOP); the wheel's mode is saved only the first
    // time.
    let save = *hold == ScreenHold::Free;
    *hold = ScreenHold::Taken;
    write_before_the_end(Some(&LEAVE));
    terminal::enable_raw_mode()?;
    execute!(
        io::stdout(),
        terminal::EnterAlternateScreen,
        terminal::DisableLineWrap,
        event::EnableBracketedPaste,
        NoWheel { save },
        Wheel { on: MOUSE.load(Ordering::Relaxed) },
        Unambiguous
    )
}

/// Whether the full screen is shown: what is written elsewhere would disturb it.
pub fn is_taken() -> bool {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) == ScreenHold::Taken
}

/// Gives the terminal back; [`take_screen`] may take it again.
///
/// # Errors
/// Writing to the terminal failed.
pub fn give_screen() -> io::Result<()> {
    let mut hold = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *hold == ScreenHold::Taken {
        *hold = ScreenHold::Free;
        write_before_the_end(None);
        leave_screen()?;
        terminal::disable_raw_mode()?;
    }
    Ok(())
}

/// Draws with `draw` if the full screen is shown. The terminal is not given back meanwhile.
///
/// # Errors
/// The errors of `draw`.
pub fn while_taken(draw: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let hold = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *hold == ScreenHold::Taken { draw() } else { Ok(()) }
}

/// The state of the terminal after waiting for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWait {
    /// Keys may be available.
    Ready,
    /// No key was pressed.
    Nothing,
    /// This process is in the background: the keys are the shell's, and the system would stop a process that
    /// reads them.
    Background,
    /// The terminal is closed.
    Closed,
}

/// Waits for keys, at most for `wait`; signals may cut the wait short.
///
/// # Errors
/// Polling the terminal failed.
#[cfg(unix)]
pub fn wait_for_input(wait: Duration) -> io::Result<KeyWait> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    if !in_the_foreground() {
        std::thread::sleep(wait);
        return Ok(KeyWait::Background);
    }
    let stdin = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let wait =
        Timespec { tv_sec: wait.as_secs().try_into().unwrap_or(1), tv_nsec: wait.subsec_nanos().into() };
    match poll(&mut fds, Some(&wait)) {
        Ok(_) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) => {
            Ok(KeyWait::Closed)
        }
        Ok(0) => Ok(KeyWait::Nothing),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(KeyWait::Ready),
        Err(error) => Err(error.into()),
    }
}

/// Waits for keys, at most for `wait`.
///
/// # Errors
/// Polling the terminal failed.
#[cfg(not(unix))]
pub fn wait_for_input(wait: Duration) -> io::Result<KeyWait> {
    event::poll(wait).map(|some| if some { KeyWait::Ready } else { KeyWait::Nothing })
}

/// Stops the processes of this job (SIGSTOP) until a shell continues them.
///
/// # Errors
/// A message: this process leads the session, so no shell would continue it.
#[cfg(unix)]
pub fn stop_until_continued() -> Result<(), &'static str> {
    use rustix::process::{Signal, getpid, getsid, kill_current_process_group};
    if getsid(None) == Ok(getpid()) {
        return Err("There is no shell to return to.");
    }
    kill_current_process_group(Signal::STOP).map_err(|_| "The system refused to suspend the program.")
}

/// Reverses [`take_screen`]: keyboard protocol, bracketed paste, wrapping, alternate screen, hidden
/// cursor. The wheel's mode is restored where the terminal can save modes, and set to its usual value
/// elsewhere. These are bytes because a signal handler can do no more than write them.
static LEAVE: &[u8] =
    b"\x1b[<1u\x1b[?1006l\x1b[?1000l\x1b[?2004l\x1b[?1007h\x1b[?1007r\x1b[?7h\x1b[?1049l\x1b[?25h";

/// Whether this process may change the terminal. In the background the system would stop it.
fn in_the_foreground() -> bool {
    #[cfg(unix)]
    {
        // Without a terminal there is no foreground group, and nothing to be stopped for.
        let owner = rustix::termios::tcgetpgrp(rustix::stdio::stdin());
        owner.map_or(true, |owner| owner == rustix::process::getpgrp())
    }
    #[cfg(not(unix))]
    true
}

fn leave_screen() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(LEAVE)?;
    out.flush()
}

/// Gives the terminal back for good: leaves the full screen, restores the modes that [`remember`] found, and
/// switches off bracketed paste, which the line editor may have switched on. For every exit of the program.
/// Does nothing if the terminal was not used.
pub fn restore() {
    if !in_the_foreground() {
        return;
    }
    let asked = Instant::now();
    let mut hold = loop {
        match SCREEN.try_lock() {
            Ok(hold) => break Some(hold),
            Err(TryLockError::Poisoned(hold)) => break Some(hold.into_inner()),
            Err(TryLockError::WouldBlock) if asked.elapsed() > FRAME_WAIT_MAX => break None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // Without the lock a frame is stuck half-drawn; the terminal is given back all the same.
    let taken = hold.as_deref().is_none_or(|hold| *hold == ScreenHold::Taken);
    if taken {
        let _ = leave_screen();
        let _ = terminal::disable_raw_mode();
    }
    if let Some(hold) = &mut hold
        && **hold != ScreenHold::Free
    {
        **hold = ScreenHold::Ended;
    }
    #[cfg(unix)]
    if let Some(modes) = FOUND.get() {
        let now = rustix::termios::OptionalActions::Now;
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), now, modes);
        if !taken && io::stdout().is_terminal() && Notes::detect().styled {
            let _ = execute!(io::stdout(), event::DisableBracketedPaste);
        }
    }
}

/// Stops the wheel from sending arrow keys on the alternate screen (xterm's mode 1007): they would browse the
/// history.
struct NoWheel {
    /// Whether the terminal should save the present mode first.
    save: bool,
}

impl crossterm::Command for NoWheel {
    fn write_ansi(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str(if self.save { "\x1b[?1007s\x1b[?1007l" } else { "\x1b[?1007l" })
    }

    #[cfg(windows)]
    fn execute_winapi(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Requests presses of mouse buttons, which the steps of the wheel are (modes 1000 and 1006). Movements,
/// which would be many, are not requested.
struct Wheel {
    on: bool,
}

impl crossterm::Command for Wheel {
    fn write_ansi(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str(if self.on { "\x1b[?1000h\x1b[?1006h" } else { "\x1b[?1006l\x1b[?1000l" })
    }

    #[cfg(windows)]
    fn execute_winapi(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Requests kitty's keyboard protocol, which distinguishes keys like Enter and Shift-Enter. Other terminals
/// ignore it.
struct Unambiguous;

impl crossterm::Command for Unambiguous {
    fn write_ansi(&self, f: &mut impl fmt::Write) -> fmt::Result {
        f.write_str("\x1b[>1u")
    }

    #[cfg(windows)]
    fn execute_winapi(&self) -> io::Result<()> {
        Ok(())
    }
}
