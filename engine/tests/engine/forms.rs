//! Folders whose matrices are arranged while they are read: gpt-oss as released, in four bits and transposed,
//! DBRX, 8-bit floats with scales, experts that lie as columns. They give what transformers gives, in memory
//! and streamed, and what is written from them is what they hold.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use moelten_engine::plan::{Experts, Io, Ram};
use moelten_engine::{KvFormat, Model};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::types::{Mixture, TypePlan};
use moelten_loader::convert::verify::verify;
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::load;
use moelten_quant::{Format, Isa};

use crate::common::{How, distance, golden_in, greedy, logits, model, run, session, spread, stepwise, whole};

/// Folders, and whether products with their weights are those of floats.
const FOLDERS: [(&str, bool); 5] = [
    ("gptoss-folder", true),
    ("gptoss-mxfp4", false),
    ("deepseek3-fp8", true),
    ("dbrx-folder", true),
    ("qwen3vlmoe", true),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Writes a folder in some type as a GGUF file.
fn quantise(folder: &Path, mixture: &str, layout: FileLayout, target: &Path) {
    let loaded = load(folder).unwrap();
    let types = TypePlan::new(&loaded, Mixture::named(mixture).unwrap(), &[], true).unwrap();
    let choose = |role| types.format(role);
    let plan = Conversion::plan_as(&loaded, layout, Types::Chosen(&choose)).unwrap();
    assert!(plan.write(target, &mut |_| true).unwrap());
}

#[test]
fn folders_match_transformers_on_every_instruction_set() {
    for (name, _) in FOLDERS.into_iter().filter(|(_, floats)| *floats) {
        let golden = golden_in(&path(name));
        for isa in Isa::available() {
            let model = model(&path(name), How { isa: Some(isa), ..Default::default() });
            let (got, routes) = logits(&mut session(&model, KvFormat::F32), &golden.ids);
            let error = distance(&got, &golden.logits) / spread(&golden.logits);
            println!("{name:15} {:8} worst logit error {error:.1e} of the spread", isa.name());
            assert!(error <= 1e-3, "{name} on {}: {error}", isa.name());
            assert_eq!(routes.0, golden.routes, "{name}: experts differ");
            let text = greedy(&mut session(&model, KvFormat::F32), &golden.ids, golden.greedy.len());
            assert_eq!(text, golden.greedy, "{name}");
        }
    }
}

/// Products with four bits round activations, so transformers is met by the weights in f32, and the file that
/// llama.cpp's converter made of the folder by the bits.
#[test]
fn four_bits_of_a_folder_are_those_of_its_file() {
    let (folder, dir) = (path("gptoss-mxfp4"), tempfile::tempdir().unwrap());
    let golden = golden_in(&folder);
    let file = model(&folder.join("model.gguf"), How::default());
    let own = model(&folder, How::default());
    let bank = own.tensors().bank(0);
    assert!(bank.expert(0).iter().all(|matrix| matrix.format == Format::Mxfp4));
    let bits = |model| whole(&mut session(model, KvFormat::F32), &golden.ids);
    assert!(bits(&own) == bits(&file), "the folder and its file differ");
    let exact = dir.path().join("exact.gguf");
    quantise(&folder, "f32", FileLayout::Standard, &exact);
    let (got, routes) = run(&exact, &golden.ids);
    let error = distance(&got, &golden.logits) / spread(&golden.logits);
    assert!(error <= 1e-3, "{error}");
    assert_eq!(routes, golden.routes);
}

#[test]
fn streaming_gives_the_same_bits() {
    for (name, _) in FOLDERS {
        let ids = golden_in(&path(name)).ids;
        let resident = model(&path(name), How::default());
        let expected = whole(&mut session(&resident, KvFormat::F32), &ids);
        for (ram, threads) in [(Ram::Min, 1), (Ram::Min, 3), (Ram::Auto, 2)] {
            let how = How { ram, io: Io::Direct, threads: Some(threads), ..Default::default() };
            let model = model(&path(name), how);
            assert!(matches!(model.plan().experts, Experts::Cached(_)), "{name}");
            assert!(whole(&mut session(&model, KvFormat::F32), &ids) == expected, "{name} {ram:?}");
            assert!(stepwise(&mut session(&model, KvFormat::F32), &ids) == expected, "{name} {ram:?}");
            assert!(ram != Ram::Min || model.experts().stats().bytes_read > 0, "{name}: nothing was read");
        }
    }
}

/// Memory for arranging is in the plan, and a file that is not there cannot be mapped.
#[test]
fn what_is_arranged_is_planned() {
    let runtime = How::default().runtime();
    for (name, _) in FOLDERS.into_iter().filter(|(name, _)| *name != "qwen3vlmoe") {
        let loaded = load(&path(name)).unwrap();
        assert!(loaded.tensors.arranges_experts(), "{name}");
        let how = How { io: Io::Mmap, ..Default::default() };
        let refused = Model::new(&runtime, loaded.spec, loaded.tensors, &how.options()).err().unwrap();
        assert!(refused.to_string().contains("arranged while they are read"), "{refused}");
        let model = model(&path(name), How::default());
        assert!(model.plan().arranging > 0, "{name}");
        assert_eq!(model.plan().mapped(), 0, "{name}");
    }
}

/// What is written from a folder holds its weights, in either layout, and says what it was made from.
#[test]
fn files_written_from_folders_hold_their_weights() {
    let dir = tempfile::tempdir().unwrap();
    for (name, _) in FOLDERS {
        let golden = golden_in(&path(name));
        let exact = dir.path().join("exact.gguf");
        quantise(&path(name), "f32", FileLayout::Standard, &exact);
        let (got, routes) = run(&exact, &golden.ids);
        let error = distance(&got, &golden.logits) / spread(&golden.logits);
        assert!(error <= 1e-3, "{name}: {error}");
        assert_eq!(routes, golden.routes, "{name}");
        let source = load(&path(name)).unwrap();
        let report = verify(&load(&exact).unwrap(), Some(&source), 2, &mut |_, _| true).unwrap().unwrap();
        assert_eq!(report.damage, [], "{name}");
        assert!(report.classes.values().all(|class| class.distance.unwrap().largest == 0.0), "{name}");
    }
    // Blocks that stay as they are, in records.
    let (kept, folder) = (dir.path().join("kept.gguf"), path("gptoss-mxfp4"));
    quantise(&folder, "mxfp4", FileLayout::Packed, &kept);
    let (kept, folder) = (load(&kept).unwrap(), load(&folder).unwrap());
    for (a, b) in kept.tensors.bank(1).iter().zip(folder.tensors.bank(1).iter()) {
        for (a, b) in a.iter().zip(b) {
            let rows = |tensors: &moelten_loader::tensors::store::TensorStore, matrix| {
                tensors.rows(matrix, 0..matrix.rows).unwrap().into_owned()
            };
            assert!(rows(&kept.tensors, a) == rows(&folder.tensors, b));
        }
    }
}

/// Delta nets by key head, delta nets whose value heads files reorder, short convolutions: the file says the
/// same.
#[test]
fn folders_with_recurrences_are_written_as_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["qwen3next", "qwen35moe", "lfm2moe"] {
        let golden = golden_in(&path(name));
        let exact = dir.path().join("exact.gguf");
        quantise(&path(name), "f32", FileLayout::Standard, &exact);
        let (got, routes) = run(&exact, &golden.ids);
        let error = distance(&got, &golden.logits) / spread(&golden.logits);
        assert!(error <= 1e-3, "{name}: {error}");
        assert_eq!(routes, golden.routes, "{name}");
        let source = load(&path(name)).unwrap();
        let file = load(&exact).unwrap();
        let report = verify(&file, Some(&source), 2, &mut |_, _| true).unwrap().unwrap();
        assert_eq!(report.damage, [], "{name}");
        assert!(report.classes.values().all(|class| class.distance.unwrap().largest == 0.0), "{name}");
        // In eight bits, streamed: every matrix has a type that its rows allow.
        let small = dir.path().join("small.gguf");
        quantise(&path(name), "q8_0", FileLayout::Packed, &small);
        let how = How { ram: Ram::Min, io: Io::Direct, ..Default::default() };
        let bits = |how| whole(&mut session(&model(&small, how), KvFormat::F32), &golden.ids);
        assert!(bits(how) == bits(How::default()), "{name}");
    }
}

/// Qwen3-VL-MoE is published with experts that lie as columns. Its golden has rows; both have to give the
/// same bits.
#[test]
fn experts_may_lie_as_columns() {
    let dir = tempfile::tempdir().unwrap();
    transposed(&path("qwen3vlmoe"), dir.path());
    let loaded = load(dir.path()).unwrap();
    assert!(loaded.tensors.arranges_experts());
    let ids = golden_in(&path("qwen3vlmoe")).ids;
    let bits = |path: &Path| whole(&mut session(&model(path, How::default()), KvFormat::F32), &ids);
    assert!(bits(dir.path()) == bits(&path("qwen3vlmoe")));
}

/// Copies a folder with the matrices of its banks transposed.
fn transposed(from: &Path, to: &Path) {
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let file = SafeTensors::open(&from.join("model.safetensors")).unwrap();
    let (mut header, mut data) = (String::from("{"), Vec::new());
    for tensor in file.catalog().tensors() {
        let bytes = file.catalog().bytes(tensor);
        let (mut shape, start) = (tensor.shape.clone(), data.len());
        if let [experts, rows, cols] = *tensor.shape.as_slice() {
            shape = vec![experts, cols, rows];
            let [experts, rows, cols] = [experts, rows, cols].map(|n| usize::try_from(n).unwrap());
            for expert in bytes.chunks_exact(bytes.len() / experts) {
                for i in 0..rows * cols {
                    let (col, row) = (i / rows, i % rows);
                    data.extend_from_slice(&expert[2 * (row * cols + col)..][..2]);
                }
            }
        } else {
            data.extend_from_slice(bytes);
        }
        let comma = if header.len() > 1 { "," } else { "" };
        let (name, kind, end) = (&tensor.name, tensor.storage.name(), data.len());
        write!(
            header,
            "{comma}\"{name}\":{{\"dtype\":\"{kind}\",\"shape\":{shape:?},\"data_offsets\":[{start},{end}]}}"
        )
        .unwrap();
    }
    header.push('}');
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&data);
    std::fs::write(to.join("model.safetensors"), out).unwrap();
}

/// A copy of a folder whose header has `new` in place of `old`, which is as long.
fn patched(name: &str, old: &str, new: &str) -> (tempfile::TempDir, String) {
    assert_eq!(old.len(), new.len());
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(path(name).join("config.json"), dir.path().join("config.json")).unwrap();
    let mut bytes = std::fs::read(path(name).join("model.safetensors")).unwrap();
    let at = bytes.windows(old.len()).position(|part| part == old.as_bytes()).expect("the header has it");
    bytes[at..at + old.len()].copy_from_slice(new.as_bytes());
    std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
    let error = load(dir.path()).expect_err("it is damaged").to_string();
    (dir, error)
}

#[test]
fn scales_that_are_missing_or_do_not_fit_are_named() {
    let (_dir, error) = patched("deepseek3-fp8", "o_proj.weight_scale_inv", "o_proj.weight_scale_off");
    assert!(error.contains("o_proj.weight_scale_inv") && error.contains("scales"), "{error}");
    let (_dir, error) = patched(
        "deepseek3-fp8",
        "down_proj.weight_scale_inv\":{\"dtype\":\"F32\"",
        "down_proj.weight_scale_inv\":{\"dtype\":\"I32\"",
    );
    assert!(error.contains("down_proj.weight_scale_inv") && error.contains("I32"), "{error}");
    let (_dir, error) = patched("gptoss-mxfp4", "down_proj_scales", "down_proj_scalez");
    assert!(error.contains("down_proj_blocks"), "{error}");
    let (_dir, error) = patched("gptoss-mxfp4", "[8,64,2]", "[8,2,64]");
    assert!(error.contains("_scales") && error.contains("[8, 2, 64]"), "{error}");
    let (_dir, error) = patched("gptoss-folder", "down_proj_bias", "down_proj_biaz");
    assert!(error.contains("down_proj_bias"), "{error}");
}

#[test]
fn weights_quantised_in_other_ways_are_refused_with_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = std::fs::read_to_string(path("deepseek3-fp8").join("config.json")).unwrap();
    std::fs::write(dir.path().join("config.json"), config.replace("\"fp8\"", "\"gptq\"")).unwrap();
    std::fs::copy(path("deepseek3-fp8").join("model.safetensors"), dir.path().join("model.safetensors"))
        .unwrap();
    let error = load(dir.path()).unwrap_err().to_string();
    assert!(error.contains("gptq") && error.contains("GGUF"), "{error}");
}
