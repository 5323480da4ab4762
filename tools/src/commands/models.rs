//! `moelten models`: the models on this machine, each with what it is and whether it runs. What the picker of
//! the chat shows, for those who have no screen or want to read on.

use std::io::{self, Write};

use moelten_tui::figures;
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};

use crate::models::{ModelInspector, Places};
use crate::open::SessionArgs;

/// List the models on this machine and whether they run
///
/// Looks in the current folder, in `models` there and at home, where llama.cpp and LM Studio keep theirs, and
/// in the Hugging Face cache. Loads nothing and never uses the network.
#[derive(Debug, clap::Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    session: SessionArgs,
}

/// Runs the command.
pub fn run(args: ModelsArgs) -> anyhow::Result<()> {
    let (candidates, problems) = Places::here().candidates();
    let notes = Notes::detect();
    problems.iter().for_each(|problem| notes.line(Tone::Warning, &format!("warning: {problem}")));
    let mut inspector = ModelInspector::new(&args.session, 0);
    let mut stdout = io::stdout().lock();
    for candidate in &candidates {
        let entry = inspector.look(candidate);
        let size = entry.bytes.map_or_else(|| "-".to_owned(), figures::bytes);
        let path = entry.path.map_or_else(|| entry.name.clone(), |path| path.display().to_string());
        let (word, words) = (entry.verdict.word(), entry.verdict.words());
        let line = format!("{word:<6}  {size:>8}  {:<20}  {path}  ({words})", entry.kind);
        writeln!(stdout, "{}", filter::clean_line(&line))?;
    }
    Ok(stdout.flush()?)
}
