//! The actions of keys. Which key has which action is in `key_table`.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::event::ScreenEffect;
use super::key_table::{self, Action};
use super::picker::PickerOutcome;
use super::sessions::SessionOutcome;
use super::state::{Overlay, Screen};
use crate::chat::{ChatEffect, ChatEvent, OverflowChoice, Tone};

impl Screen {
    pub(super) fn key(&mut self, key: KeyEvent) -> Vec<ScreenEffect> {
        if key.kind == KeyEventKind::Release {
            return Vec::new();
        }
        if self.picker.is_some() {
            return self.picker_key(key);
        }
        if self.sessions.is_some() {
            return self.sessions_key(key);
        }
        let after_x = std::mem::take(&mut self.prefix);
        // A key that does not belong to Ctrl-X acts as if Ctrl-X had not been pressed; another Ctrl key does
        // nothing.
        let alone = !after_x || !key.modifiers.contains(KeyModifiers::CONTROL);
        let found = key_table::action(&key, after_x)
            .or_else(|| alone.then(|| key_table::action(&key, false)).flatten());
        match found {
            Some(Action::Interrupt) => {
                self.overlay = None;
                self.history.end_search(false);
                if self.finder.take().is_some() {
                    return Vec::new();
                }
                return self.interrupt();
            }
            Some(Action::Redraw) => return vec![ScreenEffect::Redraw],
            Some(Action::Suspend) => return vec![ScreenEffect::Suspend],
            _ => {}
        }
        if let Some(Overlay::Help(at)) = self.overlay {
            self.overlay = help_key(key.code, at, self.drawn.1);
            return Vec::new();
        }
        // The question may appear while the user types, so a choice is a letter and Enter, like any other
        // entry.
        if self.chat.overflow_question().is_some() && key.code == KeyCode::Esc {
            return self.tell(ChatEvent::Chosen(OverflowChoice::Stop));
        }
        if self.history.search().is_some() {
            return self.search_key(key);
        }
        if let Some(effects) = self.finder_key(key) {
            return effects;
        }
        match found {
            Some(action) => self.act(action, key.code),
            None => {
                self.prefix = alone && key_table::is_prefix(&key);
                // Some terminals report AltGr, which types characters, as Ctrl and Alt.
                let both = key.modifiers.contains(KeyModifiers::CONTROL | KeyModifiers::ALT);
                let one = key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT);
                if let KeyCode::Char(c) = key.code
                    && (both || !one)
                {
                    self.composer.insert(c.encode_utf8(&mut [0; 4]));
                    return self.typed();
                }
                Vec::new()
            }
        }
    }

    fn act(&mut self, action: Action, code: KeyCode) -> Vec<ScreenEffect> {
        match action {
            Action::Send => return self.enter_key(),
            Action::Escape => return self.escape(),
            Action::Leave if !self.composer.is_empty() => self.composer.delete(),
            Action::Leave if self.chat.busy() => self.show_message(Tone::Warning, self.chat.busy_text()),
            Action::Leave => return self.leave(),
            Action::Help => match code {
                KeyCode::Char(c) if !self.composer.is_empty() => {
                    self.composer.insert(c.encode_utf8(&mut [0; 4]));
                }
                _ => self.overlay = Some(Overlay::Help(0)),
            },
            Action::Experts => self.experts_open = !self.experts_open,
            Action::Models => return self.open_picker(),
            Action::Sessions => return self.open_sessions(),
            Action::Lines(lines) => self.scroll(lines),
            Action::Pages(pages) => self.scroll(pages * self.page()),
            Action::Top if !self.composer.is_empty() => self.composer.home(),
            Action::End if !self.composer.is_empty() => self.composer.end(),
            Action::Top | Action::TopOfAll => self.top = Some(0),
            Action::End | Action::EndOfAll => self.top = None,
            Action::Older if self.suggests() => self.palette.step(-1),
            Action::Newer if self.suggests() => self.palette.step(1),
            Action::Older if code == KeyCode::Up && self.take_back() => {}
            // In a text of several rows the arrows move the cursor first.
            Action::Older if code == KeyCode::Up && self.composer.up() => {}
            Action::Older => self.older(),
            Action::Newer if code == KeyCode::Down && self.composer.down() => {}
            Action::Newer => self.newer(),
            Action::Search => drop(self.history.search_older(self.composer.text())),
            Action::Find => self.find(),
            Action::Complete => return self.complete(),
            Action::Editor => return vec![ScreenEffect::Editor(self.composer.text().to_owned())],
            Action::Command(line) => return self.entered(line),
            Action::Edit(change) => {
                change(&mut self.composer);
                return self.typed();
            }
            // Handled before, whatever is open.
            Action::Interrupt | Action::Redraw | Action::Suspend => {}
        }
        Vec::new()
    }

    fn picker_key(&mut self, key: KeyEvent) -> Vec<ScreenEffect> {
        let Some(picker) = &mut self.picker else { return Vec::new() };
        let chosen = match picker.handle(key) {
            PickerOutcome::Open => return Vec::new(),
            PickerOutcome::Closed => None,
            PickerOutcome::Chosen(entry) => Some(entry.path),
        };
        self.picker = None;
        let mut effects = vec![ScreenEffect::StopSearch];
        effects.extend(chosen.into_iter().flat_map(|model| self.tell(ChatEvent::Picked(model))));
        effects
    }

    fn sessions_key(&mut self, key: KeyEvent) -> Vec<ScreenEffect> {
        let Some(list) = &mut self.sessions else { return Vec::new() };
        match list.handle(key) {
            SessionOutcome::Open => Vec::new(),
            SessionOutcome::Delete(path) => vec![ScreenEffect::Chat(ChatEffect::Delete { path })],
            SessionOutcome::Closed => {
                self.sessions = None;
                Vec::new()
            }
            SessionOutcome::Chosen(path) => {
                self.sessions = None;
                vec![ScreenEffect::Chat(ChatEffect::Resume { path })]
            }
        }
    }

    /// Lines of a page.
    fn page(&self) -> isize {
        isize::try_from(self.drawn.1.saturating_sub(2).max(1)).unwrap_or(1)
    }

    /// Scrolls the conversation by lines, up if negative.
    pub(super) fn scroll(&mut self, lines: isize) {
        let (total, height) = self.drawn;
        let end = total.saturating_sub(height);
        let top = self.top.unwrap_or(end).saturating_add_signed(lines);
        self.top = (top < end).then_some(top);
    }

    fn enter_key(&mut self) -> Vec<ScreenEffect> {
        // As in line mode, and for terminals that have no other key for a new line.
        if self.composer.before_cursor().ends_with('\\') {
            self.composer.backspace();
            self.composer.insert("\n");
            return self.typed();
        }
        match self.accept_suggestion() {
            Some(effects) => effects,
            None => self.enter(),
        }
    }

    /// Esc closes the suggestions; without any it removes the message above the composer, and then stops the
    /// activity, cancels the edit, or scrolls to the end.
    fn escape(&mut self) -> Vec<ScreenEffect> {
        if self.suggests() {
            let text = self.composer.before_cursor().to_owned();
            self.palette.dismiss(&text);
            return Vec::new();
        }
        self.message = None;
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
        if let Some(text) = self.history.older(self.composer.text()) {
            self.composer.set(text);
        }
    }

    fn newer(&mut self) {
        if let Some(text) = self.history.newer() {
            self.composer.set(&text);
        }
    }

    fn search_key(&mut self, key: KeyEvent) -> Vec<ScreenEffect> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let found = match key.code {
            KeyCode::Char('r') if control => self.history.search_older(""),
            KeyCode::Char('g') if control => {
                let before = self.history.end_search(true).unwrap_or_default();
                self.composer.set(&before);
                return Vec::new();
            }
            KeyCode::Char(c) if !control => self.history.search_for(Some(c)),
            KeyCode::Backspace => self.history.search_for(None),
            KeyCode::Esc => {
                let before = self.history.end_search(true).unwrap_or_default();
                self.composer.set(&before);
                return Vec::new();
            }
            KeyCode::Enter => {
                self.history.end_search(false);
                return Vec::new();
            }
            _ => {
                self.history.end_search(false);
                return self.key(key);
            }
        };
        if let Some(text) = found {
            self.composer.set(text);
        }
        Vec::new()
    }
}

/// Scrolls the help, whose first line is `at`; `None` closes it.
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
