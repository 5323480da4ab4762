//! The transitions of the screen, except for keys. It must not know how the screen is drawn.

use std::time::Duration;

use moelten_engine::api::{Event as EngineEvent, ExpertMap};

use super::event::{CompletionRequest, ScreenEffect, ScreenEvent, Urgency};
use super::live::LiveAnswer;
use super::model_entry::SearchStep;
use super::picker::Picker;
use super::state::{Draft, MESSAGE_TIME, MessageText, Overlay, Screen, StatusMessage};
use crate::chat::{ChatEffect, ChatEvent, FileEvent, Tone, figures};
use crate::experts::ExpertView;
use crate::input::command::{self, Command};
use crate::input::completion::{Completion, common_prefix, completion};
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
            ScreenEvent::Paste(text) => self.paste(&text),
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
            ScreenEvent::Experts(map) => self.experts_changed(*map),
            ScreenEvent::Search(step) => {
                if let Some(picker) = &mut self.picker {
                    match step {
                        SearchStep::Model(entry) => picker.add(entry),
                        SearchStep::Problem(problem) => picker.problem(&problem),
                        SearchStep::Done => picker.complete(),
                    }
                }
            }
            ScreenEvent::Edited(Ok(text)) => {
                self.composer.set(filter::clean(&text).trim_end_matches('\n'));
            }
            ScreenEvent::Edited(Err(problem)) => self.show_message(Tone::Error, problem),
            ScreenEvent::Files { request, found } => {
                // The names are for the text of the request; the user may have typed since.
                if self.composer.before_cursor() == request.text {
                    self.completed(request.from, found);
                }
            }
            ScreenEvent::Interrupt => return self.interrupt(),
            ScreenEvent::End => return self.leave(),
        }
        Vec::new()
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
        let owned = |map: &ExpertMap| map.memory.owned_bytes.map(figures::bytes);
        if owned(before) != owned(&map) || (self.experts_open && *before != map) {
            self.changed = self.changed.max(Some(Urgency::Soon));
        }
        self.experts.update(map, self.now);
    }

    /// Hands an event to the conversation and shows what comes of it.
    pub(super) fn tell(&mut self, event: ChatEvent) -> Vec<ScreenEffect> {
        if let ChatEvent::Switched(switched) = &event {
            match switched {
                Ok(switched) => self.experts = ExpertView::new(switched.facts.limits),
                Err(not) if not.closed() => self.experts = ExpertView::new(self.chat.facts().limits),
                Err(_) => {}
            }
        }
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
        if self.picker.is_some() {
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
        if command.is_none() && self.chat.busy() {
            self.show_message(Tone::Warning, self.chat.busy_text());
            return Vec::new();
        }
        self.composer.take();
        // The message was about the text that is sent now.
        self.message = None;
        let mut effects = vec![ScreenEffect::Remember(text.clone())];
        self.history.add(&text);
        self.top = None;
        match command {
            Some(Ok(Command::Model(None))) => effects.extend(self.open_picker()),
            Some(Ok(Command::Experts)) => self.experts_open = !self.experts_open,
            Some(Ok(Command::Help)) => self.overlay = Some(Overlay::Help(0)),
            _ => effects.extend(self.entered(&text)),
        }
        effects
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
        vec![ScreenEffect::StartSearch]
    }

    /// Ctrl-C. The first of these that applies: take back a waiting question, stop the activity, empty the
    /// composer, ask whether to quit.
    pub(super) fn interrupt(&mut self) -> Vec<ScreenEffect> {
        if let Some(question) = self.chat.take_waiting_question() {
            if self.composer.is_empty() {
                self.composer.set(&question);
            }
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

    /// Tab: completes the text before the cursor.
    pub(super) fn complete(&mut self) -> Vec<ScreenEffect> {
        match completion(self.composer.before_cursor()) {
            Completion::None => {}
            Completion::Words { start, words } => {
                let typed = self.composer.before_cursor()[start..].to_owned();
                let found: Vec<_> = words.into_iter().filter(|word| word.starts_with(&typed)).collect();
                self.completed(start, found);
            }
            Completion::Path { start: from } => {
                let text = self.composer.before_cursor().to_owned();
                return vec![ScreenEffect::Complete(CompletionRequest { text, from })];
            }
        }
        Vec::new()
    }

    /// Replaces the text from byte `from` to the cursor by the common prefix of `found`; without progress,
    /// lists `found`.
    fn completed(&mut self, from: usize, found: Vec<String>) {
        let common = common_prefix(&found);
        let typed = self.composer.before_cursor().len() - from;
        match &found[..] {
            [] => self.show_message(Tone::Dim, "No match."),
            [one] => {
                let end = if one.ends_with('/') { "" } else { " " };
                self.composer.replace_from(from, &format!("{one}{end}"));
            }
            _ if common.len() > typed => self.composer.replace_from(from, common),
            _ => {
                let (text, until) = (MessageText::Names(found), self.now + MESSAGE_TIME);
                self.message = Some(StatusMessage { tone: Tone::Dim, text, until });
            }
        }
    }

    /// Starts the screen, perhaps with a loaded conversation; returns what the driver has to do first.
    pub fn open(&mut self, file: Option<FileEvent>) -> Vec<ScreenEffect> {
        match file {
            Some(file) => self.tell(ChatEvent::File(file)),
            None => self.count(),
        }
    }
}
