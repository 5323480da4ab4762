//! The reasoning of a model: the part of an answer between `<think>` and `</think>`, or, in the Harmony
//! format of gpt-oss, the messages before the one in the channel `final`. It must not know how reasoning is
//! shown.

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
    if let Some(parts) = harmony(begun) {
        return parts;
    }
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
    without_partial(text, CLOSE)
}

/// The text without the beginning of `tag` at its end.
fn without_partial<'a>(text: &'a str, tag: &str) -> &'a str {
    let longest = (1..tag.len()).rev().find(|&len| text.ends_with(&tag[..len]));
    &text[..text.len() - longest.unwrap_or(0)]
}

/// What Harmony messages begin with, what their header ends with, and what ends a message within an answer.
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const END: &str = "<|end|>";
/// The channel of the answer proper.
const FINAL: &str = "final";

/// Splits an answer in the Harmony format, `<|channel|>NAME<|message|>TEXT<|end|><|start|>assistant` and so
/// on; `None` for other answers. Several messages of reasoning are one text, with the marks between them.
fn harmony(text: &str) -> Option<AnswerParts<'_>> {
    if !text.is_empty() && CHANNEL.starts_with(text) {
        return Some(AnswerParts { reasoning: None, unfinished: true, answer: "" });
    }
    if !text.starts_with(CHANNEL) {
        return None;
    }
    let mut reasoning: Option<(usize, usize)> = None;
    let mut at = 0;
    let before = |span: Option<(usize, usize)>| {
        let text = span.and_then(|(start, end)| text.get(start..end)).unwrap_or_default().trim();
        Some(text).filter(|text| !text.is_empty())
    };
    while let Some(header) = text[at..].find(CHANNEL).map(|found| at + found + CHANNEL.len()) {
        let Some(body) = text[header..].find(MESSAGE).map(|found| header + found + MESSAGE.len()) else {
            break;
        };
        let name = text[header..body - MESSAGE.len()].split_whitespace().next();
        let end = text[body..].find(END).map(|found| body + found);
        if name == Some(FINAL) {
            let answer = &text[body..end.unwrap_or(text.len())];
            let answer = if end.is_none() { without_partial(answer, END) } else { answer };
            return Some(AnswerParts { reasoning: before(reasoning), unfinished: false, answer });
        }
        let shown = end.unwrap_or(body + without_partial(&text[body..], END).len());
        reasoning = Some((reasoning.map_or(body, |(start, _)| start), shown));
        at = end.map_or(text.len(), |end| end + END.len());
    }
    Some(AnswerParts { reasoning: before(reasoning), unfinished: true, answer: "" })
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
    fn harmony_channels_are_reasoning_and_answer() {
        let analysis = "<|channel|>analysis<|message|>Count them.";
        let last = "<|end|><|start|>assistant<|channel|>final<|message|>";
        assert_eq!(parts("<|chan"), of(None, true, ""));
        assert_eq!(parts("<|channel|>analysis<|mess"), of(None, true, ""));
        assert_eq!(parts(analysis), of(Some("Count them."), true, ""));
        assert_eq!(parts(&format!("{analysis}<|e")), of(Some("Count them."), true, ""));
        assert_eq!(parts(&format!("{analysis}<|end|><|start|>assis")), of(Some("Count them."), true, ""));
        assert_eq!(parts(&format!("{analysis}{last}Three.")), of(Some("Count them."), false, "Three."));
        assert_eq!(parts("<|channel|>final<|message|>Hi"), of(None, false, "Hi"));
        let two = format!("{analysis}<|end|><|start|>assistant<|channel|>commentary<|message|>Now.{last}3");
        let both = parts(&two);
        assert!(both.reasoning.is_some_and(|text| text.starts_with("Count") && text.ends_with("Now.")));
        assert_eq!(both.answer, "3");
        assert_eq!(parts("About <|channel|>final"), of(None, false, "About <|channel|>final"));
    }

    #[test]
    fn templates_may_open_the_reasoning() {
        assert!(opened_by("<|im_start|>assistant\n<think>\n"));
        assert!(!opened_by("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
    }
}
