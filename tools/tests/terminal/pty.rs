//! A pseudo-terminal that the test reads itself: between the program and the test there is only the kernel.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// The program on a terminal of its own, with as many threads as it chooses.
pub struct Pty {
    screen: File,
    child: Child,
    _state: tempfile::TempDir,
}

/// What a thread has computed, and how long it could have computed but others had the cores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Schedule {
    pub computed: Duration,
    pub queued: Duration,
}

impl Schedule {
    /// Of a thread: `/proc/PID/task/TID`.
    pub fn of(thread: &str) -> Self {
        let text = fs::read_to_string(format!("{thread}/schedstat")).unwrap_or_default();
        let mut spans = text.split_whitespace().map(|number| Duration::from_nanos(number.parse().unwrap()));
        Self { computed: spans.next().unwrap_or_default(), queued: spans.next().unwrap_or_default() }
    }

    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { computed: self.computed - before.computed, queued: self.queued - before.queued }
    }
}

impl Pty {
    /// Starts a chat with these options and environment variables. `None` where there is no `setsid`, which
    /// makes the terminal the program's own.
    pub fn chat(columns: u16, rows: u16, options: &str, variables: &[(&str, &str)]) -> Option<Self> {
        Command::new("setsid").arg("--version").output().ok()?;
        let (screen, name) = pair();
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&screen, size).unwrap();
        let open = || Stdio::from(File::options().read(true).write(true).open(&name).unwrap());
        let state = tempfile::tempdir().unwrap();
        let mut command = crate::common::clean(Command::new("setsid"));
        command.args(["--ctty", env!("CARGO_BIN_EXE_moelten"), "chat"]).args(options.split_whitespace());
        command.env("TERM", "xterm-256color").env("HOME", state.path()).env("XDG_STATE_HOME", state.path());
        command.env_remove("MOELTEN_THREADS").envs(variables.iter().copied());
        command.stdin(open()).stdout(open()).stderr(open());
        let child = command.spawn().unwrap();
        Some(Self { screen, child, _state: state })
    }

    /// Types a text.
    pub fn press(&mut self, text: &str) {
        self.screen.write_all(text.as_bytes()).unwrap();
    }

    /// What the program has written, as soon as there is something, at most after `wait`.
    pub fn written(&mut self, wait: Duration) -> Vec<u8> {
        read(&mut self.screen, wait)
    }

    /// Reads until the program has written `text`, which it writes in one piece. Returns how long that took.
    #[track_caller]
    pub fn until(&mut self, text: &str) -> Duration {
        let started = Instant::now();
        let mut seen = Vec::new();
        while !seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            seen.extend(self.written(Duration::from_millis(100)));
            assert!(started.elapsed() < Duration::from_secs(60), "{text:?} never came");
        }
        started.elapsed()
    }

    /// Reads what comes for a while.
    pub fn rest(&mut self, span: Duration) -> Vec<u8> {
        let (started, mut seen) = (Instant::now(), Vec::new());
        while let Some(left) = span.checked_sub(started.elapsed()) {
            seen.extend(self.written(left));
        }
        seen
    }

    /// Has everything drawn once more, each row in one piece, and returns what is drawn.
    pub fn redrawn(&mut self) -> String {
        self.press("\u{c}");
        String::from_utf8_lossy(&self.rest(Duration::from_millis(250))).into_owned()
    }

    /// The thread that draws: the first of the process.
    pub fn drawing(&self) -> Schedule {
        let pid = self.child.id();
        Schedule::of(&format!("/proc/{pid}/task/{pid}"))
    }

    /// What all threads of the program have computed.
    pub fn computed(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        threads.map(|thread| Schedule::of(&thread.unwrap().path().display().to_string()).computed).sum()
    }
}

/// A pseudo-terminal without a program: the kernel itself repeats each key.
pub struct Echo {
    screen: File,
    _terminal: File,
}

impl Echo {
    pub fn open() -> Self {
        let (screen, name) = pair();
        Self { screen, _terminal: File::options().read(true).write(true).open(name).unwrap() }
    }

    /// How long a key takes through the kernel and back.
    pub fn key(&mut self, key: char) -> Duration {
        let (key, started, mut seen) = (key.to_string(), Instant::now(), Vec::new());
        self.screen.write_all(key.as_bytes()).unwrap();
        while !seen.ends_with(key.as_bytes()) {
            seen.extend(read(&mut self.screen, Duration::from_millis(100)));
            assert!(started.elapsed() < Duration::from_secs(60), "the kernel does not repeat {key:?}");
        }
        started.elapsed()
    }
}

/// A new pseudo-terminal: the end that shows the screen, and the path of the end that a program gets.
fn pair() -> (File, String) {
    let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&screen).unwrap();
    unlockpt(&screen).unwrap();
    let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
    (File::from(screen), name)
}

fn read(screen: &mut File, wait: Duration) -> Vec<u8> {
    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    let mut fds = [PollFd::new(&*screen, PollFlags::IN)];
    let _ = poll(&mut fds, Some(&wait));
    if !fds[0].revents().contains(PollFlags::IN) {
        return Vec::new();
    }
    let mut bytes = vec![0; 1 << 16];
    // Linux reports the end of the program as an error.
    let read = screen.read(&mut bytes).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
