//! What goes into the conversation's state machine and what comes out. Plain data.

use std::path::PathBuf;
use std::time::Duration;

use moelten_engine::api::Answer;
use moelten_loader::text::chat::Message;

use super::backend::{Failure, NotSwitched, Request, Switched};
use super::session_entry::SessionEntry;
use super::tone::Tone;
use super::turn::Attachment;

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEvent {
    /// The user entered a question or a command, possibly of several lines.
    Entered(String),
    /// Ctrl-C while nothing was being computed, at this time since the start.
    Interrupted(Duration),
    /// Ctrl-D, or the end of a pipe.
    EndOfInput,
    /// The answer is complete, at this time since the start.
    Answered(Box<Answer>, Duration),
    /// The answer failed.
    Failed {
        /// The part of the answer that was shown.
        shown: String,
        /// The reason.
        failure: Failure,
    },
    /// A file was written or read.
    File(FileEvent),
    /// The user chose this model from the list; `None` is the built-in one.
    Picked(Option<PathBuf>),
    /// The user decided what to do about a full context.
    Chosen(OverflowChoice),
    /// A switch to another model has ended.
    Switched(Result<Box<Switched>, NotSwitched>),
    /// The conversation was counted.
    Counted {
        /// The number of the request that this answers.
        number: u64,
        /// Its length in tokens; a longer one than the limit of the request counts as one token more than
        /// that. `None` if the chat template rejects it.
        tokens: Option<usize>,
    },
}

/// Something for the driver to do.
#[derive(Debug, Clone, PartialEq)]
pub enum ChatEffect {
    /// Show a note.
    Note(Tone, String),
    /// Compute and show an answer; then [`ChatEvent::Answered`] or [`ChatEvent::Failed`] follows.
    Answer(Request),
    /// Show the question of [`Chat::overflow_question`](super::Chat::overflow_question); then
    /// [`ChatEvent::Chosen`] follows, or the letter of a choice is entered.
    Ask,
    /// Let the user edit this text and enter it.
    Compose(String),
    /// Write a file; then [`FileEvent::Written`] follows.
    Write {
        /// The path as the user gave it.
        path: PathBuf,
        /// The content of the file.
        text: String,
        /// Questions and answers in it.
        messages: usize,
        /// What an existing file at the path means.
        overwrite: Overwrite,
    },
    /// Save the conversation for `--continue`; then [`FileEvent::Kept`] follows.
    Keep(String),
    /// Save into a new file from here on. Nothing follows.
    NewFile,
    /// List the conversations that are kept; then [`FileEvent::Sessions`] follows.
    Sessions,
    /// Read one of them, to go on in its file; then [`FileEvent::Resumed`] follows.
    Resume {
        /// Its file.
        path: PathBuf,
    },
    /// Delete one of them; then [`FileEvent::Deleted`] follows.
    Delete {
        /// Its file.
        path: PathBuf,
    },
    /// Read a saved conversation; then [`FileEvent::Read`] follows.
    Read {
        /// The path as the user gave it.
        path: PathBuf,
    },
    /// Read a text file and count its tokens; then [`FileEvent::Attached`] follows.
    Attach {
        /// The path as the user gave it.
        path: PathBuf,
        /// Tokens that are counted at most: a longer text does not fit into the context.
        limit: usize,
        /// Whether a question mentions it as `@NAME`, which need not be a file.
        mention: bool,
    },
    /// Count the tokens of a conversation; then [`ChatEvent::Counted`] follows. A driver without a context
    /// meter may ignore it.
    Count {
        /// Number of this request; an answer to an earlier one is ignored.
        number: u64,
        /// What the model would read.
        messages: Vec<Message>,
        /// Tokens that are counted at most.
        limit: usize,
    },
    /// Copy a text to the clipboard.
    Copy(String),
    /// Switch to another model, `None` is the built-in one; then [`ChatEvent::Switched`] follows.
    Switch(Option<PathBuf>),
    /// End the program.
    Quit,
}

/// The result of reading or writing a file. Errors are messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// `/save` or `/export` has ended.
    Written {
        /// The file.
        path: PathBuf,
        /// Questions and answers in it.
        messages: usize,
        /// Whether it was written.
        result: Result<(), String>,
    },
    /// `/load` has read a file.
    Read {
        /// The file.
        path: PathBuf,
        /// Its content.
        result: Result<String, String>,
    },
    /// The conversation of `--continue` was read. A system prompt from the command line replaces its own.
    Last {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
        /// Whether another chat has it open, so that this one goes on with a copy.
        shared: bool,
    },
    /// The conversations that are kept, the one that was written last first.
    Sessions(Vec<SessionEntry>),
    /// One of them was read.
    Resumed {
        /// Its file.
        path: PathBuf,
        /// Its content, and whether another chat has it open.
        result: Result<(String, bool), String>,
    },
    /// One of them was deleted, or not.
    Deleted {
        /// Its file.
        path: PathBuf,
        /// Whether it was.
        result: Result<(), String>,
    },
    /// `/file` has read a file.
    Attached {
        /// The file.
        path: PathBuf,
        /// Its content and its length in tokens.
        result: Result<Attachment, AttachError>,
    },
    /// The conversation was saved for `--continue`, or not.
    Kept(Result<(), String>),
}

/// Why a file cannot be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachError {
    /// It has more tokens than the context holds.
    TooLong {
        /// Size of the file, in bytes.
        bytes: u64,
        /// It has more tokens than this.
        more_than: usize,
    },
    /// There is no such file, and it was only mentioned.
    Missing,
    /// It cannot be read, is not a text, or cannot be encoded; a message.
    Unreadable(String),
}

/// Which existing file a new one may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// One that `/load` could read: a file that `/save` wrote.
    SavedConversation,
    /// Any file: the user has said so.
    Any,
    /// None: the user has to choose another name.
    Never,
}

/// What the user may choose when the context is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverflowChoice {
    /// Hide the oldest turns from the model.
    Drop,
    /// Replace the oldest turns by a summary that the model writes.
    Summarise,
    /// Change nothing.
    Stop,
}

impl OverflowChoice {
    /// All choices, each with its key and its help; the first word of the help can be entered too.
    pub const ALL: [(char, Self, &'static str); 3] = [
        ('d', Self::Drop, "drop the oldest turns: the model no longer sees them"),
        ('s', Self::Summarise, "summarise the oldest turns: the model continues from a summary"),
        ('n', Self::Stop, "stop here and change nothing"),
    ];

    /// The choice that a letter or a word stands for.
    pub(super) fn named(text: &str) -> Option<Self> {
        let named = |(letter, choice, help): (char, Self, &str)| {
            let word = help.split(' ').next().unwrap_or_default();
            (text.eq_ignore_ascii_case(&letter.to_string()) || text.eq_ignore_ascii_case(word))
                .then_some(choice)
        };
        Self::ALL.into_iter().find_map(named)
    }
}
