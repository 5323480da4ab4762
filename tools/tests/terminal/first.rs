//! The first screen of a first run, with a hub on this machine.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use moelten_testing::skip;

use crate::common::builtin;
use crate::fake_hub::{FakeFile, FakeHub, REPO};
use crate::tmux::Terminal;

/// A hub with the built-in model as `org/model:Q4_K_M`, and a terminal whose program knows both.
fn first_run() -> Option<(Terminal, FakeHub)> {
    let terminal = Terminal::open(110, 40)?;
    let sum = Command::new("sha256sum").arg(builtin()).output().expect("coreutils").stdout;
    let checksum = String::from_utf8(sum).unwrap()[..64].to_owned();
    let bytes = fs::read(builtin()).unwrap();
    let size = bytes.len();
    let fake =
        FakeHub::start(vec![FakeFile { path: "m-Q4_K_M.gguf".into(), bytes: Arc::new(bytes), checksum }]);
    let entry = |name: &str, model: &str, size: usize| {
        format!(
            "[[model]]\nname = \"{name}\"\nmodel = \"{model}:Q4_K_M\"\narch = \"olmoe\"\nbytes = {size}\n\
             shared_bytes = 100\ntoken_bytes = 1_000_000\nparams = [10, 5]\nexperts = [4, 2]\ngood_for = \"Tests.\"\n"
        )
    };
    let all = [entry("Small", REPO, size), entry("Absent", "org/absent", 2 * size)].concat();
    fs::write(terminal.file("catalogue.toml"), all).unwrap();
    let home = terminal.file("home").display().to_string();
    terminal.enter(&format!(
        "export MOELTEN_CATALOGUE=catalogue.toml HF_HOME={home} HF_ENDPOINT={}",
        fake.endpoint()
    ));
    Some((terminal, fake))
}

#[test]
fn one_key_downloads_a_model_and_opens_it() {
    let Some((terminal, fake)) = first_run() else { skip!("tmux is not installed") };
    terminal.enter("unset HF_HUB_OFFLINE; stty -a > before; $M; echo rc=$?; stty -a > after; echo over");
    terminal.see("no model is chosen yet");
    terminal.see("1 to 2  downloads the model");
    assert!(terminal.sight().contains("org/absent:Q4_K_M") && terminal.sight().contains("Tests."));
    assert!(fake.seen().is_empty(), "nothing is asked before a key");
    // The first choice is not on the hub: it is said with the command, and the choice stays.
    terminal.press("1");
    terminal.see("E-HUB-03");
    terminal.see("The command for later: moelten org/absent:Q4_K_M");
    terminal.press("2");
    terminal.see("Type a message");
    terminal.see("m-Q4_K_M.gguf");
    assert!(fake.requests_of("/cdn/") > 0);
    terminal.press("C-d");
    terminal.over(0);
    // The second time it is there.
    let requests = fake.seen().len();
    terminal.enter("clear; $M; echo gone");
    terminal.see("(downloaded)");
    terminal.press("2");
    terminal.see("Type a message");
    assert_eq!(fake.seen().len(), requests);
    terminal.press("C-d");
    terminal.until("left", |sight| sight.lines().any(|line| line == "gone"));
    // Deleting it is asked about, with what it frees.
    terminal.enter("clear; $M models rm org/model");
    terminal.see("org/model: 1 files, 13.1 MiB");
    terminal.see("Delete? [y/N]");
    terminal.enter("n");
    terminal.see("nothing was deleted");
    terminal.enter("clear; $M models rm org/model");
    terminal.see("Delete? [y/N]");
    terminal.enter("y");
    terminal.see("deleted org/model: 1 files");
    assert!(!terminal.file("home/hub/models--org--model").exists());
}

#[test]
fn the_built_in_model_is_another_key_and_offline_is_said() {
    let Some((terminal, fake)) = first_run() else { skip!("tmux is not installed") };
    terminal.enter("export HF_HUB_OFFLINE=1; stty -a > before; $M; echo rc=$?; stty -a > after; echo over");
    terminal.see("HF_HUB_OFFLINE is set: nothing is downloaded");
    terminal.see("  moelten org/model:Q4_K_M");
    terminal.press("2");
    terminal.see("error[E-HUB-03]");
    terminal.press("q");
    terminal.over(0);
    terminal.enter("clear; $M");
    terminal.see("Enter   tries the small built-in");
    terminal.press("Enter");
    terminal.see("Type a message");
    terminal.see("not an assistant");
    assert!(fake.seen().is_empty());
}
