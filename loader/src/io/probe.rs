//! Read speed of a disk without the page cache: direct reads of blocks all over a file, several in flight. It
//! writes nothing. It must not know what the file is.

use std::path::Path;
use std::time::Duration;

/// How a disk is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    /// Bytes of a read, rounded up to whole pages.
    pub block: usize,
    /// Reads in flight.
    pub depth: usize,
    /// Longest time.
    pub limit: Duration,
}

impl Pattern {
    /// Large reads, enough in flight for the full speed of any drive.
    pub fn large(limit: Duration) -> Self {
        Self { block: 1 << 20, depth: 4, limit }
    }
}

/// Smallest file that takes long enough to measure.
#[cfg(any(target_os = "linux", windows))]
const BYTES_MIN: u64 = 64 << 20;

/// What was read, and in what time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DiskSpeed {
    /// Bytes read.
    pub bytes: u64,
    /// From the first request to the last result.
    pub time: Duration,
}

impl DiskSpeed {
    /// In 10^9 bytes per second.
    pub fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(1e-9) / 1e9
    }
}

/// Reads every block of the file `path` once, in an order in which read-ahead does not help, until all are
/// read or the time is over. Caches of the drive or of a hypervisor cannot be told from the disk.
///
/// # Errors
/// A sentence that says why the speed is unknown.
#[cfg(any(target_os = "linux", windows))]
pub fn read_speed(path: &Path, pattern: Pattern) -> Result<DiskSpeed, String> {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Instant;

    use super::Memory;
    use super::pieces::PAGE;
    use super::read_at::{Access, DirectFile, read_fully};
    use crate::supervise::on_threads;

    // What is not a regular file may block or have effects when it is opened.
    let found = std::fs::metadata(path).map_err(|error| format!("cannot open the file: {error}"))?;
    if !found.is_file() {
        return Err("not a regular file".to_owned());
    }
    if found.len() < BYTES_MIN {
        let (have, need) = (found.len() as f64 / (1 << 20) as f64, BYTES_MIN >> 20);
        return Err(format!("the file, {have:.1} MiB, is too small to time reads; that takes {need} MiB"));
    }
    let file = DirectFile::open(path).map_err(|error| format!("cannot open the file: {error}"))?;
    if file.access() != Access::Direct {
        return Err("the file system has no direct reads or is in memory".to_owned());
    }
    let block = pattern.block.clamp(1, BYTES_MIN as usize).next_multiple_of(PAGE);
    let blocks = found.len() / block as u64;
    let stride = stride(blocks);
    let (next, done, problem) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
    let started = Instant::now();
    let work = || -> std::io::Result<()> {
        // A mapping begins at a page, as direct reads want it.
        let mut buffer = Memory::zeroed(block)?;
        while started.elapsed() < pattern.limit {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= blocks {
                break;
            }
            let place = index * stride % blocks;
            read_fully(&file, buffer.bytes_mut(), place * block as u64, block)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let reader = || {
        if let (Err(error), Ok(mut problem)) = (work(), problem.lock()) {
            *problem = Some(error);
        }
    };
    let panic = on_threads("disk probe", pattern.depth, reader);
    let time = started.elapsed();
    panic?;
    match problem.into_inner() {
        Ok(None) => Ok(DiskSpeed { bytes: done.into_inner() * block as u64, time }),
        Ok(Some(error)) => Err(format!("a direct read failed: {error}")),
        Err(_) => Err("a reading thread failed".to_owned()),
    }
}

/// A step that visits each of `blocks` blocks once and never two adjacent ones in a row: coprime to their
/// number and near 0.382 of it (the golden section), which spreads the reads evenly.
#[cfg(any(target_os = "linux", windows))]
fn stride(blocks: u64) -> u64 {
    let prime = |step: u64| {
        let (mut a, mut b) = (step, blocks);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    (blocks * 382 / 1000..blocks).find(|&step| prime(step)).unwrap_or(1)
}

/// Not implemented for this system.
///
/// # Errors
/// Always.
#[cfg(not(any(target_os = "linux", windows)))]
pub fn read_speed(_path: &Path, _pattern: Pattern) -> Result<DiskSpeed, String> {
    Err("direct reads are not written for this system yet".to_owned())
}

#[cfg(all(test, any(target_os = "linux", windows)))]
mod tests {
    use super::*;

    #[test]
    fn small_and_missing_files_have_no_speed_and_say_why() {
        let folder = tempfile::tempdir().unwrap();
        let small = folder.path().join("small");
        std::fs::write(&small, vec![1; 1 << 16]).unwrap();
        let why = |path: &Path| read_speed(path, Pattern::large(Duration::from_millis(50))).unwrap_err();
        assert!(why(&small).contains("0.1 MiB, is too small"), "{}", why(&small));
        assert!(why(folder.path()).contains("not a regular file"));
        assert!(why(&folder.path().join("none")).contains("cannot open"));
        #[cfg(unix)]
        assert!(why(Path::new("/dev/zero")).contains("not a regular file"));
    }

    #[test]
    fn a_large_file_has_a_speed_or_a_reason() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![7; BYTES_MIN as usize + 13]).unwrap();
        for block in [1 << 20, 4097] {
            let pattern = Pattern { block, depth: 4, limit: Duration::from_millis(300) };
            match read_speed(file.path(), pattern) {
                Ok(speed) => assert!(speed.bytes >= block as u64 && speed.gb_per_s() > 0.0, "{speed:?}"),
                Err(why) => assert!(why.contains("direct reads") || why.contains("memory"), "{why}"),
            }
        }
    }

    #[test]
    fn every_block_is_read_once() {
        for blocks in 1..200 {
            let step = stride(blocks);
            let mut places: Vec<_> = (0..blocks).map(|index| index * step % blocks).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..blocks), "{blocks}");
        }
    }
}
