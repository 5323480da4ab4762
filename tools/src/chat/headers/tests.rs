//! Whatever the opening check accepts, starts: over small models with random changes.

use std::ops::ControlFlow;
use std::path::Path;

use moelten_engine::api::GenerateParams;
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::container::gguf::{Array, Value};
use moelten_loader::text::chat::{Message, Speaker};
use proptest::prelude::*;

use super::*;
use crate::chat::answerer::Answerer;
use crate::open::SessionArgs;

#[allow(dead_code, reason = "the tests of the program use the rest")]
#[path = "../../../tests/common/mini.rs"]
mod mini;

/// A change of a sound file.
#[derive(Debug, Clone)]
enum Change {
    /// A key is missing.
    Remove(usize),
    /// A key has another value.
    Set(usize, Odd),
    /// A list has an element more, or less, or another one.
    Element(usize, usize, Odd),
    /// A tensor is missing.
    Drop(usize),
    /// A value of a tensor is another one.
    Weight(usize, usize, f32),
    /// A tensor has a row more or less.
    Shape(usize, bool),
}

/// A value that a file could have.
#[derive(Debug, Clone)]
enum Odd {
    Count(u64),
    Float(f32),
    Text(String),
    Flag(bool),
    Counts(Vec<u32>),
    Nothing,
}

impl Odd {
    fn value(&self) -> Value {
        match self {
            Self::Count(n) => Value::U64(*n),
            Self::Float(x) => Value::F32(*x),
            Self::Text(text) => Value::Str(text.clone()),
            Self::Flag(flag) => Value::Bool(*flag),
            Self::Counts(counts) => Value::Array(Array::U32(counts.clone())),
            Self::Nothing => Value::Array(Array::Str(Vec::new())),
        }
    }
}

fn odd() -> impl Strategy<Value = Odd> {
    const WORDS: [&str; 12] = [
        "",
        "a",
        "th",
        "<|im_end|>",
        "<|im_start|>",
        "gpt2",
        "llama",
        "t5",
        "qwen2",
        "llama-bpe",
        "t h",
        "{{ 1 }}",
    ];
    prop_oneof![
        prop::sample::select(&[0, 1, 2, 3, 5, 16, 32, 64, 259, 262, 300, u64::MAX][..]).prop_map(Odd::Count),
        prop::sample::select(&[0.0, 1.0, -1.0, 0.5, 32.0, f32::NAN, f32::INFINITY][..]).prop_map(Odd::Float),
        prop::sample::select(&WORDS[..]).prop_map(|text| Odd::Text(text.into())),
        any::<bool>().prop_map(Odd::Flag),
        prop::collection::vec(0..40_u32, 0..3).prop_map(Odd::Counts),
        Just(Odd::Nothing),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let weights = prop::sample::select(&[f32::NAN, f32::INFINITY, 0.0, 1e30][..]);
    prop_oneof![
        2 => (0..40_usize).prop_map(Change::Remove),
        6 => (0..40_usize, odd()).prop_map(|(key, odd)| Change::Set(key, odd)),
        6 => (0..40_usize, 0..300_usize, odd()).prop_map(|(key, at, odd)| Change::Element(key, at, odd)),
        1 => (0..13_usize).prop_map(Change::Drop),
        2 => (0..13_usize, 0..1024_usize, weights).prop_map(|(tensor, at, value)| Change::Weight(tensor, at, value)),
        1 => (0..13_usize, any::<bool>()).prop_map(|(tensor, more)| Change::Shape(tensor, more)),
    ]
}

/// Keys that the sound file does not have, and others may.
const MORE: [&str; 12] = [
    "general.sampling.top_p",
    "general.sampling.temp",
    "general.sampling.top_k",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.padding_token_id",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.add_space_prefix",
    "llama.expert_feed_forward_length",
    "llama.attention.sliding_window",
    "llama.rope.scaling.factor",
];

fn element(value: &mut Value, at: usize, odd: &Odd) {
    let Value::Array(array) = value else { return };
    let at = at % (array.len() + 1);
    match (array, odd) {
        (Array::Str(list), Odd::Text(text)) => match list.get_mut(at) {
            Some(element) => *element = text.clone(),
            None => list.push(text.clone()),
        },
        (Array::I32(list), Odd::Count(n)) => match list.get_mut(at) {
            Some(element) => *element = *n as i32,
            None => list.push(*n as i32),
        },
        (Array::Str(list), Odd::Flag(_)) => drop(list.pop()),
        (Array::I32(list), Odd::Flag(_)) => drop(list.pop()),
        _ => {}
    }
}

fn apply(change: &Change, keys: &mut mini::Keys, tensors: &mut Vec<mini::Tensor>) {
    let count = tensors.len();
    let key = |key: usize, keys: &mini::Keys| match keys.get(key) {
        Some((name, _)) => name.clone(),
        None => MORE[key % MORE.len()].to_owned(),
    };
    match change {
        Change::Remove(at) => {
            let name = key(*at, keys);
            keys.retain(|(found, _)| *found != name);
        }
        Change::Set(at, odd) => *keys = mini::with(keys.clone(), &key(*at, keys), odd.value()),
        Change::Element(at, index, odd) => {
            if let Some((_, value)) = keys.get_mut(*at) {
                element(value, *index, odd);
            }
        }
        Change::Drop(_) | Change::Weight(..) | Change::Shape(..) if count == 0 => {}
        Change::Drop(at) => drop(tensors.remove(at % count)),
        Change::Weight(at, index, value) => {
            let values = &mut tensors[at % count].2;
            let index = index % values.len();
            values[index] = *value;
        }
        Change::Shape(at, more) => {
            let (_, shape, values) = &mut tensors[at % count];
            let row = values.len() / shape[0] as usize;
            shape[0] = if *more { shape[0] + 1 } else { shape[0].max(2) - 1 };
            values.resize(shape[0] as usize * row, 0.5);
        }
    }
}

/// `fit`: the check, then the plan.
fn accepts(model: &Path, session: &SessionArgs) -> Result<bool, String> {
    let words = |error: &anyhow::Error| crate::exit::report(error).text;
    let headers = Headers::read(Some(model), true).map_err(|error| words(&error))?;
    session.plan(&headers.loaded).map_err(|error| words(&error.into()))?;
    Ok(headers.language.has_template())
}

/// `run`: everything up to the first tokens of an answer.
fn starts(model: &Path, session: &SessionArgs, with_template: bool) -> Result<(), String> {
    let words = |error: anyhow::Error| crate::exit::report(&error).text;
    let mut answerer = Answerer::open(Some(model), session, with_template, None).map_err(words)?;
    let (language, cancel) = (answerer.language(), Cancel::new());
    let ids = match with_template {
        true => language.conversation(&[Message::new(Speaker::User, "Hello")], 4096, &cancel),
        false => language.plain("Hello", 4096, &cancel),
    };
    let ids = ids.map_err(|why| format!("{why:?}"))?;
    let params = GenerateParams { max_tokens: Some(1), ..Default::default() };
    match answerer.answer(&ids, &params, &mut |_| ControlFlow::Continue(())) {
        Ok(_) => Ok(()),
        // Damage inside a large matrix and a context that is too short are known when they are reached.
        Err(
            moelten_engine::EngineError::NotANumber { .. } | moelten_engine::EngineError::ContextFull { .. },
        ) => Ok(()),
        Err(error) => Err(words(error.into())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn what_fit_accepts_run_starts_and_both_refuse_with_the_same_words(
        changes in prop::collection::vec(change(), 1..4),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.gguf");
        let (mut keys, mut tensors) = (mini::keys(), mini::tensors());
        changes.iter().for_each(|change| apply(change, &mut keys, &mut tensors));
        mini::write(&model, &keys, &tensors);
        let session = SessionArgs::usual().unwrap();
        match accepts(&model, &session) {
            Ok(template) => prop_assert_eq!(starts(&model, &session, template), Ok(())),
            Err(words) => prop_assert_eq!(starts(&model, &session, true), Err(words)),
        }
    }
}
