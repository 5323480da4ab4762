//! What fuzz targets need beyond the public interface. It exists in builds for fuzzing only, and must not
//! know what the targets check.

use serde_json::{Map, Value};

use crate::text::chat::ChatTemplate;
use crate::text::jinja::Template;
use crate::text::tokenizer::Tokenizer;
use crate::text::turns;

/// What a template makes of `variables` at the time `now`, in seconds since the beginning of 1970.
///
/// # Errors
/// The line and the message of what is wrong.
pub fn render(source: &str, variables: &Map<String, Value>, now: u64) -> Result<String, (usize, String)> {
    Template::compile(source)
        .and_then(|template| template.render(variables, now))
        .map_err(|problem| (problem.line, problem.message))
}

/// The tokens that end an answer, and those within one, both ascending.
pub fn turn_tokens(template: &ChatTemplate, tokenizer: &Tokenizer) -> (Vec<u32>, Vec<u32>) {
    let found = turns::turn_tokens(template, tokenizer);
    (found.ends, found.within)
}
