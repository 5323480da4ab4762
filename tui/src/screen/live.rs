//! The answer that is being written: its filtered text, its thoughts, how fast it comes. It must not know how it is laid
//! out.

use std::time::Duration;

use moelten_engine::api::Event;

use crate::filter::Filter;
use crate::markdown::Markdown;
use crate::progress::Pace;
use crate::thinking::{self, Parts};

/// An answer, whole or growing: thoughts apart, the rest as Markdown.
#[derive(Debug)]
pub struct Written {
    text: String,
    /// How much of what was said the Markdown has.
    fed: usize,
    /// What was said.
    pub said: Markdown,
    /// How long it thought, if that is known.
    pub thought_for: Option<Duration>,
}

impl Written {
    /// An answer that is complete, filtered.
    pub fn whole(text: &str) -> Self {
        let mut written = Self { text: String::new(), fed: 0, said: Markdown::new(), thought_for: None };
        written.push(text);
        written.said.finish();
        written
    }

    /// Its filtered text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Thoughts and the rest.
    pub fn parts(&self) -> Parts<'_> {
        thinking::parts(&self.text)
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        let said = thinking::said(&self.text);
        // A beginning that may become a tag is held back, so that what was said only ever grows.
        if said.len() > self.fed {
            self.said.push(&said[self.fed..]);
            self.fed = said.len();
        }
    }
}

/// How far an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asked for.
    Asked,
    /// Reading the prompt: tokens done, and all of them.
    Prompt(usize, usize),
    /// Writing.
    Writing,
}

/// An answer being written.
#[derive(Debug)]
pub struct Live {
    /// What there is of it.
    pub written: Written,
    /// How far it is.
    pub phase: Phase,
    /// When it was asked for.
    pub since: Duration,
    /// Tokens of the prompt, once it is read.
    pub prompt: usize,
    /// Pieces of text so far, about as many as tokens.
    pub pieces: usize,
    /// Since when it thinks.
    pub thinks_since: Option<Duration>,
    filter: Filter,
    raw: String,
    reading: Pace,
    writing: Pace,
}

impl Live {
    /// An answer of which there is `begun`, asked for at `now`.
    pub fn new(begun: &str, now: Duration) -> Self {
        let mut live = Self {
            written: Written { text: String::new(), fed: 0, said: Markdown::new(), thought_for: None },
            phase: Phase::Asked,
            since: now,
            prompt: 0,
            pieces: 0,
            thinks_since: None,
            filter: Filter::new(),
            raw: String::new(),
            reading: Pace::default(),
            writing: Pace::default(),
        };
        let mut clean = String::new();
        live.filter.push(begun, &mut clean);
        live.written.push(&clean);
        live
    }

    /// Something came at `now`.
    pub fn event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Prompt { done, total } => {
                self.reading.update(now, done);
                self.prompt = total;
                self.phase = Phase::Prompt(done, total);
            }
            Event::Text(text) => {
                self.phase = Phase::Writing;
                self.pieces += 1;
                self.writing.update(now, self.pieces);
                self.raw.push_str(&text);
                let mut clean = String::new();
                self.filter.push(&text, &mut clean);
                self.written.push(&clean);
                match (self.written.parts().thinking, self.thinks_since) {
                    (true, None) => self.thinks_since = Some(now),
                    (false, Some(since)) if self.written.thought_for.is_none() => {
                        self.written.thought_for = Some(now.saturating_sub(since));
                    }
                    _ => {}
                }
            }
        }
    }

    /// What came so far, as the model said it.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Prompt tokens per second, lately.
    pub fn reading_per_s(&self, now: Duration) -> Option<f64> {
        self.reading.per_s(now)
    }

    /// Tokens of the answer per second, lately.
    pub fn writing_per_s(&self, now: Duration) -> Option<f64> {
        self.writing.per_s(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_to_an_answer_with_its_thoughts_apart() {
        let ms = Duration::from_millis;
        let mut live = Live::new("", ms(0));
        for (at, piece) in
            [(100, "<thi"), (200, "nk>h\u{1b}[31"), (300, "mm</th"), (1300, "ink>\n\nYe"), (1400, "s.")]
        {
            live.event(Event::Text(piece.into()), ms(at));
        }
        assert_eq!(live.written.text(), "<think>hm</think>\n\nYes.");
        assert_eq!(live.written.parts().thought, Some("hm"));
        assert_eq!(live.written.said.text(), "Yes.");
        assert_eq!(live.written.thought_for, Some(ms(1200)));
        assert!(live.raw().contains('\u{1b}'));
    }
}
