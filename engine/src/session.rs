//! One sequence: its tokens, its KV cache, its buffers. Reads texts in chunks and keeps what a new text shares with the
//! old one. Results do not depend on how a text was cut into chunks or on what was still in the cache. It must not
//! know text; the decode loop is `generate`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};

use moelten_loader::spec::ModelSpec;

use crate::decoder::{DecoderState, HEAD_TOKENS, Observer, Wanted};
use crate::error::{EngineError, Result};
use crate::importance::InputSquares;
use crate::kv_cache::{KvCache, KvFormat};
use crate::layers::rope::{Angles, Rope};
use crate::ledger::Charge;
use crate::model::Model;
use crate::router::Routing;
use crate::scratch::{PASS, Scratch};

/// Context when the user names none, if model and memory allow it.
pub const DEFAULT_CONTEXT: usize = 8192;
/// Tokens computed at once while reading a prompt: each expert is read once for all of them.
const CHUNK: usize = 2048;

/// How a session is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct SessionOptions {
    /// Context in tokens; the one that was planned for when `None`.
    pub context: Option<usize>,
    /// Precision of the KV cache.
    pub kv: KvFormat,
}

/// A context size and why it is that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextChoice {
    /// Tokens.
    pub tokens: usize,
    /// What limited it.
    pub limit: ContextLimit,
}

/// What limits a context that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextLimit {
    /// The model was made for no more.
    Model,
    /// [`DEFAULT_CONTEXT`].
    Default,
    /// Beyond it the model would compute short texts with its frequencies for long ones.
    ShortRope,
    /// Memory: half of the budget, or less where experts need it more.
    Memory,
    /// Somebody asked for it.
    Asked,
}

/// `min(model, 8192, what fits into `room` bytes with the buffers)`; a model with two sets of rope frequencies
/// stays within the one for short texts, because a session has one set and most texts are short.
pub fn default_context(spec: &ModelSpec, kv: KvFormat, room: u64) -> ContextChoice {
    let fits = fitting(spec, room, kv);
    let (tokens, limit) = [
        (spec.max_context, ContextLimit::Model),
        (DEFAULT_CONTEXT, ContextLimit::Default),
        (spec.short_rope_context().unwrap_or(usize::MAX), ContextLimit::ShortRope),
        (fits.max(1), ContextLimit::Memory),
    ]
    .into_iter()
    .min_by_key(|&(tokens, _)| tokens)
    .expect("there are four");
    ContextChoice { tokens, limit }
}

/// Bytes of the buffers that a session with a context of `context` tokens works in, its KV cache not counted.
pub fn buffer_bytes(spec: &ModelSpec, context: usize) -> u64 {
    Scratch::bytes_for(spec, CHUNK.min(context), context)
}

/// Bytes of the KV cache and of the buffers.
fn need_bytes(spec: &ModelSpec, context: usize, kv: KvFormat) -> u64 {
    KvCache::bytes(spec, context, kv).saturating_add(buffer_bytes(spec, context))
}

/// The largest context of which all fits into `bytes`.
pub fn fitting(spec: &ModelSpec, bytes: u64, kv: KvFormat) -> usize {
    // More than a byte per token it always is.
    let (mut fits, mut too_many) = (0, usize::try_from(bytes).unwrap_or(usize::MAX).saturating_add(1));
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        if need_bytes(spec, middle, kv) <= bytes {
            fits = middle;
        } else {
            too_many = middle;
        }
    }
    fits
}

/// One sequence of tokens on a model.
pub struct Session {
    model: Arc<Model>,
    state: DecoderState,
    tokens: Vec<u32>,
    kv_format: KvFormat,
    /// Its part of the budget.
    _charge: Charge,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.model.experts().session(false);
    }
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when the KV cache and the buffers do not fit; [`EngineError::Setting`] for a context of 0.
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Self> {
        let spec = model.spec();
        let context = options.context.unwrap_or(model.plan().context.tokens);
        if context == 0 {
            return Err(EngineError::Setting { setting: "context", found: "0".into(), must: "at least 1" });
        }
        let chunk = CHUNK.min(context);
        let need = need_bytes(spec, context, options.kv);
        let charge = model.ledger().charge("the KV cache and the buffers", need, |free| {
            match fitting(spec, free, options.kv) {
                0 => "no context would fit".to_owned(),
                fits => format!("a context of {fits} would fit"),
            }
        })?;
        let ropes = model.ropes.iter().map(|rope| {
            let mut angles = Angles::default();
            angles.reserve(chunk, rope.dim / 2);
            (Rope::new(rope, context), angles)
        });
        let state = DecoderState {
            ropes: ropes.collect(),
            kv: KvCache::new(spec, context, options.kv).map_err(EngineError::KvCache)?,
            scratch: Scratch::new(spec, chunk, context),
        };
        let tokens = Vec::with_capacity(context);
        model.experts().session(true);
        Ok(Self { model, state, tokens, kv_format: options.kv, _charge: charge })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens the context holds.
    pub fn context(&self) -> usize {
        self.state.kv.capacity()
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Bytes of the KV cache and of the buffers.
    pub fn bytes(&self) -> (u64, u64) {
        (KvCache::bytes(self.model.spec(), self.context(), self.kv_format), self.state.scratch.bytes())
    }

    /// Keeps the longest start that the sequence shares with `ids`; returns its length.
    pub fn keep_prefix(&mut self, ids: &[u32]) -> usize {
        let shared = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        self.tokens.truncate(shared);
        self.state.kv.truncate(shared);
        shared
    }

    /// Appends tokens without wanting logits of all of them; those of the last are in [`Self::logits`] afterwards.
    /// `progress` gets the number of appended tokens, counting those that have passed some of the layers by that share.
    ///
    /// # Errors
    /// [`EngineError::ContextFull`], [`EngineError::TokenRange`], [`EngineError::Cancelled`]; chunks that were
    /// finished before stay in the sequence.
    pub fn append(
        &mut self,
        ids: &[u32],
        cancel: &AtomicBool,
        observer: &mut dyn Observer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let wanted = |last: bool| if last { Wanted::Last } else { Wanted::None };
        self.read(ids, wanted, cancel, observer, progress)
    }

    /// As [`Self::append`], for the observer alone: the whole model runs over every token but for the head, whose inputs are
    /// computed. No logits are left.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn observe(
        &mut self,
        ids: &[u32],
        cancel: &AtomicBool,
        observer: &mut dyn Observer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        self.read(ids, |_| Wanted::All, cancel, observer, progress)
    }

    /// Appends chunk by chunk; `wanted` says what of each, told whether it is the last.
    fn read(
        &mut self,
        ids: &[u32],
        wanted: impl Fn(bool) -> Wanted,
        cancel: &AtomicBool,
        observer: &mut dyn Observer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        self.check(ids)?;
        let mut done = 0;
        for chunk in ids.chunks(self.state.scratch.chunk) {
            let wanted = wanted(done + chunk.len() == ids.len());
            let (layers, tokens) = (self.model.spec().layers.len(), chunk.len());
            if tokens < PASS {
                self.forward(chunk, wanted, cancel, observer)?;
            } else {
                let (sender, passed) = channel();
                let beside = || passed.iter().for_each(|layer| progress(done + tokens * layer / layers));
                self.forward_beside(chunk, wanted, cancel, Watch { observer, sender }, beside)?;
            }
            done += chunk.len();
            progress(done);
        }
        Ok(())
    }

    /// Appends tokens and hands all logits, those of some tokens at a time, `[tokens, vocab]`, to `each`.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_all(
        &mut self,
        ids: &[u32],
        cancel: &AtomicBool,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check(ids)?;
        for chunk in ids.chunks(self.state.scratch.chunk) {
            self.forward(chunk, Wanted::All, cancel, observer)?;
            for first in (0..chunk.len()).step_by(HEAD_TOKENS) {
                let tokens = first..chunk.len().min(first + HEAD_TOKENS);
                let (model, state) = (&self.model, &mut self.state);
                model.pool().install(|| model.head(&mut state.scratch, tokens));
                each(&self.state.scratch.logits)?;
            }
        }
        Ok(())
    }

    /// Logits after the last token, `[vocab]`, once [`Self::append`] has run.
    pub fn logits(&self) -> &[f32] {
        let vocab = self.model.spec().vocab;
        &self.state.scratch.logits[..vocab]
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.model.spec().vocab;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(EngineError::TokenRange { id, vocab });
        }
        let tokens = self.tokens.len() + ids.len();
        if tokens > self.context() {
            return Err(EngineError::ContextFull { tokens, context: self.context() });
        }
        Ok(())
    }

    /// As [`Self::forward`], while `beside` runs on this thread.
    fn forward_beside(
        &mut self,
        chunk: &[u32],
        wanted: Wanted,
        cancel: &AtomicBool,
        mut watch: Watch<'_>,
        beside: impl FnMut(),
    ) -> Result<()> {
        let (model, state) = (&self.model, &mut self.state);
        let _turn = model.turn(cancel)?;
        let work = move || model.forward(state, chunk, wanted, cancel, &mut watch);
        model.pool().install_beside(work, beside)?;
        self.tokens.extend_from_slice(chunk);
        Ok(())
    }

    fn forward(
        &mut self,
        chunk: &[u32],
        wanted: Wanted,
        cancel: &AtomicBool,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let (model, state) = (&self.model, &mut self.state);
        // One at a time: sequences that share a model share its threads and its expert cache.
        let _turn = model.turn(cancel)?;
        // The whole chunk runs on a worker: entering the pool costs more than one parallel region inside it.
        model.pool().install(|| model.forward(state, chunk, wanted, cancel, observer))?;
        self.tokens.extend_from_slice(chunk);
        Ok(())
    }
}

/// An observer that also tells how far a chunk has come.
struct Watch<'a> {
    observer: &'a mut dyn Observer,
    sender: Sender<usize>,
}

impl Observer for Watch<'_> {
    fn routed(&mut self, layer: usize, routing: &Routing) {
        // Whoever does not listen does not want to know.
        let _ = self.sender.send(layer);
        self.observer.routed(layer, routing);
    }

    fn squares(&mut self) -> Option<&mut InputSquares> {
        self.observer.squares()
    }
}
