//! LongRoPE beyond the original context, against transformers. Transformers takes the factors for short
//! texts up to 48 tokens. With the 49th it throws its keys away and computes all of them with the factors
//! for long texts. Here a sequence has one set of factors, which its context decides when it begins: up to
//! 48 tokens it is what transformers computes before it crosses, and beyond that what transformers computes
//! afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{How, distance, folder, greedy, logits, model, spread, stepwise, whole};
use moelten_engine::plan::SequenceOptions;
use moelten_engine::plan::context::{ContextLimit, default_context};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{EngineError, KvFormat, Sequence};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::Conversion;
use moelten_loader::load::load;
use moelten_quant::Format;

/// The context of the first training.
const ORIGINAL: usize = 48;

/// What transformers computed.
struct Crossing {
    ids: Vec<u32>,
    /// Logits of the last positions of `ids`.
    last: Vec<f32>,
    /// The greedy text that follows.
    greedy: Vec<u32>,
}

fn crossing() -> Crossing {
    crossing_in(&folder("phi3").join("longrope.safetensors"), "logits_last")
}

fn crossing_in(path: &Path, logits: &str) -> Crossing {
    let file = SafeTensors::open(path).unwrap();
    let ids = |name: &str| file.i32s(name).unwrap().1.iter().map(|&id| id.try_into().unwrap()).collect();
    Crossing { ids: ids("input_ids"), last: file.f32s(logits).unwrap().1, greedy: ids("greedy_ids") }
}

/// The model as a folder, and as a GGUF file of it. Its weights are those of `phi3`.
fn models(dir: &Path) -> [PathBuf; 2] {
    let (source, file) = (dir.join("folder"), dir.join("written.gguf"));
    fs::create_dir(&source).unwrap();
    fs::copy(folder("phi3").join("longrope.json"), source.join("config.json")).unwrap();
    fs::copy(folder("phi3").join("model.safetensors"), source.join("model.safetensors")).unwrap();
    let loaded = load(&source).unwrap();
    let plan = Conversion::plan(&loaded, &|_| Format::F32).unwrap();
    assert!(plan.write(&file, &mut |_| true).unwrap());
    [source, file]
}

#[test]
fn both_sides_of_the_original_context_are_those_of_transformers() {
    let dir = tempfile::tempdir().unwrap();
    compare(&models(dir.path()), crossing());
}

/// The same with the folder and the file that llama.cpp's converter made of it.
#[test]
#[ignore = "needs MOELTEN_FAMILIES, folders of model folders of which one is phi3-longrope-cross"]
fn both_sides_elsewhere_are_those_of_transformers() {
    let folders = std::env::var("MOELTEN_FAMILIES").expect("MOELTEN_FAMILIES names folders");
    let mut there = folders.split(':').map(|folder| Path::new(folder).join("phi3-longrope-cross"));
    let folder = there.find(|folder| folder.exists()).expect("one has phi3-longrope-cross");
    let crossing = crossing_in(&folder.join("golden.safetensors"), "logits");
    compare(&[folder.clone(), folder.join("model.gguf")], crossing);
}

fn compare(paths: &[PathBuf], Crossing { ids, last, greedy: follows }: Crossing) {
    for path in paths {
        let model = model(path, How::default());
        let sequence = |context| {
            let options = SequenceOptions { context: Some(context), kv: KvFormat::F32 };
            Sequence::new(Arc::clone(&model), options).unwrap()
        };
        let (got, _) = logits(&mut sequence(ORIGINAL), &ids);
        let error = distance(&got[got.len() - last.len()..], &last) / spread(&last);
        assert!(error <= 1e-3, "{}: {error}", path.display());
        // The token after the 48th is the last that short factors choose.
        let before = ORIGINAL - ids.len();
        let written = greedy(&mut sequence(ORIGINAL), &ids, before);
        assert_eq!(written, follows[..before], "{}", path.display());
        let text = [&ids[..], &follows].concat();
        let (crossed, rest) = text.split_at(ORIGINAL + 1);
        assert_eq!(greedy(&mut sequence(text.len() + 1), crossed, rest.len()), rest, "{}", path.display());
        // The factors matter: with those for long texts the prompt gets other logits.
        let (other, _) = logits(&mut sequence(text.len()), &ids);
        assert!(distance(&other[other.len() - last.len()..], &last) > 0.1 * spread(&last));
    }
}

/// A sequence keeps its factors: however long the text is, what was read first has the bits that it had.
#[test]
fn a_context_decides_once_and_for_every_piece() {
    let dir = tempfile::tempdir().unwrap();
    let Crossing { ids, greedy: follows, .. } = crossing();
    let text = [ids, follows].concat();
    for path in models(dir.path()) {
        let model = model(&path, How::default());
        let options = |context| SequenceOptions { context: Some(context), kv: KvFormat::F16 };
        let sequence = |context| Sequence::new(Arc::clone(&model), options(context)).unwrap();
        let expected = whole(&mut sequence(text.len()), &text);
        assert!(stepwise(&mut sequence(text.len()), &text) == expected, "{}", path.display());
        assert!(whole(&mut sequence(256), &text) == expected, "{}", path.display());
        let vocab = model.spec().vocab;
        let short = whole(&mut sequence(ORIGINAL), &text[..ORIGINAL]);
        assert!(short != expected[..ORIGINAL * vocab]);
        assert!(stepwise(&mut sequence(ORIGINAL), &text[..ORIGINAL]) == short);
        // The default keeps the factors for short texts, and then it is full rather than wrong.
        let choice = default_context(model.spec(), KvFormat::F16, 1 << 30);
        assert_eq!((choice.tokens, choice.limit), (ORIGINAL, ContextLimit::ShortRope));
        let mut full = sequence(choice.tokens);
        let refused = full.append(&text, &Cancel::new(), &mut (), &mut |_| {});
        assert!(matches!(refused, Err(EngineError::ContextFull { .. })), "{refused:?}");
    }
}
