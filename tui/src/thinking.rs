//! Finds the thoughts of an answer: what a model says between `<think>` and `</think>` before it speaks. It must not know
//! how thoughts are shown.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// An answer, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts<'a> {
    /// What was thought; `None` if nothing was, blanks not counted.
    pub thought: Option<&'a str>,
    /// Whether the thinking goes on at the end of the text.
    pub thinking: bool,
    /// What was said.
    pub said: &'a str,
}

/// Takes an answer apart that may still grow. A tag that is not complete yet belongs to neither part.
pub fn parts(text: &str) -> Parts<'_> {
    let begun = text.trim_start();
    if !begun.is_empty() && OPEN.starts_with(begun) {
        return Parts { thought: None, thinking: true, said: "" };
    }
    let Some(rest) = begun.strip_prefix(OPEN) else {
        return Parts { thought: None, thinking: false, said: text };
    };
    let (thought, thinking, said) = match rest.split_once(CLOSE) {
        Some((thought, said)) => (thought, false, said.trim_start_matches(['\n', '\r'])),
        None => (without_begun_tag(rest), true, ""),
    };
    let thought = thought.trim();
    Parts { thought: Some(thought).filter(|thought| !thought.is_empty()), thinking, said }
}

/// What was said, without what was thought.
pub fn said(text: &str) -> &str {
    parts(text).said
}

/// Whether a prompt ends in the beginning of a thought, as some templates do.
pub fn opened_by(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// What such a template wrote in the name of the model: it belongs to the answer.
pub const OPENING: &str = "<think>\n";

fn without_begun_tag(text: &str) -> &str {
    let longest = (1..CLOSE.len()).rev().find(|&len| text.ends_with(&CLOSE[..len]));
    &text[..text.len() - longest.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(thought: Option<&'static str>, thinking: bool, said: &'static str) -> Parts<'static> {
        Parts { thought, thinking, said }
    }

    #[test]
    fn thoughts_come_apart_at_every_prefix() {
        for (text, parts_expected) in [
            ("", of(None, false, "")),
            ("Hello <think>", of(None, false, "Hello <think>")),
            ("<", of(None, true, "")),
            ("<b>bold", of(None, false, "<b>bold")),
            ("<think>", of(None, true, "")),
            ("<think>\nhm", of(Some("hm"), true, "")),
            ("<think>\nhm</thi", of(Some("hm"), true, "")),
            ("<think>\nhm\n</think>\n\nYes.", of(Some("hm"), false, "Yes.")),
            ("\n<think>\n\n</think>\n\nYes.", of(None, false, "Yes.")),
            ("<think>a < b", of(Some("a < b"), true, "")),
        ] {
            assert_eq!(parts(text), parts_expected, "{text:?}");
        }
    }

    #[test]
    fn templates_may_open_a_thought() {
        assert!(opened_by("<|im_start|>assistant\n<think>\n"));
        assert!(!opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    }
}
