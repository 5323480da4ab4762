//! A reasoning model on the full screen: its reasoning is folded to a line, while it is written and
//! afterwards.

use moelten_loader::container::gguf::Value;
use moelten_testing::skip;

use crate::common::{model_with, with_words};
use crate::tmux::Terminal;

/// The built-in model with a template that opens the reasoning; every thirtieth word closes it.
fn thinker(terminal: &Terminal) {
    let template = "{% for message in messages %}{{ message.content }}\n{% endfor %}\
                    {% if add_generation_prompt %}<think>\n{% endif %}";
    model_with(&terminal.file("thinker.gguf"), |metadata| {
        metadata.retain(|(key, _)| key != "tokenizer.chat_template");
        metadata.push(("tokenizer.chat_template".into(), Value::Str(template.into())));
        with_words(metadata, |id| match id % 30 {
            0 => format!("</think>\n\nsaid{id} "),
            _ => format!("word{id} "),
        });
    });
}

#[test]
fn thoughts_are_folded_as_they_come_and_afterwards() {
    let Some(terminal) = Terminal::open(100, 30) else { skip!("tmux is not installed") };
    thinker(&terminal);
    terminal.enter("export MOELTEN_ISA=scalar");
    terminal.begin("--ctx 1k --max-tokens 150 --temp 5 --top-k 0 --top-p 1 --min-p 0 --seed 1 thinker.gguf");
    terminal.see("Type a message");
    terminal.enter("hello");
    // The sampled words depend on the last bits of the arithmetic: one of several answers begins with a word
    // and closes the reasoning.
    let answered = |sight: &str| sight.matches("tok/s, context").count() == 1;
    for _ in 0..5 {
        terminal.until("answered", |sight| answered(sight) || sight.contains("Stopped before"));
        if terminal.sight().contains("\u{25b8} reasoned for") {
            break;
        }
        terminal.press("M-r");
        terminal.until("asked again", |sight| !answered(sight));
    }
    terminal.see("\u{25b8} reasoned for");
    let folded = terminal.sight();
    assert!(
        folded.contains("said") && !folded.contains("<think>") && !folded.contains("\u{2502} word"),
        "{folded}"
    );
    terminal.press("C-t");
    terminal.see("\u{25be} reasoned for");
    terminal.see("\u{2502} word");
    terminal.press("C-t");
    terminal.until("folded again", |sight| !sight.contains("\u{2502} word"));
    terminal.press("C-d");
    terminal.over(0);
}
