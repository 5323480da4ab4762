//! The configuration file: defaults of options, chosen once. An option counts more than an environment
//! variable, that more than the file, and the file more than the program's own default. It must not know what
//! options mean: the command line's definition checks the values.

mod edit;
mod file;
mod keys;

pub use edit::set;
pub use file::{Config, here, load, place};
pub use keys::{KEYS, Key, Kind, find};

use clap::Command;

/// The command line with the values of the file as defaults.
pub fn with_defaults(mut command: Command, config: &'static Config) -> Command {
    let name = command.get_name().to_owned();
    for key in KEYS.iter().filter(|key| !key.skips.contains(&name.as_str())) {
        let Some(value) = config.default_of(key) else { continue };
        if command.get_arguments().any(|arg| arg.get_id() == key.arg) {
            command = command.mut_arg(key.arg, |arg| arg.default_value(value));
        }
    }
    let inner: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    for name in inner {
        command = command.mut_subcommand(name, |inner| with_defaults(inner, config));
    }
    command
}
