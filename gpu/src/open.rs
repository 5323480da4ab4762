//! From a device to experts that can be trusted: memory, pipelines, the test of their results, their speed.
//! It must not know what any of these is made of.

use moelten_quant::Kernels;

use crate::close;
use crate::device::Gpu;
use crate::error::GpuError;
use crate::exact;
use crate::experts::{Experts, Needs};
use crate::measure;
use crate::shader::Arithmetic;
use crate::speed::Speed;

/// How results compare with those of the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Exactness {
    /// In every bit.
    #[default]
    Exact,
    /// Nearly: sums are added in another order, which is faster.
    Close,
}

impl Experts {
    /// Allocates up to `budget` bytes, compiles pipelines, tests that their results are those of `kernels`,
    /// and measures them.
    ///
    /// # Errors
    /// [`GpuError::NoRoom`]; [`GpuError::Inexact`] when no arithmetic passes its test; faults of the driver.
    pub fn open(
        gpu: Gpu,
        needs: &Needs<'_>,
        budget: u64,
        exactness: Exactness,
        kernels: &Kernels,
    ) -> Result<Self, GpuError> {
        let mut experts = Self::allocate(gpu, needs, budget)?;
        let mut faults = Vec::new();
        let arithmetics: &[Arithmetic] = match exactness {
            Exactness::Exact => &[Arithmetic::Fused, Arithmetic::Whole],
            Exactness::Close => &[Arithmetic::Close],
        };
        for &arithmetic in arithmetics {
            experts.compile(needs, arithmetic)?;
            let fault = match arithmetic {
                Arithmetic::Close => close::check(&mut experts, kernels)?,
                _ => exact::check(&mut experts, kernels)?,
            };
            match fault {
                None => {
                    let speed = measure::measure(&mut experts)?;
                    return Ok(experts.ready(speed));
                }
                Some(fault) => faults.push(format!("{}: {fault}", arithmetic.name())),
            }
        }
        Err(GpuError::Inexact(faults.join("; ")))
    }

    /// What the fast pipelines of the same shapes take, to compare with; `None` where they fail their test.
    /// Only they can be used afterwards.
    ///
    /// # Errors
    /// Faults of the driver.
    pub fn measure_close(&mut self, needs: &Needs<'_>, kernels: &Kernels) -> Result<Option<Speed>, GpuError> {
        self.compile(needs, Arithmetic::Close)?;
        match close::check(self, kernels)? {
            None => Ok(Some(measure::measure(self)?)),
            Some(_) => Ok(None),
        }
    }
}
