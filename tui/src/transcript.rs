//! Conversations in files: JSON that people can read and other programs can write. It must not know where files are.

use moelten_loader::chat::{Message, Role};
use serde::{Deserialize, Serialize};

/// Longest file that is taken for a conversation, in bytes.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

const FORMAT: &str = "moelten conversation";
const VERSION: u32 = 1;

/// A conversation as `/save` writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transcript {
    format: String,
    version: u32,
    /// Name of the model that answered.
    pub model: String,
    /// The system prompt.
    pub system: Option<String>,
    /// Questions and answers in turn, a question first.
    pub messages: Vec<Message>,
}

impl Transcript {
    /// A conversation with `model`.
    pub fn new(model: &str, system: Option<String>, messages: Vec<Message>) -> Self {
        Self { format: FORMAT.to_owned(), version: VERSION, model: model.to_owned(), system, messages }
    }

    /// The text of the file.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("texts and numbers are always valid JSON");
        text.push('\n');
        text
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// What is not a conversation, in words.
    pub fn from_json(text: &str) -> Result<Self, String> {
        let found: Self = serde_json::from_str(text)
            .map_err(|error| format!("it is not a saved conversation ({error})"))?;
        if found.format != FORMAT {
            return Err(format!("it is not a saved conversation, but {:?}", found.format));
        }
        if found.version != VERSION {
            return Err(format!("its version is {}, this program reads {VERSION}", found.version));
        }
        let expected = [Role::User, Role::Assistant].into_iter().cycle();
        for (index, (message, expected)) in found.messages.iter().zip(expected).enumerate() {
            if message.role != expected {
                return Err(format!("message {} is from {:?}, not {expected:?}", index + 1, message.role));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Transcript {
        let messages =
            vec![Message::new(Role::User, "Hi\n\u{1b}"), Message::new(Role::Assistant, "Hello \"you\"")];
        Transcript::new("m", Some("Be kind.".into()), messages)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        assert_eq!(Transcript::from_json(&sample().to_json()), Ok(sample()));
        assert!(!sample().to_json().contains('\u{1b}'));
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let good = sample().to_json();
        for (text, part) in [
            ("", "not a saved conversation"),
            ("[1, 2]", "not a saved conversation"),
            ("{\"format\": 5}", "not a saved conversation"),
            (&good.replace(FORMAT, "recipe"), "recipe"),
            (&good.replace("\"version\": 1", "\"version\": 7"), "version is 7"),
            (&good.replace("\"user\"", "\"assistant\""), "message 1 is from Assistant"),
            (&good.replace("\"user\"", "\"wizard\""), "wizard"),
        ] {
            let problem = Transcript::from_json(text).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
