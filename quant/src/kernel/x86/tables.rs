//! The tables of the x86-64 tiers. It must not know what an instruction does.

use super::along256::AlongRows;
use super::avx2::Avx2;
use super::avx512::Avx512;
use super::rows256::{Rows256, VnniDot};
use super::rows512::Rows512;
use super::{amx, peaks};
use crate::isa::Isa;
use crate::kernel::table::{Codes, Kernels, Peaks, Read};
use crate::kernel::wide::coded;
use crate::kernel::wide::fill::fill;
use crate::kernel::wide::float_table::float_table;

/// The table of a tier of this architecture. The machine may lack its instructions.
pub(in crate::kernel) fn of(isa: Isa) -> Option<&'static Kernels> {
    match isa {
        Isa::Avx2 => Some(&AVX2),
        Isa::AvxVnni => Some(&AVX_VNNI),
        Isa::Avx512Vnni => Some(&AVX512_VNNI),
        Isa::Amx => Some(&AMX),
        _ => None,
    }
}

/// In the order of `Reading::ALL`.
const READ: [Read; 2] = [peaks::read_in_turn, peaks::read_in_bursts];

static AVX2: Kernels = Kernels {
    isa: Isa::Avx2,
    floats: &AVX2_FLOATS,
    codes: &Codes { product: coded::product::<AlongRows>, fill: fill::<Avx2> },
    picked: None,
    peaks: &Peaks { read: READ, multiply: peaks::multiply_avx2 },
};

static AVX_VNNI: Kernels = Kernels {
    isa: Isa::AvxVnni,
    floats: &AVX2_FLOATS,
    codes: &Codes { product: coded::product::<Rows256<VnniDot>>, fill: fill::<Avx2> },
    picked: None,
    peaks: &Peaks { read: READ, multiply: peaks::multiply_avx_vnni },
};

static AVX512_VNNI: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    floats: &AVX512_FLOATS,
    codes: &Codes { product: coded::product::<Rows512>, fill: fill::<Avx512> },
    picked: None,
    peaks: &Peaks { read: READ, multiply: peaks::multiply_avx512_vnni },
};

static AMX: Kernels = Kernels {
    isa: Isa::Amx,
    floats: &AVX512_FLOATS,
    codes: &Codes { product: amx::product, fill: fill::<Avx512> },
    picked: None,
    peaks: &Peaks { read: READ, multiply: peaks::multiply_amx },
};

float_table!(AVX2_FLOATS, Avx2, "avx2,fma,f16c");
float_table!(AVX512_FLOATS, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
