//! `moelten run` with a model of images: the likeliest classes of each image. It must not know how an image
//! is decoded, nor how classes are computed.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use moelten_engine::plan::SequenceOptions;
use moelten_engine::{Classifier, KvFormat, most_images};
use moelten_loader::load::{LoadedModel, Source};
use moelten_loader::picture::{self, Preparation};
use moelten_loader::spec::ImageSpec;
use moelten_tui::filter;
use moelten_tui::terminal::{Notes, Tone};
use serde_json::{Value, json};

use crate::exit::CommandError;
use crate::open::{self, ComputeArgs};
use crate::output;
use crate::signals::Polling;

/// Classes that are shown of an image.
const SHOWN: usize = 5;

/// Options of `run` for models of images.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Models of images (V-MoE)")]
pub struct ImageArgs {
    /// PNG file to classify; can be repeated. Images of one call are one batch
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
}

/// What is asked of a model of images.
pub struct Classification<'a> {
    /// The model; the built-in one if there is none.
    pub model: Option<&'a Path>,
    /// How it computes.
    pub compute: &'a ComputeArgs,
    /// Whether the output is one JSON object.
    pub json: bool,
    /// Whether times are printed.
    pub verbose: bool,
}

impl ImageArgs {
    /// Whether there are images.
    pub fn given(&self) -> bool {
        !self.image.is_empty()
    }

    /// Prints the classes of all images. `change` applies other options to the model and says what it did.
    ///
    /// # Errors
    /// Models of texts; images that cannot be read; too little memory.
    pub fn run(
        &self,
        asked: &Classification<'_>,
        change: impl FnOnce(&mut LoadedModel) -> Result<Option<String>, CommandError>,
    ) -> anyhow::Result<()> {
        let notes = Notes::detect();
        let mut loaded = open::load(asked.model)?;
        let name = open::name(asked.model);
        let (Some(image), Source::Hf { path, config, .. }) = (loaded.spec.image, &loaded.source) else {
            let problem = format!("--image is for models of images (V-MoE), and {name} reads text");
            return Err(CommandError::Usage(problem).into());
        };
        let (how, labels) = (Preparation::of_folder(path, &image)?, Labels::of(config));
        let said = change(&mut loaded)?;
        let notices = std::mem::take(&mut loaded.notices);
        if !asked.json {
            open::mention(&notices);
            said.iter().for_each(|line| notes.line(Tone::Dim, line));
        }
        let together = self.image.len().min(most_images(&image));
        if together < self.image.len() && loaded.spec.capacity().is_some() && !asked.json {
            let line = format!("note: experts count the patches of {together} images at a time");
            notes.line(Tone::Dim, &line);
        }
        let mut classifier = classifier(loaded, asked.compute, &image, together)?;
        let polling = Polling::begin();
        let mut objects = Vec::new();
        for files in self.image.chunks(together) {
            let mut patches = Vec::with_capacity(files.len() * image.patches() * image.patch_numbers());
            for file in files {
                picture::read(file, &image, &how, &mut patches)?;
            }
            let started = Instant::now();
            let scores = classifier.classify(&patches, polling.stop(), &mut ())?;
            if asked.verbose {
                let images = if files.len() == 1 { "image" } else { "images" };
                let line = format!("{} {images} in {:.2} s", files.len(), started.elapsed().as_secs_f64());
                notes.line(Tone::Dim, &line);
            }
            for (file, scores) in files.iter().zip(scores.chunks_exact(image.classes)) {
                let best = best(scores);
                match asked.json {
                    true => objects.push(object(file, &best, &labels)),
                    false => show(file, self.image.len() > 1, &best, &labels)?,
                }
            }
        }
        if asked.json {
            output::answer(&json!({ "images": objects, "model": name, "notices": notices }))?;
        }
        Ok(())
    }
}

/// Opens the model, with room for images beside it.
fn classifier(
    loaded: LoadedModel,
    compute: &ComputeArgs,
    image: &ImageSpec,
    together: usize,
) -> anyhow::Result<Classifier> {
    let numbers = (together * image.patches() * image.patch_numbers() * size_of::<f32>()) as u64;
    let extra = numbers.saturating_add(picture::bytes_to_read(image));
    let options = SequenceOptions { context: Some(together * image.rows()), kv: KvFormat::F32 };
    let model = compute.model(&compute.runtime()?, loaded.spec, loaded.tensors, options, extra)?;
    Ok(Classifier::new(model, together)?)
}

/// The likeliest classes with their shares, the best first.
fn best(scores: &[f32]) -> Vec<(usize, f64)> {
    let highest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let part = |score: f32| f64::from(score - highest).exp();
    let total: f64 = scores.iter().map(|&score| part(score)).sum();
    let mut all: Vec<(usize, f64)> =
        scores.iter().enumerate().map(|(class, &score)| (class, part(score) / total)).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(SHOWN);
    all
}

/// The names of classes, as far as `config.json` has them.
struct Labels(Option<serde_json::Map<String, Value>>);

impl Labels {
    fn of(config: &Value) -> Self {
        Self(config.get("id2label").and_then(Value::as_object).cloned())
    }

    fn name(&self, class: usize) -> String {
        let named = self.0.as_ref().and_then(|labels| labels.get(&class.to_string())).and_then(Value::as_str);
        named.map_or_else(|| format!("class {class}"), str::to_owned)
    }
}

fn show(file: &Path, several: bool, best: &[(usize, f64)], labels: &Labels) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if several {
        writeln!(out, "{}", filter::clean(&file.display().to_string()))?;
    }
    for &(class, share) in best {
        writeln!(out, "{:5.1} %  {}", 100.0 * share, filter::clean(&labels.name(class)))?;
    }
    out.flush()
}

fn object(file: &Path, best: &[(usize, f64)], labels: &Labels) -> Value {
    let classes = best
        .iter()
        .map(|&(class, share)| json!({ "class": class, "label": labels.name(class), "share": share }));
    json!({ "file": file.display().to_string(), "classes": classes.collect::<Vec<_>>() })
}
