//! The program `moelten`: parses the command line, runs a command and turns its result into an exit code.
//! What commands share is in the modules beside `commands`; no command knows another.

mod bench;
mod chat;
mod commands;
mod exit;
mod models;
mod names;
mod open;
mod origin;
mod report;
mod signals;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use moelten_loader::io::OrEnd;

#[global_allocator]
static ALLOCATOR: OrEnd = OrEnd::system();

/// Runs Mixture-of-Experts language models on a laptop, even when the model is larger than RAM.
///
/// Without a command, opens a chat: `moelten MODEL` with a model, `moelten` alone with the small built-in
/// one. MODEL is a GGUF file, a model folder, or a name on the Hugging Face hub such as user/repo:Q4_K_M.
#[derive(Parser)]
#[command(name = "moelten", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
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
    Doctor(commands::doctor::DoctorArgs),
    Completions(commands::completions::CompletionsArgs),
    Man(commands::completions::ManArgs),
}

impl Command {
    /// What stands in the place of a model. `fit` asks the hub itself: it judges a model before a download.
    fn models(&mut self) -> Vec<&mut std::path::PathBuf> {
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
            Self::Completions(_) | Self::Man(_) => Vec::new(),
        }
    }
}

/// The command line, with `chat` put before a first argument that is a model.
fn words() -> Vec<std::ffi::OsString> {
    let mut words: Vec<_> = std::env::args_os().collect();
    let known = |word: &str| Cli::command().get_subcommands().any(|c| c.get_name() == word) || word == "help";
    if let Some(first) = words.get(1).and_then(|word| word.to_str())
        && !first.starts_with('-')
        && !known(first)
        && names::is_model(first.as_ref())
    {
        words.insert(1, "chat".into());
    }
    words
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // Parsed, so that environment variables apply here too.
    let default = || exit::parse_from::<Cli>(["moelten", "chat"]).map(|cli| cli.command);
    let mut command = match cli.command {
        None => default()?,
        given => given,
    };
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
        Some(Command::Doctor(args)) => commands::doctor::run(args),
        Some(Command::Fit(args)) => commands::fit::run(args),
        Some(Command::Models(args)) => commands::models::run(args),
        Some(Command::Pull(args)) => commands::pull::run(args),
        Some(Command::Completions(args)) => commands::completions::run(args, Cli::command()),
        Some(Command::Man(args)) => commands::completions::man(args, Cli::command()),
        None => Ok(()),
    }
}

fn main() -> ExitCode {
    OrEnd::install(exit::WITHOUT_MEMORY);
    exit::guarded(|| {
        signals::install(exit::IO, exit::on_bug);
        open::prefer_as_oom_victim();
        run(exit::parse_from::<Cli>(words())?)
    })
}
