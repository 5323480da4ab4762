//! From the words of a command line to options: defaults of the configuration file, messages about wrong use,
//! the version. It must not know what options do.

use std::ffi::OsString;
use std::io::{self, Write};

use clap::builder::Resettable;
use clap::{ArgMatches, Command};
use moelten_loader::near::distance;
use moelten_tui::filter;

use crate::config::{self, Config, KEYS, Kind};
use crate::exit::{self, CommandError};
use crate::{origin, output};

/// Parses a command line, with the configuration's values as defaults. The output of clap is filtered too: it
/// repeats arguments, which may be file names.
///
/// # Errors
/// None: help and wrong use end the process, with 0 and 2.
pub fn parse_from<C: clap::Parser>(
    line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> anyhow::Result<C> {
    let line: Vec<OsString> = line.into_iter().map(Into::into).collect();
    try_parse(&line).or_else(|mut error: clap::Error| {
        if !error.use_stderr() {
            error.print()?;
            std::process::exit(0);
        }
        without_far_suggestions(&mut error);
        let mut text = error.render().to_string();
        if let Some(tip) = tip(&error) {
            text.push_str(&tip);
        }
        let words: Vec<String> = line.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        if let Some(variable) = origin::variable(&error, &C::command(), &words) {
            text = origin::blame(&text, &error, &variable);
        }
        // The exit code stays the same with closed outputs.
        let _ = write!(io::stderr(), "{}", filter::clean(&text));
        if words.iter().take_while(|word| *word != "--").any(|word| word == "--json") {
            output::want_json();
            let report = exit::usage(text.trim().trim_start_matches("error: "));
            let _ = output::answer(&serde_json::json!({ "error": report.json() }));
        }
        std::process::exit(exit::USAGE.into())
    })
}

/// Parses a command line, with the configuration's values as defaults.
///
/// # Errors
/// As clap's.
pub fn try_parse<C: clap::Parser>(line: &[OsString]) -> Result<C, clap::Error> {
    let mut matches = matches(C::command(), line)?;
    C::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut C::command()))
}

/// As [`try_parse`], with the places where values come from.
///
/// # Errors
/// As clap's.
pub fn matches(command: Command, line: &[OsString]) -> Result<ArgMatches, clap::Error> {
    config::with_defaults(command, config::here()).try_get_matches_from(line)
}

/// Checks the values of a configuration with the definition of the options that they are defaults of.
///
/// # Errors
/// The key and its file are named.
pub fn check_config(command: impl FnOnce() -> Command, config: &Config) -> anyhow::Result<()> {
    let mut line = vec!["moelten".to_owned(), "chat".to_owned()];
    for key in KEYS {
        let Some(value) = config.default_of(key) else { continue };
        let option = format!("--{}", key.arg.replace('_', "-"));
        match key.kind {
            Kind::Switch | Kind::Opposite if value == "true" => line.push(option),
            Kind::Switch | Kind::Opposite => {}
            _ => line.push(format!("{option}={value}")),
        }
    }
    if line.len() == 2 {
        return Ok(());
    }
    // Variables are not the file's fault.
    let command = command().mut_subcommand("chat", |chat| chat.mut_args(|arg| arg.env(Resettable::Reset)));
    let Err(error) = command.try_get_matches_from(&line) else { return Ok(()) };
    let text = error.render().to_string();
    let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    let option = first.split("'--").nth(1).and_then(|rest| rest.split([' ', '=', '\'']).next());
    let place = option.and_then(|option| config.blamed(&option.replace('-', "_")));
    let place = place.unwrap_or_else(|| "the configuration file".to_owned());
    Err(CommandError::Usage(format!("{place}: {first}")).into())
}

/// Takes away suggestions of commands that are spelt quite differently: `ppl` for `pull` does not help.
fn without_far_suggestions(error: &mut clap::Error) {
    use clap::error::{ContextKind, ContextValue};
    let Some(name) = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string) else { return };
    let near = |suggestion: &String| distance(suggestion, &name) <= 1 + name.len() / 4;
    let mut kept = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(all)) if meant(&name).is_none() => {
            all.iter().filter(|suggestion| near(suggestion)).cloned().collect()
        }
        _ => Vec::<String>::new(),
    };
    // `pul` is the beginning of `pull`, and as far from `ppl`.
    if kept.iter().any(|suggestion| suggestion.starts_with(&name)) {
        kept.retain(|suggestion| suggestion.starts_with(&name));
    }
    error.remove(ContextKind::SuggestedSubcommand);
    if !kept.is_empty() {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(kept));
    }
}

/// A tip for arguments at the places where other programs expect them.
fn tip(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ErrorKind};
    let told = |kind| error.get(kind).map(ToString::to_string);
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let name = told(ContextKind::InvalidSubcommand)?;
            match meant(&name) {
                Some(meant) => meant.to_owned(),
                None if name.contains(char::is_whitespace) => {
                    "`moelten run --prompt TEXT` answers a prompt".to_owned()
                }
                None => return None,
            }
        }
        ErrorKind::UnknownArgument => {
            let (argument, usage) = (told(ContextKind::InvalidArg)?, told(ContextKind::Usage)?);
            if usage.contains("moelten [OPTIONS] [COMMAND]") {
                format!("options follow a command: `moelten chat {argument} ...`")
            } else if usage.contains("moelten run") && !argument.starts_with('-') {
                "put the question in quotes".to_owned()
            } else {
                return None;
            }
        }
        _ => return None,
    };
    Some(format!("\n  tip: {tip}\n"))
}

/// Commands of other programs, and what does the same here.
fn meant(name: &str) -> Option<&'static str> {
    Some(match name {
        "serve" | "server" => "there is no server in this version; `moelten chat` and `moelten run` answer",
        "version" => "`moelten --version` prints the version",
        "list" | "ls" | "ps" => "`moelten models` lists the models on this machine",
        "download" | "get" | "fetch" | "install" => "`moelten pull NAME` downloads a model",
        "convert" | "create" => "`moelten quantize SOURCE TARGET` converts a model",
        "show" | "info" => "`moelten inspect MODEL` shows what is in a model",
        "check" => "`moelten verify MODEL` checks a file; `moelten fit MODEL` says whether it runs here",
        "ask" | "generate" | "complete" => "`moelten run MODEL --prompt TEXT` answers a prompt",
        "rm" | "remove" | "delete" => "`moelten models rm NAME` deletes a downloaded model",
        "perplexity" | "eval" => "`moelten ppl MODEL --text FILE` measures the perplexity",
        _ => return None,
    })
}
