//! Dates as `strftime` of the C library writes them, in UTC. It must not know templates.

use super::problem::{Done, Problem};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// From the day of 1970-01-01 on.
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// A second in the calendar.
struct Moment {
    seconds: u64,
    year: u64,
    month: u64,
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// From Sunday, which is 0.
    weekday: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

/// The date `seconds` after the beginning of 1970 by the fields of `format`, e.g. `%d %b %Y`. A sign behind
/// the percent sign changes how a number is filled: `%-d` has no zero before it, `%_d` a space; `%^b` is in
/// capitals.
///
/// # Errors
/// Fields that are not known.
pub(super) fn strftime(format: &str, seconds: u64) -> Done<String> {
    let moment = Moment::at(seconds);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut field = chars.next();
        let flag = field.filter(|c| "-_0^#".contains(*c));
        if flag.is_some() {
            field = chars.next();
        }
        let Some(text) = field.and_then(|field| moment.field(field, flag)) else {
            let field: String = flag.into_iter().chain(field).collect();
            return Err(Problem::failed(format!("strftime_now does not know %{field}")));
        };
        out.push_str(&if flag == Some('^') { text.to_uppercase() } else { text });
    }
    Ok(out)
}

impl Moment {
    fn at(seconds: u64) -> Self {
        let days = seconds / 86_400;
        let (year, month, day) = civil(days);
        // 1 January of the year: the longest way back is a leap year.
        let day_of_year = (1..=366).find(|back| civil(days + 1 - back) == (year, 1, 1)).unwrap_or(1);
        Self {
            seconds,
            year,
            month,
            day,
            day_of_year,
            weekday: (days + 4) % 7,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }

    /// One field; `flag` changes how numbers are filled.
    fn field(&self, field: char, flag: Option<char>) -> Option<String> {
        let month = MONTHS[(self.month - 1) as usize];
        let day = DAYS[(self.seconds / 86_400 % 7) as usize];
        let hour = (self.hour + 11) % 12 + 1;
        let monday = (self.weekday + 6) % 7;
        let half = if self.hour < 12 { "AM" } else { "PM" };
        let filled = |number: u64, width: usize, fill: char| match (flag, fill) {
            (Some('-'), _) => number.to_string(),
            (Some('_'), _) | (None | Some('^' | '#'), ' ') => format!("{number:width$}"),
            _ => format!("{number:0width$}"),
        };
        let whole = |format: &str| strftime(format, self.seconds).ok();
        Some(match field {
            'Y' => self.year.to_string(),
            'C' => filled(self.year / 100, 2, '0'),
            'y' => filled(self.year % 100, 2, '0'),
            'm' => filled(self.month, 2, '0'),
            'd' => filled(self.day, 2, '0'),
            'e' => filled(self.day, 2, ' '),
            'j' => filled(self.day_of_year, 3, '0'),
            'B' => month.to_owned(),
            'b' | 'h' => month[..3].to_owned(),
            'A' => day.to_owned(),
            'a' => day[..3].to_owned(),
            'u' => (monday + 1).to_string(),
            'w' => self.weekday.to_string(),
            'U' => filled((self.day_of_year + 6 - self.weekday) / 7, 2, '0'),
            'W' => filled((self.day_of_year + 6 - monday) / 7, 2, '0'),
            'H' => filled(self.hour, 2, '0'),
            'k' => filled(self.hour, 2, ' '),
            'I' => filled(hour, 2, '0'),
            'l' => filled(hour, 2, ' '),
            'M' => filled(self.minute, 2, '0'),
            'S' => filled(self.second, 2, '0'),
            'f' => "000000".to_owned(),
            's' => self.seconds.to_string(),
            'p' => half.to_owned(),
            'P' => half.to_lowercase(),
            'Z' | 'z' => String::new(),
            'F' => whole("%Y-%m-%d")?,
            'T' | 'X' => whole("%H:%M:%S")?,
            'R' => whole("%H:%M")?,
            'D' | 'x' => whole("%m/%d/%y")?,
            'c' => whole("%a %b %e %H:%M:%S %Y")?,
            'r' => whole("%I:%M:%S %p")?,
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }
}

/// Year, month and day of a day count since 1970-01-01, by the 400-year cycle that starts on 1 March
/// (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_as_the_c_library_writes_them() {
        // 2024-02-09 15:04:05 UTC, a Friday.
        let seconds = 1_707_491_045;
        let cases = [
            ("%d %b %Y", "09 Feb 2024"),
            ("%-d %B %Y", "9 February 2024"),
            ("%_d|%e|%-m", " 9| 9|2"),
            ("%A %a %^a", "Friday Fri FRI"),
            ("%Y-%m-%d %H:%M:%S", "2024-02-09 15:04:05"),
            ("%F %T %R", "2024-02-09 15:04:05 15:04"),
            ("%I:%M %p %-I %l", "03:04 PM 3  3"),
            ("%j %U %W %u %w", "040 05 06 5 5"),
            ("%c", "Fri Feb  9 15:04:05 2024"),
            ("%y%%%n", "24%\n"),
        ];
        for (format, expected) in cases {
            assert_eq!(strftime(format, seconds).unwrap(), expected, "{format}");
        }
        assert!(strftime("%q", seconds).is_err());
        assert!(strftime("%-", seconds).is_err());
        assert_eq!(strftime("%j", 0).unwrap(), "001");
    }
}
