//! F17: other processes fill the control group of a running chat, so that memory gets tight.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::common::cgroup::{self, Group};
use crate::common::{BRIEF, builtin, clean};

const LIMIT: u64 = 320 << 20;
/// Leaves less free than the floor of 39 MiB, and more than nothing.
const BALLAST: u64 = 266 << 20;

/// Runs `line` of shell in the group; `$M` is the program and `$F` its model.
fn shell(group: &Group, line: &str) -> Child {
    let line = format!("echo $$ > {} && {line}", group.members().display());
    let mut command = clean(Command::new("sh"));
    command.env("M", env!("CARGO_BIN_EXE_moelten")).env("F", builtin()).args(["-c", &line]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn f17_the_cache_shrinks_when_others_need_memory() {
    let Some(group) = Group::new(LIMIT) else {
        skip!("{}", cgroup::NONE);
    };
    let options = BRIEF.join(" ");
    let mut chat = shell(&group, &format!("exec \"$M\" chat \"$F\" --io direct {options}"));
    let mut input = chat.stdin.take().unwrap();
    let lines = BufReader::new(chat.stderr.take().unwrap()).lines().map(Result::unwrap);
    // A thread reads the messages, so that this test cannot wait forever.
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
    let memory = wait_for("owned of a budget of");
    assert!(!memory.contains("given back"), "{memory}");

    let mut ballast = shell(&group, &format!("(head -c {BALLAST} /dev/zero; sleep 30) | tail >/dev/null"));
    let started = Instant::now();
    while group.used() < BALLAST && started.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(group.used() >= BALLAST, "the ballast is there");
    // Two seconds are allowed.
    std::thread::sleep(Duration::from_secs(2));
    writeln!(input, "hello again").unwrap();
    let notice = wait_for("Memory pressure");
    assert!(notice.contains("gave"), "{notice}");
    writeln!(input, "/stats").unwrap();
    let memory = wait_for("owned of a budget of");
    assert!(memory.contains("given back under memory pressure"), "{memory}");
    drop(input);
    assert!(chat.wait().unwrap().success());
    reader.join().unwrap();
    // The shell's children are in the group and must end with it.
    let procs = fs::read_to_string(group.members()).unwrap();
    for pid in procs.lines() {
        let _ = Command::new("kill").arg(pid).status();
    }
    ballast.wait().unwrap();
}

/// Of little memory a share is left to others, not a constant that would be all of it.
#[test]
fn ram_auto_leaves_a_share_in_a_small_container() {
    let Some(group) = Group::new(200 << 20) else {
        skip!("{}", cgroup::NONE);
    };
    let child = shell(&group, "exec \"$M\" fit \"$F\" --json --ctx 256");
    let outcome = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&outcome.stderr);
    let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect(&words);
    let budget = report["budget_bytes"].as_u64().unwrap();
    assert!((100 << 20..170 << 20).contains(&budget), "{report}");
    assert_eq!(report["verdict"], "ram", "{report}");
    let child = shell(&group, "exec \"$M\" run \"$F\" -p hello --max-tokens 4");
    let outcome = child.wait_with_output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    assert_eq!(group.kills(), 0);
}
