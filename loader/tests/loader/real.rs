//! Files that other programs wrote.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::path::{Path, PathBuf};

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::hf_folder::HfFolder;
use moelten_loader::container::open::{ModelFiles, open_model};
use moelten_loader::container::safetensors::SafeTensors;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths
}

#[test]
#[ignore = "needs MOELTEN_VOCABULARIES, a folder of real vocabularies"]
fn vocabulary_files_open() {
    let folder = std::env::var_os("MOELTEN_VOCABULARIES").expect("MOELTEN_VOCABULARIES names a folder");
    let mut opened = 0;
    for path in entries(Path::new(&folder)) {
        if path.extension().is_none_or(|e| e != "gguf") {
            continue;
        }
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.notices, [""; 0], "{path:?}");
        let tokens = gguf.metadata.require_strings("tokenizer.ggml.tokens").unwrap();
        let types = gguf.metadata.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
        assert_eq!(tokens.len(), types.len(), "{path:?}");
        opened += 1;
    }
    assert!(opened >= 6, "{opened} files");
}

#[test]
fn golden_folders_open() {
    golden_folders(&here().join("../engine/tests/golden"), 12);
}

#[test]
#[ignore = "needs MOELTEN_GOLDEN, a folder of model folders with golden.safetensors"]
fn more_golden_folders_open() {
    let folder = std::env::var_os("MOELTEN_GOLDEN").expect("MOELTEN_GOLDEN names a folder");
    golden_folders(Path::new(&folder), 17);
}

fn golden_folders(folder: &Path, least: usize) {
    let mut opened = 0;
    for folder in entries(folder).into_iter().filter(|path| path.is_dir()) {
        // Some models have a GGUF file alone.
        let file = folder.join("model.gguf");
        let catalog = match open_model(if file.exists() { &file } else { &folder }) {
            Ok(ModelFiles::Hf(hf)) => {
                assert!(hf.config["model_type"].is_string());
                hf.catalog
            }
            Ok(ModelFiles::Gguf(gguf)) => gguf.catalog,
            Err(error) => panic!("{folder:?}: {error}"),
        };
        for tensor in catalog.tensors() {
            // Bytes of the first two are arranged to blocks when they are read; the third are numbers.
            let other = matches!(tensor.storage, Storage::Other("F8_E4M3" | "U8" | "I64"));
            let known = other || matches!(tensor.storage, Storage::Known(_));
            assert!(known, "{} in {}", tensor.name, tensor.storage.name());
            assert_eq!(catalog.bytes(tensor).len() as u64, tensor.bytes);
        }
        let golden = SafeTensors::open(&folder.join("golden.safetensors")).unwrap();
        // A model of images has classes, not tokens.
        let scores = golden.catalog().tensors().iter().find(|tensor| tensor.name.ends_with("scores"));
        if scores.is_none() {
            let (ids_shape, ids) = golden.i32s("input_ids").unwrap();
            assert_eq!(ids_shape, [ids.len() as u64]);
        }
        let (logits_shape, logits) = golden.f32s(scores.map_or("logits", |scores| &scores.name)).unwrap();
        assert_eq!(logits_shape.iter().product::<u64>(), logits.len() as u64);
        assert!(logits.iter().all(|x| x.is_finite()));
        opened += 1;
    }
    assert!(opened >= least, "{opened} folders");
}

#[test]
fn a_generation_config_is_found() {
    let (folder, golden) = (tempfile::tempdir().unwrap(), here().join("../engine/tests/golden/mixtral"));
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
    }
    assert!(HfFolder::open(folder.path()).unwrap().generation_config.is_none());
    let file = "generation_config.json";
    std::fs::copy(here().join("tests/tiny-tales").join(file), folder.path().join(file)).unwrap();
    let hf = HfFolder::open(folder.path()).unwrap();
    assert!(hf.generation_config.is_some());
}
