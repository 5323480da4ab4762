//! `moelten models`: the models on this machine, each with its type and whether it fits. The picker of the
//! chat shows the same.

use std::io::{self, Write};

use moelten_tui::figures;
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};

use crate::models::{ModelInspector, Places};
use crate::open::SessionArgs;

/// List the models on this machine, whether they fit, and how fast they are
///
/// Searches the current folder, `models` there and in the home folder, the folders of llama.cpp and LM
/// Studio, and the Hugging Face cache. Loads no weights and never uses the network.
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
