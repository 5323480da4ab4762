//! Makes the pictures of the documentation: a chat with a model that is larger than its memory budget, in a
//! real terminal that `tmux` provides, captured while it computes.
//!
//! ```sh
//! cargo build --release -p moelten-tools
//! export MOELTEN_PICTURES=/tmp/story.gguf
//! cargo test --release -p moelten-tools --test program pictures -- --ignored
//! cargo build --release -p moelten-testing
//! target/release/pictures target/release/moelten docs/pictures $MOELTEN_PICTURES 72M
//! ```
//!
//! That model is the built-in one with each expert copied eleven times. Without a model it is the built-in
//! one in the smallest budget that works. It must not know what the chat draws.

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
/// How long an answer is written before the picture is taken.
const WRITING: Duration = Duration::from_millis(350);
/// What stands below a complete answer.
const DONE: &str = "tok/s, context";
const QUESTIONS: [&str; 4] = [
    "Tell me a tale about a dog and a bird.",
    "Tell me a tale about a lion who was afraid of mice.",
    "Tell me a tale about a girl and her boat.",
    "Tell me a tale about the moon.",
];

/// How many colours a terminal says it has.
#[derive(Clone, Copy)]
enum Colours {
    /// All that eight bits for each part give.
    All,
    /// A table of 256.
    Table,
    /// The sixteen oldest.
    Few,
    /// No colours are wanted.
    None,
}

impl Colours {
    /// Part of a file's name.
    const fn name(self) -> &'static str {
        match self {
            Self::All => "true",
            Self::Table => "256",
            Self::Few => "16",
            Self::None => "none",
        }
    }

    /// The variable that says it, beside tmux's own `TERM`, and its value.
    const fn variable(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::All => Some(("COLORTERM", "truecolor")),
            Self::Table => Some(("COLORTERM", "256")),
            Self::Few => None,
            Self::None => Some(("NO_COLOR", "1")),
        }
    }
}

/// A picture: its file, its title, the size of the terminal and its colours, and whether the expert view is
/// open.
struct Picture {
    name: String,
    title: &'static str,
    columns: u16,
    rows: u16,
    colours: Colours,
    experts: bool,
}

/// Sizes of terminals in which the expert view is shown, in all colours.
const EXPERTS: [(u16, u16); 3] = [(80, 24), (120, 40), (200, 50)];

fn pictures() -> Vec<Picture> {
    let title = "The chat: a question, its answer while it is written, and the status line";
    let colours = Colours::All;
    let mut all =
        vec![Picture { name: "chat.svg".to_owned(), title, columns: 96, rows: 22, colours, experts: false }];
    let title = "The expert view and the chat: one square for each expert, and speeds beside their limits";
    let mut experts = |name, columns, rows, colours| {
        all.push(Picture { name, title, columns, rows, colours, experts: true });
    };
    experts("experts.svg".to_owned(), 96, 30, Colours::All);
    for (columns, rows) in EXPERTS {
        for colours in [Colours::All, Colours::Table, Colours::Few, Colours::None] {
            let name = format!("experts-{columns}x{rows}-{}.svg", colours.name());
            experts(name, columns, rows, colours);
        }
    }
    all
}

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let (Some(program), Some(folder)) = (arguments.first(), arguments.get(1)) else {
        let _ = writeln!(std::io::stderr(), "usage: pictures PROGRAM FOLDER [MODEL [RAM]]");
        return ExitCode::from(2);
    };
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny-tales.gguf");
    let model = arguments.get(2).map_or(built_in, PathBuf::from);
    let ram = arguments.get(3).map_or("min".into(), |ram| ram.to_string_lossy().into_owned());
    for picture in &pictures() {
        let made = make(picture, program, &model, &ram).and_then(|text| {
            fs::write(Path::new(folder).join(&picture.name), text).map_err(|e| e.to_string())
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
    terminal.wait("the chat", |screen| screen.contains("Type a message"))?;
    if picture.experts {
        terminal.keys(&["F2"])?;
    }
    // The first answers warm the cache and the figures; some are too short for a picture.
    for (index, question) in QUESTIONS.iter().cycle().take(10 * QUESTIONS.len()).enumerate() {
        terminal.enter("/clear")?;
        terminal.wait("an empty chat", |screen| !screen.contains(DONE))?;
        terminal.enter(question)?;
        if let Some(screen) = terminal.writing()?.filter(|_| index >= 2) {
            let lines = ansi::lines(&screen, usize::from(picture.columns));
            return Ok(svg::draw(
                picture.title,
                &lines,
                usize::from(picture.columns),
                usize::from(picture.rows),
            ));
        }
        terminal.wait(DONE, |screen| screen.contains(DONE))?;
    }
    Err("all answers were too short".to_owned())
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
        command.env("MOELTEN_THEME", "dark").env_remove("COLORTERM").env_remove("NO_COLOR");
        command.envs(picture.colours.variable());
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

    /// The screen after an answer has been written for a while; `None` if it was complete before.
    fn writing(&self) -> Result<Option<String>, String> {
        let (asked, mut begun) = (Instant::now(), None);
        loop {
            let screen = self.capture()?;
            if screen.contains("writing, ") {
                let begun: &mut Instant = begun.get_or_insert_with(Instant::now);
                if begun.elapsed() >= WRITING {
                    return Ok(Some(screen));
                }
            } else if begun.is_some() || screen.contains(DONE) {
                return Ok(None);
            }
            if asked.elapsed() > PATIENCE {
                return Err(format!("no answer on\n{screen}"));
            }
        }
    }

    /// Waits until `so` holds for the screen; `what` names it in the error.
    fn wait(&self, what: &str, so: impl Fn(&str) -> bool) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let screen = ended(self.tmux().args(["capture-pane", "-p"]))?;
            if so(&screen) {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("no {what} on\n{screen}"));
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
