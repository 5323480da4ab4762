//! The slash commands: one table of names and explanations, and the way from a line to a command. It must not know
//! what commands do.

use std::path::PathBuf;

use crate::settings::Setting;

/// What a line beginning with a slash asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// List the commands.
    Help,
    /// List the settings, or change one.
    Set(Option<(Setting, String)>),
    /// Model, context, settings, system prompt.
    Show,
    /// Show, replace or remove (`Some("")`) the system prompt.
    System(Option<String>),
    /// Another answer to the last question.
    Retry,
    /// Take back turns.
    Undo(usize),
    /// Begin anew.
    Clear,
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Take a conversation from a file.
    Load(PathBuf),
    /// Numbers of the last answer.
    Stats,
    /// Leave.
    Quit,
}

/// A command as `/help` lists it.
#[derive(Debug)]
pub struct Entry {
    /// Its name with the slash.
    pub name: &'static str,
    /// What follows the name.
    pub arguments: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Other names.
    aliases: &'static [&'static str],
    parse: fn(&str) -> Result<Command, String>,
}

/// All commands.
pub const TABLE: [Entry; 11] = [
    entry("/help", "", "this list", &["/?"], |rest| none(rest, Command::Help)),
    entry("/set", "[NAME VALUE]", "change a setting, or list them", &[], set),
    entry("/show", "", "model, context, settings, system prompt", &[], |rest| none(rest, Command::Show)),
    entry("/system", "[TEXT]", "show or change the system prompt (off removes it)", &[], system),
    entry("/retry", "", "another answer to the last question", &[], |rest| none(rest, Command::Retry)),
    entry("/undo", "[N]", "take back the last turn, or the last N", &[], undo),
    entry("/clear", "", "forget the conversation", &[], |rest| none(rest, Command::Clear)),
    entry("/save", "FILE", "write the conversation to a file", &[], |rest| file(rest).map(Command::Save)),
    entry("/load", "FILE", "go on with a saved conversation", &[], |rest| file(rest).map(Command::Load)),
    entry("/stats", "", "numbers of the last answer", &[], |rest| none(rest, Command::Stats)),
    entry("/quit", "", "leave", &["/exit", "/bye"], |rest| none(rest, Command::Quit)),
];

const fn entry(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    aliases: &'static [&'static str],
    parse: fn(&str) -> Result<Command, String>,
) -> Entry {
    Entry { name, arguments, help, aliases, parse }
}

/// Reads a text; `None` if it is not a command: several lines that begin with a slash, like pasted code, are a question
/// unless the slash begins a command that exists.
///
/// # Errors
/// Commands that do not exist and arguments that make no sense, in words.
pub fn parse(line: &str) -> Option<Result<Command, String>> {
    if !line.starts_with('/') {
        return None;
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let found = TABLE.iter().find(|entry| entry.name == name || entry.aliases.contains(&name));
    Some(match found {
        Some(entry) => (entry.parse)(rest.trim()).map_err(|problem| format!("{}: {problem}", entry.name)),
        None if line.contains('\n') => return None,
        None => Err(unknown(name)),
    })
}

fn unknown(name: &str) -> String {
    let closest = TABLE.iter().map(|entry| (distance(entry.name, name), entry.name)).min();
    let guess = match closest {
        Some((distance, guess)) if distance <= 2 => format!("did you mean {guess}? "),
        _ => String::new(),
    };
    format!(
        "there is no command {name}; {guess}/help lists them. To send a line that begins with a slash, put a \
         space before it"
    )
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn none(rest: &str, command: Command) -> Result<Command, String> {
    if rest.is_empty() { Ok(command) } else { Err(format!("takes nothing after it, found {rest:?}")) }
}

fn set(rest: &str) -> Result<Command, String> {
    if rest.is_empty() {
        return Ok(Command::Set(None));
    }
    let (name, value) = rest.split_once([' ', '\t', '=']).unwrap_or((rest, ""));
    let Some(setting) = Setting::named(name) else {
        let names: Vec<_> = Setting::ALL.iter().map(|setting| setting.name()).collect();
        return Err(format!("there is no setting {name:?}; there are {}", names.join(", ")));
    };
    match value.trim() {
        "" => Err(format!("{name} needs a value, e.g. /set {name} {}", example(setting))),
        value => Ok(Command::Set(Some((setting, value.to_owned())))),
    }
}

fn example(setting: Setting) -> &'static str {
    match setting {
        Setting::Temperature => "0.7",
        Setting::TopK => "40",
        Setting::TopP => "0.95",
        Setting::MinP => "0.05",
        Setting::RepeatPenalty => "1.1",
        Setting::RepeatWindow => "64",
        Setting::Seed => "42",
        Setting::MaxTokens => "500",
        Setting::Stop => "###",
    }
}

fn system(rest: &str) -> Result<Command, String> {
    Ok(Command::System(match rest {
        "" => None,
        "off" => Some(String::new()),
        text => Some(text.to_owned()),
    }))
}

fn undo(rest: &str) -> Result<Command, String> {
    match rest {
        "" => Ok(Command::Undo(1)),
        _ => match rest.parse() {
            Ok(turns) if turns > 0 => Ok(Command::Undo(turns)),
            _ => Err(format!("{rest:?} is not a number of turns, e.g. /undo 2")),
        },
    }
}

fn file(rest: &str) -> Result<PathBuf, String> {
    if rest.is_empty() { Err("needs a file name".to_owned()) } else { Ok(PathBuf::from(rest)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_commands() {
        for (line, command) in [
            ("/help", Command::Help),
            ("/?", Command::Help),
            ("/set", Command::Set(None)),
            ("/set temp 0.5", Command::Set(Some((Setting::Temperature, "0.5".into())))),
            ("/system You are  kind.", Command::System(Some("You are  kind.".into()))),
            ("/system off", Command::System(Some(String::new()))),
            ("/undo", Command::Undo(1)),
            ("/undo 3", Command::Undo(3)),
            ("/save my file.json ", Command::Save("my file.json".into())),
            ("/bye", Command::Quit),
        ] {
            assert_eq!(parse(line), Some(Ok(command)));
        }
        assert_eq!(parse("hello"), None);
        assert_eq!(parse(" /etc/passwd"), None);
        assert_eq!(parse("/* pasted\n   code */"), None);
    }

    #[test]
    fn mistakes_are_explained() {
        for (line, part) in [
            ("/hlep", "did you mean /help?"),
            ("/home/me/file.txt", "put a space before it"),
            ("/undo 0", "/undo 2"),
            ("/undo x", "/undo 2"),
            ("/quit now", "takes nothing"),
            ("/set warmth 3", "temp, top-k"),
            ("/set temp", "/set temp 0.7"),
            ("/save", "file name"),
        ] {
            let problem = parse(line).unwrap().unwrap_err();
            assert!(problem.contains(part), "{line}: {problem}");
        }
    }

    #[test]
    fn every_entry_finds_itself() {
        for entry in &TABLE {
            for name in [entry.name].iter().chain(entry.aliases) {
                let problem = parse(name).unwrap().err().unwrap_or_default();
                assert!(!problem.contains("no command"), "{name}: {problem}");
            }
        }
    }

    #[test]
    fn distances_count_edits() {
        assert_eq!(distance("/help", "/help"), 0);
        assert_eq!(distance("/help", "/hlep"), 2);
        assert_eq!(distance("/help", "/hel"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
