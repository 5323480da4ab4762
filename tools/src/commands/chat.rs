//! `moelten chat`: a conversation on the full screen of a terminal, line by line, or through a pipe.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_tui::chat::{Chat, ChatEvent, FileEvent, SavedModel, saved_model};
use moelten_tui::driver::{
    self, Controls, Conversations, EditorInput, HistoryFile, Input, LineControls, PlainInput, Resumed,
    StatePaths, interactive,
};
use moelten_tui::screen::Screen;
use moelten_tui::terminal::{self, Notes, Tone};
use moelten_tui::theme::{ColourChoice, ColourScheme, Theme};

use crate::chat::answerer::About;
use crate::chat::backend::ChatBackend;
use crate::chat::prompt;
use crate::chat::sampling::SamplingArgs;
use crate::config;
use crate::exit::{self, CommandError};
use crate::last_model;
use crate::open::SessionArgs;
use crate::open::{builtin, kept};
use crate::signals::{self, Polling};

/// Chat with a model
#[derive(Debug, clap::Args)]
pub struct ChatArgs {
    /// GGUF file, model folder, or name such as user/repo:Q4_K_M [default: `model` of `moelten config`, or
    /// the built-in model]
    pub model: Option<PathBuf>,
    /// System prompt; replaces the saved one with --continue; @FILE reads it from a file
    #[arg(short, long, value_name = "TEXT|@FILE")]
    system: Option<String>,
    /// First message, sent at the start
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Continue the last conversation
    #[arg(long = "continue", visible_alias = "resume")]
    go_on: bool,
    /// Plain lines instead of the full screen
    #[arg(long, env = "MOELTEN_PLAIN")]
    plain: bool,
    /// When to use colours [auto: unless NO_COLOR is set]
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    color: ColorArg,
    /// Terminal background [default: MOELTEN_THEME, what the terminal reports, or dark]
    #[arg(long, value_name = "BACKGROUND", env = "MOELTEN_THEME")]
    theme: Option<ThemeArg>,
    /// Save nothing of this chat: neither the input history nor the conversation nor its speed
    #[arg(long)]
    no_history: bool,
    /// Print more: the seed, and characters that the vocabulary lacks
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// When the chat uses colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ColorArg {
    /// If the terminal has colours and NO_COLOR is not set
    Auto,
    /// Even if the output is not a terminal
    Always,
    /// Plain text
    Never,
}

/// Terminal background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ThemeArg {
    /// Light text on a dark background
    Dark,
    /// Dark text on a light background
    Light,
}

impl ChatArgs {
    fn theme(&self) -> Theme {
        let choice = match self.color {
            ColorArg::Auto => ColourChoice::Auto,
            ColorArg::Always => ColourChoice::Always,
            ColorArg::Never => ColourChoice::Never,
        };
        let look = self.theme.map(|theme| match theme {
            ThemeArg::Dark => ColourScheme::Dark,
            ThemeArg::Light => ColourScheme::Light,
        });
        Theme::detect(choice, look)
    }
}

impl ChatArgs {
    /// The models that are named, for names that are not paths.
    pub fn models(&mut self) -> Vec<&mut PathBuf> {
        self.model.iter_mut().collect()
    }
}

/// Runs the command.
pub fn run(args: ChatArgs) -> anyhow::Result<()> {
    let notes = Notes::detect();
    let system = args.system.as_deref().map(prompt::text_or_file).transpose()?;
    let saves = !args.no_history && interactive();
    if args.no_history {
        kept::keep_nothing();
    }
    let files = state_paths();
    let last = if args.go_on { Some(last_conversation(&files)?) } else { None };
    let model = match (&args.model, &last) {
        (None, Some(last)) => model_of(last)?,
        (given, _) => given.clone(),
    };
    // Messages from before the screen opens are repeated on it.
    let mut said = Vec::new();
    let mut say = |tone: Tone, text: String| {
        notes.line(tone, &text);
        said.push((tone, text));
    };
    let mut backend =
        ChatBackend::open(model.as_deref(), system.as_deref(), &args.session, &args.sampling, &mut say)?;
    if let Some(model) = model.as_deref().filter(|_| config::here().remembers_model())
        && let Err(error) = last_model::remember(model)
    {
        say(Tone::Warning, format!("the model is not remembered: {error}"));
    }
    let about = backend.answerer().about().clone();
    let params = backend.params()?;
    about.notices.iter().for_each(|notice| say(Tone::Dim, format!("note: {notice}")));
    if args.verbose {
        about.conditional.iter().for_each(|notice| say(Tone::Dim, format!("note: {notice}")));
        say(Tone::Dim, format!("seed {}", params.sampler.seed));
    }
    let full = interactive() && !args.plain && terminal::has_escape_sequences();
    let kept = if saves { files } else { StatePaths::default() };
    let mut chat = Chat::new(backend.facts(), params, system);
    chat.fix_settings(&args.sampling.given());
    if kept.conversations.is_some() {
        chat.keep_conversations();
    }
    let last = last.map(|Resumed { path, text, shared }| FileEvent::Last { path, text, shared });
    let theme = args.theme();
    if full {
        // The card of the screen has the rest.
        let mut greeting = Vec::new();
        if model.is_none() {
            greeting.push((Tone::Dim, builtin::INTRODUCTION.to_owned()));
        }
        greeting.extend(said);
        let start = Start { greeting, last, prompt: args.prompt };
        return full_screen(chat, backend, kept, theme, start);
    }
    if interactive() && !args.plain {
        notes.line(Tone::Dim, "This terminal has no full screen (TERM); using plain lines.");
    }
    greeting(&about, model.is_none()).iter().for_each(|(tone, line)| notes.line(*tone, line));
    notes.line(Tone::Dim, "/help lists the commands, Ctrl-C stops an answer, Ctrl-D quits.");
    let mut first = last.map_or_else(Vec::new, |event| chat.handle(ChatEvent::File(event)));
    first.extend(args.prompt.into_iter().flat_map(|text| chat.handle(ChatEvent::Entered(text))));
    let mut input: Box<dyn Input> = if interactive() {
        terminal::remember();
        Box::new(EditorInput::new(kept.history.clone(), notes.aloud())?)
    } else {
        // Prompts are shown if only the output is piped.
        let prompts = io::stdin().is_terminal();
        Box::new(PlainInput::new(io::stdin().lock(), notes.aloud(), prompts))
    };
    driver::run_lines(&mut chat, &mut backend, &mut *input, notes.aloud(), &kept, LINES, first)?;
    unless_ended()
}

/// Signals that arrive during an answer in line mode.
const LINES: LineControls = LineControls { hold: || Box::new(Polling::begin()), ended: signals::ended };

/// An error if a signal has ended the chat.
fn unless_ended() -> anyhow::Result<()> {
    if signals::ended() { Err(CommandError::Stopped.into()) } else { Ok(()) }
}

/// What a chat begins with.
struct Start {
    greeting: Vec<(Tone, String)>,
    last: Option<FileEvent>,
    prompt: Option<String>,
}

fn full_screen(
    chat: Chat,
    backend: ChatBackend,
    kept: StatePaths,
    theme: Theme,
    start: Start,
) -> anyhow::Result<()> {
    // A signal must not end the program before the screen is restored.
    let polling = Polling::begin();
    signals::watch_job_control(exit::on_bug);
    let Start { mut greeting, last, prompt } = start;
    let history = kept.history.clone().and_then(|path| match HistoryFile::open(path) {
        Ok(history) => Some(history),
        Err(error) => {
            greeting.push((Tone::Warning, format!("Input history is not saved: {error}")));
            None
        }
    });
    let texts = history.as_ref().map(HistoryFile::texts).unwrap_or_default();
    let mut screen = Screen::new(chat, theme, texts);
    screen.show_notes(greeting);
    let mut first = screen.open(last);
    first.extend(prompt.into_iter().flat_map(|text| screen.send(text)));
    let finder = backend.finder();
    let controls = Controls {
        stop: signals::stop,
        requested: signals::asked,
        suspend: signals::suspend,
        search: finder,
    };
    driver::run_screen(screen, Box::new(backend), kept, history, controls, first)?;
    drop(polling);
    unless_ended()
}

/// The first lines of a chat.
fn greeting(about: &About, built_in: bool) -> Vec<(Tone, String)> {
    let mut lines = vec![(Tone::Plain, format!("moelten {}: {}", env!("CARGO_PKG_VERSION"), about.name))];
    if built_in {
        lines.push((Tone::Plain, builtin::INTRODUCTION.to_owned()));
    }
    lines.push((Tone::Dim, format!("context {}; {}", about.context, about.compute)));
    lines
}

/// Files for history and conversations: in `~/.local/state/moelten`, by the XDG rules; on Windows in
/// `%LOCALAPPDATA%\moelten`; none without a home folder.
fn state_paths() -> StatePaths {
    let folder = kept::state();
    StatePaths {
        history: folder.as_ref().map(|folder| folder.join("history")),
        conversations: folder.map(|folder| Arc::new(Conversations::below(&folder))),
    }
}

/// Reads the last conversation.
fn last_conversation(files: &StatePaths) -> anyhow::Result<Resumed> {
    let none = |why: &str| CommandError::Usage(format!("no conversation to continue: {why}"));
    let kept = files.conversations.as_ref().ok_or_else(|| none("there is no home folder to save one in"))?;
    Ok(kept.resume_last().map_err(|why| none(&why))?)
}

/// The model of a conversation that is continued without naming a model; `None` is the built-in one.
fn model_of(last: &Resumed) -> anyhow::Result<Option<PathBuf>> {
    let problem = |what: String| {
        CommandError::Usage(format!("{what}; `moelten chat MODEL --continue` continues with another one"))
    };
    match saved_model(&last.text) {
        Some(SavedModel::At(path)) if !Path::exists(&path) => {
            Err(problem(format!("the model of the conversation is gone: {}", path.display())).into())
        }
        Some(SavedModel::At(path)) => Ok(Some(path)),
        // Files of earlier versions name no place; the chat says with which model the conversation was.
        Some(SavedModel::BuiltIn | SavedModel::Unknown(_)) | None => Ok(None),
    }
}
