//! `moelten models`: the models on this machine, each with its type and whether it fits; one of them in
//! words; and the deletion of downloads. The picker of the chat shows the same list.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use moelten_hub::{ModelName, RepoId};
use moelten_tui::figures;
use moelten_tui::filter;
use moelten_tui::screen::ModelEntry;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::json;

use crate::exit::CommandError;
use crate::models::{Candidate, ModelInspector, Places, suggestions};
use crate::names;
use crate::open::{SessionArgs, builtin};
use crate::output;
use crate::report::{page, suggestion_words};

/// List the models on this machine, whether they fit, and how fast they are
///
/// Searches the current folder, `models` there and in the home folder, the folders of MOELTEN_MODELS, those
/// of llama.cpp and LM Studio, and the Hugging Face cache. Loads no weights and uses no network.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct ModelsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    /// Search this folder and those below it, and nothing else
    #[arg(long, value_name = "FOLDER")]
    dir: Vec<PathBuf>,
    /// Show models that run well on this machine and are worth a download, best first; uses no network
    #[arg(long, conflicts_with = "dir")]
    suggest: bool,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    session: SessionArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show a model in words: place, size, type, and whether it runs here
    Show {
        /// A name that `moelten models` prints, a path, or a name on the hub that was downloaded
        model: PathBuf,
        #[command(flatten)]
        session: Box<SessionArgs>,
    },
    /// Delete a downloaded model from the Hugging Face cache: all its revisions and quantisations
    Rm {
        /// USER/REPO
        name: String,
        /// Delete without asking
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the command.
pub fn run(args: ModelsArgs) -> anyhow::Result<()> {
    match args.action {
        Some(Action::Rm { name, yes }) => return remove(&name, yes),
        Some(Action::Show { model, session }) => return show(model, &session),
        None if args.suggest => return suggest(&args.session, args.json),
        None => {}
    }
    let places = if args.dir.is_empty() { Places::here() } else { Places::only(&args.dir) };
    let (mut candidates, problems) = places.candidates();
    if !args.dir.is_empty() {
        candidates.retain(|candidate| candidate.path.is_some());
    }
    let notes = Notes::detect();
    problems.iter().for_each(|problem| notes.line(Tone::Warning, &format!("warning: {problem}")));
    let mut inspector = ModelInspector::new(&args.session, 0).with_gpu()?;
    if args.json {
        let all: Vec<_> = candidates.iter().map(|candidate| json(&inspector.look(candidate))).collect();
        return Ok(output::answer(&all.into())?);
    }
    let mut stdout = io::stdout().lock();
    let columns = if stdout.is_terminal() { notes.columns() } else { usize::MAX };
    writeln!(stdout, "{}", row("FITS", "SIZE", "TYPE", "MODEL", "speed", columns))?;
    for candidate in &candidates {
        let entry = inspector.look(candidate);
        let size = entry.bytes.map_or_else(|| "-".to_owned(), figures::bytes);
        let path = entry.path.map_or_else(|| entry.name.clone(), |path| path.display().to_string());
        let line = row(entry.verdict.word(), &size, &entry.kind, &path, entry.verdict.words(), columns);
        writeln!(stdout, "{line}")?;
        stdout.flush()?;
    }
    Ok(stdout.flush()?)
}

/// A line of the list in at most `columns` columns: the beginning of a long path is left out first, then the
/// end of the words.
fn row(verdict: &str, size: &str, kind: &str, path: &str, words: &str, columns: usize) -> String {
    /// Columns of a path that always stay.
    const PATH_MIN: usize = 24;
    let (path, words) = (filter::clean_line(path), filter::clean_line(words));
    let before = filter::clean_line(&format!("{verdict:<6}  {size:>8}  {kind:<20}  "));
    let taken = before.chars().count() + words.chars().count() + "  ()".len();
    let (room, length) = (columns.saturating_sub(taken).max(PATH_MIN), path.chars().count());
    let path = match length > room {
        true => format!("...{}", path.chars().skip(length - room + 3).collect::<String>()),
        false => path,
    };
    let line = format!("{before}{path}  ({words})");
    if line.chars().count() <= columns {
        return line;
    }
    format!("{}...", line.chars().take(columns.saturating_sub(3)).collect::<String>())
}

/// The catalogue, judged on this machine.
fn suggest(session: &SessionArgs, as_json: bool) -> anyhow::Result<()> {
    let notes = Notes::detect();
    notes.line(Tone::Dim, "measuring this machine, a second or two");
    let all = suggestions(session, &names::hub()?)?;
    if as_json {
        let all: Vec<_> = all.iter().map(suggestion_words::object).collect();
        return Ok(output::answer(&all.into())?);
    }
    let shown: Vec<_> = all.iter().filter(|suggestion| suggestion.runs()).collect();
    let lines = shown.iter().flat_map(|suggestion| suggestion_words::lines(suggestion));
    page::print(&lines.map(|line| filter::clean_line(&line) + "\n").collect::<String>())?;
    let others = match all.len() - shown.len() {
        0 => String::new(),
        count => format!("{count} more do not run here, --json says why. "),
    };
    let text = format!("{others}Sizes and speeds are estimates; `moelten fit NAME` reads the real headers.");
    notes.line(Tone::Dim, &text);
    Ok(())
}

fn json(entry: &ModelEntry) -> serde_json::Value {
    let verdict = match entry.verdict.word() {
        "?" => "unreadable".to_owned(),
        word => word.to_lowercase(),
    };
    json!({
        "name": entry.name,
        "place": entry.place,
        "path": entry.path,
        "bytes": entry.bytes,
        "type": entry.kind,
        "verdict": verdict,
        "words": entry.verdict.words(),
    })
}

/// One model in words.
fn show(model: PathBuf, session: &SessionArgs) -> anyhow::Result<()> {
    let path = if builtin::is_name(&model) { None } else { Some(names::on_this_machine(model)?) };
    let repository = path.as_deref().and_then(moelten_hub::repository_of);
    let name = crate::open::name(path.as_deref());
    let place = match (&repository, &path) {
        (Some(repository), _) => format!("{repository} in the Hugging Face cache"),
        (None, Some(_)) => "a path".to_owned(),
        (None, None) => "the program".to_owned(),
    };
    let candidate = Candidate { path, name, place };
    let entry = ModelInspector::new(session, 0).with_gpu()?.look(&candidate);
    let verdict = match entry.verdict.word() {
        "RAM" => "fits into memory",
        "STREAM" => "runs, with experts read from the disk",
        "NO" => "does not run here",
        _ => "cannot be opened",
    };
    let mut out = io::stdout().lock();
    let mut row =
        |what: &str, value: &str| writeln!(out, "{}", filter::clean_line(&format!("{what:<8} {value}")));
    row("model", &entry.name)?;
    row("place", &entry.place)?;
    row("path", &entry.path.as_ref().map_or_else(String::new, |path| path.display().to_string()))?;
    row("type", &entry.kind)?;
    row("size", &entry.bytes.map_or_else(|| "unknown".to_owned(), figures::bytes))?;
    row("here", &format!("{verdict}: {}", entry.verdict.words()))?;
    if let Some(repository) = repository {
        row("delete", &format!("moelten models rm {repository}"))?;
    }
    Ok(out.flush()?)
}

/// Deletes a repository from the cache after a question.
fn remove(name: &str, yes: bool) -> anyhow::Result<()> {
    let usage = |text: String| -> anyhow::Error { CommandError::Usage(text).into() };
    let repo: RepoId = match ModelName::parse(name)? {
        Some(ModelName { repo, quant: None, revision: None, file: None }) => repo,
        Some(whole) => {
            let text = format!("a download is deleted as a whole: moelten models rm {}", whole.repo);
            return Err(usage(text));
        }
        None => {
            let text = format!(
                "{name:?} is not a download: `models rm` takes USER/REPO and deletes nothing outside the cache. Delete \
                 files of your own as usual"
            );
            return Err(usage(text));
        }
    };
    let hub = names::hub()?;
    let Some(removed) = hub.remove(&repo, false)? else {
        return Err(usage(format!("{repo} is not in {}", hub.settings().cache.display())));
    };
    let what = format!("{repo}: {} files, {}", removed.files, figures::bytes(removed.bytes));
    let notes = Notes::detect();
    if !yes {
        if !notes.terminal {
            return Err(usage(format!("{what}; --yes deletes it without a question")));
        }
        notes.aloud().line(
            Tone::Plain,
            &format!("{what}, also for the other programs that use this cache. Delete? [y/N]"),
        );
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            notes.line(Tone::Plain, "nothing was deleted");
            return Ok(());
        }
    }
    hub.remove(&repo, true)?;
    notes.line(Tone::Plain, &format!("deleted {what}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal() {
        let path = "/home/ann/a/very/long/path/to/a/folder/of/models/qwen3-30b-a3b-Q4_K_M.gguf";
        let whole = row("STREAM", "17.3 GiB", "qwen3moe Q4_K", path, "3.0 to 9.0 tok/s", usize::MAX);
        assert!(whole.contains(path) && whole.ends_with("(3.0 to 9.0 tok/s)"), "{whole}");
        for columns in [70, 80, 100, 200] {
            let line = row("STREAM", "17.3 GiB", "qwen3moe Q4_K", path, "3.0 to 9.0 tok/s", columns);
            assert!(line.chars().count() <= columns, "{columns}: {line}");
            assert!(line.contains("Q4_K_M.gguf"), "{columns}: the end of a path tells models apart: {line}");
        }
    }
}
