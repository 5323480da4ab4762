//! `moelten bench` and `moelten doctor` from outside: the JSON that other programs rely on, shapes, and wrong
//! use.

use serde_json::Value;

use crate::common::{args, builtin, moelten, run};

/// A run that is too short to measure anything, but does everything once.
const TINY: [&str; 6] = ["--prefill", "8", "--decode", "2", "--repeat", "1"];

fn json(arguments: &[&str]) -> Value {
    let outcome = args(arguments.iter().copied().chain(["--json"])).fine();
    assert_eq!(outcome.text().lines().count(), 1, "{outcome:?}");
    serde_json::from_str(outcome.text()).unwrap()
}

#[track_caller]
fn positive(object: &Value, path: &str) -> f64 {
    let value = object.pointer(path).and_then(Value::as_f64);
    let value = value.unwrap_or_else(|| panic!("{path} is no number in {object}"));
    assert!(value > 0.0 && value.is_finite(), "{path} is {value}");
    value
}

#[test]
fn bench_prints_the_object_that_other_programs_rely_on() {
    let path = builtin();
    let mut arguments = vec!["bench", path.to_str().unwrap()];
    arguments.extend(TINY);
    let object = json(&arguments);
    for path in [
        "/decode/tokens_per_s",
        "/decode/gb_per_s",
        "/decode/share_of_ram",
        "/decode/bytes_per_token",
        "/decode/kv_bytes_per_token",
        "/prefill/tokens_per_s",
        "/prefill/int8_tops",
        "/limits/ram_gb_per_s",
        "/limits/int8_tops",
    ] {
        positive(&object, path);
    }
    assert_eq!(object["threads"], 1);
    assert_eq!(object["pinned"], false);
    assert!(object["isa"].is_string());
    // A small file cannot measure a disk: there is a reason instead of a number.
    assert!(object["limits"]["disk_gb_per_s"].is_null());
    assert!(object["limits"]["disk_problem"].as_str().unwrap().contains("too small"), "{object}");
    // All of it is in memory.
    assert_eq!(object["cache"]["streams"], false);
    for path in ["/cache/hit_rate_decode", "/cache/hit_rate_prefill"] {
        assert_eq!(object.pointer(path), Some(&Value::from(1.0)), "{path}");
    }
    positive(&object, "/memory/budget_bytes");
    if cfg!(target_os = "linux") {
        positive(&object, "/memory/peak_owned_bytes");
        assert!(object["cache"]["bytes_read"].is_u64(), "{object}");
    }
    let rate = positive(&object, "/decode/tokens_per_s") * positive(&object, "/decode/bytes_per_token") / 1e9;
    assert!((rate / positive(&object, "/decode/gb_per_s") - 1.0).abs() < 1e-9);
    let share = positive(&object, "/decode/gb_per_s") / positive(&object, "/limits/ram_gb_per_s");
    assert!((share / positive(&object, "/decode/share_of_ram") - 1.0).abs() < 1e-9);
}

/// In a pipe the report is whole, and what is measured is also a note, because that takes its time.
#[test]
fn bench_reports_in_a_pipe() {
    let outcome = args(["bench"].into_iter().chain(TINY)).fine();
    let heading: Vec<&str> = outcome.text().lines().take(2).collect();
    assert_eq!(heading[0], "tiny-tales (built in)");
    assert!(heading[1].starts_with("1 thread, ") && heading[1].ends_with("; KV f16"), "{outcome:?}");
    assert!(outcome.text().contains("\ndecode "), "{outcome:?}");
    assert!(outcome.err.contains(heading[1]), "{outcome:?}");
}

#[test]
fn bench_counts_what_a_token_touches() {
    // OLMoE in Q4_0, one layer: four square matrices of 2048, eight experts of three 2048 x 1024, the head in
    // Q6_K, the router, norms of the layer (two of 2048), of q and k (as wide) and the last in F32.
    let (q4_0, q6_k) = (18.0 / 32.0, 210.0 / 256.0);
    let expected = (4.0 * 2048.0 * 2048.0 + 8.0 * 3.0 * 2048.0 * 1024.0) * q4_0
        + 50304.0 * 2048.0 * q6_k
        + (64.0 + 5.0) * 2048.0 * 4.0;
    // Generated weights are in memory when the plan is made; it counts them once.
    let mut arguments = vec!["bench", "--shape", "olmoe", "--layers", "1", "--depth", "3", "--ram", "480M"];
    arguments.extend(TINY);
    let object = json(&arguments);
    assert_eq!(object["decode"]["bytes_per_token"], expected);
    // Positions 3 and 4 see four and five tokens: 16 heads of 128, keys and values, two bytes each.
    assert_eq!(object["decode"]["kv_bytes_per_token"], 4.5 * 2.0 * 2048.0 * 2.0);
    assert_eq!(object["decode"]["experts"], 64);
    assert!((8..=16).contains(&object["decode"]["experts_used"].as_u64().unwrap()), "{object}");
    assert_eq!(object["generated"], "q4_0");
    // The weights are owned memory.
    if cfg!(target_os = "linux") {
        let owned = positive(&object, "/memory/peak_owned_bytes");
        assert!(owned > 300e6 && owned < 480.0 * 1048576.0, "{object}");
    }
}

#[test]
fn bench_runs_other_shapes_texts_and_parts() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.txt");
    std::fs::write(&text, "Once upon a time there was a lion who lived in a forest.").unwrap();
    let object = json(&[
        "bench",
        "--text",
        text.to_str().unwrap(),
        "--prefill",
        "0",
        "--decode",
        "3",
        "--repeat",
        "2",
        "--kv",
        "f32",
    ]);
    assert!(object["prefill"].is_null() && object["kv"] == "f32", "{object}");
    positive(&object, "/decode/tokens_per_s_min");

    let shape = folder.path().join("small.toml");
    let fields = "name = \"small\"\nlayers = 2\nd_model = 64\nvocab = 300\ncontext = 64\nheads = 4\nkv_heads = 2\n\
                  head_dim = 16\nrope_theta = 1e4\nexperts = 4\nexperts_per_token = 2\nexpert_d_ff = 96\n\
                  shared_d_ff = 32\ntied_head = true\nqk_norm = \"per_head\"\n";
    std::fs::write(&shape, fields).unwrap();
    let shape = shape.to_str().unwrap();
    let outcome =
        args(["bench", "--shape", shape, "--format", "q4_k_m", "--prefill", "4", "--decode", "0"]).fine();
    assert!(outcome.text().contains("prefill") && !outcome.text().contains("decode"), "{outcome:?}");
    assert!(outcome.text().contains("small (2 layers), generated weights, q4_k_m"), "{outcome:?}");
    let outcome = args(["bench", "--shape", "gpt-oss-20b", "--layers", "0"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
}

#[test]
fn bench_refuses_wrong_use_with_numbers() {
    for wrong in [
        &["--shape", "gpt-5"][..],
        &["--prefill", "0", "--decode", "0"],
        &["--shape", "nowhere.toml"],
        &["--threads", "1000", "--pin", "on"],
    ] {
        let outcome = args(["bench"].iter().chain(wrong));
        let exit = if wrong.contains(&"nowhere.toml") { 6 } else { 2 };
        assert_eq!(outcome.code, Some(exit), "{outcome:?}");
        assert!(outcome.out.is_empty() && outcome.err.contains("error[E-"), "{outcome:?}");
    }
    for wrong in [
        &["--shape", "olmoe", "model.gguf"][..],
        &["--layers", "2"],
        &["--format", "q4_0", "model.gguf"],
        &["--shape", "olmoe", "--format", "q9"],
        &["--shape", "olmoe", "--text", "x"],
        &["--repeat", "0"],
        &["--decode", "-1"],
        &["--pin", "maybe"],
    ] {
        let outcome = args(["bench"].iter().chain(wrong));
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
    }
    args(["bench", "/nowhere/model.gguf"]).refused(6, "E-IO-01");
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("short.txt");
    std::fs::write(&text, "Too short.").unwrap();
    let outcome = args(["bench", "--text", text.to_str().unwrap()]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("512 are needed"), "{outcome:?}");
    // Weights that no machine holds are refused before any memory is taken.
    let huge = folder.path().join("huge.toml");
    let fields = "name = \"huge\"\nlayers = 1000\nd_model = 65536\nvocab = 300\ncontext = 64\nheads = 4\nkv_heads = 2\n\
                  head_dim = 16\nrope_theta = 1e4\nexperts = 4096\nexperts_per_token = 2\nexpert_d_ff = 65536\n";
    std::fs::write(&huge, fields).unwrap();
    let outcome = args(["bench", "--shape", huge.to_str().unwrap()]);
    if cfg!(target_os = "linux") {
        outcome.refused(5, "E-MEM-01");
    }
}

#[test]
fn doctor_lists_every_tier_with_its_speed_or_what_it_lacks() {
    let object = json(&["doctor"]);
    let tiers = object["tiers"].as_array().unwrap();
    assert_eq!(tiers.len(), moelten_quant::Isa::ALL.len());
    for tier in tiers {
        if tier["available"] == true {
            for speed in ["/int8_gops", "/matvec_gb_per_s", "/matmul_gops"] {
                positive(tier, speed);
            }
        } else {
            assert!(!tier["missing"].as_array().unwrap().is_empty() && tier["int8_gops"].is_null(), "{tier}");
        }
    }
    let required = std::env::var("MOELTEN_REQUIRE_ISA").unwrap_or_else(|_| "scalar".to_owned());
    for required in required.split(',') {
        let found = tiers.iter().any(|tier| tier["isa"] == required && tier["available"] == true);
        assert!(found, "{required} is not offered: {object}");
    }
    assert_eq!(object["isa"], moelten_quant::Isa::best().name());
    assert_eq!(object["isa_forced"], false);
    positive(&object, "/limits/ram_gb_per_s");
    if cfg!(target_os = "linux") {
        positive(&object, "/cores/physical");
        positive(&object, "/memory/available_bytes");
    }
}

#[test]
fn doctor_says_what_is_forced_and_refuses_what_is_not_there() {
    let outcome =
        run(moelten().args(["doctor", "--disk", "/nowhere"]).env("MOELTEN_ISA", "scalar"), b"").fine();
    assert!(outcome.text().contains("* used: scalar (set by MOELTEN_ISA)"), "{outcome:?}");
    assert!(outcome.text().contains("disk        not measured: cannot open"), "{outcome:?}");
    run(moelten().arg("doctor").env("MOELTEN_ISA", "mmx"), b"").refused(2, "E-ARG-03");
}
