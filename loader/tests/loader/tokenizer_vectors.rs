//! Ids on the test vectors of real vocabularies, built from GGUF metadata alone.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

const NAMES: [&str; 6] = ["deepseek-llm", "gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2"];

#[test]
#[ignore = "needs MOELTEN_VOCABULARIES, a folder of real vocabularies"]
fn every_vector_gives_the_reference_ids() {
    for name in NAMES {
        let tokenizer = crate::vocab::tokenizer(name);
        let inputs = std::fs::read_to_string(crate::vocab::real(name, ".inp")).unwrap();
        let outputs = std::fs::read_to_string(crate::vocab::real(name, ".out")).unwrap();
        // Every text, the last one too, ends with the separator line.
        let inputs = inputs.strip_suffix("\n__ggml_vocab_test__\n").unwrap();
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<&str> = outputs.lines().collect();
        assert_eq!(inputs.len(), outputs.len(), "{name}");
        for (text, expected) in inputs.iter().zip(&outputs) {
            let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode_text(text).unwrap(), expected, "{name}: {text:?}");
        }
    }
}
