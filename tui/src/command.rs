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
    /// Write the last question anew.
    Edit,
    /// Go on with an answer that was cut.
    More,
    /// Lay a file beside the next question; show or remove what lies there.
    File(FileUse),
    /// Begin anew.
    Clear,
    /// Write the conversation to a file.
    Save(PathBuf),
    /// Take a conversation from a file.
    Load(PathBuf),
    /// Write the conversation to a file for others to read.
    Export(Export, PathBuf),
    /// Show, hide or forbid thoughts.
    Think(Option<Think>),
    /// Numbers of the last answer.
    Stats,
    /// Open another model, or say which there are.
    Model(Option<PathBuf>),
    /// Take something to the clipboard.
    Copy(Copied),
    /// Watch the experts.
    Experts,
    /// Leave.
    Quit,
}

impl Command {
    /// Whether it cannot be done while an answer is being written.
    pub fn changes_turns(&self) -> bool {
        matches!(
            self,
            Self::Clear
                | Self::Edit
                | Self::Load(_)
                | Self::Model(Some(_))
                | Self::More
                | Self::Retry
                | Self::Undo(_)
        )
    }
}

/// A format of `/export`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Markdown, for people.
    Markdown,
    /// A list of messages, for programs.
    Json,
}

/// What happens to thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Think {
    /// They are shown.
    Show,
    /// They are folded to a line.
    #[default]
    Hide,
    /// The model is asked not to think.
    Off,
}

/// What `/file` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileUse {
    /// Says what lies beside the next question.
    Show,
    /// Lays a file there.
    Put(PathBuf),
    /// Removes the file of this name, or all.
    Off(Option<String>),
}

/// What `/copy` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// The last answer.
    Answer,
    /// Its nth block of code, counted from 1.
    Code(usize),
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
    /// Whether file names follow.
    pub paths: bool,
    /// Other names.
    aliases: &'static [&'static str],
    parse: fn(&str) -> Result<Command, String>,
}

/// All commands.
pub const TABLE: [Entry; 19] = [
    entry("/help", "", "keys and commands", &["/?"], |rest| none(rest, Command::Help)),
    entry("/retry", "", "another answer to the last question", &[], |rest| none(rest, Command::Retry)),
    entry("/edit", "", "write the last question anew", &[], |rest| none(rest, Command::Edit)),
    entry("/undo", "[N]", "take back the last turn, or the last N", &[], undo),
    entry("/more", "", "go on with an answer that was cut", &[], |rest| none(rest, Command::More)),
    entry("/clear", "", "forget the conversation", &[], |rest| none(rest, Command::Clear)),
    with_path("/file", "FILE", "lay a text file beside the next question (off [NAME] removes it)", attach),
    entry("/system", "[TEXT]", "show or change the system prompt (off removes it)", &[], system),
    entry("/think", "show|hide|off", "thoughts: shown, folded, or none", &[], think),
    entry("/set", "[NAME VALUE]", "change a setting, or list them", &[], set),
    entry("/show", "", "model, context, settings, system prompt", &[], |rest| none(rest, Command::Show)),
    entry("/stats", "", "numbers of the last answer", &[], |rest| none(rest, Command::Stats)),
    entry("/experts", "", "watch the experts at work", &[], |rest| none(rest, Command::Experts)),
    with_path("/model", "[FILE]", "open another model", model),
    entry("/copy", "[code N]", "take the last answer, or its Nth code, to the clipboard", &[], copy),
    with_path("/save", "FILE", "write the conversation to a file", |rest| file(rest).map(Command::Save)),
    with_path("/load", "FILE", "go on with a saved conversation", |rest| file(rest).map(Command::Load)),
    with_path("/export", "FILE", "write it as Markdown or JSON: FILE.md, FILE.json", export),
    entry("/quit", "", "leave", &["/exit", "/bye"], |rest| none(rest, Command::Quit)),
];

type Parse = fn(&str) -> Result<Command, String>;

const fn entry(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    aliases: &'static [&'static str],
    parse: Parse,
) -> Entry {
    Entry { name, arguments, help, paths: false, aliases, parse }
}

const fn with_path(name: &'static str, arguments: &'static str, help: &'static str, parse: Parse) -> Entry {
    Entry { name, arguments, help, paths: true, aliases: &[], parse }
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

fn attach(rest: &str) -> Result<Command, String> {
    let off = rest.strip_prefix("off").filter(|rest| rest.is_empty() || rest.starts_with(' ')).map(str::trim);
    Ok(Command::File(match (rest, off) {
        ("", _) => FileUse::Show,
        (_, Some("")) => FileUse::Off(None),
        (_, Some(name)) => FileUse::Off(Some(name.to_owned())),
        (path, None) => FileUse::Put(PathBuf::from(path)),
    }))
}

fn model(rest: &str) -> Result<Command, String> {
    Ok(Command::Model(Some(rest).filter(|rest| !rest.is_empty()).map(PathBuf::from)))
}

fn think(rest: &str) -> Result<Command, String> {
    Ok(Command::Think(match rest {
        "" => None,
        "show" => Some(Think::Show),
        "hide" => Some(Think::Hide),
        "off" => Some(Think::Off),
        other => return Err(format!("takes show, hide or off, found {other:?}")),
    }))
}

fn copy(rest: &str) -> Result<Command, String> {
    let number = match rest.strip_prefix("code") {
        None if rest.is_empty() => return Ok(Command::Copy(Copied::Answer)),
        Some("") => Some(1),
        Some(number) => number.trim().parse().ok().filter(|&number| number > 0),
        None => None,
    };
    number.map(|number| Command::Copy(Copied::Code(number))).ok_or_else(|| {
        format!("{rest:?} is not a block of code, e.g. /copy code 2; without it the whole answer is taken")
    })
}

/// The format is the ending of the name, or a word before it.
fn export(rest: &str) -> Result<Command, String> {
    const FORMATS: [(&str, Export); 2] = [("md", Export::Markdown), ("json", Export::Json)];
    for (name, format) in FORMATS {
        let word = rest.strip_prefix(name).and_then(|rest| rest.strip_prefix(' '));
        if let Some(path) = word.map(str::trim).filter(|path| !path.is_empty()) {
            return Ok(Command::Export(format, PathBuf::from(path)));
        }
    }
    let path = file(rest)?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let found = FORMATS.into_iter().find(|(name, _)| *name == ending);
    found
        .map(|(_, format)| Command::Export(format, path))
        .ok_or_else(|| "the file's name has to end in .md or .json, e.g. /export talk.md".to_owned())
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
            ("/file", Command::File(FileUse::Show)),
            ("/file a b.txt", Command::File(FileUse::Put("a b.txt".into()))),
            ("/file office.txt", Command::File(FileUse::Put("office.txt".into()))),
            ("/file off", Command::File(FileUse::Off(None))),
            ("/file off a b.txt", Command::File(FileUse::Off(Some("a b.txt".into())))),
            ("/think off", Command::Think(Some(Think::Off))),
            ("/copy", Command::Copy(Copied::Answer)),
            ("/copy code", Command::Copy(Copied::Code(1))),
            ("/copy code 3", Command::Copy(Copied::Code(3))),
            ("/export talk.md", Command::Export(Export::Markdown, "talk.md".into())),
            ("/export json talk", Command::Export(Export::Json, "talk".into())),
            ("/model m.gguf", Command::Model(Some("m.gguf".into()))),
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
            ("/think hard", "show, hide or off"),
            ("/copy code 0", "/copy code 2"),
            ("/export talk.doc", ".md or .json"),
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
