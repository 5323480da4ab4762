//! The configuration file, the choice of a model, quiet runs, the long version, JSON and its errors.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::common::{BRIEF, Outcome, args, builtin, moelten, run};

/// A home with a configuration file.
struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = moelten();
        command.args(args).env("MOELTEN_CONFIG", self.file()).env("HOME", self.folder.path());
        command.env_remove("MOELTEN_THREADS").env("XDG_STATE_HOME", self.folder.path().join("state"));
        // Its name on Windows.
        command.env("LOCALAPPDATA", self.folder.path().join("state"));
        command.current_dir(self.folder.path());
        command
    }

    fn run(&self, args: &[&str]) -> Outcome {
        run(&mut self.command(args), b"")
    }

    fn settings(&self) -> Value {
        let shown = self.run(&["config", "--json"]).fine();
        serde_json::from_str::<Value>(shown.text()).unwrap()["settings"].take()
    }
}

#[test]
fn a_value_comes_from_option_variable_file_or_default_in_this_order() {
    let home = Home::new();
    assert_eq!(home.settings()["ram"]["source"], "default");
    home.run(&["config", "set", "ram", "300M"]).fine();
    home.run(&["config", "set", "ctx", "96"]).fine();
    let settings = home.settings();
    assert_eq!((&settings["ram"]["value"], &settings["ram"]["source"]), (&"300M".into(), &"file".into()));
    let budget = |command: &mut Command| -> Value {
        let fit = run(command, b"").fine();
        serde_json::from_str(fit.text()).unwrap()
    };
    let mib = |mib: u64| Value::from(mib << 20);
    let of_file = budget(&mut home.command(&["fit", "--json"]));
    assert_eq!((&of_file["budget_bytes"], &of_file["context"]), (&mib(300), &96.into()));
    let variable = budget(home.command(&["fit", "--json"]).env("MOELTEN_RAM", "310M"));
    assert_eq!(variable["budget_bytes"], mib(310));
    let option = budget(home.command(&["fit", "--json", "--ram", "320M"]).env("MOELTEN_RAM", "310M"));
    assert_eq!(option["budget_bytes"], mib(320));
    let shown = run(home.command(&["config"]).env("MOELTEN_RAM", "310M"), b"").fine();
    let row = shown.text().lines().find(|line| line.contains("  ram ")).unwrap();
    assert!(row.contains("310M") && row.ends_with("variable MOELTEN_RAM"), "{row}");
    let shown = run(home.command(&["config", "--", "--ram", "330M"]).env("MOELTEN_RAM", "310M"), b"").fine();
    assert!(
        shown.text().lines().any(|line| line.contains("330M") && line.ends_with("option --ram")),
        "{shown:?}"
    );
    home.run(&["config", "--", "--ram", "much"]).refused(2, "E-ARG-01");
    home.run(&["config", "unset", "ram"]).fine();
    assert_eq!(home.settings()["ram"]["source"], "default");
    assert_eq!(fs::read_to_string(home.file()).unwrap(), "ctx = 96\n");
    assert_eq!(home.run(&["config", "path"]).fine().text().trim_end(), home.file().to_str().unwrap());
}

#[test]
fn mistakes_in_the_file_are_told_by_every_command() {
    let home = Home::new();
    for (text, words) in [
        ("thread = 2\n", "is `threads` meant?"),
        ("ram = \"plenty\"\n", "`ram` in"),
        ("threads = 0\n", "`threads` in"),
        ("ram = \n", "config.toml"),
    ] {
        fs::write(home.file(), text).unwrap();
        let refused = home.run(&["models"]).refused(2, "E-ARG-01");
        assert!(refused.err.contains(words), "{text}: {refused:?}");
    }
    // The broken file's place is told, and so is help.
    assert!(home.run(&["config", "path"]).fine().text().contains("config.toml"));
    home.run(&["run", "--help"]).fine();
    fs::write(home.file(), "temp = -5\n").unwrap();
    let refused = home.run(&["run", "-p", "Hello"]).refused(2, "E-ARG-02");
    assert!(refused.err.contains("`temp` in"), "{refused:?}");
    fs::remove_file(home.file()).unwrap();
    let refused = home.run(&["config", "set", "tmep", "1"]).refused(2, "E-ARG-01");
    assert!(refused.err.contains("is `temp` meant?"), "{refused:?}");
    home.run(&["config", "set", "threads", "many"]).refused(2, "E-ARG-01");
    home.run(&["config", "set", "history", "perhaps"]).refused(2, "E-ARG-01");
    assert!(!home.file().exists(), "nothing was written");
}

#[test]
fn a_chosen_model_is_opened_where_none_is_named() {
    let home = Home::new();
    let other = home.folder.path().join("other.gguf");
    fs::copy(builtin(), &other).unwrap();
    let asked = [&["run", "--json", "-p", "Once"], &BRIEF[..]].concat();
    let model = |outcome: Outcome| -> String {
        let object: Value = serde_json::from_str(outcome.fine().text()).unwrap();
        object["model"].as_str().unwrap().to_owned()
    };
    assert_eq!(model(home.run(&asked)), "tiny-tales (built in)");
    home.run(&["config", "set", "model", other.to_str().unwrap()]).fine();
    assert_eq!(model(home.run(&asked)), "other.gguf");
    assert_eq!(model(run(home.command(&asked).env("MOELTEN_MODEL", builtin()), b"")), "tiny-tales.gguf");
    let named = [&["run", "tiny-tales", "--json", "-p", "Once"], &BRIEF[..]].concat();
    assert_eq!(model(home.run(&named)), "tiny-tales (built in)");
    let bare = run(&mut home.command(&[]), b"Hello\n").fine();
    assert!(bare.err.contains("other.gguf"), "{bare:?}");
    // A text is no model, so it is the question.
    let text = [&["run", "Once upon a time", "--json"], &BRIEF[..]].concat();
    assert_eq!(model(home.run(&text)), "other.gguf");
}

#[test]
fn the_last_model_is_remembered_only_if_the_user_chose_so() {
    let home = Home::new();
    let other = home.folder.path().join("other.gguf");
    fs::copy(builtin(), &other).unwrap();
    let chat = |args: &[&str]| run(&mut home.command(args), b"Hello\n").fine().err;
    chat(&["other.gguf"]);
    let last = home.folder.path().join("state/moelten/last-model");
    assert!(!last.exists(), "it is not kept without being asked");
    assert!(chat(&[]).contains("(built in)"));
    home.run(&["config", "set", "remember_model", "true"]).fine();
    chat(&["other.gguf"]);
    assert!(chat(&[]).contains("other.gguf"));
    assert!(chat(&["chat"]).contains("(built in)"), "only for the program alone");
    fs::remove_file(&other).unwrap();
    let gone = chat(&[]);
    assert!(gone.contains("is not there any more") && gone.contains("(built in)"), "{gone}");
}

#[test]
fn quiet_runs_say_nothing_and_still_warn() {
    let asked = [&["run", "-p", "Once upon a time"], &BRIEF[..]].concat();
    let loud = args([&asked[..], &["--verbose"]].concat()).fine();
    let quiet = args([&asked[..], &["--verbose", "--quiet"]].concat()).fine();
    assert!(!loud.err.is_empty());
    assert_eq!((quiet.text(), quiet.err.as_str()), (loud.text(), ""));
    assert_eq!(args(["-q", "run", "-p", "Hello", "--max-tokens", "2"]).fine().err, "");
    args(["run", "-q", "/no/such.gguf", "-p", "Hello"]).refused(6, "E-IO-01");
    let chat =
        run(moelten().args(["-q", builtin().to_str().unwrap(), "--max-tokens", "4"]), b"Hello\n").fine();
    assert!(!chat.out.is_empty(), "{chat:?}");
}

#[test]
fn the_long_version_names_what_reports_need() {
    let short = args(["--version"]).fine();
    assert_eq!(short.text(), concat!("moelten ", env!("CARGO_PKG_VERSION"), "\n"));
    let long = args(["--version", "--verbose"]).fine();
    for row in ["moelten", "commit", "target", "instructions", "loops", "config", "downloads"] {
        assert!(long.text().lines().any(|line| line.starts_with(row)), "{row}: {long:?}");
    }
    assert!(long.text().contains("/nonexistent/moelten/config.toml"), "{long:?}");
    assert_eq!(args(["-vV"]).code, Some(2));
}

/// Every command that has `--json`: its answer is one object or array, and so is its error.
#[test]
fn every_command_with_json_tells_errors_as_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (model, text, out) = (builtin().display().to_string(), file("text"), file("out"));
    fs::write(&text, "Once upon a time there was a dog. ".repeat(20)).unwrap();
    let model = model.as_str();
    let cases: Vec<(Vec<&str>, Vec<&str>)> = vec![
        (vec!["run", model, "-p", "Once", "--max-tokens", "2"], vec!["run", "NONE", "-p", "Once"]),
        (vec!["fit", model, "--ctx", "64"], vec!["fit", "NONE"]),
        (vec!["models", "--dir", "/nonexistent"], vec!["models", "rm", "NONE"]),
        (vec!["inspect", model], vec!["inspect", "NONE"]),
        (
            vec!["quantize", model, &out, "--dry-run", "--type", "q4_0", "--allow-requantize"],
            vec!["quantize", "NONE", &out],
        ),
        (vec!["verify", model], vec!["verify", "NONE"]),
        (
            vec!["imatrix", model, "--text", &text, "--out", &out],
            vec!["imatrix", "NONE", "--text", &text, "--out", &out],
        ),
        (vec!["ppl", model, "--text", &text], vec!["ppl", "NONE", "--text", &text]),
        (
            vec!["logits", model, "--ids", "5,7", "--out", &out],
            vec!["logits", "NONE", "--ids", "5", "--out", &out],
        ),
        (vec!["bench", model, "--decode", "4", "--prefill", "8", "--repeat", "1"], vec!["bench", "NONE"]),
        (vec!["tune", model, "--tokens", "4", "--dry-run"], vec!["tune", "NONE"]),
        (vec![], vec!["replay", "NONE"]),
        (vec!["config"], vec![]),
    ];
    let missing = file("missing.gguf");
    for (good, bad) in cases {
        if !good.is_empty() {
            let outcome = args([&good[..], &["--json"]].concat()).fine();
            for line in outcome.text().lines() {
                serde_json::from_str::<Value>(line).unwrap_or_else(|why| panic!("{good:?}: {why}: {line}"));
            }
            assert!(!outcome.out.is_empty(), "{good:?}");
        }
        if bad.is_empty() {
            continue;
        }
        let bad: Vec<&str> =
            bad.into_iter().map(|word| if word == "NONE" { missing.as_str() } else { word }).collect();
        let outcome = args([&bad[..], &["--json"]].concat());
        let (code, line) = (outcome.code.unwrap(), outcome.text().lines().last().unwrap_or(""));
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|why| panic!("{bad:?}: {why}: {outcome:?}"));
        let error = &object["error"];
        assert_eq!(error["exit"], code, "{bad:?}: {outcome:?}");
        for key in ["kind", "code", "message"] {
            assert!(error[key].as_str().is_some_and(|text| !text.is_empty()), "{bad:?} {key}: {line}");
        }
        assert!(error["advice"].is_string() || error["advice"].is_null(), "{line}");
        assert!(outcome.err.contains("error"), "people are told too: {outcome:?}");
    }
    // Every command whose help has the option is in the list above.
    let help = args(["--help"]).fine();
    let commands = help.text().lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    for command in
        commands.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next())
    {
        let has = command != "help" && args([command, "--help"]).fine().text().contains("--json");
        let known = [
            "run", "fit", "models", "inspect", "quantize", "verify", "imatrix", "ppl", "logits", "bench",
            "tune", "replay", "doctor", "config",
        ];
        assert_eq!(has, known.contains(&command), "{command}");
    }
}

#[test]
fn wrong_use_and_a_model_that_does_not_fit_are_json_too() {
    let wrong = args(["fit", "--json", "--ram", "plenty"]);
    let object: Value = serde_json::from_str(wrong.text()).unwrap();
    assert_eq!((&object["error"]["kind"], wrong.code), (&"usage".into(), Some(2)));
    let small = args(["fit", "--json", "--ram", "8M"]);
    let object: Value = serde_json::from_str(small.text()).unwrap();
    assert_eq!(
        (small.code, &object["verdict"], &object["error"]["kind"]),
        (Some(5), &"no".into(), &"memory".into())
    );
}

#[test]
fn suggestions_are_judged_without_the_network() {
    let home = Home::new();
    let all = home.run(&["models", "--suggest", "--json"]).fine();
    let all: Value = serde_json::from_str(all.text()).unwrap();
    let all = all.as_array().unwrap();
    assert!(all.len() >= 12, "{}", all.len());
    for model in all {
        assert!(["ram", "stream", "no"].contains(&model["verdict"].as_str().unwrap()), "{model}");
        assert_eq!(model["why"].is_string(), model["verdict"] == "no", "{model}");
    }
    let little = home.run(&["models", "--suggest", "--json", "--ram", "100M"]).fine();
    let little: Value = serde_json::from_str(little.text()).unwrap();
    assert!(little.as_array().unwrap().iter().all(|model| model["verdict"] == "no"), "{little}");
    let shown = home.run(&["models", "--suggest", "--ram", "6G"]).fine();
    assert!(shown.text().contains("tok/s") || shown.text().is_empty(), "{shown:?}");
    assert!(shown.err.contains("estimates"), "{shown:?}");
    let own = home.folder.path().join("own.toml");
    fs::write(&own, "[[model]]\nname = 3\n").unwrap();
    let refused = run(home.command(&["models", "--suggest"]).env("MOELTEN_CATALOGUE", &own), b"");
    refused.refused(2, "E-ARG-01");
}
