//! `moelten config`: each setting, its value and where that comes from; and changes of the file.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::{Value, json};

use crate::config::{self, Config, KEYS, Key, Kind};
use crate::exit::CommandError;
use crate::{output, parse};

/// Show all settings with their values and where they come from, or change one
///
/// An option counts more than an environment variable, that more than the configuration file, and the file
/// more than the default. `moelten config -- --ram 8G` shows what holds with options of `chat`.
/// MOELTEN_CONFIG names another file.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Options of `chat`, to see what holds with them
    #[arg(last = true, value_name = "OPTIONS")]
    options: Vec<OsString>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Set a key of the file: `moelten config set ram 8G`
    Set {
        /// A key that `moelten config` prints
        key: String,
        /// As the option takes it; folders are separated as in PATH
        #[arg(allow_negative_numbers = true)]
        value: String,
    },
    /// Remove a key from the file
    Unset {
        /// A key that `moelten config` prints
        key: String,
    },
    /// Print the path of the file, whether it exists or not
    Path,
}

/// A setting as it holds now.
struct Setting {
    key: &'static Key,
    value: String,
    /// `option`, `variable`, `file` or `default`.
    source: &'static str,
    /// The name of the option, of the variable or of the file.
    of: Option<String>,
}

/// Runs the command. `whole` is the whole command line's definition.
pub fn run(args: ConfigArgs, whole: Command) -> anyhow::Result<()> {
    let path = config::place().ok_or_else(|| {
        CommandError::Usage("there is no home folder for a configuration file; set MOELTEN_CONFIG".to_owned())
    })?;
    match args.action {
        Some(Action::Set { key, value }) => change(&path, &key, Some(&value), &whole),
        Some(Action::Unset { key }) => change(&path, &key, None, &whole),
        Some(Action::Path) => {
            Ok(writeln!(io::stdout(), "{}", filter::clean_line(&path.display().to_string()))?)
        }
        None => show(config::load()?, &path, &args, whole),
    }
}

fn change(path: &Path, name: &str, value: Option<&str>, whole: &Command) -> anyhow::Result<()> {
    let key = config::find(name).map_err(|meant| {
        let meant = meant.map_or_else(String::new, |meant| format!("; is `{meant}` meant?"));
        CommandError::Usage(format!("there is no key `{name}`{meant} `moelten config` lists all"))
    })?;
    if let Some(value) = value {
        check(key, value, whole)?;
    }
    config::set(path, key, value)?;
    let line = match value {
        Some(value) => format!("{} = {value} in {}", key.name, path.display()),
        None => format!("{} is not set in {}", key.name, path.display()),
    };
    Notes::detect().line(Tone::Plain, &line);
    Ok(())
}

/// The option itself says whether it takes the value.
fn check(key: &Key, value: &str, whole: &Command) -> anyhow::Result<()> {
    if key.arg.is_empty() || key.kind != Kind::Value {
        return Ok(());
    }
    let option = format!("--{}={value}", key.arg.replace('_', "-"));
    match whole.clone().try_get_matches_from(["moelten", "chat", &option]) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            Err(CommandError::Usage(format!("{}: {first}", key.name)).into())
        }
    }
}

fn show(config: &Config, path: &Path, args: &ConfigArgs, whole: Command) -> anyhow::Result<()> {
    let chat = ["moelten".into(), "chat".into()];
    let line: Vec<OsString> = chat.into_iter().chain(args.options.iter().cloned()).collect();
    let matches = parse::matches(whole, &line).map_err(|error| {
        let text = error.render().to_string();
        CommandError::Usage(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    let chat = matches.subcommand_matches("chat").unwrap_or(&matches);
    let settings: Vec<Setting> = KEYS.iter().map(|key| Setting::now(key, config, path, chat)).collect();
    if args.json {
        let all: serde_json::Map<String, Value> =
            settings.iter().map(|setting| (setting.key.name.to_owned(), setting.json())).collect();
        return Ok(output::answer(&json!({ "file": path.display().to_string(), "settings": all }))?);
    }
    let mut out = io::stdout().lock();
    let exists = if path.exists() { "" } else { " (does not exist)" };
    writeln!(out, "{}", filter::clean_line(&format!("file {}{exists}", path.display())))?;
    let widest = settings.iter().map(|setting| setting.value.chars().count()).max().unwrap_or(0).min(40);
    for Setting { key, value, source, of } in &settings {
        let of = of
            .as_ref()
            .filter(|_| matches!(*source, "variable" | "option"))
            .map_or_else(String::new, |of| format!(" {of}"));
        let line = format!("  {:<15} {value:<widest$}  {source}{of}", key.name);
        writeln!(out, "{}", filter::clean_line(&line))?;
    }
    Ok(out.flush()?)
}

impl Setting {
    fn now(key: &'static Key, config: &Config, path: &Path, chat: &ArgMatches) -> Self {
        let setting = |value: String, source, of| Self { key, value, source, of };
        let of_file = || {
            let value = config.value(key)?;
            Some(setting(value.to_owned(), "file", Some(path.display().to_string())))
        };
        let default = || setting(key.otherwise.to_owned(), "default", None);
        if key.arg.is_empty() {
            let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
            let of_variable =
                key.variable.and_then(|name| Some(setting(set(name)?, "variable", Some(name.to_owned()))));
            return of_variable.or_else(of_file).unwrap_or_else(default);
        }
        match chat.value_source(key.arg) {
            Some(ValueSource::EnvVariable) => {
                let name = key.variable.unwrap_or_default();
                setting(std::env::var(name).unwrap_or_default(), "variable", Some(name.to_owned()))
            }
            Some(ValueSource::CommandLine) => {
                let name = format!("--{}", key.arg.replace('_', "-"));
                let value = match key.kind {
                    Kind::Switch => "true".to_owned(),
                    Kind::Opposite => "false".to_owned(),
                    Kind::Value | Kind::Folders => {
                        let given = chat.get_raw(key.arg).into_iter().flatten().next();
                        given.map_or_else(String::new, |value| value.to_string_lossy().into_owned())
                    }
                };
                setting(value, "option", Some(name))
            }
            _ => of_file().unwrap_or_else(default),
        }
    }

    fn json(&self) -> Value {
        json!({ "value": self.value, "source": self.source, "of": self.of })
    }
}
