//! The transitions of the screen, except for keys. It must not know how the screen is drawn.

use std::time::Duration;

use moelten_engine::api::{Event as EngineEvent, ExpertMap};

use super::event::{ScreenEffect, ScreenEvent, Urgency};
use super::live::LiveAnswer;
use super::model_entry::SearchStep;
use super::picker::Picker;
use super::sessions::SessionList;
use super::state::{Draft, Overlay, Screen};
use crate::chat::{ChatEffect, ChatEvent, FileEvent, Tone, figures};
use crate::experts::ExpertView;
use crate::input::command::{self, Command};
use crate::markdown::filter;

impl Screen {
    /// Handles an event at time `now` since the start; returns what the driver has to do.
    pub fn handle(&mut self, event: ScreenEvent, now: Duration) -> Vec<ScreenEffect> {
        self.now = now;
        let change = match event {
            ScreenEvent::Tick | ScreenEvent::Experts(_) | ScreenEvent::Engine(EngineEvent::Prompt { .. }) => {
                None
            }
            ScreenEvent::Engine(EngineEvent::Text(_)) => Some(Urgency::Soon),
            _ => Some(Urgency::Now),
        };
        self.changed = self.changed.max(change);
        match event {
            ScreenEvent::Key(key) => return self.key(key),
            ScreenEvent::Paste(text) => {
                self.paste(&text);
                return self.typed();
            }
            ScreenEvent::Wheel(steps) => self.wheel(steps),
            // Terminals break lines that are now too long in their own ways: what they show is unknown.
            ScreenEvent::Resized => return vec![ScreenEffect::Redraw],
            ScreenEvent::Tick => self.tick(),
            ScreenEvent::Engine(event) => {
                if let Some(live) = &mut self.live {
                    live.event(event, now);
                }
            }
            ScreenEvent::Chat(event) => return self.tell(event),
            ScreenEvent::Note(tone, text) => self.note(tone, &text),
            ScreenEvent::Loading(words) => self.loading = Some(words),
            ScreenEvent::Experts(map) => self.experts_changed(*map),
            ScreenEvent::Search(step) => self.search_step(step),
            ScreenEvent::Edited(Ok(text)) => {
                self.composer.set(filter::clean(&text).trim_end_matches('\n'));
            }
            ScreenEvent::Edited(Err(problem)) => self.show_message(Tone::Error, problem),
            ScreenEvent::Files { request, found } => self.files_found(&request, found),
            ScreenEvent::Interrupt => return self.interrupt(),
            ScreenEvent::End => return self.leave(),
        }
        Vec::new()
    }

    fn search_step(&mut self, step: SearchStep) {
        match (step, &mut self.picker) {
            (SearchStep::Model(entry), Some(picker)) => picker.add(entry),
            (SearchStep::Model(entry), None) => self.model_found(entry),
            (SearchStep::Problem(problem), Some(picker)) => picker.problem(&problem),
            (SearchStep::Done, Some(picker)) => picker.complete(),
            (_, None) => {}
        }
    }

    fn tick(&mut self) {
        if self.chat.busy() {
            self.changed = self.changed.max(Some(Urgency::Soon));
        }
        if self.message.as_ref().is_some_and(|message| message.until <= self.now) {
            self.message = None;
            self.changed = Some(Urgency::Now);
        }
    }

    fn experts_changed(&mut self, map: ExpertMap) {
        let before = self.experts.map();
        let memory = |map: &ExpertMap| figures::memory_short(&map.memory);
        if memory(before) != memory(&map) || (self.experts_open && *before != map) {
            self.changed = self.changed.max(Some(Urgency::Soon));
        }
        self.experts.update(map, self.now);
    }

    /// Hands an event to the conversation and shows what comes of it.
    pub(super) fn tell(&mut self, event: ChatEvent) -> Vec<ScreenEffect> {
        let event = match (event, &mut self.sessions) {
            (ChatEvent::File(FileEvent::Sessions(found)), Some(list)) => {
                list.fill(found);
                return Vec::new();
            }
            (ChatEvent::File(FileEvent::Deleted { path, result }), Some(list)) => {
                list.deleted(&path, &result);
                return Vec::new();
            }
            (event, _) => event,
        };
        if let ChatEvent::Switched(switched) = &event {
            self.loading = None;
            match switched {
                Ok(switched) => self.experts = ExpertView::new(switched.facts.limits),
                Err(not) if not.closed() => self.experts = ExpertView::new(self.chat.facts().limits),
                Err(_) => {}
            }
        }
        let completed = Self::completes(&event);
        let was_busy = self.chat.busy();
        let effects = self.chat.handle(event);
        let answers = effects.iter().any(|effect| matches!(effect, ChatEffect::Answer(_)));
        let switches = effects.iter().any(|effect| matches!(effect, ChatEffect::Switch(_)));
        if !self.chat.busy() || answers || switches {
            self.stopping = false;
        }
        if !self.chat.busy() || answers {
            let live = self.live.take();
            self.log.sync(self.chat.turns(), live);
        }
        let mut todo = Vec::new();
        for effect in effects {
            self.chat_effect(effect, &mut todo);
        }
        self.restore_draft(was_busy);
        todo.extend(self.send_queued(completed));
        todo
    }

    /// Shows an effect of the conversation, or leaves it to the driver.
    fn chat_effect(&mut self, effect: ChatEffect, todo: &mut Vec<ScreenEffect>) {
        match effect {
            ChatEffect::Note(tone, text) => self.note(tone, &text),
            // The question is drawn over the conversation as long as it is open.
            ChatEffect::Ask => self.top = None,
            ChatEffect::Compose(text) => {
                let draft =
                    || Draft { written: self.composer.snapshot(), position: self.history.take_position() };
                self.draft.get_or_insert_with(draft);
                self.composer.set(&filter::clean(&text));
                self.show_message(Tone::Dim, "Editing your last message: Enter resends it, Esc cancels.");
            }
            ChatEffect::Quit => todo.extend(self.leave()),
            other => {
                if let ChatEffect::Answer(request) = &other {
                    self.live = Some(LiveAnswer::new(&request.begun, self.now));
                    self.top = None;
                }
                todo.push(ScreenEffect::Chat(other));
            }
        }
    }

    /// Restores the draft once the last question is no longer being edited. If the edited question had to
    /// wait for a file (`was_busy`), the user may have begun another text; then the draft goes into the
    /// history.
    fn restore_draft(&mut self, was_busy: bool) {
        if self.chat.editing() {
            return;
        }
        let Some(Draft { written, position }) = self.draft.take() else { return };
        if was_busy && !self.composer.is_empty() {
            if !written.text.is_empty() {
                self.history.add(&written.text);
                self.show_message(Tone::Dim, "Press Up for the text that you were writing before.");
            }
            return;
        }
        self.composer.restore(written);
        self.history.restore(position);
    }

    fn paste(&mut self, text: &str) {
        if self.picker.is_some() || self.sessions.is_some() {
            return;
        }
        self.overlay = None;
        self.history.end_search(false);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let clean = filter::clean(&text);
        let removed = text.chars().count().saturating_sub(clean.chars().count());
        if removed > 0 {
            let text = format!("{removed} control characters were removed from the pasted text.");
            self.show_message(Tone::Warning, text);
        }
        self.composer.insert(&clean);
    }

    /// Sends the composed text to the conversation, except for commands that only a screen can do.
    pub(super) fn enter(&mut self) -> Vec<ScreenEffect> {
        let text = self.composer.text().to_owned();
        if text.trim().is_empty() {
            return Vec::new();
        }
        let command = command::parse(&text);
        self.composer.take();
        self.palette.dismiss("");
        // The message was about the text that is sent now.
        self.message = None;
        let mut effects = Vec::new();
        // The letter that answers a question is of no use later.
        if !self.chat.is_choice(&text) {
            effects.push(ScreenEffect::Remember(text.clone()));
            self.history.add(&text);
        }
        self.top = None;
        match command {
            None if self.chat.busy() => self.queue(text),
            Some(Ok(Command::Model(None))) => effects.extend(self.open_picker()),
            Some(Ok(Command::Sessions(None))) => effects.extend(self.open_sessions()),
            Some(Ok(Command::Mouse(on))) => {
                self.mouse = on.unwrap_or(!self.mouse);
                self.show_message(
                    Tone::Dim,
                    match self.mouse {
                        true => "The wheel scrolls; hold Shift to select text.",
                        false => "The mouse belongs to the terminal; PgUp and PgDn scroll.",
                    },
                );
                effects.push(ScreenEffect::Mouse(self.mouse));
            }
            Some(Ok(Command::Markdown(on))) => {
                self.log.set_markdown(on.unwrap_or(!self.log.markdown()));
                self.show_message(
                    Tone::Dim,
                    match self.log.markdown() {
                        true => "Answers are shown as Markdown.",
                        false => "Answers are shown as they were written.",
                    },
                );
            }
            Some(Ok(Command::Experts)) => self.experts_open = !self.experts_open,
            Some(Ok(Command::Help)) => self.overlay = Some(Overlay::Help(0)),
            _ => effects.extend(self.entered(&text)),
        }
        effects
    }

    /// Sends a message or a command as if the user had entered it; returns what the driver has to do.
    pub fn send(&mut self, text: String) -> Vec<ScreenEffect> {
        self.composer.set(&text);
        self.enter()
    }

    /// Hands an entry to the conversation, or the command that a key stands for.
    pub(super) fn entered(&mut self, line: &str) -> Vec<ScreenEffect> {
        let effects = self.tell(ChatEvent::Entered(line.to_owned()));
        self.log.set_reasoning_shown(self.chat.reasoning_shown());
        effects
    }

    /// Opens the list of models.
    pub(super) fn open_picker(&mut self) -> Vec<ScreenEffect> {
        if self.chat.busy() {
            self.show_message(Tone::Warning, self.chat.busy_text());
            return Vec::new();
        }
        self.picker = Some(Picker::new());
        // Its search replaces the one of the suggestions.
        self.models_searched = false;
        self.found_models.clear();
        vec![ScreenEffect::StartSearch]
    }

    /// Opens the list of earlier conversations.
    pub(super) fn open_sessions(&mut self) -> Vec<ScreenEffect> {
        if self.chat.busy() {
            self.show_message(Tone::Warning, self.chat.busy_text());
            return Vec::new();
        }
        self.sessions = Some(SessionList::default());
        vec![ScreenEffect::Chat(ChatEffect::Sessions)]
    }

    /// Ctrl-C. The first of these that applies: take back a waiting question, stop the activity, empty the
    /// composer, ask whether to quit.
    pub(super) fn interrupt(&mut self) -> Vec<ScreenEffect> {
        if let Some(question) = self.chat.take_waiting_question() {
            if self.composer.is_empty() {
                self.composer.set(&question);
            }
            self.unqueue();
            self.show_message(Tone::Dim, "The message was not sent; Up recalls it too.");
            return Vec::new();
        }
        if self.chat.busy() {
            if std::mem::replace(&mut self.stopping, true) {
                return self.leave();
            }
            return vec![ScreenEffect::Stop];
        }
        if !self.composer.is_empty() && !self.chat.editing() {
            self.composer.take();
            self.history.reset();
            return Vec::new();
        }
        let effects = self.chat.handle(ChatEvent::Interrupted(self.now));
        let mut todo = Vec::new();
        for effect in effects {
            match effect {
                ChatEffect::Note(tone, text) => self.show_message(tone, text),
                ChatEffect::Quit => todo.extend(self.leave()),
                other => todo.push(ScreenEffect::Chat(other)),
            }
        }
        self.restore_draft(false);
        todo
    }

    /// Ends the program. An unfinished answer is kept.
    pub(super) fn leave(&mut self) -> Vec<ScreenEffect> {
        let mut effects = Vec::new();
        let live = self.live.take();
        if live.is_some() {
            effects.push(ScreenEffect::Stop);
        }
        let written = live.as_ref().map_or("", |live| live.raw());
        effects.extend(self.chat.leave(written).map(ScreenEffect::Chat));
        self.log.sync(self.chat.turns(), live);
        effects.push(ScreenEffect::Quit);
        effects
    }

    /// Starts the screen, perhaps with a loaded conversation; returns what the driver has to do first.
    pub fn open(&mut self, file: Option<FileEvent>) -> Vec<ScreenEffect> {
        match file {
            Some(file) => self.tell(ChatEvent::File(file)),
            None => self.count(),
        }
    }
}
