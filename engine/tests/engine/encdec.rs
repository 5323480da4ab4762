//! Encoder-decoders against Hugging Face transformers, and the invariants that they share with decoders: bits
//! do not depend on budget, threads, neighbours or a restart; a pass that is given up changes nothing.

use std::sync::Arc;

use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{EngineError, KvFormat, Model, Phase, Prefetch, Restored, Sequence, Step, advance};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::Conversion;
use moelten_loader::load::load;
use moelten_loader::spec::{ExpertLimit, ModelSpec};
use moelten_quant::{Format, Isa};

use super::store::setup::{From, Setup};
use crate::common::pair::{PAIRS, PairGolden, compare_pair, encode, pair_in, pair_sequence};
use crate::common::{How, distance, folder, golden, greedy, logits, model, session, spread};

fn golden_of(family: &str) -> PairGolden {
    pair_in(&folder(family)).unwrap()
}

/// Bits of the logits after every token of an answer, and the experts of the encoder.
fn bits(sequence: &mut Sequence, golden: &PairGolden) -> (Vec<u32>, Vec<(usize, Vec<u32>)>) {
    let routes = encode(sequence, &golden.text);
    let (all, _) = logits(sequence, &golden.given);
    (all.iter().map(|logit| logit.to_bits()).collect(), routes)
}

fn bits_of(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

#[test]
fn logits_routes_and_answers_match_on_every_instruction_set() {
    for family in PAIRS {
        let golden = golden_of(family);
        for isa in Isa::available() {
            let model = model(&folder(family), How { isa: Some(isa), ..Default::default() });
            let (error, wrong) = compare_pair(&model, &golden);
            println!("{family:10} {:8} worst logit error {error:.1e} of the spread", isa.name());
            assert!(wrong.is_empty(), "{family} on {}: {}", isa.name(), wrong.join("; "));
        }
    }
}

/// Texts of more tokens than attention computes at once.
#[test]
fn long_texts_match_and_do_not_depend_on_threads() {
    for family in PAIRS {
        let file = SafeTensors::open(&folder(family).join("golden.safetensors")).unwrap();
        let text: Vec<u32> =
            file.i32s("long_ids").unwrap().1.iter().map(|&id| id.try_into().unwrap()).collect();
        let expected = file.f32s("long_logits").unwrap().1;
        let given = golden_of(family).given;
        let mut all = Vec::new();
        for threads in [1, 3] {
            let model = model(&folder(family), How { threads: Some(threads), ..Default::default() });
            let options = SequenceOptions { context: Some(1024), kv: KvFormat::F32 };
            let mut sequence = Sequence::new(model, options).unwrap();
            encode(&mut sequence, &text);
            let (got, _) = logits(&mut sequence, &given[..3]);
            let error = distance(&got, &expected) / spread(&expected);
            assert!(error <= 1e-3, "{family}: {error}");
            all.push(bits_of(&got));
        }
        assert!(all[0] == all[1], "{family}");
    }
}

/// Tokens that are decoded one by one have the bits of those that are read at once, with both precisions.
#[test]
fn answers_do_not_depend_on_how_they_are_cut() {
    for family in PAIRS {
        let (golden, model) = (golden_of(family), model(&folder(family), How::default()));
        for kv in [KvFormat::F16, KvFormat::F32] {
            let (whole, _) = bits(&mut pair_sequence(&model, kv), &golden);
            let mut one = pair_sequence(&model, kv);
            encode(&mut one, &golden.text);
            let mut stepwise = Vec::new();
            for &id in &golden.given {
                one.decode(id, &Cancel::new(), &mut ()).unwrap();
                stepwise.extend(bits_of(one.logits()));
            }
            assert!(whole == stepwise, "{family}, {}", kv.name());
        }
    }
}

#[test]
fn experts_that_are_read_from_the_file_give_the_same_bits_at_every_budget() {
    for family in PAIRS {
        let golden = golden_of(family);
        let path = folder(family);
        let expected = bits(&mut pair_sequence(&model(&path, How::default()), KvFormat::F16), &golden);
        for prefetch in [Prefetch::Off, Prefetch::On, Prefetch::Auto] {
            for from in [From::Direct, From::Mapped] {
                for percent in [0, 50, 100] {
                    let setup = Setup { from, percent, prefetch, threads: 2, sessions: 1 };
                    let model = setup.model(&path);
                    assert!(model.experts().streams(), "{family}: {setup:?}");
                    let got = bits(&mut pair_sequence(&model, KvFormat::F16), &golden);
                    assert!(got == expected, "{family}: {setup:?}");
                    assert!(model.experts().stats().bytes_read > 0 || from == From::Mapped, "{setup:?}");
                }
            }
        }
    }
}

#[test]
fn a_saved_sequence_keeps_its_text_and_continues_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sequence");
    for family in PAIRS {
        let golden = golden_of(family);
        let (before, after) = golden.given.split_at(5);
        let append = |sequence: &mut Sequence, ids: &[u32]| {
            sequence.append(ids, &Cancel::new(), &mut (), &mut |_| {}).unwrap();
        };
        let mut whole = pair_sequence(&model(&folder(family), How::default()), KvFormat::F16);
        encode(&mut whole, &golden.text);
        append(&mut whole, before);
        whole.save_to(&file).unwrap();
        append(&mut whole, after);
        let mut again = pair_sequence(&model(&folder(family), How::default()), KvFormat::F16);
        encode(&mut again, &golden.text[..7]);
        assert_eq!(again.load_from(&file).unwrap(), Restored::Tokens(before.len()));
        assert_eq!((again.text(), again.tokens()), (&golden.text[..], before));
        append(&mut again, after);
        assert!(bits_of(again.logits()) == bits_of(whole.logits()), "{family}");
    }
}

/// Two sequences with different texts in one pass have the bits that each has alone.
#[test]
fn neighbours_change_nothing() {
    for family in PAIRS {
        let (golden, model) = (golden_of(family), model(&folder(family), How::default()));
        let texts = [&golden.text[..], &golden.text[3..20]];
        let alone = |text: &[u32]| {
            let mut sequence = pair_sequence(&model, KvFormat::F16);
            encode(&mut sequence, text);
            sequence.append(&golden.given, &Cancel::new(), &mut (), &mut |_| {}).unwrap();
            bits_of(sequence.logits())
        };
        let mut both = texts.map(|text| {
            let mut sequence = pair_sequence(&model, KvFormat::F16);
            encode(&mut sequence, text);
            sequence
        });
        for &id in &golden.given {
            let cancel = Cancel::new();
            let (tokens, phase) = ([id], Phase::Decode);
            let mut steps: Vec<Step<'_>> = both
                .iter_mut()
                .map(|sequence| Step { sequence, tokens: &tokens, phase, cancel: &cancel })
                .collect();
            advance(&mut steps, &mut ()).unwrap();
        }
        for (sequence, text) in both.iter().zip(texts) {
            assert!(bits_of(sequence.logits()) == alone(text), "{family}");
        }
    }
}

#[test]
fn a_text_that_is_given_up_leaves_the_sequence_as_it_was() {
    let (golden, model) = (golden_of("nllbmoe"), model(&folder("nllbmoe"), How::default()));
    let mut sequence = pair_sequence(&model, KvFormat::F16);
    encode(&mut sequence, &golden.text);
    sequence.append(&golden.given[..4], &Cancel::new(), &mut (), &mut |_| {}).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    let stopped = sequence.encode(&golden.text[..9], &cancel, &mut ());
    assert!(matches!(stopped, Err(EngineError::Cancelled)));
    assert_eq!((sequence.text(), sequence.tokens()), (&golden.text[..], &golden.given[..4]));
    sequence.append(&golden.given[4..], &Cancel::new(), &mut (), &mut |_| {}).unwrap();
    let after = bits_of(sequence.logits());
    let (whole, _) = bits(&mut pair_sequence(&model, KvFormat::F16), &golden);
    assert!(whole.ends_with(&after));
    // Another text takes its place, and the first gives the same bits again.
    encode(&mut sequence, &golden.text[..9]);
    assert!(sequence.tokens().is_empty());
    assert!(bits(&mut sequence, &golden).0 == whole);
}

#[test]
fn texts_that_cannot_be_read_are_refused_by_name() {
    let (golden_pair, with) = (golden_of("switch"), model(&folder("switch"), How::default()));
    let mut sequence = pair_sequence(&with, KvFormat::F16);
    let cancel = Cancel::new();
    let none = sequence.decode(0, &cancel, &mut ()).unwrap_err().to_string();
    assert!(none.contains("text is none"), "{none}");
    let empty = sequence.encode(&[], &cancel, &mut ()).unwrap_err().to_string();
    assert!(empty.contains("no tokens"), "{empty}");
    let long = sequence.encode(&[5; 129], &cancel, &mut ());
    assert!(matches!(long, Err(EngineError::TextTooLong { tokens: 129, most: 128 })));
    let vocab = with.spec().vocab as u32;
    let range = sequence.encode(&[vocab], &cancel, &mut ());
    assert!(matches!(range, Err(EngineError::TokenRange { .. })));
    assert!(sequence.encode(&golden_pair.text, &cancel, &mut ()).is_ok());
    let mut alone = session(&model(&folder("llama"), How::default()), KvFormat::F16);
    let without = alone.encode(&golden("llama").ids, &cancel, &mut ()).unwrap_err().to_string();
    assert!(without.contains("a model that has one"), "{without}");
}

/// A model whose encoder's experts have another limit.
fn with_capacity(family: &str, limit: Option<ExpertLimit>) -> Arc<Model> {
    let mut loaded = load(&folder(family)).unwrap();
    assert!(loaded.spec.set_capacity(limit));
    let how = How::default();
    Arc::new(Model::new(&how.runtime(), loaded.spec, loaded.tensors, &how.options()).unwrap())
}

/// The goldens have fewer experts for some tokens than `k`; without a limit none has.
#[test]
fn capacity_is_that_of_the_files_unless_another_is_set() {
    for (family, k) in [("switch", 1), ("nllbmoe", 2)] {
        let golden = golden_of(family);
        let visits = |model: &Arc<Model>| {
            let mut sequence = pair_sequence(model, KvFormat::F32);
            encode(&mut sequence, &golden.text).iter().map(|(_, ids)| ids.len()).sum::<usize>()
        };
        let all = golden.text.len() * k;
        let files = visits(&model(&folder(family), How::default()));
        assert!(files < all, "{family}: {files} of {all} visits");
        assert_eq!(visits(&with_capacity(family, None)), all, "{family}");
        let experts =
            load(&folder(family)).unwrap().spec.layers.iter().find_map(|l| l.moe()).unwrap().experts;
        let paper = visits(&with_capacity(family, Some(ExpertLimit::Factor(2))));
        assert!(paper <= all.min(experts * 2 * golden.text.len().div_ceil(experts)), "{family}: {paper}");
        let one = visits(&with_capacity(family, Some(ExpertLimit::Tokens(1))));
        assert!(one <= experts, "{family}: {one}");
    }
}

fn converted(family: &str, format: Format, dir: &std::path::Path) -> std::path::PathBuf {
    let loaded = load(&folder(family)).unwrap();
    let target = dir.join(format!("{family}-{format}.gguf"));
    let conversion = Conversion::plan(&loaded, &|_| format).unwrap();
    assert!(conversion.write(&target, &mut |_| true).unwrap());
    target
}

/// What decides about results.
fn meaning(spec: &ModelSpec) -> String {
    let ModelSpec { vocab, d_model, embed_scale, positions, encoder, layers, final_norm, head, .. } = spec;
    format!("{vocab} {d_model} {embed_scale} {positions:?} {encoder:?} {layers:?} {final_norm:?} {head:?}")
}

#[test]
fn folders_become_files_with_the_same_meaning_and_answers() {
    let dir = tempfile::tempdir().unwrap();
    for family in PAIRS {
        let golden = golden_of(family);
        for format in [Format::F32, Format::BF16] {
            let file = converted(family, format, dir.path());
            assert_eq!(meaning(&load(&file).unwrap().spec), meaning(&load(&folder(family)).unwrap().spec));
            let (error, wrong) = compare_pair(&model(&file, How::default()), &golden);
            assert!(wrong.is_empty(), "{family} as {format}: {error:.1e}: {}", wrong.join("; "));
        }
        if family == "switch" {
            continue; // its heads are narrower than a block
        }
        // Weights are rounded: most of the answer stays.
        let file = converted(family, Format::Q8_0, dir.path());
        let rounded = model(&file, How::default());
        let mut sequence = pair_sequence(&rounded, KvFormat::F32);
        encode(&mut sequence, &golden.text);
        let (got, _) = logits(&mut sequence, &golden.given);
        let error = distance(&got, &golden.logits) / spread(&golden.logits);
        println!("{family}: Q8_0 changes logits by up to {error:.1e} of their spread");
        assert!(error > 0.0 && error < 0.5, "{family}: {error}");
        assert_eq!(greedy(&mut pair_with(&rounded, &golden), &golden.given[..1], 3).len(), 3);
    }
}

fn pair_with(model: &Arc<Model>, golden: &PairGolden) -> Sequence {
    let mut sequence = pair_sequence(model, KvFormat::F32);
    encode(&mut sequence, &golden.text);
    sequence
}
