//! Files that another process writes between opening and use: what was understood at opening stays, weights
//! alone are read where they lie.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::hf_folder::HfFolder;
use moelten_loader::text::gguf_vocab;

use crate::common::{Folder, GgufBytes, safetensors};

/// Overwrites bytes of a file in place, through a handle of its own.
fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(offset)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn the_header_of_a_gguf_file_is_a_copy() {
    let folder = Folder::new();
    let sound = GgufBytes::sound().text("tokenizer.ggml.model", "gpt2").build();
    let path = folder.file("m.gguf", &sound);
    let gguf = Gguf::open(&path).unwrap();
    let tensor = gguf.catalog.get("a").unwrap().clone();
    // No byte of the header is valid UTF-8, a count or an offset any more.
    overwrite(&path, 0, &vec![0xff; usize::try_from(tensor.offset).unwrap()]);
    overwrite(&path, tensor.offset, &2_f32.to_le_bytes());

    assert_eq!(gguf.metadata.require_str("general.architecture").unwrap(), "llama");
    assert_eq!(gguf_vocab(&gguf.metadata).unwrap().0.tokens, ["a", "b"]);
    assert_eq!(gguf.catalog.get("a"), Some(&tensor));
    let values = gguf.catalog.bytes(&tensor);
    assert_eq!(values.len(), 32);
    if cfg!(unix) {
        assert_eq!(values[..4], 2_f32.to_le_bytes(), "weights are those of the file");
    }
    assert!(Gguf::open(&path).is_err(), "whoever opens it now sees the change");
}

#[test]
fn configuration_and_headers_of_a_folder_are_copies() {
    let header = br#"{"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}"#;
    let folder = Folder::hf(&safetensors(header, 16));
    let hf = HfFolder::open(folder.path()).unwrap();
    overwrite(&folder.path().join("config.json"), 0, &[0xff; 20]);
    overwrite(&folder.path().join("model.safetensors"), 0, &[0xff; 60]);

    assert_eq!(hf.config["model_type"], "llama");
    let tensor = hf.catalog.get("t").unwrap();
    assert_eq!((tensor.shape.as_slice(), hf.catalog.bytes(tensor)), (&[4][..], &[0; 16][..]));
    assert!(HfFolder::open(folder.path()).is_err());
}
