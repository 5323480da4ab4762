//! Results of tests and fuzz targets, read from what `cargo test` and `fuzz/run` print. It must not know what
//! they are evidence for.

use std::collections::{BTreeMap, BTreeSet};

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It ran to its end and found nothing wrong.
    Passed,
    /// It was left out, or it is only run on request.
    Ignored,
    /// An assertion in it was wrong, or it panicked.
    Failed,
}

impl End {
    /// `ok`, `ignored` or `FAILED`, as test programs print it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Ignored => "ignored",
            Self::Failed => "FAILED",
        }
    }
}

/// What was run.
#[derive(Debug, Default, PartialEq)]
pub struct Results {
    /// Tests by their path within their program, `module::name`. Of tests with the same path the worst
    /// counts.
    pub tests: BTreeMap<String, End>,
    /// Tests that said that they cannot run here: file, line and reason.
    pub skipped: Vec<String>,
    /// Runs of each fuzz target that ended without a find.
    pub fuzzed: BTreeMap<String, u64>,
    /// Fuzz targets that found something.
    pub found: BTreeSet<String>,
    /// CPU seconds of the recorded long runs, by fuzz target.
    pub long: BTreeMap<String, f64>,
    /// Finds of the recorded long runs that are not mended.
    pub open_finds: u64,
    /// Seconds of the longest recorded soak that went without a fault.
    pub soaked: f64,
}

impl Results {
    /// Adds what a log says: lines of `cargo test`, of `fuzz/run`, and of `long-runs.txt`.
    pub fn read(&mut self, log: &str) {
        for line in log.lines() {
            let line = line.trim_end();
            if let Some((name, end)) = test_line(line) {
                let worst = self.tests.entry(name.to_owned()).or_insert(end);
                *worst = end.max(*worst);
            } else if let Some(reason) = line.strip_prefix("skipped ").filter(|rest| rest.contains(".rs:")) {
                self.skipped.push(reason.to_owned());
            } else if let Some((target, runs)) = fuzz_line(line) {
                *self.fuzzed.entry(target.to_owned()).or_default() += runs;
            } else if let Some(rest) = line.strip_prefix("fuzz/run: ") {
                self.found
                    .extend(rest.strip_suffix(" failed; the input is in fuzz/artifacts").map(str::to_owned));
            } else {
                self.long_line(line);
            }
        }
    }

    /// `long run: TARGET, SECONDS CPU seconds, RUNS runs, FINDS open finds` or `long soak: SECONDS seconds,
    /// FAULTS faults`.
    fn long_line(&mut self, line: &str) {
        let number = |text: &str, unit: &str| text.strip_suffix(unit)?.trim().parse::<f64>().ok();
        let parts = |rest: &str| -> Vec<String> {
            let facts = rest.split_once(';').map_or(rest, |(facts, _machine)| facts);
            facts.split(", ").map(str::to_owned).collect()
        };
        if let Some(rest) = line.strip_prefix("long run: ")
            && let [target, seconds, _, finds] = &parts(rest)[..]
            && let Some(seconds) = number(seconds, "CPU seconds")
        {
            *self.long.entry(target.clone()).or_default() += seconds;
            // A number that cannot be read counts as a find.
            self.open_finds += number(finds, "open finds").map_or(1, |finds| finds as u64);
        }
        if let Some(rest) = line.strip_prefix("long soak: ")
            && let [seconds, faults] = &parts(rest)[..]
            && number(faults, "faults") == Some(0.0)
        {
            self.soaked = self.soaked.max(number(seconds, "seconds").unwrap_or(0.0));
        }
    }

    /// The tests for whose name `wanted` is true: path and end.
    pub fn named<'a>(&'a self, wanted: impl Fn(&str) -> bool + 'a) -> impl Iterator<Item = (&'a str, End)> {
        let name = |path: &str| path.rsplit("::").next().unwrap_or_default().to_owned();
        self.tests
            .iter()
            .filter(move |(path, _)| wanted(&name(path)))
            .map(|(path, end)| (path.as_str(), *end))
    }
}

/// `test module::name ... ok`.
fn test_line(line: &str) -> Option<(&str, End)> {
    let (name, end) = line.strip_prefix("test ")?.split_once(" ... ")?;
    let name = name.strip_suffix(" - should panic").unwrap_or(name);
    let end = match end.split([' ', ',']).next()? {
        "ok" => End::Passed,
        "ignored" => End::Ignored,
        "FAILED" => End::Failed,
        _ => return None,
    };
    (!name.contains(' ')).then_some((name, end))
}

/// `gguf: 812345 runs, 92 MB, nothing found`.
fn fuzz_line(line: &str) -> Option<(&str, u64)> {
    let (target, rest) = line.strip_suffix(", nothing found")?.split_once(": ")?;
    let runs = rest.split_once(" runs, ")?.0.parse().ok()?;
    (!target.contains(' ')).then_some((target, runs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_tests_are_read() {
        let mut results = Results::default();
        results.read(
            "     Running tests/loader/main.rs (target/release/deps/loader-1)\nrunning 4 tests\n\
             test bad::b01_empty ... ok\ntest bad::b02_short - should panic ... ok\ntest b03_slow ... ignored, by hand\n\
             test b04_wrong ... FAILED\nskipped tools/tests/a.rs:3: no tmux\ntest src/lib.rs - x (line 3) ... ok\n\
             test result: FAILED. 2 passed; 1 failed\n",
        );
        let ends: Vec<_> = results.tests.iter().map(|(name, end)| (name.as_str(), *end)).collect();
        assert_eq!(
            ends,
            [
                ("b03_slow", End::Ignored),
                ("b04_wrong", End::Failed),
                ("bad::b01_empty", End::Passed),
                ("bad::b02_short", End::Passed)
            ]
        );
        assert_eq!(results.skipped, ["tools/tests/a.rs:3: no tmux"]);
        assert_eq!(results.named(|name| name.starts_with("b01_")).count(), 1);
    }

    #[test]
    fn the_worst_of_several_ends_counts() {
        let mut results = Results::default();
        results.read("test a ... FAILED\ntest a ... ok\ntest b ... ok\ntest b ... ignored\n");
        assert_eq!(results.tests["a"], End::Failed);
        assert_eq!(results.tests["b"], End::Ignored);
    }

    #[test]
    fn logs_of_fuzzing_are_read() {
        let mut results = Results::default();
        results.read(
            "gguf: 100 runs, 92 MB, nothing found\ngguf: 11 runs, 92 MB, nothing found\n\
             fuzz/run: trace failed; the input is in fuzz/artifacts\n\
             long run: gguf, 1500.5 CPU seconds, 100 runs, 0 open finds\n\
             long run: jinja, 10 CPU seconds, 100 runs, 2 open finds\n\
             long run: saved, 10 CPU seconds, 100 runs, some open finds; 2 cores\n\
             long soak: 3600 seconds, 0 faults; 2 cores\nlong soak: 60 seconds, 1 faults\n",
        );
        assert_eq!(results.fuzzed, BTreeMap::from([("gguf".to_owned(), 111)]));
        assert_eq!(results.found, BTreeSet::from(["trace".to_owned()]));
        assert_eq!((results.long["gguf"], results.open_finds, results.soaked), (1500.5, 3, 3600.0));
    }
}
