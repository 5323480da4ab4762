//! What the tests of all crates share. Its own tests hold the rules of the source tree (`tests/tidy`). It
//! must not depend on any crate.

use std::ffi::OsStr;
use std::io::Write;

pub mod scripts;

/// Under this variable a test that cannot run is a failed test. `.ci/run` sets it.
pub const ALL_TESTS: &str = "MOELTEN_ALL_TESTS";

/// Ends the test that calls it, because something is missing here that the test needs: `skip!("no tmux")`.
/// The reason takes arguments as `format!` does.
///
/// It is printed where the person at the terminal sees it. With `MOELTEN_ALL_TESTS=1` the test fails instead.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::skipped(file!(), line!(), &format!($($reason)+));
        return
    }};
}

/// What [`skip!`] does before it returns.
///
/// # Panics
/// If all tests are expected to run.
#[track_caller]
pub fn skipped(file: &str, line: u32, reason: &str) {
    assert!(
        !expected(std::env::var_os(ALL_TESTS).as_deref()),
        "{file}:{line}: this test cannot run here ({reason}), but {ALL_TESTS} expects it to"
    );
    // Not `println!`, which the test harness keeps back from tests that pass.
    let _ = writeln!(std::io::stderr(), "skipped {file}:{line}: {reason}");
}

/// Whether this value of [`ALL_TESTS`] asks for every test.
fn expected(value: Option<&OsStr>) -> bool {
    value.is_some_and(|value| !value.is_empty() && value != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_set_variable_expects_every_test() {
        let of = |value: &str| expected(Some(OsStr::new(value)));
        assert_eq!((expected(None), of(""), of("0"), of("1")), (false, false, false, true));
    }
}
