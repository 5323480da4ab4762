//! The tables of the ARM tiers. It must not know what an instruction does.

use super::dots::{Sdot, Smmla, Widening};
use super::floats::Neon;
use super::rows::RowsNeon;
use super::{pairs, peaks};
use crate::isa::Isa;
use crate::kernel::scalar::peaks::read;
use crate::kernel::table::{Codes, Kernels, Peaks};
use crate::kernel::wide::coded;
use crate::kernel::wide::fill::fill;
use crate::kernel::wide::float_table::float_table;
use crate::kernel::wide::tier::impl_tier;

impl_tier!(RowsNeon<Widening>, "neon");
impl_tier!(RowsNeon<Sdot>, "neon,dotprod");
impl_tier!(RowsNeon<Smmla>, "neon,dotprod,i8mm");

/// The table of a tier of this architecture. The machine may lack its instructions.
pub(in crate::kernel) fn of(isa: Isa) -> Option<&'static Kernels> {
    match isa {
        Isa::Neon => Some(&NEON),
        Isa::DotProd => Some(&DOTPROD),
        Isa::I8mm => Some(&I8MM),
        _ => None,
    }
}

static NEON: Kernels = Kernels {
    isa: Isa::Neon,
    floats: &FLOATS,
    codes: &Codes { product: coded::product::<RowsNeon<Widening>>, fill: fill::<Neon> },
    picked: None,
    peaks: &Peaks { read: [read, read], multiply: peaks::multiply_neon },
};

static DOTPROD: Kernels = Kernels {
    isa: Isa::DotProd,
    floats: &FLOATS,
    codes: &Codes { product: coded::product::<RowsNeon<Sdot>>, fill: fill::<Neon> },
    picked: None,
    peaks: &Peaks { read: [read, read], multiply: peaks::multiply_dotprod },
};

static I8MM: Kernels = Kernels {
    isa: Isa::I8mm,
    floats: &FLOATS,
    codes: &Codes { product: pairs::product, fill: fill::<Neon> },
    picked: None,
    peaks: &Peaks { read: [read, read], multiply: peaks::multiply_i8mm },
};

float_table!(FLOATS, Neon, "neon");
