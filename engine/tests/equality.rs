//! What must never change a bit of the output: the number of threads, how a text is cut into chunks, what was cached
//! before. On every golden family and instruction set.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::{FAMILIES, folder, golden, logits, model, session};
use moelten_engine::decoder::Observer;
use moelten_engine::error::EngineError;
use moelten_engine::kv_cache::KvFormat;
use moelten_engine::model::ModelOptions;
use moelten_engine::router::Routing;
use moelten_engine::session::{Session, SessionOptions};
use moelten_quant::Isa;

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn threads_never_change_a_bit() {
    for family in FAMILIES {
        let ids = golden(family).ids;
        for isa in Isa::available() {
            let run = |threads| {
                let options = ModelOptions { threads: Some(threads), isa: Some(isa), ..Default::default() };
                bits(&logits(&mut session(&model(&folder(family), options), KvFormat::F16), &ids).0)
            };
            let one = run(1);
            for threads in [2, 3, 5] {
                assert!(one == run(threads), "{family} on {}: {threads} threads", isa.name());
            }
        }
    }
}

#[test]
fn chunks_and_caches_never_change_a_bit() {
    let cancel = AtomicBool::new(false);
    for family in FAMILIES {
        let ids = golden(family).ids;
        for isa in Isa::available() {
            let model = model(&folder(family), ModelOptions { isa: Some(isa), ..Default::default() });
            let whole = bits(&logits(&mut session(&model, KvFormat::F16), &ids).0);
            let last = &whole[whole.len() - model.spec().vocab..];
            // Token by token, as in decoding.
            let mut single = session(&model, KvFormat::F16);
            let stepwise: Vec<u32> = ids
                .iter()
                .flat_map(|&id| {
                    single.append(&[id], &cancel, &mut (), &mut |_| {}).unwrap();
                    bits(single.logits())
                })
                .collect();
            assert!(stepwise == whole, "{family} on {}: prefill and decode differ", isa.name());
            // Uneven pieces.
            let mut pieces = session(&model, KvFormat::F16);
            for piece in [&ids[..7], &ids[7..8], &ids[8..21], &ids[21..]] {
                pieces.append(piece, &cancel, &mut (), &mut |_| {}).unwrap();
            }
            assert!(bits(pieces.logits()) == last, "{family} on {}: pieces", isa.name());
            // Another text first, of which a part stays in the cache.
            let other: Vec<u32> = ids[..11].iter().copied().chain([5, 9, 17]).collect();
            let mut reused = session(&model, KvFormat::F16);
            reused.append(&other, &cancel, &mut (), &mut |_| {}).unwrap();
            assert_eq!(reused.keep_prefix(&ids), 11);
            reused.append(&ids[11..], &cancel, &mut (), &mut |_| {}).unwrap();
            assert!(bits(reused.logits()) == last, "{family} on {}: cache", isa.name());
        }
    }
}

/// Contexts that threads share by spans of positions, with and without a window, and key heads that queries share or not.
#[test]
fn long_contexts_never_change_a_bit() {
    let cancel = AtomicBool::new(false);
    let tokens = moelten_quant::SPAN + 150;
    for family in ["qwen3", "mistral-window", "olmoe"] {
        let ids: Vec<u32> = golden(family).ids.into_iter().cycle().take(tokens).collect();
        for isa in Isa::available() {
            let run = |threads, kv, pieces: &[usize]| {
                let options = ModelOptions { threads: Some(threads), isa: Some(isa) };
                let options = (model(&folder(family), options), SessionOptions { context: Some(tokens), kv });
                let mut session = Session::new(options.0, options.1).unwrap();
                for ends in pieces.windows(2) {
                    session.append(&ids[ends[0]..ends[1]], &cancel, &mut (), &mut |_| {}).unwrap();
                }
                session.append(&ids[pieces[pieces.len() - 1]..], &cancel, &mut (), &mut |_| {}).unwrap();
                bits(session.logits())
            };
            let stepwise: Vec<usize> =
                [0, 1000].into_iter().chain(1020..1030).chain(tokens - 40..tokens).collect();
            for kv in [KvFormat::F16, KvFormat::F32] {
                let whole = run(1, kv, &[0]);
                for (threads, pieces) in [(3, &[0][..]), (2, &stepwise), (2, &[0, 7, 900, tokens - 3])] {
                    let what = format!("{family} on {}, {} cache: {threads} threads", isa.name(), kv.name());
                    assert!(run(threads, kv, pieces) == whole, "{what}, {} pieces", pieces.len());
                }
                if isa != Isa::best() {
                    break; // the reference is slow, and formats differ in how they are loaded only
                }
            }
        }
    }
}

/// Sets the flag when a layer has been routed.
struct CancelAt<'a>(usize, &'a AtomicBool);

impl Observer for CancelAt<'_> {
    fn routed(&mut self, layer: usize, _: &Routing) {
        if layer == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn a_cancelled_chunk_leaves_the_sequence_as_it_was() {
    let ids = golden("mixtral").ids;
    let model = model(&folder("mixtral"), ModelOptions::default());
    let never = AtomicBool::new(false);
    let mut expected = session(&model, KvFormat::F16);
    expected.append(&ids, &never, &mut (), &mut |_| {}).unwrap();

    let mut session = session(&model, KvFormat::F16);
    session.append(&ids[..10], &never, &mut (), &mut |_| {}).unwrap();
    let cancel = AtomicBool::new(false);
    let result = session.append(&ids[10..], &cancel, &mut CancelAt(1, &cancel), &mut |_| {});
    assert!(matches!(result, Err(EngineError::Cancelled)));
    assert_eq!(session.tokens(), &ids[..10]);
    session.append(&ids[10..], &never, &mut (), &mut |_| {}).unwrap();
    assert!(bits(session.logits()) == bits(expected.logits()));
}

#[test]
fn limits_are_errors_with_numbers() {
    let model = model(&folder("qwen3"), ModelOptions::default());
    let never = AtomicBool::new(false);
    let mut small =
        Session::new(model.clone(), SessionOptions { context: Some(8), kv: KvFormat::F16 }).unwrap();
    let full = small.append(&[3; 9], &never, &mut (), &mut |_| {});
    assert!(matches!(full, Err(EngineError::ContextFull { tokens: 9, context: 8 })));
    let range = small.append(&[3, 320], &never, &mut (), &mut |_| {});
    assert!(matches!(range, Err(EngineError::TokenRange { id: 320, vocab: 320 })));
    assert!(small.tokens().is_empty());
    let huge = Session::new(model, SessionOptions { context: Some(usize::MAX / 1024), kv: KvFormat::F32 });
    assert!(matches!(huge, Err(EngineError::Memory { .. })));
}
