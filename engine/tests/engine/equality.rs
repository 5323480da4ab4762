//! Invariants of the bits: the number of threads, the cut of a text into chunks, and the previous content of
//! the cache never change the output. The tests run every golden family on every instruction set, with float
//! and with quantised weights.

use moelten_loader::spec::BankKey;
use std::path::PathBuf;

use crate::common::wide::{converted, wide};
use crate::common::{FAMILIES, How, NARROW, folder, golden, logits, model, session};
use moelten_engine::EngineError;
use moelten_engine::KvFormat;
use moelten_engine::Observer;
use moelten_engine::Routing;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_quant::{Format, Isa};

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// A model and a text for it.
struct Case {
    name: String,
    path: PathBuf,
    ids: Vec<u32>,
}

impl Case {
    /// The text repeated up to `tokens` tokens.
    fn new(name: String, path: PathBuf, family: &str, tokens: usize) -> Self {
        Self { name, path, ids: golden(family).ids.into_iter().cycle().take(tokens).collect() }
    }

    /// Runs with any number of threads have the same bits.
    fn check_threads(&self, isa: Isa, counts: &[usize]) {
        let run = |threads| {
            let options = How { threads: Some(threads), isa: Some(isa), ..Default::default() };
            bits(&logits(&mut session(&model(&self.path, options), KvFormat::F16), &self.ids).0)
        };
        let one = run(1);
        for &threads in counts {
            assert!(one == run(threads), "{} on {}: {threads} threads", self.name, isa.name());
        }
    }

    /// Runs in any pieces, and after another text, have the same bits.
    fn check_pieces(&self, isa: Isa) {
        let (name, ids, isa_name) = (&self.name, &self.ids, isa.name());
        let cancel = Cancel::new();
        let model = model(&self.path, How { isa: Some(isa), ..Default::default() });
        let whole = bits(&logits(&mut session(&model, KvFormat::F16), ids).0);
        let last = &whole[whole.len() - model.spec().vocab..];
        // Token by token, as decode does.
        let mut single = session(&model, KvFormat::F16);
        let stepwise: Vec<u32> = ids
            .iter()
            .flat_map(|&id| {
                single.decode(id, &cancel, &mut ()).unwrap();
                bits(single.logits())
            })
            .collect();
        assert!(stepwise == whole, "{name} on {isa_name}: prefill and decode differ");
        // Uneven pieces.
        let mut pieces = session(&model, KvFormat::F16);
        for piece in [&ids[..7], &ids[7..8], &ids[8..17], &ids[17..]] {
            pieces.append(piece, &cancel, &mut (), &mut |_| {}).unwrap();
        }
        assert!(bits(pieces.logits()) == last, "{name} on {isa_name}: pieces");
        // After another text, of which a prefix stays. A recurrence cannot go back and begins anew.
        let other: Vec<u32> = ids[..11].iter().copied().chain([5, 9, 17]).collect();
        let mut reused = session(&model, KvFormat::F16);
        reused.append(&other, &cancel, &mut (), &mut |_| {}).unwrap();
        let recurrent = model.spec().layers.iter().any(|layer| layer.attention().is_none());
        let kept = reused.keep_prefix(ids);
        assert_eq!(kept, if recurrent { 0 } else { 11 });
        reused.append(&ids[kept..], &cancel, &mut (), &mut |_| {}).unwrap();
        assert!(bits(reused.logits()) == last, "{name} on {isa_name}: cache");
    }
}

/// The golden folders and their text.
fn goldens() -> impl Iterator<Item = Case> {
    FAMILIES.into_iter().chain(NARROW).map(|family| {
        let tokens = golden(family).ids.len();
        Case::new(family.to_owned(), folder(family), family, tokens)
    })
}

#[test]
fn threads_never_change_a_bit() {
    for case in goldens() {
        Isa::available().into_iter().for_each(|isa| case.check_threads(isa, &[2, 3, 5]));
    }
}

#[test]
fn chunks_and_caches_never_change_a_bit() {
    for case in goldens() {
        Isa::available().into_iter().for_each(|isa| case.check_pieces(isa));
    }
}

/// The golden families as `Q8_0`, and wide models in formats of every kind, one and several to a layer.
#[test]
fn quantised_models_never_change_a_bit() {
    use Format::*;
    let dir = tempfile::tempdir().unwrap();
    let wide_models: [(&str, &[Format]); 6] = [
        ("mixtral", &[Q4_0]),
        ("qwen2", &[Q8_0]),
        ("olmoe", &[Q4K]),
        ("qwen3moe", &[Q6K]),
        ("qwen2moe", &[Q4_1, Q5K, F16, Mxfp4, Q5_0, Iq4Xs, BF16]),
        ("granitemoe", &[Iq4Nl, F32, Q5_1, Q4K, Q6K]),
    ];
    let small = FAMILIES.map(|family| (family, folder(family), &[Q8_0][..], 24));
    // Enough tokens for a tile of them at some experts.
    let wide = wide_models.map(|(family, formats)| (family, wide(family, dir.path()), formats, 60));
    for (family, source, formats, tokens) in small.into_iter().chain(wide) {
        let path = dir.path().join("quantised.gguf");
        converted(&source, formats, &path);
        let mut case = Case::new(format!("{family} {formats:?}"), path, family, tokens);
        // The fastest instruction set first. The scalar one is slow and gets a shorter text.
        for isa in Isa::available().into_iter().rev() {
            if isa == Isa::Scalar {
                case.ids.truncate(20);
            }
            case.check_threads(isa, &[2, 3]);
            case.check_pieces(isa);
        }
    }
}

/// Contexts whose spans of positions are divided among threads, with and without a window, with and without
/// grouped queries.
#[test]
fn long_contexts_never_change_a_bit() {
    let cancel = Cancel::new();
    let tokens = moelten_quant::SPAN + 150;
    for family in ["qwen3", "mistral-window", "olmoe"] {
        let ids: Vec<u32> = golden(family).ids.into_iter().cycle().take(tokens).collect();
        for isa in Isa::available() {
            let run = |threads, kv, pieces: &[usize]| {
                let options = How { threads: Some(threads), isa: Some(isa), ..Default::default() };
                let options =
                    (model(&folder(family), options), SequenceOptions { context: Some(tokens), kv });
                let mut session = Sequence::new(options.0, options.1).unwrap();
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
struct CancelAt<'a>(usize, &'a Cancel);

impl Observer for CancelAt<'_> {
    fn routed(&mut self, BankKey { layer, .. }: BankKey, _: &Routing) {
        if layer == self.0 {
            self.1.cancel();
        }
    }
}

#[test]
fn a_cancelled_chunk_does_not_change_the_sequence() {
    let ids = golden("mixtral").ids;
    let model = model(&folder("mixtral"), How::default());
    let never = Cancel::new();
    let mut expected = session(&model, KvFormat::F16);
    expected.append(&ids, &never, &mut (), &mut |_| {}).unwrap();

    let mut session = session(&model, KvFormat::F16);
    session.append(&ids[..10], &never, &mut (), &mut |_| {}).unwrap();
    let cancel = Cancel::new();
    let result = session.append(&ids[10..], &cancel, &mut CancelAt(1, &cancel), &mut |_| {});
    assert!(matches!(result, Err(EngineError::Cancelled)));
    assert_eq!(session.tokens(), &ids[..10]);
    session.append(&ids[10..], &never, &mut (), &mut |_| {}).unwrap();
    assert!(bits(session.logits()) == bits(expected.logits()));
}

#[test]
fn limits_are_errors_with_numbers() {
    let model = model(&folder("qwen3"), How::default());
    let never = Cancel::new();
    let mut small =
        Sequence::new(model.clone(), SequenceOptions { context: Some(8), kv: KvFormat::F16 }).unwrap();
    let full = small.append(&[3; 9], &never, &mut (), &mut |_| {});
    assert!(matches!(full, Err(EngineError::ContextFull { tokens: 9, context: 8 })));
    let range = small.append(&[3, 320], &never, &mut (), &mut |_| {});
    assert!(matches!(range, Err(EngineError::TokenRange { id: 320, vocab: 320 })));
    assert!(small.tokens().is_empty());
    let huge = Sequence::new(model, SequenceOptions { context: Some(usize::MAX / 1024), kv: KvFormat::F32 });
    assert!(matches!(huge, Err(EngineError::Memory { .. })));
}
