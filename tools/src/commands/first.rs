//! The first screen of a first run: `moelten` alone, in a terminal, with no model chosen. It offers models
//! that run well here; one key downloads and opens one, another opens the built-in model. It must not know
//! how a chat works.

use std::path::PathBuf;

use moelten_hub::{Hub, HubError};
use moelten_tui::driver::{interactive, one_key};
use moelten_tui::terminal::{Notes, Tone, has_escape_sequences};

use crate::exit;
use crate::models::{Places, Suggestion, suggestions, three};
use crate::names;
use crate::open::SessionArgs;
use crate::report::suggestion_words;

/// What the user chose.
#[derive(Debug, PartialEq, Eq)]
pub enum Start {
    /// A chat with the small built-in model.
    BuiltIn,
    /// A chat with this file or folder.
    Model(PathBuf),
    /// Nothing.
    Quit,
}

/// Whether there is a user at a terminal who can be asked.
pub fn can_ask() -> bool {
    interactive() && has_escape_sequences()
}

/// Shows the screen until a choice is made. The network is used after a key that asks for a download.
///
/// # Errors
/// A catalogue that cannot be read; the terminal; Ctrl-C during a download.
pub fn choose() -> anyhow::Result<Start> {
    let notes = Notes::detect().aloud();
    let (session, hub) = (SessionArgs::usual()?, names::hub()?);
    notes.line(Tone::Plain, concat!("moelten ", env!("CARGO_PKG_VERSION"), ": no model is chosen yet."));
    notes.line(Tone::Dim, "measuring this machine, a second or two");
    let all = suggestions(&session, &hub)?;
    let offered = three(&all);
    loop {
        show(&offered, &hub, notes);
        let last = char::from_digit(u32::try_from(offered.len())?, 10).unwrap_or('0');
        let chosen = one_key(|key| matches!(key, '\n' | 'q') || ('1'..=last).contains(&key))?;
        let index = match chosen {
            None | Some('q') => return Ok(Start::Quit),
            Some(key) => key.to_digit(10).and_then(|digit| usize::try_from(digit).ok()),
        };
        let Some(suggestion) = index.and_then(|index| offered.get(index.checked_sub(1)?)) else {
            return Ok(Start::BuiltIn);
        };
        match names::resolve(PathBuf::from(&suggestion.model.model)) {
            Ok(path) => return Ok(Start::Model(path)),
            Err(error) if is_told(&error) => {
                let told = exit::report(&error);
                notes.line(Tone::Error, &format!("error[{}]: {}", told.code, told.text));
                notes
                    .line(Tone::Plain, &format!("The command for later: moelten {}", suggestion.model.model));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the choice can be made again after this error.
fn is_told(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(why) if !matches!(why, HubError::Stopped)))
}

fn show(offered: &[&Suggestion], hub: &Hub, notes: Notes) {
    let plain = |line: &str| notes.line(Tone::Plain, line);
    if !offered.is_empty() {
        plain("\nModels that run on this machine:\n");
    }
    for (index, suggestion) in offered.iter().enumerate() {
        let [figures, words] = suggestion_words::lines(suggestion);
        plain(&format!("  {}  {figures}", index + 1));
        notes.line(Tone::Dim, &format!("     {words}"));
    }
    plain("");
    if hub.settings().offline {
        plain("HF_HUB_OFFLINE is set: nothing is downloaded. The command for later:");
        offered.iter().for_each(|suggestion| plain(&format!("  moelten {}", suggestion.model.model)));
        plain("");
    } else if !offered.is_empty() {
        let keys = if offered.len() == 1 { "1".to_owned() } else { format!("1 to {}", offered.len()) };
        plain(&format!("  {keys}  downloads the model and opens a chat with it"));
    }
    plain("  Enter   tries the small built-in story-teller, without a download");
    plain("  q       quits");
    let (found, _) = Places::here().candidates();
    let here = found.iter().filter(|candidate| candidate.path.is_some()).count();
    if here > 0 {
        notes.line(Tone::Dim, &format!("\n{here} models are on this machine: `moelten models` lists them."));
    }
}
