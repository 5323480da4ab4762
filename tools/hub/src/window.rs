//! Pieces of a file that several connections fetch and one writer takes in order. At most a window of pieces
//! is in memory. It must not know where the bytes come from.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::HubError;

/// Pieces ahead of the writer that may be in memory.
const WINDOW: u64 = 8;

/// Shared by the writer and the connections of one file.
#[derive(Debug)]
pub struct Window {
    state: Mutex<State>,
    /// Something has changed.
    changed: Condvar,
    /// Number of pieces of the file.
    pieces: u64,
}

#[derive(Debug, Default)]
struct State {
    /// The next piece that a connection takes.
    next: u64,
    /// The next piece that the writer takes.
    written: u64,
    arrived: BTreeMap<u64, Vec<u8>>,
    /// Memory of pieces that were written, for the next ones: freed and allocated anew by several threads it
    /// would not go back to the system.
    spare: Vec<Vec<u8>>,
    /// Bytes that have arrived, of unfinished pieces too.
    bytes: u64,
    failed: Option<HubError>,
    /// Nothing more is wanted.
    closed: bool,
}

/// What the writer finds.
pub enum Next {
    /// The next piece in order.
    Piece(Vec<u8>),
    /// Not yet there.
    Wait,
    /// All pieces were taken.
    End,
}

impl Window {
    /// For `pieces` pieces.
    pub fn new(pieces: u64) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), changed: Condvar::new(), pieces })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece to fetch and memory for it; waits for room in the window. `None` if nothing more is
    /// wanted.
    pub fn take(&self) -> Option<(u64, Vec<u8>)> {
        let mut state = self.lock();
        loop {
            if state.closed || state.failed.is_some() || state.next >= self.pieces {
                return None;
            }
            if state.next < state.written + WINDOW {
                state.next += 1;
                let memory = state.spare.pop().unwrap_or_default();
                return Some((state.next - 1, memory));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the rest is still wanted; counts bytes that have arrived.
    pub fn arrived(&self, bytes: u64) -> bool {
        let mut state = self.lock();
        state.bytes += bytes;
        !state.closed && state.failed.is_none()
    }

    /// Hands a whole piece to the writer.
    pub fn put(&self, piece: u64, bytes: Vec<u8>) {
        self.lock().arrived.insert(piece, bytes);
        self.changed.notify_all();
    }

    /// Takes the memory of a piece that was written.
    pub fn recycle(&self, mut piece: Vec<u8>) {
        piece.clear();
        self.lock().spare.push(piece);
    }

    /// Ends the download with an error; the first one counts.
    pub fn fail(&self, error: HubError) {
        self.lock().failed.get_or_insert(error);
        self.changed.notify_all();
    }

    /// Ends the download: connections stop at their next bytes.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The next piece for the writer, after at most `time`; and the bytes that have arrived so far.
    ///
    /// # Errors
    /// That of a connection, once the pieces before it were taken.
    pub fn next(&self, time: Duration) -> Result<(Next, u64), HubError> {
        let mut state = self.lock();
        let ready = |state: &State| {
            state.written >= self.pieces
                || state.failed.is_some()
                || state.arrived.contains_key(&state.written)
        };
        if !ready(&state) {
            state = self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        }
        let written = state.written;
        if let Some(piece) = state.arrived.remove(&written) {
            state.written += 1;
            let bytes = state.bytes;
            drop(state);
            self.changed.notify_all();
            return Ok((Next::Piece(piece), bytes));
        }
        if let Some(error) = state.failed.take() {
            state.closed = true;
            return Err(error);
        }
        let end = state.written >= self.pieces;
        Ok((if end { Next::End } else { Next::Wait }, state.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_in_order_and_the_window_is_bounded() {
        let window = Window::new(20);
        let taken: Vec<_> = (0..WINDOW).filter_map(|_| Some(window.take()?.0)).collect();
        assert_eq!(taken, (0..WINDOW).collect::<Vec<_>>());
        window.put(1, vec![1]);
        let wait = || window.next(Duration::from_millis(1)).expect("no error").0;
        assert!(matches!(wait(), Next::Wait));
        window.put(0, vec![0]);
        assert!(matches!(wait(), Next::Piece(p) if p == [0]));
        assert!(matches!(wait(), Next::Piece(p) if p == [1]));
        window.recycle(vec![7; 1000]);
        let (piece, memory) = window.take().expect("a piece");
        assert_eq!((piece, memory.len(), memory.capacity()), (8, 0, 1000), "memory is used again");
        assert_eq!(window.take(), Some((9, Vec::new())));
        let waiting = Arc::clone(&window);
        let thread = std::thread::spawn(move || waiting.take());
        window.close();
        assert_eq!(thread.join().expect("no panic"), None);
    }

    #[test]
    fn an_error_comes_after_the_pieces_before_it() {
        let window = Window::new(2);
        window.put(0, vec![7]);
        window.fail(HubError::Stopped);
        window.fail(HubError::Processor("x"));
        let next = || window.next(Duration::from_millis(1));
        assert!(matches!(next(), Ok((Next::Piece(_), _))));
        assert!(matches!(next(), Err(HubError::Stopped)));
        assert!(!window.arrived(1));
        assert_eq!(window.take(), None);
    }
}
