//! Which suggestions are shown for the composed text, and what becomes of the one that the user accepts. It
//! must not know how they are drawn.

use super::event::{CompletionRequest, ScreenEffect};
use super::model_entry::ModelEntry;
use super::palette::Accept;
use super::state::Screen;
use crate::chat::Tone;
use crate::input::completion::{Completion, Suggestion, as_mention, common_prefix, completion};
use crate::input::settings::Setting;
use crate::markdown::filter;

impl Screen {
    /// The user has changed the composed text: shows the suggestions for it.
    pub(super) fn typed(&mut self) -> Vec<ScreenEffect> {
        let text = self.composer.before_cursor().to_owned();
        if self.palette.is_for(&text) {
            return Vec::new();
        }
        match self.fixed_suggestions(&text) {
            Some((start, rows)) => {
                self.palette.show(&text, start, rows, Accept::Enters);
                Vec::new()
            }
            None => match completion(&text) {
                Completion::Model { start } => {
                    self.palette.show(&text, start, self.models(), Accept::File);
                    let mut effects = vec![self.ask_for_files(text, start, false)];
                    if !std::mem::replace(&mut self.models_searched, true) {
                        effects.push(ScreenEffect::StartSearch);
                    }
                    effects
                }
                Completion::Path { start } | Completion::Mention { start } => {
                    // What is shown stays until the names are there, so that nothing flickers.
                    vec![self.ask_for_files(text, start, false)]
                }
                _ => {
                    self.palette.dismiss(&text);
                    Vec::new()
                }
            },
        }
    }

    /// Whether suggestions for the composed text are on the screen. A text from the history has none.
    pub(super) fn suggests(&self) -> bool {
        self.palette.is_open() && self.palette.is_for(self.composer.before_cursor())
    }

    /// The suggestions that need neither a folder nor a search, with the byte at which the word begins.
    fn fixed_suggestions(&self, text: &str) -> Option<(usize, Vec<Suggestion>)> {
        let params = self.chat.params();
        let row = |word: &str, detail: String, help: &str, more| Suggestion {
            word: word.to_owned(),
            detail,
            help: help.to_owned(),
            more,
        };
        match completion(text) {
            Completion::Words { start, words } => Some((start, words)),
            Completion::Setting { start } => {
                let name = |setting: Setting| row(setting.name(), setting.get(params), setting.help(), true);
                Some((start, Setting::ALL.map(name).into()))
            }
            Completion::Value { start, setting } => {
                let now = setting.get(params);
                let value = |&(value, help): &(&str, &str)| {
                    let detail = if value == now { "(now)" } else { "" };
                    row(value, detail.to_owned(), help, false)
                };
                Some((start, setting.examples().iter().map(value).collect()))
            }
            _ => None,
        }
    }

    fn ask_for_files(&self, text: String, from: usize, insert: bool) -> ScreenEffect {
        let escaped = matches!(completion(&text), Completion::Mention { .. });
        ScreenEffect::Complete(CompletionRequest { text, from, escaped, insert })
    }

    /// The models that were found, as `/model` takes them.
    fn models(&self) -> Vec<Suggestion> {
        let row = |entry: &ModelEntry| {
            let path = entry.path.as_ref()?.to_str()?;
            let shown = filter::clean_line(path);
            // A name with control characters could not be typed either.
            let help = format!("{} {}", entry.verdict.word(), filter::clean_line(entry.verdict.words()));
            (shown == path).then(|| Suggestion { word: shown, detail: String::new(), help, more: false })
        };
        self.found_models.iter().filter(|entry| entry.verdict.runs()).filter_map(row).collect()
    }

    /// A model was found: `/model` suggests it.
    pub(super) fn model_found(&mut self, entry: ModelEntry) {
        self.found_models.push(entry);
        let text = self.composer.before_cursor().to_owned();
        if let Completion::Model { start } = completion(&text)
            && self.palette.is_for(&text)
        {
            let mut rows = self.models();
            rows.extend(self.file_rows.iter().cloned());
            let accept = self.palette.accept();
            self.palette.show(&text, start, rows, accept);
        }
    }

    /// The names of files for a request have arrived. The user may have typed since; then they are dropped.
    pub(super) fn files_found(&mut self, request: &CompletionRequest, found: Vec<String>) {
        if self.composer.before_cursor() != request.text {
            return;
        }
        let (mention, model) = match completion(&request.text) {
            Completion::Mention { .. } => (true, false),
            Completion::Model { .. } => (false, true),
            Completion::Path { .. } => (false, false),
            _ => return,
        };
        let word = |name: String| if mention { as_mention(&name) } else { name };
        let row = |name: String| {
            let help = if name.ends_with('/') { "folder" } else { "" };
            Suggestion {
                more: name.ends_with('/'),
                word: word(name),
                detail: String::new(),
                help: help.to_owned(),
            }
        };
        self.file_rows = found.into_iter().map(row).collect();
        let mut rows = if model { self.models() } else { Vec::new() };
        rows.extend(self.file_rows.iter().cloned());
        let accept = if mention { Accept::Mentions } else { Accept::File };
        self.palette.show(&request.text, request.from, rows, accept);
        if request.insert {
            self.complete_from_palette();
        }
    }

    /// Tab: inserts what all suggestions begin with, or else the highlighted suggestion, or else highlights
    /// the first one.
    pub(super) fn complete(&mut self) -> Vec<ScreenEffect> {
        let text = self.composer.before_cursor().to_owned();
        if self.palette.selected().is_none() || !self.palette.is_for(&text) {
            match completion(&text) {
                Completion::None => return Vec::new(),
                Completion::Path { start } | Completion::Mention { start } | Completion::Model { start } => {
                    return vec![self.ask_for_files(text, start, true)];
                }
                _ => {
                    if let Some((start, rows)) = self.fixed_suggestions(&text) {
                        self.palette.show(&text, start, rows, Accept::Enters);
                    }
                }
            }
        }
        self.complete_from_palette();
        self.typed()
    }

    fn complete_from_palette(&mut self) {
        let from = self.palette.from();
        let typed = self.composer.before_cursor().len() - from;
        let words = self.palette.words();
        let common = common_prefix(&words);
        match &words[..] {
            [] => self.show_message(Tone::Dim, "No match."),
            [one] => {
                let end = if one.ends_with('/') { "" } else { " " };
                self.composer.replace_from(from, &format!("{one}{end}"));
            }
            _ if common.len() > typed => self.composer.replace_from(from, common),
            _ => match self.palette.selected().cloned() {
                Some(chosen) => {
                    let end = if chosen.word.ends_with('/') { "" } else { " " };
                    self.composer.replace_from(from, &format!("{}{end}", chosen.word));
                }
                None => self.palette.step(1),
            },
        }
    }

    /// Enter with a highlighted suggestion. `None` if there is none, or if it is what was typed: then the
    /// text is entered as it is.
    pub(super) fn accept_suggestion(&mut self) -> Option<Vec<ScreenEffect>> {
        let text = self.composer.before_cursor().to_owned();
        let chosen = self.palette.selected().filter(|_| self.palette.is_for(&text))?.clone();
        if self.palette.is_typed() && text[self.palette.from()..] == chosen.word {
            return None;
        }
        let (from, accept) = (self.palette.from(), self.palette.accept());
        let space = (chosen.more || accept == Accept::Mentions) && !chosen.word.ends_with('/');
        let end = if space { " " } else { "" };
        self.composer.replace_from(from, &format!("{}{end}", chosen.word));
        if chosen.more || accept == Accept::Mentions {
            return Some(self.typed());
        }
        Some(self.enter())
    }
}
