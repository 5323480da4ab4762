//! Every family against Hugging Face transformers with the same bfloat16 weights in f32: logits at every
//! position, chosen experts, and greedy text. See `golden/README.md`.

#[path = "engine/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::pair::{PairGolden, compare_pair, pair_in};
use common::{
    FAMILIES, Golden, How, NARROW, distance, folder, golden, golden_in, greedy, logits, model, on, session,
    spread, whole,
};
use moelten_engine::plan::SequenceOptions;
use moelten_engine::runtime::Runtime;
use moelten_engine::{KvFormat, Sequence};
use moelten_loader::error::LoadError;
use moelten_loader::load::load;
use moelten_quant::Isa;

#[test]
fn logits_and_routes_match_on_every_instruction_set() {
    let tiers = Isa::available();
    println!("instruction sets covered: {}", tiers.iter().map(|i| i.name()).collect::<Vec<_>>().join(", "));
    for family in FAMILIES.into_iter().chain(NARROW) {
        let golden = golden(family);
        for &isa in &tiers {
            let model = model(&folder(family), How { isa: Some(isa), ..Default::default() });
            let (got, routes) = logits(&mut session(&model, KvFormat::F32), &golden.ids);
            let error = distance(&got, &golden.logits) / spread(&golden.logits);
            println!("{family:15} {:8} worst logit error {error:.1e} of the spread", isa.name());
            assert!(error <= 1e-3, "{family} on {}: {error}", isa.name());
            assert_eq!(routes.0, golden.routes, "{family}: experts differ");
        }
    }
}

#[test]
fn greedy_text_matches() {
    for family in FAMILIES.into_iter().chain(NARROW) {
        let golden = golden(family);
        let model = model(&folder(family), How::default());
        let got = greedy(&mut session(&model, KvFormat::F32), &golden.ids, golden.greedy.len());
        assert_eq!(got, golden.greedy, "{family}");
    }
}

#[test]
fn half_precision_kv_stays_close() {
    for family in FAMILIES.into_iter().chain(NARROW) {
        let golden = golden(family);
        let model = model(&folder(family), How::default());
        let (got, _) = logits(&mut session(&model, KvFormat::F16), &golden.ids[..1]);
        // The first token attends to itself alone: only its value is rounded, to 11 bits. So the first
        // position bounds the error before any route can change.
        let vocab = model.spec().vocab;
        let error = distance(&got, &golden.logits[..vocab]) / spread(&golden.logits);
        assert!(error <= 2e-2, "{family}: {error}");
    }
}

/// Why four bits are not compared: `make_exact.py` makes folders in F32 of them, which are.
const ROUNDED: &str = "products with MXFP4 round activations to 8 bits";

/// Files that say less than the folder beside them, or something else, and what it is; and whether that holds
/// for the folder as well.
const OTHER_FILES: [(&str, &str, bool); 5] = [
    ("deepseek4-fp4", ROUNDED, true),
    ("deepseek4-fp8fp4", ROUNDED, true),
    ("mistral4", "no key says how queries grow with their position", false),
    ("gptoss-mxfp4", ROUNDED, true),
    ("phi3-longrope-cross", "the text crosses the original context", true),
];

/// Every family in the folders that `MOELTEN_FAMILIES` lists, separated by colons: as a folder and as
/// `model.gguf`, which another program made. Families that are not supported are printed.
#[test]
#[ignore = "needs MOELTEN_FAMILIES, folders of model folders with golden.safetensors"]
fn families_elsewhere_match() {
    let folders = std::env::var("MOELTEN_FAMILIES").expect("MOELTEN_FAMILIES names folders");
    let runtime = How::default().runtime();
    let (mut checked, mut faults) = (0, Vec::new());
    for family in folders.split(':').flat_map(|folder| families_in(Path::new(folder))) {
        let name = family.file_name().unwrap().to_string_lossy().into_owned();
        let pair = pair_in(&family);
        let file = family.join("model.gguf");
        let other = OTHER_FILES.iter().find(|(other, ..)| *other == name);
        let is_folder = family.join("model.safetensors").exists();
        let paths = [(is_folder, family.clone()), (file.exists(), file)];
        for (_, path) in paths.iter().filter(|(there, _)| *there) {
            if let Some((_, why, _)) = other.filter(|(_, _, all)| *all || path.ends_with("model.gguf")) {
                println!("{name}: not compared: {why}");
                continue;
            }
            match load(path) {
                Err(error @ LoadError::Unsupported { .. }) => println!("{name}: {error}"),
                Err(error) => faults.push(format!("{}: {error}", path.display())),
                Ok(_) => {
                    faults.extend(match &pair {
                        Some(golden) => compare_encoded(&runtime, path, golden),
                        None => compare(&runtime, path, &golden_in(&family)),
                    });
                    checked += 1;
                }
            }
        }
    }
    println!("{checked} folders and files were compared");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked > 0, "no family was compared");
}

/// A folder with experts in four bits has the bits of the file that llama.cpp's converter made of it.
#[test]
#[ignore = "needs MOELTEN_FAMILIES, folders of model folders with golden.safetensors"]
fn four_bits_elsewhere_are_those_of_the_file() {
    let folders = std::env::var("MOELTEN_FAMILIES").expect("MOELTEN_FAMILIES names folders");
    let mut checked = 0;
    for family in folders.split(':').flat_map(|folder| families_in(Path::new(folder))) {
        let name = family.file_name().unwrap().to_string_lossy().into_owned();
        let file = family.join("model.gguf");
        let rounded = OTHER_FILES.iter().any(|(other, why, _)| *other == name && *why == ROUNDED);
        if !rounded || !file.exists() {
            continue;
        }
        let ids = golden_in(&family).ids;
        let bits = |path: &Path| {
            let model = model(path, How::default());
            let options = SequenceOptions { context: Some(ids.len()), kv: KvFormat::F32 };
            whole(&mut Sequence::new(model, options).expect("a sequence"), &ids)
        };
        assert!(bits(&family) == bits(&file), "{name}: the folder and its file differ");
        println!("{name}: the folder has the bits of its file");
        checked += 1;
    }
    assert!(checked > 0, "no family has experts in four bits and a file");
}

/// The model folders in a folder, or the folder itself.
fn families_in(folder: &Path) -> Vec<PathBuf> {
    let is_family = |path: &PathBuf| path.join("golden.safetensors").exists();
    if is_family(&folder.to_owned()) {
        return vec![folder.to_owned()];
    }
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut found: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).filter(is_family).collect();
    found.sort();
    found
}

/// The same for a model with an encoder.
fn compare_encoded(runtime: &Arc<Runtime>, path: &Path, golden: &PairGolden) -> Option<String> {
    let (error, wrong) = compare_pair(&on(runtime, path, How::default()), golden);
    println!("{}: worst logit error {error:.1e} of the spread", path.display());
    (!wrong.is_empty()).then(|| format!("{}: {}", path.display(), wrong.join("; ")))
}

/// What differs between a model and its golden.
fn compare(runtime: &Arc<Runtime>, path: &Path, golden: &Golden) -> Option<String> {
    let model = on(runtime, path, How::default());
    let context = golden.ids.len() + golden.greedy.len();
    let options = SequenceOptions { context: Some(context), kv: KvFormat::F32 };
    let sequence = || Sequence::new(Arc::clone(&model), options).expect("a sequence");
    let (got, routes) = logits(&mut sequence(), &golden.ids);
    if got.len() != golden.logits.len() {
        return Some(format!("{}: {} logits, not {}", path.display(), got.len(), golden.logits.len()));
    }
    let error = distance(&got, &golden.logits) / spread(&golden.logits);
    println!("{}: worst logit error {error:.1e} of the spread", path.display());
    let text = greedy(&mut sequence(), &golden.ids, golden.greedy.len());
    let mut wrong = Vec::new();
    if error.is_nan() || error > 1e-3 {
        wrong.push(format!("logits differ by {error:.1e} of their spread"));
    }
    if !golden.routes.is_empty() && routes.0 != golden.routes {
        wrong.push("experts differ".to_owned());
    }
    if text != golden.greedy {
        wrong.push(format!("the text is {text:?}, not {:?}", golden.greedy));
    }
    (!wrong.is_empty()).then(|| format!("{}: {}", path.display(), wrong.join("; ")))
}
