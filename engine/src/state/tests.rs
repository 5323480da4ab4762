//! The contract of states, over every variant: whatever is begun,
//! given up, cut back, remembered, restored, saved and loaded, a state is what the committed tokens make of
//! an empty one.

use std::io::{self, Read, Write};

use moelten_loader::spec::{
    AttentionSpec, BlockChoice, CompressedSpec, CompressorSpec, IndexerSpec, KvSource, Pairing, QkNorm,
    RopeScaling, RopeSpec, RowChoice,
};
use moelten_quant::{Isa, Kernels, SPAN};
use proptest::prelude::*;

use super::branches::BranchStates;
use super::compressed::CompressedState;
use super::contract::{BranchState, NeedsReplay, Snapshot};
use super::encoded::EncodedState;
use super::indexed::IndexedState;
use super::kv::KvState;
use super::kv::format::KvFormat;
use super::recurrent::RecurrentState;
use super::window::WindowState;
use super::{LayerState, MOST_NEW_TOKENS};
use crate::layers::linear::Compute;
use crate::runtime::pool::Pool;
use crate::runtime::topology::{Pin, ThreadPlan};

const HEADS: usize = 2;
const HEAD_DIM: usize = 4;
/// Tokens of a context here: several times what a small window keeps.
const CONTEXT: usize = 16_384;

/// A number that a token leaves in a channel, exact in half precision.
fn number(token: u32, channel: usize) -> f32 {
    ((token as usize * 31 + channel * 7) % 512) as f32
}

/// What tests write to.
struct TestState(LayerState);

/// The kinds of states that there are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Kv(KvFormat),
    Window(usize, KvFormat),
    Indexed(KvFormat),
    Encoded(KvFormat),
    /// Tokens of a block.
    Blocks(usize, KvFormat),
    /// Tokens of a run, and whether rows are chosen.
    Compressed(usize, bool, KvFormat),
    Recurrent,
}

const KINDS: [Kind; 11] = [
    Kind::Kv(KvFormat::F16),
    Kind::Kv(KvFormat::F32),
    Kind::Window(1, KvFormat::F32),
    Kind::Window(5, KvFormat::F16),
    Kind::Window(700, KvFormat::F16),
    Kind::Indexed(KvFormat::F16),
    Kind::Encoded(KvFormat::F16),
    Kind::Blocks(5, KvFormat::F16),
    Kind::Compressed(4, true, KvFormat::F16),
    Kind::Compressed(7, false, KvFormat::F32),
    Kind::Recurrent,
];

fn spec(window: Option<usize>) -> AttentionSpec {
    AttentionSpec {
        heads: 2 * HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        value_dim: HEAD_DIM,
        scale: 0.5,
        qkv_bias: false,
        out_bias: false,
        sinks: false,
        qk_norm: QkNorm::None,
        rope: None,
        window,
        clip_qkv: None,
        softcap: None,
        temperature: None,
        gate: None,
        source: KvSource::Projected,
        value_norm: None,
        value_scale: 1.0,
        chunk: None,
        whole: false,
        relative: None,
        blocks: None,
    }
}

/// Tokens of a text that is there as a whole.
const TEXT: usize = 37;

/// Width of keys of choices.
const INDEX_DIM: usize = 3;

fn indexer() -> IndexerSpec {
    let (pairing, scaling) = (Pairing::Split, RopeScaling::None);
    let rope = RopeSpec { theta: 1e4, dim: 2, pairing, scaling };
    IndexerSpec { heads: 2, head_dim: INDEX_DIM, top: 4, rope, norm_eps: 1e-6 }
}

fn compressed(rate: usize, chooses: bool) -> CompressedSpec {
    let choice = chooses.then_some(RowChoice { heads: 2, head_dim: INDEX_DIM, top: 4 });
    CompressedSpec {
        attention: AttentionSpec { kv_heads: 1, ..spec(Some(5)) },
        query_rank: 4,
        norm_eps: 1e-6,
        groups: 1,
        group_rank: 4,
        compressor: Some(CompressorSpec { rate, choice }),
    }
}

/// What a layer makes of tokens here: the sum of a run, kept open until it is complete.
fn compress(state: &mut CompressedState, rate: usize, first: usize, tokens: &[u32]) {
    let kernels = Kernels::for_isa(Isa::best()).unwrap();
    let small = state.small_rows(1).len();
    let (open, mut writer) = state.parts();
    for (&token, position) in tokens.iter().zip(first..) {
        open.iter_mut().enumerate().for_each(|(channel, sum)| *sum += number(token, channel) / 16.0);
        if (position + 1) % rate == 0 {
            let row: Vec<f32> = open[..HEAD_DIM].to_vec();
            writer.row(kernels, position / rate, &row);
            writer.small(kernels, position / rate, &row[..small]);
            open.fill(0.0);
        }
    }
}

impl TestState {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Kv(format) => {
                let state = KvState::new(&spec(None), CONTEXT, format, 0).unwrap();
                Self(LayerState::Kv(state))
            }
            Kind::Window(window, format) => {
                let state = WindowState::new(&spec(Some(window)), window, format, 0).unwrap();
                Self(LayerState::Window(state))
            }
            Kind::Indexed(format) => {
                let both = (&spec(None), &indexer());
                Self(LayerState::Indexed(IndexedState::new(both, CONTEXT, format, 0).unwrap()))
            }
            Kind::Encoded(format) => {
                let mut state = EncodedState::new(&spec(None), TEXT, format, 0).unwrap();
                let numbers: Vec<f32> = (0..TEXT * HEADS * HEAD_DIM).map(|i| number(i as u32, 0)).collect();
                state.begin_text(TEXT);
                state.write(&pool(), Kernels::for_isa(Isa::best()).unwrap(), 0, &numbers, &numbers);
                Self(LayerState::Encoded(state))
            }
            Kind::Blocks(size, format) => {
                let blocks = BlockChoice { heads: 2, head_dim: INDEX_DIM, size, top: 3, norm_eps: 1e-6 };
                let state = IndexedState::with_blocks((&spec(None), &blocks), CONTEXT, format, 0).unwrap();
                Self(LayerState::Indexed(state))
            }
            Kind::Compressed(rate, chooses, format) => {
                let state = CompressedState::new(&compressed(rate, chooses), CONTEXT, format, 0).unwrap();
                Self(LayerState::Compressed(state))
            }
            Kind::Recurrent => Self(LayerState::Recurrent(RecurrentState::new(HEAD_DIM).unwrap())),
        }
    }

    /// What a pass does to the state between `begin` and `commit`.
    fn write(&mut self, pool: &Pool, first: usize, tokens: &[u32]) {
        if let LayerState::Recurrent(state) = &mut self.0 {
            let (before, numbers) = state.step();
            if let Some(before) = before {
                numbers.copy_from_slice(before);
            }
            for &token in tokens {
                for (channel, now) in numbers.iter_mut().enumerate() {
                    *now = 0.75 * *now + number(token, channel);
                }
            }
            return;
        }
        if matches!(self.0, LayerState::Encoded(_)) {
            return; // tokens of the decoder leave nothing
        }
        if let LayerState::Compressed(state) = &mut self.0 {
            let row = |&token: &u32| (0..HEAD_DIM).map(move |channel| number(token, channel));
            let rows: Vec<f32> = tokens.iter().flat_map(row).collect();
            state.write(pool, Kernels::for_isa(Isa::best()).unwrap(), first, &rows);
            let rate = state.rate();
            compress(state, rate, first, tokens);
            return;
        }
        let rows = |of: usize| -> Vec<f32> {
            let row = |&token: &u32| (0..HEADS * HEAD_DIM).map(move |c| number(token, c + of));
            tokens.iter().flat_map(row).collect()
        };
        let kernels = Kernels::for_isa(Isa::best()).unwrap();
        self.0.write(pool, kernels, first, &rows(0), &rows(100));
        if let LayerState::Indexed(state) = &mut self.0 {
            let key = |&token: &u32| (0..INDEX_DIM).map(move |channel| number(token, channel + 200));
            state.write_keys(first, &tokens.iter().flat_map(key).collect::<Vec<_>>());
            let size = state.block_size().unwrap_or(usize::MAX);
            for block in first / size..(first + tokens.len()) / size {
                let key = state.keys((block + 1) * size)[block * size * INDEX_DIM..][..INDEX_DIM].to_vec();
                state.write_block(block, &key);
            }
        }
    }

    fn inner(&self) -> &dyn BranchState {
        &self.0
    }

    fn inner_mut(&mut self) -> &mut dyn BranchState {
        &mut self.0
    }
}

impl BranchState for TestState {
    fn len(&self) -> usize {
        self.inner().len()
    }
    fn begin(&mut self, tokens: usize) {
        self.inner_mut().begin(tokens);
    }
    fn commit(&mut self) {
        self.inner_mut().commit();
    }
    fn rollback(&mut self) {
        self.inner_mut().rollback();
    }
    fn can_truncate(&self, len: usize) -> bool {
        self.inner().can_truncate(len)
    }
    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        self.inner_mut().truncate(len)
    }
    fn clear(&mut self) {
        self.inner_mut().clear();
    }
    fn snapshot(&self) -> Snapshot {
        self.inner().snapshot()
    }
    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        self.inner().can_restore(snapshot)
    }
    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        self.inner_mut().restore(snapshot)
    }
    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.inner().save(out)
    }
    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.inner_mut().load(len, from)
    }
}

fn pool() -> Pool {
    Pool::new(ThreadPlan::here(Some(1), Pin::Off).unwrap()).unwrap()
}

fn saved(states: &BranchStates<TestState>) -> Vec<u8> {
    let mut bytes = Vec::new();
    states.save(&mut bytes).unwrap();
    bytes
}

/// A pass over every state, committed or given up after some of the states were written.
fn pass(states: &mut BranchStates<TestState>, count: usize, pool: &Pool, tokens: &[u32], written: usize) {
    let first = states.len();
    states.begin(tokens.len());
    for state in 0..written.min(count) {
        states.state_mut(state).write(pool, first, tokens);
    }
    if written >= count { states.commit() } else { states.rollback() }
}

/// What may happen to a sequence.
#[derive(Debug, Clone)]
enum Action {
    Append(usize),
    GiveUp { tokens: usize, written: usize },
    Snapshot,
    GoBack { eighths: usize },
    SaveAndLoad,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => prop_oneof![1..9_usize, 1000..MOST_NEW_TOKENS + 1].prop_map(Action::Append),
        2 => (1..1500_usize, 0..6_usize).prop_map(|(tokens, written)| Action::GiveUp { tokens, written }),
        2 => Just(Action::Snapshot),
        2 => (0..9_usize).prop_map(|eighths| Action::GoBack { eighths }),
        1 => Just(Action::SaveAndLoad),
    ]
}

/// An empty set of states after the committed tokens, in one go as far as passes go.
fn replayed(kinds: &[Kind], pool: &Pool, tokens: &[u32]) -> Vec<u8> {
    let mut fresh = BranchStates::new(kinds.iter().map(|&kind| TestState::new(kind)).collect());
    for chunk in tokens.chunks(MOST_NEW_TOKENS) {
        pass(&mut fresh, kinds.len(), pool, chunk, kinds.len());
    }
    saved(&fresh)
}

fn check(kinds: &[Kind], actions: &[Action]) {
    let pool = pool();
    let mut states = BranchStates::new(kinds.iter().map(|&kind| TestState::new(kind)).collect());
    let (mut tokens, mut next) = (Vec::<u32>::new(), 0_u32);
    let mut fresh = |count: usize| -> Vec<u32> {
        let new = next..next + count as u32;
        next = new.end;
        new.map(|token| token.wrapping_mul(2_654_435_761) >> 16).collect()
    };
    for action in actions {
        match *action {
            Action::Append(count) => {
                let new = fresh(count.min(CONTEXT - tokens.len()));
                if !new.is_empty() {
                    pass(&mut states, kinds.len(), &pool, &new, kinds.len());
                    tokens.extend(new);
                }
            }
            Action::GiveUp { tokens: count, written } => {
                let new = fresh(count.min(CONTEXT - tokens.len()));
                if !new.is_empty() {
                    pass(&mut states, kinds.len(), &pool, &new, written.min(kinds.len() - 1));
                }
            }
            Action::Snapshot => states.snapshot(),
            Action::GoBack { eighths } => {
                let wanted = tokens.len() * eighths / 8;
                let kept = states.go_back(wanted);
                assert!(kept <= wanted);
                tokens.truncate(kept);
            }
            Action::SaveAndLoad => {
                let bytes = saved(&states);
                states.load(tokens.len(), &mut &bytes[..]).unwrap();
            }
        }
        assert_eq!(states.len(), tokens.len(), "{action:?}");
    }
    assert!(saved(&states) == replayed(kinds, &pool, &tokens), "{kinds:?}: {actions:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_state_is_what_its_committed_tokens_make_of_it(
        kind in 0..KINDS.len(),
        actions in prop::collection::vec(action(), 1..16),
    ) {
        check(&[KINDS[kind]], &actions);
    }

    /// The states of a sequence move together: where one cannot go back, all come back to a snapshot or to
    /// the start.
    #[test]
    fn states_of_a_sequence_move_together(
        kinds in prop::collection::vec(0..KINDS.len(), 1..4),
        actions in prop::collection::vec(action(), 1..16),
    ) {
        let kinds: Vec<Kind> = kinds.into_iter().map(|kind| KINDS[kind]).collect();
        check(&kinds, &actions);
    }
}

#[test]
fn what_is_gone_needs_a_replay_and_changes_nothing() {
    let pool = pool();
    let tokens: Vec<u32> = (0..9000).collect();
    for kind in [Kind::Window(5, KvFormat::F16), Kind::Recurrent] {
        let mut state = TestState::new(kind);
        for chunk in tokens.chunks(1000) {
            state.begin(chunk.len());
            let first = state.len();
            state.write(&pool, first, chunk);
            state.commit();
        }
        let mut before = Vec::new();
        state.save(&mut before).unwrap();
        assert_eq!(state.truncate(100), Err(NeedsReplay), "{kind:?}");
        let mut after = Vec::new();
        state.save(&mut after).unwrap();
        assert!(before == after && state.len() == 9000, "{kind:?}");
    }
    let broken = &mut &[0_u8; 3][..];
    // A window of one token keeps nothing, so nothing of it can be missing.
    for kind in KINDS.into_iter().filter(|kind| !matches!(kind, Kind::Window(1, _))) {
        let mut state = TestState::new(kind);
        assert!(state.load(2, broken).is_err() && state.is_empty(), "{kind:?}");
    }
}

/// A window that has moved gives attention the bits of a cache that holds everything.
#[test]
fn attention_to_a_window_has_the_bits_of_attention_to_everything() {
    let kernels = Kernels::for_isa(Isa::best()).unwrap();
    for threads in [1, 3] {
        let pool = Pool::new(ThreadPlan::here(Some(threads), Pin::Off).unwrap()).unwrap();
        for window in [1, 40, 1000, SPAN, 1500] {
            for format in [KvFormat::F16, KvFormat::F32] {
                both_attend(&pool, kernels, window, format);
            }
        }
    }
}

fn both_attend(pool: &Pool, kernels: &'static Kernels, window: usize, format: KvFormat) {
    use crate::layers::mixer::attend::{Scoring, attend, most_spans};
    use crate::layers::scratch::AttendScratch;
    use moelten_quant::Running;

    // Attention multiplies with no weights; any model's will do.
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama");
    let tensors = moelten_loader::load::load(&folder).unwrap().tensors;
    let spec = spec(Some(window));
    let mut whole = LayerState::Kv(KvState::new(&spec, CONTEXT, format, 0).unwrap());
    let mut moved = LayerState::Window(WindowState::new(&spec, window, format, 0).unwrap());
    let (heads, spans) = (spec.heads, most_spans(&spec, CONTEXT));
    let mut scratch = AttendScratch {
        running: vec![Running::default(); 600 * heads],
        spans: vec![0.0; spans * heads * HEAD_DIM],
        spans_running: vec![Running::default(); spans * heads],
    };
    let wave = |position: usize, c: usize, of: f32| ((position * 37 + c * 11) as f32 * of).sin();
    let (mut position, pieces) = (0, [500, 1, 1, 512, 500, 3, 512, 512, 1, 500]);
    for (index, &count) in pieces.iter().cycle().take(40).enumerate() {
        let rows = |width: usize, of: f32| -> Vec<f32> {
            (position..position + count).flat_map(|p| (0..width).map(move |c| wave(p, c, of))).collect()
        };
        let (k, v, q) =
            (rows(HEADS * HEAD_DIM, 0.3), rows(HEADS * HEAD_DIM, 0.7), rows(heads * HEAD_DIM, 0.9));
        let mut outs = [vec![0.0_f32; q.len()], vec![0.0; q.len()]];
        for (state, out) in [&mut whole, &mut moved].into_iter().zip(&mut outs) {
            state.begin(count);
            state.write(pool, kernels, position, &k, &v);
            let compute = Compute { kernels, pool, tensors: &tensors };
            let scoring = Scoring::plain(&spec);
            pool.install(|| attend(compute, scoring, state.view(), position, &q, &mut scratch, out));
            state.commit();
        }
        assert!(outs[0] == outs[1], "a window of {window}, piece {index} at {position}");
        position += count;
    }
    assert!(moved.view().base > 0, "the window has moved");
}
