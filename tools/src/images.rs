//! `moelten run` with a model of images: the likeliest classes of each image. It must not know how an image
//! is decoded, nor how classes are computed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use moelten_engine::plan::SequenceOptions;
use moelten_engine::{Classifier, KvFormat, most_images};
use moelten_loader::load::LoadedModel;
use moelten_loader::picture;
use moelten_loader::spec::{ImagePool, ImageSpec, ModelSpec};
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
#[command(next_help_heading = "Models of images (V-MoE, AdaMV-MoE)")]
pub struct ImageArgs {
    /// PNG file to classify; can be repeated. Images of one call are one batch
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Task of a model that has several, by name (AdaMV-MoE)
    #[arg(long, value_name = "NAME", requires = "image")]
    task: Option<String>,
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
        self.choose_task(&mut loaded.spec, &name)?;
        let Some(image) = loaded.spec.image else {
            let problem = format!("--image is for models of images (V-MoE), and {name} reads text");
            return Err(CommandError::Usage(problem).into());
        };
        let how = loaded.preparation(&image)?;
        let labels = Labels { names: loaded.class_names()?, first: image.first_class };
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
            for (file, scores) in files.iter().zip(scores.chunks_exact(image.scores())) {
                let told = Told::of(scores, &image);
                match asked.json {
                    true => objects.push(told.object(file, &labels)),
                    false => told.show(self.image.get(1).map(|_| file), &labels)?,
                }
            }
        }
        if asked.json {
            let task = &self.task;
            output::answer(&json!({ "images": objects, "task": task, "model": name, "notices": notices }))?;
        }
        Ok(())
    }

    /// Chooses the task that was asked for. A model with tasks needs one, another model has none.
    fn choose_task(&self, spec: &mut ModelSpec, name: &str) -> Result<(), CommandError> {
        let usage = |problem| Err(CommandError::Usage(problem));
        match &self.task {
            None if spec.tasks.is_empty() => Ok(()),
            None => {
                let names: Vec<&str> = spec.tasks.iter().map(|task| task.name.as_str()).collect();
                usage(format!("{name} has several tasks; choose one with --task: {}", names.join(", ")))
            }
            Some(task) => {
                spec.choose_task(task).or_else(|error| usage(format!("--task {task}: {name}: {error}")))
            }
        }
    }
}

/// Opens the model, with room for images beside it.
fn classifier(
    loaded: LoadedModel,
    compute: &ComputeArgs,
    image: &ImageSpec,
    together: usize,
) -> anyhow::Result<Classifier> {
    let of_image = image.patches() * image.patch_numbers() + image.scores();
    let numbers = (together * of_image * size_of::<f32>()) as u64;
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

/// The names of classes of a task, as far as the model's files have them.
struct Labels {
    /// By row of the head.
    names: Vec<String>,
    /// The row of the task's first class.
    first: usize,
}

impl Labels {
    fn name(&self, class: usize) -> String {
        let named = self.names.get(self.first + class).filter(|name| !name.is_empty());
        named.map_or_else(|| format!("class {class}"), Clone::clone)
    }
}

/// What is told of an image.
enum Told {
    /// Its likeliest classes with their shares.
    Image(Vec<(usize, f64)>),
    /// The likeliest class of each patch, row by row of an image of this many in a row.
    Patches(Vec<usize>, usize),
}

impl Told {
    fn of(scores: &[f32], image: &ImageSpec) -> Self {
        if image.head.pool != ImagePool::Each {
            return Self::Image(best(scores));
        }
        let likeliest = |scores: &[f32]| best(scores).first().map_or(0, |&(class, _)| class);
        Self::Patches(scores.chunks_exact(image.head.classes).map(likeliest).collect(), image.side())
    }

    /// Prints it, under the file's name if there is one.
    fn show(&self, file: Option<&PathBuf>, labels: &Labels) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if let Some(file) = file {
            writeln!(out, "{}", filter::clean(&file.display().to_string()))?;
        }
        let name = |class| filter::clean(&labels.name(class));
        match self {
            Self::Image(best) => {
                for &(class, share) in best {
                    writeln!(out, "{:5.1} %  {}", 100.0 * share, name(class))?;
                }
            }
            Self::Patches(classes, side) => {
                for row in classes.chunks(*side) {
                    let row: Vec<String> = row.iter().map(|class| format!("{class:3}")).collect();
                    writeln!(out, "{}", row.concat())?;
                }
                for class in classes.iter().collect::<BTreeSet<_>>() {
                    writeln!(out, "{class:3}  {}", name(*class))?;
                }
            }
        }
        out.flush()
    }

    fn object(&self, file: &Path, labels: &Labels) -> Value {
        let file = file.display().to_string();
        match self {
            Self::Image(best) => {
                let class = |&(class, share): &(usize, f64)| json!({ "class": class, "label": labels.name(class), "share": share });
                json!({ "file": file, "classes": best.iter().map(class).collect::<Vec<_>>() })
            }
            Self::Patches(classes, side) => {
                let row = |row: &[usize]| {
                    row.iter().map(|&class| json!({ "class": class, "label": labels.name(class) })).collect()
                };
                json!({ "file": file, "patches": classes.chunks(*side).map(row).collect::<Vec<Value>>() })
            }
        }
    }
}
