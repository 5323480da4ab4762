//! A model that attacks the terminal with its name, its template and its tokens. No control sequence may be
//! printed.

use moelten_loader::container::gguf::Value;

use crate::common::hostile::{ATTACKS, hostile};
use crate::common::{args, model_with, moelten, run, set};

#[test]
fn b68_words_that_attack_come_out_as_words() {
    let folder = tempfile::tempdir().unwrap();
    let model = hostile(&folder);
    let model = model.to_str().unwrap();
    let seeds: Vec<String> = (1..30).map(|seed| seed.to_string()).collect();
    // The answer depends on the last bits of the arithmetic, so find a seed whose answer attacks.
    fn options(seed: &str) -> [&str; 8] {
        ["-p", "hello", "--max-tokens", "60", "--temp", "5", "--seed", seed]
    }
    let attacks = |seed: &&String| {
        let json = args(["run", model, "--json"].into_iter().chain(options(seed))).fine();
        let object: serde_json::Value = serde_json::from_slice(&json.out).unwrap();
        let answer = object["answer"].as_str().unwrap();
        answer.contains('\u{1b}') && answer.contains('\u{9b}')
    };
    let options = options(seeds.iter().find(attacks).expect("the model attacks for some seed"));
    let shown = args(["run", model].iter().chain(&options)).fine();
    assert!(shown.text().contains("word") && !shown.text().contains("owned"), "{shown:?}");
    let chat =
        run(moelten().args(["chat", model, "-v"]).args(&options[2..]), b"hello\n/show\n/retry\n").fine();
    assert!(chat.text().contains("word") && !chat.text().contains("owned"), "{chat:?}");
    assert!(!chat.err.contains("owned"), "{chat:?}");
    let inspected = args(["inspect", model]).fine();
    assert!(inspected.text().contains("general.name"), "{inspected:?}");
}

#[test]
fn b61_templates_that_attack_in_their_errors_are_quoted_clean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let template = format!("{{{{ raise_exception('no{}') }}}}", ATTACKS.concat());
    model_with(&path, |metadata| {
        set(metadata, "tokenizer.chat_template", |value| *value = Value::Str(template));
    });
    let outcome = args(["run", path.to_str().unwrap(), "-p", "hello"]).refused(3, "E-TPL-01");
    assert!(outcome.err.contains("no") && !outcome.err.contains("owned"), "{outcome:?}");
}

#[test]
fn b10_keys_that_attack_are_quoted_clean() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut bytes = std::fs::read(crate::common::builtin()).unwrap();
    // The first key, `general.architecture`, follows magic, version, two counts and its length.
    let key = &mut bytes[32..52];
    assert_eq!(key, b"general.architecture");
    key[..8].copy_from_slice(b"\x1b]0;own\x07");
    std::fs::write(&path, bytes).unwrap();
    let outcome = args(["run", path.to_str().unwrap(), "-p", "hello"]).harmless();
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
}
