//! What the engine's tests share: golden checkpoints and ways to run them.
#![allow(dead_code, clippy::unwrap_used, reason = "every test binary uses a part of it; a failure may panic")]

pub mod pair;
pub mod wide;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_engine::KvFormat;
use moelten_engine::Observer;
use moelten_engine::Prefetch;
use moelten_engine::Routing;
use moelten_engine::Sequence;
use moelten_engine::plan::{Io, Ram, SequenceOptions};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::{Runtime, RuntimeOptions};
use moelten_engine::{Model, ModelOptions};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::load;
use moelten_loader::spec::BankKey;
use moelten_quant::Isa;

/// One checkpoint per supported family and variant.
pub const FAMILIES: [&str; 20] = [
    "llama",
    "llama3-rope",
    "mistral-window",
    "qwen2",
    "qwen3",
    "mixtral",
    "qwen2moe",
    "qwen3moe",
    "olmoe",
    "granitemoe",
    "phimoe",
    "gptoss-folder",
    "glm4moe",
    "phi3",
    "exaone4",
    "cohere2",
    "gemma3-scale",
    "smollm3",
    "gemma2",
    "deepseek2",
];

/// Checkpoints with matrices that are too narrow for blocks.
pub const NARROW: [&str; 20] = [
    "grovemoe",
    "shazeer2017",
    "glam",
    "dsmoe",
    "deepseek3",
    "glm4moelite",
    "qwen3next",
    "qwen35moe",
    "gemma4moe",
    "gemma4-ple",
    "granitehybrid",
    "nemotronh",
    "mamba2",
    "kimilinear",
    "jamba",
    "mimo2",
    "llama4",
    "deepseek32",
    "qwen4exp",
    "glm5shared",
];

/// The results of Hugging Face transformers for a checkpoint.
pub struct Golden {
    /// The tokens of the prompt.
    pub ids: Vec<u32>,
    /// Logits after every token, `[prompt, vocab]`.
    pub logits: Vec<f32>,
    /// Greedy continuation of the prompt.
    pub greedy: Vec<u32>,
    /// Experts per bank, `[prompt, k]`, best first.
    pub routes: Vec<(BankKey, Vec<u32>)>,
}

/// Where the files of a checkpoint are.
fn checkpoint(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(family)
}

/// The model of a checkpoint: its folder, or its file where it is a GGUF file.
pub fn folder(family: &str) -> PathBuf {
    let (folder, file) = (checkpoint(family), checkpoint(family).join("model.gguf"));
    if file.exists() { file } else { folder }
}

pub fn golden(family: &str) -> Golden {
    golden_in(&checkpoint(family))
}

pub fn golden_in(folder: &Path) -> Golden {
    let file = SafeTensors::open(&folder.join("golden.safetensors")).unwrap();
    let ids = |name: &str| {
        file.i32s(name).unwrap().1.iter().map(|&id| id.try_into().unwrap()).collect::<Vec<u32>>()
    };
    // Attention experts come before the others of their layer, those that stand for groups of these behind.
    let names = |layer: usize| ["attn.", "", "groups."].map(|kind| format!("router.{kind}{layer}"));
    let routes = (0..64).flat_map(|layer| {
        let there = names(layer).into_iter().filter(|name| file.catalog().get(name).is_some());
        let banks: Vec<_> = there.map(|name| ids(&name)).collect();
        banks.into_iter().enumerate().map(move |(bank, ids)| (BankKey { layer, bank }, ids))
    });
    Golden {
        ids: ids("input_ids"),
        logits: file.f32s("logits").unwrap().1,
        greedy: ids("greedy_ids"),
        routes: routes.collect(),
    }
}

/// Options for running a model.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub threads: Option<usize>,
    pub isa: Option<Isa>,
    pub ram: Ram,
    pub io: Io,
    pub prefetch: Prefetch,
}

impl How {
    pub fn runtime(self) -> Arc<Runtime> {
        let Self { threads, isa, .. } = self;
        Runtime::start(RuntimeOptions { threads, isa, ..Default::default() }).unwrap()
    }

    pub fn options(self) -> ModelOptions {
        let Self { ram, io, prefetch, .. } = self;
        ModelOptions { ram, io, prefetch, ..Default::default() }
    }
}

pub fn model(path: &Path, how: How) -> Arc<Model> {
    on(&how.runtime(), path, how)
}

/// A model on a runtime that may have other models.
pub fn on(runtime: &Arc<Runtime>, path: &Path, how: How) -> Arc<Model> {
    let loaded = load(path).unwrap_or_else(|error| panic!("{error}"));
    let model = Model::new(runtime, loaded.spec, loaded.tensors, &how.options());
    Arc::new(model.unwrap_or_else(|error| panic!("{error}")))
}

pub fn session(model: &Arc<Model>, kv: KvFormat) -> Sequence {
    Sequence::new(Arc::clone(model), SequenceOptions { context: Some(128), kv }).unwrap()
}

/// Collects the experts of every bank.
#[derive(Default)]
pub struct Routes(pub Vec<(BankKey, Vec<u32>)>);

impl Observer for Routes {
    fn routed(&mut self, bank: BankKey, routing: &Routing) {
        let ids = (0..routing.tokens()).flat_map(|token| routing.token(token).0.to_vec());
        match self.0.iter_mut().find(|(known, _)| *known == bank) {
            Some((_, list)) => list.extend(ids),
            None => self.0.push((bank, ids.collect())),
        }
    }
}

/// Logits `[ids, vocab]` and routes of a text that is appended at once.
pub fn logits(session: &mut Sequence, ids: &[u32]) -> (Vec<f32>, Routes) {
    let (mut all, mut routes) = (Vec::new(), Routes::default());
    session
        .append_all(ids, &Cancel::new(), &mut routes, &mut |chunk| {
            all.extend_from_slice(chunk);
            Ok(())
        })
        .unwrap();
    (all, routes)
}

/// Bits of the logits, `[ids, vocab]`, of a text that is appended at once.
pub fn whole(sequence: &mut Sequence, ids: &[u32]) -> Vec<u32> {
    logits(sequence, ids).0.iter().map(|logit| logit.to_bits()).collect()
}

/// Bits of the logits, `[ids, vocab]`, of a text that is decoded token by token.
pub fn stepwise(sequence: &mut Sequence, ids: &[u32]) -> Vec<u32> {
    let cancel = Cancel::new();
    let mut all = Vec::new();
    for &id in ids {
        sequence.decode(id, &cancel, &mut ()).unwrap();
        all.extend(sequence.logits().iter().map(|logit| logit.to_bits()));
    }
    all
}

/// Greedy continuation by single steps.
pub fn greedy(session: &mut Sequence, prompt: &[u32], steps: usize) -> Vec<u32> {
    let cancel = Cancel::new();
    session.append(prompt, &cancel, &mut (), &mut |_| {}).unwrap();
    let mut out = Vec::new();
    for _ in 0..steps {
        let best = session.logits().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        let id = u32::try_from(best.unwrap().0).unwrap();
        out.push(id);
        session.decode(id, &cancel, &mut ()).unwrap();
    }
    out
}

/// Standard deviation: the unit in which logits are compared.
pub fn spread(values: &[f32]) -> f32 {
    let count = values.len() as f64;
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count;
    let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
    variance.sqrt() as f32
}

/// Largest absolute difference.
pub fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Root mean square of the errors of logits, in spreads.
pub fn deviation(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let differences: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    spread(&differences) / spread(expected)
}

/// Logits and routes of a model for a text, with a KV cache in single precision.
pub fn run(path: &Path, ids: &[u32]) -> (Vec<f32>, Vec<(BankKey, Vec<u32>)>) {
    run_on(Isa::best(), path, ids)
}

/// The same on an instruction set.
pub fn run_on(isa: Isa, path: &Path, ids: &[u32]) -> (Vec<f32>, Vec<(BankKey, Vec<u32>)>) {
    let model = model(path, How { isa: Some(isa), ..Default::default() });
    let (logits, routes) = logits(&mut session(&model, KvFormat::F32), ids);
    (logits, routes.0)
}

/// A bound for the [`deviation`] of logits `[ids, vocab]` that rounding to 8 bits causes.
///
/// It is measured on the model: an F32 file gets uniform noise of the size of the rounding, half a step of
/// `max / 127` of each block of 32, in every weight that Q8_0 rounds. Rounding the weights acts like one draw
/// of such noise, changed routes included. Products with quantised weights also round their activations to
/// codes of the same blocks. That acts like another draw, and both together are about 1.4 times as large as
/// one. Twice the worst of several draws leaves room for chance; an error of layout, scale or kernel is far
/// larger.
pub fn rounding_bound(file: &Path, ids: &[u32], expected: &[f32]) -> f32 {
    let bound = 2.0
        * worst_noise(file, 6, ids, expected, &|block| {
            block.iter().fold(0.0_f32, |largest, x| x.abs().max(largest)) / 127.0
        });
    assert!(bound < 1.0, "noise drowns everything: {bound}");
    bound
}

/// The largest [`deviation`] that several draws of noise in the weights of an F32 file cause. Noise is
/// uniform; `step` returns its width for a block of 32 weights.
pub fn worst_noise(
    file: &Path,
    draws: u64,
    ids: &[u32],
    expected: &[f32],
    step: &dyn Fn(&[f32]) -> f32,
) -> f32 {
    let noisy = file.with_extension("noisy");
    let draws = (1..=draws).map(|seed| {
        add_noise(file, &noisy, seed, step);
        deviation(&run(&noisy, ids).0, expected)
    });
    draws.fold(0.0, f32::max)
}

/// Writes a GGUF file in the packed layout.
pub fn pack(source: &Path, target: &Path) {
    rewrite(source, target, FileLayout::Packed);
}

/// Writes a GGUF file in the standard layout.
pub fn unpack(source: &Path, target: &Path) {
    rewrite(source, target, FileLayout::Standard);
}

fn rewrite(source: &Path, target: &Path, layout: FileLayout) {
    let loaded = load(source).unwrap_or_else(|error| panic!("{error}"));
    let plan = Conversion::plan_as(&loaded, layout, Types::Kept).unwrap_or_else(|error| panic!("{error}"));
    assert!(plan.write(target, &mut |_| true).unwrap_or_else(|error| panic!("{error}")));
}

/// Copies an F32 GGUF file and moves every weight that a quantised file would round by a random part of a
/// step.
fn add_noise(source: &Path, target: &Path, seed: u64, step: &dyn Fn(&[f32]) -> f32) {
    let model = load(source).unwrap();
    let mut bytes = std::fs::read(source).unwrap();
    let mut state = seed;
    let catalog = model.tensors.catalog();
    for tensor in catalog.tensors() {
        if tensor.shape.len() < 2 || tensor.name.contains("ffn_gate_inp") {
            continue;
        }
        let start = usize::try_from(tensor.offset).unwrap();
        let data = &mut bytes[start..start + usize::try_from(tensor.bytes).unwrap()];
        for block in data.chunks_exact_mut(32 * 4) {
            let values: Vec<f32> =
                block.chunks_exact(4).map(|at| f32::from_le_bytes(at.try_into().unwrap())).collect();
            let step = step(&values);
            for (at, value) in block.chunks_exact_mut(4).zip(values) {
                // Knuth's MMIX generator; its high bits are good enough for noise.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
                at.copy_from_slice(&(value + unit * step).to_le_bytes());
            }
        }
    }
    std::fs::write(target, bytes).unwrap();
}
