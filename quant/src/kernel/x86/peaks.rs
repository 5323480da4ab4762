//! The loops behind `Kernels::read_through` and `Kernels::multiply_int8` for x86-64. The products run in
//! registers with enough accumulators to hide their latency; the sums are meaningless. It must not know
//! clocks.

use core::arch::asm;
use core::arch::x86_64::*;
use std::hint::black_box;

use crate::kernel::prefetch::prefetch;

/// Streams this many lines apart, or a multiple, fall into one set of the first-level cache.
const ALIASED: usize = 64;
/// Accumulators of the vector loops.
const ACCUMULATORS: usize = 12;

/// Operations of a round with 32 products in a register.
const ROUND_256: u64 = (ACCUMULATORS * 32 * 2) as u64;
/// Operations of a round with 64 products in a register.
const ROUND_512: u64 = (ACCUMULATORS * 64 * 2) as u64;
/// Operations of a round of four tile products, 16 x 16 x 64 each.
const ROUND_AMX: u64 = 4 * 16 * 16 * 64 * 2;

/// [`Reading::InTurn`]: a line of each of eight streams, and a prefetch beside it.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read_in_turn(lines: &[[u8; 64]]) -> u64 {
    // SAFETY: as for this function.
    unsafe { read::<8, 1>(lines, 384) }
}

/// [`Reading::InBursts`]: four lines of each of four streams, and four prefetches before them.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn read_in_bursts(lines: &[[u8; 64]]) -> u64 {
    // SAFETY: as for this function.
    unsafe { read::<4, 4>(lines, 3072) }
}

/// The exclusive or of all 64-bit words, from several streams in turn: one alone does not keep enough loads
/// in flight. Every stream prefetches `ahead` bytes ahead. Half lines at a time: with whole lines, as AVX-512
/// would read them, bursts get a tenth less out of the RAM of the machine that was measured.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn read<const STREAMS: usize, const LINES: usize>(lines: &[[u8; 64]], ahead: usize) -> u64 {
    const PER_LINE: usize = 2;
    let mut step = lines.len() / (STREAMS * LINES) * LINES;
    if step > ALIASED && step.is_multiple_of(ALIASED) {
        // Spread over the sets. The lines that no stream reads are read after them.
        step -= ALIASED / STREAMS;
    }
    // SAFETY: the caller guarantees the instructions.
    let mut folds = [[unsafe { _mm256_setzero_si256() }; LINES]; STREAMS];
    let start = lines.as_ptr();
    for at in (0..step).step_by(LINES) {
        for (stream, folds) in folds.iter_mut().enumerate() {
            let from = start.wrapping_add(stream * step + at);
            prefetch(from.cast::<u8>().wrapping_add(ahead), LINES * 64);
            for (line, fold) in folds.iter_mut().enumerate() {
                for part in 0..PER_LINE {
                    // SAFETY: `stream * step + at + line` is below `STREAMS * step`, which is at most the
                    // number of lines; the loads need no alignment.
                    unsafe {
                        let bytes = _mm256_loadu_si256(from.add(line).cast::<__m256i>().add(part));
                        *fold = _mm256_xor_si256(*fold, bytes);
                    }
                }
            }
        }
    }
    for line in &lines[STREAMS * step..] {
        for part in 0..PER_LINE {
            // SAFETY: the parts lie within the line.
            unsafe {
                let bytes = _mm256_loadu_si256(line.as_ptr().cast::<__m256i>().add(part));
                folds[0][0] = _mm256_xor_si256(folds[0][0], bytes);
            }
        }
    }
    let mut words = [0_u64; 4];
    // SAFETY: four words are as large as the vector.
    unsafe {
        let mut fold = _mm256_setzero_si256();
        for part in folds.as_flattened() {
            fold = _mm256_xor_si256(fold, *part);
        }
        words.as_mut_ptr().cast::<__m256i>().write_unaligned(fold);
    }
    words.into_iter().fold(0, |a, b| a ^ b)
}

/// The same value, opaque to the compiler, so that it cannot move a computation out of the loop.
#[target_feature(enable = "avx2")]
#[inline]
fn another(mut value: __m256i) -> __m256i {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// `vpmaddubsw`, `vpmaddwd`, `vpaddd`: how products are made without VNNI.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn multiply_avx2(rounds: usize) -> u64 {
    let (mut a, b, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5), _mm256_set1_epi16(1));
    let mut sums = [_mm256_setzero_si256(); ACCUMULATORS];
    for _ in 0..rounds {
        for sum in &mut sums {
            a = another(a);
            *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
        }
    }
    black_box(sums);
    rounds as u64 * ROUND_256
}

/// `vpdpbusd` on 32 numbers.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) unsafe fn multiply_avx_vnni(rounds: usize) -> u64 {
    let (a, b) = (black_box(_mm256_set1_epi8(3)), black_box(_mm256_set1_epi8(-5)));
    let mut sums = [_mm256_setzero_si256(); ACCUMULATORS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, a, b);
        }
    }
    black_box(sums);
    rounds as u64 * ROUND_256
}

/// `vpdpbusd` on 64 numbers.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) unsafe fn multiply_avx512_vnni(rounds: usize) -> u64 {
    let (a, b) = (black_box(_mm512_set1_epi8(3)), black_box(_mm512_set1_epi8(-5)));
    let mut sums = [_mm512_setzero_si512(); ACCUMULATORS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
    rounds as u64 * ROUND_512
}

/// `tdpbssd` on tiles of 16 rows of 64 bytes, four accumulators in turn. Restores the thread's tile
/// configuration; its tiles are zero afterwards.
///
/// # Safety
/// The processor has AMX tiles of int8 and the system permitted them.
pub(super) unsafe fn multiply_amx(rounds: usize) -> u64 {
    /// Tile configuration, Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, 18.3.
    #[repr(C, align(64))]
    struct Configuration {
        palette: u8,
        start_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
    row_bytes[..8].fill(64);
    rows[..8].fill(16);
    let ours = Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
    let mut before = [0_u8; 128];
    let skip = before.as_ptr().align_offset(64);
    let before = &mut before[skip..skip + 64];
    // SAFETY: `before` and `ours` are 64 bytes at a cache line, as the configuration instructions want.
    // Tiles 0 to 7 exist in `ours` and are declared as changed. A configuration that was stored may always
    // be loaded.
    unsafe {
        asm!(
            "sttilecfg [{before}]",
            "ldtilecfg [{ours}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tilezero tmm4",
            "tilezero tmm5",
            "tilezero tmm6",
            "tilezero tmm7",
            "test {rounds}, {rounds}",
            "jz 3f",
            "2:",
            "tdpbssd tmm0, tmm4, tmm6",
            "tdpbssd tmm1, tmm4, tmm7",
            "tdpbssd tmm2, tmm5, tmm6",
            "tdpbssd tmm3, tmm5, tmm7",
            "dec {rounds}",
            "jnz 2b",
            "3:",
            "ldtilecfg [{before}]",
            before = in(reg) before.as_mut_ptr(),
            ours = in(reg) &raw const ours,
            rounds = inout(reg) rounds => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
    rounds as u64 * ROUND_AMX
}
