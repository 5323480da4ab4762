//! Rendered chat templates, and the guard that keeps messages from writing their control tokens.
//!
//! A template joins trusted text (its own) and untrusted text (the messages) into one string, in which only
//! the template's control tokens may count. So before rendering, every control token inside a message is
//! broken with a *sentinel*: a Unicode noncharacter (U+FDD0 to U+FDEF) that occurs in no message and not in
//! the template. After rendering, broken tokens match nothing, and the sentinels are removed before the text
//! is encoded. Messages without control tokens stay as they are, so that templates can search and split them,
//! and other conversations get exactly the ids of the plain rendered string.
//!
//! It must not know templates.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, Input, MatchKind};

/// Longest spelling of a control token that markup can contain, in bytes.
const MARK_BYTES_MAX: usize = 256;

/// A rendered chat template: trusted structure around messages that cannot imitate it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markup {
    text: String,
    sentinel: Option<char>,
}

impl Markup {
    /// Text in which every control token counts. Not for text of users, files or models.
    pub fn trusted(text: impl Into<String>) -> Self {
        Self { text: text.into(), sentinel: None }
    }

    /// A rendered text in which `sentinel` breaks the control tokens of messages.
    pub(crate) fn guarded(text: String, sentinel: char) -> Self {
        Self { text, sentinel: Some(sentinel) }
    }

    /// The rendered text without sentinels.
    pub fn text(&self) -> Cow<'_, str> {
        self.without_sentinel(&self.text)
    }

    fn without_sentinel<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.sentinel {
            Some(sentinel) if text.contains(sentinel) => text.replace(sentinel, "").into(),
            _ => text.into(),
        }
    }
}

/// A noncharacter that occurs in none of `texts`; `None` if all 32 do.
pub(crate) fn free_sentinel<'a>(texts: impl Iterator<Item = &'a str>) -> Option<char> {
    let mut used = 0_u32;
    for text in texts {
        for c in text.chars() {
            if let code @ 0..=31 = u32::from(c).wrapping_sub(0xfdd0) {
                used |= 1 << code;
            }
        }
    }
    char::from_u32(0xfdd0_u32.checked_add(used.trailing_ones())?).filter(|_| used != u32::MAX)
}

/// One control token as markup writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub text: String,
    pub id: u32,
    /// Absorbs white space before it.
    pub lstrip: bool,
    /// Absorbs white space after it.
    pub rstrip: bool,
}

/// A part of a markup.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Run<'a> {
    Control(u32),
    Text(Cow<'a, str>),
}

/// Matcher of a vocabulary's control tokens.
pub(crate) struct Marks {
    marks: Vec<Mark>,
    matcher: Option<AhoCorasick>,
    /// All spellings, sorted.
    forward: Vec<String>,
    /// All spellings read backwards, sorted.
    backward: Vec<String>,
    bytes_max: usize,
}

impl Marks {
    /// Tokens of a single character are left out: nothing could break them, and no model uses them.
    pub(super) fn new(mut marks: Vec<Mark>) -> Result<Self, String> {
        marks.retain(|mark| mark.text.chars().nth(1).is_some() && mark.text.len() <= MARK_BYTES_MAX);
        let matcher = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(marks.iter().map(|mark| &mark.text))
            .map_err(|error| error.to_string())?;
        let mut forward: Vec<String> = marks.iter().map(|mark| mark.text.clone()).collect();
        let mut backward: Vec<String> = marks.iter().map(|mark| mark.text.chars().rev().collect()).collect();
        forward.sort_unstable();
        backward.sort_unstable();
        let bytes_max = forward.iter().map(String::len).max().unwrap_or(0);
        Ok(Self { matcher: (!marks.is_empty()).then_some(matcher), marks, forward, backward, bytes_max })
    }

    /// `content` with every control token broken, also those that surrounding text could complete.
    pub(crate) fn guard<'a>(&self, content: &'a str, sentinel: char) -> Cow<'a, str> {
        let mut breaks = Vec::new();
        let Some(matcher) = &self.matcher else { return content.into() };
        let trimmed = content.trim();
        if trimmed.is_empty() {
            return content.into();
        }
        let start = content.len() - content.trim_start().len();
        let end = start + trimmed.len();
        let inside = trimmed.len() < self.bytes_max && self.forward.iter().any(|mark| mark.contains(trimmed));
        if inside || self.completes_a_mark(content) || self.completes_a_mark(trimmed) {
            breaks.extend([0, start]);
        }
        let mut at = 0;
        while let Some(found) = matcher.find(Input::new(content).range(at..)) {
            at = found.start() + content[found.start()..].chars().next().map_or(1, char::len_utf8);
            breaks.push(at);
        }
        if inside || self.begins_a_mark(content) || self.begins_a_mark(trimmed) {
            breaks.extend([end, content.len()]);
        }
        if breaks.is_empty() {
            return content.into();
        }
        breaks.sort_unstable();
        breaks.dedup();
        let mut out = String::with_capacity(content.len() + 3 * breaks.len());
        let mut copied = 0;
        for at in breaks {
            out.push_str(&content[copied..at]);
            out.push(sentinel);
            copied = at;
        }
        out.push_str(&content[copied..]);
        out.into()
    }

    /// Whether the end of `text` is the beginning of a mark.
    fn begins_a_mark(&self, text: &str) -> bool {
        let near = text.char_indices().rev().map(|(at, _)| &text[at..]);
        near.take_while(|end| end.len() < self.bytes_max).any(|end| has_prefix(&self.forward, end))
    }

    /// Whether the beginning of `text` is the end of a mark.
    fn completes_a_mark(&self, text: &str) -> bool {
        let near = text.char_indices().map(|(at, c)| &text[..at + c.len_utf8()]);
        near.take_while(|head| head.len() < self.bytes_max).any(|head| {
            let reversed: String = head.chars().rev().collect();
            has_prefix(&self.backward, &reversed)
        })
    }

    /// Splits markup at its control tokens. Text between two of them is one run, without sentinels.
    pub(super) fn runs<'a>(&self, markup: &'a Markup) -> Vec<Run<'a>> {
        let mut runs = Vec::new();
        let mut copied = 0;
        let mut rstrip = false;
        let text = |from: usize, to: usize, lstrip: bool, rstrip: bool, runs: &mut Vec<Run<'a>>| {
            let mut run = markup.without_sentinel(&markup.text[from..to]);
            if rstrip {
                run = run.trim_start().to_owned().into();
            }
            if lstrip {
                run = run.trim_end().to_owned().into();
            }
            if !run.is_empty() {
                runs.push(Run::Text(run));
            }
        };
        for found in self.matcher.iter().flat_map(|matcher| matcher.find_iter(&markup.text)) {
            let Some(mark) = self.marks.get(found.pattern().as_usize()) else { continue };
            text(copied, found.start(), mark.lstrip, rstrip, &mut runs);
            runs.push(Run::Control(mark.id));
            copied = found.end();
            rstrip = mark.rstrip;
        }
        text(copied, markup.text.len(), false, rstrip, &mut runs);
        runs
    }
}

/// Whether one of the sorted `texts` starts with `prefix` (and is longer or equal).
fn has_prefix(texts: &[String], prefix: &str) -> bool {
    let at = texts.partition_point(|text| text.as_str() < prefix);
    texts.get(at).is_some_and(|text| text.starts_with(prefix))
}
