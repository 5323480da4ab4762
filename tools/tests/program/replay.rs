//! `moelten bench --trace` and `moelten replay`: the trace, the table, the plot, the stable JSON, and wrong
//! or damaged input.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use moelten_engine::offline::replay::Tokens;
use moelten_engine::offline::trace::Trace;
use serde_json::Value;

use crate::common::{Outcome, args, moelten, run};

/// A short run of the built-in model, recorded once for all tests, as a file in `folder`.
fn record(folder: &Path) -> PathBuf {
    static RECORDED: OnceLock<Vec<u8>> = OnceLock::new();
    let path = folder.join("routing.trace");
    let recorded = RECORDED.get_or_init(|| {
        let elsewhere = tempfile::tempdir().unwrap();
        let trace = elsewhere.path().join("t.trace");
        let work = ["--prefill", "40", "--depth", "50", "--decode", "30", "--repeat", "3"];
        args(["bench", "--trace", trace.to_str().unwrap()].iter().chain(&work)).fine();
        assert_eq!(std::fs::read_dir(elsewhere.path()).unwrap().count(), 1, "nothing else is left");
        std::fs::read(trace).unwrap()
    });
    std::fs::write(&path, recorded).unwrap();
    path
}

fn replay(trace: &Path, options: &[&str]) -> Outcome {
    args(["replay", trace.to_str().unwrap()].iter().chain(options))
}

#[test]
fn bench_records_each_token_once_and_replay_shows_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = record(folder.path());
    let trace = Trace::open(&path).unwrap();
    // The prompt, the rest of the depth, then decoded tokens, without warm-up and repetitions.
    assert_eq!(Tokens::of(&trace, 0), Tokens { prefill: 50, decode: 30 });
    let header = trace.header();
    assert!(header.experts() > 0 && header.model.starts_with("tiny-tales"), "{header:?}");
    for (layer, _) in header.banks.iter().enumerate().filter(|(_, layer)| layer.experts > 0) {
        let chunks = trace.events().filter(|event| event.bank == layer).map(|event| event.tokens());
        let chunks: Vec<usize> = chunks.collect();
        assert_eq!(chunks[..2], [40, 10], "layer {layer}");
        assert_eq!(chunks[2..], [1; 30], "layer {layer}");
    }

    let shown = replay(&path, &[]).fine();
    let text = shown.text();
    assert!(text.is_ascii() && text.contains("50 prompt tokens, 30 decoded tokens"), "{text}");
    for (policy, rows) in [("lru", 4), ("lfu", 4), ("aged *", 3), ("belady", 4)] {
        assert_eq!(text.matches(policy).count(), rows, "three budgets and the legend: {policy}\n{text}");
    }
    assert!(text.contains("100 %+") && text.contains("B belady"), "{text}");
}

#[test]
fn replay_prints_the_object_that_other_programs_rely_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = record(folder.path());
    let object = |options: &[&str]| -> Value {
        let outcome = replay(&path, &[options, &["--json"]].concat()).fine();
        assert_eq!(outcome.text().lines().count(), 1, "{outcome:?}");
        serde_json::from_str(outcome.text()).unwrap()
    };
    let shares = object(&["--budget", "0,50%,100%"]);
    assert_eq!(shares["tokens"], serde_json::json!({ "prefill": 50, "decode": 30 }));
    assert_eq!(shares["used"], "aged");
    let budgets = shares["budgets"].as_array().unwrap();
    assert_eq!(budgets.len(), 3);
    for budget in budgets {
        let policies = budget["policies"].as_array().unwrap();
        let names: Vec<&str> = policies.iter().map(|policy| policy["policy"].as_str().unwrap()).collect();
        assert_eq!(names, ["lru", "lfu", "aged", "belady"]);
        let best = policies[3]["hit_rate_decode"].as_f64().unwrap();
        for policy in policies {
            let rate = policy["hit_rate_decode"].as_f64().unwrap();
            let gap = policy["gap_to_belady"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&rate) && (best - rate - gap).abs() < 1e-12, "{policy}");
            assert!(policy["hit_rate_prefill"].is_number() && policy["bytes_per_token"].is_number());
        }
    }
    let rate = |budget: &Value| budget["policies"][2]["hit_rate_decode"].as_f64().unwrap();
    assert_eq!(rate(&budgets[0]), 0.0, "nothing is resident");
    assert!(rate(&budgets[1]) > 0.1 && rate(&budgets[1]) < rate(&budgets[2]), "{shares}");
    assert_eq!(budgets[2]["bytes"], shares["expert_bytes"]);
    let curve = shares["curves"]["aged"].as_array().unwrap();
    assert_eq!(
        (curve.len(), curve[10].as_f64(), curve[20].as_f64()),
        (21, Some(rate(&budgets[1])), Some(rate(&budgets[2])))
    );

    // The memory of half of the experts is half of the experts.
    let half = budgets[1]["bytes"].as_u64().unwrap().to_string();
    let sizes = object(&["--ram", &format!("{half},1T")]);
    assert_eq!(sizes["budgets"][0]["slots"], budgets[1]["slots"]);
    assert_eq!(sizes["budgets"][1]["slots"], shares["experts"]);
    // A GPU beside the cache: as much as all experts takes nearly all uses, none changes nothing.
    assert!(sizes.get("tiers").is_none());
    let tiers = object(&["--budget", "50%", "--vram", "1,1T"])["tiers"].clone();
    assert_eq!((&tiers[0]["vram_slots"], &tiers[0]["in_vram"]), (&0.into(), &0.into()));
    let share = |tier: &Value| tier["in_ram"].as_f64().unwrap() / tier["uses"].as_f64().unwrap();
    assert!((share(&tiers[0]) - rate(&budgets[1])).abs() < 1e-12, "{tiers}");
    assert_eq!(tiers[1]["vram_slots"], shares["experts"]);
    assert!(tiers[1]["in_vram"].as_f64().unwrap() > 0.5 * tiers[1]["uses"].as_f64().unwrap(), "{tiers}");
    let table = replay(&path, &["--vram", "1T"]).fine();
    assert!(table.text().contains("in VRAM"), "{table:?}");
    // Tokens that are skipped are not counted.
    assert_eq!(object(&["--skip", "10"])["tokens"]["decode"], 20);
}

#[test]
fn wrong_use_and_damaged_traces_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = record(folder.path());
    for wrong in [
        &["--budget", "101%"][..],
        &["--budget", "some"],
        &["--ram", "lots"],
        &["--ram", "1G", "--budget", "25%"],
        &["--skip", "-1"],
    ] {
        assert_eq!(replay(&path, wrong).harmless().code, Some(2), "{wrong:?}");
    }
    replay(&folder.path().join("none"), &[]).refused(6, "E-IO-01");
    replay(&crate::common::builtin(), &[]).refused(3, "E-FILE-02");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let cut = replay(&path, &[]).refused(3, "E-FILE-02");
    assert!(cut.err.contains("needs ") && cut.err.contains(" at byte "), "{cut:?}");

    let dense = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/llama");
    let target = folder.path().join("dense.trace");
    let outcome = args(["bench", dense.to_str().unwrap(), "--trace", target.to_str().unwrap()]);
    outcome.refused(4, "E-SUP-02");
    assert!(!target.exists());
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("t.trace");
    let mut shell = crate::common::clean(std::process::Command::new("sh"));
    let limited = "ulimit -f 1; exec \"$0\" \"$@\"";
    shell.args(["-c", limited, moelten().get_program().to_str().unwrap(), "bench", "--trace"]);
    shell.arg(&target).args(["--prefill", "100", "--decode", "0", "--repeat", "1"]);
    let outcome = run(&mut shell, b"").refused(6, "E-IO-05");
    assert!(outcome.out.is_empty(), "no figures of a run that was not recorded: {outcome:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
