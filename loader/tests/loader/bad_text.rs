//! Hostile tokenizers and templates: each gives the error it should, quickly, and nothing panics.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::Path;
use std::time::Instant;

use moelten_loader::error::{ErrorKind, Fault, LoadError, Result};
use moelten_loader::text::chat::{ChatTemplate, Message, RenderOptions, Speaker};
use moelten_loader::text::tokenizer::{GgufVocab, TOKENS_MAX, TokenKind, Tokenizer, gguf_metadata};

/// Runs `work` within the two seconds that any bad input may take.
fn timed<T>(work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let out = work();
    assert!(start.elapsed().as_secs_f64() < 2.0, "took {:?}", start.elapsed());
    out
}

fn folder(tokenizer_json: &str) -> Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer_json).unwrap();
    timed(|| Tokenizer::from_hf_folder(dir.path()).map(|(tokenizer, _)| tokenizer))
}

fn file(vocab: GgufVocab) -> Result<Tokenizer> {
    timed(|| Tokenizer::from_gguf(Path::new("bad.gguf"), vocab).map(|(tokenizer, _)| tokenizer))
}

/// A sound byte-pair `tokenizer.json` with one member replaced.
fn json(member: &str, value: &str) -> String {
    let mut file = serde_json::json!({
        "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
    });
    let value: serde_json::Value = serde_json::from_str(value).unwrap();
    match member.split_once('.') {
        Some((outer, inner)) => file[outer][inner] = value,
        None => file[member] = value,
    }
    file.to_string()
}

fn fault(result: Result<Tokenizer>) -> Fault {
    match result.unwrap_err() {
        LoadError::Malformed { fault, .. } => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_sound_file_is_sound() {
    let tokenizer = folder(&json("normalizer", "null")).unwrap();
    assert_eq!(tokenizer.encode_text("abba<s>").unwrap()[..3], [2, 1, 0]);
}

#[test]
fn b52_missing() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::Malformed { fault: Fault::Missing { .. }, .. }), "{error}");
    std::fs::write(dir.path().join("tokenizer.model"), b"\n\x0a").unwrap();
    let error = Tokenizer::from_hf_folder(dir.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("save_pretrained"), "{error}");
    assert!(ChatTemplate::from_hf_folder(dir.path()).unwrap().is_none());

    let fault = fault(file(GgufVocab { model: "gpt2".into(), ..GgufVocab::default() }));
    assert!(matches!(fault, Fault::OutOfRange { .. }), "{fault}");
    let error = file(GgufVocab { model: "bert".into(), ..crate::vocab::byte_vocab(&[], &[]) }).unwrap_err();
    assert!(matches!(&error, LoadError::Unsupported { feature, .. } if feature.contains("bert")), "{error}");
    let error =
        file(GgufVocab { pre: Some("new-bpe".into()), ..crate::vocab::byte_vocab(&[], &[]) }).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("new-bpe") && text.contains("llama-bpe") && text.contains("qwen2"), "{text}");
}

#[test]
fn b53_sixty_four_megabytes_of_nested_arrays() {
    let deep = "[".repeat(60 << 20);
    assert!(matches!(fault(folder(&deep)), Fault::Json { .. }));
    let flat = format!("{{\"x\":[{}[]]}}", "[],".repeat(20 << 20));
    assert!(matches!(fault(folder(&flat)), Fault::Json { .. }));
    let long = " ".repeat((64 << 20) + 1);
    assert!(matches!(fault(folder(&long)), Fault::TooLong { .. }));
    assert!(matches!(fault(folder("{")), Fault::Json { line: 1, .. }));
}

#[test]
fn b54_duplicate_ids_gaps_and_ids_beyond_the_vocabulary() {
    let two_tokens_one_id = json("model.vocab", r#"{"a": 0, "b": 0, "ab": 2}"#);
    assert!(matches!(fault(folder(&two_tokens_one_id)), Fault::Contradiction { .. }));
    let huge = json("model.vocab", r#"{"a": 0, "b": 1, "ab": 4000000000}"#);
    assert!(matches!(fault(folder(&huge)), Fault::OutOfRange { .. }));

    let dir = tempfile::tempdir().unwrap();
    let gap = json("model.vocab", r#"{"a": 0, "b": 1, "ab": 7}"#);
    std::fs::write(dir.path().join("tokenizer.json"), gap).unwrap();
    let (tokenizer, notices) = Tokenizer::from_hf_folder(dir.path()).unwrap();
    assert_eq!((tokenizer.vocab_len(), tokenizer.piece(5), tokenizer.piece(8)), (8, None, None));
    assert!(notices[0].contains("4 ids of 8"), "{notices:?}");
    assert_eq!(tokenizer.decode(&[5, 8, u32::MAX]), "");

    let many =
        GgufVocab { tokens: vec![String::new(); TOKENS_MAX + 1], ..crate::vocab::byte_vocab(&[], &[]) };
    assert!(matches!(fault(file(many)), Fault::OutOfRange { .. }));
}

#[test]
fn b55_a_merge_of_an_unknown_token() {
    for merges in [r#"["a x"]"#, r#"["b a"]"#, r#"[["a", "b", "c"]]"#, r#"["ab"]"#, r#"[["a"]]"#, "7"] {
        let fault = fault(folder(&json("model.merges", merges)));
        assert!(matches!(fault, Fault::Vocabulary { .. } | Fault::Json { .. }), "{merges}: {fault}");
    }
    for merge in ["t", "", " ", "t ", "q q", "t h e"] {
        let vocab = GgufVocab { merges: vec![merge.into()], ..crate::vocab::byte_vocab(&[], &[]) };
        assert!(matches!(fault(file(vocab)), Fault::Vocabulary { .. }), "{merge:?}");
    }
    assert!(matches!(
        fault(file(GgufVocab { merges: Vec::new(), ..crate::vocab::byte_vocab(&[], &[]) })),
        Fault::OutOfRange { .. }
    ));
}

#[test]
fn b56_bytes_that_are_none() {
    for piece in ["<0x-1>", "<0xZZ>", "<0x1>", "<0x001>", "<0xé>", "0x41", "<0xaf>"] {
        let vocab = GgufVocab {
            model: "llama".into(),
            tokens: vec!["a".into(), piece.into()],
            scores: vec![0.0, 0.0],
            types: vec![1, 6],
            ..GgufVocab::default()
        };
        // Text never becomes a byte that does not exist.
        let (tokenizer, notices) = Tokenizer::from_gguf(Path::new("bad.gguf"), vocab).unwrap();
        assert!(notices[0].contains("type 6"), "{piece}: {notices:?}");
        assert_ne!(tokenizer.kind(1), Some(TokenKind::Byte), "{piece}");
    }
}

#[test]
fn b57_a_catastrophic_expression() {
    let split = |regex: &str| {
        let split = serde_json::json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        json("pre_tokenizer", &split.to_string())
    };
    // Exponential in a backtracking engine, linear in ours.
    let tokenizer = folder(&split(r"(a+)+$|(a|a)*b")).unwrap();
    timed(|| tokenizer.encode_text(&"a".repeat(100_000)).unwrap());
    // Not regular, so it has to backtrack: known when it is opened.
    for regex in [r"(?=(a+)+$)(a|a)*\1b", r"(?:(?=a)a|a)*\b(?<=x)c"] {
        let error = folder(&split(regex)).unwrap_err();
        assert!(matches!(error, LoadError::Malformed { fault: Fault::Vocabulary { .. }, .. }), "{error}");
    }
    // Or when a text is found that it cannot manage.
    let tokenizer = folder(&split(r"(?:(?=q)q|q)*(?<=x)c")).unwrap();
    let error = timed(|| tokenizer.encode_text(&"q".repeat(1000)).unwrap_err());
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
    for regex in ["(", "((a{1000}){1000}){1000}", "\\p{Nonsense}"] {
        assert!(folder(&split(regex)).is_err(), "{regex}");
    }
}

#[test]
fn odd_pipelines_are_refused() {
    let refused = [
        ("decoder", r#"{"type": "CTC"}"#),
        ("decoder", "7"),
        ("model", r#"{"type": "WordPiece", "vocab": {"a": 0}}"#),
        ("model", r#"{"type": "BPE"}"#),
        ("model.unk_token", r#""<none>""#),
        ("model.end_of_word_suffix", r#""</w>""#),
        ("normalizer", r#"{"type": "Precompiled", "precompiled_charsmap": "AAAA"}"#),
        ("pre_tokenizer", r#"{"type": "Nonsense"}"#),
        ("added_tokens", r#"[{"id": -1, "content": "x"}]"#),
    ];
    for (member, value) in refused {
        assert!(folder(&json(member, value)).is_err(), "{member}: {value}");
    }
}

#[test]
fn scores_must_be_numbers_and_tokens_short() {
    let spm = |tokens: Vec<String>, scores: Vec<f32>| GgufVocab {
        model: "llama".into(),
        types: vec![1; tokens.len()],
        tokens,
        scores,
        ..GgufVocab::default()
    };
    assert!(matches!(fault(file(spm(vec!["a".into()], vec![f32::NAN]))), Fault::BadNumber { .. }));
    assert!(matches!(fault(file(spm(vec!["a".into()], vec![]))), Fault::Missing { .. }));
    for scores in [vec![0.0; 3], vec![0.0]] {
        let (tokenizer, notices) =
            Tokenizer::from_gguf(Path::new("bad.gguf"), spm(vec!["a".into(), "\u{2581}a".into()], scores))
                .unwrap();
        assert!(notices[0].contains("for 2 tokens"), "{notices:?}");
        assert!(tokenizer.encode_text("a").is_ok());
    }
    let long: Vec<String> = (1..=60_000).step_by(20).map(|len| "a".repeat(len)).collect();
    let scores = vec![0.0; long.len()];
    assert!(matches!(fault(file(spm(long, scores))), Fault::Vocabulary { .. }));
    let endless = vec!["a".repeat(1 << 20)];
    assert!(file(spm(endless, vec![0.0])).is_err());
    let many: Vec<String> = (0..5000).map(|n| format!("<{n}{}>", "x".repeat(250))).collect();
    let types = vec![3; many.len()];
    let scores = vec![0.0; many.len()];
    let vocab = GgufVocab { types, ..spm(many, scores) };
    assert!(matches!(fault(file(vocab)), Fault::TooLong { .. }));
}

#[test]
fn export_refuses_what_the_metadata_cannot_say() {
    let refused = [
        (
            "pre_tokenizer",
            r#"{"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated", "invert": false}"#,
        ),
        (
            "pre_tokenizer",
            r#"{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}"#,
        ),
        ("normalizer", r#"{"type": "Lowercase"}"#),
    ];
    for (member, value) in refused {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json(member, value)).unwrap();
        let error = gguf_metadata(dir.path(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{member}: {error}");
    }
}

fn render(source: &str) -> Result<String> {
    let tokenizer = file(crate::vocab::byte_vocab(&["<|im_end|>"], &[])).unwrap();
    timed(|| {
        let template = ChatTemplate::new("bad", source)?;
        let messages = [Message::new(Speaker::User, "hello")];
        let markup = template.render(&tokenizer, &messages, &RenderOptions::default())?;
        Ok(markup.text().into_owned())
    })
}

fn problem(source: &str) -> String {
    match render(source).unwrap_err() {
        LoadError::Template { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn b59_endless_and_nested_loops() {
    let nested = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}\
                  {% endfor %}{% endfor %}{% endfor %}";
    assert!(problem(nested).contains("steps"), "{}", problem(nested));
    let recursion = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}";
    assert!(problem(recursion).contains("recursion"), "{}", problem(recursion));
    let looping = "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}";
    assert!(problem(looping).contains("recursion"), "{}", problem(looping));
    problem("{{ range(10 ** 12) }}");
}

#[test]
fn b61_raise_exception() {
    assert_eq!(problem("{{ raise_exception('not today') }}"), "not today");
}

#[test]
fn b62_no_files_from_a_template() {
    for tag in ["include 'x'", "import 'x' as y", "from 'x' import y", "extends 'x'"] {
        assert!(render(&format!("{{% {tag} %}}")).is_err(), "{tag}");
    }
    // Itself is the only template there is, and not without end.
    assert!(render("{% include 'chat' %}").is_err());
}

#[test]
fn b63_syntax_error() {
    let error = render("fine\nfine\n{% for x in %}").unwrap_err();
    let LoadError::Malformed { fault: Fault::TemplateSyntax { line: 3, .. }, .. } = &error else {
        panic!("{error:?}");
    };
    for short in ["{%", "{%}", "{{%}%s", "{%-%}", "%}{%", "{% generation", "{#", "{{"] {
        assert!(render(short).is_err() || !short.starts_with('{'), "{short}");
    }
    let long = format!("{{# {} #}}", "x".repeat(1 << 20));
    assert!(matches!(render(&long).unwrap_err(), LoadError::Malformed { fault: Fault::TooLong { .. }, .. }));
    assert!(render(&"{% if true %}".repeat(5000)).is_err());
    assert!(render(&format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000))).is_err());
}
