//! When to touch slots that have not been used yet. The system brings memory when it is first written, and
//! zeroes it, which keeps a core busy. Cores are idle between two answers, so slots are touched then. It must
//! not know how memory is touched, nor by which thread.

use std::time::{Duration, Instant};

/// Time after a pass before a slot is touched: the tokens of an answer follow each other faster.
pub const CALM: Duration = Duration::from_millis(500);

/// When to touch the next slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once: a sequence is open, and it rests.
    Now,
    /// Perhaps after this time: ask again then.
    In(Duration),
    /// Not before a sequence is opened, or never.
    NotBefore,
}

/// What decides when slots are touched.
#[derive(Debug, Default)]
pub struct Touch {
    /// Open sequences. Without one, no expert may ever be requested.
    sessions: usize,
    computing: bool,
    /// When a sequence was opened or a pass ended last.
    since: Option<Instant>,
    /// Every slot has been touched, or the system refuses to.
    over: bool,
}

impl Touch {
    /// Notes that a sequence was opened.
    pub fn opened(&mut self, now: Instant) {
        self.sessions += 1;
        self.since = Some(now);
    }

    /// Notes that a sequence was dropped.
    pub fn closed(&mut self) {
        self.sessions -= 1;
    }

    /// Notes that a forward pass begins.
    pub fn begun(&mut self) {
        self.computing = true;
    }

    /// Notes that a forward pass has ended.
    pub fn ended(&mut self, now: Instant) {
        self.computing = false;
        self.since = Some(now);
    }

    /// Ends all touching.
    pub fn over(&mut self) {
        self.over = true;
    }

    /// When it is time to touch.
    pub fn due(&self, now: Instant) -> Due {
        if self.over || self.sessions == 0 {
            return Due::NotBefore;
        }
        let calm = self.since.is_some_and(|since| now.duration_since(since) >= CALM);
        if calm && !self.computing { Due::Now } else { Due::In(CALM) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_touched_when_a_sequence_is_open_and_rests() {
        let (mut touch, start) = (Touch::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(touch.due(at(9000)), Due::NotBefore, "no sequence is open");
        touch.opened(at(10_000));
        assert_eq!(touch.due(at(10_499)), Due::In(CALM));
        assert_eq!(touch.due(at(10_500)), Due::Now);
        touch.begun();
        assert_eq!(touch.due(at(20_000)), Due::In(CALM), "computing comes first");
        touch.ended(at(20_000));
        assert_eq!(touch.due(at(20_100)), Due::In(CALM), "the next token may follow");
        assert_eq!(touch.due(at(20_500)), Due::Now);
        touch.closed();
        assert_eq!(touch.due(at(30_000)), Due::NotBefore, "no sequence is open any more");
        touch.opened(at(31_000));
        touch.over();
        assert_eq!(touch.due(at(40_000)), Due::NotBefore);
    }
}
