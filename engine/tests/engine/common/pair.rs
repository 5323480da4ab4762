//! What tests of encoder-decoders share: golden checkpoints and ways to run them.

use std::path::Path;
use std::sync::Arc;

use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{KvFormat, Model, Sequence};
use moelten_loader::container::safetensors::SafeTensors;

use super::{Routes, distance, logits, spread};

/// Checkpoints of encoder-decoders in the tree.
pub const PAIRS: [&str; 2] = ["switch", "nllbmoe"];

/// The results of Hugging Face transformers for a checkpoint.
pub struct PairGolden {
    /// The tokens of the text.
    pub text: Vec<u32>,
    /// Tokens that the decoder is given, the first of them its start.
    pub given: Vec<u32>,
    /// Logits after every token of the decoder, `[given, vocab]`.
    pub logits: Vec<f32>,
    /// Greedy continuation of the start token, which it begins with.
    pub greedy: Vec<u32>,
    /// Experts of each layer of the encoder that has some, `[text, k]`, best first.
    pub encoder_routes: Vec<(usize, Vec<u32>)>,
    /// The same of the decoder, by the number of the layer in the decoder.
    pub decoder_routes: Vec<(usize, Vec<u32>)>,
}

/// The golden in a folder; `None` if it is of a model without an encoder.
pub fn pair_in(folder: &Path) -> Option<PairGolden> {
    let file = SafeTensors::open(&folder.join("golden.safetensors")).unwrap();
    file.catalog().get("decoder_input_ids")?;
    // Where a token goes past an expert, routes have -1.
    let ids = |name: &str| -> Vec<u32> {
        file.i32s(name).unwrap().1.iter().filter_map(|&id| id.try_into().ok()).collect()
    };
    let routes = |stack: &str| {
        let names = (0..64).map(|layer| (layer, format!("router.{stack}.{layer}")));
        let known = names.filter(|(_, name)| file.catalog().get(name).is_some());
        known.map(|(layer, name)| (layer, ids(&name))).collect()
    };
    Some(PairGolden {
        text: ids("input_ids"),
        given: ids("decoder_input_ids"),
        logits: file.f32s("logits").unwrap().1,
        greedy: ids("greedy_ids"),
        encoder_routes: routes("enc"),
        decoder_routes: routes("dec"),
    })
}

/// A sequence for a text and an answer.
pub fn pair_sequence(model: &Arc<Model>, kv: KvFormat) -> Sequence {
    Sequence::new(Arc::clone(model), SequenceOptions { context: Some(128), kv }).unwrap()
}

/// Lets the encoder read a text; the experts of its layers.
pub fn encode(sequence: &mut Sequence, text: &[u32]) -> Vec<(usize, Vec<u32>)> {
    let mut routes = Routes::default();
    sequence.encode(text, &Cancel::new(), &mut routes).unwrap();
    routes.0.into_iter().map(|(key, ids)| (key.layer, ids)).collect()
}

/// What differs between a model and its golden.
pub fn compare_pair(model: &Arc<Model>, golden: &PairGolden) -> (f32, Vec<String>) {
    let encoder_layers = model.spec().encoder.unwrap().layers;
    let mut wrong = Vec::new();
    let mut sequence = pair_sequence(model, KvFormat::F32);
    // The oldest goldens have no routes.
    let has_routes = !golden.encoder_routes.is_empty();
    if encode(&mut sequence, &golden.text) != golden.encoder_routes && has_routes {
        wrong.push("experts of the encoder differ".to_owned());
    }
    let (got, routes) = logits(&mut sequence, &golden.given);
    let written: Vec<_> = routes.0.into_iter().map(|(key, ids)| (key.layer - encoder_layers, ids)).collect();
    if written != golden.decoder_routes && has_routes {
        wrong.push("experts of the decoder differ".to_owned());
    }
    if got.len() != golden.logits.len() {
        return (f32::INFINITY, vec![format!("{} logits, not {}", got.len(), golden.logits.len())]);
    }
    let error = distance(&got, &golden.logits) / spread(&golden.logits);
    if error.is_nan() || error > 1e-3 {
        wrong.push(format!("logits differ by {error:.1e} of their spread"));
    }
    let text = greedy_pair(model, &golden.text, golden.greedy.len() - 1);
    if text != golden.greedy {
        wrong.push(format!("the answer is {text:?}, not {:?}", golden.greedy));
    }
    (error, wrong)
}

/// The start token and the greedy tokens after it.
pub fn greedy_pair(model: &Arc<Model>, text: &[u32], steps: usize) -> Vec<u32> {
    let start = model.spec().encoder.unwrap().start;
    let mut sequence = pair_sequence(model, KvFormat::F32);
    encode(&mut sequence, text);
    let rest = super::greedy(&mut sequence, &[start], steps);
    std::iter::once(start).chain(rest).collect()
}
