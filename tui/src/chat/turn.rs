//! A turn of a conversation: its text and its attached files. They stay apart until a model reads them, so
//! that a long file is neither drawn nor edited with the question. It must not know how turns are stored or
//! drawn.

use std::sync::Arc;

use moelten_loader::text::chat::{Message, Speaker};
use serde::{Deserialize, Serialize};

use super::figures;

/// A question or an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// [`Speaker::User`] for a question, [`Speaker::Assistant`] for an answer.
    pub role: Speaker,
    /// The text; of an answer, with its reasoning.
    pub content: String,
    /// The attached files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Attachment>,
}

/// A text file that is attached to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// File name, not filtered.
    pub name: String,
    /// Its content; shared, because questions are copied.
    #[serde(with = "shared")]
    pub text: Arc<str>,
    /// Length in tokens, counted by the model that was open when it was read.
    pub tokens: usize,
}

impl Turn {
    /// A turn without files.
    pub fn new(role: Speaker, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), files: Vec::new() }
    }

    /// What a model reads: each file in a code fence under its name, then the text.
    pub fn message(&self) -> Message {
        let mut whole = String::with_capacity(self.bytes());
        for Attachment { name, text, .. } in &self.files {
            // The fence has to be longer than any run of backticks in the file.
            let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
            let fence = "`".repeat(longest.max(2) + 1);
            let end = if text.ends_with('\n') { "" } else { "\n" };
            whole.push_str(&format!("File {name}:\n{fence}\n{text}{end}{fence}\n\n"));
        }
        Message::new(self.role, whole + &self.content)
    }

    /// Bytes of the text and of the files together.
    pub fn bytes(&self) -> usize {
        self.content.len() + self.files.iter().map(|file| file.text.len()).sum::<usize>()
    }
}

impl Attachment {
    /// `notes.txt (12.4 KiB, 3100 tokens)`, not filtered.
    pub fn description(&self) -> String {
        let Self { name, text, tokens } = self;
        format!("{name} ({}, {tokens} tokens)", figures::bytes(text.len() as u64))
    }
}

/// Serialises a shared text as a plain string.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<str>, D::Error> {
        String::deserialize(from).map(Arc::from)
    }
}
