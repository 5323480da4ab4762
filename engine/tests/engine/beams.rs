//! Beam search against `generate` of Hugging Face transformers, and what does not change its answer.

use std::sync::Arc;

use moelten_engine::api::{Answer, BeamParams, GenerateParams, StopReason};
use moelten_engine::plan::{Io, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{KvFormat, Model, ModelOptions, Sequence};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::load::load;
use moelten_quant::Isa;

use crate::common::pair::{encode, pair_sequence};
use crate::common::{How, folder, model};

/// Tokens of the goldens: the answer begins with a language.
const GIVEN: [u32; 2] = [2, 91];
const MOST: usize = 20;

/// Beams, exponent of the length, whether the first answers end the search, a token that ends an answer, and
/// how many tokens of the text are read.
type Case = (usize, f32, bool, u32, usize);

const CASES: [Case; 12] = [
    (2, 1.0, false, 40, 40),
    (3, 1.0, true, 33, 17),
    (3, 1.0, false, 12, 17),
    (4, 0.0, false, 30, 9),
    (5, 2.0, false, 30, 9),
    (5, 1.0, true, 12, 9),
    (5, -1.0, false, 30, 40),
    (3, 1.0, false, 92, 40),
    (8, 1.0, false, 33, 5),
    (6, 0.5, true, 28, 5),
    (4, 1.5, true, 35, 17),
    (7, 2.0, false, 92, 40),
];

fn golden() -> SafeTensors {
    SafeTensors::open(&folder("nllbmoe").join("beams.safetensors")).unwrap()
}

fn ids(file: &SafeTensors, name: &str) -> Vec<u32> {
    file.i32s(name).unwrap().1.iter().map(|&id| id.try_into().unwrap()).collect()
}

fn sequence(model: &Arc<Model>) -> Sequence {
    pair_sequence(model, KvFormat::F32)
}

fn search(sequence: &mut Sequence, case: Case, cancel: &Cancel) -> Answer {
    let (beams, length_penalty, early, end, length) = case;
    encode(sequence, &ids(&golden(), "text")[..length]);
    let tokenizer = load(&folder("nllbmoe")).unwrap().text().unwrap().tokenizer;
    let params = GenerateParams {
        max_tokens: Some(MOST),
        ends: vec![end],
        beams: Some(BeamParams { beams, length_penalty, early }),
        ..Default::default()
    };
    let mut sent = String::new();
    let answer = sequence
        .generate(&tokenizer, &GIVEN, &params, cancel, &mut |event| {
            if let moelten_engine::api::Event::Text(part) = event {
                sent.push_str(&part);
            }
        })
        .unwrap();
    assert_eq!(sent, answer.text);
    answer
}

#[test]
fn answers_are_those_of_transformers() {
    let golden = golden();
    let mut ended = 0;
    for isa in Isa::available() {
        let model = model(&folder("nllbmoe"), How { isa: Some(isa), ..Default::default() });
        for case in CASES {
            let (beams, penalty, early, end, length) = case;
            let name = format!("{beams} {penalty:?} {} {end} {length}", u8::from(early));
            let answer = search(&mut sequence(&model), case, &Cancel::new());
            assert_eq!(answer.ids, ids(&golden, &name), "{name} on {}", isa.name());
            let last = answer.ids.last() == Some(&end);
            ended += usize::from(last);
            assert_eq!(answer.reason == StopReason::EndOfTurn, last, "{name}");
        }
    }
    assert!(ended >= 5, "some answers end by themselves: {ended}");
}

/// One beam is the most likely token; a search leaves the sequence ready for the next one.
#[test]
fn one_beam_is_greedy_and_searches_repeat() {
    let model = model(&folder("nllbmoe"), How::default());
    let mut sequence = sequence(&model);
    let one = search(&mut sequence, (1, 1.0, false, 40, 40), &Cancel::new());
    let mut greedy = Vec::new();
    sequence.keep_prefix(&[]);
    sequence.append(&GIVEN, &Cancel::new(), &mut (), &mut |_| {}).unwrap();
    for _ in 0..MOST {
        let best = sequence.logits().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        greedy.push(best.unwrap().0 as u32);
        sequence.decode(greedy[greedy.len() - 1], &Cancel::new(), &mut ()).unwrap();
    }
    assert_eq!(one.ids, greedy);
    let first = search(&mut sequence, CASES[4], &Cancel::new());
    search(&mut sequence, CASES[9], &Cancel::new());
    assert_eq!(search(&mut sequence, CASES[4], &Cancel::new()).ids, first.ids);
}

#[test]
fn budget_and_threads_change_nothing() {
    let whole = model(&folder("nllbmoe"), How { threads: Some(1), ..Default::default() });
    let how = How { threads: Some(3), ram: Ram::Min, io: Io::Direct, ..Default::default() };
    let loaded = load(&folder("nllbmoe")).unwrap();
    // The least memory has no room for other beams.
    let options = ModelOptions { extra: 64 << 20, ..how.options() };
    let streamed = Arc::new(Model::new(&how.runtime(), loaded.spec, loaded.tensors, &options).unwrap());
    assert!(streamed.experts().streams());
    for case in [CASES[4], CASES[11]] {
        let expected = search(&mut sequence(&whole), case, &Cancel::new());
        assert_eq!(search(&mut sequence(&streamed), case, &Cancel::new()).ids, expected.ids);
    }
}

#[test]
fn a_search_that_is_stopped_gives_what_it_has() {
    let model = model(&folder("nllbmoe"), How::default());
    let mut sequence = sequence(&model);
    // The prompt is there already, so that the search itself is stopped.
    search(&mut sequence, CASES[4], &Cancel::new());
    let cancel = Cancel::new();
    cancel.cancel();
    assert_eq!(search(&mut sequence, CASES[4], &cancel).reason, StopReason::Cancelled);
}
