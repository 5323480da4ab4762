//! The memory of slots, from its reservation until a cache takes it. The system brings memory when it is
//! first written, and zeroes it, which can take longer than reading an expert into it. So it is brought while
//! a model is being loaded. It must not know what comes into slots.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use moelten_loader::io::pieces::Piece;
use moelten_loader::supervise::supervised_in;

use super::room::CachePlan;
use super::source::PART;

/// Parts between two looks at whether there is room for more.
const LOOK_EVERY: usize = 64;

/// Memory for slots of each size, none of them in use.
pub struct Slots(Vec<Vec<Piece>>);

impl Slots {
    /// Reserves the slots of a plan; slots for mapped files have no memory.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn reserve(room: &CachePlan) -> io::Result<Self> {
        let of_size = |(slots, &bytes): (usize, &usize)| {
            Piece::reserve(std::iter::repeat_n(if room.direct { bytes } else { 0 }, slots))
        };
        room.slots().into_iter().zip(&room.slot_bytes).map(of_size).collect::<io::Result<_>>().map(Self)
    }

    /// Does `work`. Meanwhile another thread has the system bring memory, as long as there is `room` for
    /// more.
    ///
    /// # Errors
    /// Those of `work`, and a panic of the other thread.
    pub fn touch_during<R>(
        &mut self,
        room: impl Fn() -> bool + Sync,
        work: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let touching = supervised_in(scope, "moelten-touch", || self.touch(&done, &room));
            let at_the_end = Done(&done);
            let result = work();
            drop(at_the_end);
            // Where the system starts no thread for it, memory comes when it is written.
            match touching.map(ScopedJoinHandle::join) {
                Ok(Ok(Err(message))) => Err(io::Error::other(message)),
                _ => result,
            }
        })
    }

    /// Has the system bring memory until it is all there or refused, there is no `room`, or `done` is set.
    /// Slots that a cache uses first come first. Returns the number of parts that it brought.
    fn touch(&mut self, done: &AtomicBool, room: &impl Fn() -> bool) -> usize {
        let mut parts = 0;
        for slot in self.0.iter_mut().flat_map(|slots| slots.iter_mut().rev()) {
            for start in (0..slot.len()).step_by(PART) {
                let part = start..slot.len().min(start + PART);
                let over = done.load(Ordering::Relaxed) || parts % LOOK_EVERY == 0 && !room();
                if over || slot.populate(part).is_err() {
                    return parts;
                }
                parts += 1;
            }
        }
        parts
    }

    /// The memory, by size.
    pub fn into_pieces(self) -> Vec<Vec<Piece>> {
        self.0
    }
}

/// Sets a flag when dropped, also by a panic: the scope would otherwise wait until all memory is there.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::room::CacheShape;

    fn room(direct: bool) -> CachePlan {
        let shape =
            CacheShape { experts: vec![8; 2], quotas: vec![3, 2], classes: vec![0, 1], spare: vec![1, 1] };
        CachePlan { direct, embedding_in_file: false, shape, slot_bytes: vec![3 << 20, 5000] }
    }

    #[test]
    fn slots_can_be_used_after_they_were_touched_or_not() {
        let mut slots = Slots::reserve(&room(true)).unwrap();
        let done = AtomicBool::new(false);
        if slots.touch(&done, &|| true) > 0 {
            assert_eq!(slots.touch(&done, &|| true), 4 * 3 + 3, "parts of 1 MiB and slots of less");
        }
        assert_eq!(slots.touch_during(|| true, || Ok(7)).unwrap(), 7);
        let mut pieces = slots.into_pieces();
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [4, 3]);
        for piece in pieces.iter_mut().flatten() {
            assert!(piece.bytes().iter().all(|&byte| byte == 0), "zeroed");
            piece.bytes_mut().fill(1);
        }
    }

    #[test]
    fn no_memory_is_brought_without_room_or_after_the_end() {
        let mut slots = Slots::reserve(&room(true)).unwrap();
        assert_eq!(slots.touch(&AtomicBool::new(false), &|| false), 0);
        assert_eq!(slots.touch(&AtomicBool::new(true), &|| true), 0);
        let done = AtomicBool::new(false);
        let panicked = std::panic::catch_unwind(|| {
            let _at_the_end = Done(&done);
            panic!("as work may");
        });
        assert!(panicked.is_err() && done.into_inner());
    }

    #[test]
    fn a_panic_of_the_thread_is_the_error() {
        let mut slots = Slots::reserve(&room(true)).unwrap();
        let (asks, asked) = std::sync::mpsc::channel();
        let room = || {
            asks.send(()).unwrap();
            std::panic::resume_unwind(Box::new("no such file"))
        };
        let error = slots.touch_during(room, || asked.recv().map_err(io::Error::other)).unwrap_err();
        assert_eq!(error.to_string(), "moelten-touch: no such file");
    }

    #[test]
    fn mapped_files_have_slots_without_memory() {
        let mut slots = Slots::reserve(&room(false)).unwrap();
        assert_eq!(slots.touch_during(|| true, || Ok(7)).unwrap(), 7);
        assert!(slots.into_pieces().iter().flatten().all(Piece::is_empty));
    }
}
