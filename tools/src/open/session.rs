//! Options of every command that answers: those of the model and the size of its context. It must not know
//! what the answers are for.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use moelten_engine::error::EngineError;
use moelten_engine::memory;
use moelten_engine::model::{Model, ModelOptions};
use moelten_engine::plan::{Plan, PlanOptions, Ram};
use moelten_engine::session::{ContextChoice, ContextLimit, DEFAULT_CONTEXT, Session, SessionOptions};
use moelten_loader::load::LoadedModel;
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::store::TensorStore;

use super::compute::ComputeArgs;
use super::sizes::{count, tokens};

/// Options of every command that answers.
#[derive(Debug, Clone, clap::Args)]
pub struct SessionArgs {
    /// Size of the context in tokens, e.g. 4096 or 16k [default: what model and memory allow, at most 8k]
    #[arg(long, value_name = "N", env = "MOELTEN_CTX", value_parser = tokens)]
    ctx: Option<usize>,
    #[command(flatten)]
    compute: ComputeArgs,
}

impl SessionArgs {
    /// As [`ComputeArgs::model`], with the context and KV precision of the options; `stop` gives the opening
    /// up.
    ///
    /// # Errors
    /// As [`Model::new`].
    pub fn model(
        &self,
        spec: ModelSpec,
        tensors: TensorStore,
        stop: Option<&'static AtomicBool>,
    ) -> anyhow::Result<Arc<Model>> {
        let options = ModelOptions { stop, ..self.compute.options(self.options(), 0) };
        Ok(Arc::new(Model::new(spec, tensors, options)?))
    }

    fn options(&self) -> SessionOptions {
        SessionOptions { context: self.ctx, kv: self.compute.kv() }
    }

    /// What would be kept in memory now.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan(&self, loaded: &LoadedModel) -> Result<Plan, EngineError> {
        self.plan_after(loaded, 0)
    }

    /// As [`Self::plan`], once this process has given back `released` bytes.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn plan_after(&self, loaded: &LoadedModel, released: u64) -> Result<Plan, EngineError> {
        let options = self.compute.options(self.options(), 0).plan();
        Plan::after(&loaded.spec, &loaded.tensors, options, released)
    }

    /// The least that the model runs with, whatever the machine has: a context of one token, and no expert
    /// kept.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn smallest_plan(&self, loaded: &LoadedModel) -> Result<Plan, EngineError> {
        let session = SessionOptions { context: Some(1), kv: self.compute.kv() };
        let options = PlanOptions { ram: Ram::Min, ..self.compute.options(session, 0).plan() };
        let owned = memory::owned_bytes().unwrap_or(0);
        Plan::with_memory(&loaded.spec, &loaded.tensors, options, owned, u64::MAX)
    }

    /// What a person gets who says nothing, the environment aside.
    ///
    /// # Errors
    /// A variable of the environment that is not understood.
    pub fn usual() -> Result<Self, clap::Error> {
        #[derive(clap::Parser)]
        struct Nothing {
            #[command(flatten)]
            session: SessionArgs,
        }
        <Nothing as clap::Parser>::try_parse_from(["moelten"]).map(|nothing| nothing.session)
    }

    /// How to compute.
    pub fn compute(&self) -> &ComputeArgs {
        &self.compute
    }

    /// An empty session with the context that was planned for, and why it is that.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn session(&self, model: &Arc<Model>) -> anyhow::Result<(Session, String)> {
        let choice = model.plan().context;
        let why = context_words(model.spec(), choice);
        let options = SessionOptions { context: Some(choice.tokens), kv: self.compute.kv() };
        Ok((Session::new(Arc::clone(model), options)?, why))
    }
}

/// Why a context has its size.
pub fn context_words(spec: &ModelSpec, choice: ContextChoice) -> String {
    let made_for = count(spec.max_context);
    match choice.limit {
        ContextLimit::Asked if choice.tokens > spec.max_context => {
            format!("as asked; the model was made for {made_for}")
        }
        ContextLimit::Asked => match spec.short_rope_context().filter(|&short| choice.tokens > short) {
            Some(short) => {
                format!("as asked; beyond {} this model reads short texts less well", count(short))
            }
            None => "as asked".to_owned(),
        },
        ContextLimit::Model => "all the model was made for".to_owned(),
        ContextLimit::Default => {
            format!("the default; the model was made for {made_for}, --ctx changes it")
        }
        ContextLimit::ShortRope => {
            format!("where this model is best; it was made for {made_for}, --ctx changes it")
        }
        ContextLimit::Memory => {
            let default = count(DEFAULT_CONTEXT);
            format!("its share of the memory; {default} would be the default, --ctx changes it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_can_be_given_up_while_weights_are_copied() {
        static STOP: AtomicBool = AtomicBool::new(true);
        let mut session = SessionArgs::usual().unwrap();
        session.compute.ram = Ram::Min;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/tiny-tales.gguf");
        let loaded = crate::open::load(Some(file.as_ref())).unwrap();
        let given_up = session.model(loaded.spec, loaded.tensors, Some(&STOP)).err().unwrap();
        assert!(matches!(given_up.downcast_ref(), Some(EngineError::Cancelled)), "{given_up:?}");
    }
}
