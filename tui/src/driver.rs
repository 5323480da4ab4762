//! Input, output, clock and threads of the chat: line mode, the full screen, files. It carries out what the
//! state machines decide, and must not decide anything itself.

mod ansi;
mod answer_stream;
mod clipboard;
mod cluster_rows;
mod conversations;
mod editor;
mod file_jobs;
mod file_names;
mod file_worker;
mod fold;
mod full_screen;
mod history_file;
mod line_editor;
mod line_input;
mod line_mode;
mod message;
mod model_worker;
mod notes;
mod one_key;
mod pacing;
mod private_file;
mod prompt_progress;
mod screen_mode;
mod signal;
pub mod terminal;
mod text_file;

pub use answer_stream::AnswerStream;
pub use conversations::{Conversations, Resumed};
pub use file_jobs::StatePaths;
pub use file_worker::SAVE_WAIT_MAX;
pub use history_file::HistoryFile;
pub use line_editor::{EditorInput, interactive};
pub use line_input::{Input, NOT_UTF8, PlainInput, lossy};
pub use line_mode::{LineControls, run as run_lines};
pub use one_key::one_key;
pub use prompt_progress::PromptProgress;
pub use screen_mode::{Controls, ScreenError, run as run_screen};
pub use signal::SignalRequest;
