//! The program `moelten`: reads the command line, hands over to a command, turns whatever comes back into an exit
//! code. What commands share is in the modules beside this one; no command knows another.

mod builtin;
mod commands;
mod exit;
mod open;
mod signals;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Mixture-of-Experts language models on laptops with less RAM than the model has weights.
///
/// Without a command, opens a chat with the small built-in model.
#[derive(Parser)]
#[command(name = "moelten", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {}

fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Some(command) => match command {},
        None => Ok(()),
    }
}

fn main() -> ExitCode {
    exit::guarded(|| {
        signals::install();
        run(exit::parse::<Cli>()?)
    })
}
