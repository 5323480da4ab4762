//! The system refuses what the program asks of it: `strace` lets chosen system calls of the real program
//! fail. Faults F01, F02, F08, F10 of the project's list; and that no command asks for a network.

use std::path::Path;
use std::process::Command;

use moelten_testing::skip;

use crate::common::{Outcome, builtin, clean, mini, run};

/// Why there is no test: `strace` is missing, or tracing is not allowed here.
const NONE: &str = "strace cannot trace programs here";

/// Runs the program under `strace` with these options of it.
fn traced(options: &[&str], line: &[&str]) -> Outcome {
    let mut command = clean(Command::new("strace"));
    command.args(["-f", "-qq"]).args(options).arg(env!("CARGO_BIN_EXE_moelten")).args(line);
    run(&mut command, b"")
}

/// Runs it so that `call` fails with `error` at the times that `when` says (`3`: the third; `3+`: from
/// there).
fn injected(call: &str, error: &str, when: &str, line: &[&str]) -> Outcome {
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={when}"));
    traced(&["-o", "/dev/null", "-e", &trace, "-e", &inject], line)
}

fn can_trace() -> bool {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    traced.is_ok_and(|traced| traced.status.success())
}

/// An answer of the built-in model, whose experts are read directly.
fn answer(error: &str, when: &str) -> Outcome {
    let model = builtin();
    let mut line = vec!["run", model.to_str().unwrap(), "-p", "hello", "--ram", "min", "--io", "direct"];
    line.extend(["--temp", "0", "--max-tokens", "12"]);
    injected("pread64", error, when, &line)
}

/// Number of the first read that is one of an expert: before it, headers and dense weights are read.
fn first_expert() -> u32 {
    (1..60).find(|read| answer("EIO", &format!("{read}+")).err.contains("E-IO-03")).unwrap()
}

#[test]
fn f01_reads_fail_from_some_point_on() {
    if !can_trace() {
        skip!("{NONE}");
    }
    let whole = answer("EIO", "60000").fine();
    let first = first_expert();
    for read in [first, first + 7, first + 40] {
        let outcome = answer("EIO", &format!("{read}+")).refused(6, "E-IO-03");
        assert!(outcome.err.contains("cannot read expert "), "{outcome:?}");
        assert!(outcome.err.contains("Input/output error"), "{outcome:?}");
        assert!(whole.text().starts_with(outcome.text().trim_end()), "the answer so far: {outcome:?}");
    }
}

#[test]
fn f02_a_read_that_fails_once_changes_nothing() {
    if !can_trace() {
        skip!("{NONE}");
    }
    let (whole, first) = (answer("EIO", "60000").fine(), first_expert());
    for read in [first, first + 5, first + 20] {
        assert_eq!(answer("EIO", &read.to_string()).fine().text(), whole.text(), "read {read}");
    }
}

/// The disk is unplugged: all reads fail from then on, with the errors of a device that is gone.
#[test]
fn f08_a_disk_that_is_removed() {
    if !can_trace() {
        skip!("{NONE}");
    }
    let first = first_expert();
    for error in ["ENODEV", "ENXIO", "ESTALE"] {
        answer(error, &format!("{}+", first + 11)).refused(6, "E-IO-03");
    }
}

/// Every system call that writes a file fails in turn: exit code 6, no final file, no orphan, and the next
/// conversion succeeds.
#[test]
fn f10_errors_of_the_system_end_a_conversion_cleanly() {
    if !can_trace() {
        skip!("{NONE}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (source, target) = (path("in.gguf"), path("out.gguf"));
    mini::write(Path::new(&source), &mini::keys(), &mini::tensors());
    let line = ["quantize", &source, &target, "--type", "q8_0", "--threads", "1"];
    let names = || {
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let log = tempfile::NamedTempFile::new().unwrap();
    for call in ["write", "ftruncate", "fsync", "rename", "close"] {
        let mut refused = 0;
        for when in 1.. {
            let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error=EIO:when={when}"));
            let options = ["-o", log.path().to_str().unwrap(), "-e", &trace, "-e", &inject];
            let outcome = traced(&options, &line);
            if !std::fs::read_to_string(log.path()).unwrap().contains("(INJECTED)") {
                std::fs::remove_file(&target).unwrap();
                break;
            }
            let left = names();
            let complete = left.contains(&"out.gguf".to_owned());
            if outcome.code == Some(0) {
                assert!(complete, "{call} {when}: {outcome:?}");
            } else {
                // Calls of the dynamic linker come first; they end the program before it begins. A message
                // that cannot be written is lost.
                let began = outcome.err.contains("error[") || call == "write";
                assert!(outcome.code == Some(6) || !began, "{call} {when}: {outcome:?}");
                assert!(!complete || outcome.err.contains("the file is complete"), "{call} {when}: {left:?}");
                refused += u32::from(began);
            }
            let resumable = ["in.gguf", "out.gguf.partial", "out.gguf.partial.journal"];
            let sound = left == ["in.gguf"] || left == ["in.gguf", "out.gguf"] || left == resumable;
            assert!(sound, "{call} {when}: {left:?}");
            for name in &left[1..] {
                std::fs::remove_file(folder.path().join(name)).unwrap();
            }
        }
        println!("{call}: {refused} conversions failed");
        assert!(refused > 0, "{call} never failed");
    }
}

/// There is no server in this program that F22 and B70 to B80 could be about, and models on this machine need
/// no hub: no command opens a socket. If one ever does, those faults have to be tested. Those of downloads,
/// F25, are: `tools/hub/tests/hub.rs`.
#[test]
fn f22_b70_to_b80_no_command_opens_a_socket() {
    if !can_trace() {
        skip!("{NONE}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (model, out, log) = (path("m.gguf"), path("out"), path("log"));
    mini::write(Path::new(&model), &mini::keys(), &mini::tensors());
    std::fs::write(path("text"), "hello there, you ".repeat(100)).unwrap();
    let text = path("text");
    for line in [
        &["run", &model, "-p", "hello", "--max-tokens", "2"][..],
        &["chat", &model, "--max-tokens", "2"],
        &["fit", &model, "--json"],
        &["models"],
        &["inspect", &model],
        &["quantize", &model, &out, "--type", "q8_0"],
        &["verify", &model],
        &["imatrix", &model, "--text", &text, "--out", &out, "--chunks", "1"],
        &["ppl", &model, "--text", &text, "--tokens", "64"],
        &["logits", &model, "--ids", "5,7", "--out", &out],
    ] {
        let mut command = clean(Command::new("strace"));
        command.args(["-f", "-qq", "-o", &log, "-e", "trace=socket,connect,bind,listen,accept4,sendto"]);
        command.env("HOME", folder.path()).arg(env!("CARGO_BIN_EXE_moelten")).args(line);
        run(&mut command, b"hello\n").fine();
        let log = std::fs::read_to_string(&log).unwrap();
        // A thread that ends with the process may leave a line without the name of a call.
        let calls: Vec<_> = log.lines().filter(|line| !line.contains("???( <detached")).collect();
        assert!(calls.is_empty(), "{line:?}: {calls:?}");
    }
    // Nor is there a command that would serve.
    assert_eq!(run(clean(Command::new(env!("CARGO_BIN_EXE_moelten"))).arg("serve"), b"").code, Some(2));
}
