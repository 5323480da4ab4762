//! The scorecard: what the program promises, and what the last run of the tests shows of it.
//!
//! `cargo run -p moelten-testing --bin scorecard` runs the whole test suite and the fuzz targets, then prints
//! each promise with its evidence. `... -- LOG...` reads what `cargo test` and `fuzz/run` printed before
//! (2>&1). A promise whose test is missing, was left out or failed gets no points. It must not know how
//! anything is tested.

mod promises;
mod results;
mod score;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use promises::PROMISES;
use results::Results;
use score::evidence;

/// Width of the text.
const WIDTH: usize = 110;

fn main() -> ExitCode {
    let logs: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    match printed(&logs) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "scorecard: {problem}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn printed(logs: &[PathBuf]) -> Result<(), String> {
    let mut results = Results::default();
    for log in logs {
        let text = std::fs::read(log).map_err(|error| format!("{}: {error}", log.display()))?;
        results.read(&String::from_utf8_lossy(&text));
    }
    if logs.is_empty() {
        results.read(&output("cargo test --release --no-fail-fast")?);
        results.read(&output("fuzz/run 20")?);
    }
    if results.tests.is_empty() {
        return Err("no results of tests; give what `cargo test --release 2>&1` printed".to_owned());
    }
    if let Some(skipped) = results.skipped.first() {
        let others = results.skipped.len();
        return Err(format!(
            "{others} tests said that they cannot run here, so they show nothing: {skipped}"
        ));
    }
    let long = std::fs::read_to_string(root().join("tools/testing/long-runs.txt"));
    results.read(&long.map_err(|error| format!("tools/testing/long-runs.txt: {error}"))?);
    print(&results, &targets()?).map_err(|error| error.to_string())
}

/// The names of all fuzz targets.
fn targets() -> Result<Vec<String>, String> {
    let folder = root().join("fuzz/fuzz_targets");
    let files = std::fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> = files
        .filter_map(|file| Some(file.ok()?.path().file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// Runs a command of the shell in the root of the repository and gives what it prints, which is shown
/// meanwhile. Failed tests are seen in it, so its exit code does not count.
fn output(line: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{line}: {error}");
    let mut command = Command::new("sh");
    // Results of tests come on one stream, the programs that they are of on the other.
    command.args(["-c", &format!("{line} 2>&1")]).env("MOELTEN_ALL_TESTS", "1").current_dir(root());
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut text = String::new();
    for printed in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
        let printed = printed.map_err(failed)?;
        let _ = writeln!(std::io::stderr(), "{printed}");
        text.push_str(&printed);
        text.push('\n');
    }
    child.wait().map_err(failed)?;
    Ok(text)
}

fn print(results: &Results, targets: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut got = 0;
    for promise in PROMISES {
        let found = evidence(promise.needs, results, targets);
        let points = if found.holds() { promise.points } else { 0 };
        got += points;
        writeln!(out, "{points:>2}/{:<2} {}: {}", promise.points, promise.area, promise.says)?;
        list(&mut out, "missing", &found.lacking)?;
        list(&mut out, "seen", &found.shown)?;
    }
    let failed = results.tests.values().filter(|end| **end == results::End::Failed).count();
    writeln!(out, "\n{got} of 100 points; {} tests were run, {failed} failed", results.tests.len())
}

/// Writes a list in lines of at most [`WIDTH`] columns.
fn list(out: &mut impl Write, title: &str, items: &[String]) -> std::io::Result<()> {
    let mut line = format!("      {title}: ");
    let indent = " ".repeat(8);
    for (at, item) in items.iter().enumerate() {
        let end = if at + 1 == items.len() { "" } else { ", " };
        if line.len() + item.len() + end.len() > WIDTH && !line.trim().is_empty() {
            writeln!(out, "{}", line.trim_end())?;
            line.clone_from(&indent);
        }
        line.push_str(item);
        line.push_str(end);
    }
    if items.is_empty() { Ok(()) } else { writeln!(out, "{line}") }
}
