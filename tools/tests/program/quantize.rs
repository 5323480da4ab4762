//! `moelten quantize`: conversion between layouts, refusals, and what `inspect` shows of the result.

use std::path::Path;

use crate::common::{args, builtin};

fn quantize(source: &Path, target: &Path, options: &[&str]) -> crate::common::Outcome {
    let paths = [source, target].map(|path| path.to_str().unwrap());
    args([&["quantize"], &paths[..], options, &["--force"]].concat())
}

#[test]
fn a_file_is_replaced_only_when_that_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.gguf");
    std::fs::write(&target, "mine").unwrap();
    let line = ["quantize", builtin().to_str().unwrap(), target.to_str().unwrap(), "--layout", "packed"]
        .map(str::to_owned);
    // Nothing can be asked without a terminal.
    let refused = args(line.clone()).refused(2, "E-ARG-01");
    assert!(refused.err.contains("exists (4 B); --force replaces it"), "{}", refused.err);
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
    let outcome = quantize(&builtin(), &target, &["--layout", "packed"]).fine();
    assert!(outcome.err.contains("replacing ") && outcome.err.contains("(4 B)"), "{}", outcome.err);
}

#[test]
fn a_file_has_a_card_of_what_it_is_and_what_it_was_made_from() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("tales-q4.gguf");
    let options = ["--type", "q4_0", "--allow-requantize", "--allow-fallback"];
    quantize(&builtin(), &target, &options).fine();
    let card = args(["inspect", target.to_str().unwrap(), "--card"]).fine();
    for part in [
        "---\nlibrary_name: gguf\n",
        "| experts | 8 in a layer, at most 2 for a token |",
        "| Q4\\_0 | ",
        "| options | --type q4\\_0",
        "| tiny-tales.gguf | 13703360 | ",
        "    moelten tales-q4.gguf\n",
    ] {
        assert!(card.text().contains(part), "{part:?} in {}", card.text());
    }
}

#[test]
fn a_size_chooses_the_best_type_that_fits() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.gguf");
    let options = |goal: [&'static str; 2]| [&goal[..], &["--allow-requantize", "--allow-fallback"]].concat();
    for (goal, kind, most) in
        [(["--target-size", "10M"], "q5_k_m", 10 << 20), (["--target-size", "8M"], "q4_k_m", 8 << 20)]
    {
        let outcome = quantize(&builtin(), &target, &options(goal)).fine();
        let size = std::fs::metadata(&target).unwrap().len();
        assert!(size <= most && size > most * 2 / 3, "{size} of {most}: {}", outcome.err);
        assert!(outcome.err.contains(goal[0]) && outcome.err.contains("a file of"), "{}", outcome.err);
        println!("{goal:?}: {size} bytes, about {kind}");
    }
    let refused = quantize(&builtin(), &target, &options(["--target-size", "1M"])).refused(2, "E-ARG-01");
    assert!(refused.err.contains("no weight type makes a file of at most 1 MiB"), "{}", refused.err);
    let refused = quantize(&builtin(), &target, &options(["--for-ram", "20M"])).refused(2, "E-ARG-01");
    assert!(refused.err.contains("streamed from disk"), "{}", refused.err);
    let outcome = quantize(&builtin(), &target, &options(["--for-ram", "8G"])).fine();
    assert!(outcome.err.contains("--for-ram 8 GiB: q8_0"), "{}", outcome.err);
}

#[test]
fn types_are_compared_for_this_model_and_machine() {
    let model = builtin();
    let line = ["quantize", model.to_str().unwrap(), "--types"];
    // Through a pipe the table is JSON.
    let table = |options: &[&str]| -> serde_json::Value {
        serde_json::from_str(args([&line[..], options].concat()).fine().text()).unwrap()
    };
    let object = table(&["--allow-fallback"]);
    let types = object["types"].as_array().unwrap();
    let of = |name: &str| types.iter().find(|row| row["type"] == name).unwrap_or_else(|| panic!("{object}"));
    let figures = |name| (of(name)["bytes"].as_u64().unwrap(), of(name)["bits_per_weight"].as_f64().unwrap());
    let ((large, exact), (small, bits)) = (figures("f32"), figures("q4_k_m"));
    assert!(small * 4 < large && exact == 32.0 && (4.0..7.0).contains(&bits), "{object}");
    assert!(types.iter().all(|row| row["verdict"] == "ram" && row["about"].is_string()), "{object}");
    // What cannot be used says why.
    let dir = tempfile::tempdir().unwrap();
    let narrow = dir.path().join("narrow");
    args(["make-example", "switch", "--set", "d_kv=20", "--out", narrow.to_str().unwrap()]).fine();
    let outcome = args(["quantize", narrow.to_str().unwrap(), "--types"]).fine();
    let object: serde_json::Value = serde_json::from_str(outcome.text()).unwrap();
    let problem =
        |row: &serde_json::Value| row["problem"].as_str().is_some_and(|text| text.contains("columns"));
    assert!(object["types"].as_array().unwrap().iter().any(problem), "{object}");
    // A table writes no file, and a file needs a name.
    let both = args([&line[..2], &["out.gguf", "--types"]].concat());
    assert_eq!(both.code, Some(2), "{both:?}");
    let neither = args([&line[..2], &["--type", "q8_0"]].concat());
    assert!(neither.code == Some(2) && neither.err.contains("<TARGET>"), "{neither:?}");
}

#[test]
fn a_dry_run_can_list_every_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("out.gguf");
    let paths = [builtin(), target.clone()].map(|path| path.to_str().unwrap().to_owned());
    let line = ["quantize", &paths[0], &paths[1], "--type", "q8_0", "--dry-run", "--verbose"];
    // Through a pipe the plan is JSON.
    let plan: serde_json::Value = serde_json::from_str(args(line).fine().text()).unwrap();
    let tensors = plan["tensors"].as_array().unwrap();
    assert!(
        tensors.iter().any(|tensor| tensor["name"] == "blk.0.ffn_up_exps.weight" && tensor["type"] == "Q8_0")
    );
    let sum: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    assert!(sum <= plan["bytes"].as_u64().unwrap() && sum > 0);
    assert!(!target.exists());
}

#[test]
fn packed_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, back) = (dir.path().join("packed.gguf"), dir.path().join("back.gguf"));
    let outcome = quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    assert!(outcome.err.contains("packed, types unchanged"), "{}", outcome.err);
    quantize(&packed, &back, &["--layout", "standard"]).fine();
    assert!(std::fs::read(&back).unwrap() == std::fs::read(builtin()).unwrap(), "the way back is exact");

    let about = args(["inspect", packed.to_str().unwrap()]).fine();
    let text = about.text();
    for line in
        ["packed (version 2): 48 records of 256 KiB, 12 MiB, one for each expert", "blk.5.ffn_expert.0 to 7"]
    {
        assert!(text.contains(line), "{line} is not in {text}");
    }
    assert!(!args(["inspect", back.to_str().unwrap()]).fine().text().contains("packed"));

    let answer = |model: &Path| {
        let run = ["run", model.to_str().unwrap(), "--prompt", "Once upon a time", "--no-template"];
        args([&run, &crate::common::BRIEF[..]].concat()).fine().out
    };
    let expected = answer(&builtin());
    assert!(!expected.is_empty());
    assert_eq!(answer(&packed), expected);
}

/// Rows had another order in version 1: reading them unchanged would give wrong answers.
#[test]
fn a_packed_file_of_version_1_is_to_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("packed.gguf");
    quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    let mut bytes = std::fs::read(&packed).unwrap();
    let key = b"moelten.packed.version";
    let version = bytes.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    assert_eq!(bytes[version..version + 4], 2_u32.to_le_bytes(), "after the key comes its type");
    bytes[version] = 1;
    std::fs::write(&packed, bytes).unwrap();
    let path = packed.to_str().unwrap();
    for line in [&["run", path, "-p", "hello"][..], &["inspect", path], &["quantize", path, "back.gguf"]] {
        let outcome = args(line.to_vec()).refused(4, "E-SUP-01");
        for part in ["version 1 of the packed layout", "moelten quantize --layout packed"] {
            assert!(outcome.err.contains(part), "{line:?}: {outcome:?}");
        }
    }
}

#[test]
fn types_that_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, target) = (dir.path().join("packed.gguf"), dir.path().join("target.gguf"));
    quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    // The blocks of a packed file are found although its tensors are bytes.
    let again = quantize(&packed, &target, &["--type", "q4_0"]).refused(2, "E-ARG-01");
    assert!(again.err.contains("--allow-requantize"), "{}", again.err);
    assert!(!target.exists());
    quantize(&packed, &target, &["--type", "f32", "--layout", "packed"]).fine();
    assert!(args(["inspect", target.to_str().unwrap()]).fine().text().contains("packed (version 2)"));
}

#[test]
fn folders_need_a_type() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/mixtral");
    let target = dir.path().join("target.gguf");
    let outcome = quantize(&folder, &target, &["--layout", "packed"]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("--type"), "{}", outcome.err);
    quantize(&folder, &target, &["--layout", "packed", "--type", "q8_0"]).fine();
    assert!(args(["inspect", target.to_str().unwrap()]).fine().text().contains("packed (version 2)"));
}

#[test]
fn models_without_experts_are_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/llama");
    let target = dir.path().join("target.gguf");
    quantize(&folder, &target, &["--layout", "packed", "--type", "q8_0"]).refused(4, "E-SUP-01");
    assert!(!target.exists());
}

#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (packed, target) = (dir.path().join("packed.gguf"), dir.path().join("target.gguf"));
    quantize(&builtin(), &packed, &["--layout", "packed"]).fine();
    let mut bytes = std::fs::read(&packed).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&packed, bytes).unwrap();
    let outcome = quantize(&packed, &target, &[]).refused(3, "E-FILE-02");
    assert!(
        outcome.err.contains("blk.5.ffn_expert.7") && outcome.err.contains("checksum"),
        "{}",
        outcome.err
    );
    assert!(!target.exists());
}

fn golden(family: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden").join(family)
}

/// A source that is quantised is refused before anything is written, unless that is what is asked for.
#[test]
fn b85_a_source_that_is_quantised() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.gguf");
    for kind in ["q4_k_m", "q4_0", "f16"] {
        let outcome = quantize(&builtin(), &target, &["--type", kind]);
        if kind == "f16" {
            // Nothing is rounded twice.
            outcome.fine();
            continue;
        }
        let refused = outcome.refused(2, "E-ARG-01");
        for part in ["is already quantised", "use the original weights", "--allow-requantize"] {
            assert!(refused.err.contains(part), "{kind}: {}", refused.err);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{kind}");
    }
    let outcome = quantize(&builtin(), &target, &["--type", "q4_0", "--allow-requantize"]).fine();
    assert!(outcome.err.contains("target.gguf"), "{outcome:?}");
    let outcome = args(["inspect", target.to_str().unwrap()]).fine();
    assert!(outcome.text().contains("--allow-requantize") || outcome.text().contains("Q4_0"), "{outcome:?}");
}

#[test]
fn b86_rows_that_do_not_divide() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.gguf");
    let outcome = quantize(&golden("mixtral"), &target, &["--type", "q4_k_m"]).refused(2, "E-ARG-01");
    for part in ["64 columns", "blocks of 256", "--allow-fallback", "Q5_0"] {
        assert!(outcome.err.contains(part), "{part} is not in {}", outcome.err);
    }
    assert!(!target.exists());
    let outcome = quantize(&golden("mixtral"), &target, &["--type", "q4_k_m", "--allow-fallback"]).fine();
    assert!(outcome.err.contains("blk.0.ffn_up_exps.weight is Q5_0, because"), "{}", outcome.err);
    assert!(args(["inspect", target.to_str().unwrap()]).fine().text().contains("Q5_0"));
}

#[test]
fn b88_patterns() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.gguf");
    let with = |rules: &[&str]| {
        let rules = rules.iter().flat_map(|rule| ["--tensor-type", rule]);
        let options: Vec<&str> = ["--type", "q4_0"].into_iter().chain(rules).collect();
        quantize(&golden("mixtral"), &target, &options)
    };
    for (rules, part) in [
        (&["ffn_dwn=q8_0"][..], "matches none of the"),
        (&["ffn_gate_inp=q8_0"][..], "has to stay F32, F16 or BF16"),
        (&["attn_q"][..], "no `=`"),
        (&["attn_q=q9_k"][..], "no type q9_k"),
        (&["attn_(q=q8_0"][..], "unclosed group"),
        (&["attn_q=iq2_xs"][..], "can be read, not written"),
    ] {
        let outcome = with(rules).harmless();
        assert_eq!(outcome.code, Some(2), "{rules:?}: {outcome:?}");
        assert!(outcome.err.contains(part), "{rules:?}: {part} is not in {}", outcome.err);
        assert!(!target.exists());
    }
    // The last match wins, for routers too.
    with(&["ffn_=q8_0", "ffn_gate_inp=f32"]).fine();
    with(&["ffn_.*_exps=q5_1", r"blk\.0\.ffn_down_exps=q8_0", "ffn_gate_inp=f16"]).fine();
    let report = args(["verify", target.to_str().unwrap(), "--json"]).fine();
    let report: serde_json::Value = serde_json::from_str(report.text()).unwrap();
    let types = |class: &str| -> Vec<String> {
        let all = report["classes"].as_array().unwrap();
        let of = all.iter().filter(|row| row["class"] == class);
        of.map(|row| row["type"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(types("experts"), ["Q5_1", "Q8_0"]);
    assert_eq!(types("routers"), ["F16"]);
    assert_eq!(types("attention"), ["Q4_0"]);
}

#[test]
fn a_dry_run_says_what_will_be_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.gguf");
    let plan = quantize(&golden("mixtral-256"), &target, &["--type", "q4_k_m", "--dry-run"]).fine();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    let plan: serde_json::Value = serde_json::from_str(plan.text()).unwrap();
    assert_eq!(plan["fit"]["verdict"], "ram");
    assert!(plan["seconds"].as_f64().unwrap() < 60.0);
    quantize(&golden("mixtral-256"), &target, &["--type", "q4_k_m"]).fine();
    assert_eq!(plan["bytes"].as_u64().unwrap(), std::fs::metadata(&target).unwrap().len());
    // By classes it is what `verify` counts in the file.
    let report = args(["verify", target.to_str().unwrap(), "--json"]).fine();
    let report: serde_json::Value = serde_json::from_str(report.text()).unwrap();
    let sizes = |of: &serde_json::Value| -> Vec<(String, String, u64)> {
        let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
        let all = of["classes"].as_array().unwrap().iter();
        all.map(|row| (text(row, "class"), text(row, "type"), row["bytes"].as_u64().unwrap())).collect()
    };
    assert_eq!(sizes(&plan), sizes(&report));
}

/// Checksums belong to the tensors of the file, however it was made.
#[test]
fn layouts_there_and_back_stay_sound() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    quantize(&golden("mixtral"), &at("p.gguf"), &["--type", "q8_0", "--layout", "packed"]).fine();
    quantize(&at("p.gguf"), &at("s.gguf"), &[]).fine();
    quantize(&at("s.gguf"), &at("p2.gguf"), &["--layout", "packed"]).fine();
    quantize(&golden("mixtral"), &at("direct.gguf"), &["--type", "q8_0"]).fine();
    for name in ["p.gguf", "s.gguf", "p2.gguf", "direct.gguf"] {
        let report = args(["verify", at(name).to_str().unwrap()]).fine().text().to_owned();
        assert!(report.contains("all with checksums"), "{name}: {report}");
    }
}

/// Gates of shared experts have one row, but are matrices.
#[test]
fn gates_of_shared_experts_have_the_type_that_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.gguf");
    let options = ["--type", "q8_0", "--tensor-type", "ffn_gate_inp_shexp=f16"];
    quantize(&golden("qwen2moe"), &target, &options).fine();
    let report = args(["verify", target.to_str().unwrap()]).fine().text().to_owned();
    assert!(report.lines().any(|line| line.contains("routers") && line.contains("F16")), "{report}");
}

#[test]
fn verify_finds_damage_and_other_sources() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("target.gguf");
    let name = target.to_str().unwrap();
    quantize(&golden("mixtral-256"), &target, &["--type", "q4_0"]).fine();
    let source = golden("mixtral-256");
    let report = args(["verify", name, "--source", source.to_str().unwrap()]).fine().text().to_owned();
    for part in
        ["tensors, all with checksums", "tensors made from it", "sound           yes", "relative error"]
    {
        assert!(report.contains(part), "{part} is not in {report}");
    }
    let sound = std::fs::read(&target).unwrap();
    let mut damaged = sound.clone();
    *damaged.last_mut().unwrap() ^= 4;
    std::fs::write(&target, &damaged).unwrap();
    let outcome = args(["verify", name]).refused(9, "E-VERIFY-01");
    assert!(outcome.err.contains("checksum mismatch"), "{}", outcome.err);

    // The same shapes, one weight of the source changed.
    std::fs::write(&target, &sound).unwrap();
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(source.join(file), other.join(file)).unwrap();
    }
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 0x10;
    std::fs::write(&weights, bytes).unwrap();
    let outcome = args(["verify", name, "--source", other.to_str().unwrap()]).refused(9, "E-VERIFY-01");
    assert!(outcome.err.contains("not made from this source"), "{}", outcome.err);
    let shape = golden("olmoe");
    let outcome = args(["verify", name, "--source", shape.to_str().unwrap()]).refused(4, "E-SUP-01");
    assert!(outcome.err.contains("another shape"), "{}", outcome.err);
}

/// Weights that are not finite numbers: `quantize` refuses them, `verify` finds them.
#[test]
fn b51_weights_that_are_no_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("nan");
    std::fs::create_dir(&folder).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("mixtral-256").join(file), folder.join(file)).unwrap();
    }
    let weights = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // The last two weights of the file, in bfloat16: NaN and infinity.
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&[0xc0, 0x7f, 0x80, 0x7f]);
    std::fs::write(&weights, bytes).unwrap();
    let target = dir.path().join("target.gguf");
    for kind in ["q4_0", "q8_0", "q4_k_m", "f16", "f32", "bf16"] {
        let outcome = quantize(&folder, &target, &["--type", kind]).refused(3, "E-FILE-02");
        assert!(outcome.err.contains("NaN"), "{kind}: {}", outcome.err);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{kind} leaves nothing");
    }
    let outcome = args(["verify", folder.to_str().unwrap()]).refused(9, "E-VERIFY-01");
    assert!(outcome.err.contains("in row 0 is not a finite number"), "{}", outcome.err);
    // The middle of the file has matrices that already have the target type.
    let mut bytes = std::fs::read(golden("mixtral-256").join("model.safetensors")).unwrap();
    let middle = end / 4 * 2;
    bytes[middle..middle + 2].copy_from_slice(&[0xc0, 0x7f]);
    std::fs::write(&weights, bytes).unwrap();
    quantize(&folder, &target, &["--type", "bf16"]).refused(3, "E-FILE-02");
}

#[test]
fn what_went_in_is_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("models--me--my-moe/snapshots/0a1b2c");
    std::fs::create_dir_all(&snapshot).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("mixtral").join(file), snapshot.join(file)).unwrap();
    }
    let target = dir.path().join("target.gguf");
    quantize(&snapshot, &target, &["--type", "q4_0", "--tensor-type", "attn_v=q8_0"]).fine();
    let about = args(["inspect", target.to_str().unwrap()]).fine().text().to_owned();
    for line in [
        "general.file_type = 2",
        "general.source.huggingface.repository = \"me/my-moe\"",
        "moelten.source.revision = \"0a1b2c\"",
        "moelten.source.files = [\"model.safetensors\"]",
        "moelten.options = \"--type q4_0 --tensor-type 'attn_v=Q8_0'\"",
        concat!("moelten.version = \"", env!("CARGO_PKG_VERSION"), "\""),
    ] {
        assert!(about.contains(line), "{line} is not in {about}");
    }
    // Without `--allow-requantize`: a second rounding is not the first.
    quantize(&target, &dir.path().join("again.gguf"), &["--type", "q5_0"]).refused(2, "E-ARG-01");
}

#[test]
fn b84_outputs_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("in.gguf");
    std::fs::copy(builtin(), &source).unwrap();
    let mut targets = vec![source.clone(), dir.path().to_owned()];
    // On Windows a second name of a file is replaced, and the first keeps the file.
    #[cfg(unix)]
    {
        let (hard, soft) = (dir.path().join("hard.gguf"), dir.path().join("soft.gguf"));
        std::fs::hard_link(&source, &hard).unwrap();
        std::os::unix::fs::symlink(&source, &soft).unwrap();
        targets.extend([hard, soft]);
    }
    for target in &targets {
        quantize(&source, target, &["--layout", "packed"]).refused(6, "E-IO-05");
    }
    quantize(&source, &dir.path().join("no/such/folder/x.gguf"), &[]).refused(6, "E-IO-01");
    assert!(std::fs::read(&source).unwrap() == std::fs::read(builtin()).unwrap());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), targets.len() - 1);
    // A budget below the minimum, and one that is kept.
    let target = dir.path().join("out.gguf");
    quantize(&source, &target, &["--type", "f32", "--ram", "1M"]).refused(5, "E-MEM-03");
    quantize(&source, &target, &["--type", "f32", "--ram", "64M", "--threads", "2"]).fine();
}

#[test]
fn b87_importance() {
    let dir = tempfile::tempdir().unwrap();
    let (text, file) = (dir.path().join("text.txt"), dir.path().join("importance.gguf"));
    std::fs::write(&text, "Once upon a time there was a little girl who had a red ball. ".repeat(40))
        .unwrap();
    let [text, file] = [&text, &file].map(|path| path.to_str().unwrap());
    let model = builtin();
    args(["imatrix", model.to_str().unwrap(), "--text", text, "--out", file, "--ctx", "128"]).fine();
    let (plain, weighed) = (dir.path().join("plain.gguf"), dir.path().join("weighed.gguf"));
    let options = ["--type", "q4_0", "--allow-requantize"];
    quantize(&model, &plain, &options).fine();
    quantize(&model, &weighed, &[&options[..], &["--imatrix", file]].concat()).fine();
    let about = args(["inspect", weighed.to_str().unwrap()]).fine().text().to_owned();
    for key in [
        "quantize.imatrix.file = \"importance.gguf\"",
        "quantize.imatrix.dataset",
        "--imatrix importance.gguf",
    ] {
        assert!(about.contains(key), "{key} is not in {about}");
    }
    // Other codes, and a smaller error on that text.
    let divergence = |model: &Path| {
        let against = builtin();
        let line = [
            "ppl",
            model.to_str().unwrap(),
            "--text",
            text,
            "--against",
            against.to_str().unwrap(),
            "--json",
        ];
        let found: serde_json::Value = serde_json::from_str(args(line).fine().text()).unwrap();
        found["against"]["kl_mean"]["value"].as_f64().unwrap_or_else(|| panic!("{found}"))
    };
    let (plain, weighed) = (divergence(&plain), divergence(&weighed));
    assert!(0.0 < weighed && weighed < plain, "{weighed} with importance, {plain} without");
    // A file of another model, and one that is not an importance file.
    let other = golden("qwen3moe");
    let target = dir.path().join("x.gguf");
    quantize(&other, &target, &["--type", "q4_0", "--imatrix", file]).refused(2, "E-ARG-05");
    quantize(&other, &target, &["--type", "q4_0", "--imatrix", text]).refused(3, "E-FILE-02");
    assert!(!target.exists());
}
