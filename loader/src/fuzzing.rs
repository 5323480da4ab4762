//! What fuzz targets need beyond the public interface. It exists in builds for fuzzing only, and must not
//! know what the targets check.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::picture::{self, Preparation};
use crate::spec::{ImageHead, ImagePool, ImageSpec};
use crate::text::chat::ChatTemplate;
use crate::text::jinja::Template;
use crate::text::tokenizer::Tokenizer;
use crate::text::turns;

/// What a template makes of `variables` at the time `now`, in seconds since the beginning of 1970.
///
/// # Errors
/// The line and the message of what is wrong.
pub fn render(
    source: &str,
    variables: &Map<String, Value>,
    now: u64,
) -> std::result::Result<String, (usize, String)> {
    Template::compile(source)
        .and_then(|template| template.render(variables, now))
        .map_err(|problem| (problem.line, problem.message))
}

/// The tokens that end an answer, and those within one, both ascending.
pub fn turn_tokens(template: &ChatTemplate, tokenizer: &Tokenizer) -> (Vec<u32>, Vec<u32>) {
    let found = turns::turn_tokens(template, tokenizer);
    (found.ends, found.within)
}

/// The numbers of an image for a model that reads 16 x 16 pixels, prepared in the usual way.
///
/// # Errors
/// As [`picture::read`].
pub fn picture(path: &Path) -> Result<Vec<f32>> {
    let (head, mut out) = (ImageHead { classes: 1, pool: ImagePool::Mean }, Vec::new());
    let (first_row, task, tasks, first_class, all_classes) = (false, 0, 1, 0, 1);
    let image = ImageSpec { size: 16, patch: 8, first_row, task, tasks, head, first_class, all_classes };
    picture::read(path, &image, &Preparation::usual(&image)?, &mut out)?;
    Ok(out)
}
