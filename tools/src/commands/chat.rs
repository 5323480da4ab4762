//! `moelten chat`: a conversation in the terminal, or through a pipe.

use std::io;
use std::path::PathBuf;

use etcetera::BaseStrategy;
use moelten_tui::chat::{Chat, Facts};
use moelten_tui::driver;
use moelten_tui::input::{EditorInput, Input, PlainInput, interactive};
use moelten_tui::terminal::{self, Notes, Tone};

use crate::open::{self, SessionArgs};
use crate::responder::{About, Responder};
use crate::sampling::SamplingArgs;
use crate::{builtin, prompt};

/// Chat with a model
#[derive(Debug, clap::Args)]
pub struct Args {
    /// GGUF file or model folder; the built-in model if there is none
    model: Option<PathBuf>,
    /// Instructions for the whole conversation; @FILE reads them from a file
    #[arg(short, long, value_name = "TEXT|@FILE")]
    system: Option<String>,
    /// Keep no history of what you type
    #[arg(long)]
    no_history: bool,
    /// Say more: the seed
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    session: SessionArgs,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Runs the command.
pub fn run(args: Args) -> anyhow::Result<()> {
    let notes = Notes::detect();
    let system = args.system.as_deref().map(|text| prompt::text_or_file(text, notes)).transpose()?;
    let mut responder = Responder::open(args.model.as_deref(), &args.session, true, Some(notes))?;
    responder.check(system.as_deref())?;
    let about = responder.about().clone();
    let params = args.sampling.resolve(&about.hints)?;
    greet(&about, args.model.is_none(), notes);
    open::mention(&about.notices);
    if args.verbose {
        notes.line(Tone::Dim, &format!("seed {}", params.sampler.seed));
    }
    let facts = Facts {
        model: about.name,
        supports_system: responder.supports_system(),
        rows: vec![
            ("family", about.family.to_owned()),
            ("context", about.context),
            ("compute", about.compute),
        ],
    };
    let mut chat = Chat::new(facts, params, system);
    let mut input: Box<dyn Input> = if interactive() {
        terminal::remember();
        Box::new(EditorInput::new(history(args.no_history), notes)?)
    } else {
        // A person who pipes the answers elsewhere still types.
        let prompts = io::IsTerminal::is_terminal(&io::stdin());
        Box::new(PlainInput::new(io::stdin().lock(), notes, prompts))
    };
    Ok(driver::run(&mut chat, &mut responder, &mut *input, notes)?)
}

/// The first screen.
fn greet(about: &About, built_in: bool, notes: Notes) {
    notes.line(Tone::Plain, &format!("moelten {}: {}", env!("CARGO_PKG_VERSION"), about.name));
    if built_in {
        notes.line(Tone::Plain, builtin::INTRODUCTION);
    }
    notes.line(Tone::Dim, &format!("context {}; {}", about.context, about.compute));
    notes.line(Tone::Dim, "/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.");
}

/// Where the history is kept: `~/.local/state/moelten/history`, by the XDG rules. Without a home there is none.
fn history(unwanted: bool) -> Option<PathBuf> {
    if unwanted {
        return None;
    }
    let state = etcetera::choose_base_strategy().ok()?.state_dir()?;
    Some(state.join("moelten").join("history"))
}
