//! Models with an encoder from end to end: translation, texts with gaps, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::common::{Outcome, args, builtin, moelten, run};

/// A tiny checkpoint with a tokenizer.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden").join(name)
}

fn ask(model: &Path, options: &[&str], stdin: &str) -> Outcome {
    let mut command = moelten();
    command.arg("run").arg(model).args(["--max-tokens", "12"]).args(options);
    run(&mut command, stdin.as_bytes())
}

const GERMAN: [&str; 4] = ["--from", "eng_Latn", "--to", "deu_Latn"];

/// A copy of a checkpoint whose configuration was changed.
fn changed(name: &str, folder: &Path, change: impl FnOnce(&mut Value)) -> PathBuf {
    let copy = folder.join(name);
    fs::create_dir(&copy).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(golden(name).join(file), copy.join(file)).unwrap();
    }
    let path = copy.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(&path, config.to_string()).unwrap();
    copy
}

#[test]
fn texts_are_translated_line_by_line() {
    let model = golden("nllbmoe");
    let one = |text: &str| ask(&model, &[&GERMAN[..], &["-p", text]].concat(), "").fine();
    let (first, second) = (one("the dog"), one("a cat sat."));
    assert!(!first.text().trim().is_empty() && first.text() != second.text(), "{first:?} {second:?}");
    assert!(first.err.contains("at most 0.4 of a text's tokens for an expert"), "{first:?}");
    let both = ask(&model, &GERMAN, "the dog\n\na cat sat.\n").fine();
    assert_eq!(both.text(), format!("{}\n{}", first.text(), second.text()));
    // Another language is another beginning of the answer.
    let french = ask(&model, &["--from", "eng_Latn", "--to", "fra_Latn", "-p", "the dog"], "").fine();
    assert_ne!(french.text(), first.text());
    let object = ask(&model, &[&GERMAN[..], &["--json", "-p", "the dog"]].concat(), "").fine();
    let object: Value = serde_json::from_str(object.text()).unwrap();
    assert_eq!(object["answer"], first.text().trim_end_matches('\n'));
    // The language, the tokens of the text and its end; the start and the other language.
    assert!(object["stats"]["prompt_tokens"].as_u64().unwrap() > 4);
    // Experts that are read from the file give the same answer.
    let least = ask(&model, &[&GERMAN[..], &["--ram", "min", "-p", "the dog"]].concat(), "").fine();
    assert_eq!(least.text(), first.text());
}

#[test]
fn gaps_are_filled_in_place() {
    let model = golden("switch");
    let text = "The <extra_id_0> is in <extra_id_1> house.";
    let answer = ask(&model, &["-p", text], "").fine();
    let shown = answer.text();
    assert!(
        shown.starts_with("The ") && shown.contains(" is in ") && shown.ends_with("house.\n"),
        "{answer:?}"
    );
    // Random weights may leave gaps open, and then say so.
    assert_eq!(shown.contains("<extra_id_"), answer.err.contains("gaps open"), "{answer:?}");
    assert_eq!(ask(&model, &[], &format!("{text}\n")).fine().text(), shown, "from a pipe");
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let (nllb, switch) = (golden("nllbmoe"), golden("switch"));
    let refused = |model: &Path, options: &[&str]| ask(model, options, "").refused(2, "E-ARG-01").err;
    let code = refused(&nllb, &["--from", "eng_Latn", "--to", "deu_Lat", "-p", "the dog"]);
    assert!(code.contains("--to deu_Lat") && code.contains("deu_Latn"), "{code}");
    let chinese = refused(&nllb, &["--from", "zho", "--to", "deu_Latn", "-p", "the dog"]);
    assert!(chinese.contains("zho_Hans, zho_Hant"), "{chinese}");
    let missing = refused(&nllb, &["--from", "eng_Latn", "-p", "the dog"]);
    assert!(missing.contains("--to LANGUAGE is missing") && missing.contains("fra_Latn"), "{missing}");
    let no_gap = refused(&switch, &["-p", "The dog is in the house."]);
    assert!(no_gap.contains("the text has none") && no_gap.contains("<extra_id_0>"), "{no_gap}");
    let order = refused(&switch, &["-p", "The <extra_id_1>"]);
    assert!(order.contains("<extra_id_0> is expected"), "{order}");
    let language = refused(&switch, &["--to", "deu_Latn", "-p", "The <extra_id_0>"]);
    assert!(language.contains("for translation models"), "{language}");
    let decoder = refused(&builtin(), &["--to", "deu_Latn", "-p", "the dog"]);
    assert!(decoder.contains("models with an encoder"), "{decoder}");
    let system = refused(&nllb, &[&GERMAN[..], &["--system", "x", "-p", "the dog"]].concat());
    assert!(system.contains("--system is for conversations"), "{system}");
    let long = "the dog ".repeat(1000);
    let long = ask(&nllb, &[&GERMAN[..], &["--ctx", "256", "-p", &long]].concat(), "").refused(2, "E-CTX-01");
    assert!(long.err.contains("the encoder reads at most 256 at once"), "{long:?}");
}

#[test]
fn configurations_that_make_no_sense_are_refused_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, at: &str, change: &dyn Fn(&mut Value)| {
        let folder = dir.path().join(at);
        fs::create_dir(&folder).unwrap();
        let model = changed(name, &folder, change);
        ask(&model, &["-p", "The <extra_id_0>"], "")
    };
    let start = refused("switch", "start", &|config| {
        config.as_object_mut().unwrap().remove("decoder_start_token_id");
    });
    let start = start.refused(3, "E-FILE-02").err;
    assert!(start.contains("decoder_start_token_id") && start.contains("missing"), "{start}");
    let high = refused("switch", "high", &|config| config["decoder_start_token_id"] = 96.into());
    assert!(high.refused(3, "E-FILE-02").err.contains("decoder_start_token_id"));
    let reach = refused("switch", "reach", &|config| config["relative_attention_max_distance"] = 8.into());
    assert!(reach.refused(3, "E-FILE-02").err.contains("relative_attention_max_distance"));
    let chance = refused("nllbmoe", "chance", &|config| config["second_expert_policy"] = "random".into());
    assert!(chance.refused(4, "E-SUP-01").err.contains("second_expert_policy"));
    let batch = refused("nllbmoe", "batch", &|config| config["batch_prioritized_routing"] = true.into());
    assert!(batch.refused(4, "E-SUP-01").err.contains("batch_prioritized_routing"));
}

#[test]
fn chat_refuses_models_that_cannot_chat_and_says_what_they_are_for() {
    let refused =
        |name: &str| run(moelten().arg("chat").arg(golden(name)), b"hello\n").refused(4, "E-SUP-02").err;
    let nllb = refused("nllbmoe");
    assert!(nllb.contains("cannot chat") && nllb.contains("--from eng_Latn --to deu_Latn"), "{nllb}");
    let switch = refused("switch");
    assert!(switch.contains("cannot chat") && switch.contains("<extra_id_0>"), "{switch}");
}

#[test]
fn the_capacity_of_experts_is_said_and_can_be_chosen() {
    let model = golden("switch");
    let text = ["-p", "The <extra_id_0> is in <extra_id_1> house and the dog sat in a park and the cat is."];
    let said = |options: &[&str]| ask(&model, &[&text[..], options].concat(), "").fine().err;
    let files = said(&[]);
    assert!(files.contains("at most 9 tokens of a text") && files.contains("the model's files"), "{files}");
    let none = said(&["--capacity", "none"]);
    assert!(none.contains("every expert takes all tokens") && none.contains("--capacity"), "{none}");
    let paper = said(&["--capacity", "paper"]);
    assert!(paper.contains("at most 2 times the mean share"), "{paper}");
}

#[test]
fn fit_and_inspect_describe_both_stacks() {
    for name in ["switch", "nllbmoe"] {
        let model = golden(name);
        let path = model.to_str().unwrap();
        let about = args(["inspect", path]).fine();
        for part in ["encoder: the first 2 layers", "decoder, layer 2:", "attention to the text"] {
            assert!(about.text().contains(part), "{part} is not in {about:?}");
        }
        assert!(args(["fit", path]).fine().text().contains("RAM, all of it fits"), "{name}");
    }
}

#[test]
fn a_folder_becomes_a_file_that_answers_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let tasks: [(&str, &[&str]); 2] = [
        ("switch", &["-p", "The <extra_id_0> is in <extra_id_1> house."]),
        ("nllbmoe", &["--from", "eng_Latn", "--to", "deu_Latn", "-p", "the dog sat."]),
    ];
    for (name, task) in tasks {
        let (model, file) = (golden(name), dir.path().join(format!("{name}.gguf")));
        let paths = [model.to_str().unwrap(), file.to_str().unwrap()];
        args(["quantize", paths[0], paths[1], "--type", "bf16"]).fine();
        assert_eq!(ask(&file, task, "").fine().text(), ask(&model, task, "").fine().text(), "{name}");
    }
}

/// Weights as large as those of no folder here, of which experts are read from the file.
#[test]
fn generated_shapes_run() {
    let shape = ["bench", "--shape", "switch-base-128", "--layers", "2", "--prefill", "40", "--decode", "4"];
    let measured = args([&shape[..], &["--repeat", "1"]].concat()).fine();
    assert!(measured.text().contains("switch-base-128"), "{measured:?}");
}

/// Logits of an answer, with the experts of both stacks, do not depend on the budget.
#[test]
fn logits_of_an_answer_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let model = golden("nllbmoe");
    let path = model.to_str().unwrap();
    let write = |name: &str, options: &[&str]| {
        let out = dir.path().join(name);
        let ids = ["logits", path, "--source", "91,5,30,40,41,2", "--ids", "2,90,7", "--out"];
        args([&ids[..], &[out.to_str().unwrap()], options].concat()).fine();
        fs::read(out).unwrap()
    };
    let whole = write("whole", &[]);
    let text = String::from_utf8_lossy(&whole[..600]);
    for name in ["\"source_ids\"", "\"router.enc.1\"", "\"router.dec.0\"", "\"logits\""] {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(whole == write("least", &["--ram", "min"]));
    let refused = |options: &[&str]| args(options).refused(2, "E-ARG-01").err;
    let missing = refused(&["logits", path, "--ids", "2,90", "--out", "x"]);
    assert!(missing.contains("--source"), "{missing}");
    let builtin = builtin();
    let decoder = ["logits", builtin.to_str().unwrap(), "--source", "5", "--ids", "2", "--out", "x"];
    assert!(refused(&decoder).contains("models with an encoder"));
}

#[test]
fn beams_are_those_that_are_asked_for_or_of_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let model = changed("nllbmoe", dir.path(), |_| {});
    let one = |options: &[&str]| ask(&model, &[&GERMAN[..], options, &["-p", "the dog"]].concat(), "").fine();
    let greedy = one(&[]);
    let asked = one(&["--beams", "4"]);
    assert!(asked.err.contains("beams: 4 (from --beams)"), "{asked:?}");
    assert!(!greedy.err.contains("beams"), "{greedy:?}");
    fs::write(model.join("generation_config.json"), r#"{"num_beams": 4, "early_stopping": false}"#).unwrap();
    let of_files = one(&[]);
    assert!(of_files.err.contains("beams: 4 (from the model's files"), "{of_files:?}");
    assert_eq!(of_files.text(), asked.text());
    assert_eq!(one(&["--beams", "1"]).text(), greedy.text());
    // Options that a search does not have turn that of the files off, and not one that is asked for.
    assert!(!one(&["--temp", "0.5", "--seed", "1"]).err.contains("beams"));
    let both = [&GERMAN[..], &["--beams", "2", "--temp", "0.5", "-p", "the dog"]].concat();
    let both = ask(&model, &both, "").refused(2, "E-ARG-01").err;
    assert!(both.contains("leave out --temp"), "{both}");
    // A file of the folder has them too.
    let file = dir.path().join("beams.gguf");
    args(["quantize", model.to_str().unwrap(), file.to_str().unwrap(), "--type", "bf16"]).fine();
    let of_file = ask(&file, &[&GERMAN[..], &["-p", "the dog"]].concat(), "").fine();
    assert_eq!(of_file.text(), asked.text());
}
