//! Folders converted to GGUF: the F32 file computes what the folder does, the Q8_0 file within the rounding of its
//! weights. Covers names, row order of Q and K, fused banks and metadata of every family.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod common;

use std::path::Path;

use common::{FAMILIES, Golden, distance, folder, golden, logits, model, session, spread};
use moelten_engine::kv_cache::KvFormat;
use moelten_engine::model::ModelOptions;
use moelten_loader::convert::Conversion;
use moelten_loader::load::load;
use moelten_quant::Format;

fn convert(family: &str, format: Format, dir: &Path) -> std::path::PathBuf {
    let loaded = load(&folder(family)).unwrap();
    let target = dir.join(format!("{family}-{format}.gguf"));
    let conversion = Conversion::plan(&loaded, &|_| format).unwrap();
    assert!(conversion.write(&target, &mut |_| true).unwrap());
    target
}

/// Rows of Q and K are permuted for families whose GGUF files pair neighbours, and Llama 3 divisors are rounded to
/// f32; nothing else may differ, so the bound is that of the goldens themselves.
#[test]
fn f32_files_match_the_goldens() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = golden(family);
        let file = convert(family, Format::F32, dir.path());
        let spec = load(&file).unwrap().spec;
        let source = load(&folder(family)).unwrap().spec;
        assert_eq!(spec.layers.len(), source.layers.len());
        assert_eq!(
            (spec.head, spec.embed_scale, spec.vocab),
            (source.head, source.embed_scale, source.vocab)
        );
        for (a, b) in spec.layers.iter().zip(&source.layers) {
            assert_eq!(a.ffn, b.ffn, "{family}");
        }
        let model = model(&file, ModelOptions::default());
        let (got, routes) = logits(&mut session(&model, KvFormat::F32), &golden.ids);
        let error = distance(&got, &golden.logits) / spread(&golden.logits);
        println!("{family:15} F32 file: worst logit error {error:.1e} of the spread");
        assert!(error <= 1e-3, "{family}: {error}");
        assert_eq!(routes.0, golden.routes, "{family}");
    }
}

/// What Q8_0 rounding may do to the logits is a property of the model, so it is measured on the model: the F32 file with
/// uniform noise of exactly the size of the rounding (half a step of `amax / 127` of each block of 32) in every weight
/// that Q8_0 rounds. Rounding is one draw of such noise, flipped routes included; twice the worst of several draws
/// bounds it with room for chance, and any error of layout, scale or kernel is far outside.
#[test]
fn q8_0_files_stay_within_the_rounding_of_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = golden(family);
        let got = deviation(&convert(family, Format::Q8_0, dir.path()), &golden);
        let exact = convert(family, Format::F32, dir.path());
        let noisy = (1..=6).map(|seed| {
            let file = dir.path().join("noisy.gguf");
            add_rounding_noise(&exact, &file, seed);
            deviation(&file, &golden)
        });
        let bound = 2.0 * noisy.fold(0.0, f32::max);
        println!("{family:15} Q8_0: rms logit error {got:.1e} of the spread, bound {bound:.1e}");
        assert!(got <= bound && bound < 1.0, "{family}: {got} is above {bound}");
    }
}

/// Root mean square of the logit errors of a file, in spreads.
fn deviation(file: &Path, golden: &Golden) -> f32 {
    let model = model(file, ModelOptions::default());
    let (got, _) = logits(&mut session(&model, KvFormat::F32), &golden.ids);
    let differences: Vec<f32> = got.iter().zip(&golden.logits).map(|(a, b)| a - b).collect();
    spread(&differences) / spread(&golden.logits)
}

/// Copies an F32 file, moving every weight that Q8_0 would round by a random part of its rounding step.
fn add_rounding_noise(source: &Path, target: &Path, seed: u64) {
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
            let value = |at: &[u8]| f32::from_le_bytes(at.try_into().unwrap());
            let step = block.chunks_exact(4).map(|at| value(at).abs()).fold(0.0, f32::max) / 127.0;
            for at in block.chunks_exact_mut(4) {
                // Knuth's MMIX generator; its high bits are good enough for noise.
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5;
                let moved = value(at) + unit * step;
                at.copy_from_slice(&moved.to_le_bytes());
            }
        }
    }
    std::fs::write(target, bytes).unwrap();
}

/// The kernels read Q8_0 as the format means it: the file and an F32 copy of its decoded weights compute the same.
#[test]
fn q8_0_files_compute_what_their_decoded_weights_do() {
    let dir = tempfile::tempdir().unwrap();
    for family in FAMILIES {
        let golden = golden(family);
        let q8 = convert(family, Format::Q8_0, dir.path());
        let loaded = load(&q8).unwrap();
        let decoded = dir.path().join("decoded.gguf");
        assert!(Conversion::plan(&loaded, &|_| Format::F32).unwrap().write(&decoded, &mut |_| true).unwrap());
        let run = |file: &Path| {
            let model = model(file, ModelOptions::default());
            logits(&mut session(&model, KvFormat::F32), &golden.ids)
        };
        let ((a, a_routes), (b, b_routes)) = (run(&q8), run(&decoded));
        assert!(distance(&a, &b) / spread(&b) <= 1e-4, "{family}");
        assert_eq!(a_routes.0, b_routes.0, "{family}");
    }
}
