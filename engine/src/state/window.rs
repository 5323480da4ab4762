//! Keys and values of a sliding window: the state of attention that sees only the last tokens. It keeps the
//! window and some room to append; when that is full, what is still seen moves to the start. It must not know
//! how attention reads it.
//!
//! What is kept begins at a multiple of a span, so that sums over positions have the bits that they have with
//! all of the context in memory. Some tokens before the window are kept as well, so that the last answer can
//! be taken back.

use std::io::{self, Read, Write};

use moelten_loader::spec::AttentionSpec;
use moelten_quant::{Kernels, SPAN};

use super::contract::{BranchState, MOST_NEW_TOKENS, NeedsReplay, Snapshot};
use super::kv::KvView;
use super::kv::format::KvFormat;
use super::kv::layer::KvLayer;
use super::marks::Marks;
use crate::runtime::pool::Pool;

/// Tokens before the window that stay: about the length of an answer, which may be taken back.
const BEHIND: usize = SPAN;

/// Keys and values of the last tokens, of one layer.
pub struct WindowState {
    layer: KvLayer,
    window: usize,
    /// The position in the sequence of the layer's first.
    base: usize,
    /// The first position whose keys and values are there: after a load, later than `base`.
    held_from: usize,
    len: usize,
    /// Tokens that the present pass adds.
    pending: usize,
    /// Positions that the layer has room for.
    capacity: usize,
    marks: Marks,
}

impl WindowState {
    /// Positions of memory that a window takes: itself, what is behind it, one pass, and what rounding to a
    /// span adds.
    pub fn capacity_for(window: usize) -> usize {
        let kept = (window - 1).saturating_add(BEHIND + SPAN - 1);
        let capacity = kept.saturating_add(MOST_NEW_TOKENS);
        capacity.checked_next_multiple_of(SPAN).unwrap_or(usize::MAX)
    }

    /// An empty state of `window` tokens, whose huge pages are made `delay` tokens late.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &AttentionSpec, window: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let capacity = Self::capacity_for(window);
        let layer = KvLayer::new(spec, capacity, format, delay)?;
        Ok(Self {
            layer,
            window,
            base: 0,
            held_from: 0,
            len: 0,
            pending: 0,
            capacity,
            marks: Marks::default(),
        })
    }

    /// Writes keys and values (`[tokens, kv_heads, head_dim]` each) of tokens of the present pass, from
    /// position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        self.layer.write(pool, kernels, first - self.base, keys, values);
    }

    /// What attention reads.
    pub fn view(&self) -> KvView<'_> {
        KvView { layer: &self.layer, base: self.base, whole: None }
    }

    /// The first position that the token at `position` sees.
    fn seen_from(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}

impl BranchState for WindowState {
    fn len(&self) -> usize {
        self.len
    }

    fn begin(&mut self, tokens: usize) {
        assert!(tokens <= MOST_NEW_TOKENS, "a pass adds {tokens} tokens");
        if self.len + tokens > self.base + self.capacity {
            let base = self.seen_from(self.len).saturating_sub(BEHIND) / SPAN * SPAN;
            self.layer.shift(base - self.base..self.len - self.base);
            self.base = base;
            self.held_from = self.held_from.max(base);
        }
        self.pending = tokens;
    }

    fn commit(&mut self) {
        self.len += std::mem::take(&mut self.pending);
    }

    fn rollback(&mut self) {
        self.pending = 0;
    }

    fn can_truncate(&self, len: usize) -> bool {
        len >= self.len || self.seen_from(len) >= self.held_from
    }

    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        if !self.can_truncate(len) {
            return Err(NeedsReplay);
        }
        if len < self.len {
            self.len = len;
            self.marks.cut(len);
        }
        Ok(())
    }

    fn clear(&mut self) {
        (self.base, self.held_from, self.len) = (0, 0, 0);
        self.marks.cut(0);
    }

    fn snapshot(&self) -> Snapshot {
        self.marks.mark(self.len)
    }

    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        self.marks.length(snapshot).is_ok_and(|len| self.can_truncate(len))
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        self.truncate(self.marks.length(snapshot)?)
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.layer.save(self.seen_from(self.len) - self.base..self.len - self.base, out)
    }

    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.clear();
        let first = self.seen_from(len);
        let base = first / SPAN * SPAN;
        self.layer.load(first - base..len - base, from)?;
        (self.base, self.held_from, self.len) = (base, first, len);
        Ok(())
    }
}
