//! Tokenizers end to end: both sources agree, ids turn back into text, streams never cut a character.

mod vocab;

use moelten_loader::tokenizer::{TokenKind, Tokenizer, gguf_metadata};

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

/// Long runs are where pre-tokenizers and merge queues go quadratic.
#[test]
fn a_megabyte_of_anything_is_quick() {
    for (name, units) in [("llama-bpe", ["a", " ", "😀", "\n"]), ("llama-spm", ["a", " ", "中", "  x"])] {
        let Some(tokenizer) = vocab::tokenizer(name) else { return };
        for unit in units {
            let text = unit.repeat((1 << 20) / unit.len());
            let start = std::time::Instant::now();
            let ids = tokenizer.encode_text(&text).unwrap();
            let elapsed = start.elapsed();
            println!("{name} {unit:?}: {} ids in {elapsed:?}", ids.len());
            assert!(elapsed.as_secs_f64() < 2.0, "{name} {unit:?}: {elapsed:?}");
            assert_eq!(tokenizer.decode(&ids).len(), text.len());
        }
    }
}

fn same_ids(left: &Tokenizer, right: &Tokenizer, texts: &[&str]) {
    assert_eq!(left.vocab_len(), right.vocab_len());
    for text in texts {
        assert_eq!(left.encode_text(text).unwrap(), right.encode_text(text).unwrap(), "{text:?}");
    }
}

#[test]
fn tiny_tales_survives_the_way_to_gguf() {
    let Some(dir) = vocab::shared("models/tiny-tales") else { return };
    let (folder, _) = Tokenizer::from_hf_folder(&dir).unwrap();
    let export = gguf_metadata(&dir, None).unwrap();
    assert!(export.notices.is_empty(), "{:?}", export.notices);
    assert_eq!(export.vocab.pre.as_deref(), Some("gpt-2"));
    assert!(export.chat_template.unwrap().contains("<|im_start|>"));
    let (file, _) = Tokenizer::from_gguf(&dir, export.vocab).unwrap();
    same_ids(&folder, &file, &TEXTS);
    assert_eq!(folder.end_ids(), file.end_ids());
    assert_eq!((folder.bos(), folder.adds_bos()), (file.bos(), file.adds_bos()));

    let rows = folder.vocab_len() + 3;
    let padded = gguf_metadata(&dir, Some(rows)).unwrap();
    let (padded, _) = Tokenizer::from_gguf(&dir, padded.vocab).unwrap();
    assert_eq!(padded.vocab_len(), rows);
    assert_eq!(padded.kind(rows as u32 - 1), Some(TokenKind::Unused));
    assert!(gguf_metadata(&dir, Some(rows - 4)).is_err());
}

/// Real `tokenizer.json` files, for those who have some: folders named by `MOELTEN_TOKENIZERS`, separated by `:`.
#[test]
fn real_folders_agree_with_the_library_and_their_export() {
    let Ok(dirs) = std::env::var("MOELTEN_TOKENIZERS") else {
        println!("skipped: MOELTEN_TOKENIZERS is not set");
        return;
    };
    let corpus =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tokenizer/pre.rs")).unwrap();
    for dir in dirs.split(':').map(std::path::Path::new) {
        let (folder, notices) = Tokenizer::from_hf_folder(dir).unwrap();
        println!("{}: {folder:?} {notices:?}", dir.display());
        let library = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
        for text in TEXTS.iter().copied().chain([corpus.as_str()]) {
            let ids = folder.encode_text(text).unwrap();
            assert_eq!(ids, library.encode(text, false).unwrap().get_ids(), "{text:?}");
        }
        match gguf_metadata(dir, None) {
            Ok(export) => {
                println!("  as {:?} {:?}, {:?}", export.vocab.model, export.vocab.pre, export.notices);
                let (file, _) = Tokenizer::from_gguf(dir, export.vocab).unwrap();
                // Composition (NFC) is the one difference that export announces.
                let composed = |text: &&str| export.notices.is_empty() || !text.contains('\u{301}');
                let texts: Vec<&str> =
                    TEXTS.iter().copied().chain([corpus.as_str()]).filter(composed).collect();
                same_ids(&folder, &file, &texts);
            }
            Err(error) => println!("  {error}"),
        }
    }
}
