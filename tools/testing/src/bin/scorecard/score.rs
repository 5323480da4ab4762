//! Points for promises from the results of tests. A promise gets all of its points if everything that it
//! needs was run and passed, and none otherwise. It must not know which promises there are.

use std::collections::BTreeSet;

use crate::results::{End, Results};

/// What has to be seen for a promise.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// A test whose name begins so and goes on with `_`, or is this. Of several, one has to pass and none may
    /// fail.
    Test(&'static str),
    /// A test for each number: `Numbered('b', 2, 1, 28)` are `b01_` to `b28_`. A name may begin with several
    /// numbers.
    Numbered(char, usize, u32, u32),
    /// Every fuzz target was run and found nothing.
    EveryTarget,
    /// The recorded long runs took this many CPU hours and no find is open.
    LongRun(u32),
    /// The longest recorded soak without a fault took this many seconds.
    LongSoak(u32),
    /// Nothing shows this yet; why.
    Nothing(&'static str),
}

/// A promise with its points.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// The area of the scorecard.
    pub area: &'static str,
    /// Points if it is shown to be kept.
    pub points: u32,
    /// What is promised.
    pub says: &'static str,
    /// All of it is needed.
    pub needs: &'static [Need],
}

/// What was found for a promise.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What was run, with its result.
    pub shown: Vec<String>,
    /// What is missing or failed.
    pub lacking: Vec<String>,
}

impl Evidence {
    /// Whether the promise gets its points.
    pub fn holds(&self) -> bool {
        self.lacking.is_empty() && !self.shown.is_empty()
    }
}

/// The evidence for `needs`; `targets` are the fuzz targets that exist.
pub fn evidence(needs: &[Need], results: &Results, targets: &[String]) -> Evidence {
    let mut found = Evidence::default();
    for need in needs {
        match *need {
            Need::Test(prefix) => {
                let named = |name: &str| {
                    name.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
                };
                found.tests(prefix, results.named(named));
            }
            Need::Numbered(letter, digits, from, to) => {
                for number in from..=to {
                    let wanted = format!("{letter}{number:0digits$}");
                    found.tests(&wanted, results.named(|name| numbers(name).contains(wanted.as_str())));
                }
            }
            Need::EveryTarget => found.targets(results, targets),
            Need::LongRun(hours) => found.long_run(results, hours),
            Need::LongSoak(seconds) => {
                found.shown.push(format!("a soak of {} seconds", results.soaked));
                if results.soaked < f64::from(seconds) {
                    found
                        .lacking
                        .push(format!("a soak of {seconds} seconds; the longest took {}", results.soaked));
                }
            }
            Need::Nothing(why) => found.lacking.push(why.to_owned()),
        }
    }
    found
}

/// The numbers that a name begins with: `f15_f18_memory` has `f15` and `f18`.
fn numbers(name: &str) -> BTreeSet<&str> {
    let is_number = |part: &&str| {
        let mut chars = part.chars();
        chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && !chars.as_str().is_empty()
            && chars.all(|c| c.is_ascii_digit())
    };
    name.split('_').take_while(is_number).collect()
}

impl Evidence {
    fn tests<'a>(&mut self, wanted: &str, found: impl Iterator<Item = (&'a str, End)>) {
        let mut passed = false;
        for (path, end) in found {
            let text = format!("{path} {}", end.word());
            self.shown.push(text.clone());
            passed |= end == End::Passed;
            if end == End::Failed {
                self.lacking.push(text);
            }
        }
        if !passed {
            self.lacking.push(format!("no test {wanted} that passed"));
        }
    }

    fn targets(&mut self, results: &Results, targets: &[String]) {
        for target in targets {
            match results.fuzzed.get(target) {
                Some(runs) if *runs > 0 && !results.found.contains(target) => {
                    self.shown.push(format!("{target} {runs} runs"));
                }
                Some(_) => self.lacking.push(format!("fuzz target {target} found something")),
                None => self.lacking.push(format!("fuzz target {target} was not run")),
            }
        }
        if targets.is_empty() {
            self.lacking.push("no fuzz targets".to_owned());
        }
    }

    fn long_run(&mut self, results: &Results, hours: u32) {
        let found = results.long.values().fold(0.0, |sum, seconds| sum + seconds) / 3600.0;
        self.shown.push(format!("{found:.2} CPU hours over {} targets", results.long.len()));
        if found < f64::from(hours) {
            self.lacking.push(format!("{found:.2} of {hours} CPU hours"));
        }
        if results.open_finds > 0 {
            self.lacking.push(format!("{} open finds", results.open_finds));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(log: &str, needs: &[Need]) -> Evidence {
        let mut results = Results::default();
        results.read(log);
        evidence(needs, &results, &["gguf".to_owned()])
    }

    #[test]
    fn a_promise_without_its_test_gets_nothing() {
        let needs = [Need::Numbered('b', 2, 1, 2)];
        let log = "test m::b01_a ... ok\ntest b02_b ... ok\ntest b03_c ... FAILED\n";
        assert!(of(log, &needs).holds());
        assert!(!of("test m::b01_a ... ok\n", &needs).holds(), "one is missing");
        assert!(!of(&log.replace("b02_b ... ok", "b02_b ... FAILED"), &needs).holds(), "one failed");
        assert!(!of(&log.replace("b02_b ... ok", "b02_b ... ignored"), &needs).holds(), "one was not run");
        assert!(!of("", &needs).holds() && !of(log, &[]).holds());
        let on_request = format!("{log}test b02_in_a_virtual_machine ... ignored\n");
        assert!(of(&on_request, &needs).holds(), "another one was run");
    }

    #[test]
    fn names_count_as_a_whole() {
        let log = "test f15_f18_memory ... ok\ntest ram_auto_share ... ok\n";
        assert!(of(log, &[Need::Numbered('f', 2, 18, 18), Need::Test("ram_auto")]).holds());
        assert!(!of(log, &[Need::Test("ram_a")]).holds());
        assert!(!of("test products_f18 ... ok\n", &[Need::Numbered('f', 2, 18, 18)]).holds());
        assert!(!of("test f8_files ... ok\n", &[Need::Numbered('f', 2, 8, 8)]).holds());
    }

    #[test]
    fn fuzzing_counts_only_if_every_target_was_run() {
        let log =
            "gguf: 5 runs, 3 MB, nothing found\nlong run: gguf, 7200 CPU seconds, 9 runs, 0 open finds\n";
        assert!(of(log, &[Need::EveryTarget, Need::LongRun(2)]).holds());
        assert!(!of(log, &[Need::LongRun(3)]).holds());
        assert!(!of("", &[Need::EveryTarget]).holds());
        assert!(!of(&log.replace("0 open", "1 open"), &[Need::LongRun(1)]).holds());
        assert!(
            !of(
                &format!("{log}fuzz/run: gguf failed; the input is in fuzz/artifacts\n"),
                &[Need::EveryTarget]
            )
            .holds()
        );
    }

    #[test]
    fn a_soak_counts_only_without_faults() {
        let log = "long soak: 3600 seconds, 0 faults; 2 cores\n";
        assert!(of(log, &[Need::LongSoak(3600)]).holds());
        assert!(!of(log, &[Need::LongSoak(3601)]).holds());
        assert!(!of(&log.replace("0 f", "1 f"), &[Need::LongSoak(3600)]).holds());
    }

    #[test]
    fn a_promise_that_nothing_shows_gets_nothing() {
        assert_eq!(of("", &[Need::Nothing("no machine")]).lacking, ["no machine"]);
    }
}
