//! Whole models: a sound GGUF file of one layer in which keys, tokens, shapes and weights are changed.
//! It is opened or refused; what opens has a tokenizer and a template or says why not, computes a token, and
//! keeps questions apart from control tokens.
#![no_main]

use std::path::Path;
use std::sync::{Arc, OnceLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::{Runtime, RuntimeOptions};
use moelten_engine::{KvFormat, Model, ModelOptions, Sequence};
use moelten_fuzz::{assert_clean, scratch};
use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Array, Value};
use moelten_loader::load::{LoadedModel, load};
use moelten_loader::text::chat::{Message, RenderOptions, Speaker};
use moelten_loader::text::tokenizer::TokenKind;
use moelten_quant::Format;

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../../tools/tests/common/mini.rs"]
mod mini;

/// One change of a sound model.
#[derive(Debug, Arbitrary)]
enum Change {
    Remove(u8),
    Set(u8, New),
    Add(Known, New),
    Token { id: u16, text: String, kind: Option<i8> },
    Shape { tensor: u8, dim: bool, size: u8 },
    Rename { tensor: u8, to: u8 },
    Weight { tensor: u8, at: u16, value: f32 },
}

/// A new value of a key.
#[derive(Debug, Arbitrary)]
enum New {
    U32(u32),
    Small(u8),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Numbers(Vec<u8>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    Flags(Vec<bool>),
}

/// Keys that a sound file does not have.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Known {
    Window,
    Softcap,
    ExpertScale,
    ExpertNorm,
    ExpertGating,
    ExpertShared,
    RopeScaling,
    RopeFactor,
    AddEos,
    Eot,
    Unk,
    Scores,
    SpacePrefix,
    TopP,
    Temperature,
    SplitCount,
    Alignment,
}

impl Known {
    fn key(self) -> &'static str {
        match self {
            Self::Window => "llama.attention.sliding_window",
            Self::Softcap => "llama.attn_logit_softcapping",
            Self::ExpertScale => "llama.expert_weights_scale",
            Self::ExpertNorm => "llama.expert_weights_norm",
            Self::ExpertGating => "llama.expert_gating_func",
            Self::ExpertShared => "llama.expert_shared_count",
            Self::RopeScaling => "llama.rope.scaling.type",
            Self::RopeFactor => "llama.rope.scaling.factor",
            Self::AddEos => "tokenizer.ggml.add_eos_token",
            Self::Eot => "tokenizer.ggml.eot_token_id",
            Self::Unk => "tokenizer.ggml.unknown_token_id",
            Self::Scores => "tokenizer.ggml.scores",
            Self::SpacePrefix => "tokenizer.ggml.add_space_prefix",
            Self::TopP => "general.sampling.top_p",
            Self::Temperature => "general.sampling.temp",
            Self::SplitCount => "split.count",
            Self::Alignment => "general.alignment",
        }
    }
}

impl New {
    fn value(self) -> Value {
        match self {
            Self::U32(n) => Value::U32(n),
            Self::Small(n) => Value::U32(n.into()),
            Self::I32(n) => Value::I32(n),
            Self::F32(x) => Value::F32(x),
            Self::Bool(flag) => Value::Bool(flag),
            Self::Text(text) => Value::Str(text),
            Self::Numbers(list) => Value::Array(Array::U32(list.into_iter().map(u32::from).collect())),
            Self::Floats(list) => Value::Array(Array::F32(list)),
            Self::Texts(list) => Value::Array(Array::Str(list)),
            Self::Flags(list) => Value::Array(Array::Bool(list)),
        }
    }
}

fn apply(change: Change, keys: &mut mini::Keys, tensors: &mut [mini::Tensor]) {
    let (count, names) = (tensors.len(), tensors.iter().map(|tensor| tensor.0.clone()).collect::<Vec<_>>());
    let mut array = |key: &str, change: &mut dyn FnMut(&mut Array)| {
        if let Some((_, Value::Array(array))) = keys.iter_mut().find(|(found, _)| found == key) {
            change(array);
        }
    };
    match change {
        Change::Remove(key) => drop(keys.remove(usize::from(key) % keys.len())),
        Change::Set(key, new) => {
            let at = usize::from(key) % keys.len();
            keys[at].1 = new.value();
        }
        Change::Add(known, new) => keys.push((known.key().to_owned(), new.value())),
        Change::Token { id, text, kind } => {
            let id = usize::from(id) % mini::ROWS;
            array("tokenizer.ggml.tokens", &mut |array| {
                if let Array::Str(tokens) = array
                    && let Some(token) = tokens.get_mut(id)
                {
                    token.clone_from(&text);
                }
            });
            array("tokenizer.ggml.token_type", &mut |array| {
                if let (Array::I32(kinds), Some(kind)) = (array, kind)
                    && let Some(found) = kinds.get_mut(id)
                {
                    *found = kind.into();
                }
            });
        }
        Change::Shape { tensor, dim, size } => {
            let (_, shape, values) = &mut tensors[usize::from(tensor) % count];
            let at = usize::from(dim) % shape.len();
            let before = std::mem::replace(&mut shape[at], size.into());
            match shape.iter().product::<u64>() {
                count @ ..=65536 => values.resize(count as usize, 0.5),
                // It would only take long.
                _ => shape[at] = before,
            }
        }
        Change::Rename { tensor, to } => {
            tensors[usize::from(tensor) % count].0.clone_from(&names[usize::from(to) % count]);
        }
        Change::Weight { tensor, at, value } => {
            let values = &mut tensors[usize::from(tensor) % count].2;
            if let Some(weight) = values.get_mut(usize::from(at)) {
                *weight = value;
            }
        }
    }
}

/// Writes a GGUF file; none if such a file cannot be written.
fn written(path: &Path, keys: &mini::Keys, tensors: &[mini::Tensor]) -> Option<()> {
    let plan: Vec<_> = tensors
        .iter()
        .map(|(name, shape, _)| TensorPlan {
            name: name.clone(),
            storage: Storage::Known(Format::F32),
            shape: shape.clone(),
        })
        .collect();
    let mut writer = GgufWriter::create(path, keys, &plan, &[]).ok()?;
    for (name, _, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write_tensor(name, &bytes).ok()?;
    }
    writer.finish().ok().map(drop)
}

/// What a person sees of an error: the path is the person's own.
fn check_message(error: &dyn std::error::Error) {
    assert_clean(&error.to_string());
}

fn exercise(loaded: LoadedModel, question: &str) {
    let template = match (loaded.text(), loaded.chat_template()) {
        (Ok(text), Ok(template)) => Some((text.tokenizer, template)),
        (text, template) => {
            text.err().iter().for_each(|error| check_message(error));
            template.err().iter().for_each(|error| check_message(error));
            None
        }
    };
    let hints = loaded.sampling_hints().0;
    assert!(hints.top_p.is_none_or(|p| p > 0.0 && p <= 1.0), "{hints:?}");
    let vocab = loaded.spec.vocab;
    if let Some((tokenizer, template)) = &template {
        if let Ok(ids) = tokenizer.encode_text(question) {
            assert!(
                ids.iter().all(|id| tokenizer.kind(*id) != Some(TokenKind::Control)),
                "{question:?} {ids:?}"
            );
            tokenizer.decode(&ids);
        }
        let messages = [Message::new(Speaker::User, question)];
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        if let Some(template) = template
            && let Ok(markup) = template.render(tokenizer, &messages, &options)
        {
            let _ids = tokenizer.encode_markup(&markup);
        }
    }
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        Runtime::start(RuntimeOptions { threads: Some(1), ..Default::default() }).expect("one thread")
    });
    let model = match Model::new(runtime, loaded.spec, loaded.tensors, &ModelOptions::default()) {
        Ok(model) => Arc::new(model),
        Err(error) => return check_message(&error),
    };
    let options = SequenceOptions { context: Some(4), kv: KvFormat::F16 };
    let mut sequence = match Sequence::new(model, options) {
        Ok(sequence) => sequence,
        Err(error) => return check_message(&error),
    };
    let ids = [1, 2].map(|id: u32| id.min(vocab.saturating_sub(1) as u32));
    if let Err(error) = sequence.append(&ids, &Cancel::new(), &mut (), &mut |_| {}) {
        check_message(&error);
    } else {
        assert_eq!(sequence.logits().len(), vocab);
    }
}

fuzz_target!(|input: (Vec<Change>, &str)| {
    let (changes, question) = input;
    let (mut keys, mut tensors) = (mini::keys(), mini::tensors());
    for change in changes.into_iter().take(8) {
        if keys.is_empty() {
            break;
        }
        apply(change, &mut keys, &mut tensors);
    }
    let folder = scratch();
    let path = folder.path().join("model.gguf");
    if written(&path, &keys, &tensors).is_none() {
        return;
    }
    match load(&path) {
        Ok(loaded) => exercise(loaded, question),
        Err(error) => check_message(&error),
    }
});
