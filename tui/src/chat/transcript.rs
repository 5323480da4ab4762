//! Saved conversations: JSON that `/load` reads, and exports as Markdown and JSON. It must not know where
//! files are.

use std::collections::BTreeMap;

use moelten_loader::text::chat::{Message, Speaker};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::thinking;
use super::turn::Turn;
use crate::markdown::filter;
use crate::markdown::rows::cut;

/// Largest saved conversation that is read, in bytes: millions of tokens. Reading it, counting it and saving
/// it again take a few copies of it in memory.
pub const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most messages of a saved conversation that is read; each takes memory, however short it is.
const MESSAGES_MAX: usize = 250_000;

/// What stands for the built-in model in the place of a path, which is absolute.
pub const BUILT_IN: &str = "built-in";
/// Longest title of a conversation, in columns.
const TITLE_MAX: usize = 60;

const FORMAT: &str = "moelten conversation";
/// The versions that are read. Version 2 added attached files; a conversation without them is written as
/// version 1.
const VERSIONS: [u32; 2] = [1, 2];

/// A conversation as `/save` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcript {
    format: String,
    version: u32,
    /// The beginning of the first question, filtered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// Name of the model that was open.
    pub model: String,
    /// Its file or folder, or [`BUILT_IN`]; `None` where that is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The settings of the conversation; `None` in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<SavedSettings>,
    /// The system prompt, if there was one.
    pub system: Option<String>,
    /// What the model no longer sees; `None` if it sees everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unseen: Option<Unseen>,
    /// Questions and answers in turn; a question is first.
    pub messages: Vec<Turn>,
}

/// The oldest messages, dropped or summarised because the context was full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unseen {
    /// How many.
    pub messages: usize,
    /// What the model sees in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// The settings of a saved conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSettings {
    /// Settings of `/set` by name, as text.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
    /// Texts that end an answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Whether the model may reason.
    #[serde(default = "yes")]
    pub think: bool,
}

fn yes() -> bool {
    true
}

/// What a list says about a saved conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TranscriptOutline {
    /// The beginning of the first question, filtered.
    pub title: String,
    /// Name of the model, not filtered.
    pub model: String,
    /// Questions and answers.
    pub messages: usize,
}

/// Reads what a list says about a saved conversation; `None` if the text is none.
pub fn outline(text: &str) -> Option<TranscriptOutline> {
    /// The fields of the file; what is said is not kept in memory.
    #[derive(Deserialize)]
    struct Fields {
        format: String,
        title: Option<String>,
        model: String,
        messages: Vec<IgnoredAny>,
    }
    let Fields { format, title, model, messages } = serde_json::from_str(text).ok()?;
    if format != FORMAT {
        return None;
    }
    let title = match title {
        Some(title) => cut(&filter::clean_line(&title), TITLE_MAX),
        None => title_of(&Transcript::from_json(text).ok()?.messages),
    };
    Some(TranscriptOutline { title, model, messages: messages.len() })
}

/// The beginning of the first question.
fn title_of(messages: &[Turn]) -> String {
    let first = messages.first().map_or("", |turn| &turn.content);
    let line = first.lines().map(filter::clean_line).find(|line| !line.trim().is_empty());
    cut(line.unwrap_or_default().trim(), TITLE_MAX)
}

impl Transcript {
    /// A conversation with the model of this name.
    pub fn new(model: &str, system: Option<String>, messages: Vec<Turn>) -> Self {
        let version = VERSIONS[usize::from(messages.iter().any(|turn| !turn.files.is_empty()))];
        let title = Some(title_of(&messages)).filter(|title| !title.is_empty());
        let (format, model) = (FORMAT.to_owned(), model.to_owned());
        Self { format, version, title, model, file: None, settings: None, system, unseen: None, messages }
    }

    /// Without what only `--continue` needs: a file that is given away names no place of this machine.
    pub fn stripped(self) -> Self {
        Self { title: None, file: None, settings: None, unseen: None, ..self }
    }

    /// The content of the file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("texts and numbers are always valid JSON");
        text.push('\n');
        text
    }

    /// Parses the content of a file.
    ///
    /// # Errors
    /// A message that says why this is not a conversation that can be read.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let found: Self =
            serde_json::from_str(text).map_err(|error| format!("not a saved conversation ({error})"))?;
        if found.format != FORMAT {
            return Err(format!("not a saved conversation, but {:?}", found.format));
        }
        if !VERSIONS.contains(&found.version) {
            let [from, to] = VERSIONS;
            return Err(format!(
                "version {} is not supported; this program reads versions {from} to {to}",
                found.version
            ));
        }
        if found.messages.len() > MESSAGES_MAX {
            return Err(format!("it has {} messages; at most {MESSAGES_MAX} are read", found.messages.len()));
        }
        let expected = [Speaker::User, Speaker::Assistant].into_iter().cycle();
        for (index, (message, expected)) in found.messages.iter().zip(expected).enumerate() {
            if message.role != expected {
                return Err(format!("message {} is from {:?}, not {expected:?}", index + 1, message.role));
            }
        }
        Ok(found)
    }
}

/// The conversation as Markdown, without reasoning and control characters.
pub fn to_markdown(model: &str, system: Option<&str>, turns: &[Turn]) -> String {
    let mut text = format!("# A conversation with {}\n", filter::clean_line(model));
    if let Some(system) = system {
        text.push_str(&format!("\n> {}\n", filter::clean(system).replace('\n', "\n> ")));
    }
    for turn in turns {
        let whole = turn.message().content;
        let (title, body) = if turn.role == Speaker::User {
            ("Question", &*whole)
        } else {
            ("Answer", thinking::answer(&whole))
        };
        text.push_str(&format!("\n## {title}\n\n{}\n", filter::clean(body).trim_end()));
    }
    text
}

/// The conversation as JSON, `{"messages": [{"role", "content"}]}`: the format of chat APIs.
pub fn to_messages(system: Option<&str>, turns: &[Turn]) -> String {
    let system = system.map(|text| Message::new(Speaker::System, text));
    let messages: Vec<_> = system.into_iter().chain(turns.iter().map(Turn::message)).collect();
    let mut text = serde_json::to_string_pretty(&serde_json::json!({ "messages": messages }))
        .expect("texts are always valid JSON");
    text.push('\n');
    text
}

/// The contents of the fenced code blocks of a text.
pub fn code_blocks(text: &str) -> Vec<String> {
    use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
    let mut blocks = Vec::new();
    let mut inside = false;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(_))) => {
                inside = true;
                blocks.push(String::new());
            }
            Event::End(TagEnd::CodeBlock) => inside = false,
            Event::Text(code) if inside => {
                if let Some(block) = blocks.last_mut() {
                    block.push_str(&code);
                }
            }
            _ => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::turn::Attachment;

    fn sample() -> Transcript {
        let messages =
            vec![Turn::new(Speaker::User, "Hi\n\u{1b}"), Turn::new(Speaker::Assistant, "Hello \"you\"")];
        Transcript::new("m", Some("Be kind.".into()), messages)
    }

    #[test]
    fn a_saved_conversation_can_be_loaded() {
        assert_eq!(Transcript::from_json(&sample().to_json()), Ok(sample()));
        assert!(!sample().to_json().contains('\u{1b}'));
    }

    #[test]
    fn an_outline_has_the_title_and_the_numbers_of_old_and_new_files() {
        let about = outline(&sample().to_json()).unwrap();
        assert_eq!((about.title.as_str(), about.model.as_str(), about.messages), ("Hi", "m", 2));
        let old = sample().to_json().replace("  \"title\": \"Hi\",\n", "");
        assert!(!old.contains("title"), "{old}");
        assert_eq!(outline(&old), Some(about));
        assert_eq!(outline("{}"), None);
        let long = Transcript::new("m", None, vec![Turn::new(Speaker::User, "\n  word".repeat(40))]);
        assert_eq!(outline(&long.to_json()).unwrap().title, "word");
    }

    #[test]
    fn attached_files_need_version_2_and_other_conversations_do_not() {
        assert!(sample().to_json().contains("\"version\": 1"));
        let old = "{\"format\": \"moelten conversation\", \"version\": 1, \"model\": \"m\", \"system\": null, \
                   \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}";
        assert_eq!(Transcript::from_json(old).unwrap().messages, [Turn::new(Speaker::User, "Hi")]);
        let mut with_file = sample();
        let file = Attachment { name: "a".into(), text: "t\u{1b}".into(), tokens: 3 };
        with_file.messages[0].files.push(file);
        let with_file = Transcript::new("m", None, with_file.messages);
        let text = with_file.to_json();
        assert!(text.contains("\"version\": 2"), "older programs must refuse it: {text}");
        assert_eq!(Transcript::from_json(&text), Ok(with_file));
    }

    #[test]
    fn exports_are_readable() {
        let turns = [
            Turn::new(Speaker::User, "Hi"),
            Turn::new(Speaker::Assistant, "<think>\nhm\n</think>\n\nHello\u{1b}[2J!\n"),
        ];
        let text = to_markdown("m", Some("Be kind.\nAlways."), &turns);
        assert_eq!(
            text,
            "# A conversation with m\n\n> Be kind.\n> Always.\n\n## Question\n\nHi\n\n## Answer\n\nHello!\n"
        );
        let json: serde_json::Value = serde_json::from_str(&to_messages(Some("Be kind."), &turns)).unwrap();
        assert_eq!(json["messages"][0]["role"], "system");
        assert_eq!(json["messages"][2]["content"], turns[1].content);
    }

    #[test]
    fn code_is_found_in_its_fences() {
        let text =
            "See `x`:\n\n```rust\nfn a() {}\n\nfn b() {}\n```\n- and\n  ~~~\n  two\n  ~~~\n```\nnot closed";
        assert_eq!(code_blocks(text), ["fn a() {}\n\nfn b() {}\n", "two\n", "not closed"]);
        assert!(code_blocks("none").is_empty());
    }

    #[test]
    fn other_files_are_refused_with_the_reason() {
        let good = sample().to_json();
        for (text, part) in [
            ("", "not a saved conversation"),
            ("[1, 2]", "not a saved conversation"),
            ("{\"format\": 5}", "not a saved conversation"),
            (&good.replace(FORMAT, "recipe"), "recipe"),
            (&good.replace("\"version\": 1", "\"version\": 7"), "version 7"),
            (&good.replace("\"user\"", "\"assistant\""), "message 1 is from Assistant"),
            (&good.replace("\"user\"", "\"wizard\""), "wizard"),
        ] {
            let problem = Transcript::from_json(text).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
