//! The reasoning of a model: the part of an answer between `<think>` and `</think>`. It must not know how
//! reasoning is shown.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// An answer, split into reasoning and the answer proper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerParts<'a> {
    /// The reasoning; `None` if there is none or only blanks.
    pub reasoning: Option<&'a str>,
    /// Whether the text ends inside the reasoning.
    pub unfinished: bool,
    /// The answer proper.
    pub answer: &'a str,
}

/// Splits an answer that may still grow. An incomplete tag at its end belongs to neither part.
pub fn parts(text: &str) -> AnswerParts<'_> {
    let begun = text.trim_start();
    if !begun.is_empty() && OPEN.starts_with(begun) {
        return AnswerParts { reasoning: None, unfinished: true, answer: "" };
    }
    let Some(rest) = begun.strip_prefix(OPEN) else {
        return AnswerParts { reasoning: None, unfinished: false, answer: text };
    };
    let (reasoning, unfinished, answer) = match rest.split_once(CLOSE) {
        Some((reasoning, answer)) => (reasoning, false, answer.trim_start_matches(['\n', '\r'])),
        None => (without_partial_tag(rest), true, ""),
    };
    let reasoning = reasoning.trim();
    AnswerParts { reasoning: Some(reasoning).filter(|text| !text.is_empty()), unfinished, answer }
}

/// The answer proper, without reasoning.
pub fn answer(text: &str) -> &str {
    parts(text).answer
}

/// Whether a prompt ends with an opening tag, as some chat templates write it.
pub fn opened_by(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// The opening tag that such a template writes for the model. It belongs to the answer.
pub const OPENING: &str = "<think>\n";

fn without_partial_tag(text: &str) -> &str {
    let longest = (1..CLOSE.len()).rev().find(|&len| text.ends_with(&CLOSE[..len]));
    &text[..text.len() - longest.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(reasoning: Option<&'static str>, unfinished: bool, answer: &'static str) -> AnswerParts<'static> {
        AnswerParts { reasoning, unfinished, answer }
    }

    #[test]
    fn reasoning_is_split_off_at_every_prefix() {
        for (text, expected) in [
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
            assert_eq!(parts(text), expected, "{text:?}");
        }
    }

    #[test]
    fn templates_may_open_the_reasoning() {
        assert!(opened_by("<|im_start|>assistant\n<think>\n"));
        assert!(!opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    }
}
