//! The program `moelten`: parses the command line, runs a command and turns its result into an exit code.
//! What commands share is in the modules beside `commands`; no command knows another.

mod bench;
mod chat;
mod commands;
mod exit;
mod models;
mod open;
mod origin;
mod report;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use moelten_loader::io::OrEnd;

#[global_allocator]
static ALLOCATOR: OrEnd = OrEnd::system();

/// Runs Mixture-of-Experts language models on a laptop, even when the model is larger than RAM.
///
/// Without a command, opens a chat with the small built-in model.
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
    Inspect(commands::inspect::InspectArgs),
    Quantize(commands::quantize::QuantizeArgs),
    Verify(commands::verify::VerifyArgs),
    Imatrix(commands::imatrix::ImatrixArgs),
    Ppl(commands::ppl::PplArgs),
    Logits(commands::logits::LogitsArgs),
    Bench(commands::bench::BenchArgs),
    Replay(commands::replay::ReplayArgs),
    Doctor(commands::doctor::DoctorArgs),
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // Parsed, so that environment variables apply here too.
    let default = || exit::parse_from::<Cli>(["moelten", "chat"]).map(|cli| cli.command);
    let command = match cli.command {
        None => default()?,
        given => given,
    };
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
        Some(Command::Replay(args)) => commands::replay::run(args),
        Some(Command::Doctor(args)) => commands::doctor::run(args),
        Some(Command::Fit(args)) => commands::fit::run(args),
        Some(Command::Models(args)) => commands::models::run(args),
        None => Ok(()),
    }
}

fn main() -> ExitCode {
    OrEnd::install(exit::WITHOUT_MEMORY);
    exit::guarded(|| {
        signals::install(exit::IO, exit::on_bug);
        open::prefer_as_oom_victim();
        run(exit::parse::<Cli>()?)
    })
}
