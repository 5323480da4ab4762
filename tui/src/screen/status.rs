//! The two lines of text below the conversation: the current activity, and the status line with model,
//! context, memory, hits and speed. It must not decide anything.

use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::live::{LiveAnswer, Phase};
use super::log::tone_role;
use super::progress::{duration, reading, short};
use super::state::Screen;
use crate::chat::{Attachment, CONTEXT_WARNING_PERCENT, figures};
use crate::markdown::filter;
use crate::markdown::rows::cut;
use crate::markdown::theme::Role;

/// Stalled share of the time from which on the activity says so.
const STALLED: f64 = 0.5;
/// Columns of the context bar.
const BAR: usize = 6;
/// Longest name of a model, in columns.
const NAME_MAX: usize = 24;

/// An item of the status line: styled text, and its rank. Items with the highest rank are left out first.
struct StatusItem {
    rank: u8,
    pieces: Vec<(String, Role)>,
}

impl Screen {
    /// The current activity or message; `None` if there is nothing to say.
    pub(super) fn activity(&self) -> Option<(Role, String)> {
        if let Some(search) = self.history.search() {
            let text =
                format!("history: {}\u{2581}  Ctrl-R older, Enter accepts, Esc cancels", search.wanted);
            return Some((Role::Accent, text));
        }
        if let Some(finder) = &self.finder {
            return Some((Role::Accent, finder.text()));
        }
        if let Some(live) = &self.live {
            return Some((Role::Accent, self.answer_activity(live)));
        }
        if let Some(doing) = self.chat.activity() {
            let doing = if self.stopping {
                let previous = filter::clean_line(&self.chat.facts().model);
                format!("cancelling, then loading {previous} again")
            } else {
                self.loading.as_deref().unwrap_or(doing).to_owned()
            };
            return Some((Role::Accent, format!("{} {doing}", self.spinner())));
        }
        if let Some(message) = &self.message {
            return Some((tone_role(message.tone), message.text.clone()));
        }
        if self.chat.editing() {
            let files = match self.chat.next_attachments().count() {
                0 => String::new(),
                1 => " and its file".to_owned(),
                files => format!(" and its {files} files"),
            };
            return Some((Role::Accent, format!("editing the last message{files}")));
        }
        let file =
            |file: &Attachment| format!("{} ({} tokens)", filter::clean_line(&file.name), short(file.tokens));
        let names: Vec<_> = self.chat.next_attachments().map(file).collect();
        if !names.is_empty() {
            return Some((Role::Accent, format!("attached: {}", names.join(", "))));
        }
        if self.suggests() {
            return Some((Role::Dim, self.palette.hint()));
        }
        self.position().map(|text| (Role::Dim, text))
    }

    /// What the answer in progress is doing, and for how long.
    fn answer_activity(&self, live: &LiveAnswer) -> String {
        let doing = match live.phase {
            _ if self.stopping => "stopping".to_owned(),
            Phase::Requested => self.chat.activity().unwrap_or("preparing").to_owned(),
            Phase::Prompt(done, total) => reading(done, total, live.reading_per_s(self.now)),
            Phase::Writing => match (self.chat.activity(), live.text.parts().unfinished) {
                (Some(doing), _) => doing.to_owned(),
                (None, true) => "reasoning".to_owned(),
                (None, false) => "writing".to_owned(),
            },
        };
        let stalled = self.experts.rates().stalled.is_some_and(|share| share > STALLED);
        let disk = if stalled { ", waiting for disk" } else { "" };
        let since = duration(self.now.saturating_sub(live.since));
        format!("{} {doing}{disk}, {since}", self.spinner())
    }

    fn spinner(&self) -> char {
        const STEPS: [char; 4] = ['\u{25dc}', '\u{25dd}', '\u{25de}', '\u{25df}'];
        STEPS[(self.now.as_millis() / 250 % 4) as usize]
    }

    /// The status line, exactly `width` columns.
    pub(super) fn status(&self, width: usize) -> Line<'static> {
        let mut items = self.status_items();
        items.push(StatusItem::new(6, "F1 help  F2 experts  F3 models", Role::Dim));
        let length = |items: &[StatusItem]| {
            let text = |item: &StatusItem| item.pieces.iter().map(|(text, _)| text.width()).sum::<usize>();
            items.iter().map(text).sum::<usize>() + 3 * items.len() - 1
        };
        while items.len() > 1 && length(&items) > width {
            let highest = items.iter().map(|item| item.rank).max();
            items.retain(|item| Some(item.rank) != highest);
        }
        let base = self.theme.style(Role::Status);
        let mut spans = vec![Span::styled(" ", base)];
        for (index, item) in items.into_iter().enumerate() {
            if index > 0 {
                spans.push(Span::styled(" \u{b7} ", base.patch(self.fg(Role::Dim))));
            }
            let pieces = item.pieces.into_iter();
            spans.extend(pieces.map(|(text, role)| Span::styled(text, base.patch(self.fg(role)))));
        }
        let used: usize = spans.iter().map(|span| span.content.width()).sum();
        spans.push(Span::styled(" ".repeat(width.saturating_sub(used)), base));
        Line::from(spans)
    }

    /// The style of a role without its background.
    fn fg(&self, role: Role) -> ratatui::style::Style {
        let mut style = self.theme.style(role);
        style.bg = None;
        style
    }

    fn status_items(&self) -> Vec<StatusItem> {
        let item = |rank, text: String| StatusItem::new(rank, text, Role::Text);
        let facts = self.chat.facts();
        let name = filter::clean_line(&facts.model);
        let mut list = vec![item(3, cut(name.strip_suffix(".gguf").unwrap_or(&name), NAME_MAX))];
        if !facts.format.is_empty() {
            list.push(item(5, facts.format.clone()));
        }
        list.extend(self.context());
        let memory = self.experts.map().memory;
        if let Some(text) = figures::memory_short(&memory) {
            list.push(item(4, format!("RAM {text}")));
        }
        let hits = self.experts.rates().hit_rate.or_else(|| self.last_hit_rate());
        // If all experts are resident, every use is a hit and the rate says nothing.
        if let Some(rate) = hits.filter(|_| memory.slot_bytes > 0) {
            list.push(item(2, format!("hits {:.0} %", (100.0 * rate).floor())));
        }
        if let Some((gpu, share)) = self.experts.map().gpu.and_then(|gpu| Some((gpu, gpu.share()?))) {
            let text = match gpu.lost {
                true => "GPU lost".to_owned(),
                false => format!("GPU {:.0} % {}", (100.0 * share).floor(), gpu.exactness()),
            };
            list.push(item(4, text));
        }
        list.extend(self.speed());
        list
    }

    fn context(&self) -> Option<StatusItem> {
        let size = self.chat.facts().context;
        if size == 0 {
            return None;
        }
        let used = match self.live.as_ref().map(|live| (live.phase, live)) {
            Some((Phase::Prompt(done, _), _)) => Some(done),
            Some((Phase::Writing, live)) => Some(live.prompt + live.pieces),
            Some((Phase::Requested, _)) | None => self.chat.context_used(),
        };
        let Some(used) = used else { return Some(StatusItem::new(1, "ctx ?", Role::Text)) };
        let percent = (used * 100 / size).min(100);
        let role = match percent {
            100 => Role::Error,
            CONTEXT_WARNING_PERCENT.. => Role::Warning,
            _ => Role::Bar,
        };
        let full = (percent * BAR).div_ceil(100).min(BAR);
        let pieces = vec![
            ("ctx ".to_owned(), Role::Text),
            ("\u{2501}".repeat(full), role),
            ("\u{2500}".repeat(BAR - full), Role::Dim),
            (format!(" {percent}%"), if role == Role::Bar { Role::Text } else { role }),
        ];
        Some(StatusItem { rank: 1, pieces })
    }

    fn last_hit_rate(&self) -> Option<f64> {
        self.chat.last()?.cache.as_ref()?.answer.hit_rate()
    }

    fn speed(&self) -> Option<StatusItem> {
        let rate = match &self.live {
            Some(live) if live.phase == Phase::Writing => {
                self.experts.rates().tokens_per_s.or_else(|| live.writing_per_s(self.now))?
            }
            Some(_) => return None,
            None => self.chat.last()?.generated_tokens_per_s(),
        };
        (rate > 0.0).then(|| StatusItem::new(0, format!("{rate:.1} tok/s"), Role::Text))
    }
}

impl StatusItem {
    fn new(rank: u8, text: impl Into<String>, role: Role) -> Self {
        Self { rank, pieces: vec![(text.into(), role)] }
    }
}
