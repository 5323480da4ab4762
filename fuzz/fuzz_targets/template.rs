//! Chat templates: whatever the text, compiling and rendering end with a rendering or an error, and messages
//! write no control token.
#![no_main]

use libfuzzer_sys::fuzz_target;
use moelten_loader::text::chat::{ChatTemplate, Message, RenderOptions, Speaker};
use moelten_loader::text::tokenizer::{GgufVocab, TokenKind, Tokenizer};

fn tokenizer() -> Tokenizer {
    let mut tokens: Vec<String> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(["a", "▁", "▁a", "<s>", "</s>", "<|im_end|>"].map(String::from));
    let mut types = vec![6; 256];
    types.extend([1, 1, 1, 3, 3, 3]);
    let vocab = GgufVocab {
        model: "llama".into(),
        scores: vec![0.0; tokens.len()],
        tokens,
        types,
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf("fuzz.gguf".as_ref(), vocab).expect("the vocabulary is sound").0
}

fuzz_target!(|input: (&str, &str)| {
    let (source, content) = input;
    let Ok(template) = ChatTemplate::new("fuzz", source) else { return };
    let tokenizer = tokenizer();
    let messages = [Message::new(Speaker::User, content), Message::new(Speaker::Assistant, "a")];
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let Ok(markup) = template.render(&tokenizer, &messages, &options) else { return };
    let ids = tokenizer.encode_markup(&markup).expect("every text has an encoding");
    let control = ids.iter().filter(|id| tokenizer.kind(**id) == Some(TokenKind::Control)).count();
    if !["<", "s>", "|", "im", "end", "_token", "tojson", "{%", "replace"]
        .iter()
        .any(|text| source.contains(text))
    {
        // Nothing in the template writes a control token (BOS is the tokenizer's own); no more do messages.
        assert!(control <= 1, "{source:?} {content:?}");
    }
});
