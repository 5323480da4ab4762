//! When a frame is due, and whether it lays out anew what the model writes. Laying out takes the longest, and
//! a key must not wait for it. Times are given; it must not know what is drawn.

use std::time::{Duration, Instant};

use crate::screen::Urgency;

/// Least time between the last frame and one after a key.
const FRAME_KEY: Duration = Duration::from_millis(16);
/// Least time between two frames for the model's text: drawing takes time from its cores.
const FRAME_TEXT: Duration = Duration::from_millis(66);
/// Most time between two of them, however long they take.
const FRAME_TEXT_MOST: Duration = Duration::from_millis(500);
/// A frame for the model's text may take this part of the time between two: two percent of a core.
const TEXT_PART: u32 = 50;

/// The frames so far.
#[derive(Debug, Default)]
pub struct Pacing {
    drawn: Option<Instant>,
    /// The last frame for which the model's text was laid out, and what such frames take.
    laid_out: Option<Instant>,
    takes: Duration,
}

impl Pacing {
    /// Time from `now` until a frame of this urgency is due; zero if it is.
    pub fn due_in(&self, urgency: Urgency, now: Instant) -> Duration {
        let rest = |since: Option<Instant>, least: Duration| {
            since.map_or(Duration::ZERO, |since| least.saturating_sub(now.saturating_duration_since(since)))
        };
        let key = rest(self.drawn, FRAME_KEY);
        match urgency {
            Urgency::Now => key,
            Urgency::Soon => key.max(rest(self.laid_out, self.text_every())),
        }
    }

    /// Whether a frame at `now` lays out the model's text; otherwise it shows what was laid out last.
    pub fn lays_out(&self, now: Instant) -> bool {
        self.laid_out.is_none_or(|since| now.saturating_duration_since(since) >= self.text_every())
    }

    /// Notes a frame that was drawn from `began` to `ended`.
    pub fn drew(&mut self, began: Instant, ended: Instant, laid_out: bool) {
        self.drawn = Some(ended);
        if laid_out {
            self.laid_out = Some(ended);
            // One frame may have waited for a core.
            self.takes = (self.takes + ended.saturating_duration_since(began)) / 2;
        }
    }

    fn text_every(&self) -> Duration {
        (self.takes * TEXT_PART).clamp(FRAME_TEXT, FRAME_TEXT_MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn keys_come_first_and_do_not_lay_out_the_text() {
        let (mut pacing, start) = (Pacing::default(), Instant::now());
        assert_eq!(pacing.due_in(Urgency::Soon, start), ms(0), "the first frame");
        assert!(pacing.lays_out(start));
        pacing.drew(start, start + ms(1), true);
        let at = start + ms(11);
        assert_eq!(pacing.due_in(Urgency::Now, at), ms(6));
        assert_eq!(pacing.due_in(Urgency::Soon, at), ms(56));
        let at = start + ms(21);
        assert_eq!(pacing.due_in(Urgency::Now, at), ms(0));
        assert!(!pacing.lays_out(at), "for a key");
        pacing.drew(at, at + ms(1), false);
        assert_eq!(pacing.due_in(Urgency::Soon, start + ms(50)), ms(17), "keys do not put the text off");
        assert!(pacing.lays_out(start + ms(67)));
    }

    #[test]
    fn long_texts_are_laid_out_less_often() {
        let (mut pacing, mut now) = (Pacing::default(), Instant::now());
        for takes in [4, 4, 4, 4, 4, 4] {
            pacing.drew(now, now + ms(takes), true);
            now += ms(takes);
        }
        let wait = pacing.due_in(Urgency::Soon, now);
        assert!(wait > ms(190) && wait <= ms(200), "{wait:?} for frames of 4 ms");
        pacing.drew(now, now + ms(1000), true);
        assert_eq!(pacing.due_in(Urgency::Soon, now + ms(1000)), FRAME_TEXT_MOST);
        assert_eq!(pacing.due_in(Urgency::Now, now + ms(1000)), FRAME_KEY);
    }
}
