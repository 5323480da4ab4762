//! One sequence: its tokens and its states. Reads texts in chunks and keeps what a new text shares with the
//! old one. Results do not depend on how a text was cut into chunks, on what was computed beside it, or on
//! what was in the states before. It must not know text; the decode loop is `generate`.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use moelten_loader::spec::BankKey;

use crate::error::{EngineError, Result};
use crate::forward::batch::{Batch, Ended, Phase, Run, Wanted};
use crate::forward::decoder::HEAD_ROWS;
use crate::forward::observe::{InputObserver, Observer};
use crate::layers::ffn::router::Routing;
use crate::layers::rope::Rope;
use crate::model::{Model, Turn};
use crate::plan::context::{self, SequenceOptions};
use crate::runtime::cancel::Cancel;
use crate::runtime::ledger::Charge;
use crate::state::kv::format::KvFormat;
use crate::state::{MOST_NEW_TOKENS, SequenceState};

/// Tokens from which on a pass tells after every layer how far it has come: on a slow model even so few take
/// seconds.
const WATCHED: usize = 16;

/// One sequence of tokens on a model.
pub struct Sequence {
    model: Arc<Model>,
    states: SequenceState,
    /// What the model's encoder works in, if it has one.
    encoder: Option<SequenceState>,
    /// The text that the encoder has read.
    text: Vec<u32>,
    ropes: Vec<Rope>,
    tokens: Vec<u32>,
    /// Logits after the last token, `[vocab]`.
    logits: Vec<f32>,
    context: usize,
    kv_format: KvFormat,
    /// Its part of the budget.
    _charge: Charge,
}

/// What a pass does for a sequence, beside other sequences.
pub struct Step<'s> {
    /// What is appended to.
    pub sequence: &'s mut Sequence,
    /// The tokens that are appended to it.
    pub tokens: &'s [u32],
    /// Whether they are part of a prompt or its next token.
    pub phase: Phase,
    /// The request to stop this sequence alone.
    pub cancel: &'s Cancel,
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.model.experts().sequence_closed();
    }
}

impl Sequence {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`EngineError::Memory`] when the states and the buffers do not fit; [`EngineError::Setting`] for a
    /// context of 0.
    pub fn new(model: Arc<Model>, options: SequenceOptions) -> Result<Self> {
        let spec = model.spec();
        let context = options.context.unwrap_or(model.plan().context.tokens);
        if context == 0 {
            return Err(EngineError::Setting { setting: "context", found: "0".into(), must: "at least 1" });
        }
        let states = SequenceState::bytes_for(spec, context, options.kv);
        let charge = model
            .reserve(context, states, |free| context::advice(context::fitting(spec, free, options.kv)))?;
        let states = SequenceState::for_model(spec, context, options.kv).map_err(EngineError::KvCache)?;
        let encoder = SequenceState::for_encoder(spec, context).map_err(EngineError::KvCache)?;
        let ropes = model.weights().ropes.iter().map(|rope| Rope::new(rope, context)).collect();
        let (tokens, logits) = (Vec::with_capacity(context), vec![0.0; spec.vocab]);
        model.experts().sequence_opened();
        let kv_format = options.kv;
        let text = Vec::new();
        Ok(Self { model, states, encoder, text, ropes, tokens, logits, context, kv_format, _charge: charge })
    }

    /// The model that computes it.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens that it can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Its tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Precision of its keys and values.
    pub fn kv_format(&self) -> KvFormat {
        self.kv_format
    }

    /// What decides about its bits besides the model and the tokens.
    pub(crate) fn settings(&self) -> (KvFormat, &[Rope]) {
        (self.kv_format, &self.ropes)
    }

    /// Bytes of its states, and of the buffers of its model's passes.
    pub fn bytes(&self) -> (u64, u64) {
        let states = SequenceState::bytes_for(self.model.spec(), self.context, self.kv_format);
        (states, self.model.buffer_bytes())
    }

    /// The text that the encoder has read for it; empty before [`Self::encode`] and in models without one.
    pub fn text(&self) -> &[u32] {
        &self.text
    }

    /// Lets the model's encoder read a text, to which all tokens attend that are appended afterwards. Those
    /// of the sequence go, as they attended to another text; if it is the same one, nothing is done.
    ///
    /// # Errors
    /// [`EngineError::Setting`] for an empty text or a model without an encoder,
    /// [`EngineError::TextTooLong`], [`EngineError::TokenRange`], [`EngineError::Cancelled`], failed reads;
    /// the sequence is as it was then.
    pub fn encode(&mut self, ids: &[u32], cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        self.check_text(ids)?;
        if self.text == ids {
            return Ok(());
        }
        let model = Arc::clone(&self.model);
        let mut turn = model.turn(cancel)?;
        let Self { states: decoder, encoder, .. } = self;
        let Some(states) = encoder else { return Err(no_encoder()) };
        states.go_back(0);
        let (phase, wanted, ended) = (Phase::Prefill, Wanted::None, Ended::NotYet);
        let mut run =
            [Run { tokens: ids, phase, wanted, states, ropes: &[], logits: &mut [], cancel, ended }];
        turn.encode(&mut Batch::new(&mut run), decoder, observer)?;
        decoder.go_back(0);
        self.tokens.clear();
        self.text.clear();
        self.text.extend_from_slice(ids);
        Ok(())
    }

    /// Forgets the encoder's text, and the tokens that attended to it.
    pub fn forget_text(&mut self) {
        self.states.go_back(0);
        self.tokens.clear();
        self.text.clear();
    }

    fn check_text(&self, ids: &[u32]) -> Result<()> {
        if self.encoder.is_none() {
            return Err(no_encoder());
        }
        if ids.is_empty() {
            let (found, must) = ("no tokens".to_owned(), "at least one token");
            return Err(EngineError::Setting { setting: "text", found, must });
        }
        let most = self.chunk();
        if ids.len() > most {
            return Err(EngineError::TextTooLong { tokens: ids.len(), most });
        }
        self.check_ids(ids)
    }

    /// Keeps the longest start that the sequence shares with `ids`, as far as its states can go back there;
    /// returns its length. What is missing after it must be appended again.
    pub fn keep_prefix(&mut self, ids: &[u32]) -> usize {
        let shared = self.tokens.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let kept = self.states.go_back(shared);
        self.tokens.truncate(kept);
        kept
    }

    /// Becomes what `other` is, a sequence of the same model: its text and its tokens. What both share is not
    /// copied.
    ///
    /// # Errors
    /// [`EngineError::ContextFull`], [`EngineError::TextTooLong`] for more than it holds; it is empty then.
    pub(crate) fn follow(&mut self, other: &Self) -> Result<()> {
        let same_text = self.text == other.text;
        let shared = self.tokens.iter().zip(&other.tokens).take_while(|(a, b)| a == b).count();
        let kept = if same_text { shared } else { 0 };
        self.tokens.clear();
        self.text.clear();
        if other.tokens.len() > self.context {
            return Err(EngineError::ContextFull { tokens: other.tokens.len(), context: self.context });
        }
        let copied =
            self.states.follow(&other.states, kept, |own, other, kept| own.follow(other, kept, same_text));
        copied.map_err(|_| EngineError::TextTooLong { tokens: other.text.len(), most: self.chunk() })?;
        self.tokens.extend_from_slice(&other.tokens);
        self.text.extend_from_slice(&other.text);
        Ok(())
    }

    /// Remembers this moment, so that [`Self::keep_prefix`] can come back to it where states do not hold
    /// every length.
    pub fn snapshot(&mut self) {
        self.states.snapshot();
    }

    /// Appends tokens of a prompt without wanting logits of all of them; those of the last are in
    /// [`Self::logits`] afterwards. `progress` gets the number of appended tokens, counting those that have
    /// passed some of the layers by that share.
    ///
    /// # Errors
    /// [`EngineError::ContextFull`], [`EngineError::TokenRange`], [`EngineError::Cancelled`]; chunks that
    /// were finished before stay in the sequence.
    pub fn append(
        &mut self,
        ids: &[u32],
        cancel: &Cancel,
        observer: &mut dyn Observer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let wanted = |last: bool| if last { Wanted::Last } else { Wanted::None };
        self.read(ids, wanted, cancel, observer, progress)
    }

    /// As [`Self::append`], for the observer alone: the whole model runs over every token but for the head,
    /// whose inputs are computed. No logits are left.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn observe(
        &mut self,
        ids: &[u32],
        cancel: &Cancel,
        observer: &mut dyn Observer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        self.read(ids, |_| Wanted::All, cancel, observer, progress)
    }

    /// Appends the next token: its logits are in [`Self::logits`] afterwards.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn decode(&mut self, id: u32, cancel: &Cancel, observer: &mut dyn Observer) -> Result<()> {
        self.check(&[id])?;
        let model = Arc::clone(&self.model);
        let mut turn = model.turn(cancel)?;
        self.pass(&mut turn, &[id], Phase::Decode, Wanted::Last, cancel, observer)
    }

    /// Appends chunk by chunk; `wanted` says what of each, told whether it is the last.
    fn read(
        &mut self,
        ids: &[u32],
        wanted: impl Fn(bool) -> Wanted,
        cancel: &Cancel,
        observer: &mut dyn Observer,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        self.check(ids)?;
        let model = Arc::clone(&self.model);
        let (layers, mut done) = (model.spec().layers.len(), 0);
        for chunk in ids.chunks(self.chunk()) {
            let wanted = wanted(done + chunk.len() == ids.len());
            let tokens = chunk.len();
            let mut turn = model.turn(cancel)?;
            if tokens < WATCHED {
                self.pass(&mut turn, chunk, Phase::Prefill, wanted, cancel, observer)?;
            } else {
                let (sender, passed) = channel();
                let beside = || passed.iter().for_each(|layer| progress(done + tokens * layer / layers));
                let watch = LayerWatch { observer, sender };
                let run = &mut [self.run(chunk, Phase::Prefill, wanted, cancel)];
                turn.forward_beside(&mut Batch::new(run), watch, beside)?;
                self.tokens.extend_from_slice(chunk);
            }
            done += tokens;
            progress(done);
        }
        Ok(())
    }

    /// Appends tokens of a prompt and hands all logits, those of some tokens at a time, `[tokens, vocab]`, to
    /// `each`.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn append_all(
        &mut self,
        ids: &[u32],
        cancel: &Cancel,
        observer: &mut dyn Observer,
        each: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check(ids)?;
        let model = Arc::clone(&self.model);
        for chunk in ids.chunks(self.chunk()) {
            let mut turn = model.turn(cancel)?;
            self.pass(&mut turn, chunk, Phase::Prefill, Wanted::All, cancel, observer)?;
            for first in (0..chunk.len()).step_by(HEAD_ROWS) {
                each(turn.logits(first..chunk.len().min(first + HEAD_ROWS)))?;
            }
        }
        Ok(())
    }

    /// Logits after the last token, `[vocab]`, once [`Self::append`] or [`Self::decode`] has run.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Tokens that a pass takes at most.
    fn chunk(&self) -> usize {
        MOST_NEW_TOKENS.min(self.context)
    }

    fn check(&self, ids: &[u32]) -> Result<()> {
        self.check_ids(ids)?;
        if self.encoder.is_some() && self.text.is_empty() {
            let (found, must) = ("none".to_owned(), "read by the encoder before anything is written");
            return Err(EngineError::Setting { setting: "text", found, must });
        }
        let tokens = self.tokens.len() + ids.len();
        if tokens > self.context() {
            return Err(EngineError::ContextFull { tokens, context: self.context() });
        }
        Ok(())
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        let vocab = self.model.spec().vocab;
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab) {
            return Err(EngineError::TokenRange { id, vocab });
        }
        Ok(())
    }

    /// Some tokens as a run of a batch.
    fn run<'a>(&'a mut self, tokens: &'a [u32], phase: Phase, wanted: Wanted, cancel: &'a Cancel) -> Run<'a> {
        let Self { states, ropes, logits, .. } = self;
        Run { tokens, phase, wanted, states, ropes, logits, cancel, ended: Ended::NotYet }
    }

    /// A pass for this sequence alone.
    fn pass(
        &mut self,
        turn: &mut Turn<'_>,
        tokens: &[u32],
        phase: Phase,
        wanted: Wanted,
        cancel: &Cancel,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        turn.forward(&mut Batch::new(&mut [self.run(tokens, phase, wanted, cancel)]), observer)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }

    /// Writes the encoder's text, if there is an encoder, and the states, for [`Self::load`].
    ///
    /// # Errors
    /// What writing says.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.encoder.is_some() {
            out.write_all(&(self.text.len() as u64).to_le_bytes())?;
            self.text.iter().try_for_each(|id| out.write_all(&id.to_le_bytes()))?;
        }
        self.states.save(out)
    }

    /// Becomes a sequence of `tokens` whose states [`Self::save`] wrote, on the same model with the same
    /// instruction set, context and precision.
    ///
    /// # Errors
    /// What reading says, [`io::ErrorKind::InvalidData`] for tokens that do not fit; the sequence is empty
    /// then.
    pub fn load(&mut self, tokens: &[u32], from: &mut dyn Read) -> io::Result<()> {
        self.tokens.clear();
        self.states.go_back(0);
        self.text.clear();
        if self.encoder.is_some() {
            let text = read_ids(from, self.chunk())?;
            let known = self.check_ids(&text).and_then(|()| self.check_ids(tokens));
            known.map_err(|_| io::ErrorKind::InvalidData)?;
            if text.is_empty() && !tokens.is_empty() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.states.load(tokens.len(), from)?;
            (self.text, self.tokens) = (text, tokens.to_vec());
            return Ok(());
        }
        if self.check(tokens).is_err() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.states.load(tokens.len(), from)?;
        self.tokens.extend_from_slice(tokens);
        Ok(())
    }
}

/// The error for a text in a model without an encoder.
fn no_encoder() -> EngineError {
    let (found, must) = ("a text for an encoder".to_owned(), "given to a model that has one");
    EngineError::Setting { setting: "text", found, must }
}

/// Tokens behind their number, at most `most`.
fn read_ids(from: &mut dyn Read, most: usize) -> io::Result<Vec<u32>> {
    let mut count = [0; 8];
    from.read_exact(&mut count)?;
    let count = usize::try_from(u64::from_le_bytes(count)).unwrap_or(usize::MAX);
    if count > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let mut id = [0; 4];
        from.read_exact(&mut id)?;
        ids.push(u32::from_le_bytes(id));
    }
    Ok(ids)
}

/// Appends tokens to several sequences of one model in one pass. Each has the logits of its last token
/// afterwards, with the bits that it would have alone. Returns how each step ended: a cancelled sequence
/// stays as it was while the others move on.
///
/// # Errors
/// As [`Sequence::append`]; [`EngineError::Setting`] for more tokens than a pass takes, or sequences of
/// different models. No sequence moves on then.
pub fn advance(steps: &mut [Step<'_>], observer: &mut dyn Observer) -> Result<Vec<Ended>> {
    let Some(first) = steps.first() else { return Ok(Vec::new()) };
    let model = Arc::clone(&first.sequence.model);
    if steps.iter().any(|step| !Arc::ptr_eq(&step.sequence.model, &model)) {
        let (found, must) = ("several".to_owned(), "one model for all sequences of a batch");
        return Err(EngineError::Setting { setting: "model", found, must });
    }
    let tokens: usize = steps.iter().map(|step| step.tokens.len()).sum();
    for step in &*steps {
        step.sequence.check(step.tokens)?;
    }
    let mut turn = model.turn_unless(|| steps.iter().all(|step| step.cancel.is_cancelled()))?;
    if tokens > turn.chunk() || steps.iter().any(|step| step.tokens.is_empty()) {
        let (found, must) =
            (format!("{tokens} tokens"), "at least one for each sequence and no more than a pass takes");
        return Err(EngineError::Setting { setting: "batch", found, must });
    }
    let mut runs: Vec<Run<'_>> = steps
        .iter_mut()
        .map(|step| step.sequence.run(step.tokens, step.phase, Wanted::Last, step.cancel))
        .collect();
    turn.forward(&mut Batch::new(&mut runs), observer)?;
    let ended: Vec<Ended> = runs.iter().map(|run| run.ended).collect();
    for (step, &ended) in steps.iter_mut().zip(&ended) {
        if ended == Ended::Committed {
            step.sequence.tokens.extend_from_slice(step.tokens);
        }
    }
    Ok(ended)
}

/// An observer that also tells how far a pass has come.
struct LayerWatch<'a> {
    observer: &'a mut dyn Observer,
    sender: Sender<usize>,
}

impl Observer for LayerWatch<'_> {
    fn layer(&mut self, layer: usize) {
        // Without a listener the progress is not shown, and the pass goes on.
        let _ = self.sender.send(layer);
        self.observer.layer(layer);
    }

    fn routed(&mut self, bank: BankKey, routing: &Routing) {
        self.observer.routed(bank, routing);
    }

    fn inputs(&mut self) -> Option<&mut dyn InputObserver> {
        self.observer.inputs()
    }
}
