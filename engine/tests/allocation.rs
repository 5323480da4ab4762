//! Allocations that fail, fault F15 of the project's list: the same work again and again, in a process of its
//! own, each time with another allocation that is refused. Whichever it is, the process ends with the exit
//! code for too little memory: by an error of the engine, or by the end that was installed.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moelten_engine::plan::{Io, Ram, SequenceOptions};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::{Runtime, RuntimeOptions};
use moelten_engine::{EngineError, KvFormat, Model, ModelOptions, Sequence};
use moelten_loader::error::LoadError;
use moelten_loader::io::{End, LastWord, OrEnd};
use moelten_loader::load::load;

/// Says which process this is: the number of the allocation to refuse, and whether all after it fail too.
const FAIL_AT: &str = "MOELTEN_TEST_FAIL_AT";
/// The exit code for too little memory.
const MEMORY: i32 = 5;

/// Allocations so far; those before the work begins do not count.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Numbers of the first allocation that is refused, and of the first that is not again.
static FROM: AtomicU64 = AtomicU64::new(u64::MAX);
static UNTIL: AtomicU64 = AtomicU64::new(u64::MAX);

fn refuses() -> bool {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    (FROM.load(Ordering::Relaxed)..UNTIL.load(Ordering::Relaxed)).contains(&number)
}

#[global_allocator]
static ALLOCATOR: OrEnd = OrEnd::refusing(refuses);

/// Loads a model with a small expert cache and decodes a few tokens.
fn work() -> Result<(), EngineError> {
    let loaded = load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/olmoe"))?;
    let runtime = Runtime::start(RuntimeOptions { threads: Some(2), ..Default::default() })?;
    let options = ModelOptions { ram: Ram::Min, io: Io::Direct, ..Default::default() };
    let model = Arc::new(Model::new(&runtime, loaded.spec, loaded.tensors, &options)?);
    let mut session = Sequence::new(model, SequenceOptions { context: Some(32), kv: KvFormat::F16 })?;
    session.append(&[5, 6, 7], &Cancel::new(), &mut (), &mut |_| {})?;
    session.decode(8, &Cancel::new(), &mut ())
}

fn on_refusal(bytes: usize) -> LastWord {
    eprintln!("{bytes} bytes were refused");
    std::process::exit(MEMORY)
}

/// What the child process does.
fn child(fail_at: &str) -> i32 {
    let (from, how) = fail_at.split_once(' ').unwrap();
    let from: u64 = from.parse().unwrap();
    OrEnd::install(End { with_message: on_refusal, last_words: "no memory\n", code: MEMORY });
    COUNT.store(0, Ordering::Relaxed);
    UNTIL.store(if how == "once" { from + 1 } else { u64::MAX }, Ordering::Relaxed);
    FROM.store(from, Ordering::Relaxed);
    let done = work();
    FROM.store(u64::MAX, Ordering::Relaxed);
    match done {
        Ok(()) => {
            eprintln!("allocations: {}", COUNT.load(Ordering::Relaxed));
            0
        }
        Err(EngineError::Memory { .. } | EngineError::Budget { .. } | EngineError::KvCache(_)) => MEMORY,
        Err(EngineError::Store(error)) if error.kind() == std::io::ErrorKind::OutOfMemory => MEMORY,
        Err(EngineError::Load(LoadError::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::OutOfMemory =>
        {
            MEMORY
        }
        Err(other) => {
            eprintln!("{other}");
            1
        }
    }
}

#[test]
fn f15_every_allocation_may_fail() {
    if let Ok(fail_at) = std::env::var(FAIL_AT) {
        std::process::exit(child(&fail_at));
    }
    let run = |number: u64, how: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "f15_every_allocation_may_fail", "--nocapture"]);
        let outcome = command.env(FAIL_AT, format!("{number} {how}")).output().unwrap();
        (outcome.status, String::from_utf8_lossy(&outcome.stderr).into_owned())
    };
    let (status, text) = run(u64::MAX - 1, "once");
    assert!(status.success(), "{status}: {text}");
    let all: u64 = text.lines().find_map(|line| line.strip_prefix("allocations: ")).unwrap().parse().unwrap();
    // The first ones, and then some of all kinds.
    let numbers = (0..12).chain((1..60).map(|step| all * step / 60));
    let mut refused = 0;
    for (index, number) in numbers.enumerate() {
        let how = ["once", "always"][index % 2];
        let (status, text) = run(number, how);
        // The last ones may come in another order, or not at all.
        let late = status.success() && number > all * 9 / 10;
        assert!(status.code() == Some(MEMORY) || late, "{number} of {all} {how}: {status}: {text}");
        refused += u32::from(!late);
    }
    println!("{refused} of {all} allocations were refused");
    assert!(refused > 60);
}
