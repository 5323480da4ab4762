//! How fast something progresses, and short texts for counts and times. It must not know what progresses.

use std::time::Duration;

/// A rate is measured over the last one to two windows, because reading gets slower as the context grows.
const WINDOW: Duration = Duration::from_secs(4);

/// The rate of a growing count over the last seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct RateMeter {
    /// Time and count at the beginning of the window, and at the beginning of the next one.
    marks: Option<[(Duration, usize); 2]>,
    last: usize,
}

impl RateMeter {
    /// The count is `done` at `now`.
    pub fn update(&mut self, now: Duration, done: usize) {
        let [old, new] = self.marks.get_or_insert([(now, done); 2]);
        if now.saturating_sub(new.0) > WINDOW {
            (*old, *new) = (*new, (now, done));
        }
        self.last = done;
    }

    /// Growth per second; `None` before the count has grown.
    pub fn per_s(&self, now: Duration) -> Option<f64> {
        let [(since, before), _] = self.marks?;
        let seconds = now.saturating_sub(since).as_secs_f64();
        let more = self.last.saturating_sub(before);
        (more > 0 && seconds > 0.0).then(|| more as f64 / seconds)
    }
}

/// `reading prompt 3.1k/14.4k (21%), 27 tok/s, 6 min left`.
pub fn reading(done: usize, total: usize, per_s: Option<f64>) -> String {
    let mut text = format!("reading prompt {}/{}", short(done), short(total));
    if let Some(share) = (done * 100).checked_div(total) {
        text.push_str(&format!(" ({share}%)"));
    }
    if let Some(rate) = per_s {
        let left = Duration::from_secs_f64(((total - done.min(total)) as f64 / rate).min(1e9));
        text.push_str(&format!(", {rate:.0} tok/s, {} left", duration(left)));
    }
    text
}

/// A count in about five characters: `950`, `3.1k`, `128k`.
pub fn short(count: usize) -> String {
    match count {
        0..1000 => count.to_string(),
        1000..100_000 => format!("{:.1}k", count as f64 / 1000.0),
        _ => format!("{}k", count / 1000),
    }
}

/// A rounded duration: `12 s`, `6 min`, `2 h`.
pub fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..90 => format!("{seconds} s"),
        seconds @ 90..5400 => format!("{} min", (seconds + 30) / 60),
        seconds => format!("{} h", (seconds + 1800) / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_progress_speed_and_remaining_time() {
        let mut meter = RateMeter::default();
        meter.update(Duration::ZERO, 100);
        meter.update(Duration::from_secs(100), 3100);
        let per_s = meter.per_s(Duration::from_secs(100));
        assert_eq!(reading(3100, 14_400, per_s), "reading prompt 3.1k/14.4k (21%), 30 tok/s, 6 min left");
        assert_eq!(reading(0, 0, RateMeter::default().per_s(Duration::ZERO)), "reading prompt 0/0");
    }

    #[test]
    fn counts_and_durations_are_short() {
        assert_eq!([7, 999, 1000, 99_949, 131_072].map(short), ["7", "999", "1.0k", "99.9k", "131k"]);
        let spans = [5, 89, 90, 360, 7200].map(|s| duration(Duration::from_secs(s)));
        assert_eq!(spans, ["5 s", "89 s", "2 min", "6 min", "2 h"]);
    }
}
