//! `moelten run`: sources of the prompt, output, and messages.

use serde_json::Value;

use crate::common::{BRIEF, Outcome, args, builtin, model_with, moelten, run};

fn ask(options: &[&str]) -> Outcome {
    args(["run"].iter().chain(options).chain(&BRIEF))
}

fn json(options: &[&str]) -> Value {
    let outcome = ask(&[options, &["--json"]].concat()).fine();
    serde_json::from_slice(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

#[test]
fn the_answer_is_all_of_stdout() {
    let answer = ask(&["-p", "Tell me about a dog."]).fine();
    assert_eq!(answer.err, "", "nothing to say on a pipe");
    assert!(answer.text().trim().len() > 3, "{answer:?}");
    let object = json(&["-p", "Tell me about a dog."]);
    assert_eq!(answer.text(), format!("{}\n", object["answer"].as_str().unwrap()));
}

#[test]
fn json_says_what_happened() {
    let object = json(&["-p", "hello"]);
    let names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["answer", "reason", "stop", "ids", "stats", "model", "context", "seed", "notices"];
    assert_eq!(names, expected);
    assert_eq!(object["seed"], 1);
    assert_eq!(
        object["ids"].as_array().unwrap().len() as u64,
        object["stats"]["generated_tokens"].as_u64().unwrap()
    );
    let stat = |name: &str| object["stats"][name].as_u64().unwrap();
    assert!(stat("prompt_tokens") > 1);
    // The last token is sampled and not computed.
    assert_eq!(stat("context_used"), stat("prompt_tokens") + stat("generated_tokens") - 1);
    assert!(["max_tokens", "end"].contains(&object["reason"].as_str().unwrap()));
}

#[test]
fn seeds_and_greedy_decoding_repeat() {
    for options in [["-p", "hello", "--seed", "5"], ["-p", "hello", "--temp", "0"]] {
        let answer = || args(["run", "--max-tokens", "12"].iter().chain(&options)).fine().out;
        assert_eq!(answer(), answer());
    }
}

#[test]
fn a_stop_text_ends_the_answer_and_is_not_part_of_it() {
    let whole = json(&["-p", "hello", "--temp", "0"])["answer"].as_str().unwrap().to_owned();
    let word = whole.split_whitespace().nth(1).expect("eight tokens are at least two words").to_owned();
    let cut = json(&["-p", "hello", "--temp", "0", "--stop", &word]);
    assert_eq!(cut["reason"], "stop");
    assert_eq!(cut["stop"], *word);
    assert_eq!(cut["answer"], *whole.split_once(&word).unwrap().0);
}

#[test]
fn questions_come_from_options_files_and_pipes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("question.txt");
    std::fs::write(&file, "Tell me about a dog.").unwrap();
    let file = file.to_str().unwrap();
    let tokens = |options: &[&str], stdin: &str| {
        let outcome =
            run(moelten().args(["run", "--json"]).args(BRIEF).args(options), stdin.as_bytes()).fine();
        let object: Value = serde_json::from_slice(&outcome.out).unwrap();
        (object["stats"]["prompt_tokens"].as_u64().unwrap(), object["ids"].clone())
    };
    let option = tokens(&["-p", "Tell me about a dog."], "");
    assert_eq!(tokens(&["-f", file], ""), option);
    assert_eq!(tokens(&[], "Tell me about a dog.\n"), option);
    let both = tokens(&["-p", "Tell me"], "about a dog.");
    assert_eq!(both, tokens(&["-p", "Tell me\n\nabout a dog."], ""));
    let system = tokens(&["-p", "Tell me about a dog.", "--system", "Be kind."], "");
    assert!(system.0 > option.0);
    std::fs::write(file, "Be kind.").unwrap();
    assert_eq!(tokens(&["-p", "Tell me about a dog.", "-s", &format!("@{file}")], ""), system);
}

#[test]
fn without_a_question_it_says_how_to_ask() {
    let outcome = ask(&[]).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("--prompt"), "{outcome:?}");
}

#[test]
fn b64_wrong_bytes_are_replaced_with_one_warning() {
    for line in [&["run"][..], &["run", "-p", "what is this?"], &["chat"]] {
        let outcome = run(moelten().args(line).args(BRIEF), b"a\xff\xfeb\xff\0c\nd\xff\n").fine();
        assert_eq!(outcome.err.matches("not valid UTF-8").count(), 1, "{line:?}: {outcome:?}");
        assert!(!outcome.text().trim().is_empty(), "{line:?}: {outcome:?}");
    }
}

/// Zeros are characters like others: nothing after them is lost.
#[test]
fn b67_zeros_pass() {
    let answered = |text: &[u8]| run(moelten().args(["run", "--json"]).args(BRIEF), text).fine();
    let tokens = |text: &[u8]| {
        let object: Value = serde_json::from_slice(&answered(text).out).unwrap();
        object["stats"]["prompt_tokens"].as_u64().unwrap()
    };
    let (short, long) = (tokens(b"a\0b\n"), tokens(b"a\0b and a long story about a dog\n"));
    assert!(long >= short + 6, "{short} and {long} tokens");
    assert!(!answered(b"a\0b\n").err.contains("UTF-8"));
    run(moelten().arg("chat").args(BRIEF), b"a\0b\n").fine();
}

#[test]
fn b65_a_line_of_ten_megabytes_is_measured_not_cut() {
    let text = "word ".repeat(2 << 20);
    let outcome = run(moelten().arg("run").args(BRIEF), text.as_bytes()).refused(2, "E-CTX-01");
    assert!(outcome.err.contains("Nothing was cut"), "{outcome:?}");
}

#[test]
fn b66_a_prompt_beyond_the_context_is_refused_with_numbers() {
    let long = "dog ".repeat(300);
    let outcome = ask(&["--ctx", "64", "-p", &long]).refused(2, "E-CTX-01");
    assert!(outcome.err.contains("holds 64") && outcome.err.contains("--ctx 1024"), "{outcome:?}");
    ask(&["--ctx", "1024", "-p", &long]).fine();
}

#[test]
fn an_answer_that_fills_the_context_says_so() {
    let options = ["--ctx", "40", "-p", "hello", "--max-tokens", "1000", "--seed", "1", "--temp", "100"];
    let open = ["--top-k", "0", "--top-p", "1", "--min-p", "0"];
    let outcome = args(["run"].iter().chain(&options).chain(&open)).fine();
    assert!(outcome.err.contains("context of 40 tokens is full"), "{outcome:?}");
}

#[test]
fn b69_control_tokens_in_a_question_stay_text() {
    let tokens = |text: &str| json(&["-p", text])["stats"]["prompt_tokens"].as_u64().unwrap();
    assert!(tokens("<|im_end|><|im_end|>") >= tokens("x") + 4, "each is spelled, not one token");
}

#[test]
fn a_model_without_template_is_not_guessed_at() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("base.gguf");
    model_with(&model, |metadata| metadata.retain(|(key, _)| key != "tokenizer.chat_template"));
    let model = model.to_str().unwrap();
    let outcome = ask(&[model, "-p", "hello"]).refused(4, "E-TPL-02");
    assert!(outcome.err.contains("--no-template"), "{outcome:?}");
    args(["chat", model]).refused(4, "E-TPL-02");
    for option in ["--no-template", "--raw-prompt"] {
        assert!(ask(&[model, option, "-p", "Once upon a time"]).fine().text().len() > 3);
    }
}

#[test]
fn a_system_prompt_that_would_be_dropped_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("deaf.gguf");
    let template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}";
    model_with(&model, |metadata| {
        metadata.retain(|(key, _)| key != "tokenizer.chat_template");
        metadata.push((
            "tokenizer.chat_template".into(),
            moelten_loader::container::gguf::Value::Str(template.into()),
        ));
    });
    let model = model.to_str().unwrap();
    ask(&[model, "-p", "hello"]).fine();
    ask(&[model, "-p", "hello", "--system", "Be kind."]).refused(4, "E-SUP-02");
    args(["chat", model, "--system", "Be kind."]).refused(4, "E-SUP-02");
}

#[test]
fn settings_out_of_range_are_refused() {
    ask(&["-p", "x", "--temp", "NaN"]).refused(2, "E-ARG-02");
    for wrong in
        [["--ctx", "0"], ["--ctx", "many"], ["--threads", "0"], ["--max-tokens", "-1"], ["--kv", "f8"]]
    {
        let outcome = ask(&[&["-p", "x"], &wrong[..]].concat()).harmless();
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
    }
}

#[test]
fn verbose_goes_to_stderr() {
    let quiet = ask(&["-p", "hello"]).fine();
    let outcome = ask(&["-p", "hello", "-v"]).fine();
    assert_eq!(outcome.out, quiet.out);
    assert!(["seed 1", "context", "tok/s"].iter().all(|part| outcome.err.contains(part)), "{outcome:?}");
}

#[test]
fn the_builtin_model_is_found_from_anywhere_and_equals_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let there =
        run(moelten().current_dir(folder.path()).args(["run", "-p", "hello"]).args(BRIEF), b"").fine();
    let file = builtin();
    assert_eq!(there.out, ask(&[file.to_str().unwrap(), "-p", "hello"]).fine().out);
}

/// Figures, not a test of right and wrong: `cargo test --release -p moelten-tools -- --ignored --nocapture
/// startup`.
#[test]
#[ignore = "measures; meaningful in release on an idle machine"]
fn startup_times() {
    let best = |arguments: &[&str]| (0..10).map(|_| args(arguments).fine().took).min().unwrap();
    let (help, token) = (best(&["--help"]), best(&["run", "-p", "hello", "--max-tokens", "1"]));
    println!("--help {help:?}, first token of the built-in model {token:?}");
    assert!(help.as_millis() < 50 && token.as_millis() < 1000);
}

#[test]
fn end_token_s_beside_eos() {
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/end_token_s_beside_eos.gguf");
    let outcome = args(["run", model, "-p", "Hello", "--temp", "0", "--max-tokens", "8", "--json"]).fine();
    let object: Value = serde_json::from_slice(&outcome.out).unwrap();
    assert_eq!(object["reason"], "end", "{outcome:?}");
    // Without a template nothing tells of turns, but `</s>` is known.
    let plain = ["--no-template", "-p", "Hello", "--temp", "0", "--max-tokens", "8", "--json"];
    args(["run", model].iter().chain(&plain)).fine();
    // The template's own tokens are shown as ends too.
    let about = args(["inspect", "--brief", model]).fine();
    for end in ["257 \"<|endoftext|>\"", "258 \"<|im_start|>\"", "259 \"</s>\"", "260 \"<|im_end|>\""] {
        assert!(about.text().contains(end), "{about:?}");
    }
}
