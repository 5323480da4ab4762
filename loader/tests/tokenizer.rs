//! Tokenizers end to end: both sources agree, ids turn back into text, streams never cut a character.

mod vocab;

use moelten_loader::tokenizer::{TokenKind, Tokenizer};

const TEXTS: [&str; 8] = [
    "Once upon a time, there was a little girl named Lily. She don't, she'll, WE'VE!",
    "fn main() {\n    println!(\"{}\", 0x1F + 1234567);\n\t\treturn;\n}\n\n\n",
    "中文字符和日本語のテスト한국어 العربية ไทย",
    "😀👩‍👩‍👧‍👦🇩🇪 e\u{301} \u{200d}\u{feff}",
    "   leading, trailing   \n \n\t \r\n",
    "3 33 333 3333 33333 3.14159 1,000,000 ½ ² ٣",
    "\u{0}\u{1}\u{7f}\u{80}\u{fdd0}\u{ffff}\u{10ffff}",
    "",
];

#[test]
fn tiny_tales_loads_and_round_trips() {
    let Some(dir) = vocab::shared("models/tiny-tales") else { return };
    let (tokenizer, notices) = Tokenizer::from_hf_folder(&dir).unwrap();
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(tokenizer.end_ids(), [0, 2]);
    assert_eq!(tokenizer.bos(), Some(0));
    assert!(!tokenizer.adds_bos());
    assert_eq!(tokenizer.kind(1), Some(TokenKind::Control));
    let library = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    for text in TEXTS {
        let ids = tokenizer.encode_text(text).unwrap();
        assert_eq!(ids, library.encode(text, false).unwrap().get_ids(), "{text:?}");
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

#[test]
fn real_vocabularies_round_trip() {
    for name in ["deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"] {
        let Some(tokenizer) = vocab::tokenizer(name) else { return };
        for text in TEXTS {
            assert_eq!(tokenizer.decode(&tokenizer.encode_text(text).unwrap()), text, "{name}");
        }
    }
}
