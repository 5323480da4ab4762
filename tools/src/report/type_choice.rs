//! Which weight type `moelten quantize` takes for a wanted size of the file or of the memory: the best one
//! that fits. It must not write anything.

use std::path::Path;

use moelten_engine::plan::{Plan, PlanOptions, Ram};
use moelten_engine::runtime::memory;
use moelten_loader::container::gguf::write::GgufPlan;
use moelten_loader::convert::types::{MIXTURES, Mixture, Override, TypePlan};
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::{self, LoadedModel};
use moelten_loader::tensors::roles::Role;

use crate::exit::CommandError;
use crate::open::SessionArgs;
use crate::report::memory_words::streams;
use crate::report::progress::bytes;
use crate::report::quantize_plan::StandIn;

/// A type that is taken only where a person names it.
const BY_NAME_ONLY: &str = "mxfp4";

/// What the result has to fit into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// A file of at most this many bytes.
    File(u64),
    /// A model that is wholly in RAM with this budget in bytes.
    Ram(u64),
}

/// Everything that decides about types besides the mixture.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How experts are stored.
    pub layout: FileLayout,
    /// Types of some tensors.
    pub overrides: &'a [Override],
    /// Whether another type of about the same size may replace one that does not fit.
    pub allow_fallback: bool,
}

/// A type, and the size of the file that it makes.
#[derive(Debug, Clone, Copy)]
pub struct Choice {
    /// The type.
    pub mixture: &'static Mixture,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The best type with which the model meets the goal.
///
/// # Errors
/// None does; a model that cannot be converted.
pub fn choose(model: &LoadedModel, target: &Path, goal: Goal, rules: Rules<'_>) -> anyhow::Result<Choice> {
    let source: u64 = model.tensors.catalog().files().iter().map(|file| file.size()).sum();
    // More bits than the source has add nothing; headers and norms may take a little more.
    let most_useful = source + source / 20;
    let mut smallest: Option<Choice> = None;
    for mixture in MIXTURES.iter().filter(|mixture| mixture.name != BY_NAME_ONLY) {
        // Some types do not divide the rows of some models.
        let Ok(types) = TypePlan::new(model, mixture, rules.overrides, rules.allow_fallback) else {
            continue;
        };
        let format = |role: Role| types.format(role);
        let conversion = Conversion::plan_as(model, rules.layout, Types::Chosen(&format))?;
        let layout = conversion.layout(target)?;
        let choice = Choice { mixture, bytes: layout.file_len() };
        if choice.bytes > most_useful {
            continue;
        }
        if smallest.is_none_or(|smallest| choice.bytes < smallest.bytes) {
            smallest = Some(choice);
        }
        let meets = match goal {
            Goal::File(most) => choice.bytes <= most,
            Goal::Ram(budget) => is_resident(&layout, budget)?,
        };
        if meets {
            return Ok(choice);
        }
    }
    Err(CommandError::Usage(too_large(goal, smallest)).into())
}

fn too_large(goal: Goal, smallest: Option<Choice>) -> String {
    let Some(Choice { mixture, bytes: size }) = smallest else {
        return "no weight type divides the rows of this model; --allow-fallback takes others".to_owned();
    };
    let (name, size) = (mixture.name, bytes(size));
    match goal {
        Goal::File(most) => {
            format!(
                "no weight type makes a file of at most {}; the smallest is {name} with {size}",
                bytes(most)
            )
        }
        Goal::Ram(budget) => format!(
            "with no weight type the whole model fits into {}: the smallest is {name}, a file of {size}. Models larger \
             than RAM are streamed from disk; choose a --type for its quality",
            bytes(budget)
        ),
    }
}

/// Whether the whole model is in RAM with this budget.
fn is_resident(layout: &GgufPlan, budget: u64) -> anyhow::Result<bool> {
    let stand_in = StandIn::new(layout)?;
    let model = load::load(stand_in.path())?;
    let session = SessionArgs::usual()?;
    let options = PlanOptions { ram: Ram::Bytes(budget), ..session.plan_options() };
    let owned = memory::owned_bytes().unwrap_or(0);
    let plan = Plan::with_memory(&model.spec, &model.tensors, options, owned, u64::MAX);
    Ok(plan.is_ok_and(|plan| !streams(&plan)))
}
