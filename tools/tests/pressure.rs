//! F17: memory gets tight while a chat goes on, really: other processes fill the control group that it runs
//! in.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{BRIEF, builtin, clean};

const LIMIT: u64 = 320 << 20;
/// Leaves less than the 96 MiB that the program wants to stay free, and more than nothing.
const BALLAST: u64 = 250 << 20;

/// A control group with a limit, removed when it goes.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let name = format!("moelten-test-{}", std::process::id());
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        versions.into_iter().find_map(|(mount, limit)| {
            let group = Path::new(mount).join(&name);
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::write(group.0.join(limit), LIMIT.to_string()).ok()?;
            Some(group)
        })
    }

    /// Runs `line` of shell inside; `$M` is the program and `$F` its model.
    fn shell(&self, line: &str) -> Child {
        let line = format!("echo $$ > {}/cgroup.procs && {line}", self.0.display());
        let mut command = clean(Command::new("sh"));
        command.env("M", env!("CARGO_BIN_EXE_moelten")).env("F", builtin()).args(["-c", &line]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn number(&self, name: &str) -> u64 {
        fs::read_to_string(self.0.join(name)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    fn used(&self) -> u64 {
        self.number("memory.usage_in_bytes").max(self.number("memory.current"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let started = Instant::now();
        // Processes that have ended leave it a moment later.
        while fs::remove_dir(&self.0).is_err() && started.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn f17_the_cache_shrinks_when_others_need_memory() {
    let Some(group) = Group::new() else {
        eprintln!("skipped: no memory control group can be made here");
        return;
    };
    let options = BRIEF.join(" ");
    let mut chat = group.shell(&format!("exec \"$M\" chat \"$F\" --io direct {options}"));
    let mut input = chat.stdin.take().unwrap();
    let lines = BufReader::new(chat.stderr.take().unwrap()).lines().map(Result::unwrap);
    // What it says comes through a thread, so that nothing here waits forever.
    let (send, said) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || lines.for_each(|line| drop(send.send(line))));
    let wait_for = |part: &str| {
        let mut before = Vec::new();
        loop {
            match said.recv_timeout(Duration::from_secs(20)) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => before.push(line),
                Err(_) => panic!("it did not say {part:?} but {before:#?}"),
            }
        }
    };
    writeln!(input, "hello").unwrap();
    wait_for("tok/s, context");
    writeln!(input, "/stats").unwrap();
    let memory = wait_for("owned now");
    assert!(!memory.contains("given back"), "{memory}");

    let mut ballast = group.shell(&format!("(head -c {BALLAST} /dev/zero; sleep 30) | tail >/dev/null"));
    let started = Instant::now();
    while group.used() < BALLAST && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(group.used() >= BALLAST, "the ballast is there");
    // Two seconds it may take.
    std::thread::sleep(Duration::from_secs(2));
    writeln!(input, "hello again").unwrap();
    let notice = wait_for("Memory got tight");
    assert!(notice.contains("gave"), "{notice}");
    writeln!(input, "/stats").unwrap();
    let memory = wait_for("owned now");
    assert!(memory.contains("given back because memory was tight"), "{memory}");
    drop(input);
    assert!(chat.wait().unwrap().success());
    reader.join().unwrap();
    // The shell's children are in the group; they end with it.
    let procs = fs::read_to_string(group.0.join("cgroup.procs")).unwrap();
    for pid in procs.lines() {
        let _ = Command::new("kill").arg(pid).status();
    }
    ballast.wait().unwrap();
}
