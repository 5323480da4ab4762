//! How many rows each lane of a tile goes through, when the lanes of a tile are distant rows. It must not
//! know what a row means.
//!
//! All lanes of a tile are at the same column, so the addresses that they read are a fixed distance apart.
//! If the distance is a multiple of the size of a way of the first-level cache, all streams need the same
//! few sets of it and evict each other. Common widths give such distances with runs of 16, 32 or 48 rows.
//! Runs are therefore chosen so that the streams are spread over the sets. The smallest cache in use has 8
//! ways of 64 sets of 64 bytes (Intel before Ice Lake, AMD Zen); larger ones have as many sets or more. In
//! the second-level cache streams must not be near each other either: in turn with other runs, eight streams
//! of which four were within 2 KiB there gave 0.7 to 0.8 of the speed on Zen 3.

use std::iter::Rev;
use std::ops::RangeInclusive;

/// Bytes of a line, sets and ways.
const LINE: usize = 64;
const SETS: usize = 64;
const WAYS: u32 = 8;
/// Bytes of half of the cache.
const HALF: usize = WAYS as usize * SETS * LINE / 2;
/// Lines of a stream that are in the cache at a time: the one that is read and those that were prefetched.
const WINDOW: u32 = 8;

/// Bytes of a way of the second-level cache of AMD Zen to Zen 3, which has 8 ways.
const SECOND_WAY: usize = 64 << 10;
/// Bytes within which streams are near each other there. With this number the runs that were measured to be
/// slow are told from the others (docs/kernels.md).
const SECOND_WINDOW: usize = 2 << 10;

/// Rows of a run for `rows` rows of `row_bytes` bytes and `lanes` lanes: lane `l` of the first tile is row
/// `l * run`. At least 1 if there are `lanes` rows, and at most `rows / lanes` and `most_bytes / row_bytes`.
/// The rows that are left begin with a run of their own.
///
/// With long rows it is a run that is shorter than the longest by an eighth at most and has streams as far
/// apart as they can be. Otherwise, or if there is none, it is the longest one with well spread streams, in
/// both caches or else in the first. In either case streams of the rows that it leaves can be well spread
/// too. If there is none, it is the one with the best spread. Rows that take half of the first-level cache
/// together, or less, crowd no set of it: theirs is the longest run.
pub(super) fn run_of(rows: usize, row_bytes: usize, lanes: usize, most_bytes: usize) -> usize {
    let longest = (rows / lanes).min(most_bytes / row_bytes.max(1)).max(1);
    if rows.saturating_mul(row_bytes) <= HALF {
        return longest;
    }
    // A run that is much shorter would be a short stream: then some crowding costs less.
    let candidates = |longest: usize| (longest.div_ceil(2)..=longest).rev();
    let crowd_of = |run: usize| crowd(run * row_bytes, lanes);
    let crowded_behind = |run: usize| neighbours(run * row_bytes, lanes) > lanes as u32 / 4;
    let left = |run: usize| (rows - lanes * run) / lanes;
    let leaves_spread =
        |run: usize| left(run) == 0 || candidates(left(run)).any(|run| crowd_of(run) <= evenly(lanes));
    let find = |mut runs: Rev<RangeInclusive<usize>>, most: u32, behind: bool| {
        runs.find(|&run| crowd_of(run) <= most && !(behind && crowded_behind(run)) && leaves_spread(run))
    };
    // Where a tile's rows are more than half of the cache. There such runs were up to 1.05 times as fast on
    // Zen 3 as the longest spread ones; with shorter rows they made no difference.
    let long = lanes * row_bytes > HALF;
    let near = (longest - longest / 8..=longest).rev();
    long.then(|| find(near, apart(lanes), true))
        .flatten()
        .or_else(|| find(candidates(longest), evenly(lanes), true))
        .or_else(|| find(candidates(longest), evenly(lanes), false))
        .or_else(|| candidates(longest).min_by_key(|&run| crowd_of(run)))
        .unwrap_or(1)
}

/// Lines in a set, of `lanes` streams that are as far apart as they can be.
fn apart(lanes: usize) -> u32 {
    (lanes * WINDOW as usize).div_ceil(SETS) as u32
}

/// Lines in a set, of `lanes` streams that are spread about evenly: half of the ways for sixteen streams,
/// which leaves the other half to activations.
fn evenly(lanes: usize) -> u32 {
    WAYS * lanes as u32 / 32
}

/// The most of `lanes` streams, `distance` bytes apart, that are near each other in the second-level cache:
/// within [`SECOND_WINDOW`] from one of them on.
fn neighbours(distance: usize, lanes: usize) -> u32 {
    // Bit `k` says whether the stream `k` streams further is near, or that `k` streams back.
    let (mut further, mut back) = (0_u32, 0_u32);
    for k in 0..lanes {
        let place = k * distance % SECOND_WAY;
        further |= u32::from(place < SECOND_WINDOW) << k;
        back |= u32::from((SECOND_WAY - place) % SECOND_WAY < SECOND_WINDOW) << k;
    }
    let below = |bits: u32, count: usize| (bits & ((1 << count) - 1)).count_ones();
    // Itself is in both.
    (0..lanes).map(|lane| below(further, lanes - lane) + below(back, lane + 1) - 1).max().unwrap_or(0)
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
    use crate::format::Format;
    use crate::lattice::is_coded;

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

    /// The definition, stream by stream.
    fn near(distance: usize, lanes: usize) -> u32 {
        let behind = |lane: usize, other: usize| {
            let way = SECOND_WAY as isize;
            (other as isize - lane as isize) * distance as isize % way
        };
        let is_near = |lane, other| behind(lane, other).rem_euclid(SECOND_WAY as isize) < 2048;
        let count = |lane| (0..lanes).filter(|&other| is_near(lane, other)).count();
        (0..lanes).map(count).max().unwrap() as u32
    }

    #[test]
    fn streams_near_each_other_are_counted_around_the_second_cache() {
        // A run of 252, 504, 488 and 248 rows of 4,032 bytes: in two places, in one, spread, spread.
        assert_eq!([252, 504, 488, 248].map(|run| neighbours(run * 4032, 8)), [4, 4, 2, 1]);
        assert_eq!([256, 512].map(|run| neighbours(run * 4032, 8)), [2, 4]);
        // 65,536 bytes around.
        assert_eq!(neighbours(65_536 - 64, 8), 8);
        for (lanes, distance) in
            [4, 8, 16].into_iter().flat_map(|n| (0..200_000).step_by(18).map(move |d| (n, d)))
        {
            assert_eq!(neighbours(distance, lanes), near(distance, lanes), "{distance}, {lanes} lanes");
        }
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

    /// Runs of a piece of `rows` rows: rows, and lines in the fullest set.
    fn runs(mut rows: usize, row_bytes: usize, lanes: usize) -> Vec<(usize, u32)> {
        let mut runs = Vec::new();
        while rows >= lanes {
            let run = run_of(rows, row_bytes, lanes, 1 << 26);
            assert!(
                0 < run && run * lanes <= rows && 2 * run >= rows / lanes,
                "{rows} of {row_bytes}: {run}"
            );
            runs.push((run * lanes, crowd(run * row_bytes, lanes)));
            rows -= run * lanes;
        }
        runs
    }

    /// Columns of matrices of models that are run: 512 (SmolLM2: 576, 1536) to 28,672 (Llama 3 70B).
    const WIDTHS: [usize; 42] = [
        512, 576, 640, 704, 768, 896, 960, 1024, 1280, 1408, 1536, 1792, 2048, 2304, 2560, 2880, 3072, 3584,
        4096, 4608, 5120, 5632, 6144, 6400, 6912, 7168, 8192, 9216, 10240, 10752, 11008, 12288, 13824, 14336,
        16384, 17408, 18432, 18944, 20480, 24576, 25600, 28672,
    ];

    /// All numbers of the shapes of `bench` that may be columns: vocabularies are larger.
    fn widths_of_shapes() -> Vec<usize> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/shapes");
        let files = std::fs::read_dir(folder)
            .unwrap()
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
        let numbers = files.flat_map(|text| {
            let numbers = text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
            numbers
                .filter(|&n: &usize| (256..30_000).contains(&n) && n.is_multiple_of(32))
                .collect::<Vec<_>>()
        });
        let widths: Vec<usize> = numbers.collect();
        assert!(widths.len() > 20, "{widths:?}");
        widths
    }

    /// In pieces of the size that threads share, streams leave half of the ways of every set to other data.
    #[test]
    fn streams_of_known_models_are_spread() {
        let (mut shapes, mut hopeless) = (0, Vec::new());
        for cols in WIDTHS.into_iter().chain(widths_of_shapes()) {
            for format in Format::ALL {
                // Q8_K is for activations: files of weights do not use it.
                let streamed = !format.is_float() && !is_coded(format) && format != Format::Q8K;
                let Some(row_bytes) = format.row_bytes(cols).filter(|_| streamed) else { continue };
                if row_bytes.is_multiple_of(LINE * SETS / 2) {
                    // Every distance between rows is a multiple of half a way.
                    hopeless.push((format, cols));
                    continue;
                }
                for lanes in [4, 8, 16] {
                    // Smaller pieces crowd no set, whatever their runs.
                    let rows = (128..=1024).step_by(32).chain([1792, 2048, 3584, 5120, 7168, 14336]);
                    for rows in rows.filter(|rows| rows * row_bytes > HALF) {
                        let runs = runs(rows, row_bytes, lanes);
                        let crowded =
                            runs.iter().filter(|(_, lines)| *lines > WAYS / 2).map(|(rows, _)| rows);
                        let crowded: usize = crowded.sum();
                        assert!(crowded <= 16, "{rows} x {cols} of {format}, {lanes} lanes: {runs:?}");
                        shapes += 1;
                    }
                }
            }
        }
        assert!(shapes > 10_000, "{shapes}");
        hopeless.retain(|(format, _)| !matches!(format, Format::Q4_1 | Format::Q5_1));
        assert_eq!(hopeless, [], "formats in use have other row lengths");
    }

    #[test]
    fn runs_cover_rows_and_are_long() {
        for row_bytes in [1, 34, 432, 1152, 2048, 4032, 4096] {
            for rows in 16..700 {
                let covered: usize = runs(rows, row_bytes, 16).iter().map(|(rows, _)| rows).sum();
                assert_eq!(covered, rows / 16 * 16);
            }
        }
        assert_eq!(run_of(1 << 20, 1 << 20, 16, 1 << 26), 64, "the bytes of a run are limited");
        assert_eq!(run_of(16, 1 << 27, 16, 1 << 26), 1);
    }
}
