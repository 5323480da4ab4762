//! What is particular about Windows: names of files, files that are in use, pipes. `.ci/windows` runs it
//! under Wine.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use crate::common::{BRIEF, builtin, finish, moelten, run, start};

const NAME: &str = "kleines Modell & mehr.gguf";

/// The built-in model as a file whose path has blanks, signs of the shell, and letters of several alphabets.
struct Place {
    _root: tempfile::TempDir,
    folder: PathBuf,
    model: PathBuf,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("Größe (100 %) 日本");
        std::fs::create_dir(&folder).unwrap();
        let model = folder.join(NAME);
        std::fs::copy(builtin(), &model).unwrap();
        Self { _root: root, folder, model }
    }
}

fn answer(model: &str, folder: &Path, options: &[&str]) -> String {
    let mut command = moelten();
    command.current_dir(folder).args(["run", model, "-p", "Once upon a time"]).args(BRIEF).args(options);
    run(&mut command, b"").fine().text().to_owned()
}

#[test]
fn a_file_is_found_by_all_of_its_names() {
    let place = Place::new();
    let expected = answer(builtin().to_str().unwrap(), &place.folder, &[]);
    let full = place.model.to_str().unwrap();
    assert!(full[1..].starts_with(":\\"), "{full} begins with a drive");
    let names = [
        full.to_owned(),
        full.replace('\\', "/"),
        format!(r"\\?\{full}"),
        NAME.to_owned(),
        format!(r".\{NAME}"),
        // The current folder of a drive.
        format!("{}{NAME}", &full[..2]),
    ];
    for name in names {
        assert_eq!(answer(&name, &place.folder, &[]), expected, "{name}");
    }
}

#[test]
fn experts_that_are_read_from_the_disk_give_the_same_answer() {
    let place = Place::new();
    let expected = answer(NAME, &place.folder, &[]);
    for io in ["direct", "mmap", "auto"] {
        assert_eq!(answer(NAME, &place.folder, &["--ram", "min", "--io", io]), expected, "{io}");
    }
}

/// A chat that has answered once, and so has its model open.
struct Chat(Child, ChildStdin);

impl Chat {
    fn with(model: &Path) -> Self {
        let mut command = moelten();
        command.args(["chat", model.to_str().unwrap(), "--no-history"]).args(BRIEF);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut chat = start(&mut command);
        let mut input = chat.stdin.take().unwrap();
        input.write_all(b"Tell me about a dog.\n").unwrap();
        let mut first = String::new();
        BufReader::new(chat.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        assert!(!first.is_empty(), "it answers");
        Self(chat, input)
    }

    fn end(self) {
        let Self(chat, input) = self;
        drop(input);
        assert_eq!(finish(chat, Instant::now()).code, Some(0));
    }
}

fn quantize(target: &Path) -> Command {
    let mut command = moelten();
    command.args(["quantize", builtin().to_str().unwrap(), target.to_str().unwrap()]);
    command.args(["--type", "q4_0", "--allow-requantize", "--allow-fallback", "--force"]);
    command
}

#[test]
fn a_file_that_is_in_use_is_replaced_as_a_whole_or_stays() {
    let place = Place::new();
    let before = std::fs::read(&place.model).unwrap();
    let chat = Chat::with(&place.model);
    let outcome = run(&mut quantize(&place.model), b"");
    let now = std::fs::read(&place.model).unwrap();
    if outcome.code != Some(0) {
        let refused = outcome.refused(6, "E-IO-05");
        assert!(refused.err.contains("a program has the file open"), "{}", refused.err);
        assert!(now == before, "the model is as it was");
    }
    chat.end();
    run(&mut quantize(&place.model), b"").fine();
    assert!(std::fs::metadata(&place.model).unwrap().len() < before.len() as u64, "it is the new model");
    let entries = std::fs::read_dir(&place.folder).unwrap();
    let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [NAME], "nothing is left beside it");
    answer(NAME, &place.folder, &[]);
}

#[test]
fn a_reader_that_is_gone_ends_the_answer() {
    let mut command = moelten();
    command.arg("run").args(BRIEF);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (started, mut child) = (Instant::now(), start(&mut command));
    drop(child.stdout.take());
    // The question comes after that, so the answer does too.
    child.stdin.take().unwrap().write_all(b"Tell me about a dog.").unwrap();
    let outcome = finish(child, started);
    assert_eq!((outcome.code, outcome.err.as_str()), (Some(141), ""), "as on a Unix pipe");
}
