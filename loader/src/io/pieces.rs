//! Memory for expert weights: one reservation, cut into pieces with one owner each. A piece can be passed to
//! a thread that reads into it, split for several readers and joined again. It must not know what it holds.

use std::io;
use std::ops::Range;
use std::sync::Arc;

#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{MmapMut, MmapRaw};

/// Pieces start at multiples of this, and their lengths are multiples of it, as direct reads require.
pub const PAGE: usize = 4096;

/// The reservation, released with its last piece.
#[derive(Debug)]
struct Reservation(MmapRaw);

/// A part of a reservation. It is the only reference to its bytes.
#[derive(Debug)]
pub struct Piece {
    of: Option<Arc<Reservation>>,
    range: Range<usize>,
}

impl Piece {
    /// One piece for each of `sizes`, zeroed, not yet backed by memory, in huge pages if the system has them.
    /// Sizes are rounded up to [`PAGE`].
    ///
    /// # Errors
    /// No address space is left.
    pub fn reserve(sizes: impl Iterator<Item = usize> + Clone) -> io::Result<Vec<Self>> {
        let total = sizes.clone().map(round).try_fold(0, |sum: usize, size| sum.checked_add(size?));
        let total = total.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let map = MmapMut::map_anon(total.max(1))?;
        // A failure costs speed, not correctness.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let mut rest = Self { of: Some(Arc::new(Reservation(map.into()))), range: 0..total };
        let cut = |size| {
            let (piece, others) = std::mem::take(&mut rest).split_at(round(size).unwrap_or(usize::MAX));
            rest = others;
            piece
        };
        Ok(sizes.map(cut).collect())
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no bytes, as a [`Default`] piece.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The memory as bytes.
    pub fn bytes(&self) -> &[u8] {
        let Some(of) = &self.of else { return &[] };
        // SAFETY: ranges of pieces lie inside the reservation and no two overlap, because pieces come only
        // from cutting others apart. `&self` keeps its owner from writing meanwhile, and the memory was
        // zeroed by the system.
        unsafe { std::slice::from_raw_parts(of.0.as_ptr().add(self.range.start), self.range.len()) }
    }

    /// The memory as bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let Some(of) = &self.of else { return &mut [] };
        // SAFETY: as in `bytes`; `&mut self` makes it the only reference into this range.
        unsafe { std::slice::from_raw_parts_mut(of.0.as_mut_ptr().add(self.range.start), self.range.len()) }
    }

    /// The first `len` bytes and the others.
    ///
    /// # Panics
    /// If it is shorter.
    pub fn split_at(self, len: usize) -> (Self, Self) {
        assert!(len <= self.len(), "{len} of {} bytes", self.len());
        let middle = self.range.start + len;
        let first = Self { of: self.of.clone(), range: self.range.start..middle };
        (first, Self { of: self.of, range: middle..self.range.end })
    }

    /// Undoes [`Self::split_at`].
    ///
    /// # Panics
    /// If `next` does not follow directly.
    pub fn join(self, next: Self) -> Self {
        let same = match (&self.of, &next.of) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) && self.range.end == next.range.start,
            _ => false,
        };
        assert!(same, "only neighbours can be joined");
        Self { of: self.of, range: self.range.start..next.range.end }
    }

    /// Backs a part of it with memory now instead of at the first write. Its contents do not change.
    ///
    /// # Errors
    /// No memory is left, or the system cannot do this.
    ///
    /// # Panics
    /// If `range` is not inside.
    pub fn populate(&mut self, range: Range<usize>) -> io::Result<()> {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        match &self.of {
            #[cfg(target_os = "linux")]
            Some(of) if !range.is_empty() => {
                of.0.advise_range(memmap2::Advice::PopulateWrite, self.range.start + range.start, range.len())
            }
            #[cfg(not(target_os = "linux"))]
            Some(_) if !range.is_empty() => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(()),
        }
    }

    /// Returns the memory to the system. Until it is written again, its contents are unspecified. Windows
    /// cannot return a part of a reservation; there it does nothing.
    pub fn discard(&mut self) {
        #[cfg(unix)]
        self.give_back();
    }

    #[cfg(unix)]
    fn give_back(&mut self) {
        let (Some(of), false) = (&self.of, self.is_empty()) else { return };
        let advise = |advice| {
            // SAFETY: the advice changes this piece alone, to which there is no other reference. If it fails,
            // the memory is unchanged.
            let _ = unsafe { of.0.unchecked_advise_range(advice, self.range.start, self.range.len()) };
        };
        // `Free` splits huge pages at both ends. With `DontNeed` alone, a huge page stays in use until all of
        // it is released.
        #[cfg(target_os = "linux")]
        advise(UncheckedAdvice::Free);
        advise(UncheckedAdvice::DontNeed);
    }

    /// Its offset in the reservation; pieces are joined in this order.
    pub fn start(&self) -> usize {
        self.range.start
    }
}

impl Default for Piece {
    /// A piece without bytes.
    fn default() -> Self {
        Self { of: None, range: 0..0 }
    }
}

fn round(size: usize) -> Option<usize> {
    size.checked_next_multiple_of(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_joined_and_given_back() {
        let mut pieces = Piece::reserve([5000, 0, PAGE].into_iter()).unwrap();
        assert_eq!(pieces.iter().map(Piece::len).collect::<Vec<_>>(), [2 * PAGE, 0, PAGE]);
        for (i, piece) in (1..).zip(&mut pieces) {
            assert!(piece.bytes().iter().all(|&byte| byte == 0));
            piece.bytes_mut().fill(i);
        }
        let third = pieces.pop().unwrap();
        let mut first = pieces.swap_remove(0);
        drop(pieces);
        // On systems that cannot do it nothing happens.
        let _ = first.populate(0..2 * PAGE);
        assert!(first.bytes().iter().all(|&byte| byte == 1));
        let (mut a, b) = first.split_at(PAGE);
        a.bytes_mut().fill(9);
        let mut whole = a.join(b);
        assert!(whole.bytes()[..PAGE].iter().all(|&byte| byte == 9));
        assert!(whole.bytes()[PAGE..].iter().all(|&byte| byte == 1));
        whole.discard();
        let (discarded, kept) = (whole.bytes().iter().all(|&byte| byte == 0), whole.bytes()[0] == 9);
        assert!(if cfg!(unix) { discarded } else { kept });
        assert!(third.bytes().iter().all(|&byte| byte == 3));
    }

    #[test]
    #[should_panic(expected = "only neighbours")]
    fn strangers_are_not_joined() {
        let mut pieces = Piece::reserve([PAGE, PAGE, PAGE].into_iter()).unwrap();
        let third = pieces.pop().unwrap();
        let _ = pieces.swap_remove(0).join(third);
    }

    #[test]
    fn more_than_the_address_space_is_an_error() {
        assert!(Piece::reserve([usize::MAX].into_iter()).is_err());
        assert!(Piece::reserve([usize::MAX / 2 + 1; 2].into_iter()).is_err());
        assert!(Piece::reserve([1 << 60].into_iter()).is_err());
    }
}
