//! `moelten models` with a generated home folder: all files are listed, whatever their names and damage.

use std::fs;
use std::path::Path;

use crate::common::{builtin, moelten, run};

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn models_are_listed_with_their_verdicts() {
    let home = tempfile::tempdir().unwrap();
    let model = fs::read(builtin()).unwrap();
    write(&home.path().join("models/good.gguf"), &model);
    write(&home.path().join("models/bad\u{1b}[31m.gguf"), &model[..4000]);
    write(&home.path().join("hf/hub/models--u--r/snapshots/1/cached.gguf"), &model);
    let mut command = moelten();
    command.arg("models").args(["--ctx", "64"]).current_dir(home.path());
    for name in ["HF_HUB_CACHE", "XDG_CACHE_HOME", "LLAMA_CACHE"] {
        command.env_remove(name);
    }
    let listed = run(command.env("HOME", home.path()).env("HF_HOME", home.path().join("hf")), b"").fine();
    let lines: Vec<_> = listed.text().lines().collect();
    let of = |name: &str| *lines.iter().find(|line| line.contains(name)).unwrap();
    assert_eq!(lines.len(), 5, "{lines:#?}");
    assert!(lines[0].starts_with("FITS") && lines[0].contains("MODEL"), "{lines:#?}");
    for name in ["good.gguf", "cached.gguf", "tiny-tales"] {
        assert!(of(name).starts_with("RAM ") && of(name).contains(" tok/s"), "{lines:#?}");
    }
    assert!(of("bad.gguf").starts_with("? "), "{lines:#?}");
}
