//! Memory from the system, as bytes or as numbers, in huge pages at once or on request. It must not know what
//! it is used for.

use std::io;
use std::ops::Range;

use memmap2::{Mmap, MmapMut};

/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory that starts at a page.
#[derive(Debug)]
pub struct Memory {
    map: MmapMut,
    range: Range<usize>,
}

impl Memory {
    /// `len` bytes, not yet backed by memory, in huge pages if the system has them.
    ///
    /// # Errors
    /// No address space is left.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len.max(1))?;
        // A failure costs speed, not correctness.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { range: 0..len, map })
    }

    /// As [`Self::zeroed`], in small pages, for memory that may stay mostly unused. It is aligned to a huge
    /// page, so that [`Self::gather`] can form some where it was filled.
    ///
    /// # Errors
    /// No address space is left.
    pub fn growing(len: usize) -> io::Result<Self> {
        if len < HUGE_PAGE {
            let map = MmapMut::map_anon(len.max(1))?;
            return Ok(Self { range: 0..len, map });
        }
        let total = len.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(total)?;
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        Ok(Self { range: start..start + len, map })
    }

    /// The memory as bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// The memory as bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.range.clone()]
    }

    /// The memory as numbers; bytes at the end that do not fill a number are left out.
    pub fn numbers<T: Number>(&self) -> &[T] {
        let bytes = self.bytes();
        // SAFETY: any bit pattern is a valid number, and the memory begins at a page, which is aligned for
        // all of them. The length is rounded down.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// As [`Self::numbers`], to write.
    pub fn numbers_mut<T: Number>(&mut self) -> &mut [T] {
        let bytes = self.bytes_mut();
        // SAFETY: as for `numbers`; any number that is written is valid as bytes.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// Moves a range into huge pages, as far as it fills whole ones: for memory that was written and is read
    /// repeatedly. It takes about half a millisecond for each page that is not huge yet.
    ///
    /// # Panics
    /// If the range is not of this memory.
    pub fn gather(&mut self, range: Range<usize>) {
        let bytes = &mut self.bytes_mut()[range];
        let start = bytes.as_ptr().align_offset(HUGE_PAGE).min(bytes.len());
        let whole = &mut bytes[start..];
        let len = whole.len() / HUGE_PAGE * HUGE_PAGE;
        #[cfg(target_os = "linux")]
        if len > 0 {
            /// `linux/mman.h`, since Linux 6.1.
            const MADV_COLLAPSE: libc::c_int = 25;
            // SAFETY: the memory is private to this process and borrowed exclusively here; its contents do
            // not change. A failure costs speed, not correctness.
            unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, MADV_COLLAPSE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = len;
    }

    /// Makes it read-only from here on.
    pub(super) fn make_read_only(self) -> io::Result<Mmap> {
        self.map.make_read_only()
    }
}

/// Returns freed memory to the system. Allocators keep much of it, and it counts as memory of the process.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it releases only memory that the allocator does not use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Number types for which any bit pattern is valid.
pub trait Number: plain::Plain {}

impl Number for u16 {}
impl Number for f32 {}

mod plain {
    /// Keeps other crates from implementing [`super::Number`].
    pub trait Plain: Copy {}

    impl Plain for u16 {}
    impl Plain for f32 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether there are huge pages depends on the system; the contents never do.
    #[test]
    fn gathered_memory_keeps_its_contents() {
        let mut memory = Memory::growing(3 * HUGE_PAGE + 4096).unwrap();
        assert!(memory.bytes().as_ptr().addr().is_multiple_of(HUGE_PAGE));
        let number = |i: usize| (i as u16).wrapping_mul(31);
        let half = memory.numbers::<u16>().len() / 2;
        memory.numbers_mut::<u16>()[..half].iter_mut().enumerate().for_each(|(i, to)| *to = number(i));
        for range in [0..HUGE_PAGE, 5..3 * HUGE_PAGE, 100..200, 3 * HUGE_PAGE..3 * HUGE_PAGE + 4096, 7..7] {
            memory.gather(range);
        }
        let found = memory.numbers::<u16>().iter().enumerate();
        assert!(found.take(half).all(|(i, &found)| found == number(i)));
        assert!(memory.numbers::<u16>()[half..].iter().all(|&rest| rest == 0));
        assert_eq!(memory.numbers::<f32>().len(), memory.bytes().len() / 4);
    }

    #[test]
    fn little_memory_is_not_rounded_up() {
        let memory = Memory::growing(1000).unwrap();
        assert_eq!(memory.bytes(), [0; 1000]);
        assert!(Memory::growing(0).unwrap().bytes().is_empty());
        assert!(Memory::growing(usize::MAX - 5).is_err());
    }
}
