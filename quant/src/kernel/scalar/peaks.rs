//! The limits of a core in plain Rust. It must not know clocks.

/// Numbers of a round.
const ROUND: usize = 1024;

/// The exclusive or of all words of some lines, in their order.
pub(in crate::kernel) fn read(lines: &[[u8; 64]]) -> u64 {
    let mut folds = [0_u64; 8];
    for line in lines {
        for (fold, bytes) in folds.iter_mut().zip(line.as_chunks::<8>().0) {
            *fold ^= u64::from_le_bytes(*bytes);
        }
    }
    folds.into_iter().fold(0, |all, fold| all ^ fold)
}

/// A dot product of numbers in the first-level cache, vectorised by the compiler. They are widened already:
/// a product of several tokens widens once, so the cost of widening is no limit.
pub(in crate::kernel) fn multiply(rounds: usize) -> u64 {
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
