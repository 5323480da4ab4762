//! `moelten make-example`: small models with random weights for teaching and for tests, and models of any
//! configuration with random weights for measurements. It must not know how weights are drawn.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use moelten_loader::load::spec_of_config;
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::Value;

use crate::bench::shape;
use crate::examples::{self, EXAMPLES};
use crate::exit::CommandError;
use crate::report::page;

/// Write a small model with random weights, of a system of the survey of Mixture-of-Experts
///
/// Without a name, lists the examples. The folder is a Hugging Face folder: configuration, weights in
/// bfloat16, tokenizer. The same name and seed give the same bytes. Its answers are noise.
#[derive(Debug, clap::Args)]
pub struct MakeExampleArgs {
    /// An example; or a shape of `bench` that is a configuration, or a model's config.json
    name: Option<String>,
    /// Folder to write [default: the name, in the current folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Seed of the random weights
    #[arg(long, value_name = "N", default_value = "1")]
    seed: u64,
    /// Change a field of the configuration, e.g. num_experts=16; can be repeated
    #[arg(long, value_name = "FIELD=VALUE", value_parser = setting)]
    set: Vec<(String, Value)>,
}

/// Runs the command.
pub fn run(args: MakeExampleArgs) -> anyhow::Result<()> {
    let Some(name) = &args.name else {
        return Ok(page::print(&list())?);
    };
    let example = examples::find(name);
    let mut config = match example {
        Some(example) => example.config(),
        None => configuration(name)?,
    };
    let fields = config.as_object_mut();
    let fields = fields.with_context(|| format!("{name} is not the configuration of a model"))?;
    fields.extend(args.set);
    let folder = args.out.unwrap_or_else(|| default_folder(name));
    examples::write(name, &config, args.seed, &folder)?;
    let spec = spec_of_config(Path::new(name), &config)?;
    let words = example.map_or(examples::run_words(spec.encoder.map(|encoder| encoder.purpose)), |e| e.run);
    let line = format!("{} is written; try: moelten run {} {words}", folder.display(), folder.display());
    Notes::detect().line(Tone::Plain, &filter::clean(&line));
    Ok(())
}

/// A field and its new value, which is JSON, or else text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (field, value) = text.split_once('=').ok_or("it is FIELD=VALUE, e.g. num_experts=16")?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    Ok((field.to_owned(), value))
}

/// The configuration of a named shape, or in a file.
fn configuration(name: &str) -> anyhow::Result<Value> {
    if let Some(text) = shape::configuration(name)? {
        return serde_json::from_str(&text).with_context(|| format!("{name} is not a configuration"));
    }
    let names: Vec<&str> = EXAMPLES.iter().map(|example| example.name).collect();
    let problem =
        format!("there is no example {name}; there are {}, and {}", names.join(", "), shape::CONFIG_NAMES);
    Err(CommandError::Usage(format!("{problem}, and the config.json of any model")).into())
}

/// The folder for an example: its name, or the name of the file without its ending.
fn default_folder(name: &str) -> PathBuf {
    let stem = Path::new(name).file_stem().filter(|_| name.ends_with(".json"));
    stem.map_or_else(|| PathBuf::from(name), PathBuf::from)
}

/// What there is, and what to type.
fn list() -> String {
    let mut out = String::new();
    for example in EXAMPLES {
        let _ = writeln!(out, "{:14} {}", example.name, example.system);
        let _ = writeln!(out, "{:14} moelten run {} {}", "", example.name, example.run);
    }
    let _ = writeln!(
        out,
        "\nmoelten make-example NAME writes the folder NAME. Its weights are random, and so are its answers."
    );
    out
}
