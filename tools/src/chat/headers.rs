//! The one check that every command makes when it opens a model: what `fit` and `models` accept, `run` and
//! `chat` start, and what these refuse, all refuse with the same words. It must not know memory budgets.

use std::path::Path;

use moelten_engine::Model;
use moelten_loader::load::LoadedModel;
use moelten_loader::spec::Purpose;
use moelten_loader::text::{SamplingHints, TextSide};

use crate::chat::language::Language;
use crate::exit::CommandError;
use crate::open;
use crate::report::waiting;

/// A model whose headers, text side and small weights are read and found sound, and whose other weights are
/// not read.
pub struct Headers {
    /// Spec and tensors.
    pub loaded: LoadedModel,
    /// Tokenizer and chat template.
    pub language: Language,
    /// What the model's files recommend.
    pub hints: SamplingHints,
    /// Harmless oddities of all its files.
    pub notices: Vec<String>,
    /// File or folder name.
    pub name: String,
}

impl Headers {
    /// Reads the headers of a model; `None` is the built-in one. The chat template is compiled and used only
    /// `with_template`.
    ///
    /// # Errors
    /// Files that cannot be read or are invalid.
    pub fn read(model: Option<&Path>, with_template: bool) -> anyhow::Result<Self> {
        let name = open::name(model);
        let (loaded, language, of_text) = waiting::during("reading headers and vocabulary", None, || {
            let loaded = open::load(model)?;
            open::has_text(&loaded, &name)?;
            let (language, notices) = language(&loaded, &name, with_template)?;
            anyhow::Ok((loaded, language, notices))
        })?;
        let (hints, of_hints) = loaded.sampling_hints();
        let notices = [&loaded.notices[..], &of_text, &of_hints].concat();
        Ok(Self { loaded, language, hints, notices, name })
    }

    /// What can be checked of a model whose vocabulary is not here, and whether it has a chat template.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn without_vocabulary(model: &Path) -> anyhow::Result<(LoadedModel, bool)> {
        let loaded = open::load(Some(model))?;
        open::has_text(&loaded, &open::name(Some(model)))?;
        let chats = loaded.chat_template()?.is_some();
        Model::check(&loaded.spec, &loaded.tensors)?;
        Ok((loaded, chats))
    }

    /// The check alone, of a model that is open.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn check(loaded: &LoadedModel, name: &str) -> anyhow::Result<()> {
        open::has_text(loaded, name)?;
        language(loaded, name, true).map(drop)
    }

    /// Refuses a model with an encoder: it reads one text and answers with one, and has no conversations.
    ///
    /// # Errors
    /// [`CommandError::Unsupported`], with what the model is for.
    pub fn check_chat(&self) -> Result<(), CommandError> {
        let Some(encoder) = self.loaded.spec.encoder else { return Ok(()) };
        let use_it = match encoder.purpose {
            Purpose::Translation => {
                "it translates: moelten run MODEL --from eng_Latn --to deu_Latn -p \"A text.\""
            }
            Purpose::Gaps => {
                "it fills gaps: moelten run MODEL -p \"The <extra_id_0> walks in <extra_id_1> park\""
            }
            Purpose::Images => "it tells what is on an image: moelten run MODEL --image cat.png",
            Purpose::TextToText => {
                "it turns one text into another: moelten run MODEL -p \"summarize: A text.\", or fills gaps \
                 that are written <extra_id_0>, <extra_id_1> and so on"
            }
        };
        Err(CommandError::Unsupported(format!("{} cannot chat: {use_it}", self.name)))
    }

    /// Refuses a model without a chat template.
    ///
    /// # Errors
    /// [`CommandError::NoTemplate`]; as [`Self::check_chat`].
    pub fn check_template(&self) -> Result<(), CommandError> {
        self.check_chat()?;
        if self.language.has_template() {
            return Ok(());
        }
        Err(CommandError::NoTemplate { model: self.name.clone() })
    }
}

/// Tokenizer and template of a model whose parts are all checked, and notices about its text side.
fn language(
    loaded: &LoadedModel,
    name: &str,
    with_template: bool,
) -> anyhow::Result<(Language, Vec<String>)> {
    let TextSide { tokenizer, notices } = loaded.text()?;
    let template = if with_template { loaded.chat_template()? } else { None };
    let language = Language::new(name.to_owned(), tokenizer, template);
    Model::check(&loaded.spec, &loaded.tensors)?;
    language.probe()?;
    Ok((language, notices))
}

#[cfg(test)]
mod tests;
