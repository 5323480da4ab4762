//! Encoding in parts against encoding at once, over real vocabularies and small ones.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;

use super::*;
use crate::container::gguf::Gguf;
use crate::text::gguf_vocab;
use crate::text::tokenizer::GgufVocab;

const REAL: [&str; 6] = ["deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"];

/// A real vocabulary, from the folder that `MOELTEN_VOCABULARIES` names.
fn real(name: &str) -> Tokenizer {
    let folder = std::env::var_os("MOELTEN_VOCABULARIES").expect("MOELTEN_VOCABULARIES names a folder");
    let path = Path::new(&folder).join(format!("ggml-vocab-{name}.gguf"));
    let vocab = gguf_vocab(&Gguf::open(&path).unwrap().metadata).unwrap().0;
    Tokenizer::from_gguf(&path, vocab).unwrap().0
}

/// A SentencePiece vocabulary of a few letters, with words and without all bytes.
fn small_spm(bytes: bool) -> GgufVocab {
    let mut tokens: Vec<(String, f32, i32)> = vec![("<unk>".into(), 0.0, 2), ("<s>".into(), 0.0, 3)];
    if bytes {
        tokens.extend((0..=255).map(|byte| (format!("<0x{byte:02X}>"), 0.0, 6)));
    }
    let words = [
        "\u{2581}",
        "a",
        "b",
        "é",
        "中",
        ".",
        "ab",
        "\u{2581}a",
        "\u{2581}ab",
        "aa",
        "aaaa",
        "b.",
        "\u{2581}\u{2581}",
        "中中",
    ];
    tokens.extend((0_u8..).zip(words).map(|(i, word)| (word.to_owned(), -f32::from(i), 1)));
    tokens.extend(["<added>", "b a"].map(|word| (word.to_owned(), 0.0, 4)));
    GgufVocab {
        model: "llama".into(),
        tokens: tokens.iter().map(|token| token.0.clone()).collect(),
        scores: tokens.iter().map(|token| token.1).collect(),
        types: tokens.iter().map(|token| token.2).collect(),
        unk: Some(0),
        ..GgufVocab::default()
    }
}

/// A byte-level vocabulary with a few merges and an added word.
fn small_bytes(pre: &str) -> GgufVocab {
    let printable = |byte: &u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100_u32..;
    let alphabet = (0..=255_u8).map(|byte| match printable(&byte) {
        true => char::from(byte),
        false => others.next().and_then(char::from_u32).unwrap(),
    });
    let mut tokens: Vec<String> = alphabet.map(String::from).collect();
    tokens.extend(["ab", "Ġa", "Ġab", "aa", "aaaa", "ĠĠ", "<added>", "a\n"].map(String::from));
    let mut types = vec![1; tokens.len()];
    let added = types.len() - 2;
    types[added..].fill(4);
    let merges = ["a b", "Ġ a", "Ġa b", "a a", "aa aa", "Ġ Ġ"].map(String::from).to_vec();
    GgufVocab { model: "gpt2".into(), pre: Some(pre.into()), tokens, types, merges, ..GgufVocab::default() }
}

fn gguf(vocab: GgufVocab) -> Tokenizer {
    Tokenizer::from_gguf(Path::new("small.gguf"), vocab).unwrap().0
}

/// A folder's tokenizer with a pipeline of its own.
fn folder(normalizer: &str, pre_tokenizer: &str, added: &str) -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    let vocab = small_bytes("gpt-2");
    let entries: Vec<String> = vocab
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| format!("{}:{id}", serde_json::json!(token)))
        .collect();
    let merges = serde_json::json!(vocab.merges);
    let text = format!(
        r#"{{"added_tokens":[{added}],"normalizer":{normalizer},"pre_tokenizer":{pre_tokenizer},"decoder":{{"type":"ByteLevel"}},
        "model":{{"type":"BPE","vocab":{{{}}},"merges":{merges}}}}}"#,
        entries.join(",")
    );
    std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
    Tokenizer::from_hf_folder(dir.path()).unwrap().0
}

/// Ids of the text encoded at once.
fn at_once(tokenizer: &mut Tokenizer, text: &str) -> Vec<u32> {
    let cuts = std::mem::replace(&mut tokenizer.cuts, Cuts::Nowhere);
    let ids = tokenizer.encode_text(text).unwrap();
    tokenizer.cuts = cuts;
    ids
}

/// Pieces of text that rules of tokenizers look at: white space, marks that compose, digits, contractions,
/// added words.
fn texts() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "a", "b", "aa", "ab", "aaaa", " ", "  ", " a", "\n", "\r\n", "\t", ".", ",", "'s", "'ll", "1", "23", "4567", "é",
            "e\u{301}", "\u{301}", "中", "中中", "文", "𝄞", "\u{2581}", "<added>", "<added", "a\n", "b a", "<s>", "<0x0A>", "한",
            "\u{1112}\u{1161}\u{11ab}", "\u{212b}", "ﬁ", "!", "!!\n", "/", "\u{3000}", "\u{a0}", "👩\u{200d}👩", "\u{fdd0}",
        ]).prop_map(String::from),
        1 => "\\PC{0,4}",
        1 => "[a-z ]{0,30}",
        1 => Just("a".repeat(70)),
        1 => Just(" ".repeat(40)),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn same_ids(mut tokenizer: Tokenizer, name: &str, nowhere: bool, cases: u32) {
    assert_eq!(matches!(tokenizer.cuts, Cuts::Nowhere), nowhere, "{name}");
    let stop = AtomicBool::new(false);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let strategy = (texts(), prop::sample::select(vec![1_usize, 2, 5, 17, 64, 200]), 0_usize..60);
    let tokenizer = std::cell::RefCell::new(&mut tokenizer);
    let result = runner.run(&strategy, |(text, part, limit)| {
        let mut tokenizer = tokenizer.borrow_mut();
        let whole = at_once(&mut tokenizer, &text);
        tokenizer.part = part;
        prop_assert_eq!(tokenizer.encode_text(&text).unwrap(), whole.as_slice());
        let some = tokenizer.encode_text_up_to(&text, limit, &stop).unwrap();
        prop_assert_eq!(some.ended, if whole.len() > limit { Ended::Limit } else { Ended::Text });
        prop_assert!(whole.starts_with(&some.ids) && whole.len() >= some.at_least);
        prop_assert_eq!(some.ended == Ended::Text, some.ids.len() == whole.len() && some.at_least <= limit);
        if some.ended == Ended::Text {
            prop_assert_eq!(some.read, text.len());
        }
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{name}: {failure}"));
}

#[test]
#[ignore = "needs MOELTEN_VOCABULARIES, a folder of real vocabularies"]
fn parts_give_the_ids_of_the_whole_with_real_vocabularies() {
    for name in REAL {
        same_ids(real(name), name, false, 400);
    }
}

#[test]
fn parts_give_the_ids_of_the_whole_with_the_built_in_vocabulary() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny-tales");
    same_ids(Tokenizer::from_hf_folder(&folder).unwrap().0, "tiny-tales", false, 1000);
}

#[test]
fn parts_give_the_ids_of_the_whole_with_every_pre_tokenizer() {
    for row in super::super::pre::TABLE {
        let name = row.names[0];
        same_ids(gguf(small_bytes(name)), name, false, 150);
    }
}

#[test]
fn parts_give_the_ids_of_the_whole_with_small_vocabularies() {
    same_ids(gguf(small_spm(true)), "spm", false, 2000);
    same_ids(gguf(small_spm(false)), "spm without bytes", false, 2000);
    let no_prefix = GgufVocab { add_space_prefix: Some(false), ..small_spm(true) };
    same_ids(gguf(no_prefix), "spm without a prefix", false, 1000);
    let t5 = GgufVocab { model: "t5".into(), ..small_spm(false) };
    same_ids(gguf(t5), "unigram", true, 200);
}

#[test]
fn parts_give_the_ids_of_the_whole_with_pipelines_of_folders() {
    let split = |pattern: &str, behavior: &str| {
        let byte_level =
            r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#;
        let pattern = serde_json::json!(pattern);
        format!(
            r#"{{"type":"Sequence","pretokenizers":[{{"type":"Split","pattern":{{"Regex":{pattern}}},"behavior":"{behavior}","invert":false}},{byte_level}]}}"#
        )
    };
    let words = split(r"\w+|[^\w\s]+|\s+(?!\S)|\s+", "Isolated");
    // Looks behind and around: only the whole text says what matches.
    let around = split(r"(?<=a)b+|\b1|(?<!\S)\.|\S(?=\S*!)", "Isolated");
    let word = |content: &str, normalized: bool, strip: bool| {
        serde_json::json!({"id": 262, "content": content, "normalized": normalized, "lstrip": strip, "rstrip": strip}).to_string()
    };
    for form in ["NFC", "NFD", "NFKC", "NFKD"] {
        let normalizer = format!(r#"{{"type":"{form}"}}"#);
        same_ids(folder(&normalizer, &words, &word("<added>", false, true)), form, false, 500);
        same_ids(folder(&normalizer, &words, &word("<added>", true, false)), form, true, 100);
    }
    let nothing = r#"{"type":"Sequence","normalizers":[]}"#;
    same_ids(folder(nothing, &words, &word("<added>", false, false)), "no step", false, 500);
    same_ids(folder("null", &around, &word("<added>", true, true)), "look-around", false, 1000);
    same_ids(
        folder("null", &split(r"\s+", "MergedWithNext"), &word("<added>", true, true)),
        "merged",
        true,
        100,
    );
    let lower = r#"{"type":"Lowercase"}"#;
    same_ids(folder(lower, &words, &word("<added>", false, true)), "lower case", true, 100);
    let visible = r#"{"type":"Replace","pattern":{"String":" "},"content":"▁"}"#;
    let spaces =
        r#"{"type":"Split","pattern":{"String":" "},"behavior":"MergedWithPrevious","invert":false}"#;
    same_ids(folder(visible, spaces, &word("<added>", false, true)), "no space is left", false, 500);
    let metaspace = r#"{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":false}"#;
    same_ids(folder("null", metaspace, &word("<added>", false, true)), "metaspace", false, 500);
}

#[test]
fn a_text_far_beyond_the_limit_is_given_up_early() {
    let tokenizer = gguf(small_bytes("gpt-2"));
    let stop = AtomicBool::new(false);
    // One unit: a token stands for at most 7 bytes.
    let long = "a".repeat(1 << 20);
    let found = tokenizer.encode_text_up_to(&long, 1000, &stop).unwrap();
    assert_eq!((found.ended, found.ids.len(), found.read), (Ended::Limit, 0, 0));
    assert_eq!(found.at_least, (1_usize << 20).div_ceil(tokenizer.longest.unwrap()));
    let words = "ab ".repeat(1 << 20);
    for limit in [0, 10, 1000] {
        let found = tokenizer.encode_text_up_to(&words, limit, &stop).unwrap();
        assert!(
            found.ended == Ended::Limit && (limit..20_000).contains(&found.ids.len()),
            "{}",
            found.ids.len()
        );
        assert_eq!(found.at_least, found.ids.len());
    }
    stop.store(true, Ordering::Relaxed);
    let found = tokenizer.encode_text_up_to(&words, usize::MAX, &stop).unwrap();
    assert!(found.ended == Ended::Stopped && found.read < 40_000, "{}", found.read);

    let unigram = gguf(GgufVocab { model: "t5".into(), ..small_spm(false) });
    let stop = AtomicBool::new(false);
    let error = unigram.encode_text_up_to(&words, 1000, &stop).unwrap_err();
    assert!(matches!(error, LoadError::Unsupported { .. }), "{error}");
}
