//! Answering prompts, for `chat` and `run`: a session with its tokenizer and chat template, sampling options,
//! prompts from files and pipes. It must not know how answers are shown.

pub mod answerer;
pub mod backend;
pub mod headers;
pub mod language;
pub mod prompt;
pub mod sampling;
