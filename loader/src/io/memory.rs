//! Memory straight from the system, as bytes or as numbers, in huge pages at once or bit by bit. It must not know what lies in it.

use std::io;
use std::ops::Range;

use memmap2::{Mmap, MmapMut};

/// Bytes of a huge page.
pub const HUGE_PAGE: usize = 2 << 20;

/// Zeroed memory, from the start of a page.
#[derive(Debug)]
pub struct Memory {
    map: MmapMut,
    range: Range<usize>,
}

impl Memory {
    /// `len` bytes, none of them touched yet, in huge pages where the system offers them.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len.max(1))?;
        // A refusal costs speed, not correctness.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { range: 0..len, map })
    }

    /// As [`Self::zeroed`], in small pages, for what may stay empty for the most part. It begins where a huge page would:
    /// [`Self::gather`] makes some of what was filled.
    ///
    /// # Errors
    /// When the system has no address space left.
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

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }

    /// All of it, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[self.range.clone()]
    }

    /// All of it as numbers; bytes that do not fill one are left out.
    pub fn numbers<T: Number>(&self) -> &[T] {
        let bytes = self.bytes();
        // SAFETY: any bytes are such numbers, and the memory begins with a page, which is aligned for all of them. The length
        // is rounded down.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// As [`Self::numbers`], to write.
    pub fn numbers_mut<T: Number>(&mut self) -> &mut [T] {
        let bytes = self.bytes_mut();
        // SAFETY: as for `numbers`; whatever is written is bytes again.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) }
    }

    /// Has the system put the whole huge pages of a range into such pages: for what was written and is read again and again. It
    /// takes about half a millisecond for each, and nothing for those that are.
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
            // SAFETY: the memory is this program's, private and borrowed alone here; its contents stay as they are. A refusal costs
            // speed, not correctness.
            unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, MADV_COLLAPSE) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = len;
    }

    /// Nobody writes it from here on.
    pub(super) fn make_read_only(self) -> io::Result<Mmap> {
        self.map.make_read_only()
    }
}

/// Gives what was freed back to the system: allocators keep much of it for later, which counts as owned.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes no memory from anybody, only the allocator's own.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Numbers that any bytes are.
pub trait Number: plain::Plain {}

impl Number for u16 {}
impl Number for f32 {}

mod plain {
    /// Nobody else says what is plain.
    pub trait Plain: Copy {}

    impl Plain for u16 {}
    impl Plain for f32 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether huge pages come depends on the system; what lies there never does.
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
