//! When to touch slots that nobody has used yet. The system brings memory when it is first written, zeroed, and that
//! takes the time of those who compute: a whole core for as long as it lasts. While somebody reads or writes the next question
//! cores are idle. It must not know how memory is touched, nor by whom.

use std::time::{Duration, Instant};

/// Time after the last pass before anything is touched: an answer's tokens follow each other faster.
pub const CALM: Duration = Duration::from_millis(500);

/// Whether this is the time.
#[derive(Debug, Default)]
pub struct Touch {
    /// Sequences that are open: without one nobody may ever ask.
    sessions: usize,
    computing: bool,
    /// When a sequence was opened or a pass ended last.
    since: Option<Instant>,
    /// Everything is touched, or the system does not do it.
    over: bool,
}

impl Touch {
    /// A sequence is open.
    pub fn opened(&mut self, now: Instant) {
        self.sessions += 1;
        self.since = Some(now);
    }

    /// A sequence is gone.
    pub fn closed(&mut self) {
        self.sessions -= 1;
    }

    /// A forward pass begins.
    pub fn begun(&mut self) {
        self.computing = true;
    }

    /// A forward pass has ended.
    pub fn ended(&mut self, now: Instant) {
        self.computing = false;
        self.since = Some(now);
    }

    /// There is nothing left to touch.
    pub fn over(&mut self) {
        self.over = true;
    }

    /// How long to wait before looking again, 0 when it is time to touch; `None` when it never will be.
    pub fn due(&self, now: Instant) -> Option<Duration> {
        let calm = self.since.is_some_and(|since| now.duration_since(since) >= CALM);
        let ready = calm && self.sessions > 0 && !self.computing;
        (!self.over).then_some(if ready { Duration::ZERO } else { CALM })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_touched_when_a_sequence_is_open_and_rests() {
        let (mut touch, start) = (Touch::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        assert_eq!(touch.due(at(9000)), Some(CALM), "nobody may ask");
        touch.opened(at(10_000));
        assert_eq!(touch.due(at(10_499)), Some(CALM));
        assert_eq!(touch.due(at(10_500)), Some(Duration::ZERO));
        touch.begun();
        assert_eq!(touch.due(at(20_000)), Some(CALM), "computing comes first");
        touch.ended(at(20_000));
        assert_eq!(touch.due(at(20_100)), Some(CALM), "the next token may follow");
        assert_eq!(touch.due(at(20_500)), Some(Duration::ZERO));
        touch.closed();
        assert_eq!(touch.due(at(30_000)), Some(CALM), "nobody may ask any more");
        touch.over();
        assert_eq!(touch.due(at(40_000)), None);
    }
}
