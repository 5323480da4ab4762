//! The expert store: the only way by which layers get expert weights. A request names experts of a bank. Its
//! result gives access to each expert as soon as it is resident and keeps it in its slot until it has been
//! used. Residency, eviction and the origin of bytes are decided behind this interface and never change a
//! result. It must not know tensor names, nor how experts are multiplied.

use std::io;
use std::sync::{Arc, OnceLock, PoisonError};

use moelten_loader::io::pieces::Piece;
use moelten_loader::io::read_at::Access;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::store::TensorStore;

pub use super::acquired::{AcquireBuffers, Acquired, CANCEL_POLL, Request};
use super::cache::Cache;
use super::live::LiveState;
use super::policy::Policy;
pub use super::prefetch::Prefetch;
use super::prefetch::Prefetcher;
pub use super::readers::DEPTH;
use super::readers::Readers;
use super::room::CachePlan;
use super::slots::Slots;
use super::source::{self, Source};
use super::stats::{Phase, PrefetchStats, StoreStats};
use super::streamed::Streamed;
use super::sync::{Mutex, now};
use super::tier::DeviceTier;

/// The experts of a model, wherever their weights are.
pub struct ExpertStore {
    tensors: Arc<TensorStore>,
    residency: Residency,
    live: Arc<LiveState>,
    /// Experts in the memory of a device.
    pub(super) device: OnceLock<DeviceTier>,
}

enum Residency {
    /// All experts are used where the tensor store has them.
    InPlace(Box<Mutex<StoreStats>>),
    /// A cache holds some experts in slots.
    Cached(Box<Streamed>),
}

impl ExpertStore {
    /// A store that uses all experts where `tensors` has them.
    pub fn in_place(tensors: Arc<TensorStore>) -> Self {
        let live = Arc::new(LiveState::resident(tensors.banks()));
        Self { tensors, residency: Residency::InPlace(Box::default()), live, device: OnceLock::new() }
    }

    /// A store with a cache of the slots that `room` describes, whose memory is `slots`.
    ///
    /// # Errors
    /// The system's error when the reader threads cannot be started.
    pub fn cached(
        tensors: Arc<TensorStore>,
        source: Source,
        (room, slots): (&CachePlan, Slots),
        prefetch: Prefetch,
    ) -> io::Result<Self> {
        let pieces = slots.into_pieces();
        let longest = pieces.iter().flatten().map(Piece::len).max().unwrap_or(0);
        let most_parts = source::most_parts(longest);
        let live = Arc::new(LiveState::new(tensors.banks(), &room.shape.quotas));
        let cache = Cache::new(&room.shape, Policy::default(), pieces, most_parts, Arc::clone(&live));
        let counts = vec![PrefetchStats::default(); tensors.banks().len()];
        let stats = StoreStats { prefetch: counts, ..StoreStats::default() };
        let readers = Readers::start(source, Arc::clone(&tensors), cache, stats)?;
        let prefetcher = Prefetcher::new(prefetch);
        let streamed = Streamed { readers, prefetcher, tensors: Arc::clone(&tensors) };
        let residency = Residency::Cached(Box::new(streamed));
        Ok(Self { tensors, residency, live, device: OnceLock::new() })
    }

    /// Formats and shapes of the matrices of an expert, in the order of its bank. The expert need not be
    /// resident.
    ///
    /// # Panics
    /// If the bank has no such expert.
    pub fn matrices(&self, bank: usize, expert: u32) -> &[MatrixRef] {
        self.tensors.bank(bank).expert(expert as usize)
    }

    /// Whether experts are read from files while the model runs.
    pub fn streams(&self) -> bool {
        self.streamed().is_some()
    }

    /// The tensors of all experts.
    pub(super) fn tensors(&self) -> &TensorStore {
        &self.tensors
    }

    /// Counts experts that were requested and had not to be read, as no cache saw the request.
    pub(super) fn count_hits(&self, phase: Phase, experts: u64, bytes: u64) {
        let add = |stats: &mut StoreStats| {
            let count = stats.phase(phase);
            count.used += experts;
            count.used_bytes += bytes;
            self.live.set_counters(stats);
        };
        match &self.residency {
            Residency::InPlace(stats) => add(&mut stats.lock().unwrap_or_else(PoisonError::into_inner)),
            Residency::Cached(streamed) => add(&mut streamed.readers.lock().stats),
        }
    }

    pub(super) fn streamed(&self) -> Option<&Streamed> {
        match &self.residency {
            Residency::InPlace(_) => None,
            Residency::Cached(streamed) => Some(&**streamed),
        }
    }

    /// Pins the experts of a request. Missing experts begin to be read in the order of the request, as far as
    /// slots are free. Only one request may live at a time; a forward pass makes one after the other.
    pub fn acquire<'a>(&'a self, request: &Request<'a>, buffers: &'a mut AcquireBuffers) -> Acquired<'a> {
        let &Request { bank, ids, tokens, phase, .. } = request;
        self.live.requested(bank, ids, tokens, phase);
        match &self.residency {
            Residency::InPlace(stats) => {
                let mut stats = stats.lock().unwrap_or_else(PoisonError::into_inner);
                let count = stats.phase(phase);
                count.used += ids.len() as u64;
                let bank = self.tensors.bank(bank);
                count.used_bytes += ids.iter().map(|&id| bank.expert_bytes(id as usize)).sum::<u64>();
                self.live.set_counters(&stats);
                Acquired::in_place(&self.tensors, &self.live, request, buffers)
            }
            Residency::Cached(streamed) => Acquired::streamed(streamed, &self.live, request, buffers),
        }
    }

    /// Whether the caller should predict the next bank's experts and call [`Self::prefetch`].
    pub fn prefetches(&self) -> bool {
        self.streamed().is_some_and(|streamed| streamed.prefetcher.enabled(&streamed.readers))
    }

    /// Prefetches the missing ones of the predicted experts of a bank, the likeliest first. Reads for
    /// requests come first.
    pub fn prefetch(&self, bank: usize, likely: &[u32]) {
        if let Some(streamed) = self.streamed() {
            streamed.prefetch(bank, likely);
        }
    }

    /// Notes that a sequence has been opened. Free slots are touched ahead only while there is one.
    pub(crate) fn sequence_opened(&self) {
        if let Some(Streamed { readers, .. }) = self.streamed() {
            readers.lock().touch.opened(now());
            readers.wake();
        }
    }

    /// Notes that a sequence has been closed.
    pub(crate) fn sequence_closed(&self) {
        if let Some(Streamed { readers, .. }) = self.streamed() {
            readers.lock().touch.closed();
        }
    }

    /// Notes that a forward pass begins. No slot is touched ahead during a pass.
    pub(crate) fn pass_begun(&self) {
        if let Some(Streamed { readers, .. }) = self.streamed() {
            readers.lock().touch.begun();
        }
    }

    /// Notes that a forward pass has ended.
    pub(crate) fn pass_ended(&self) {
        if let Some(Streamed { readers, .. }) = self.streamed() {
            readers.lock().touch.ended(now());
        }
    }

    /// How files are read; `None` where experts are mapped or used in place.
    pub fn access(&self) -> Option<Access> {
        match self.streamed()?.readers.source() {
            Source::Slots { access, .. } => Some(*access),
            Source::Mapped => None,
        }
    }

    /// The state that [`super::live::LiveView`] shows.
    pub(crate) fn live(&self) -> &Arc<LiveState> {
        &self.live
    }

    /// A copy of the counters.
    pub fn stats(&self) -> StoreStats {
        match &self.residency {
            Residency::InPlace(stats) => stats.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Residency::Cached(streamed) => streamed.readers.lock().stats.clone(),
        }
    }

    /// Lowers the number of experts that each bank keeps resident, and releases slots. Returns the released
    /// bytes.
    pub fn shrink(&self, quotas: &[usize]) -> usize {
        let Some(streamed) = self.streamed() else { return 0 };
        let mut shared = streamed.readers.lock();
        // Memory is short, so no slot is touched before it is needed.
        shared.touch.over();
        let bytes = shared.cache.shrink(quotas);
        streamed.notify_evicted(&mut shared);
        drop(shared);
        streamed.readers.discard_retired();
        bytes
    }

    /// Makes every request fail with this message. Called when a thread that the store depends on has
    /// panicked.
    pub(crate) fn break_down(&self, message: String) {
        if let Some(streamed) = self.streamed() {
            streamed.readers.break_down(message);
        }
    }

    /// Raises the number of experts that each bank keeps resident, after [`Self::shrink`] has lowered it.
    pub fn grow(&self, quotas: &[usize]) {
        if let Some(streamed) = self.streamed() {
            streamed.readers.lock().cache.grow(quotas);
        }
    }

    /// The resident experts of each bank, `[bank][resident]`; all of them where they are used in place.
    pub fn resident(&self) -> Vec<Vec<u32>> {
        let banks = self.tensors.banks();
        match &self.residency {
            Residency::InPlace(_) => banks.iter().map(|bank| (0..bank.experts() as u32).collect()).collect(),
            Residency::Cached(streamed) => {
                let shared = streamed.readers.lock();
                (0..banks.len()).map(|bank| shared.cache.here(bank).collect()).collect()
            }
        }
    }
}
