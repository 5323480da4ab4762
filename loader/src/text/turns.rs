//! Which tokens end an answer, found by what a chat template writes around one.
//!
//! A short conversation is rendered whose texts are known words. The control tokens between the answer and
//! the next question close the assistant's turn or open the next one: a model that makes one of them has
//! ended its answer, whatever its file says about the end of text. Tokens that the template writes within an
//! answer, e.g. between its reasoning and its text, are no ends. It must not know families or weights.

use serde_json::{Value, json};

use crate::text::chat::ChatTemplate;
use crate::text::tokenizer::{Markup, TokenKind, Tokenizer};

/// Words that no template writes.
const QUESTION: &str = "firstquestion";
const ANSWER: &str = "shortanswer";
const REASONING: &str = "slowreasoning";
const NEXT: &str = "nextquestion";
/// Most tokens that one place may have; a template that writes more there does not frame turns.
const TOKENS_MAX: usize = 16;

/// The tokens of a template around an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TurnTokens {
    /// They close the assistant's turn or open the next one; ascending.
    pub ends: Vec<u32>,
    /// They stand within an answer; ascending.
    pub within: Vec<u32>,
}

/// Renders conversations of one and two turns and reads the tokens around the answer. Conversations that the
/// template refuses tell nothing.
pub(crate) fn turn_tokens(template: &ChatTemplate, tokenizer: &Tokenizer) -> TurnTokens {
    let user = |text: &str| json!({ "role": "user", "content": text });
    let plain = json!({ "role": "assistant", "content": ANSWER });
    // Templates have three names for the reasoning.
    let reasoned = json!({
        "role": "assistant", "content": ANSWER,
        "reasoning_content": REASONING, "reasoning": REASONING, "thinking": REASONING,
    });
    let render = |messages: &[&Value], prompted: bool| {
        template.render_raw(tokenizer, messages.iter().copied().cloned().collect(), prompted).ok()
    };
    let (question, next) = (user(QUESTION), user(NEXT));
    let mut within = Vec::new();
    let prompt = render(&[&question], true);
    for (text, start) in [&plain, &reasoned].into_iter().filter_map(|answer| {
        let text = render(&[&question, answer], false)?;
        // What the prompt does not write before the answer, the model writes.
        let start = prompt.as_ref().filter(|prompt| text.starts_with(prompt.as_str())).map(String::len);
        let start = start.or_else(|| Some(text.find(REASONING)? + REASONING.len()))?;
        Some((text, start))
    }) {
        let before = text[start..].split_once(ANSWER).map_or("", |(before, _)| before);
        within.extend(before.split(REASONING).flat_map(|part| controls(tokenizer, part, false)));
    }
    let mut ends = Vec::new();
    let last = render(&[&question, &plain], false);
    for text in [last, render(&[&question, &plain, &next], false)].into_iter().flatten() {
        let Some((_, after)) = text.split_once(ANSWER) else { continue };
        let between = after.split_once(NEXT).map_or(after, |(between, _)| between);
        ends.extend(controls(tokenizer, between, true));
    }
    for list in [&mut ends, &mut within] {
        list.sort_unstable();
        list.dedup();
    }
    ends.retain(|id| !within.contains(id));
    TurnTokens { ends, within }
}

/// The tokens in a part of a rendered text that are markup; with `leading`, only those before other text.
fn controls(tokenizer: &Tokenizer, part: &str, leading: bool) -> Vec<u32> {
    let mut ids = tokenizer.encode_markup(&Markup::trusted(part)).unwrap_or_default();
    // It may have put the beginning of text before the part.
    let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
    let wrote_it = bos.and_then(|bos| tokenizer.piece(bos)).is_some_and(|bos| part.starts_with(bos));
    if bos.is_some() && ids.first().copied() == bos && !wrote_it {
        ids.remove(0);
    }
    let mut found = Vec::new();
    for id in ids {
        let piece = tokenizer.piece(id).unwrap_or_default();
        let markup = piece.starts_with(['<', '[']) && piece.ends_with(['>', ']']);
        match tokenizer.kind(id) {
            Some(TokenKind::Control) => found.push(id),
            Some(TokenKind::UserDefined) if markup => found.push(id),
            _ if leading && !tokenizer.decode(&[id]).trim().is_empty() => break,
            _ => {}
        }
    }
    if found.len() > TOKENS_MAX { Vec::new() } else { found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::GgufVocab;

    /// A vocabulary of the printable characters and of control tokens, the first of which begins a text and
    /// the second of which ends one.
    fn tokenizer(controls: &[&str], user_defined: &[&str]) -> Tokenizer {
        let mut tokens: Vec<String> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>")).collect();
        let mut types = vec![6; 256];
        for (added, kind) in [(controls, 3), (user_defined, 4)] {
            tokens.extend(added.iter().map(|token| (*token).to_owned()));
            types.extend(added.iter().map(|_| kind));
        }
        tokens.push("▁".to_owned());
        types.push(1);
        let vocab = GgufVocab {
            model: "llama".into(),
            scores: vec![0.0; tokens.len()],
            tokens,
            types,
            bos: Some(256),
            eos: Some(257),
            ..GgufVocab::default()
        };
        Tokenizer::from_gguf("test.gguf".as_ref(), vocab).unwrap().0
    }

    fn template(name: &str) -> ChatTemplate {
        let recorded: Value = serde_json::from_str(include_str!("../../tests/data/jinja.json")).unwrap();
        let all = recorded["real"].as_array().unwrap();
        let found = all.iter().find(|template| template["name"] == name).unwrap();
        ChatTemplate::new(name, found["source"].as_str().unwrap()).unwrap()
    }

    /// The texts of all tokens that end an answer.
    fn ends(template: &ChatTemplate, mut tokenizer: Tokenizer) -> Vec<String> {
        let turns = turn_tokens(template, &tokenizer);
        tokenizer.learn_ends(&turns.ends, &turns.within);
        let text = |id: &u32| tokenizer.piece(*id).unwrap().to_owned();
        tokenizer.end_ids().iter().map(text).collect()
    }

    /// A published template, the control tokens of its model, and those that end an answer.
    type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

    /// The end of text is one that no turn ends with, as in files that name the end of their base model.
    const FAMILIES: [Case; 15] = [
        (
            "Qwen-Qwen3-0.6B",
            &["<b>", "<e>", "<|im_start|>", "<|im_end|>"],
            &["<e>", "<|im_start|>", "<|im_end|>"],
        ),
        (
            "meta-llama-Llama-3.1-8B-Instruct",
            &["<b>", "<e>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            &["<e>", "<|start_header_id|>", "<|eot_id|>"],
        ),
        (
            "Mistral-Small-3.2-24B-Instruct-2506",
            &["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]"],
            &["</s>", "[INST]"],
        ),
        (
            "google-gemma-2-2b-it",
            &["<b>", "<e>", "<start_of_turn>", "<end_of_turn>"],
            &["<e>", "<start_of_turn>", "<end_of_turn>"],
        ),
        (
            "google-gemma-4-31B-it",
            &["<b>", "<e>", "<|turn>", "<turn|>", "<|channel>", "<channel|>"],
            &["<e>", "<|turn>", "<turn|>"],
        ),
        (
            "microsoft-Phi-3.5-mini-instruct",
            &["<b>", "<e>", "<|user|>", "<|assistant|>", "<|end|>"],
            &["<e>", "<|user|>", "<|end|>"],
        ),
        (
            "ibm-granite-granite-3.3-2B-Instruct",
            &["<b>", "<e>", "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"],
            &["<e>", "<|start_of_role|>", "<|end_of_text|>"],
        ),
        (
            "deepseek-ai-DeepSeek-V3.1",
            &["<b>", "<e>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<think>", "</think>"],
            &["<e>", "<｜User｜>", "<｜end▁of▁sentence｜>"],
        ),
        (
            "openai-gpt-oss-120b",
            &["<b>", "<e>", "<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>"],
            &["<e>", "<|return|>", "<|call|>"],
        ),
        (
            "GLM-4.6",
            &["<b>", "<e>", "<|user|>", "<|assistant|>", "<think>", "</think>"],
            &["<e>", "<|user|>"],
        ),
        (
            "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
            &[
                "<b>",
                "<e>",
                "<|START_OF_TURN_TOKEN|>",
                "<|END_OF_TURN_TOKEN|>",
                "<|USER_TOKEN|>",
                "<|CHATBOT_TOKEN|>",
                "<|START_RESPONSE|>",
                "<|END_RESPONSE|>",
            ],
            &[
                "<e>",
                "<|START_OF_TURN_TOKEN|>",
                "<|END_OF_TURN_TOKEN|>",
                "<|USER_TOKEN|>",
                "<|CHATBOT_TOKEN|>",
                "<|END_RESPONSE|>",
            ],
        ),
        (
            "Kimi-K2-Instruct",
            &["<b>", "<e>", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"],
            &["<e>", "<|im_end|>", "<|im_user|>"],
        ),
        ("MiniMax-M2", &["<b>", "<e>", "]~!b[", "]~b]", "[e~["], &["<e>", "]~b]", "[e~["]),
        (
            "ByteDance-Seed-OSS",
            &["<b>", "<e>", "<seed:bos>", "<seed:eos>"],
            &["<e>", "<seed:bos>", "<seed:eos>"],
        ),
        (
            "Apertus-8B-Instruct",
            &["<b>", "<e>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>"],
            &["<e>", "<|user_start|>", "<|assistant_end|>"],
        ),
    ];

    #[test]
    fn templates_of_fifteen_families_show_what_ends_a_turn() {
        for (name, controls, expected) in FAMILIES {
            assert_eq!(ends(&template(name), tokenizer(controls, &[])), expected, "{name}");
        }
    }

    #[test]
    fn tokens_that_are_marked_as_user_defined_end_a_turn_too() {
        let found = ends(
            &template("microsoft-Phi-3.5-mini-instruct"),
            tokenizer(&["<b>", "<e>", "<|end|>"], &["<|user|>", "<|assistant|>"]),
        );
        assert_eq!(found, ["<e>", "<|end|>", "<|user|>"]);
    }

    #[test]
    fn a_token_within_an_answer_ends_it_only_if_the_file_says_so() {
        let source = "{% for m in messages %}<|begin|>{{ m.role }}\
                      {% if m.thinking %}<|think|>{{ m.thinking }}<|end|><|begin|>{{ m.role }}{% endif %}\
                      <|content|>{{ m.content }}<|end|>{% endfor %}\
                      {% if add_generation_prompt %}<|begin|>assistant{% endif %}";
        let framed = ChatTemplate::new("framed", source).unwrap();
        let controls = ["<b>", "<e>", "<|begin|>", "<|think|>", "<|content|>", "<|end|>"];
        assert_eq!(ends(&framed, tokenizer(&controls, &[])), ["<e>"]);
        let named = ["<b>", "<|end|>", "<|begin|>", "<|think|>", "<|content|>"];
        assert_eq!(ends(&framed, tokenizer(&named, &[])), ["<|end|>"]);
    }
}
