//! What this program knows about the terminal it runs in, and how to leave it as it was found. It must not know what
//! is shown.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use crossterm::style::Stylize;
use crossterm::{event, execute, terminal};
use moelten_loader::io::fault::write_before_the_end;

use crate::filter;

/// How to write to people: on stderr, so that stdout carries answers and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notes {
    /// stderr is a terminal: lines may be overwritten.
    pub terminal: bool,
    /// Escape sequences for dim and bold text are welcome.
    pub styled: bool,
}

/// How loud a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// The program speaks.
    Plain,
    /// Beside the point.
    Dim,
    /// To be seen.
    Warning,
    /// It did not work.
    Error,
}

impl Notes {
    /// Asks the environment: a terminal, not `TERM=dumb`, `NO_COLOR` (no-color.org) unset or empty.
    pub fn detect() -> Self {
        let terminal = io::stderr().is_terminal();
        Self { terminal, styled: terminal && styles_welcome() }
    }

    /// Notes without a terminal.
    pub fn plain() -> Self {
        Self { terminal: false, styled: false }
    }

    /// `text` filtered and dressed.
    pub fn dress(self, tone: Tone, text: &str) -> String {
        let text = filter::clean(text);
        match tone {
            _ if !self.styled => text,
            Tone::Plain => text,
            Tone::Dim => text.dim().to_string(),
            Tone::Warning => text.yellow().to_string(),
            Tone::Error => text.red().to_string(),
        }
    }

    /// Writes a line. A closed stderr is nobody's problem: the answer goes elsewhere.
    pub fn line(self, tone: Tone, text: &str) {
        let _ = writeln!(io::stderr(), "{}", self.dress(tone, text));
    }

    /// Columns of the terminal, 80 where there is none.
    pub fn columns(self) -> usize {
        let size = if self.terminal { terminal::size().ok() } else { None };
        // Some pseudo-terminals say 0.
        size.filter(|&(columns, _)| columns > 0).map_or(80, |(columns, _)| usize::from(columns))
    }
}

/// Whether escape sequences for colours are welcome on stdout, by the rules of [`Notes::detect`].
pub fn stdout_styled() -> bool {
    io::stdout().is_terminal() && styles_welcome()
}

fn styles_welcome() -> bool {
    can_do_more_than_lines() && set("NO_COLOR").is_none()
}

/// Whether the terminal knows escape sequences: not `TERM=dumb`, nor none at all.
pub fn can_do_more_than_lines() -> bool {
    !cfg!(unix) || set("TERM").is_some_and(|term| term != "dumb")
}

fn set(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// What to say when something was copied: whether the terminal obeys cannot be known.
pub const COPIED: &str = "Copied, if the terminal lets programs use its clipboard (OSC 52).";

#[cfg(unix)]
static FOUND: OnceLock<rustix::termios::Termios> = OnceLock::new();

/// Whether the full screen is on, and whether it may ever be again.
static SCREEN: Mutex<Hold> = Mutex::new(Hold::Free);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The terminal is as it was found.
    Free,
    /// It shows the full screen.
    Taken,
    /// It was given back for good: nothing is drawn any more.
    Gone,
}

/// How long [`restore`] waits for a picture that is being drawn; a terminal that does not read may never end it.
const PATIENCE: Duration = Duration::from_millis(300);

/// Remembers the terminal's modes for [`restore`]. Called before anything changes them.
pub fn remember() {
    #[cfg(unix)]
    if let Ok(modes) = rustix::termios::tcgetattr(rustix::stdio::stdin()) {
        let _ = FOUND.set(modes);
    }
}

/// Takes the terminal for the full screen: its other page, keys as they come, pastes in one piece. The mouse stays with the
/// terminal, so that text can be selected; its wheel must not type arrows.
///
/// # Errors
/// A terminal that cannot be used.
pub fn take_screen() -> io::Result<()> {
    let mut hold = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *hold == Hold::Gone || !in_the_foreground() {
        return Ok(());
    }
    // Somebody else may have had it without being asked; what was saved then stays.
    let save = *hold == Hold::Free;
    *hold = Hold::Taken;
    write_before_the_end(Some(&LEAVE));
    terminal::enable_raw_mode()?;
    execute!(
        io::stdout(),
        terminal::EnterAlternateScreen,
        event::EnableBracketedPaste,
        NoWheel { save },
        Unambiguous
    )
}

/// Gives the terminal back, perhaps for a while.
///
/// # Errors
/// Write errors.
pub fn give_screen() -> io::Result<()> {
    let mut hold = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *hold == Hold::Taken {
        *hold = Hold::Free;
        write_before_the_end(None);
        leave_screen()?;
        terminal::disable_raw_mode()?;
    }
    Ok(())
}

/// Draws with `draw` if the terminal is ours; it is not given back meanwhile.
///
/// # Errors
/// Those of `draw`.
pub fn while_taken(draw: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let hold = SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    if *hold == Hold::Taken { draw() } else { Ok(()) }
}

/// What came of waiting for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// There may be some.
    Ours,
    /// They are for somebody else: in the background, who reads them is stopped.
    Others,
    /// The terminal is gone.
    Gone,
}

/// Waits until there is something to read, at most so long.
///
/// # Errors
/// Those of the system, except that waiting may be cut short.
#[cfg(unix)]
pub fn wait_for_input(wait: Duration) -> io::Result<Waited> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    if !in_the_foreground() {
        std::thread::sleep(wait);
        return Ok(Waited::Others);
    }
    let stdin = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    let wait =
        Timespec { tv_sec: wait.as_secs().try_into().unwrap_or(1), tv_nsec: wait.subsec_nanos().into() };
    match poll(&mut fds, Some(&wait)) {
        Ok(_) if fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) => {
            Ok(Waited::Gone)
        }
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(Waited::Ours),
        Err(error) => Err(error.into()),
    }
}

/// Waits until there is something to read, at most so long.
///
/// # Errors
/// Those of the system.
#[cfg(not(unix))]
pub fn wait_for_input(wait: Duration) -> io::Result<Waited> {
    event::poll(wait).map(|_| Waited::Ours)
}

/// Stops the processes of this job until a shell continues them.
///
/// # Errors
/// Where no shell would: this process is what the terminal was opened for.
#[cfg(unix)]
pub fn stop_until_continued() -> Result<(), &'static str> {
    use rustix::process::{Signal, getpid, getsid, kill_current_process_group};
    if getsid(None) == Ok(getpid()) {
        return Err("There is no shell that could continue the program.");
    }
    kill_current_process_group(Signal::STOP).map_err(|_| "The system does not stop this program.")
}

/// Takes back what [`take_screen`] asked of the terminal: keys that are told apart, marked pastes, the other page, the
/// hidden cursor. The wheel is as it was, or as it mostly is where terminals do not remember. Bytes, because some ends can do
/// no more than write.
static LEAVE: &[u8] = b"\x1b[<1u\x1b[?2004l\x1b[?1007h\x1b[?1007r\x1b[?1049l\x1b[?25h";

/// Whether the terminal is ours to change. In the background it is the shell's, and the system stops whoever touches it.
fn in_the_foreground() -> bool {
    #[cfg(unix)]
    {
        // Without a terminal there is nothing to touch, and nobody to stop us.
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

/// Gives the terminal back for good: without the full screen, with the modes that [`remember`] saw, and without bracketed
/// paste, which the line editor may have switched on. For all ways out; does nothing if nothing was taken or remembered.
pub fn restore() {
    if !in_the_foreground() {
        return;
    }
    let asked = Instant::now();
    let mut hold = loop {
        match SCREEN.try_lock() {
            Ok(hold) => break Some(hold),
            Err(TryLockError::Poisoned(hold)) => break Some(hold.into_inner()),
            Err(TryLockError::WouldBlock) if asked.elapsed() > PATIENCE => break None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    // Without the lock somebody is stuck in the middle of a picture; what was taken is given back all the same.
    let taken = hold.as_deref().is_none_or(|hold| *hold == Hold::Taken);
    if taken {
        let _ = leave_screen();
        let _ = terminal::disable_raw_mode();
    }
    if let Some(hold) = &mut hold
        && **hold != Hold::Free
    {
        **hold = Hold::Gone;
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

/// The wheel does not send arrow keys while the other page is shown (xterm's mode 1007): they would walk through the
/// history.
struct NoWheel {
    /// Whether the terminal is to remember how it was.
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

/// Keys that otherwise look alike, such as Enter and Shift-Enter, are told apart (kitty's protocol). Terminals that do not
/// know it ignore it.
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
