//! The memory of slots, from its reservation until a cache takes it. The system brings it when it is first written, zeroed, which
//! can take longer than reading an expert into it; so it is brought while somebody waits for something else. It must not
//! know what comes into slots.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use moelten_loader::io::pieces::Piece;

use super::source::PART;
use crate::plan::Cached;

/// Memory for slots of each size, none of them in use.
pub struct Slots(Vec<Vec<Piece>>);

impl Slots {
    /// As many and as large as the plan says; without memory where files are mapped.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn reserve(room: &Cached) -> io::Result<Self> {
        let of_size = |(slots, &bytes): (usize, &usize)| {
            Piece::reserve(std::iter::repeat_n(if room.direct { bytes } else { 0 }, slots))
        };
        room.slots().into_iter().zip(&room.slot_bytes).map(of_size).collect::<io::Result<_>>().map(Self)
    }

    /// Does `work`, and has the system bring memory on another thread until it is done.
    pub fn touch_during<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // Where there is no thread for it, memory comes when it is written.
            let _ = thread::Builder::new().name("touch".into()).spawn_scoped(scope, || self.touch(&done));
            let result = work();
            done.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Until all memory is there, the system refuses it, or `done`: those first that a cache uses first.
    fn touch(&mut self, done: &AtomicBool) {
        for slot in self.0.iter_mut().flat_map(|slots| slots.iter_mut().rev()) {
            for start in (0..slot.len()).step_by(PART) {
                let part = start..slot.len().min(start + PART);
                if done.load(Ordering::Relaxed) || slot.populate(part).is_err() {
                    return;
                }
            }
        }
    }

    /// The memory, by size.
    pub fn into_pieces(self) -> Vec<Vec<Piece>> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::cache::Shape;

    fn room(direct: bool) -> Cached {
        let shape = Shape { experts: vec![8; 2], quotas: vec![3, 2], classes: vec![0, 1], spare: vec![1, 1] };
        Cached { direct, embedding_in_file: false, shape, slot_bytes: vec![3 << 20, 5000] }
    }

    #[test]
    fn slots_can_be_used_after_they_were_touched_or_not() {
        let mut slots = Slots::reserve(&room(true)).unwrap();
        let done = AtomicBool::new(false);
        slots.touch(&done);
        assert_eq!(slots.touch_during(|| 7), 7);
        let mut pieces = slots.into_pieces();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3]);
        for piece in pieces.iter_mut().flatten() {
            assert!(piece.bytes().iter().all(|&byte| byte == 0), "zeroed");
            piece.bytes_mut().fill(1);
        }
    }

    #[test]
    fn mapped_files_have_slots_without_memory() {
        let mut slots = Slots::reserve(&room(false)).unwrap();
        assert_eq!(slots.touch_during(|| 7), 7);
        assert!(slots.into_pieces().iter().flatten().all(Piece::is_empty));
    }
}
