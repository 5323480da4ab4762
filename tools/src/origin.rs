//! Where the value of an option came from: the command line, an environment variable or the configuration
//! file. Messages blame it by its name. It must not know what options mean.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};

use crate::config;

/// The name that a message about an option's value uses: the option's, or the variable's if that gave it.
pub fn blamed(option: &str, variable: &str) -> String {
    let stated = std::env::args().any(|argument| is_option(&argument, option));
    let in_file = || config::here().blamed(&option.trim_start_matches('-').replace('-', "_"));
    match std::env::var_os(variable) {
        _ if stated => option.to_owned(),
        Some(_) => format!("the environment variable {variable}"),
        None => in_file().unwrap_or_else(|| option.to_owned()),
    }
}

/// Whether an argument gives `option`, as `--option` or `--option=value`.
fn is_option(argument: &str, option: &str) -> bool {
    argument.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

/// The environment variable that gave the value at fault; `None` if the command line gave it. `line` are the
/// arguments, `command` knows the options.
pub fn variable(error: &clap::Error, command: &Command, line: &[String]) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else { return None };
    let option = shown.split([' ', '=']).next()?;
    let long = option.strip_prefix("--")?;
    let argument = find(command, long)?;
    let variable = argument.get_env()?;
    let stated = line.iter().any(|argument| is_option(argument, option));
    (!stated && std::env::var_os(variable).is_some()).then(|| variable.to_string_lossy().into_owned())
}

/// The text of an error about an option's value, with the environment variable that gave it in the place of
/// the option.
pub fn blame(text: &str, error: &clap::Error, variable: &str) -> String {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return text.to_owned();
    };
    text.replace(&format!("for '{option}'"), &format!("in the environment variable {variable}"))
}

fn find<'c>(command: &'c Command, long: &str) -> Option<&'c Arg> {
    let own = command.get_arguments().find(|argument| argument.get_long() == Some(long));
    own.filter(|argument| argument.get_env().is_some())
        .or_else(|| command.get_subcommands().find_map(|inner| find(inner, long)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_told_from_their_namesakes() {
        assert!(is_option("--ram", "--ram") && is_option("--ram=6G", "--ram"));
        assert!(!is_option("--rams", "--ram") && !is_option("ram", "--ram"));
        assert_eq!(blamed("--temp", "MOELTEN_NO_SUCH_VARIABLE"), "--temp");
    }
}
