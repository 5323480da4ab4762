//! What all models of a process share: kernels, worker threads, the memory budget, what the system says of
//! the machine. One runtime serves any number of models. Nothing here knows what a model is.

pub mod cancel;
mod idle;
pub mod ledger;
pub mod memory;
pub mod pool;
#[cfg(test)]
mod schedules;
mod shares;
pub(crate) mod sync;
pub mod system;
pub mod topology;

use std::sync::Arc;

use moelten_quant::{Isa, Kernels, Picks};

use crate::error::Result;
use ledger::Ledger;
use pool::Pool;
use topology::{Pin, ThreadPlan};

/// How to set up a runtime.
#[derive(Debug, Clone, Copy, Default)]
pub struct RuntimeOptions {
    /// Worker threads; one for each performance core that the process may use when `None`.
    pub threads: Option<usize>,
    /// Whether they are tied to CPUs.
    pub pin: Pin,
    /// Instruction set; `MOELTEN_ISA` or the best of this machine when `None`.
    pub isa: Option<Isa>,
    /// Loops for products of quantised weights; those of the instruction set when `None`. They change no bit.
    pub picks: Option<Picks>,
}

/// Kernels, worker threads and the memory budget of a process.
pub struct Runtime {
    kernels: &'static Kernels,
    pool: Pool,
    ledger: Arc<Ledger>,
}

impl Runtime {
    /// Picks the kernels and starts the worker threads. The budget has no limit until a model is planned.
    ///
    /// # Errors
    /// [`crate::error::EngineError::Isa`] for an instruction set that is not here,
    /// [`crate::error::EngineError::Threads`].
    ///
    /// # Panics
    /// If a loop was picked whose instructions are not here.
    pub fn start(options: RuntimeOptions) -> Result<Arc<Self>> {
        let isa = options.isa.map_or_else(Isa::from_env, Ok)?;
        let kernels = Kernels::for_isa(isa).expect("an instruction set that was found here has kernels");
        let kernels = match &options.picks {
            Some(picks) => kernels.with_picks(picks).expect("loops are picked among those of this machine"),
            None => kernels,
        };
        let threads = options.threads.map(|threads| threads.max(1));
        let pool = Pool::new(ThreadPlan::here(threads, options.pin)?)?;
        Ok(Arc::new(Self { kernels, pool, ledger: Ledger::new(u64::MAX) }))
    }

    /// Kernels of the chosen instruction set.
    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The chosen instruction set.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// The worker threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The memory budget of the process.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}
