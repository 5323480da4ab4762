//! A turn of a conversation: what was said, and the files that lie beside it. They stay apart until a model reads them, so that
//! a long file is neither drawn nor edited with the question. It must not know who keeps turns, nor how they are drawn.

use std::sync::Arc;

use moelten_loader::text::chat::{Message, Role};
use serde::{Deserialize, Serialize};

use crate::figures;

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who speaks: the person or the model.
    pub role: Role,
    /// What was said.
    pub content: String,
    /// What lies beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<Attachment>,
}

/// A text beside a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Name for people, unfiltered.
    pub name: String,
    /// Its content, as it was read; shared, because questions are copied.
    #[serde(with = "shared")]
    pub text: Arc<str>,
    /// Length in tokens, as the model counted that was open then.
    pub tokens: usize,
}

impl Turn {
    /// A turn without files.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), files: Vec::new() }
    }

    /// What a model reads: the files first, each in a fence, then what was said.
    pub fn message(&self) -> Message {
        let mut whole = String::with_capacity(self.bytes());
        for Attachment { name, text, .. } in &self.files {
            // A fence longer than any in the text.
            let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
            let fence = "`".repeat(longest.max(2) + 1);
            let end = if text.ends_with('\n') { "" } else { "\n" };
            whole.push_str(&format!("File {name}:\n{fence}\n{text}{end}{fence}\n\n"));
        }
        Message::new(self.role, whole + &self.content)
    }

    /// Bytes of what was said and of the files.
    pub fn bytes(&self) -> usize {
        self.content.len() + self.files.iter().map(|file| file.text.len()).sum::<usize>()
    }
}

impl Attachment {
    /// `notes.txt (12.4 kB, 3100 tokens)`, unfiltered.
    pub fn words(&self) -> String {
        let Self { name, text, tokens } = self;
        format!("{name} ({}, {tokens} tokens)", figures::bytes(text.len() as u64))
    }
}

/// Texts that are shared are written as texts.
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
