//! Activations of a tier. It must not know what the instructions do: the compiler makes vectors of plain
//! loops.

use super::tier::{Tier, Work};
use crate::activations::{Columns, Record};

/// [`crate::activations::fill`].
struct Fill<'a> {
    from: Columns<'a>,
    first: usize,
    record: Record<'a>,
}

impl<T: Tier> Work<T> for Fill<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run(self) {
        crate::activations::fill(self.from, self.first, self.record);
    }
}

/// [`crate::activations::fill`], compiled with the instructions of a tier.
///
/// # Safety
/// The processor has them.
pub(in crate::kernel) unsafe fn fill<T: Tier>(from: Columns<'_>, first: usize, record: Record<'_>) {
    // SAFETY: as for this function; the work asks for no more.
    unsafe { T::call(Fill { from, first, record }) }
}
