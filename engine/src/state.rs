//! What a sequence keeps between passes: one variant for each kind of memory that a layer has, under one
//! contract ([`contract::BranchState`]). A new kind of state is a variant here with a file of its own.
//! Nothing here knows how a layer computes.

mod appended;
pub mod branches;
pub mod compressed;
pub mod contract;
pub mod encoded;
pub mod indexed;
pub mod kv;
mod marks;
pub mod recurrent;
pub mod window;

use std::io::{self, Read, Write};

use moelten_loader::spec::{
    AttentionSpec, BlockChoice, CompressedSpec, IndexerSpec, KvSource, ModelSpec, Op,
};
use moelten_quant::Kernels;

use crate::runtime::pool::Pool;
use branches::{BranchStates, MOST_SNAPSHOTS};
use compressed::CompressedState;
pub use contract::MOST_NEW_TOKENS;
use contract::{BranchState, NeedsReplay, Snapshot};
use encoded::EncodedState;
use indexed::IndexedState;
use kv::format::KvFormat;
use kv::layer::KvLayer;
use kv::{KvState, KvView};
use recurrent::{COPIES, RecurrentState};
use window::WindowState;

/// The state of one branch of a layer.
pub enum LayerState {
    /// Keys and values of all tokens.
    Kv(KvState),
    /// Keys and values of the tokens that a window shows.
    Window(WindowState),
    /// Keys and values of all tokens, and keys to choose among them.
    Indexed(IndexedState),
    /// Keys and values of a text that is there as a whole.
    Encoded(EncodedState),
    /// Keys and values of a window, and rows that stand for runs of tokens.
    Compressed(CompressedState),
    /// The numbers of a recurrence.
    Recurrent(RecurrentState),
}

/// The states of all branches of a sequence on a model.
pub type SequenceState = BranchStates<LayerState>;

impl SequenceState {
    /// Empty states for a context of `context` tokens.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn for_model(spec: &ModelSpec, context: usize, format: KvFormat) -> io::Result<Self> {
        // The huge pages of all layers are due with the same token. Each layer has its own turn, or that
        // token would take long.
        let states = stateful(spec).enumerate().map(|(delay, kept)| match kept {
            Kept::Attention(spec) => LayerState::of_attention(spec, context, format, delay),
            Kept::Indexed(spec, indexer) => {
                IndexedState::new((spec, indexer), context, format, delay).map(LayerState::Indexed)
            }
            Kept::Encoded(spec) => {
                let text = MOST_NEW_TOKENS.min(context);
                EncodedState::new(spec, text, format, delay).map(LayerState::Encoded)
            }
            Kept::Blocks(spec, blocks) => {
                IndexedState::with_blocks((spec, blocks), context, format, delay).map(LayerState::Indexed)
            }
            Kept::Compressed(spec) => {
                CompressedState::new(spec, context, format, delay).map(LayerState::Compressed)
            }
            Kept::Numbers(numbers) => RecurrentState::new(numbers).map(LayerState::Recurrent),
        });
        Ok(Self::new(states.collect::<io::Result<_>>()?))
    }

    /// What the layers of an encoder work in, one after the other; `None` for models without one. Numbers are
    /// in single precision: nothing of it stays.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn for_encoder(spec: &ModelSpec, context: usize) -> io::Result<Option<Self>> {
        let Some(attention) = encoder_attention(spec) else { return Ok(None) };
        let text = MOST_NEW_TOKENS.min(context);
        let state = EncodedState::new(attention, text, KvFormat::F32, 0)?;
        Ok(Some(Self::new(vec![LayerState::Encoded(state)])))
    }

    /// Bytes of [`Self::for_encoder`].
    pub fn bytes_for_encoder(spec: &ModelSpec, context: usize) -> u64 {
        let text = MOST_NEW_TOKENS.min(context);
        encoder_attention(spec).map_or(0, |spec| KvLayer::bytes_for(spec, text, KvFormat::F32))
    }

    /// Bytes that the states of a sequence take, with those that its encoder works in.
    pub fn bytes_for(spec: &ModelSpec, context: usize, format: KvFormat) -> u64 {
        let encoder = Self::bytes_for_encoder(spec, context);
        stateful(spec)
            .map(|kept| match kept {
                Kept::Attention(attention) => {
                    let capacity = window_of(attention, context).map_or(context, WindowState::capacity_for);
                    KvLayer::bytes_for(attention, capacity, format)
                }
                Kept::Indexed(attention, indexer) => KvLayer::bytes_for(attention, context, format)
                    .saturating_add(IndexedState::key_bytes(indexer, context)),
                Kept::Encoded(spec) => KvLayer::bytes_for(spec, MOST_NEW_TOKENS.min(context), format),
                Kept::Blocks(attention, blocks) => KvLayer::bytes_for(attention, context, format)
                    .saturating_add(IndexedState::block_bytes(blocks, context)),
                Kept::Compressed(spec) => CompressedState::bytes_for(spec, context, format, MOST_SNAPSHOTS),
                // Snapshots are copies.
                Kept::Numbers(numbers) => ((COPIES + MOST_SNAPSHOTS) * numbers * size_of::<f32>()) as u64,
            })
            .fold(encoder, u64::saturating_add)
    }
}

/// Attention of an encoder, which is the same in all its layers.
fn encoder_attention(spec: &ModelSpec) -> Option<&AttentionSpec> {
    spec.encoder.and_then(|_| spec.first_layer().attention())
}

/// What a branch keeps a state for.
enum Kept<'a> {
    Attention(&'a AttentionSpec),
    /// Attention to a choice of tokens.
    Indexed(&'a AttentionSpec, &'a IndexerSpec),
    /// Attention to a text that is there as a whole.
    Encoded(&'a AttentionSpec),
    /// Attention to chosen blocks of tokens.
    Blocks(&'a AttentionSpec, &'a BlockChoice),
    /// Attention to compressed tokens.
    Compressed(&'a CompressedSpec),
    /// A recurrence, with the count of its numbers.
    Numbers(usize),
}

/// The branches that keep a state, in order.
fn stateful(spec: &ModelSpec) -> impl Iterator<Item = Kept<'_>> {
    let branches = spec.layers.iter().flat_map(|layer| &layer.branches);
    branches.filter_map(move |branch| match &branch.op {
        Op::Attention(AttentionSpec { source: KvSource::Layer(_), .. }) => None,
        // All layers of an encoder share one, which ends with the text: see `for_encoder`.
        Op::Attention(AttentionSpec { whole: true, .. }) => None,
        Op::Attention(attention) => Some(match &attention.blocks {
            Some(blocks) => Kept::Blocks(attention, blocks),
            None => Kept::Attention(attention),
        }),
        Op::Cross(attention) => Some(Kept::Encoded(attention)),
        Op::HeadExperts(heads) => Some(Kept::Attention(&heads.attention)),
        Op::Latent(latent) => Some(match &latent.indexer {
            None => Kept::Attention(&latent.attention),
            Some(indexer) => Kept::Indexed(&latent.attention, indexer),
        }),
        Op::Compressed(spec) if spec.compressor.is_none() => Some(Kept::Attention(&spec.attention)),
        Op::Compressed(spec) => Some(Kept::Compressed(spec)),
        Op::Delta(delta) => Some(Kept::Numbers(delta.state_numbers())),
        Op::Conv(conv) => Some(Kept::Numbers(conv.state_numbers())),
        Op::Lstm(lstm) => Some(Kept::Numbers(lstm.state_numbers())),
        Op::Kda(kda) => Some(Kept::Numbers(kda.state_numbers())),
        Op::Selective(ssm) => Some(Kept::Numbers(ssm.state_numbers())),
        Op::Ssm(ssm) => Some(Kept::Numbers(ssm.state_numbers())),
        Op::Ngram(ngram) => {
            let streams = spec.streams.map_or(1, |streams| streams.count);
            Some(Kept::Numbers(ngram.state_numbers(streams * spec.d_model)))
        }
        Op::Mlp(_) | Op::Moe(_) | Op::LayerInput(_) => None,
    })
}

/// The window of a layer, if keeping it takes less than keeping the context.
fn window_of(attention: &AttentionSpec, context: usize) -> Option<usize> {
    attention.window.filter(|&window| WindowState::capacity_for(window) < context)
}

impl LayerState {
    /// The empty state of an attention branch in a context of `context` tokens.
    fn of_attention(
        spec: &AttentionSpec,
        context: usize,
        format: KvFormat,
        delay: usize,
    ) -> io::Result<Self> {
        Ok(match window_of(spec, context) {
            Some(window) => Self::Window(WindowState::new(spec, window, format, delay)?),
            None => Self::Kv(KvState::new(spec, context, format, delay)?),
        })
    }

    /// Writes keys and values (`[tokens, kv_heads, head_dim]` each) of tokens of the present pass, from
    /// position `first` on.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, keys: &[f32], values: &[f32]) {
        match self {
            Self::Kv(state) => state.write(pool, kernels, first, keys, values),
            Self::Window(state) => state.write(pool, kernels, first, keys, values),
            Self::Indexed(state) => state.kv.write(pool, kernels, first, keys, values),
            Self::Encoded(state) => state.write(pool, kernels, first, keys, values),
            Self::Compressed(state) => state.write(pool, kernels, first, keys),
            Self::Recurrent(_) => unreachable!("a recurrence has no keys"),
        }
    }

    /// A text of `tokens` tokens replaces the one before. All of its tokens must be written next.
    ///
    /// # Panics
    /// For states that are not of a whole text.
    pub fn begin_text(&mut self, tokens: usize) {
        match self {
            Self::Encoded(state) => state.begin_text(tokens),
            _ => unreachable!("only attention to a whole text is given one"),
        }
    }

    /// What attention reads.
    pub fn view(&self) -> KvView<'_> {
        match self {
            Self::Kv(state) => state.view(),
            Self::Window(state) => state.view(),
            Self::Indexed(state) => state.kv.view(),
            Self::Encoded(state) => state.view(),
            Self::Compressed(state) => state.window(),
            Self::Recurrent(_) => unreachable!("a recurrence has no keys"),
        }
    }

    /// Becomes what `other` is, a state of the same branch of another sequence: the first `kept` tokens,
    /// which both have, are the same, and so is the text of the encoder, if `same_text`.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for more than it has room for.
    pub fn follow(&mut self, other: &Self, kept: usize, same_text: bool) -> io::Result<()> {
        match (self, other) {
            (Self::Kv(own), Self::Kv(other)) => own.follow(other, kept),
            (Self::Encoded(own), Self::Encoded(other)) if same_text => {
                own.follow(other);
                Ok(())
            }
            (own, other) => {
                let mut bytes = Vec::new();
                other.save(&mut bytes)?;
                own.load(other.len(), &mut &bytes[..])
            }
        }
    }

    fn state(&self) -> &dyn BranchState {
        match self {
            Self::Kv(state) => state,
            Self::Window(state) => state,
            Self::Indexed(state) => state,
            Self::Encoded(state) => state,
            Self::Compressed(state) => state,
            Self::Recurrent(state) => state,
        }
    }

    fn state_mut(&mut self) -> &mut dyn BranchState {
        match self {
            Self::Kv(state) => state,
            Self::Window(state) => state,
            Self::Indexed(state) => state,
            Self::Encoded(state) => state,
            Self::Compressed(state) => state,
            Self::Recurrent(state) => state,
        }
    }
}

impl BranchState for LayerState {
    fn len(&self) -> usize {
        self.state().len()
    }

    fn begin(&mut self, tokens: usize) {
        self.state_mut().begin(tokens);
    }

    fn commit(&mut self) {
        self.state_mut().commit();
    }

    fn rollback(&mut self) {
        self.state_mut().rollback();
    }

    fn can_truncate(&self, len: usize) -> bool {
        self.state().can_truncate(len)
    }

    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        self.state_mut().truncate(len)
    }

    fn clear(&mut self) {
        self.state_mut().clear();
    }

    fn snapshot(&self) -> Snapshot {
        self.state().snapshot()
    }

    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        self.state().can_restore(snapshot)
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        self.state_mut().restore(snapshot)
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.state().save(out)
    }

    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.state_mut().load(len, from)
    }
}

#[cfg(test)]
mod tests;
