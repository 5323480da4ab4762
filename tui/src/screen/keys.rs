//! What keys do. The table for people is in `help`.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

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
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        let alt = key.modifiers.contains(KeyModifiers::ALT);
        if control && key.code == KeyCode::Char('c') {
            self.overlay = None;
            self.recall.search_ends(false);
            return self.interrupt();
        }
        if control && key.code == KeyCode::Char('l') {
            return vec![Effect::Redraw];
        }
        if control && key.code == KeyCode::Char('z') {
            return vec![Effect::Suspend];
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
            return self.search_key(key, control);
        }
        if std::mem::take(&mut self.prefix) && control {
            return match key.code {
                KeyCode::Char('e') => vec![Effect::Editor(self.composer.text().to_owned())],
                _ => Vec::new(),
            };
        }
        let shift = key.modifiers.contains(KeyModifiers::SHIFT);
        match key.code {
            KeyCode::Enter if shift || alt || control => self.composer.insert("\n"),
            KeyCode::Enter => return self.enter_key(),
            KeyCode::F(3) => return self.pick(),
            KeyCode::F(2) => self.watched = !self.watched,
            KeyCode::F(1) => self.overlay = Some(Overlay::Help(0)),
            KeyCode::Char('?') if self.composer.is_empty() => self.overlay = Some(Overlay::Help(0)),
            KeyCode::PageUp => self.scroll(-self.page()),
            KeyCode::PageDown => self.scroll(self.page()),
            KeyCode::Home if control || self.composer.is_empty() => self.top = Some(0),
            KeyCode::End if control || self.composer.is_empty() => self.top = None,
            KeyCode::Up if control || shift => self.scroll(-1),
            KeyCode::Down if control || shift => self.scroll(1),
            KeyCode::Tab => return self.complete(),
            KeyCode::Esc => return self.escape(),
            KeyCode::Char(c) if control && !alt => return self.control_key(c),
            KeyCode::Char(c) if alt && !control => return self.alt_key(c),
            KeyCode::Char(c) => self.composer.insert(c.encode_utf8(&mut [0; 4])),
            code => self.edit_key(code, control || alt),
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

    /// Esc closes what is open; with nothing open it stops an answer.
    fn escape(&mut self) -> Vec<Effect> {
        self.remark = None;
        if self.chat.editing() {
            self.chat.stop_editing();
            self.composer.set("");
            self.remark(Tone::Dim, "The last question stays as it was.");
        } else if self.chat.busy() {
            return if self.stopping() { Vec::new() } else { self.interrupt() };
        } else {
            self.top = None;
        }
        Vec::new()
    }

    fn control_key(&mut self, c: char) -> Vec<Effect> {
        match c {
            'j' => self.composer.insert("\n"),
            'd' if self.composer.is_empty() => {
                if self.chat.busy() {
                    self.remark(Tone::Warning, self.chat.has_to_wait());
                    return Vec::new();
                }
                return self.leave();
            }
            'd' => self.composer.delete(),
            'g' => return vec![Effect::Editor(self.composer.text().to_owned())],
            'x' => self.prefix = true,
            'r' => drop(self.recall.search_older(self.composer.text())),
            't' => return self.command("/think"),
            'a' => self.composer.home(),
            'e' => self.composer.end(),
            'b' => self.composer.left(),
            'f' => self.composer.right(),
            'k' => self.composer.cut_to_end(),
            'u' => self.composer.cut_to_start(),
            'w' => self.composer.cut_word_left(),
            'y' => self.composer.yank(),
            '_' | '7' | '-' => self.composer.undo(),
            'h' => self.composer.backspace(),
            'p' => self.older(),
            'n' => self.newer(),
            _ => {}
        }
        Vec::new()
    }

    fn alt_key(&mut self, c: char) -> Vec<Effect> {
        match c {
            'b' => self.composer.word_left(),
            'f' => self.composer.word_right(),
            'd' => self.composer.cut_word_right(),
            'r' => return self.command("/retry"),
            'e' => return self.command("/edit"),
            'u' => return self.command("/undo"),
            'm' => return self.command("/more"),
            'c' => return self.command("/copy"),
            's' => return self.command("/stats"),
            _ => {}
        }
        Vec::new()
    }

    fn edit_key(&mut self, code: KeyCode, word: bool) {
        match code {
            KeyCode::Backspace if word => self.composer.cut_word_left(),
            KeyCode::Backspace => self.composer.backspace(),
            KeyCode::Delete if word => self.composer.cut_word_right(),
            KeyCode::Delete => self.composer.delete(),
            KeyCode::Left if word => self.composer.word_left(),
            KeyCode::Left => self.composer.left(),
            KeyCode::Right if word => self.composer.word_right(),
            KeyCode::Right => self.composer.right(),
            KeyCode::Home => self.composer.home(),
            KeyCode::End => self.composer.end(),
            // In a text of several rows they go through it first.
            KeyCode::Up if !self.composer.up() => self.older(),
            KeyCode::Down if !self.composer.down() => self.newer(),
            _ => {}
        }
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

    fn search_key(&mut self, key: KeyEvent, control: bool) -> Vec<Effect> {
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
