//! The kernels of each tier. It must not know what a tier does.

#[cfg(all(target_arch = "aarch64", not(any(fuzzing, test))))]
use super::arm::tables;
use super::scalar::SCALAR;
use super::table::Kernels;
#[cfg(all(target_arch = "x86_64", not(any(fuzzing, test))))]
use super::x86::tables;
use crate::isa::Isa;

impl Kernels {
    /// The kernels of a tier, or `None` if this machine cannot run it.
    pub fn for_isa(isa: Isa) -> Option<&'static Self> {
        match isa {
            Isa::Scalar => Some(&SCALAR),
            _ if !isa.is_available() => None,
            #[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(any(fuzzing, test))))]
            vectors => tables::of(vectors),
            #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), fuzzing, test))]
            _ => None,
        }
    }
}
