//! How parts of a generic kernel become functions of their own. It must not know what they do.
//!
//! A generic kernel is `#[inline(always)]` down to the intrinsics, so that it becomes one function with the
//! instructions of a tier. The time that the compiler takes for a function grows much faster than its size:
//! parts that run long enough to be worth a call are therefore [`Work`], which each tier compiles apart.

/// A set of instructions that functions are compiled with.
pub(in crate::kernel) trait Tier: Sized {
    /// Runs `work` as a function of its own that has the tier's instructions.
    ///
    /// # Safety
    /// The processor has the instructions; see the work for the rest.
    unsafe fn call<W: Work<Self>>(work: W) -> W::Out;
}

/// A part of a kernel, its arguments as fields.
pub(in crate::kernel) trait Work<T: Tier> {
    /// The result.
    type Out;

    /// Does the work. Implementations are `#[inline(always)]`: only [`Tier::call`] calls them.
    ///
    /// # Safety
    /// The processor has the instructions of `T`; see the implementation for the rest.
    unsafe fn run(self) -> Self::Out;
}

/// Writes the `Tier` of a type with its instructions.
macro_rules! impl_tier {
    ($tier:ty, $features:literal) => {
        impl $crate::kernel::wide::tier::Tier for $tier {
            #[target_feature(enable = $features)]
            #[inline(never)]
            unsafe fn call<W: $crate::kernel::wide::tier::Work<Self>>(work: W) -> W::Out {
                // SAFETY: the attribute gives the instructions; the caller guarantees the rest.
                unsafe { work.run() }
            }
        }
    };
}

pub(in crate::kernel) use impl_tier;
