//! F21: the clock is set while an answer is computed, and the process stands still for a while. Durations are
//! those of a clock that only moves forward, so nothing ends early and no speed is negative.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use moelten_testing::skip;

use crate::common::{builtin, clean, finish, run};

/// Where libfaketime of Debian and others lies.
fn library() -> Option<&'static str> {
    let places = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ];
    places.into_iter().find(|place| Path::new(place).exists())
}

/// Starts an answer of some hundred tokens.
fn start(command: &mut Command) -> Child {
    command.arg("run").arg(builtin()).args(["-p", "hello", "--temp", "100", "--top-k", "0", "--top-p", "1"]);
    command.args(["--min-p", "0", "--seed", "1", "--max-tokens", "400", "--ctx", "1k", "--json"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn program() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_moelten")))
}

fn seconds(answer: &serde_json::Value) -> f64 {
    let stats = &answer["stats"];
    ["prompt_s", "generate_s"].iter().map(|name| stats[name].as_f64().expect(name)).sum()
}

#[test]
fn f21_the_clock_is_set_to_yesterday_and_to_tomorrow() {
    let Some(library) = library() else {
        skip!("libfaketime is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").unwrap();
    let plain = finish(start(&mut program()), Instant::now()).fine();
    let plain: serde_json::Value = serde_json::from_slice(&plain.out).unwrap();
    let mut command = program();
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let started = Instant::now();
    let child = start(&mut command);
    for offset in ["-1d", "+1d", "-1d", "+400d", "+0"] {
        std::thread::sleep(Duration::from_millis(40));
        std::fs::write(&clock, offset).unwrap();
    }
    let outcome = finish(child, started).fine();
    let answer: serde_json::Value = serde_json::from_slice(&outcome.out).unwrap();
    assert_eq!(answer["ids"], plain["ids"]);
    let taken = seconds(&answer);
    assert!(taken > 0.0 && taken <= outcome.took.as_secs_f64() + 0.1, "{taken} s of {:?}", outcome.took);
}

/// A process that was stopped goes on where it was.
#[test]
fn f21_a_process_that_stood_still_goes_on() {
    let plain = finish(start(&mut program()), Instant::now()).fine();
    let started = Instant::now();
    let child = start(&mut program());
    let signal = |name: &str| {
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    std::thread::sleep(Duration::from_millis(120));
    signal("STOP");
    std::thread::sleep(Duration::from_millis(1500));
    signal("CONT");
    let outcome = finish(child, started).fine();
    let [plain, answer]: [serde_json::Value; 2] =
        [&plain.out, &outcome.out].map(|out| serde_json::from_slice(out).unwrap());
    assert_eq!(answer["ids"], plain["ids"]);
    assert_eq!(answer["reason"], plain["reason"]);
    run(program().arg("--version"), b"").fine();
}
