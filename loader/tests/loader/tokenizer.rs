//! Tokenizers end to end: both sources agree, ids turn back into text, streams never cut a character.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use moelten_loader::text::tokenizer::{GgufVocab, Markup, TokenKind, Tokenizer, gguf_metadata};

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
    let dir = crate::vocab::tiny_tales();
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
#[ignore = "needs MOELTEN_VOCABULARIES, a folder of real vocabularies"]
fn real_vocabularies_round_trip() {
    for name in ["deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"] {
        let tokenizer = crate::vocab::tokenizer(name);
        for text in TEXTS {
            assert_eq!(tokenizer.decode(&tokenizer.encode_text(text).unwrap()), text, "{name}");
        }
    }
}

/// Long runs are where pre-tokenizers and merge queues go quadratic.
fn a_megabyte_is_quick(name: &str, tokenizer: &Tokenizer, units: [&str; 3]) {
    for unit in units {
        let time = |bytes: usize| {
            let text = unit.repeat(bytes / unit.len());
            let start = std::time::Instant::now();
            let ids = tokenizer.encode_text(&text).unwrap();
            let elapsed = start.elapsed();
            assert_eq!(tokenizer.decode(&ids).len(), text.len());
            elapsed.as_secs_f64()
        };
        let (part, whole) = (time(1 << 16), time(1 << 20));
        println!("{name} {unit:?}: {whole:.3} s for a megabyte");
        // 16 times the text: 16 times the time if linear, 256 times if quadratic; the rest is for busy
        // machines.
        assert!(whole < 96.0 * part.max(0.005), "{name} {unit:?}: {part} s, then {whole} s");
    }
}

#[test]
fn a_megabyte_of_anything_is_quick() {
    let (tokenizer, _) = Tokenizer::from_hf_folder(&crate::vocab::tiny_tales()).unwrap();
    a_megabyte_is_quick("tiny-tales", &tokenizer, ["a", " ", "😀"]);
}

#[test]
#[ignore = "needs MOELTEN_VOCABULARIES, a folder of real vocabularies"]
fn a_megabyte_of_anything_is_quick_with_real_vocabularies() {
    a_megabyte_is_quick("llama-bpe", &crate::vocab::tokenizer("llama-bpe"), ["a", " ", "😀"]);
    a_megabyte_is_quick("llama-spm", &crate::vocab::tokenizer("llama-spm"), ["a", " ", "  x"]);
}

fn same_ids(left: &Tokenizer, right: &Tokenizer, texts: &[&str]) {
    assert_eq!(left.vocab_len(), right.vocab_len());
    for text in texts {
        assert_eq!(left.encode_text(text).unwrap(), right.encode_text(text).unwrap(), "{text:?}");
    }
}

#[test]
fn tiny_tales_survives_the_way_to_gguf() {
    let dir = crate::vocab::tiny_tales();
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
    // Tokens without a row are left out.
    let cut = gguf_metadata(&dir, Some(rows - 4)).unwrap();
    assert_eq!(cut.vocab.tokens.len(), rows - 4);
    assert!(cut.notices[0].contains("1 tokens have no row"), "{:?}", cut.notices);
    Tokenizer::from_gguf(&dir, cut.vocab).unwrap();
}

/// Real `tokenizer.json` files: folders named by `MOELTEN_TOKENIZERS`, separated by `:`.
#[test]
#[ignore = "needs MOELTEN_TOKENIZERS, folders with real tokenizers"]
fn real_folders_agree_with_the_library_and_their_export() {
    let dirs = std::env::var("MOELTEN_TOKENIZERS").expect("MOELTEN_TOKENIZERS names folders");
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

/// A SentencePiece vocabulary: bytes, and pieces with scores.
fn sentence_piece(pieces: &[(&str, f32, i32)]) -> GgufVocab {
    let mut vocab = GgufVocab { model: "llama".into(), ..GgufVocab::default() };
    let bytes: Vec<String> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let bytes = bytes.iter().map(|piece| (piece.as_str(), 0.0, 6));
    for (piece, score, kind) in bytes.chain(pieces.iter().copied()) {
        vocab.tokens.push(piece.to_owned());
        vocab.scores.push(score);
        vocab.types.push(kind);
    }
    vocab
}

fn spelled(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let pieces: Vec<&str> = ids.iter().map(|id| tokenizer.piece(*id).unwrap()).collect();
    pieces.join(" ")
}

const SMALL: [(&str, f32, i32); 9] = [
    ("▁", -9.0, 1),
    ("a", -8.0, 1),
    ("b", -8.0, 1),
    ("▁a", -1.0, 1),
    ("ab", -2.0, 1),
    ("<s>", 0.0, 3),
    ("<|end|>", 0.0, 3),
    ("<unk>", 0.0, 2),
    ("<word>", 0.0, 4),
];

#[test]
fn scores_decide_merges_and_every_run_gets_its_space() {
    let (tokenizer, _) = Tokenizer::from_gguf("small".as_ref(), sentence_piece(&SMALL)).unwrap();
    let text = |text: &str| spelled(&tokenizer, &tokenizer.encode_text(text).unwrap());
    assert_eq!(text("ab"), "▁a b");
    assert_eq!(text("b ab"), "▁ b ▁a b");
    assert_eq!(text("é"), "▁ <0xC3> <0xA9>");
    assert_eq!(text("a<word>ab"), "▁a <word> ▁a b");
    assert_eq!(text(""), "");
    assert!(!text("<s><unk><0x41><|end|>").contains("<s>"));
    let markup = |text: &str| spelled(&tokenizer, &tokenizer.encode_markup(&Markup::trusted(text)).unwrap());
    assert_eq!(markup("a<|end|>ab<|end|> a"), "▁a <|end|> ▁a b <|end|> ▁ ▁a");

    let bare = GgufVocab { add_space_prefix: Some(false), ..sentence_piece(&SMALL) };
    let (tokenizer, _) = Tokenizer::from_gguf("small".as_ref(), bare).unwrap();
    let ids = tokenizer.encode_markup(&Markup::trusted("ab<|end|>ab")).unwrap();
    assert_eq!(spelled(&tokenizer, &ids), "ab <|end|> ab");
    assert_eq!(tokenizer.decode(&ids), "abab");
}

#[test]
fn control_tokens_of_phi_swallow_the_line_break_after_them() {
    let mut pieces = SMALL.to_vec();
    pieces.extend([("<|assistant|>", 0.0, 3), ("<|placeholder1|>", 0.0, 3), ("\n", -3.0, 1)]);
    let (tokenizer, _) = Tokenizer::from_gguf("small".as_ref(), sentence_piece(&pieces)).unwrap();
    let ids = tokenizer.encode_markup(&Markup::trusted("<s>\na<|end|>\n<|assistant|>\n")).unwrap();
    assert_eq!(spelled(&tokenizer, &ids), "<s> ▁ \n a <|end|> <|assistant|>");
}

#[test]
fn unigram_takes_the_likeliest_pieces() {
    let pieces = [
        ("<pad>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<unk>", 0.0, 2),
        ("▁", -4.0, 1),
        ("a", -5.0, 1),
        ("b", -5.0, 1),
        ("▁ab", -6.0, 1),
        ("aa", -12.0, 1),
        ("<extra_id_0>", 0.0, 4),
    ];
    let vocab = GgufVocab {
        model: "t5".into(),
        tokens: pieces.iter().map(|piece| piece.0.to_owned()).collect(),
        scores: pieces.iter().map(|piece| piece.1).collect(),
        types: pieces.iter().map(|piece| piece.2).collect(),
        eos: Some(1),
        remove_extra_whitespaces: Some(true),
        ..GgufVocab::default()
    };
    let (tokenizer, _) = Tokenizer::from_gguf("small".as_ref(), vocab).unwrap();
    let text = |text: &str| spelled(&tokenizer, &tokenizer.encode_text(text).unwrap());
    assert_eq!(text("  ab   aa "), "▁ab ▁ a a");
    assert_eq!(text("</s>"), "▁ <unk>");
    assert_eq!(text("ab<extra_id_0>"), "▁ab <extra_id_0>");
    assert!(tokenizer.adds_eos() && !tokenizer.adds_bos());
    assert_eq!(tokenizer.decode(&tokenizer.encode_text("ab aa").unwrap()), "ab aa");
}

#[test]
fn a_stream_gives_whole_characters_as_soon_as_they_are_certain() {
    let (tokenizer, _) = Tokenizer::from_gguf("small".as_ref(), sentence_piece(&SMALL)).unwrap();
    let byte = |byte: u8| u32::from(byte);
    let mut stream = tokenizer.decode_stream();
    let mut push = |id| stream.push(id);
    assert_eq!(push(byte(0xf0)), None);
    assert_eq!(push(byte(0x9f)), None);
    assert_eq!(push(byte(0x98)), None);
    assert_eq!(push(byte(0x80)).as_deref(), Some("😀"));
    assert_eq!(push(byte(0xff)).as_deref(), Some("\u{fffd}"));
    assert_eq!(push(byte(0xe2)), None);
    assert_eq!(push(257).as_deref(), Some("\u{fffd}a"), "a broken character ends where the next begins");
    assert_eq!(push(262), None, "a control token shows nothing");
    assert_eq!(push(u32::MAX), None);
    assert_eq!(push(byte(0xc3)), None);
    assert_eq!(stream.finish().as_deref(), Some("\u{fffd}"));

    // The space that encoding added goes, the one in the text stays.
    let space_a = 259;
    assert_eq!(tokenizer.decode(&[space_a, space_a]), "a a");
    assert_eq!(tokenizer.decode_stream().continuing().push(space_a).as_deref(), Some(" a"));
    assert_eq!(tokenizer.decode_stream().showing_control().push(262).as_deref(), Some("<|end|>"));
}

/// Every byte is a token of its own here, so that all of them end within a character.
#[test]
fn a_stream_of_bytes_is_the_text() {
    let (tokenizer, _) = Tokenizer::from_gguf("small".as_ref(), crate::vocab::byte_vocab(&[], &[])).unwrap();
    for text in TEXTS {
        let mut stream = tokenizer.decode_stream();
        let mut out: String = text.bytes().filter_map(|byte| stream.push(u32::from(byte))).collect();
        out.extend(stream.finish());
        assert_eq!(out, text);
    }
}
