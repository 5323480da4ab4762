//! How many rows each lane of a tile goes through, when the lanes of a tile are distant rows. It must not
//! know what a row means.
//!
//! All lanes of a tile are at the same column, so the addresses that they read are a fixed distance apart.
//! If the distance is a multiple of the size of a way of the first-level cache, all streams need the same
//! few sets of it and evict each other. Common widths give such distances with runs of 16, 32 or 48 rows.
//! Runs are therefore chosen so that the streams are spread over the sets. The smallest cache in use has 8
//! ways of 64 sets of 64 bytes (Intel before Ice Lake, AMD Zen); larger ones have as many sets or more.

/// Bytes of a line and sets of a way.
const LINE: usize = 64;
const SETS: usize = 64;
/// Lines of a stream that are in the cache at a time: the one that is read and those that were prefetched.
const WINDOW: u32 = 8;

/// Rows of a run for `rows` rows of `row_bytes` bytes and `lanes` lanes: lane `l` of the first tile is row
/// `l * run`. At least 1 if there are `lanes` rows, and at most `rows / lanes` and `most_bytes / row_bytes`.
///
/// It is the longest run whose streams are well spread; if there is none, the one with the best spread.
pub(super) fn run_of(rows: usize, row_bytes: usize, lanes: usize, most_bytes: usize) -> usize {
    let longest = (rows / lanes).min(most_bytes / row_bytes.max(1)).max(1);
    let spread = |run: &usize| is_spread(run * row_bytes, lanes);
    // A run that is much shorter would be a short stream: then some crowding costs less.
    let shortest = longest.div_ceil(2);
    let best = || (shortest..=longest).rev().min_by_key(|run| crowd(run * row_bytes, lanes));
    (shortest..=longest).rev().find(spread).or_else(best).unwrap_or(1)
}

/// Whether `lanes` streams, `distance` bytes apart, leave half of the ways of each set to other data.
pub(crate) fn is_spread(distance: usize, lanes: usize) -> bool {
    crowd(distance, lanes) <= (lanes / 4).max(1) as u32
}

/// The most lines that `lanes` streams, `distance` bytes apart, have in one set at a time.
fn crowd(distance: usize, lanes: usize) -> u32 {
    // Bit `s` of the four words is a counter of set `s`: all of them are counted at once.
    let mut counters = [0_u64; 5];
    for lane in 0..lanes {
        let set = lane * distance / LINE % SETS;
        let mut carry = ((1_u64 << WINDOW) - 1).rotate_left(set as u32);
        for bits in &mut counters {
            (*bits, carry) = (*bits ^ carry, *bits & carry);
        }
    }
    let (mut most, mut among) = (0, u64::MAX);
    for bits in counters.into_iter().rev() {
        let with = among & bits;
        most = 2 * most + u32::from(with != 0);
        among = if with == 0 { among } else { with };
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, set by set.
    fn counted(distance: usize, lanes: usize) -> u32 {
        let mut sets = [0; SETS];
        for lane in 0..lanes {
            for line in 0..WINDOW as usize {
                sets[(lane * distance / LINE + line) % SETS] += 1;
            }
        }
        sets.into_iter().max().unwrap_or(0)
    }

    #[test]
    fn streams_are_counted_by_set() {
        for lanes in [4, 8, 16] {
            for distance in (0..3 * LINE * SETS).step_by(2) {
                assert_eq!(crowd(distance, lanes), counted(distance, lanes), "{distance}, {lanes} lanes");
            }
        }
        // All in one place, in two, in four, and evenly.
        assert_eq!([4096, 2048, 1024, 256].map(|distance| crowd(distance, 16)), [16, 8, 4, 2]);
        assert_eq!([4096, 2048, 1024, 512].map(|distance| crowd(distance, 8)), [8, 4, 2, 1]);
    }

    #[test]
    fn runs_cover_rows_and_are_long() {
        for row_bytes in [1, 34, 432, 1152, 2048, 4032, 4096] {
            for rows in 16..700 {
                let run = run_of(rows, row_bytes, 16, 1 << 26);
                assert!(0 < run && run * 16 <= rows && 2 * run >= rows / 16, "{rows} of {row_bytes}: {run}");
            }
        }
        assert_eq!(run_of(1 << 20, 1 << 20, 16, 1 << 26), 64, "the bytes of a run are limited");
        assert_eq!(run_of(16, 1 << 27, 16, 1 << 26), 1);
    }
}
