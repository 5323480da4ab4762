//! A real terminal, which tmux provides.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A terminal with a shell in it, in which `$M` is the program.
pub struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    /// `None` where there is no tmux.
    pub fn open(columns: u16, rows: u16) -> Option<Self> {
        Command::new("tmux").arg("-V").output().ok()?;
        let terminal = Self { folder: tempfile::tempdir().unwrap() };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let mut command = crate::common::clean(terminal.command());
        command.env("M", env!("CARGO_BIN_EXE_moelten")).env("HOME", terminal.folder.path());
        command.env("XDG_STATE_HOME", terminal.folder.path()).env("PS1", "$ ").env_remove("ENV");
        command.args(["-u", "-f", "/dev/null", "new-session", "-d", "-x", &columns, "-y", &rows, "sh"]);
        let opened = command.current_dir(terminal.folder.path()).output().unwrap();
        assert!(opened.status.success(), "{opened:?}");
        Some(terminal)
    }

    /// A tmux command for this terminal.
    pub fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.file("tmux.sock"));
        command
    }

    /// A file in the shell's working folder, which is also its home.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The conversations that were saved, the newest first.
    pub fn conversations(&self) -> Vec<PathBuf> {
        conversations_in(&self.file("moelten"))
    }

    /// The text of the conversation that was saved last; empty if there is none.
    pub fn conversation(&self) -> String {
        self.conversations().first().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// Presses keys by tmux's names.
    pub fn press(&self, key: &str) {
        assert!(self.command().args(["send-keys", key]).status().unwrap().success());
    }

    /// Types text and Enter.
    pub fn enter(&self, text: &str) {
        assert!(self.command().args(["send-keys", "-l", text]).status().unwrap().success());
        self.press("Enter");
    }

    /// Everything on the screen and above it; `styled` with its escape sequences.
    pub fn capture(&self, styled: bool) -> String {
        let mut command = self.command();
        command.args(["capture-pane", "-p", "-J", "-S", "-"]).args(styled.then_some("-e"));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// The screen and its scrollback, as text.
    pub fn screen(&self) -> String {
        self.capture(false)
    }

    /// The visible screen, as text.
    pub fn sight(&self) -> String {
        let output = self.command().args(["capture-pane", "-p"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until `so` holds for the visible screen; `what` names it in the failure.
    #[track_caller]
    pub fn until(&self, what: &str, so: impl Fn(&str) -> bool) {
        let started = Instant::now();
        while !so(&self.sight()) {
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(20), "not {what}:\n{}", self.sight());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until `text` is visible.
    #[track_caller]
    pub fn see(&self, text: &str) {
        self.until(text, |sight| sight.contains(text));
    }

    /// Sends a signal to the chat.
    pub fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(self.file("pid")).unwrap();
        assert!(Command::new("kill").args(["-s", name, pid.trim()]).status().unwrap().success());
    }

    /// Resizes the terminal.
    pub fn resize(&self, columns: u16, rows: u16) {
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let status = self.command().args(["resize-window", "-x", &columns, "-y", &rows]).status();
        assert!(status.unwrap().success());
    }

    /// Pastes a text with the marks of bracketed paste.
    pub fn paste(&self, text: &str) {
        self.pour(text, &["-p"]);
    }

    /// Presses all keys of a text at once.
    pub fn type_fast(&self, text: &str) {
        self.pour(text, &[]);
    }

    fn pour(&self, text: &str, options: &[&str]) {
        std::fs::write(self.file("text"), text).unwrap();
        let file = self.file("text");
        assert!(self.command().arg("load-buffer").arg(&file).status().unwrap().success());
        assert!(self.command().arg("paste-buffer").args(options).status().unwrap().success());
    }

    /// Waits until `text` is on the screen or in its scrollback `count` times.
    #[track_caller]
    pub fn wait(&self, text: &str, count: usize) {
        let started = Instant::now();
        while self.screen().matches(text).count() < count {
            let waited = started.elapsed();
            assert!(waited < Duration::from_secs(20), "no {count} x {text:?} on:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts a chat with these options and records the terminal's modes before it.
    pub fn begin(&self, options: &str) {
        self.enter("stty -a > before");
        self.enter(&format!(
            "sh -c 'echo $$ > pid; exec $M chat {options}'; echo rc=$?; stty -a > after; echo over"
        ));
    }

    /// Checks that the chat ended with this code and restored the terminal.
    #[track_caller]
    pub fn over(&self, code: i32) {
        self.wait("\nover", 1);
        let screen = self.screen();
        assert!(screen.contains(&format!("rc={code}\n")), "{screen}");
        // The first line has speed and size, which resizing changes.
        let modes = |name| {
            let text = std::fs::read_to_string(self.file(name)).unwrap();
            text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(modes("before"), modes("after"));
        assert!(!screen.contains("panicked") && !screen.contains("bug"), "{screen}");
        // The next start would say that this one was ended by force.
        let running = std::fs::read_dir(self.file("moelten/running"));
        let left: Vec<_> = running.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left, Vec::<PathBuf>::new());
    }
}

/// The conversations below the state folder of the program, the newest first.
pub fn conversations_in(state: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(state.join("conversations")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let mut files: Vec<_> = paths
        .filter(is_json)
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .collect();
    files.sort_by(|a, b| b.cmp(a));
    files.into_iter().map(|(_, path)| path).collect()
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}

/// Options with which an answer takes minutes.
pub const ENDLESS: &str = "--ctx 200k --temp 100 --top-k 0 --top-p 1 --min-p 0 --seed 6";
