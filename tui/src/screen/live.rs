//! The answer in progress: its filtered text, its reasoning, its speed. It must not know how it is laid out.

use std::time::Duration;

use moelten_engine::api::Event;

use super::progress::RateMeter;
use crate::chat::thinking::{self, AnswerParts};
use crate::markdown::Document;
use crate::markdown::filter::Filter;

/// An answer, complete or growing: reasoning as text, the answer proper as Markdown.
#[derive(Debug)]
pub struct AnswerText {
    text: String,
    /// Bytes of the answer proper that `answer` has received.
    fed: usize,
    /// The answer proper.
    pub answer: Document,
    /// Duration of the reasoning, if it was observed.
    pub reasoned_for: Option<Duration>,
}

impl AnswerText {
    fn new() -> Self {
        Self { text: String::new(), fed: 0, answer: Document::new(), reasoned_for: None }
    }

    /// A complete answer; `text` was filtered.
    pub fn whole(text: &str) -> Self {
        let mut whole = Self::new();
        whole.push(text);
        whole.answer.finish();
        whole
    }

    /// The filtered text, with its reasoning.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The reasoning and the answer proper.
    pub fn parts(&self) -> AnswerParts<'_> {
        thinking::parts(&self.text)
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        let answer = thinking::answer(&self.text);
        // `parts` holds back what may become a tag, so the answer proper only grows.
        if answer.len() > self.fed {
            self.answer.push(&answer[self.fed..]);
            self.fed = answer.len();
        }
    }
}

/// The progress of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Requested; nothing has arrived yet.
    Requested,
    /// Reading the prompt: tokens read, and tokens of the prompt.
    Prompt(usize, usize),
    /// Generating text.
    Writing,
}

/// An answer in progress.
#[derive(Debug)]
pub struct LiveAnswer {
    /// The text so far.
    pub text: AnswerText,
    /// The progress.
    pub phase: Phase,
    /// When it was requested.
    pub since: Duration,
    /// Tokens of the prompt; 0 until they are known.
    pub prompt: usize,
    /// Pieces of text so far: about as many as tokens.
    pub pieces: usize,
    /// When the reasoning began.
    pub reasons_since: Option<Duration>,
    /// Whether it is drawn as it was laid out last.
    pub held: bool,
    /// Whether it was laid out before.
    pub laid_out: bool,
    filter: Filter,
    raw: String,
    reading: RateMeter,
    writing: RateMeter,
}

impl LiveAnswer {
    /// An answer that begins with `begun`, requested at `now`.
    pub fn new(begun: &str, now: Duration) -> Self {
        let mut live = Self {
            text: AnswerText::new(),
            phase: Phase::Requested,
            since: now,
            prompt: 0,
            pieces: 0,
            reasons_since: None,
            held: false,
            laid_out: false,
            filter: Filter::new(),
            raw: String::new(),
            reading: RateMeter::default(),
            writing: RateMeter::default(),
        };
        let mut clean = String::new();
        live.filter.push(begun, &mut clean);
        live.text.push(&clean);
        live
    }

    /// Takes a piece of progress at `now`.
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
                self.text.push(&clean);
                match (self.text.parts().unfinished, self.reasons_since) {
                    (true, None) => self.reasons_since = Some(now),
                    (false, Some(since)) if self.text.reasoned_for.is_none() => {
                        self.text.reasoned_for = Some(now.saturating_sub(since));
                    }
                    _ => {}
                }
            }
        }
    }

    /// The text that has arrived so far, not filtered.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Prompt tokens per second, over the last seconds.
    pub fn reading_per_s(&self, now: Duration) -> Option<f64> {
        self.reading.per_s(now)
    }

    /// Tokens of the answer per second, over the last seconds.
    pub fn writing_per_s(&self, now: Duration) -> Option<f64> {
        self.writing.per_s(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_an_answer_with_its_reasoning_split_off() {
        let ms = Duration::from_millis;
        let mut live = LiveAnswer::new("", ms(0));
        for (at, piece) in
            [(100, "<thi"), (200, "nk>h\u{1b}[31"), (300, "mm</th"), (1300, "ink>\n\nYe"), (1400, "s.")]
        {
            live.event(Event::Text(piece.into()), ms(at));
        }
        assert_eq!(live.text.text(), "<think>hm</think>\n\nYes.");
        assert_eq!(live.text.parts().reasoning, Some("hm"));
        assert_eq!(live.text.answer.text(), "Yes.");
        assert_eq!(live.text.reasoned_for, Some(ms(1200)));
        assert!(live.raw().contains('\u{1b}'));
    }
}
