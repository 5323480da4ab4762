//! Shape files of `bench`, in TOML and as `config.json`: any file is a shape or an error, and a shape keeps
//! its promises.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

/// What the file of shapes needs of the program.
mod exit {
    #[derive(Debug, thiserror::Error)]
    pub enum CommandError {
        #[error("{0}")]
        Usage(String),
    }
}

#[allow(dead_code, reason = "the program uses more of it")]
#[path = "../../tools/src/bench/shape.rs"]
mod shape;

fuzz_target!(|input: (bool, &[u8])| {
    let (toml, bytes) = input;
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join(if toml { "shape.toml" } else { "config.json" });
    fs::write(&path, bytes).expect("a temporary file");
    for layers in [None, Some(1), Some(usize::MAX)] {
        let Ok(found) = shape::found(&path.display().to_string(), layers) else { continue };
        assert!(!found.spec.layers.is_empty() && found.spec.vocab > 0 && found.spec.d_model > 0);
        assert!(layers.is_none_or(|layers| found.spec.layers.len() == layers));
    }
});
