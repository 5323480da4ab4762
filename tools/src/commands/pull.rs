//! `moelten pull`: downloads a model from the hub into the cache that its programs share. The path is printed
//! on stdout, so that other programs can use it.

use std::io::{self, Write};

use anyhow::Context as _;
use moelten_hub::{Hub, HubError, ModelName, RemoteFile, Repository, variants};
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};

use crate::names;
use crate::report::progress::bytes;

/// Download a model from the Hugging Face hub, or resume a download
///
/// Into the cache that programs of the hub share, so that no file is there twice. HF_HOME and HF_HUB_CACHE
/// say where it is, HF_TOKEN opens private and gated models, HF_ENDPOINT names another hub. A name also
/// works in the place of a model in every other command.
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// USER/REPO, USER/REPO:QUANT such as org/model:Q4_K_M, USER/REPO@REVISION, or an address of the hub
    name: String,
    /// Show what the repository has and what would be downloaded, without downloading
    #[arg(long)]
    dry_run: bool,
}

/// Runs the command.
pub fn run(args: PullArgs) -> anyhow::Result<()> {
    let name = ModelName::parse(&args.name)?.ok_or_else(|| HubError::Name(args.name.clone()))?;
    let hub = names::hub()?;
    if args.dry_run {
        return show(&hub, &name);
    }
    let before = hub.find(&name);
    let notes = Notes::detect();
    // The revision may have moved on: asked again, unless the network is forbidden.
    let found = match before {
        Some(found) if hub.settings().offline => found,
        Some(_) => {
            notes.line(Tone::Plain, &format!("asking for changes of {name}"));
            let repository = names::look(&hub, &name)?;
            let choice = repository.choice()?;
            if hub.missing(&repository, &choice) == 0 {
                notes.line(Tone::Plain, "it is complete and up to date");
            }
            names::pull(&hub, &repository, &choice)?
        }
        None => names::fetch(&hub, &name)?,
    };
    let path = found.path.to_str().context("the path of the cache is not UTF-8")?;
    writeln!(io::stdout(), "{}", filter::clean_line(path))?;
    Ok(())
}

/// What there is, a line each, and what would be downloaded.
fn show(hub: &Hub, name: &ModelName) -> anyhow::Result<()> {
    let repository = names::look(hub, name)?;
    let mut out = io::stdout().lock();
    let choice = repository.choice();
    for variant in variants(&repository.files) {
        let chosen = choice.as_ref().is_ok_and(|choice| choice.files == variant.files);
        let mark = if chosen { "*" } else { " " };
        let parts = if variant.parts > 1 { format!("  {} parts", variant.parts) } else { String::new() };
        let line = format!("{mark} {:<14} {:>9}{parts}", variant.quant, bytes(variant.bytes()));
        writeln!(out, "{}", filter::clean_line(&line))?;
    }
    let choice = choice?;
    writeln!(out, "{}", filter::clean_line(&summary(hub, &repository, &choice.files)))?;
    Ok(out.flush()?)
}

fn summary(hub: &Hub, repository: &Repository, files: &[RemoteFile]) -> String {
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let missing = repository.choice().map_or(total, |choice| hub.missing(repository, &choice));
    format!(
        "would download {} of {} in {} files, commit {}",
        bytes(missing),
        bytes(total),
        files.len(),
        repository.commit()
    )
}
