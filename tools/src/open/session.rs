//! Options of every command that opens a session: those of the model and the size of the context. It must not
//! know what the session is used for.

use std::path::Path;
use std::sync::Arc;

use moelten_engine::EngineError;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::plan::context::{ContextChoice, ContextLimit, DEFAULT_CONTEXT};
use moelten_engine::plan::{Plan, PlanOptions, Ram};
use moelten_engine::runtime::Runtime;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::memory;
use moelten_engine::{Model, ModelOptions};
use moelten_loader::load::LoadedModel;
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;

use super::compute::{ComputeArgs, PrefetchArg};
use super::sizes::{count, tokens};
use super::tuned::{self, Tuned};
use crate::exit::CommandError;
use crate::{origin, parse};

/// Options of a model with one session.
#[derive(Debug, Clone, clap::Args)]
pub struct SessionArgs {
    /// Context size in tokens, e.g. 4096 or 16k [default: what model and memory allow, at most 8k]
    #[arg(long, value_name = "N", env = "MOELTEN_CTX", value_parser = tokens)]
    ctx: Option<usize>,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl SessionArgs {
    /// As [`ComputeArgs::model`], with the context and KV type of the options; `cancel` gives it up.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn model(
        &self,
        runtime: &Arc<Runtime>,
        spec: ModelSpec,
        tensors: TensorStore,
        cancel: &Cancel,
    ) -> anyhow::Result<Arc<Model>> {
        let options = ModelOptions { cancel: cancel.clone(), ..self.compute.options(self.options(), 0) };
        let spec = self.compute.chosen(spec)?;
        self.compute.open(runtime, spec, tensors, options)
    }

    fn options(&self) -> SequenceOptions {
        SequenceOptions { context: self.ctx, kv: self.compute.kv() }
    }

    /// The memory plan for the memory that is free now.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, loaded: &LoadedModel) -> Result<Plan, EngineError> {
        self.plan_after(loaded, 0, 0)
    }

    /// As [`Self::plan`], after this process has freed `released` bytes, and with `extra` bytes of RAM for
    /// experts of a GPU.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan_after(&self, loaded: &LoadedModel, released: u64, extra: u64) -> Result<Plan, EngineError> {
        let options = self.compute.options(self.options(), extra).plan();
        Plan::after_release(&loaded.spec, &loaded.tensors, options, 0, released)
    }

    /// What a plan is made by, for one sequence.
    pub fn plan_options(&self) -> PlanOptions {
        self.compute.options(self.options(), 0).plan()
    }

    /// The smallest plan, whatever memory is free: a context of one token and no cached experts.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn smallest_plan(&self, loaded: &LoadedModel) -> Result<Plan, EngineError> {
        let sequence = SequenceOptions { context: Some(1), kv: self.compute.kv() };
        let options = PlanOptions { ram: Ram::Min, ..self.compute.options(sequence, 0).plan() };
        let owned = memory::owned_bytes().unwrap_or(0);
        Plan::with_memory(&loaded.spec, &loaded.tensors, options, owned, u64::MAX)
    }

    /// The options of an empty command line, environment variables and configuration included.
    ///
    /// # Errors
    /// [`CommandError::Usage`]: an environment variable with an invalid value.
    pub fn usual() -> anyhow::Result<Self> {
        #[derive(clap::Parser)]
        struct Nothing {
            #[command(flatten)]
            session: SessionArgs,
        }
        let parsed = parse::try_parse::<Nothing>(&["moelten".into()]);
        Ok(parsed.map_err(|error| CommandError::Usage(of_environment::<Nothing>(&error)))?.session)
    }

    /// These options with another number of threads and another prefetching.
    pub fn with(&self, tuned: &Tuned) -> Self {
        let mut other = self.clone();
        (other.compute.threads, other.compute.prefetch) = (Some(tuned.threads), tuned.prefetch);
        other
    }

    /// These options with what `moelten tune` has found out about a model, where they leave it open; and what
    /// that is, in words.
    pub fn tuned_for(&self, model: Option<&Path>) -> (Self, Option<String>) {
        let open = self.compute.threads.is_none() && self.compute.prefetch == PrefetchArg::Auto;
        match tuned::of(model).filter(|_| open) {
            Some(found) => {
                let words = format!(
                    "{} threads, prefetch {} (from `moelten tune`)",
                    found.threads,
                    found.prefetch.name()
                );
                (self.with(&found), Some(words))
            }
            None => (self.clone(), None),
        }
    }

    /// The options of the model alone.
    pub fn compute(&self) -> &ComputeArgs {
        &self.compute
    }

    /// An empty session with the planned context, and the reason for its size.
    ///
    /// # Errors
    /// As [`Sequence::new`].
    pub fn session(&self, model: &Arc<Model>) -> anyhow::Result<(Sequence, String)> {
        let choice = model.plan().context;
        let why = context_words(model.spec(), choice);
        let options = SequenceOptions { context: Some(choice.tokens), kv: self.compute.kv() };
        Ok((Sequence::new(Arc::clone(model), options)?, why))
    }
}

/// What is wrong with the environment, in one line.
fn of_environment<C: clap::CommandFactory>(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let text = match origin::variable(error, &C::command(), &[]) {
        Some(variable) => origin::blame(&text, error, &variable),
        None => text,
    };
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The context that a model with two sets of rope factors was trained for at first, if the chosen one is
/// longer, so that all texts get the factors for long ones.
fn long_rope(spec: &ModelSpec, choice: ContextChoice) -> Option<usize> {
    spec.short_rope_context().filter(|&short| choice.tokens > short)
}

/// What a context means for a model with two sets of rope factors (LongRoPE) that takes those for long texts.
pub fn long_rope_words(spec: &ModelSpec, choice: ContextChoice) -> Option<String> {
    let short = count(long_rope(spec, choice)?);
    Some(format!(
        "note: with a context of {} this model takes its rope factors for long texts (LongRoPE) from the first token on, also \
         for short texts, which it handles a little less well; up to --ctx {short} it takes those for short ones",
        count(choice.tokens)
    ))
}

/// The reason for a context's size, in words.
pub fn context_words(spec: &ModelSpec, choice: ContextChoice) -> String {
    let made_for = count(spec.max_context);
    match choice.limit {
        ContextLimit::Requested if choice.tokens > spec.max_context => {
            format!("from --ctx; beyond the model's maximum of {made_for}")
        }
        ContextLimit::Requested => match long_rope(spec, choice) {
            Some(short) => {
                format!("from --ctx; beyond {} this model takes its long rope factors", count(short))
            }
            None => "from --ctx".to_owned(),
        },
        ContextLimit::Model => "the model's maximum".to_owned(),
        ContextLimit::Default => {
            format!("the default; the model's maximum is {made_for}; --ctx overrides")
        }
        ContextLimit::ShortRope => {
            format!(
                "all that this model's short rope factors are for; its maximum is {made_for}; --ctx overrides"
            )
        }
        ContextLimit::Memory => {
            let default = count(DEFAULT_CONTEXT);
            format!("reduced from {default} to fit --ram; --ctx overrides")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loading_can_be_cancelled_while_weights_are_copied() {
        let cancel = Cancel::new();
        cancel.cancel();
        let mut session = SessionArgs::usual().unwrap();
        session.compute.ram = Ram::Min;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-tales.gguf");
        let loaded = crate::open::load(Some(file.as_ref())).unwrap();
        let runtime = session.compute.runtime().unwrap();
        let given_up = session.model(&runtime, loaded.spec, loaded.tensors, &cancel).err().unwrap();
        assert!(matches!(given_up.downcast_ref(), Some(EngineError::Cancelled)), "{given_up:?}");
    }
}
