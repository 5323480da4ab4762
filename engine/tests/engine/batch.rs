//! Several sequences in one pass: each has the bits that it has alone, whatever is computed beside it, and
//! each can be cancelled on its own.

use std::path::PathBuf;
use std::sync::Arc;

use moelten_engine::EngineError;
use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::Observer;
use moelten_engine::Prefetch;
use moelten_engine::plan::{Io, Ram, SequenceOptions};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{Ended, Phase};
use moelten_engine::{Sequence, Step, advance};
use moelten_quant::{Format, Isa};

use crate::common::wide::{converted, wide};
use crate::common::{FAMILIES, How, NARROW, folder, golden, model, on, session};

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// The tokens that one sequence appends in each pass: pieces of a prompt, then single tokens.
pub struct Script {
    pieces: Vec<Vec<u32>>,
}

/// Scripts for `count` sequences: prompts of different lengths, cut differently, and decoding.
pub fn scripts(ids: &[u32], count: usize) -> Vec<Script> {
    let script = |number: usize| {
        let start = number * 3 % ids.len();
        let text: Vec<u32> = ids.iter().cycle().skip(start).take(10 + 2 * number).copied().collect();
        let (prompt, rest) = text.split_at(text.len() / 2);
        let mut pieces: Vec<Vec<u32>> = prompt.chunks(1 + number % 5).map(<[u32]>::to_vec).collect();
        pieces.extend(rest.iter().map(|&id| vec![id]));
        Script { pieces }
    };
    (0..count).map(script).collect()
}

fn phase(piece: &[u32]) -> Phase {
    if piece.len() == 1 { Phase::Decode } else { Phase::Prefill }
}

/// Bits of the logits after each piece of a script that is computed without neighbours.
pub fn alone(model: &Arc<Model>, script: &Script) -> Vec<Vec<u32>> {
    let mut sequence = session(model, KvFormat::F16);
    let after = |piece: &Vec<u32>| {
        match piece[..] {
            [id] => sequence.decode(id, &Cancel::new(), &mut ()).unwrap(),
            _ => sequence.append(piece, &Cancel::new(), &mut (), &mut |_| {}).unwrap(),
        }
        bits(sequence.logits())
    };
    script.pieces.iter().map(after).collect()
}

/// Computes all scripts in shared passes: pass `n` has piece `n` of each script that is long enough.
pub fn check_batch(name: &str, model: &Arc<Model>, scripts: &[Script], expected: &[Vec<Vec<u32>>]) {
    let mut sequences: Vec<Sequence> = scripts.iter().map(|_| session(model, KvFormat::F16)).collect();
    let cancel = Cancel::new();
    let longest = scripts.iter().map(|script| script.pieces.len()).max().unwrap();
    for pass in 0..longest {
        let mut steps: Vec<Step<'_>> = sequences
            .iter_mut()
            .zip(scripts)
            .filter_map(|(sequence, script)| {
                let tokens = script.pieces.get(pass)?;
                Some(Step { sequence, tokens, phase: phase(tokens), cancel: &cancel })
            })
            .collect();
        let ended = advance(&mut steps, &mut ()).unwrap();
        assert!(ended.iter().all(|&ended| ended == Ended::Committed));
        for (number, (sequence, expected)) in sequences.iter().zip(expected).enumerate() {
            if let Some(expected) = expected.get(pass) {
                assert!(bits(sequence.logits()) == *expected, "{name}: sequence {number}, pass {pass}");
            }
        }
    }
}

#[test]
fn neighbours_in_a_batch_never_change_a_bit() {
    for family in FAMILIES.into_iter().chain(NARROW) {
        let ids = golden(family).ids;
        for isa in Isa::available() {
            let model =
                model(&folder(family), How { isa: Some(isa), threads: Some(2), ..Default::default() });
            let all = scripts(&ids, 8);
            let expected: Vec<_> = all.iter().map(|script| alone(&model, script)).collect();
            for count in [1, 2, 3, 8] {
                let name = format!("{family} on {}, {count} sequences", isa.name());
                check_batch(&name, &model, &all[..count], &expected[..count]);
            }
        }
    }
}

#[test]
fn neighbours_never_change_a_bit_while_experts_stream() {
    let dir = tempfile::tempdir().unwrap();
    let quantised = |family: &str, format| -> PathBuf {
        let path = dir.path().join(format!("{family}.gguf"));
        converted(&wide(family, dir.path()), &[format], &path);
        path
    };
    let cases = [
        (folder("olmoe"), "olmoe"),
        (quantised("mixtral", Format::Q4_0), "mixtral"),
        (quantised("qwen2moe", Format::Q4K), "qwen2moe"),
    ];
    for (path, family) in cases {
        let ids = golden(family).ids;
        let whole = model(&path, How { threads: Some(1), ..Default::default() });
        let all = scripts(&ids, 8);
        let expected: Vec<_> = all.iter().map(|script| alone(&whole, script)).collect();
        for prefetch in [Prefetch::Off, Prefetch::On] {
            let how = How { threads: Some(2), ram: Ram::Min, io: Io::Direct, prefetch, ..Default::default() };
            let model = model(&path, how);
            assert!(model.experts().streams());
            for count in [2, 5, 8] {
                let name = format!("{family}, {prefetch:?}, {count} sequences");
                check_batch(&name, &model, &all[..count], &expected[..count]);
            }
        }
    }
}

/// Cancels when a layer begins: the layer, and what to cancel.
struct CancelAt<'a>(usize, &'a Cancel);

impl Observer for CancelAt<'_> {
    fn layer(&mut self, layer: usize) {
        if layer == self.0 {
            self.1.cancel();
        }
    }
}

#[test]
fn a_cancelled_sequence_is_unchanged_while_others_are_committed() {
    for family in ["mixtral", "mistral-window", "qwen2moe"] {
        let ids = golden(family).ids;
        let model = model(&folder(family), How::default());
        let expected = {
            let mut sequence = session(&model, KvFormat::F16);
            sequence.append(&ids, &Cancel::new(), &mut (), &mut |_| {}).unwrap();
            bits(sequence.logits())
        };
        for layer in 0..2 {
            let (mut stays, mut moves) = (session(&model, KvFormat::F16), session(&model, KvFormat::F16));
            let (never, cancel) = (Cancel::new(), Cancel::new());
            stays.append(&ids[..4], &never, &mut (), &mut |_| {}).unwrap();
            let mut steps = [
                Step { sequence: &mut stays, tokens: &ids[4..9], phase: Phase::Prefill, cancel: &cancel },
                Step { sequence: &mut moves, tokens: &ids, phase: Phase::Prefill, cancel: &never },
            ];
            let ended = advance(&mut steps, &mut CancelAt(layer, &cancel)).unwrap();
            assert_eq!(ended, [Ended::Cancelled, Ended::Committed], "{family}");
            assert_eq!((stays.tokens(), moves.tokens()), (&ids[..4], &ids[..]));
            assert!(bits(moves.logits()) == expected, "{family}: the neighbour of a cancelled sequence");
            stays.append(&ids[4..], &never, &mut (), &mut |_| {}).unwrap();
            assert!(bits(stays.logits()) == expected, "{family}: it continues from its state");
        }
        // When all runs are cancelled the pass ends early and no state changes.
        let (mut one, cancel) = (session(&model, KvFormat::F16), Cancel::new());
        let mut steps = [Step { sequence: &mut one, tokens: &ids, phase: Phase::Prefill, cancel: &cancel }];
        let ended = advance(&mut steps, &mut CancelAt(0, &cancel));
        assert!(matches!(ended, Err(EngineError::Cancelled)), "{ended:?}");
        assert!(one.tokens().is_empty());
    }
}

#[test]
fn a_second_sequence_costs_its_states_and_no_buffers() {
    let runtime = How::default().runtime();
    let model = on(&runtime, &folder("qwen3moe"), How::default());
    let options = SequenceOptions { context: Some(4096), kv: KvFormat::F16 };
    let before = runtime.ledger().used();
    let first = Sequence::new(Arc::clone(&model), options).unwrap();
    let one = runtime.ledger().used() - before;
    let second = Sequence::new(Arc::clone(&model), options).unwrap();
    let two = runtime.ledger().used() - before;
    let (states, buffers) = second.bytes();
    assert!(buffers > 0 && states > 0);
    assert_eq!((one, two), (states + buffers, 2 * states + buffers));
    drop((first, second));
    assert_eq!(runtime.ledger().used() - before, buffers, "states are freed with their sequences");
}

/// Two models on one runtime share its threads and its budget, and do not affect each other.
#[test]
fn models_share_a_runtime() {
    let runtime = How { threads: Some(2), ..Default::default() }.runtime();
    let families = ["mixtral", "qwen3"];
    let models = families.map(|family| on(&runtime, &folder(family), How::default()));
    let mut sequences = models.each_ref().map(|model| session(model, KvFormat::F16));
    let cancel = Cancel::new();
    for step in 0..20 {
        for ((family, sequence), lone) in families.iter().zip(&mut sequences).zip(&models) {
            let id = golden(family).ids[step];
            sequence.decode(id, &cancel, &mut ()).unwrap();
            if step == 19 {
                let mut alone = session(lone, KvFormat::F16);
                alone.append(&golden(family).ids[..20], &cancel, &mut (), &mut |_| {}).unwrap();
                assert!(bits(alone.logits()) == bits(sequence.logits()), "{family}");
            }
        }
    }
    let [mut one, mut other] = sequences;
    let mut steps = [
        Step { sequence: &mut one, tokens: &[5], phase: Phase::Decode, cancel: &cancel },
        Step { sequence: &mut other, tokens: &[5], phase: Phase::Decode, cancel: &cancel },
    ];
    let mixed = advance(&mut steps, &mut ());
    assert!(matches!(mixed, Err(EngineError::Setting { setting: "model", .. })), "{mixed:?}");
}

#[test]
fn short_prompts_and_dense_models_too_tell_how_far_they_have_come() {
    for family in ["qwen3", "mixtral"] {
        let model = model(&folder(family), How::default());
        let (layers, ids) = (model.spec().layers.len(), golden(family).ids);
        let (mut sequence, mut told) = (session(&model, KvFormat::F16), Vec::new());
        sequence.append(&ids[..20], &Cancel::new(), &mut (), &mut |done| told.push(done)).unwrap();
        assert!(told.is_sorted() && told.last() == Some(&20), "{family}: {told:?}");
        assert_eq!(told.len(), layers + 1, "{family}: once for each layer and at the end");
    }
}

#[test]
fn an_opening_counts_the_weights_that_it_copies() {
    use std::sync::atomic::Ordering;
    for (io, copies) in [(Io::Direct, true), (Io::Auto, false)] {
        let how = How { io, ..Default::default() };
        let loaded = moelten_loader::load::load(&folder("mixtral")).unwrap();
        let options = how.options();
        Model::new(&how.runtime(), loaded.spec, loaded.tensors, &options).unwrap();
        let counted = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (done, total) = (counted(&options.progress.done), counted(&options.progress.total));
        assert_eq!(done > 0, copies, "{io:?}: {done} of {total}");
        // Each matrix begins at a cache line.
        assert!(done <= total && total - done < 64 * 100, "{io:?}: {done} of {total}");
    }
}
