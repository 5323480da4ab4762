//! Chat templates: a conversation to the [`Markup`] that the model was trained on, by the Jinja template of
//! the model.
//!
//! A template is an untrusted program. It has no access to files or other templates, and runs with limits on
//! steps, depth, memory and output. It never knows weights; of the tokenizer it uses the control
//! tokens, to keep messages from imitating them.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::{Fault, LoadError, Result};
use crate::io::json;
use crate::text::jinja::{Problem, Template};
use crate::text::tokenizer::{Markup, Tokenizer, free_sentinel};

/// Longest template, in bytes.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;
/// The output may be four times the input and this allowance, and no more than [`OUTPUT_BYTES_MAX`].
const OUTPUT_BYTES_ALLOWANCE: usize = 64 << 10;
/// Longest rendering, in bytes.
const OUTPUT_BYTES_MAX: usize = 16 << 20;

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// Instructions for the whole conversation.
    System,
    /// The user's message.
    User,
    /// An answer of the model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Speaker {
    /// The role as templates know it.
    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl std::str::FromStr for Speaker {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "system" => Ok(Self::System),
            "user" => Ok(Self::User),
            "assistant" => Ok(Self::Assistant),
            "tool" => Ok(Self::Tool),
            _ => Err(format!("{name:?} is not a role; roles are system, user, assistant and tool")),
        }
    }
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Its author.
    pub role: Speaker,
    /// Its text, without markup.
    pub content: String,
}

impl Message {
    /// A message with this text.
    pub fn new(role: Speaker, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Options of a rendering.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// End with the markup that begins an answer.
    pub add_generation_prompt: bool,
    /// More variables for the template, e.g. `enable_thinking`. Their texts are guarded like messages.
    pub variables: serde_json::Map<String, serde_json::Value>,
}

/// A compiled chat template that has rendered a test conversation.
#[derive(Debug)]
pub struct ChatTemplate {
    source_name: String,
    source: String,
    compiled: Template,
    /// Whether `tools` and `documents` are none rather than undefined if there are none.
    needs_none: bool,
    supports_system: bool,
}

impl ChatTemplate {
    /// Compiles a template and tries it on a short conversation, so that a broken one is found before the
    /// first message. `source_name` is the file or metadata key that it came from.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] with [`Fault::TemplateSyntax`] and its line if it does not compile;
    /// [`LoadError::Template`] if it fails on a user's first message or runs into a limit.
    pub fn new(source_name: &str, source: &str) -> Result<Self> {
        let path = Path::new(source_name);
        if source.len() > SOURCE_BYTES_MAX {
            let fault = Fault::TooLong { found: source.len() as u64, limit: SOURCE_BYTES_MAX as u64 };
            return Err(LoadError::malformed(path, "chat_template", fault));
        }
        let compiled = Template::compile(source).map_err(|problem| {
            let fault = Fault::TemplateSyntax { line: problem.line, message: problem.message };
            LoadError::malformed(path, "chat_template", fault)
        })?;
        let (source_name, source) = (source_name.to_owned(), source.to_owned());
        let mut template = Self { source_name, source, compiled, needs_none: false, supports_system: false };
        let question = [Message::new(Speaker::User, "Hello")];
        // Most templates ask whether `tools` is defined; some know only the none that `transformers` passes.
        if let Err(error) = template.try_out(&question) {
            template.needs_none = true;
            template.try_out(&question).map_err(|_| error)?;
        }
        let instructed = [Message::new(Speaker::System, "Be brief."), question[0].clone()];
        template.supports_system = template.try_out(&instructed).is_ok_and(|text| text.contains("Be brief."));
        Ok(template)
    }

    /// The template of a Hugging Face folder: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json` (a text, or a list of named texts of which "default" counts). `None` if the
    /// folder has none.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`], and for files that cannot be read.
    pub fn from_hf_folder(dir: &Path) -> Result<Option<Self>> {
        template_source(dir)?.map(|(name, source)| Self::new(&name, &source)).transpose()
    }

    /// Whether a system message reaches the model. Some templates refuse it, some drop it.
    pub fn supports_system(&self) -> bool {
        self.supports_system
    }

    /// Renders a conversation for `tokenizer`. Control tokens inside of messages stay text; see [`Markup`].
    ///
    /// # Errors
    /// [`LoadError::Template`] if the template refuses the conversation or exceeds its limits.
    pub fn render(
        &self,
        tokenizer: &Tokenizer,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Markup> {
        let texts = messages.iter().map(|message| message.content.as_str());
        let mut variable_texts = Vec::new();
        options.variables.values().for_each(|value| collect_texts(value, &mut variable_texts));
        let all = texts.chain(variable_texts).chain([self.source.as_str()]);
        let free = free_sentinel(all);
        // If a text contains all 32, occurrences of one of them are removed.
        let sentinel = free.unwrap_or('\u{fdd0}');
        let clean = |text: &str| {
            if free.is_none() { text.replace(sentinel, "\u{fffd}") } else { text.to_owned() }
        };
        let guard = |text: &str| tokenizer.marks().guard(&clean(text), sentinel).into_owned();
        let messages: Vec<Message> =
            messages.iter().map(|message| Message::new(message.role, guard(&message.content))).collect();
        let mut variables = options.variables.clone();
        variables.values_mut().for_each(|value| guard_texts(value, &guard));
        let text = self.run(&messages, options.add_generation_prompt, token_texts(tokenizer), variables)?;
        Ok(Markup::guarded(text, sentinel))
    }

    fn try_out(&self, messages: &[Message]) -> Result<String> {
        self.run(messages, true, ("<s>", "</s>"), serde_json::Map::new())
    }

    /// Renders messages with whatever members they have. Nothing in them is guarded.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub(crate) fn render_raw(
        &self,
        tokenizer: &Tokenizer,
        messages: Vec<serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String> {
        let variables = serde_json::Map::new();
        self.run_raw(messages, add_generation_prompt, token_texts(tokenizer), variables)
    }

    /// Renders `messages` with the texts of the begin and end tokens and further variables.
    fn run(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        tokens: (&str, &str),
        variables: serde_json::Map<String, serde_json::Value>,
    ) -> Result<String> {
        let input: usize = messages.iter().map(|message| message.content.len()).sum();
        let limit = input.saturating_add(OUTPUT_BYTES_ALLOWANCE).saturating_mul(4).min(OUTPUT_BYTES_MAX);
        let list = messages
            .iter()
            .map(|message| serde_json::json!({ "role": message.role.name(), "content": message.content }));
        let text = self.run_raw(list.collect(), add_generation_prompt, tokens, variables)?;
        if text.len() > limit {
            let problem = format!("the rendering is {} bytes long, at most {limit} are allowed", text.len());
            return Err(LoadError::Template { source_name: self.source_name.clone(), line: 0, problem });
        }
        Ok(text)
    }

    fn run_raw(
        &self,
        messages: Vec<serde_json::Value>,
        add_generation_prompt: bool,
        (bos, eos): (&str, &str),
        mut variables: serde_json::Map<String, serde_json::Value>,
    ) -> Result<String> {
        variables.insert("messages".to_owned(), messages.into());
        for name in ["tools", "documents"].into_iter().filter(|_| self.needs_none) {
            variables.entry(name).or_insert(serde_json::Value::Null);
        }
        variables.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        variables.insert("bos_token".to_owned(), bos.into());
        variables.insert("eos_token".to_owned(), eos.into());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        self.compiled.render(&variables, now).map_err(|problem| self.failure(problem))
    }

    fn failure(&self, problem: Problem) -> LoadError {
        let (source_name, line) = (self.source_name.clone(), problem.line);
        LoadError::Template { source_name, line, problem: problem.message }
    }
}

/// The begin and end tokens as a template writes them; empty texts where there are none.
fn token_texts(tokenizer: &Tokenizer) -> (&str, &str) {
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
    (text(tokenizer.bos()), text(tokenizer.eos()))
}

/// Name and text of the chat template of a Hugging Face folder; `None` if it has none.
pub(crate) fn template_source(dir: &Path) -> Result<Option<(String, String)>> {
    #[derive(Deserialize)]
    struct Config {
        chat_template: Option<Templates>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Templates {
        One(String),
        Named(Vec<Named>),
    }
    #[derive(Deserialize)]
    struct Named {
        name: String,
        template: String,
    }
    let path = dir.join("chat_template.jinja");
    if let Some(source) = json::read_text(&path, SOURCE_BYTES_MAX as u64)? {
        return Ok(Some((path.display().to_string(), source)));
    }
    let path = dir.join("tokenizer_config.json");
    let Some(text) = json::read_text(&path, json::CONFIG_BYTES_MAX)? else { return Ok(None) };
    let config: Config = json::parse_text(&path, "tokenizer_config.json", &text)?;
    let source = match config.chat_template {
        None => return Ok(None),
        Some(Templates::One(source)) => source,
        Some(Templates::Named(list)) => match list.into_iter().find(|named| named.name == "default") {
            Some(named) => named.template,
            None => return Ok(None),
        },
    };
    Ok(Some((path.display().to_string(), source)))
}

fn collect_texts<'a>(value: &'a serde_json::Value, out: &mut Vec<&'a str>) {
    match value {
        serde_json::Value::String(text) => out.push(text),
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect_texts(item, out)),
        serde_json::Value::Object(map) => map.values().for_each(|item| collect_texts(item, out)),
        _ => {}
    }
}

fn guard_texts(value: &mut serde_json::Value, guard: &dyn Fn(&str) -> String) {
    match value {
        serde_json::Value::String(text) => *text = guard(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| guard_texts(item, guard)),
        serde_json::Value::Object(map) => map.values_mut().for_each(|item| guard_texts(item, guard)),
        _ => {}
    }
}
