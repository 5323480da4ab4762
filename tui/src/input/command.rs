//! The slash commands: one table of names and help, and the parser from a line to a [`Command`]. It must not
//! know what commands do.

use std::path::PathBuf;

use moelten_loader::near::distance;

use super::settings::Setting;

/// A parsed slash command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `/help`: list the keys and commands.
    Help,
    /// `/set`: list the settings, or change one.
    Set(Option<(Setting, String)>),
    /// `/show`: print model, context, settings and system prompt.
    Show,
    /// `/system`: print the system prompt, replace it, or remove it (`Some("")`).
    System(Option<String>),
    /// `/retry`: answer the last question again.
    Retry,
    /// `/undo`: remove this many turns from the end.
    Undo(usize),
    /// `/edit`: put the last question into the composer; it is replaced when it is sent.
    Edit,
    /// `/more`: continue a truncated answer.
    More,
    /// `/file`: attach a file to the next question, list or remove attachments.
    File(FileCommand),
    /// `/clear`: start a new conversation.
    Clear,
    /// `/save`: write the conversation to a file that `/load` reads.
    Save(PathBuf),
    /// `/save!`: the same, over any file of that name.
    SaveOver(PathBuf),
    /// `/sessions`: list the conversations that are kept, or open the Nth.
    Sessions(Option<usize>),
    /// `/fork`: go on in a copy of the conversation.
    Fork,
    /// `/load`: replace the conversation by a saved one.
    Load(PathBuf),
    /// `/export`: write the conversation in a format for other programs.
    Export(ExportFormat, PathBuf),
    /// `/think`: show or hide reasoning, or switch it off; without a word, toggle.
    Think(Option<Reasoning>),
    /// `/stats`: print the statistics of the last answer.
    Stats,
    /// `/model`: switch to this model, or choose one.
    Model(Option<PathBuf>),
    /// `/copy`: copy a text to the clipboard.
    Copy(CopyTarget),
    /// `/experts`: show or hide the expert view.
    Experts,
    /// `/mouse`: take the wheel of the mouse, or leave the mouse to the terminal; without a word, toggle.
    Mouse(Option<bool>),
    /// `/md`: show answers as Markdown, or as they were written; without a word, toggle.
    Markdown(Option<bool>),
    /// `/quit`: end the program.
    Quit,
}

impl Command {
    /// Whether the command changes the turns, and so has to wait while an answer is being computed.
    pub fn changes_turns(&self) -> bool {
        matches!(
            self,
            Self::Clear
                | Self::Edit
                | Self::Load(_)
                | Self::Model(Some(_))
                | Self::More
                | Self::Retry
                | Self::Sessions(Some(_))
                | Self::Undo(_)
        )
    }
}

/// What `/export` writes, chosen by the extension of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// Markdown, for people.
    Markdown,
    /// A JSON list of messages, as chat APIs take it.
    Json,
}

/// What happens to the reasoning of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reasoning {
    /// The full text is shown.
    Show,
    /// One line with its duration is shown.
    Hide,
    /// The model is asked not to reason.
    Off,
}

/// What `/file` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileCommand {
    /// Lists the attached files.
    List,
    /// Attaches a file.
    Attach(PathBuf),
    /// Detaches the file of this name, or all files.
    Detach(Option<String>),
}

/// What `/copy` copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyTarget {
    /// The last answer.
    Answer,
    /// The nth code block of the last answer, counted from 1.
    Code(usize),
}

/// A row of the command table.
#[derive(Debug)]
pub struct CommandEntry {
    /// The name with its slash.
    pub name: &'static str,
    /// The arguments, as the help shows them.
    pub arguments: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Whether the argument is a file name, which Tab completes.
    pub takes_file: bool,
    /// The words that the argument may be, each with its help.
    pub words: &'static [(&'static str, &'static str)],
    /// Other names of the command.
    aliases: &'static [&'static str],
    parse: Parse,
}

/// The command table, in the order of the help.
pub const TABLE: [CommandEntry; 24] = [
    entry("/help", "", "show keys and commands", &["/?"], |rest| none(rest, Command::Help)),
    entry("/retry", "", "answer the last message again", &[], |rest| none(rest, Command::Retry)),
    entry("/edit", "", "edit and resend the last message", &[], |rest| none(rest, Command::Edit)),
    entry("/undo", "[N]", "remove the last turn, or the last N", &[], undo),
    entry("/more", "", "continue a truncated answer", &[], |rest| none(rest, Command::More)),
    entry("/clear", "", "start a new conversation", &[], |rest| none(rest, Command::Clear)),
    entry("/sessions", "[N]", "go back to an earlier conversation", &["/resume"], sessions),
    entry("/fork", "", "go on in a copy of the conversation", &[], |rest| none(rest, Command::Fork)),
    with_path("/file", "FILE", "attach a text file to the next message (off [NAME] detaches)", attach),
    entry("/system", "[TEXT]", "show or set the system prompt (off removes it)", &[], system),
    with_words("/think", "[show|hide|off]", "show or hide reasoning, or switch it off", &THINK_WORDS, think),
    entry("/set", "[NAME VALUE]", "list the settings, or change one", &[], set),
    entry("/show", "", "show model, context, settings and system prompt", &[], |rest| {
        none(rest, Command::Show)
    }),
    entry("/stats", "", "show statistics of the last answer", &[], |rest| none(rest, Command::Stats)),
    entry("/experts", "", "show or hide the expert view", &[], |rest| none(rest, Command::Experts)),
    with_words("/md", "[on|off]", "show answers as Markdown, or as they were written", &MD_WORDS, markdown),
    with_words(
        "/mouse",
        "[on|off]",
        "scroll with the wheel, or leave the mouse to the terminal",
        &MOUSE_WORDS,
        mouse,
    ),
    with_path("/model", "[FILE]", "switch to another model", model),
    entry("/copy", "[code N]", "copy the last answer, or its Nth code block", &[], copy),
    with_path("/save", "FILE", "save the conversation", |rest| file(rest).map(Command::Save)),
    with_path("/save!", "FILE", "save the conversation over an existing file", |rest| {
        file(rest).map(Command::SaveOver)
    }),
    with_path("/load", "FILE", "load a saved conversation", |rest| file(rest).map(Command::Load)),
    with_path("/export", "FILE", "export the conversation: FILE.md or FILE.json", export),
    entry("/quit", "", "quit", &["/exit", "/bye"], |rest| none(rest, Command::Quit)),
];

/// Parses the arguments of a command; the error is a message for the user.
type Parse = fn(&str) -> Result<Command, String>;

const fn entry(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    aliases: &'static [&'static str],
    parse: Parse,
) -> CommandEntry {
    CommandEntry { name, arguments, help, takes_file: false, words: &[], aliases, parse }
}

const fn with_path(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    parse: Parse,
) -> CommandEntry {
    CommandEntry { name, arguments, help, takes_file: true, words: &[], aliases: &[], parse }
}

const fn with_words(
    name: &'static str,
    arguments: &'static str,
    help: &'static str,
    words: &'static [(&'static str, &'static str)],
    parse: Parse,
) -> CommandEntry {
    CommandEntry { name, arguments, help, takes_file: false, words, aliases: &[], parse }
}

/// What `/think` takes.
const THINK_WORDS: [(&str, &str); 3] = [
    ("show", "the full text of the reasoning"),
    ("hide", "one line with its duration"),
    ("off", "the model answers without reasoning"),
];

/// What `/md` takes.
const MD_WORDS: [(&str, &str); 2] = [("on", "as Markdown"), ("off", "as they were written")];
/// What `/mouse` takes.
const MOUSE_WORDS: [(&str, &str); 2] =
    [("on", "the wheel scrolls, Shift selects text"), ("off", "the mouse selects text")];

/// Parses an entry; `None` if it is not a command. Several lines that begin with a slash, like pasted code,
/// are a command only if that command exists.
///
/// # Errors
/// A message for the user: an unknown command, or wrong arguments.
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
        "Unknown command {name}; {guess}/help lists all commands. To send a line that begins with a slash, put a \
         space before it"
    )
}

fn none(rest: &str, command: Command) -> Result<Command, String> {
    if rest.is_empty() { Ok(command) } else { Err(format!("takes no argument, found {rest:?}")) }
}

fn set(rest: &str) -> Result<Command, String> {
    if rest.is_empty() {
        return Ok(Command::Set(None));
    }
    let (name, value) = rest.split_once([' ', '\t', '=']).unwrap_or((rest, ""));
    let Some(setting) = Setting::named(name) else {
        let names: Vec<_> = Setting::ALL.iter().map(|setting| setting.name()).collect();
        return Err(format!("unknown setting {name:?}; the settings are {}", names.join(", ")));
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

fn sessions(rest: &str) -> Result<Command, String> {
    match rest {
        "" => Ok(Command::Sessions(None)),
        _ => match rest.parse() {
            Ok(number) if number > 0 => Ok(Command::Sessions(Some(number))),
            _ => Err(format!("{rest:?} is not a number of the list, e.g. /sessions 2")),
        },
    }
}

fn attach(rest: &str) -> Result<Command, String> {
    let off = rest.strip_prefix("off").filter(|rest| rest.is_empty() || rest.starts_with(' ')).map(str::trim);
    Ok(Command::File(match (rest, off) {
        ("", _) => FileCommand::List,
        (_, Some("")) => FileCommand::Detach(None),
        (_, Some(name)) => FileCommand::Detach(Some(name.to_owned())),
        (path, None) => FileCommand::Attach(PathBuf::from(path)),
    }))
}

fn model(rest: &str) -> Result<Command, String> {
    Ok(Command::Model(Some(rest).filter(|rest| !rest.is_empty()).map(PathBuf::from)))
}

fn think(rest: &str) -> Result<Command, String> {
    Ok(Command::Think(match rest {
        "" => None,
        "show" => Some(Reasoning::Show),
        "hide" => Some(Reasoning::Hide),
        "off" => Some(Reasoning::Off),
        other => return Err(format!("takes show, hide or off, found {other:?}")),
    }))
}

fn on_or_off(rest: &str) -> Result<Option<bool>, String> {
    match rest {
        "" => Ok(None),
        "on" => Ok(Some(true)),
        "off" => Ok(Some(false)),
        other => Err(format!("takes on or off, found {other:?}")),
    }
}

fn mouse(rest: &str) -> Result<Command, String> {
    on_or_off(rest).map(Command::Mouse)
}

fn markdown(rest: &str) -> Result<Command, String> {
    on_or_off(rest).map(Command::Markdown)
}

fn copy(rest: &str) -> Result<Command, String> {
    let number = match rest.strip_prefix("code") {
        None if rest.is_empty() => return Ok(Command::Copy(CopyTarget::Answer)),
        Some("") => Some(1),
        Some(number) => number.trim().parse().ok().filter(|&number| number > 0),
        None => None,
    };
    number.map(|number| Command::Copy(CopyTarget::Code(number))).ok_or_else(|| {
        format!("{rest:?} is not a code block, e.g. /copy code 2; /copy alone copies the whole answer")
    })
}

/// The format is the extension of the file name, or a word before the name.
fn export(rest: &str) -> Result<Command, String> {
    const FORMATS: [(&str, ExportFormat); 2] = [("md", ExportFormat::Markdown), ("json", ExportFormat::Json)];
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
        .ok_or_else(|| "the file name must end in .md or .json, e.g. /export talk.md".to_owned())
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
            ("/save! my file.json", Command::SaveOver("my file.json".into())),
            ("/sessions", Command::Sessions(None)),
            ("/resume 3", Command::Sessions(Some(3))),
            ("/fork", Command::Fork),
            ("/mouse off", Command::Mouse(Some(false))),
            ("/md", Command::Markdown(None)),
            ("/bye", Command::Quit),
            ("/file", Command::File(FileCommand::List)),
            ("/file a b.txt", Command::File(FileCommand::Attach("a b.txt".into()))),
            ("/file office.txt", Command::File(FileCommand::Attach("office.txt".into()))),
            ("/file off", Command::File(FileCommand::Detach(None))),
            ("/file off a b.txt", Command::File(FileCommand::Detach(Some("a b.txt".into())))),
            ("/think off", Command::Think(Some(Reasoning::Off))),
            ("/copy", Command::Copy(CopyTarget::Answer)),
            ("/copy code", Command::Copy(CopyTarget::Code(1))),
            ("/copy code 3", Command::Copy(CopyTarget::Code(3))),
            ("/export talk.md", Command::Export(ExportFormat::Markdown, "talk.md".into())),
            ("/export json talk", Command::Export(ExportFormat::Json, "talk".into())),
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
            ("/quit now", "takes no argument"),
            ("/sessions x", "/sessions 2"),
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
                assert!(!problem.contains("Unknown command"), "{name}: {problem}");
            }
        }
    }
}
