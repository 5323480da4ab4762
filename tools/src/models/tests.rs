//! Discovery on a made-up home, and verdicts of what is found.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use moelten_tui::screen::Verdict;

use super::{ModelInspector, Places};
use crate::open::{SessionArgs, builtin};

/// The options that commands share.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    session: SessionArgs,
}

fn session(options: &[&str]) -> SessionArgs {
    Options::parse_from([&["test", "--threads", "1"], options].concat()).session
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn tiny() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-tales.gguf")).unwrap()
}

/// Names and places of what is found.
fn found(places: &Places) -> Vec<(String, String)> {
    places.candidates().0.into_iter().map(|candidate| (candidate.name, candidate.place)).collect()
}

fn pair(name: &str, place: &str) -> (String, String) {
    (name.to_owned(), place.to_owned())
}

fn places(root: &Path, set: &[(&str, PathBuf)]) -> Places {
    let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, path)| path.clone());
    Places::of(Some(root.join("here")), Some(root.join("home")), None, value)
}

#[test]
fn models_are_found_where_people_keep_them() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for path in [
        "here/a.gguf",
        "here/notes.txt",
        "here/deeper/not-looked-at.gguf",
        "here/models/m.gguf",
        "home/models/maker/big/b-00001-of-00002.gguf",
        "home/models/maker/big/b-00002-of-00002.gguf",
        "home/models/folder/config.json",
        "home/models/folder/model.safetensors",
        "home/models/.hidden/h.gguf",
        "home/.cache/llama.cpp/c.gguf",
        "home/.lmstudio/models/u/r/l.gguf",
        "home/.cache/huggingface/hub/datasets--u--d/snapshots/1/x.gguf",
    ] {
        write(&at(path), b"");
    }
    let expected = [
        pair("a.gguf", "the current folder"),
        pair("m.gguf", "models"),
        pair("folder", "~/models"),
        pair("b-00001-of-00002.gguf", "~/models"),
        pair("c.gguf", "llama.cpp's cache"),
        pair("l.gguf", "LM Studio's models"),
        pair(builtin::NAME, "built in"),
    ];
    assert_eq!(found(&places(root.path(), &[])), expected);
    let nowhere = Places::of(None, None, None, |_| None);
    assert_eq!(found(&nowhere), expected[6..]);
}

#[test]
fn models_are_found_in_the_folder_of_the_current_one() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    for path in [
        "mnt/open.gguf",
        "mnt/other.gguf",
        "mnt/deeper/not-looked-at.gguf",
        "folders/open/config.json",
        "folders/open/model.safetensors",
        "folders/other/config.json",
        "folders/other/model.safetensors",
    ] {
        write(&at(path), b"");
    }
    let beside = |model: &str| {
        let found = found(&places(root.path(), &[]).and_beside(Some(&at(model))));
        found
            .into_iter()
            .filter(|(_, place)| place == "the folder of the current model")
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(beside("mnt/open.gguf"), ["open.gguf", "other.gguf"]);
    assert_eq!(beside("folders/open"), ["open", "other"]);
    assert_eq!(found(&places(root.path(), &[]).and_beside(None)).len(), 1, "the built-in model");
}

#[test]
fn the_hugging_face_cache_is_read_as_it_is_laid_out() {
    let root = tempfile::tempdir().unwrap();
    let hub = root.path().join("hub");
    // Two revisions of which `main` names one, a repository with a folder for each variant, one without
    // `main`, one without weights.
    for path in [
        "models--u--two/snapshots/old/old.gguf",
        "models--u--two/snapshots/new/new.gguf",
        "models--u--variants/snapshots/1/q4/v-q4.gguf",
        "models--u--variants/snapshots/1/q8/v-q8.gguf",
        "models--o--folder/snapshots/9/config.json",
        "models--o--folder/snapshots/9/model-00001-of-00002.safetensors",
        "models--o--tokenizer/snapshots/9/tokenizer.json",
        "version.txt",
    ] {
        write(&hub.join(path), b"");
    }
    write(&hub.join("models--u--two/refs/main"), b"new\n");
    write(&hub.join("models--u--variants/refs/main"), b"../../../outside");
    let expected = [
        pair("o/folder", "o/folder in the Hugging Face cache"),
        pair("new.gguf", "u/two in the Hugging Face cache"),
        pair("v-q4.gguf", "u/variants in the Hugging Face cache"),
        pair("v-q8.gguf", "u/variants in the Hugging Face cache"),
        pair(builtin::NAME, "built in"),
    ];
    assert_eq!(found(&places(root.path(), &[("HF_HUB_CACHE", hub.clone())])), expected);
    assert_eq!(found(&places(root.path(), &[("HF_HOME", root.path().to_owned())])), expected);
    assert_eq!(found(&places(root.path(), &[("HF_HOME", "".into())])), expected[4..]);
}

#[cfg(unix)]
#[test]
fn links_to_one_file_are_one_model_and_links_to_none_are_shown() {
    let root = tempfile::tempdir().unwrap();
    let at = |path: &str| root.path().join(path);
    write(&at("home/models/blob.gguf"), &tiny());
    fs::create_dir_all(at("here")).unwrap();
    std::os::unix::fs::symlink(at("home/models/blob.gguf"), at("here/link.gguf")).unwrap();
    std::os::unix::fs::symlink(at("nothing"), at("here/broken.gguf")).unwrap();
    let places = places(root.path(), &[]);
    let names: Vec<_> = found(&places).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["broken.gguf", "link.gguf", builtin::NAME]);
    let session = session(&[]);
    let broken = ModelInspector::new(&session, 0).look(&places.candidates().0[0]);
    assert!(
        matches!(&broken.verdict, Verdict::Unreadable(why) if why.contains("No such file")),
        "{broken:?}"
    );
}

#[test]
fn each_model_has_its_verdict() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join("here").join(name);
    write(&at("good.gguf"), &tiny());
    write(&at("short.gguf"), &tiny()[..5000]);
    let (candidates, notes) = places(root.path(), &[]).candidates();
    assert!(notes.is_empty(), "{notes:?}");
    let look = |options: &[&str]| {
        let session = session(options);
        let mut inspector = ModelInspector::new(&session, 0);
        candidates.iter().map(|candidate| inspector.look(candidate)).collect::<Vec<_>>()
    };
    let all = look(&["--ctx", "64"]);
    let [good, short, carried] = &all[..] else { panic!("{all:?}") };
    assert!(matches!(&good.verdict, Verdict::Ram(speed) if speed.contains("tok/s (")), "{good:?}");
    assert_eq!(good.bytes, Some(tiny().len() as u64));
    assert!(good.kind.ends_with(" Q8_0"), "{good:?}");
    assert!(matches!(&short.verdict, Verdict::Unreadable(why) if !why.is_empty()), "{short:?}");
    assert!(carried.verdict.runs() && carried.path.is_none(), "{carried:?}");
    assert!(matches!(&look(&["--ram", "min"])[0].verdict, Verdict::Stream(_)));
    assert!(matches!(&look(&["--ram", "1M"])[0].verdict, Verdict::No(why) if why.contains("needs")));
}
