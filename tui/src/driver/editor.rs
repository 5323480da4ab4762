//! The person's own editor. It must not know what is edited, nor for whom.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::full::Asked;

/// How the person's editor and whoever asks something of this program get on.
#[derive(Debug, Clone, Copy)]
pub struct Meanwhile {
    /// What somebody asked for since the last call.
    pub asked: fn() -> Option<Asked>,
    /// Stops this process until it is continued; an explanation if that makes no sense here.
    pub suspend: fn() -> Result<(), &'static str>,
}

/// What became of a text in an editor.
#[derive(Debug, PartialEq, Eq)]
pub enum Edited {
    /// It was changed, or could not be, in words.
    Text(Result<String, String>),
    /// This program is to end; so did the editor.
    End,
}

/// Lets the person change a text in `$VISUAL`, `$EDITOR` or vi.
pub fn edit(text: &str, meanwhile: Meanwhile) -> Edited {
    let path = std::env::temp_dir().join(format!("moelten-{}.md", std::process::id()));
    let result = edit_file(&path, text, meanwhile);
    // Gone or never made: either way it is no longer there.
    let _ = std::fs::remove_file(&path);
    result
}

fn edit_file(path: &PathBuf, text: &str, meanwhile: Meanwhile) -> Edited {
    if let Err(error) = write(path, text) {
        return Edited::Text(Err(format!("{}: {error}", path.display())));
    }
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    let editor = set("VISUAL").or_else(|| set("EDITOR")).unwrap_or_else(|| "vi".to_owned());
    // The variable may hold options, and a path with blanks in quotes: a shell knows how to read it.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{editor} \"$1\""), "sh"]).arg(path);
    Edited::Text(match run(&mut command, meanwhile) {
        Ok(None) => return Edited::End,
        Ok(Some(status)) if status.success() => {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Ok(Some(status)) => Err(format!("{editor} ended with {status}; nothing was changed.")),
        Err(error) => Err(format!("{editor} cannot be run: {error}; $EDITOR names another.")),
    })
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

/// Runs an editor as a shell would, as a group of its own in the foreground; `None` if it had to end with this program.
#[cfg(unix)]
fn run(command: &mut Command, meanwhile: Meanwhile) -> io::Result<Option<ExitStatus>> {
    use std::os::unix::process::CommandExt;

    let group = Group::of(command.process_group(0).spawn()?.id())?;
    let result = group.watch(meanwhile);
    group.hands_over_to(Group::own());
    result
}

#[cfg(not(unix))]
fn run(command: &mut Command, _: Meanwhile) -> io::Result<Option<ExitStatus>> {
    command.status().map(Some)
}

/// A group of processes, by its leader.
#[cfg(unix)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Group(rustix::process::Pid);

#[cfg(unix)]
impl Group {
    /// Time between two looks at it.
    const LOOK: std::time::Duration = std::time::Duration::from_millis(20);
    /// Looks until one that was asked to end has to.
    const PATIENCE: usize = 15;

    fn of(leader: u32) -> io::Result<Self> {
        let leader = i32::try_from(leader).ok().and_then(rustix::process::Pid::from_raw);
        leader.map(Self).ok_or_else(|| io::Error::other("it has no number"))
    }

    /// That of this program.
    fn own() -> Self {
        Self(rustix::process::getpgrp())
    }

    /// Who has the terminal, if there is one.
    fn in_front() -> Option<Self> {
        rustix::termios::tcgetpgrp(rustix::stdio::stdin()).ok().map(Self)
    }

    /// Gives the terminal to another group, if it has it: it is not taken from a shell.
    fn hands_over_to(self, other: Self) {
        if Self::in_front() == Some(self) {
            // One that has ended meanwhile does not take it.
            let _ = moelten_loader::io::foreground::give(other.0.as_raw_nonzero().get());
        }
    }

    /// Sends a signal; one that has ended hears nothing any more.
    fn hears(self, signal: rustix::process::Signal) {
        let _ = rustix::process::kill_process_group(self.0, signal);
    }

    /// Has the terminal from here on, if this program had it. It may have been stopped for wanting that too early.
    fn goes_on(self) {
        Self::own().hands_over_to(self);
        self.hears(rustix::process::Signal::CONT);
    }

    /// What has become of its leader since the last look.
    fn news(self) -> io::Result<Option<rustix::process::WaitStatus>> {
        use rustix::process::{WaitOptions, waitpid};
        let news = waitpid(Some(self.0), WaitOptions::NOHANG | WaitOptions::UNTRACED)?;
        Ok(news.map(|(_, status)| status))
    }

    /// Waits for its end. If it is suspended this program is, too; if this program is to end it has to as well.
    fn watch(self, meanwhile: Meanwhile) -> io::Result<Option<ExitStatus>> {
        use std::os::unix::process::ExitStatusExt;
        self.goes_on();
        let mut suspended = false;
        loop {
            match self.news()? {
                Some(status) if status.stopped() => {
                    self.hands_over_to(Self::own());
                    // Where no shell would continue this program, the editor goes on at once.
                    let _ = (meanwhile.suspend)();
                    suspended = true;
                }
                Some(status) => return Ok(Some(ExitStatus::from_raw(status.as_raw()))),
                None => std::thread::sleep(Self::LOOK),
            }
            // In the background it would only be stopped again.
            if suspended && Self::in_front().is_none_or(|group| group == Self::own()) {
                suspended = false;
                self.goes_on();
            }
            // A Ctrl-C is the editor's.
            if (meanwhile.asked)() == Some(Asked::End) {
                self.ends();
                return Ok(None);
            }
        }
    }

    fn ends(self) {
        use rustix::process::Signal;
        self.hears(Signal::TERM);
        self.hears(Signal::CONT);
        for _ in 0..Self::PATIENCE {
            match self.news() {
                Ok(None) => std::thread::sleep(Self::LOOK),
                Ok(Some(status)) if status.stopped() => {}
                Ok(Some(_)) | Err(_) => break,
            }
        }
        // Whoever is left of the group.
        self.hears(Signal::KILL);
    }
}
