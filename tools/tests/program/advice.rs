//! What messages advise, and what they blame: the file, the variable or the option, by its name.

use moelten_loader::container::gguf::Value;

use crate::common::{Outcome, args, mini, moelten, run};

fn ask(model: impl AsRef<std::ffi::OsStr>) -> Outcome {
    run(moelten().arg("run").arg(model).args(["-p", "x", "--max-tokens", "2"]), b"")
}

#[test]
fn damaged_downloads() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    mini::write(&model, &mini::keys(), &mini::tensors());
    let whole = std::fs::read(&model).unwrap();
    for len in [0, 2, 3000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&model, &whole[..len]).unwrap();
        let refused = ask(&model).refused(3, "E-FILE-02");
        assert!(refused.err.contains("finish it or download the file again"), "{len}: {refused:?}");
    }
    let pages = [
        ("<!DOCTYPE html><html><body>404</body></html>", "download the file itself"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    ];
    for (text, advice) in pages {
        std::fs::write(&model, text).unwrap();
        let refused = ask(&model).refused(3, "E-FILE-01");
        assert!(refused.err.contains(advice) && refused.err.contains("model.gguf"), "{refused:?}");
        for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"] {
            let other = tempfile::tempdir().unwrap();
            let path = mini::folder(&other.path().join("model"));
            std::fs::write(path.join(name), text).unwrap();
            let refused = ask(&path).refused(3, "E-FILE-01");
            assert!(refused.err.contains(advice) && refused.err.contains(name), "{refused:?}");
        }
    }
}

#[test]
fn renamed_and_missing_parts_of_split_models() {
    let folder = tempfile::tempdir().unwrap();
    let mut keys = mini::with(mini::keys(), "split.count", Value::U16(2));
    keys = mini::with(keys, "split.no", Value::U16(0));
    let renamed = folder.path().join("renamed.gguf");
    mini::write(&renamed, &keys, &mini::tensors());
    let refused = ask(&renamed).refused(3, "E-FILE-02");
    assert!(
        refused.err.contains("part 1 of 2") && refused.err.contains("-00001-of-00002.gguf"),
        "{refused:?}"
    );
    assert!(!refused.err.contains("download"), "{refused:?}");
    let alone = folder.path().join("m-00001-of-00002.gguf");
    std::fs::rename(&renamed, &alone).unwrap();
    let refused = ask(&alone).refused(3, "E-FILE-02");
    assert!(refused.err.contains("m-00002-of-00002.gguf: split part: is missing"), "{refused:?}");
    assert!(
        refused.err.contains("download those that are missing") && !refused.err.contains("again"),
        "{refused:?}"
    );
}

#[test]
fn variants_that_are_not_supported() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let keys = mini::with(mini::keys(), "general.architecture", Value::Str("abacus".into()));
    mini::write(&model, &keys, &mini::tensors());
    let refused = ask(&model).refused(4, "E-SUP-01");
    assert!(
        refused.err.contains("architecture \"abacus\" is not supported; docs/models.md lists "),
        "{refused:?}"
    );
}

#[test]
fn values_are_blamed_on_the_variable_or_the_option_that_gave_them() {
    let with = |variable: &str, value: &str, options: &[&str]| {
        run(moelten().args(["run", "-p", "x"]).args(options).env(variable, value), b"")
    };
    for (variable, value) in
        [("MOELTEN_RAM", "lots"), ("MOELTEN_CTX", "0"), ("MOELTEN_THREADS", "many"), ("MOELTEN_TEMP", "NaN")]
    {
        let outcome = with(variable, value, &[]).harmless();
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.err.contains(&format!("environment variable {variable}")), "{outcome:?}");
    }
    let outcome = with("MOELTEN_RAM", "6G", &["--ram", "lots"]).harmless();
    assert!(outcome.code == Some(2) && !outcome.err.contains("MOELTEN_RAM"), "{outcome:?}");
    let outcome = with("MOELTEN_TEMP", "1", &["--temp", "NaN"]).harmless();
    assert!(outcome.err.contains("--temp: temperature is NaN"), "{outcome:?}");
    let outcome = args(["run", "-p", "x", "--min-p", "2"]).refused(2, "E-ARG-02");
    assert!(outcome.err.contains("--min-p: "), "{outcome:?}");
}
