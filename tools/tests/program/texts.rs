//! Long texts and binary files: what is longer than the context or is not text is refused, and memory stays
//! within the budget whatever a file holds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::peak::Peak;
use crate::common::{Outcome, args, builtin, finish, moelten};

/// `--ram` of every run.
const BUDGET: u64 = 100 << 20;
/// Bytes that the process may own beyond its budget.
const MARGIN: u64 = 64 << 20;
/// Bytes of a long text.
const LONG: usize = 8 << 20;
/// Options that leave memory of the budget for nothing but the model.
const OPTIONS: [&str; 4] = ["--ram", "100M", "--max-tokens", "4"];

/// A file with the sentences of a tale, over and over.
fn long_text(folder: &Path) -> PathBuf {
    let sentence = "Once upon a time there was a lion who lived in a forest, and a bird that sang to him. ";
    write(folder, "long.txt", sentence.repeat(LONG / sentence.len()).as_bytes())
}

/// A file of random bytes.
fn no_text(folder: &Path) -> PathBuf {
    let mut state = 1_u64;
    let bytes: Vec<u8> = (0..LONG)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    write(folder, "random.bin", &bytes)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn start(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for the end and checks the peak of owned memory.
#[track_caller]
fn bounded(child: Child) -> Outcome {
    let peak = Peak::of(&child, Duration::from_millis(20));
    let outcome = finish(child, Instant::now());
    let peak = peak.bytes();
    assert!(peak <= BUDGET + MARGIN, "{} MiB owned of {}: {outcome:?}", peak >> 20, BUDGET >> 20);
    outcome
}

/// `moelten COMMAND MODEL` with these options and nothing on stdin.
fn command(name: &str, options: &[&str]) -> Command {
    let mut command = moelten();
    command.arg(name).arg(builtin()).args(options).stdin(Stdio::null());
    command
}

#[test]
fn a_text_longer_than_the_context_is_refused_with_its_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let text = long_text(folder.path());
    for template in [&[][..], &["--no-template"]] {
        let mut command = command("run", &OPTIONS);
        let outcome = bounded(start(command.arg("-f").arg(&text).args(template))).refused(2, "E-CTX-01");
        assert!(outcome.err.contains("the prompt has more than 1,024 tokens"), "{}", outcome.err);
        assert!(outcome.err.contains("8 MiB") && outcome.out.is_empty(), "{}", outcome.err);
    }
    let mut piped = command("run", &OPTIONS);
    let outcome = bounded(start(piped.stdin(fs::File::open(&text).unwrap()))).refused(2, "E-CTX-01");
    assert!(outcome.err.contains("more than 1,024 tokens"), "{}", outcome.err);
    let system = format!("@{}", text.display());
    bounded(start(command("run", &OPTIONS).args(["-p", "hello", "-s", &system]))).refused(2, "E-CTX-01");
}

#[test]
fn a_file_that_is_no_text_is_refused_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let file = no_text(folder.path());
    let path = file.to_str().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let system = format!("@{path}");
    for (name, options) in [
        ("run", &["-f", path][..]),
        ("run", &["-p", "hello", "-s", &system]),
        ("chat", &["-s", &system]),
        ("ppl", &["--text", path]),
        ("imatrix", &["--text", path, "--out", out]),
        ("bench", &["--text", path]),
    ] {
        let outcome = bounded(start(command(name, options).args(["--ram", "100M"]))).refused(2, "E-TEXT-01");
        assert!(outcome.err.contains("is not a text file"), "{name}: {}", outcome.err);
        assert!(outcome.err.contains("random.bin"), "{name}: {}", outcome.err);
    }
    let mut piped = command("run", &OPTIONS);
    let outcome = bounded(start(piped.stdin(fs::File::open(&file).unwrap()))).refused(2, "E-TEXT-01");
    assert!(outcome.err.contains("stdin is not text"), "{}", outcome.err);
}

#[test]
fn a_chat_refuses_files_that_are_too_long_or_no_text_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (text, random) = (long_text(folder.path()), no_text(folder.path()));
    let lines = format!("/file {}\n/file {}\nhello\n", text.display(), random.display());
    let input = write(folder.path(), "input", lines.as_bytes());
    let mut chat = command("chat", &OPTIONS);
    let outcome = bounded(start(chat.stdin(fs::File::open(&input).unwrap()))).fine();
    assert!(outcome.err.contains("long.txt (8 MiB, more than 1024 tokens)"), "{}", outcome.err);
    assert!(outcome.err.contains("not a text file"), "{}", outcome.err);
    assert!(!outcome.text().trim().is_empty(), "the question is answered: {outcome:?}");
}

#[test]
fn long_texts_are_measured_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let text = long_text(folder.path());
    let path = text.to_str().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let measured = bounded(start(&mut command("ppl", &["--text", path, "--tokens", "600", "--ram", "100M"])));
    assert!(measured.fine().text().contains("perplexity"));
    let imatrix = ["--text", path, "--out", out, "--chunks", "1", "--ram", "100M"];
    bounded(start(&mut command("imatrix", &imatrix))).fine();
    bounded(start(&mut command("bench", &["--text", path, "--repeat", "1", "--ram", "100M"]))).fine();
    // All of it: the run is stopped long after the text was tokenised.
    let child = start(&mut command("ppl", &["--text", path, "--ram", "100M"]));
    let pid = child.id().to_string();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(4));
        Command::new("kill").args(["-s", "INT", &pid]).status().unwrap()
    });
    assert_eq!(bounded(child).code, Some(130));
    assert!(stopper.join().unwrap().success());
}

#[test]
fn texts_that_fit_are_read_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| write(folder.path(), name, bytes).display().to_string();
    let answer =
        |path: &str| args(["run", "-f", path, "--max-tokens", "8", "--seed", "1", "--temp", "0"]).fine();
    let plain = answer(&file("a.txt", b"Tell me about a dog.\n"));
    assert_eq!(answer(&file("b.txt", b"Tell me about a dog.")).out, plain.out, "a last line end is no text");
    assert_eq!(
        answer(&file("c.txt", b"\xef\xbb\xbfTell me about a dog.")).out,
        plain.out,
        "nor is a byte order mark"
    );
    let utf16: Vec<u8> = "\u{feff}Tell me about a dog.".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(answer(&file("d.txt", &utf16)).out, plain.out);
    let latin1 = file("e.txt", b"Tell me about a caf\xe9.");
    let outcome = args(["run", "-f", &latin1]).refused(2, "E-TEXT-01");
    assert!(outcome.err.contains("byte 19 (0xe9) is not valid UTF-8"), "{outcome:?}");
}
