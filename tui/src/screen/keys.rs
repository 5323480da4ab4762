//! What keys do. Which there are is in `key_table`.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::key_table::{self, Action};
use super::{Effect, Overlay, Screen};
use crate::chat::{self, Choice};
use crate::picker::Outcome;
use crate::terminal::Tone;

impl Screen {
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<Effect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        if self.picker.is_some() {
            return self.picker_key(key);
        }
        let after_x = std::mem::take(&mut self.prefix);
        // Of Ctrl-X and a key that does not go with it, only the key counts; another Ctrl key was a slip.
        let alone = !after_x || !key.modifiers.contains(KeyModifiers::CONTROL);
        let found = key_table::action(&key, after_x)
            .or_else(|| alone.then(|| key_table::action(&key, false)).flatten());
        match found {
            Some(Action::Interrupt) => {
                self.overlay = None;
                self.recall.search_ends(false);
                return self.interrupt();
            }
            Some(Action::Redraw) => return vec![Effect::Redraw],
            Some(Action::Suspend) => return vec![Effect::Suspend],
            _ => {}
        }
        if let Some(Overlay::Help(at)) = self.overlay {
            self.overlay = help_key(key.code, at, self.seen.1);
            return Vec::new();
        }
        // The question may come while somebody types: a choice is a letter and Enter, as every other entry.
        if self.chat.asking().is_some() && key.code == KeyCode::Esc {
            return self.tell(chat::Event::Chosen(Choice::Stop));
        }
        if self.recall.search().is_some() {
            return self.search_key(key);
        }
        match found {
            Some(action) => self.act(action, key.code),
            None => {
                self.prefix = alone && key_table::is_prefix(&key);
                // AltGr, which makes characters, is Ctrl and Alt to some terminals.
                let both = key.modifiers.contains(KeyModifiers::CONTROL | KeyModifiers::ALT);
                let one = key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
                if let KeyCode::Char(c) = key.code
                    && (both || !one)
                {
                    self.composer.insert(c.encode_utf8(&mut [0; 4]));
                }
                Vec::new()
            }
        }
    }

    fn act(&mut self, action: Action, code: KeyCode) -> Vec<Effect> {
        match action {
            Action::Send => return self.enter_key(),
            Action::Escape => return self.escape(),
            Action::Leave if !self.composer.is_empty() => self.composer.delete(),
            Action::Leave if self.chat.busy() => self.remark(Tone::Warning, self.chat.has_to_wait()),
            Action::Leave => return self.leave(),
            Action::Help => match code {
                KeyCode::Char(c) if !self.composer.is_empty() => {
                    self.composer.insert(c.encode_utf8(&mut [0; 4]));
                }
                _ => self.overlay = Some(Overlay::Help(0)),
            },
            Action::Experts => self.watched = !self.watched,
            Action::Models => return self.pick(),
            Action::Lines(lines) => self.scroll(lines),
            Action::Pages(pages) => self.scroll(pages * self.page()),
            Action::Top if !self.composer.is_empty() => self.composer.home(),
            Action::End if !self.composer.is_empty() => self.composer.end(),
            Action::Top | Action::TopOfAll => self.top = Some(0),
            Action::End | Action::EndOfAll => self.top = None,
            // In a text of several rows the arrows go through it first.
            Action::Older if code == KeyCode::Up && self.composer.up() => {}
            Action::Older => self.older(),
            Action::Newer if code == KeyCode::Down && self.composer.down() => {}
            Action::Newer => self.newer(),
            Action::Search => drop(self.recall.search_older(self.composer.text())),
            Action::Complete => return self.complete(),
            Action::Editor => return vec![Effect::Editor(self.composer.text().to_owned())],
            Action::Command(line) => return self.command(line),
            Action::Edit(change) => change(&mut self.composer),
            // They are not for what is written, and were seen before.
            Action::Interrupt | Action::Redraw | Action::Suspend => {}
        }
        Vec::new()
    }

    fn picker_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let Some(picker) = &mut self.picker else { return Vec::new() };
        let chosen = match picker.handle(key) {
            Outcome::Open => return Vec::new(),
            Outcome::Closed => None,
            Outcome::Chosen(entry) => Some(entry.path),
        };
        self.picker = None;
        let mut effects = vec![Effect::StopFinding];
        effects.extend(chosen.into_iter().flat_map(|model| self.tell(chat::Event::Picked(model))));
        effects
    }

    /// Lines of a page.
    fn page(&self) -> isize {
        isize::try_from(self.seen.1.saturating_sub(2).max(1)).unwrap_or(1)
    }

    fn enter_key(&mut self) -> Vec<Effect> {
        // As in line mode, and for terminals that know no other way to a new line.
        if self.composer.before_cursor().ends_with('\\') {
            self.composer.backspace();
            self.composer.insert("\n");
            return Vec::new();
        }
        self.enter()
    }

    /// Esc closes what is open; with nothing open it stops what is done, or leaves the last question as it was.
    fn escape(&mut self) -> Vec<Effect> {
        self.remark = None;
        if self.chat.busy() {
            return if self.stopping() { Vec::new() } else { self.interrupt() };
        } else if self.chat.editing() {
            return self.interrupt();
        } else {
            self.top = None;
        }
        Vec::new()
    }

    fn older(&mut self) {
        if let Some(text) = self.recall.older(self.composer.text()) {
            self.composer.set(text);
        }
    }

    fn newer(&mut self) {
        if let Some(text) = self.recall.newer() {
            self.composer.set(&text);
        }
    }

    fn search_key(&mut self, key: KeyEvent) -> Vec<Effect> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let found = match key.code {
            KeyCode::Char('r') if control => self.recall.search_older(""),
            KeyCode::Char('g') if control => {
                let before = self.recall.search_ends(true).unwrap_or_default();
                self.composer.set(&before);
                return Vec::new();
            }
            KeyCode::Char(c) if !control => self.recall.search_for(Some(c)),
            KeyCode::Backspace => self.recall.search_for(None),
            KeyCode::Esc => {
                let before = self.recall.search_ends(true).unwrap_or_default();
                self.composer.set(&before);
                return Vec::new();
            }
            KeyCode::Enter => {
                self.recall.search_ends(false);
                return Vec::new();
            }
            _ => {
                self.recall.search_ends(false);
                return self.key(key);
            }
        };
        if let Some(text) = found {
            self.composer.set(text);
        }
        Vec::new()
    }
}

/// What a key does with the help, which is scrolled to `at`; `None` closes it.
fn help_key(code: KeyCode, at: usize, page: usize) -> Option<Overlay> {
    let page = page.saturating_sub(2).max(1);
    let at = match code {
        KeyCode::Up => at.saturating_sub(1),
        KeyCode::Down => at.saturating_add(1),
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::PageDown | KeyCode::Char(' ') => at.saturating_add(page),
        KeyCode::Home => 0,
        _ => return None,
    };
    Some(Overlay::Help(at))
}
