//! What a core can do at most, for figures to be put beside: reading memory, and multiplying int8 in registers. Products are
//! asked of each tier's own instructions; memory is read the fastest way there is. It must not know threads, clocks or what is done with the figures.

use super::Kernels;
#[cfg(target_arch = "x86_64")]
use super::x86::limits as x86;
#[cfg(target_arch = "x86_64")]
use crate::Isa;

/// Numbers of a round of the portable int8 loop.
const ROUND: usize = 1024;

impl Kernels {
    /// Reads every byte of `data` once, with nothing to do but fold it, and returns the fold so that no read can be left
    /// out. Time it over far more than the caches hold to get the speed of the RAM. The fold may differ between tiers.
    pub fn read_through(&self, data: &[u8]) -> u64 {
        let (lines, rest) = data.as_chunks::<64>();
        #[cfg(target_arch = "x86_64")]
        let folded = match self.isa() {
            // SAFETY: a tier's `Kernels` exist only where its instructions do.
            Isa::Avx2 | Isa::AvxVnni | Isa::Avx512Vnni | Isa::Amx => unsafe { x86::read_avx2(lines) },
            Isa::Scalar => read_portable(lines),
        };
        #[cfg(not(target_arch = "x86_64"))]
        let folded = read_portable(lines);
        rest.iter().fold(folded, |folded, &byte| folded ^ u64::from(byte))
    }

    /// Multiplies int8 numbers that stay in registers, the way the products of this tier do, `rounds` times; returns the
    /// number of operations done, a multiplication and an addition counted as two. Time it to get the peak of a core.
    pub fn multiply_int8(&self, rounds: usize) -> u64 {
        #[cfg(target_arch = "x86_64")]
        {
            let round = match self.isa() {
                // SAFETY: a tier's `Kernels` exist only where its instructions do; tiles only after the system permitted them.
                Isa::Avx2 => unsafe {
                    x86::multiply_avx2(rounds);
                    x86::ROUND_256
                },
                // SAFETY: as above.
                Isa::AvxVnni => unsafe {
                    x86::multiply_avx_vnni(rounds);
                    x86::ROUND_256
                },
                // SAFETY: as above.
                Isa::Avx512Vnni => unsafe {
                    x86::multiply_avx512_vnni(rounds);
                    x86::ROUND_512
                },
                // SAFETY: as above.
                Isa::Amx => unsafe {
                    x86::multiply_amx(rounds);
                    x86::ROUND_AMX
                },
                _ => return multiply_portable(rounds),
            };
            rounds as u64 * round
        }
        #[cfg(not(target_arch = "x86_64"))]
        multiply_portable(rounds)
    }
}

fn read_portable(lines: &[[u8; 64]]) -> u64 {
    let mut folds = [0_u64; 8];
    for line in lines {
        for (fold, bytes) in folds.iter_mut().zip(line.as_chunks::<8>().0) {
            *fold ^= u64::from_le_bytes(*bytes);
        }
    }
    folds.into_iter().fold(0, |all, fold| all ^ fold)
}

/// A dot product of numbers that lie in the first cache, as the compiler makes it. They are widened already: what widening
/// costs is no limit, as a product of several tokens does it once.
fn multiply_portable(rounds: usize) -> u64 {
    let (mut a, mut b) = ([3_i16; ROUND], [-5_i16; ROUND]);
    let mut sum = 0_i32;
    for _ in 0..rounds {
        let (a, b) = (std::hint::black_box(&mut a), std::hint::black_box(&mut b));
        let dot: i32 = a.iter().zip(&*b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
        sum = sum.wrapping_add(dot);
    }
    std::hint::black_box(sum);
    (rounds * ROUND * 2) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_reads_every_byte() {
        for isa in Isa::available() {
            let kernels = Kernels::for_isa(isa).unwrap();
            let mut data = vec![0_u8; 64 * 129 + 5];
            let zero = kernels.read_through(&data);
            for at in 0..data.len() {
                data[at] = 1;
                assert_ne!(kernels.read_through(&data), zero, "{isa}: byte {at} of {}", data.len());
                data[at] = 0;
            }
            assert_eq!(kernels.read_through(&[]), 0, "{isa}");
        }
    }

    #[test]
    fn every_tier_multiplies_and_counts() {
        for isa in Isa::available() {
            let kernels = Kernels::for_isa(isa).unwrap();
            assert_eq!(kernels.multiply_int8(0), 0, "{isa}");
            assert!(kernels.multiply_int8(1) > 0, "{isa}");
            assert_eq!(kernels.multiply_int8(10), 10 * kernels.multiply_int8(1), "{isa}");
        }
    }
}
