//! The expert store: the only way by which layers get expert weights. `acquire` names the experts of a bank; what it returns
//! gives each expert's weights as soon as they are here and keeps them in place until they have been used. What is
//! resident, what is evicted and where bytes come from is decided behind this interface and never changes a result. It must
//! not know tensor names, nor how experts are multiplied.

use std::io;
use std::sync::{Arc, PoisonError};

use moelten_loader::io::pieces::Piece;
use moelten_loader::io::read_at::Access;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::store::TensorStore;

pub use super::acquired::{Acquired, Held, LOOK, Request};
use super::cache::Cache;
use super::guessing::Guessing;
pub use super::guessing::Prefetch;
use super::live::Board;
use super::policy::Policy;
pub use super::readers::DEPTH;
use super::readers::Readers;
use super::room::Cached;
use super::slots::Slots;
use super::source::{self, Source};
use super::stats::{Ahead, StoreStats};
use super::streamed::Streamed;
use super::sync::{Mutex, now};

/// Gives out expert weights.
pub struct ExpertStore {
    tensors: Arc<TensorStore>,
    place: Place,
    /// What it does, for those who watch.
    board: Arc<Board>,
}

enum Place {
    /// Every expert is used where the tensor store has it.
    InPlace(Mutex<StoreStats>),
    /// Some are in slots.
    Cached(Streamed),
}

impl ExpertStore {
    /// A store whose experts are used where `tensors` has them.
    pub fn in_place(tensors: Arc<TensorStore>) -> Self {
        let board = Arc::new(Board::resident(tensors.banks()));
        Self { tensors, place: Place::InPlace(Mutex::default()), board }
    }

    /// A store that keeps the experts that there is room for, in `slots` that were reserved for it.
    ///
    /// # Errors
    /// When the reading threads do not start.
    pub fn cached(
        tensors: Arc<TensorStore>,
        source: Source,
        (room, slots): (&Cached, Slots),
        prefetch: Prefetch,
    ) -> io::Result<Self> {
        let pieces = slots.into_pieces();
        let longest = pieces.iter().flatten().map(Piece::len).max().unwrap_or(0);
        let most_parts = source::most_parts(longest);
        let board = Arc::new(Board::new(tensors.banks(), &room.shape.quotas));
        let cache = Cache::new(&room.shape, Policy::default(), pieces, most_parts, Arc::clone(&board));
        let ahead = vec![Ahead::default(); tensors.banks().len()];
        let stats = StoreStats { ahead, ..StoreStats::default() };
        let readers = Readers::start(source, Arc::clone(&tensors), cache, stats)?;
        let guessing = Guessing::new(prefetch);
        let place = Place::Cached(Streamed { readers, guessing, tensors: Arc::clone(&tensors) });
        Ok(Self { tensors, place, board })
    }

    /// The matrices of an expert, in the order of its bank: formats and shapes, wherever its bytes are.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn matrices(&self, bank: usize, expert: u32) -> &[MatrixRef] {
        self.tensors.bank(bank).expert(expert as usize)
    }

    /// Whether some experts may have to be read.
    pub fn streams(&self) -> bool {
        self.streamed().is_some()
    }

    pub(super) fn streamed(&self) -> Option<&Streamed> {
        match &self.place {
            Place::InPlace(_) => None,
            Place::Cached(streamed) => Some(streamed),
        }
    }

    /// Takes hold of the experts of a request. What is missing begins to be read, in order, as far as there is room. One
    /// request at a time: a forward pass is one.
    pub fn acquire<'a>(&'a self, request: &Request<'a>, held: &'a mut Held) -> Acquired<'a> {
        let &Request { bank, ids, tokens, phase, .. } = request;
        self.board.asked(bank, ids, tokens, phase);
        match &self.place {
            Place::InPlace(stats) => {
                let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
                let count = stats.phase(phase);
                count.used += ids.len() as u64;
                let bank = self.tensors.bank(bank);
                count.used_bytes += ids.iter().map(|&id| bank.expert_bytes(id as usize)).sum::<u64>();
                self.board.counters(&stats);
                Acquired::in_place(&self.tensors, &self.board, request, held)
            }
            Place::Cached(streamed) => Acquired::streamed(streamed, &self.board, request, held),
        }
    }

    /// Whether it is worth guessing at the next bank's experts now.
    pub fn guesses(&self) -> bool {
        self.streamed().is_some_and(|streamed| streamed.guessing.wanted(&streamed.readers))
    }

    /// Reads the likely experts of a bank, the likeliest first, as far as they are missing, while nothing else is read.
    pub fn look_ahead(&self, bank: usize, likely: &[u32]) {
        if let Some(streamed) = self.streamed() {
            streamed.look_ahead(bank, likely);
        }
    }

    /// A sequence that may ask for experts is open, or is gone.
    pub(crate) fn session(&self, open: bool) {
        let Some(Streamed { readers, .. }) = self.streamed() else { return };
        let touch = &mut readers.lock().touch;
        if open {
            touch.opened(now());
            readers.wake();
        } else {
            touch.closed();
        }
    }

    /// A forward pass begins, or has ended.
    pub(crate) fn pass(&self, begins: bool) {
        let Some(Streamed { readers, .. }) = self.streamed() else { return };
        let touch = &mut readers.lock().touch;
        if begins { touch.begun() } else { touch.ended(now()) }
    }

    /// How files are read; `None` where they are mapped.
    pub fn access(&self) -> Option<Access> {
        match self.streamed()?.readers.source() {
            Source::Slots { access, .. } => Some(*access),
            Source::Mapped => None,
        }
    }

    /// What it does, for those who watch.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Counters since the start.
    pub fn stats(&self) -> StoreStats {
        match &self.place {
            Place::InPlace(stats) => stats.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Place::Cached(streamed) => streamed.readers.lock().stats.clone(),
        }
    }

    /// Lowers the number of experts that each bank keeps. Returns the bytes that went back to the system.
    pub fn shrink(&self, quotas: &[usize]) -> usize {
        let Some(streamed) = self.streamed() else { return 0 };
        let mut shared = streamed.readers.lock();
        // Where memory is short nothing is taken before it is needed.
        shared.touch.over();
        let bytes = shared.cache.shrink(quotas);
        streamed.forget(&mut shared);
        drop(shared);
        streamed.readers.discard_retired();
        bytes
    }

    /// From now on every request ends with this message: a thread that the store depends on has panicked.
    pub(crate) fn break_down(&self, message: String) {
        if let Some(streamed) = self.streamed() {
            streamed.readers.break_down(message);
        }
    }

    /// Raises the number of experts that each bank keeps, where [`Self::shrink`] has lowered it.
    pub fn grow(&self, quotas: &[usize]) {
        if let Some(streamed) = self.streamed() {
            streamed.readers.grow(quotas);
        }
    }

    /// Experts of each bank that are here; all of them where they are used in place.
    pub fn resident(&self) -> Vec<Vec<u32>> {
        let banks = self.tensors.banks();
        match &self.place {
            Place::InPlace(_) => banks.iter().map(|bank| (0..bank.experts() as u32).collect()).collect(),
            Place::Cached(streamed) => {
                let shared = streamed.readers.lock();
                (0..banks.len()).map(|bank| shared.cache.here(bank).collect()).collect()
            }
        }
    }
}
