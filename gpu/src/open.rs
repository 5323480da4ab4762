//! From a device to experts that can be trusted: memory, pipelines, the test of their bits, their speed. It
//! must not know what any of these is made of.

use moelten_quant::Kernels;

use crate::device::Gpu;
use crate::error::GpuError;
use crate::exact;
use crate::experts::{Experts, Needs};
use crate::measure;
use crate::shader::Arithmetic;

impl Experts {
    /// Allocates up to `budget` bytes, compiles pipelines, tests that their bits are those of `kernels`, and
    /// measures them.
    ///
    /// # Errors
    /// [`GpuError::NoRoom`]; [`GpuError::Inexact`] when neither arithmetic is exact; faults of the driver.
    pub fn open(gpu: Gpu, needs: &Needs<'_>, budget: u64, kernels: &Kernels) -> Result<Self, GpuError> {
        let mut experts = Self::allocate(gpu, needs, budget)?;
        let mut faults = Vec::new();
        for arithmetic in [Arithmetic::Fused, Arithmetic::Whole] {
            experts.compile(needs.blocks, arithmetic)?;
            match exact::check(&mut experts, kernels)? {
                None => {
                    let speed = measure::measure(&mut experts)?;
                    return Ok(experts.ready(speed));
                }
                Some(fault) => faults.push(format!("{}: {fault}", arithmetic.name())),
            }
        }
        Err(GpuError::Inexact(faults.join("; ")))
    }
}
