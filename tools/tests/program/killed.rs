//! Runs that are ended by force: the next one says so, once, and says why if that is known.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::common::cgroup::{self, Group};
use crate::common::{BRIEF, Outcome, clean, moelten, run};

/// A text that takes a while to read.
fn long(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("long.txt");
    fs::write(&file, "a dog and a cat ".repeat(30_000)).unwrap();
    file
}

/// Runs that are open, by their files.
fn open(folder: &Path) -> usize {
    fs::read_dir(folder.join("moelten/running")).map_or(0, |entries| {
        let named = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|end| end == "json");
        entries.flatten().filter(named).count()
    })
}

/// A run that reads the long text, as soon as it has opened its model.
fn begun(folder: &Path, mut command: Command) -> Child {
    command.env("XDG_STATE_HOME", folder).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let started = Instant::now();
    while open(folder) == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "no run is open");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn reading(folder: &Path) -> Command {
    let mut command = moelten();
    command.args(["run", "--ctx", "200k", "--file"]).arg(long(folder));
    command
}

fn next(folder: &Path) -> Outcome {
    let mut command = moelten();
    run(command.args(["run", "-p", "hello"]).args(BRIEF).env("XDG_STATE_HOME", folder), b"").fine()
}

#[test]
fn a_run_that_was_killed_is_told_by_the_next_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = begun(folder.path(), reading(folder.path()));
    assert!(!next(folder.path()).err.contains("the last run"), "it is still running");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(open(folder.path()), 1);
    let told = next(folder.path()).err;
    assert!(told.contains("the last run of tiny-tales (built in) (just now) was ended"), "{told}");
    assert!(told.contains("At the last look it owned"), "{told}");
    assert!(!next(folder.path()).err.contains("the last run"), "it was said");
    assert_eq!(open(folder.path()), 0);
}

#[test]
fn a_run_that_was_asked_to_end_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for signal in ["TERM", "HUP", "INT"] {
        let mut child = begun(folder.path(), reading(folder.path()));
        let kill = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(kill.unwrap().success());
        child.wait().unwrap();
        assert_eq!(open(folder.path()), 0, "{signal}");
    }
}

#[test]
fn no_history_keeps_neither_the_run_nor_its_speed() {
    let folder = tempfile::tempdir().unwrap();
    let answer = |more: &[&str]| {
        let mut command = moelten();
        command.args(["run", "-p", "hello", "--temp", "1", "--max-tokens", "60", "--seed", "3"]).args(more);
        command.env("XDG_STATE_HOME", folder.path().join("state"));
        run(command.env("XDG_CACHE_HOME", folder.path().join("cache")), b"").fine();
        let speeds = folder.path().join("cache/moelten/speeds.json").exists();
        (folder.path().join("state/moelten/running").exists(), speeds)
    };
    assert_eq!(answer(&["--no-history"]), (false, false));
    assert_eq!(answer(&[]), (true, true));
}

/// The kernel itself ends a run whose control group is full.
#[test]
fn a_run_that_the_kernel_ended_is_told_with_its_memory() {
    let Some(group) = Group::new(60 << 20) else { skip!("{}", cgroup::NONE) };
    let folder = tempfile::tempdir().unwrap();
    let mut command = clean(Command::new("sh"));
    let line = "echo $$ > \"$0\"; exec \"$@\"";
    command.args(["-c", line]).arg(group.members()).arg(env!("CARGO_BIN_EXE_moelten"));
    command.args(["run", "--ctx", "200k", "--ram", "2G", "--file"]).arg(long(folder.path()));
    let mut child = begun(folder.path(), command);
    let status = child.wait().unwrap();
    if group.kills() == 0 {
        skip!("the system does not end processes of a full control group");
    }
    assert_eq!(status.code(), None, "{status:?}");
    let told = next(folder.path()).err;
    assert!(told.contains("was ended by the kernel, which ran out of memory"), "{told}");
    assert!(told.contains("of a budget of 2 GiB") && told.contains("give a smaller --ram"), "{told}");
}
