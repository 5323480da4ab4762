//! A simulated disk with faults that can be repeated.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moelten_loader::io::read_at::ReadAt;

/// `EIO` of Linux and of most others.
pub const EIO: i32 = 5;

/// What a panic of a disk says.
pub const PANIC: &str = "the driver has a bug";

/// The fault of a disk. Reads are counted from 0, in the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Each read takes a random time of up to 400 microseconds, by this seed, so that reads end in any order.
    Late(u64),
    /// Reads return only a part of the bytes, with interrupts between them.
    Short(u64),
    /// Reads return one byte.
    Bytes,
    /// `count` reads from read `from` on fail.
    Errors { from: u64, count: u64 },
    /// One in `one_in` reads fails, at random by this seed.
    Flaky { seed: u64, one_in: u64 },
    /// `count` reads from read `from` on panic.
    Panics { from: u64, count: u64 },
    /// One in `one_in` reads panics, at random by this seed.
    Panicky { seed: u64, one_in: u64 },
    /// Read `at` takes `millis` milliseconds.
    Stall { at: u64, millis: u64 },
    /// From read `from` on the file has only `len` bytes.
    Cut { from: u64, len: u64 },
}

/// A file on such a disk.
pub struct Disk {
    bytes: Vec<u8>,
    behaviour: Behaviour,
    reads: AtomicU64,
}

impl Disk {
    pub fn new(bytes: Vec<u8>, behaviour: Behaviour) -> Self {
        Self { bytes, behaviour, reads: AtomicU64::new(0) }
    }

    /// Reads as from a file of `len` bytes. Returns the number of bytes.
    fn bytes(&self, buffer: &mut [u8], offset: u64, len: u64) -> usize {
        let whole = self.bytes.get(..usize::try_from(len).unwrap()).unwrap_or(&self.bytes);
        let rest = whole.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        read
    }
}

/// The random number at an index of the sequence of a seed (SplitMix64, Steele, Lea, Flood 2014).
pub fn chance(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl ReadAt for Disk {
    fn align(&self) -> usize {
        match self.behaviour {
            Behaviour::Short(_) | Behaviour::Bytes => 1,
            _ => 4096,
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        assert!(offset.is_multiple_of(self.align() as u64) && buffer.len().is_multiple_of(self.align()));
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        let failed = || io::Error::from_raw_os_error(EIO);
        let (mut most, mut len) = (buffer.len(), u64::MAX);
        match self.behaviour {
            Behaviour::Late(seed) => {
                std::thread::sleep(Duration::from_micros(chance(seed, read) % 400));
            }
            Behaviour::Short(seed) => {
                let dice = chance(seed, read);
                if dice.is_multiple_of(3) {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                most = most.min(1 + dice as usize / 3 % 9000);
            }
            Behaviour::Bytes => most = 1,
            Behaviour::Errors { from, count } if (from..from.saturating_add(count)).contains(&read) => {
                // A failed read may have written to the buffer.
                buffer.fill(0xa5);
                return Err(failed());
            }
            Behaviour::Flaky { seed, one_in } if chance(seed, read).is_multiple_of(one_in) => {
                buffer.fill(0x5a);
                return Err(failed());
            }
            Behaviour::Panics { from, count } if (from..from.saturating_add(count)).contains(&read) => {
                panics()
            }
            Behaviour::Panicky { seed, one_in } if chance(seed, read).is_multiple_of(one_in) => panics(),
            Behaviour::Stall { at, millis } if read == at => {
                std::thread::sleep(Duration::from_millis(millis));
            }
            Behaviour::Cut { from, len: left } if read >= from => len = left,
            _ => {}
        }
        Ok(self.bytes(&mut buffer[..most], offset, len))
    }
}

/// Panics without a message on the terminal.
fn panics() -> ! {
    std::panic::resume_unwind(Box::new(PANIC))
}
