//! The program `moelten`: parses the command line, runs a command and turns its result into an exit code.
//! What commands share is in the modules beside `commands`; no command knows another.

mod bench;
mod chat;
mod commands;
mod config;
mod encdec;
mod examples;
mod exit;
mod health;
mod images;
mod last_model;
mod models;
mod names;
mod open;
mod origin;
mod output;
mod parse;
mod report;
mod signals;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use commands::first::{self, Start};
use moelten_loader::io::OrEnd;
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};

#[global_allocator]
static ALLOCATOR: OrEnd = OrEnd::system();

/// Runs Mixture-of-Experts language models on a laptop, even when the model is larger than RAM.
///
/// Without a command, opens a chat: `moelten MODEL` with that model, `moelten` alone with the one that was
/// chosen in `moelten config`, or with a choice of models for this machine. MODEL is a GGUF file, a model
/// folder, or a name on the Hugging Face hub such as user/repo:Q4_K_M.
#[derive(Parser)]
#[command(name = "moelten", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print nothing to stderr but warnings and errors
    #[arg(short, long, global = true)]
    quiet: bool,
}

#[derive(Subcommand)]
enum Command {
    Chat(commands::chat::ChatArgs),
    Run(commands::run::RunArgs),
    Fit(commands::fit::FitArgs),
    Models(commands::models::ModelsArgs),
    Pull(commands::pull::PullArgs),
    Inspect(commands::inspect::InspectArgs),
    Quantize(commands::quantize::QuantizeArgs),
    Verify(commands::verify::VerifyArgs),
    Imatrix(commands::imatrix::ImatrixArgs),
    Ppl(commands::ppl::PplArgs),
    Logits(commands::logits::LogitsArgs),
    Bench(commands::bench::BenchArgs),
    Tune(commands::tune::TuneArgs),
    Replay(commands::replay::ReplayArgs),
    MakeExample(commands::make_example::MakeExampleArgs),
    Doctor(commands::doctor::DoctorArgs),
    Config(commands::config::ConfigArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::completions::ManArgs),
}

impl Command {
    /// What stands in the place of a model. `fit` asks the hub itself: it judges a model before a download.
    fn models(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Chat(args) => args.models(),
            Self::Run(args) => args.models(),
            Self::Inspect(args) => args.models(),
            Self::Quantize(args) => args.models(),
            Self::Verify(args) => args.models(),
            Self::Imatrix(args) => args.models(),
            Self::Ppl(args) => args.models(),
            Self::Logits(args) => args.models(),
            Self::Bench(args) => args.models(),
            Self::Tune(args) => args.models(),
            Self::Fit(_) | Self::Models(_) | Self::Pull(_) | Self::Replay(_) | Self::Doctor(_) => Vec::new(),
            Self::MakeExample(_) | Self::Config(_) | Self::Completions(_) | Self::Man(_) => Vec::new(),
        }
    }

    /// The place of a model that may be left out, in commands that then take the one that the user chose for
    /// all. `bench` does not: what it measures is always named.
    fn choosable(&mut self) -> Option<&mut Option<PathBuf>> {
        match self {
            Self::Chat(args) => Some(&mut args.model),
            Self::Run(args) => Some(&mut args.model),
            Self::Inspect(args) => Some(&mut args.model),
            Self::Fit(args) => Some(&mut args.model),
            Self::Tune(args) => Some(&mut args.model),
            _ => None,
        }
    }

    /// Whether it was asked for JSON.
    fn wants_json(&self) -> bool {
        match self {
            Self::Run(args) => args.json,
            Self::Fit(args) => args.json,
            Self::Models(args) => args.json,
            Self::Inspect(args) => args.json,
            Self::Quantize(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Imatrix(args) => args.json,
            Self::Ppl(args) => args.json,
            Self::Logits(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Tune(args) => args.json,
            Self::Replay(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Config(args) => args.json,
            Self::Chat(_) | Self::Pull(_) | Self::MakeExample(_) => false,
            Self::Completions(_) | Self::Man(_) => false,
        }
    }
}

/// The model that the user chose for all commands: the variable, then the configuration.
fn chosen() -> Option<PathBuf> {
    let variable = std::env::var_os("MOELTEN_MODEL").filter(|model| !model.is_empty());
    variable.map(PathBuf::from).or_else(|| config::here().model())
}

/// What `moelten` alone opens: the chosen model, the last one if it is to be remembered, or what a first
/// screen finds out. `None` ends the program.
fn start() -> anyhow::Result<Option<Option<PathBuf>>> {
    if let Some(model) = chosen() {
        return Ok(Some(Some(model)));
    }
    if config::here().remembers_model()
        && let Some(model) = last_model::recall()
    {
        if model.exists() {
            return Ok(Some(Some(model)));
        }
        let text = format!("the model of the last chat is not there any more: {}", model.display());
        Notes::detect().line(Tone::Warning, &text);
    }
    if !first::can_ask() {
        return Ok(Some(None));
    }
    Ok(match first::choose()? {
        Start::BuiltIn => Some(None),
        Start::Model(path) => Some(Some(path)),
        Start::Quit => None,
    })
}

/// The command line, with `chat` put before a first argument that is a model.
fn words() -> Vec<std::ffi::OsString> {
    let mut words: Vec<_> = std::env::args_os().collect();
    let quiet = words.iter().skip(1).take_while(|word| *word == "-q" || *word == "--quiet").count();
    let known = |word: &str| Cli::command().get_subcommands().any(|c| c.get_name() == word) || word == "help";
    if let Some(first) = words.get(1 + quiet).and_then(|word| word.to_str())
        && !first.starts_with('-')
        && !known(first)
        && names::is_model(first.as_ref())
    {
        words.insert(1 + quiet, "chat".into());
    }
    words
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if cli.quiet {
        Notes::be_quiet();
    }
    // Parsed, so that environment variables apply here too.
    let default = || parse::parse_from::<Cli>(["moelten", "chat"]).map(|cli| cli.command);
    let bare = cli.command.is_none();
    let mut command = match cli.command {
        None => default()?,
        given => given,
    };
    if command.as_ref().is_some_and(Command::wants_json) {
        output::want_json();
    }
    if let Some(Command::Run(args)) = &mut command {
        args.settle();
    }
    if let Some(model) = command.as_mut().and_then(Command::choosable) {
        *model = match model.take() {
            Some(given) => Some(given),
            None if bare => match start()? {
                Some(model) => model,
                None => return Ok(()),
            },
            None => chosen(),
        };
        // The built-in model has a name too, so that a choice can be overridden.
        model.take_if(|model| open::builtin::is_name(model));
    }
    for model in command.iter_mut().flat_map(Command::models) {
        *model = names::resolve(std::mem::take(model))?;
    }
    match command {
        Some(Command::Chat(args)) => commands::chat::run(args),
        Some(Command::Run(args)) => commands::run::run(args),
        Some(Command::Inspect(args)) => commands::inspect::run(args),
        Some(Command::Quantize(args)) => commands::quantize::run(args),
        Some(Command::Verify(args)) => commands::verify::run(args),
        Some(Command::Imatrix(args)) => commands::imatrix::run(args),
        Some(Command::Ppl(args)) => commands::ppl::run(args),
        Some(Command::Logits(args)) => commands::logits::run(args),
        Some(Command::Bench(args)) => commands::bench::run(args),
        Some(Command::Tune(args)) => commands::tune::run(args),
        Some(Command::Replay(args)) => commands::replay::run(args),
        Some(Command::MakeExample(args)) => commands::make_example::run(args),
        Some(Command::Doctor(args)) => commands::doctor::run(args),
        Some(Command::Fit(args)) => commands::fit::run(args),
        Some(Command::Models(args)) => commands::models::run(args),
        Some(Command::Pull(args)) => commands::pull::run(args),
        Some(Command::Config(args)) => commands::config::run(args, Cli::command()),
        Some(Command::Completions(args)) => commands::completions::run(args, Cli::command()),
        Some(Command::Man(args)) => commands::completions::man(args, Cli::command()),
        None => Ok(()),
    }
}

/// Whether a command line is answered whatever the configuration file says.
fn needs_no_settings(words: &[String]) -> bool {
    let asks = |word: &String| matches!(word.as_str(), "--help" | "-h" | "--version" | "-V" | "help");
    words.iter().any(asks) || words.iter().map(String::as_str).eq(["config", "path"])
}

/// Takes the stack that opening a model needs. The system gives it when it is used, and where the address
/// space is full by then, that ends the process without a word.
#[inline(never)]
fn take_stack() {
    let room = [0_u8; 384 << 10];
    std::hint::black_box(&room);
}

fn main() -> ExitCode {
    take_stack();
    OrEnd::install(exit::WITHOUT_MEMORY);
    exit::guarded(|| {
        signals::install(exit::IO, exit::on_bug);
        open::prefer_as_oom_victim();
        let words = words();
        let texts: Vec<String> =
            words.iter().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        // Under --json a broken configuration is told as JSON too.
        if texts.iter().take_while(|word| *word != "--").any(|word| word == "--json") {
            output::want_json();
        }
        let checked = config::load().and_then(|config| parse::check_config(Cli::command, config));
        // Help, and the place of the file, are what a broken one needs.
        if !needs_no_settings(&texts) {
            checked?;
        }
        if version::is_asked(&texts) {
            print!("{}", filter::clean(&version::text()));
            return Ok(());
        }
        run(parse::parse_from::<Cli>(words)?)
    })
}
