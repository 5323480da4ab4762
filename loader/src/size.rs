//! Sizes in words, the one way for all messages: powers of 1024, as options take them, so that `--ram 400M`
//! is `400 MiB` everywhere. It must not know what has the size.

/// A mebibyte.
const MIB: u64 = 1 << 20;
/// Whole mebibytes up to here stay mebibytes, where gibibytes would need more digits: `1100M` is `1100 MiB`.
const EXACT: u64 = 10_000 * MIB;

/// A size with at most three significant digits, more only where it is exact: `12.4 MiB`, `400 MiB`,
/// `1.5 GiB`, `1100 MiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if bytes.is_multiple_of(MIB) && (1 << 30..EXACT).contains(&bytes) && !(bytes * 10).is_multiple_of(1 << 30)
    {
        return format!("{} MiB", bytes / MIB);
    }
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let tenths = (value * 10.0).round();
    if unit == 0 || value >= 99.95 || tenths % 10.0 == 0.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_few_digits() {
        let shown: Vec<_> = [0, 999, 1023, 1024, 1500, 12_437_000, 999_999_999, 1 << 50].map(bytes).into();
        assert_eq!(shown, ["0 B", "999 B", "1023 B", "1 KiB", "1.5 KiB", "11.9 MiB", "954 MiB", "1024 TiB"]);
        assert!((0..50).all(|power| bytes((1 << power) - 1).len() <= 8), "columns are eight wide");
    }

    #[test]
    fn what_options_take_is_what_is_said() {
        for (typed, said) in
            [(400, "400 MiB"), (1100, "1100 MiB"), (1024, "1 GiB"), (1536, "1.5 GiB"), (6144, "6 GiB")]
        {
            assert_eq!(bytes(typed * MIB), said);
        }
        assert_eq!((bytes(EXACT), bytes((1 << 30) + 1)), ("9.8 GiB".to_owned(), "1 GiB".to_owned()));
    }
}
