//! The speeds of the last half minute, for sparklines. Idle time does not count. It must not know how they
//! are drawn.

use std::collections::VecDeque;
use std::time::Duration;

use moelten_engine::api::ExpertMap;

/// Time between two values.
const STEP: Duration = Duration::from_millis(500);
/// Longest time between two snapshots; after a longer one the next value is not computed.
const GAP: Duration = Duration::from_secs(2);
/// Most values.
const VALUES_MAX: usize = 60;

/// Tokens and bytes from disk per second, the oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    tokens_per_s: VecDeque<f64>,
    disk_gb_per_s: VecDeque<f64>,
    /// Time, tokens and bytes read at the last value.
    last: Option<(Duration, u64, u64)>,
}

impl History {
    /// Takes a snapshot, at time `at`.
    pub fn push(&mut self, map: &ExpertMap, at: Duration) {
        let now = (at, map.decode.tokens, map.read_bytes);
        let Some((then, tokens, read)) = self.last else {
            self.last = Some(now);
            return;
        };
        let elapsed = at.saturating_sub(then);
        if elapsed < STEP {
            return;
        }
        self.last = Some(now);
        let (tokens, read) = (map.decode.tokens.saturating_sub(tokens), map.read_bytes.saturating_sub(read));
        if elapsed > GAP || (tokens == 0 && read == 0 && !map.stalled) {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        for (values, value) in [
            (&mut self.tokens_per_s, tokens as f64 / seconds),
            (&mut self.disk_gb_per_s, read as f64 / seconds / 1e9),
        ] {
            values.push_back(value);
            if values.len() > VALUES_MAX {
                values.pop_front();
            }
        }
    }

    /// Generated tokens per second.
    pub fn tokens_per_s(&self) -> Vec<f64> {
        self.tokens_per_s.iter().copied().collect()
    }

    /// Bytes read from disk, 10^9 per second.
    pub fn disk_gb_per_s(&self) -> Vec<f64> {
        self.disk_gb_per_s.iter().copied().collect()
    }
}

/// The last `width` values as a row of bars, scaled to the largest of them, at the right end.
pub fn sparkline(values: &[f64], width: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let last = &values[values.len().saturating_sub(width)..];
    let most = last.iter().copied().fold(0.0, f64::max);
    let bar = |value: &f64| {
        let step = if most > 0.0 { (value / most * 7.0).round() as usize } else { 0 };
        STEPS[step.min(7)]
    };
    let bars: String = last.iter().map(bar).collect();
    " ".repeat(width - last.len()) + &bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_half_a_second_apart_and_idle_time_is_left_out() {
        let (mut history, mut map) = (History::default(), ExpertMap::default());
        for step in 0..40 {
            map.decode.tokens += if step < 20 { 1 } else { 0 };
            map.read_bytes += if step < 20 { 50_000_000 } else { 0 };
            history.push(&map, Duration::from_millis(100 * step));
        }
        assert_eq!(history.tokens_per_s().len(), 4);
        assert!(history.tokens_per_s().iter().take(3).all(|speed| (speed - 10.0).abs() < 0.01));
        assert!(history.disk_gb_per_s().iter().take(3).all(|speed| (speed - 0.5).abs() < 0.01));
        map.decode.tokens += 100;
        history.push(&map, Duration::from_secs(60));
        assert_eq!(history.tokens_per_s().len(), 4, "after a gap the rate is unknown");
    }

    #[test]
    fn a_sparkline_is_as_wide_as_asked() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0], 5), "  ▁▅█");
        assert_eq!(sparkline(&[5.0, 0.0, 1.0, 2.0], 3), "▁▅█");
        assert_eq!(sparkline(&[0.0, 0.0], 2), "▁▁");
        assert_eq!(sparkline(&[], 3), "   ");
    }
}
