//! The user's own editor, as a process with job control. It must not know what is edited.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::signal::SignalRequest;

/// Signals and job control while the editor runs.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(unix), allow(dead_code, reason = "only Unix has job control"))]
pub struct JobControl {
    /// The request of the last signal since the last call.
    pub requested: fn() -> Option<SignalRequest>,
    /// Suspends this process until it is continued; a message if that is not possible here.
    pub suspend: fn() -> Result<(), &'static str>,
}

/// How an editor ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Edited {
    /// With this text, or an error message.
    Text(Result<String, String>),
    /// A signal ended the editor together with this program.
    End,
}

/// Opens a text in `$VISUAL`, `$EDITOR` or the system's editor (vi, on Windows Notepad) and waits for the end
/// of the editor.
pub fn edit(text: &str, control: JobControl) -> Edited {
    let path = std::env::temp_dir().join(format!("moelten-{}.md", std::process::id()));
    let result = edit_file(&path, text, control);
    // If this fails the file was never created.
    let _ = std::fs::remove_file(&path);
    result
}

fn edit_file(path: &PathBuf, text: &str, control: JobControl) -> Edited {
    if let Err(error) = write(path, text) {
        return Edited::Text(Err(format!("{}: {error}", path.display())));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| DEFAULT_EDITOR.to_owned());
    Edited::Text(match run(&mut command(&editor, path), control) {
        Ok(None) => return Edited::End,
        Ok(Some(status)) if status.success() => {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Ok(Some(status)) => Err(format!("{editor} ended with {status}; nothing was changed.")),
        Err(error) => Err(format!("{editor} cannot be run: {error}. Set $EDITOR to another editor.")),
    })
}

/// The editor of a user who has not named one.
const DEFAULT_EDITOR: &str = if cfg!(windows) { "notepad" } else { "vi" };

/// The command that opens a file. The variable may hold options and quoted paths, so a shell parses it.
fn command(editor: &str, path: &Path) -> Command {
    #[cfg(windows)]
    {
        use std::os::windows::process::CommandExt;
        let mut command = Command::new("cmd");
        // With /S, cmd takes away the outer quotes and leaves the rest as it is.
        command.raw_arg(format!("/S /C \"{editor} \"{}\"\"", path.display()));
        command
    }
    #[cfg(not(windows))]
    {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path);
        command
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// Runs an editor as a shell would: in a process group of its own, in the foreground. `None` if it was ended
/// together with this program.
#[cfg(unix)]
fn run(command: &mut Command, control: JobControl) -> io::Result<Option<ExitStatus>> {
    use std::os::unix::process::CommandExt;

    let group = ProcessGroup::of(command.process_group(0).spawn()?.id())?;
    let result = group.watch(control);
    group.give_terminal_to(ProcessGroup::own());
    result
}

#[cfg(not(unix))]
fn run(command: &mut Command, _: JobControl) -> io::Result<Option<ExitStatus>> {
    command.status().map(Some)
}

/// A process group, by its leader.
#[cfg(unix)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct ProcessGroup(rustix::process::Pid);

#[cfg(unix)]
impl ProcessGroup {
    /// Time between two checks of its state.
    const CHECK: std::time::Duration = std::time::Duration::from_millis(20);
    /// Checks between SIGTERM and SIGKILL.
    const CHECKS_MAX: usize = 15;

    fn of(leader: u32) -> io::Result<Self> {
        let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
        leader.map(Self).ok_or_else(|| io::Error::other("the process has no id"))
    }

    /// The group of this program.
    fn own() -> Self {
        Self(rustix::process::getpgrp())
    }

    /// The group in the foreground of the terminal; `None` without a terminal.
    fn foreground() -> Option<Self> {
        rustix::termios::tcgetpgrp(rustix::stdio::stdin()).ok().map(Self)
    }

    /// Gives the terminal to another group, if this group has it: it is never taken from a shell.
    fn give_terminal_to(self, other: Self) {
        if Self::foreground() == Some(self) {
            // This fails if the other group has ended meanwhile.
            let _ = moelten_loader::io::foreground::give(other.0.as_raw_nonzero().get());
        }
    }

    /// Sends a signal; this fails if the group has ended.
    fn signal(self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process_group(self.0, signal);
    }

    /// Gives the group the terminal, if this program has it, and continues it: it may have been stopped
    /// because it used the terminal too early.
    fn resume(self) {
        Self::own().give_terminal_to(self);
        self.signal(rustix::process::Signal::CONT);
    }

    /// The change of state of its leader since the last check.
    fn state_change(self) -> io::Result<Option<rustix::process::WaitStatus>> {
        use rustix::process::{WaitOptions, waitpid};
        let change = waitpid(Some(self.0), WaitOptions::NOHANG | WaitOptions::UNTRACED)?;
        Ok(change.map(|(_, status)| status))
    }

    /// Waits for its end. When it is suspended, this program is suspended too; when this program has to end,
    /// it is ended.
    fn watch(self, control: JobControl) -> io::Result<Option<ExitStatus>> {
        use std::os::unix::process::ExitStatusExt;
        self.resume();
        let mut suspended = false;
        loop {
            match self.state_change()? {
                Some(status) if status.stopped() => {
                    self.give_terminal_to(Self::own());
                    // Without a shell that would continue this program, the editor continues at once.
                    let _ = (control.suspend)();
                    suspended = true;
                }
                Some(status) => return Ok(Some(ExitStatus::from_raw(status.as_raw()))),
                None => std::thread::sleep(Self::CHECK),
            }
            // In the background it would be stopped again.
            if suspended && Self::foreground().is_none_or(|group| group == Self::own()) {
                suspended = false;
                self.resume();
            }
            // Ctrl-C is left to the editor.
            if (control.requested)() == Some(SignalRequest::End) {
                self.end();
                return Ok(None);
            }
        }
    }

    /// Ends the group, by force if it does not end in time.
    fn end(self) {
        use rustix::process::Signal;
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        for _ in 0..Self::CHECKS_MAX {
            match self.state_change() {
                Ok(None) => std::thread::sleep(Self::CHECK),
                Ok(Some(status)) if status.stopped() => {}
                Ok(Some(_)) | Err(_) => break,
            }
        }
        // Other processes of the group may be left.
        self.signal(Signal::KILL);
    }
}
