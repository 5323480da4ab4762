//! What fuzz targets share: a vocabulary of single bytes, and the recorded answers of Jinja2. It must not
//! know what a target checks.

use std::collections::HashMap;
use std::sync::OnceLock;

use moelten_loader::text::tokenizer::{GgufVocab, Tokenizer};
use serde_json::{Map, Value};

const RECORDED: &str = include_str!("../../loader/tests/data/jinja.json");

/// The time of the recording.
pub const NOW: u64 = 1_707_491_045;

/// Control tokens of [`byte_tokenizer`] that real templates write.
pub const CONTROLS: [&str; 10] = [
    "<s>",
    "</s>",
    "<|im_end|>",
    "<|im_start|>",
    "<|eot_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<start_of_turn>",
    "[INST]",
];

/// A vocabulary of all bytes, a few texts and [`CONTROLS`].
pub fn byte_tokenizer() -> Tokenizer {
    let mut tokens: Vec<String> = (0..=255_u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    tokens.extend(["a", "▁", "▁a"].map(String::from));
    let mut types = vec![6; 256];
    types.extend([1, 1, 1]);
    tokens.extend(CONTROLS.map(String::from));
    types.extend([3; CONTROLS.len()]);
    let vocab = GgufVocab {
        model: "llama".into(),
        scores: vec![0.0; tokens.len()],
        tokens,
        types,
        bos: Some(259),
        eos: Some(260),
        ..GgufVocab::default()
    };
    Tokenizer::from_gguf("fuzz.gguf".as_ref(), vocab).expect("the vocabulary is sound").0
}

/// What Jinja2 made of templates (`loader/tests/data/README.md`).
pub struct Recorded {
    /// The variables of expressions and small templates.
    pub variables: Map<String, Value>,
    /// Sources of expressions in braces and of small templates.
    pub sources: Vec<String>,
    /// Published templates.
    pub published: Vec<String>,
    /// What became of each of [`Self::sources`]; none for an error.
    pub answers: HashMap<String, Option<String>>,
    /// What became of each of [`Self::published`], with each set of variables of [`Self::conversations`].
    pub renderings: HashMap<String, Vec<Option<String>>>,
    /// The variables of published templates.
    pub conversations: Vec<Map<String, Value>>,
}

/// The recorded answers.
pub fn recorded() -> &'static Recorded {
    static CELL: OnceLock<Recorded> = OnceLock::new();
    CELL.get_or_init(|| {
        let all: Value = serde_json::from_str(RECORDED).expect("the file is JSON");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let list = |name: &str| all[name].as_array().expect("a list").clone();
        let mut answers = HashMap::new();
        for pair in list("expressions") {
            answers.insert(format!("{{{{ {} }}}}", text(&pair[0]).expect("a text")), text(&pair[1]));
        }
        for pair in list("templates") {
            answers.insert(text(&pair[0]).expect("a text"), text(&pair[1]));
        }
        let renderings: HashMap<_, _> = list("real")
            .iter()
            .map(|one| {
                let of = one["renderings"].as_array().expect("a list");
                (text(&one["source"]).expect("a text"), of.iter().map(text).collect())
            })
            .collect();
        let (mut sources, mut published): (Vec<_>, Vec<_>) =
            (answers.keys().cloned().collect(), renderings.keys().cloned().collect());
        sources.sort_unstable();
        published.sort_unstable();
        let variables = all["variables"].as_object().expect("a map").clone();
        let conversations = conversations(&list("conversations"), &variables);
        Recorded { variables, sources, published, answers, renderings, conversations }
    })
}

/// Each conversation with a generation prompt, the last one without, the second one with tools.
fn conversations(list: &[Value], variables: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let of = |messages: &Value, prompt: bool, tools: Option<&Value>| {
        let mut of = Map::new();
        of.insert("bos_token".into(), "<s>".into());
        of.insert("eos_token".into(), "</s>".into());
        of.insert("add_generation_prompt".into(), prompt.into());
        of.insert("messages".into(), messages.clone());
        of.extend(tools.map(|tools| ("tools".to_owned(), tools.clone())));
        of
    };
    let mut all: Vec<_> = list.iter().map(|messages| of(messages, true, None)).collect();
    all.extend(list.last().map(|last| of(last, false, None)));
    all.extend(list.get(1).map(|second| of(second, true, variables.get("tools"))));
    all
}

/// A mutation of `data`: now and then one of `sources` takes the place of the input.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32, sources: &[&[String]]) -> usize {
    if seed % 8 != 0 {
        return libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    }
    let all: usize = sources.iter().map(|list| list.len()).sum();
    let at = (seed / 8) as usize % all.max(1);
    let Some(source) = sources.iter().flat_map(|list| list.iter()).nth(at) else { return size };
    let len = source.len().min(max_size);
    data[..len].copy_from_slice(&source.as_bytes()[..len]);
    // Half of them as they are, to compare them with what was recorded.
    if seed % 16 == 0 { len } else { libfuzzer_sys::fuzzer_mutate(data, len, max_size) }
}

/// A folder that is deleted with the value; in memory where there is a place for it, because written files are
/// synced.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder")
}

/// Panics if a text that a person will see has control characters.
pub fn assert_clean(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
