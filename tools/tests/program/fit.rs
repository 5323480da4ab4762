//! `moelten fit`, and the messages of `run` and `chat` about memory, with the built-in model as a file.

use std::sync::OnceLock;

use moelten_loader::container::gguf::Value as Entry;
use serde_json::Value;

use crate::common::{BRIEF, Outcome, args, builtin, mini, moelten, run};

const MIB: f64 = 1048576.0;

fn fit(options: &[&str]) -> Outcome {
    run(moelten().arg("fit").arg(builtin()).args(options), b"")
}

/// Without records of earlier runs.
fn json(options: &[&str]) -> Value {
    static EMPTY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let empty = EMPTY.get_or_init(|| tempfile::tempdir().unwrap());
    let mut fit = moelten();
    fit.env("XDG_CACHE_HOME", empty.path())
        .env("LOCALAPPDATA", empty.path())
        .arg("fit")
        .arg(builtin())
        .args(options)
        .arg("--json");
    serde_json::from_str(run(&mut fit, b"").fine().text()).unwrap()
}

fn ask(options: &[&str]) -> Outcome {
    run(moelten().arg("run").arg(builtin()).args(["-p", "hello"]).args(BRIEF).args(options), b"")
}

/// A budget with room for about half of the experts, in bytes.
fn half() -> String {
    static HALF: OnceLock<String> = OnceLock::new();
    HALF.get_or_init(measure_half).clone()
}

fn measure_half() -> String {
    let least = json(&["--ram", "min", "--ctx", "256"]);
    let (total, experts) = (&least["memory"]["total_bytes"], &least["experts"]["file_bytes"]);
    (total.as_u64().unwrap() + experts.as_u64().unwrap() / 2).to_string()
}

#[test]
fn a_model_that_fits_is_in_place() {
    // The built-in model is not in a file.
    let own = args(["fit"]).fine();
    assert!(own.text().contains("RAM, all of it fits"), "{own:?}");
    assert!(own.text().contains("the weights are not in a file"), "{own:?}");
    let report = json(&[]);
    assert_eq!(report["verdict"], "ram");
    assert_eq!(report["hit_rate"]["low"], 1.0);
    assert_eq!(report["experts"]["slots"], report["experts"]["per_layer"]);
    let (low, high) = (&report["tokens_per_s_warm"]["low"], &report["tokens_per_s_warm"]["high"]);
    assert!(0.0 < low.as_f64().unwrap() && low.as_f64() < high.as_f64(), "{report}");
    let memory = &report["memory"];
    let parts = ["program_bytes", "dense_bytes", "kv_bytes", "buffer_bytes", "expert_bytes"];
    let sum: u64 = parts.iter().map(|part| memory[*part].as_u64().unwrap()).sum();
    assert_eq!(memory["total_bytes"], sum);
}

#[test]
fn a_model_that_does_not_fit_streams() {
    let budget = half();
    let options = ["--ram", &budget, "--ctx", "256"];
    let text = fit(&options).fine();
    assert!(text.text().contains("STREAM, runs with"), "{text:?}");
    let report = json(&options);
    assert_eq!(report["verdict"], "stream");
    let share = report["experts"]["share"].as_f64().unwrap();
    assert!((0.3..0.8).contains(&share), "{report}");
    let (low, high) =
        (report["hit_rate"]["low"].as_f64().unwrap(), report["hit_rate"]["high"].as_f64().unwrap());
    assert!((low - share).abs() < 0.05 && low < high, "{report}");
    let total = report["memory"]["total_bytes"].as_u64().unwrap();
    assert!(total <= budget.parse().unwrap(), "{report}");
    // A given hit rate replaces the estimate.
    let known = json(&[&options[..], &["--hit-rate", "0.75"]].concat());
    assert_eq!((&known["hit_rate"]["low"], &known["hit_rate"]["high"]), (&0.75.into(), &0.75.into()));
}

#[test]
fn a_model_that_cannot_run_says_what_would() {
    let outcome = fit(&["--ram", "20M", "--ctx", "256"]).refused(5, "E-MEM-03");
    assert!(outcome.text().contains("NO, does not fit in 20 MiB"), "{outcome:?}");
    let named =
        outcome.text().split("--ram ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    ask(&["--ram", named, "--ctx", "256"]).fine();
    let outcome = fit(&["--ram", "20M", "--ctx", "256", "--json"]).refused(5, "E-MEM-03");
    let report: Value = serde_json::from_str(outcome.text()).unwrap();
    assert_eq!((&report["verdict"], &report["longest_context"]), (&"no".into(), &0.into()));
    let least = report["least_budget_bytes"].as_u64().unwrap();
    // Slightly more than the named size: the program's size varies by a page or two between runs.
    let enough = (least + (2 << 20)).to_string();
    assert_eq!(json(&["--ram", &enough, "--ctx", "256"])["verdict"], "stream");
    // The longest context that fits is named.
    let outcome = fit(&["--ram", &enough, "--ctx", "1000k", "--json"]).refused(5, "E-MEM-03");
    let report: Value = serde_json::from_str(outcome.text()).unwrap();
    let longest = report["longest_context"].as_u64().unwrap();
    assert!((256..1_000_000).contains(&longest), "{report}");
    let shorter = (longest / 2).to_string();
    assert_eq!(json(&["--ram", &enough, "--ctx", &shorter])["verdict"], "stream");
}

/// The built-in model is in memory as a whole.
#[test]
fn a_default_context_shrinks_first() {
    let carried = |options: &[&str]| args([&["fit", "--json"], options].concat());
    let report = |outcome: Outcome| -> Value { serde_json::from_str(outcome.text()).unwrap() };
    let total = |report: &Value| report["memory"]["total_bytes"].as_u64().unwrap();
    let (short, whole) = (report(carried(&["--ctx", "600"]).fine()), report(carried(&[]).fine()));
    let budget = ((total(&short) + total(&whole)) / 2).to_string();
    let shrunk = report(carried(&["--ram", &budget]).fine());
    let tokens = shrunk["context"].as_u64().unwrap();
    assert!((512..whole["context"].as_u64().unwrap()).contains(&tokens), "{shrunk}");
    carried(&["--ram", &budget, "--ctx", "1024"]).refused(5, "E-MEM-01");
}

#[test]
fn a_hit_rate_is_a_share() {
    for wrong in ["1.1", "-0.1", "nan", "x"] {
        assert_eq!(fit(&["--hit-rate", wrong]).harmless().code, Some(2), "{wrong}");
    }
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "what a process owns is known on Linux alone")]
fn what_is_foreseen_is_what_is_then_measured() {
    let budget = half();
    for ram in ["min", &budget] {
        let options = ["--ram", ram, "--ctx", "256"];
        let foreseen = json(&options)["memory"]["total_bytes"].as_u64().unwrap() as f64;
        let answer = ask(&[&options[..], &["--json"]].concat()).fine();
        assert_eq!(answer.err, "", "with --json there is nothing beside the object");
        let answer: Value = serde_json::from_str(answer.text()).unwrap();
        let cache = &answer["stats"]["cache"];
        let owned = cache["owned_bytes"].as_u64().unwrap() as f64;
        assert!(
            (owned - foreseen).abs() <= (0.05 * foreseen).max(32.0 * MIB),
            "{foreseen} foreseen: {cache}"
        );
        assert!(cache["prompt"]["missed_bytes"].as_u64().unwrap() > 0, "{cache}");
        assert!(
            cache["answer"]["hit_rate"].as_f64().is_some_and(|rate| (0.0..=1.0).contains(&rate)),
            "{cache}"
        );
    }
}

#[test]
fn what_a_run_measured_is_what_the_next_forecast_says() {
    let folder = tempfile::tempdir().unwrap();
    let with_cache = |command: &str, options: &[&str]| {
        let mut program = moelten();
        program
            .env("XDG_CACHE_HOME", folder.path())
            .env("LOCALAPPDATA", folder.path())
            .arg(command)
            .arg(builtin())
            .args(options);
        serde_json::from_str::<Value>(run(&mut program, b"").fine().text()).unwrap()
    };
    let budget = half();
    let options = ["--ram", &budget, "--ctx", "256", "--json"];
    let before = with_cache("fit", &options);
    assert_eq!(before["measured_before"], false);
    let hits = |fit: &Value, which: &str| fit["hit_rate"][which].as_f64().unwrap();
    assert!(
        hits(&before, "low") < hits(&before, "likely") && hits(&before, "likely") < hits(&before, "high")
    );
    let text = ["-p", "Once upon a time", "--max-tokens", "100", "--temp", "0", "--no-template"];
    // The first run on a machine chooses its loops, which leaves room for fewer experts. One token is no
    // record.
    with_cache("run", &[&options[..], &["-p", "Once", "--max-tokens", "1"]].concat());
    assert_eq!(with_cache("fit", &options)["measured_before"], false);
    let answer = with_cache("run", &[&options[..], &text].concat());
    let measured = answer["stats"]["cache"]["answer"]["hit_rate"].as_f64().unwrap();
    let after = with_cache("fit", &options);
    assert_eq!(after["measured_before"], true, "{after}");
    // Quotas of layers are whole experts and the counts are of 32 parts of them.
    let close = |fit: &Value| (hits(fit, "likely") - measured).abs() < 0.01;
    assert!(close(&after) && hits(&after, "low") == hits(&after, "high"), "{measured} was measured: {after}");
    // A larger cache finds more.
    let roomy = (budget.parse::<u64>().unwrap() + (1 << 20)).to_string();
    let larger = with_cache("fit", &["--ram", &roomy, "--ctx", "256", "--json"]);
    assert!(hits(&larger, "likely") > hits(&after, "likely"), "{larger}");
    // The counts are those of the text alone: a run with another cache foresees the same for this one.
    std::fs::remove_dir_all(folder.path().join("moelten")).unwrap();
    with_cache("run", &[&["--ram", &roomy, "--ctx", "256", "--json"][..], &text].concat());
    let again = with_cache("fit", &options);
    assert!((hits(&again, "likely") - hits(&after, "likely")).abs() < 1e-6, "{after} and {again}");
    // Few tokens say nothing, and other threads are another machine.
    let other = with_cache("fit", &[&options[..], &["--threads", "2"]].concat());
    assert_eq!(other["measured_before"], false);
}

#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "what a process owns is known on Linux alone")]
fn a_slow_start_is_announced_and_a_fast_one_is_not() {
    assert_eq!(ask(&[]).fine().err, "");
    let budget = half();
    let streamed = ask(&["--ram", &budget, "--ctx", "256", "-v"]).fine();
    for part in [
        "larger than the memory budget of",
        "of experts cached, the rest streamed from disk",
        "moelten fit",
        "cache, answer",
        "owned of a budget of",
    ] {
        assert!(streamed.err.contains(part), "{part}: {streamed:?}");
    }
    assert_eq!(streamed.text(), ask(&["--ctx", "256"]).text());
    let least = ask(&["--ram", "min", "--ctx", "256"]).fine();
    assert!(least.err.contains("layers cache fewer experts than one token chooses"), "{least:?}");
    assert_eq!(least.text(), streamed.text());
}

#[test]
fn stats_of_a_chat_tell_of_the_cache_only_if_there_is_one() {
    let chat = |options: &[&str]| {
        run(moelten().arg("chat").arg(builtin()).args(BRIEF).args(options), b"hello\n/stats\n").fine()
    };
    let streamed = chat(&["--ram", "min", "--ctx", "256"]);
    assert!(streamed.err.contains("streamed from disk"), "{streamed:?}");
    assert!(streamed.err.contains("hits;") && streamed.err.contains(" evicted; stalled "), "{streamed:?}");
    let whole = chat(&[]);
    assert!(whole.err.contains("experts") && !whole.err.contains("hits"), "{whole:?}");
}

/// A model with two sets of rope factors says which it takes, as a file and as a folder, in `fit`, `run` and
/// `chat`: the context decides.
#[test]
fn a_context_beyond_the_short_rope_factors_is_mentioned() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.gguf");
    let keys = mini::with(mini::keys(), "llama.rope.scaling.type", Entry::Str("longrope".into()));
    let keys = mini::with(keys, "llama.rope.scaling.original_context_length", Entry::U32(64));
    let mut tensors = mini::tensors();
    for (name, factor) in [("short", 1.0), ("long", 4.0)] {
        tensors.push((format!("rope_factors_{name}.weight"), vec![8], vec![factor; 8]));
    }
    mini::write(&file, &keys, &tensors);
    let folder = mini::folder(&dir.path().join("folder"));
    let config = folder.join("config.json");
    let mut changed: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    changed["rope_scaling"] = serde_json::json!({
        "type": "longrope", "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [4, 4, 4, 4, 4, 4, 4, 4],
        "original_max_position_embeddings": 64,
    });
    std::fs::write(&config, changed.to_string()).unwrap();
    for model in [file, folder] {
        let told = |command: &str, options: &[&str]| {
            let mut program = moelten();
            program.arg(command).arg(&model).args(options);
            let outcome = run(&mut program, if command == "chat" { b"hello\n" } else { b"" }).fine();
            let all = format!("{}{}", outcome.text(), outcome.err);
            all.contains("rope factors for long texts (LongRoPE) from the first token on")
        };
        let (brief, long) = (["--max-tokens", "4"], ["--ctx", "65"]);
        assert!(told("fit", &long) && !told("fit", &["--ctx", "64"]) && !told("fit", &[]));
        for (command, more) in [("run", &["-p", "hello"][..]), ("chat", &["--no-history"][..])] {
            let options = [&brief, more].concat();
            assert!(told(command, &[&options[..], &long].concat()), "{command}");
            assert!(!told(command, &[&options[..], &["--ctx", "64"]].concat()), "{command}");
            assert!(!told(command, &options), "{command}");
        }
    }
}
