//! Makes the pictures of the documentation: a chat with a model that is larger than its memory budget, in a
//! real terminal that `tmux` provides, captured while it computes.
//!
//! ```sh
//! cargo build --release -p moelten-tools
//! MOELTEN_PICTURES=/tmp/story.gguf cargo test --release -p moelten-tools --test program pictures -- --ignored
//! cargo run --release -p moelten-testing --bin pictures -- target/release/moelten docs/pictures /tmp/story.gguf 72M
//! ```
//!
//! That model is the built-in one with each expert copied eleven times. Without a model it is the built-in one in
//! the smallest budget that works. It must not know what the chat draws.

mod ansi;
mod svg;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Longest wait for something on the screen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A picture: its file, its title, the size of the terminal, and whether the expert view is open.
struct Picture {
    name: &'static str,
    title: &'static str,
    columns: u16,
    rows: u16,
    experts: bool,
}

const PICTURES: [Picture; 2] = [
    Picture {
        name: "chat.svg",
        title: "The chat: a question, its answer while it is written, and the status line",
        columns: 96,
        rows: 22,
        experts: false,
    },
    Picture {
        name: "experts.svg",
        title: "The expert view above the chat: one square for each expert, and speeds beside their limits",
        columns: 96,
        rows: 30,
        experts: true,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (Some(program), Some(folder)) = (arguments.first(), arguments.get(1)) else {
        let _ = writeln!(std::io::stderr(), "usage: pictures PROGRAM FOLDER [MODEL [RAM]]");
        return ExitCode::from(2);
    };
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-tales.gguf");
    let model = arguments.get(2).map_or(built_in, PathBuf::from);
    let ram = arguments.get(3).map_or("min".into(), |ram| ram.to_string_lossy().into_owned());
    for picture in &PICTURES {
        let made = make(picture, program, &model, &ram).and_then(|text| {
            fs::write(Path::new(folder).join(picture.name), text).map_err(|e| e.to_string())
        });
        if let Err(problem) = made {
            let _ = writeln!(std::io::stderr(), "{}: {problem}", picture.name);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn make(picture: &Picture, program: &OsStr, model: &Path, ram: &str) -> Result<String, String> {
    let terminal = Terminal::open(picture, program, model)?;
    terminal.enter(&format!(
        "clear; $M chat \"$MODEL\" --ram {ram} --ctx 1k --max-tokens 250 --temp 0.8 --seed 5 --no-history"
    ))?;
    terminal.until("Type a message")?;
    if picture.experts {
        terminal.keys(&["F2"])?;
    }
    // Answers first, so that the cache and the figures are warm.
    for question in ["Tell me a tale about a dog and a bird.", "Who lives in the forest?"] {
        terminal.enter(question)?;
        terminal.until_times("tok/s, context", if question.starts_with("Tell") { 1 } else { 2 })?;
    }
    terminal.enter("Tell me about a lion who was afraid of mice.")?;
    terminal.until("writing, ")?;
    std::thread::sleep(Duration::from_millis(if picture.experts { 700 } else { 300 }));
    let screen = terminal.capture()?;
    let lines = ansi::lines(&screen, usize::from(picture.columns));
    Ok(svg::draw(picture.title, &lines, usize::from(picture.columns), usize::from(picture.rows)))
}

/// A terminal with a shell in it, closed when it is dropped.
struct Terminal {
    folder: PathBuf,
}

impl Terminal {
    fn open(picture: &Picture, program: &OsStr, model: &Path) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("moelten-pictures-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let absolute =
            |path: &Path| fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()));
        // A name that fits into the picture.
        let copy = folder.join(model.file_name().ok_or("the model has no name")?);
        fs::copy(absolute(model)?, &copy).map_err(|error| error.to_string())?;
        let terminal = Self { folder };
        let mut command = terminal.tmux();
        command.env("M", absolute(Path::new(program))?).env("MODEL", copy).env("PS1", "$ ").env_remove("ENV");
        command.env("COLORTERM", "truecolor").env("MOELTEN_THEME", "dark").env_remove("NO_COLOR");
        command.env("HOME", &terminal.folder).env("XDG_STATE_HOME", &terminal.folder);
        let size = [picture.columns.to_string(), picture.rows.to_string()];
        command.args(["-u", "-f", "/dev/null", "new-session", "-d", "-x", &size[0], "-y", &size[1], "sh"]);
        ended(command.current_dir(&terminal.folder)).map(|_| terminal)
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(self.folder.join("socket"));
        command
    }

    fn keys(&self, keys: &[&str]) -> Result<(), String> {
        ended(self.tmux().arg("send-keys").args(keys)).map(drop)
    }

    fn enter(&self, text: &str) -> Result<(), String> {
        self.keys(&["-l", text])?;
        self.keys(&["Enter"])
    }

    /// The visible screen with its colours.
    fn capture(&self) -> Result<String, String> {
        ended(self.tmux().args(["capture-pane", "-p", "-e"]))
    }

    fn until(&self, text: &str) -> Result<(), String> {
        self.until_times(text, 1)
    }

    /// Waits until the screen has had a text in this many places: what is scrolled away counts by the newest.
    fn until_times(&self, text: &str, times: usize) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let screen = ended(self.tmux().args(["capture-pane", "-p"]))?;
            let idle = !screen.contains("writing, ") && !screen.contains("reading prompt");
            if screen.matches(text).count() >= times || (times > 1 && idle && screen.contains(text)) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("no {text:?} on\n{screen}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What a command printed, or why it failed.
fn ended(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
