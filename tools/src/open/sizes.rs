//! Sizes and counts as they are written on the command line and printed. It must not know options.

use std::str::FromStr;

use moelten_engine::plan::Ram;

/// Larger than any context; keeps byte counts far from overflow.
const TOKENS_MAX: usize = 1 << 40;

/// `--ram`: a size with a suffix, `min` or `auto`.
///
/// # Errors
/// Anything else, and sizes below 1 MiB.
pub fn ram(text: &str) -> Result<Ram, String> {
    match text {
        "auto" => return Ok(Ram::Auto),
        "min" => return Ok(Ram::Min),
        _ => {}
    }
    // No process is that small: the unit was forgotten.
    let bytes = size(text).ok().filter(|&bytes| bytes >= 1 << 20);
    bytes.map(Ram::Bytes).ok_or_else(|| "not a size like 6G, 1.5G or 800M, nor `min` or `auto`".to_owned())
}

/// A number of tokens, with a suffix `k` for 1024 of them.
///
/// # Errors
/// Anything but a positive number.
pub fn tokens(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1024),
        None => (text, 1),
    };
    let number = usize::from_str(digits).ok().and_then(|number| number.checked_mul(unit));
    number
        .filter(|number| (1..=TOKENS_MAX).contains(number))
        .ok_or_else(|| "not a number of tokens like 4096 or 16k".to_owned())
}

/// A number of bytes, with a suffix `K`, `M`, `G` or `T` for powers of 1024; a `B` or `iB` after it changes
/// nothing.
///
/// # Errors
/// Anything but a positive size.
pub fn size(text: &str) -> Result<u64, String> {
    let plain = text.strip_suffix("iB").or_else(|| text.strip_suffix('B')).unwrap_or(text);
    let unit = |power: u32| (&plain[..plain.len() - 1], 1_u64 << (10 * power));
    let (digits, unit) = match plain.as_bytes().last() {
        Some(b'k' | b'K') => unit(1),
        Some(b'm' | b'M') => unit(2),
        Some(b'g' | b'G') => unit(3),
        Some(b't' | b'T') => unit(4),
        _ => (plain, 1),
    };
    let number = f64::from_str(digits.trim_end()).ok().map(|number| number * unit as f64);
    // Exact below 2^53 bytes.
    let number = number.filter(|number| (1.0..9e18).contains(number));
    number.map(|number| number as u64).ok_or_else(|| "not a size like 512M or 4G".to_owned())
}

/// A number with thousands separators: 14,429.
pub fn count(number: usize) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_counts_have_a_suffix() {
        assert_eq!(tokens("4096"), Ok(4096));
        assert_eq!(tokens("16k"), Ok(16384));
        for wrong in [
            "",
            "k",
            "0",
            "-1",
            "1.5k",
            "99999999999999999999k",
            "9999999999k",
            "18446744073709551615",
            "4 k",
        ] {
            assert!(tokens(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn budgets_are_sizes_or_words() {
        assert_eq!(ram("auto"), Ok(Ram::Auto));
        assert_eq!(ram("min"), Ok(Ram::Min));
        assert_eq!(ram("6G"), Ok(Ram::Bytes(6 << 30)));
        assert_eq!(ram("1.5g"), Ok(Ram::Bytes(3 << 29)));
        assert_eq!(ram("800MiB"), Ok(Ram::Bytes(800 << 20)));
        assert_eq!(ram("4700000000"), Ok(Ram::Bytes(4_700_000_000)));
        for wrong in ["", "5", "1000", "nan", "Auto", "99999999T"] {
            assert!(ram(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        let sizes: Vec<_> = ["1", "512M", "4G", "1.5g", "2 GiB", "3KB", "1T"].map(size).into();
        let expected = [1, 512 << 20, 4 << 30, 3 << 29, 2 << 30, 3 << 10, 1 << 40];
        assert_eq!(sizes, expected.map(Ok));
        for wrong in ["", "G", "0", "-1G", "NaN", "infG", "1e30", "4 P", "4\u{e9}"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }
}
