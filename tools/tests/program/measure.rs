//! `moelten ppl --against`: a model against itself and against worse ones. `moelten imatrix`: files that do
//! not depend on threads or cache.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use moelten_loader::container::gguf::{Array, Value};
use moelten_loader::imatrix::{Gaps, ImportanceFile};
use moelten_loader::load::load;

use crate::common::{Outcome, args, builtin, finish, model_with, moelten, run};

/// A folder with a text in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let tale = |day: usize| {
            let who =
                ["a little girl", "an old man", "a brave rabbit", "the king", "a boy named Tom"][day % 5];
            let what = ["found a key", "went to the market", "lost a red ball", "saw the sea"][day % 4];
            format!("On day {day}, {who} {what} and was very happy. \"Come with me!\" said the bird.\n")
        };
        std::fs::write(folder.text(), (0..24).map(tale).collect::<String>()).unwrap();
        folder
    }

    fn text(&self) -> PathBuf {
        self.path("text.txt")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `moelten COMMAND MODEL --text TEXT OPTIONS`.
    fn measure(&self, command: &str, model: &Path, options: &[&str]) -> Outcome {
        let text = self.text();
        args([&[command, model.to_str().unwrap(), "--text", text.to_str().unwrap()], options].concat())
    }

    fn ppl(&self, model: &Path, other: &Path) -> serde_json::Value {
        let options =
            ["--against", other.to_str().unwrap(), "--temp", self.0.path().to_str().unwrap(), "--json"];
        serde_json::from_slice(&self.measure("ppl", model, &options).fine().out).unwrap()
    }
}

#[test]
fn a_model_does_not_differ_from_itself() {
    let folder = Folder::new();
    let found = folder.ppl(&builtin(), &builtin());
    let against = &found["against"];
    assert_eq!(against["perplexity"]["value"], found["perplexity"]);
    assert_eq!(against["perplexity"]["error"], found["error"]);
    for (figure, value) in [("kl_mean", 0.0), ("perplexity_ratio", 1.0), ("same_top_token", 1.0)] {
        assert_eq!(against[figure]["value"].as_f64(), Some(value), "{figure}");
        assert_eq!(against[figure]["error"].as_f64(), Some(0.0), "{figure}");
    }
    assert_eq!(against["kl_max"].as_f64(), Some(0.0));
    let left: Vec<_> =
        std::fs::read_dir(folder.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["text.txt"], "what one model has predicted does not stay");
}

/// Fewer experts than the model's own cost something, as many as it has cost nothing, and what does not fit
/// is a usage error.
#[test]
fn fewer_experts_have_a_price() {
    let folder = Folder::new();
    let price = |rule: &str| {
        let (model, temp) = (builtin(), folder.0.path().to_str().unwrap().to_owned());
        let options = ["--against", model.to_str().unwrap(), "--temp", &temp, "--json", "--experts", rule]
            .map(str::to_owned);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let out = folder.measure("ppl", &model, &options).fine().out;
        let found: serde_json::Value = serde_json::from_slice(&out).unwrap();
        found["against"]["kl_mean"]["value"].as_f64().unwrap()
    };
    assert_eq!(price("2"), 0.0, "the model's own choice");
    let (one, over) = (price("1"), price("over:0.9:2"));
    assert!(one > 0.0 && over >= 0.0, "{one} {over}");
    for (rule, part) in [
        ("9", "9 experts of a token, of 8 in a layer"),
        ("some", "no choice of experts"),
        ("attn=1", "no attention experts"),
    ] {
        let outcome = folder.measure("ppl", &builtin(), &["--experts", rule]);
        assert_eq!(outcome.code, Some(2), "{rule}");
        assert!(outcome.err.contains(part), "{rule}: {}", outcome.err);
    }
}

#[test]
fn fewer_bits_cost_more() {
    let folder = Folder::new();
    let cost = |kind: &str| {
        let target = folder.path(kind);
        let [source, to] = [&builtin(), &target].map(|path| path.to_str().unwrap().to_owned());
        args(["quantize", &source, &to, "--type", kind, "--allow-requantize"]).fine();
        let found = folder.ppl(&target, &builtin());
        let figure = |name: &str| found["against"][name]["value"].as_f64().unwrap();
        let ratio = found["perplexity"].as_f64().unwrap() / figure("perplexity");
        assert!((ratio - figure("perplexity_ratio")).abs() < 1e-9);
        let quantile = |name: &str| found["against"][name].as_f64().unwrap();
        assert!(quantile("kl_median") <= quantile("kl_p99") && quantile("kl_p99") <= quantile("kl_max"));
        assert!(found["against"]["kl_mean"]["error"].as_f64().unwrap() > 0.0);
        (figure("kl_mean"), figure("same_top_token"))
    };
    let ((eight, same_eight), (four, same_four)) = (cost("f32"), cost("q4_0"));
    assert!(0.0 < eight && eight < four / 10.0, "{eight} {four}");
    assert!((0.5..1.0).contains(&same_four) && same_four < same_eight, "{same_four} {same_eight}");
}

#[test]
fn vocabularies_must_be_the_same() {
    let folder = Folder::new();
    let other = folder.path("other.gguf");
    model_with(&other, |metadata| {
        let tokens = metadata.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens").unwrap();
        let Value::Array(Array::Str(tokens)) = &mut tokens.1 else { panic!("tokens are texts") };
        tokens.swap(4000, 4001);
    });
    let options = ["--against", other.to_str().unwrap()];
    let outcome = folder.measure("ppl", &builtin(), &options).refused(2, "E-ARG-01");
    assert!(outcome.err.contains("not comparable: token 4000 is "), "{}", outcome.err);
}

#[test]
fn importance_does_not_depend_on_how_it_was_measured() {
    let folder = Folder::new();
    let file = |name: &str, options: &[&str]| {
        let out = folder.path(name);
        let outcome = folder.measure(
            "imatrix",
            &builtin(),
            &[&["--out", out.to_str().unwrap(), "--ctx", "128"], options].concat(),
        );
        let outcome = outcome.fine();
        assert!(outcome.err.contains("importance of 49 matrices and expert banks"), "{}", outcome.err);
        std::fs::read(out).unwrap()
    };
    let bytes = file("a", &[]);
    assert!(bytes == file("b", &["--threads", "3"]), "the same for any number of threads");
    assert!(bytes == file("c", &["--ram", "min", "--io", "direct"]), "the same while experts are read");
    let read = ImportanceFile::open(&folder.path("a")).unwrap();
    assert_eq!(read.check(&load(&builtin()).unwrap().spec).unwrap(), Gaps::default());
    let about = read.provenance();
    assert_eq!((about.datasets.as_slice(), about.chunk_size), (&["text.txt".to_owned()][..], 128));
    assert!(about.chunks > 4 && about.tokens > about.chunks * 100, "{about:?}");

    let fewer = folder.path("d");
    let options = ["--out", fewer.to_str().unwrap(), "--ctx", "32", "--chunks", "1"];
    let outcome = folder.measure("imatrix", &builtin(), &options).fine();
    assert!(
        outcome.err.contains("never chosen") || outcome.err.contains("chosen by fewer than"),
        "{}",
        outcome.err
    );
    assert_eq!(ImportanceFile::open(&fewer).unwrap().provenance().chunks, 1);
}

#[test]
fn importance_replaces_no_input() {
    let folder = Folder::new();
    let model = folder.path("model.gguf");
    std::fs::copy(builtin(), &model).unwrap();
    for input in [&model, &folder.text()] {
        let before = std::fs::read(input).unwrap();
        folder.measure("imatrix", &model, &["--out", input.to_str().unwrap()]).refused(6, "E-IO-05");
        assert!(std::fs::read(input).unwrap() == before);
    }
}

#[cfg(unix)]
#[test]
fn a_stop_leaves_nothing() {
    let folder = Folder::new();
    let (long, out) = (folder.path("long.txt"), folder.path("out.gguf"));
    std::fs::write(&long, std::fs::read_to_string(folder.text()).unwrap().repeat(120)).unwrap();
    let mut command = moelten();
    command.args(["imatrix", builtin().to_str().unwrap(), "--text", long.to_str().unwrap()]);
    command
        .args(["--out", out.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (child, started) = (command.spawn().unwrap(), Instant::now());
    std::thread::sleep(Duration::from_millis(1500));
    run(std::process::Command::new("kill").args(["-INT", &child.id().to_string()]), b"").fine();
    let outcome = finish(child, started).harmless();
    assert_eq!(outcome.code, Some(130), "{outcome:?}");
    assert!(outcome.err.contains("nothing written"), "{}", outcome.err);
    assert!(!out.exists() && !folder.path("out.gguf.partial").exists());
}
