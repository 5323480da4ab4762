//! The facts below the conversation: what is going on, and model, context, memory, hits, speed. It must not decide
//! anything.

use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::draw::cut;
use super::live::Phase;
use super::log::tone_role;
use super::{Screen, Words};
use crate::chat::{Attachment, CONTEXT_WARNING_PERCENT};
use crate::figures;
use crate::filter;
use crate::progress::{reading, short, span_words};
use crate::theme::Role;

/// Share of the time from which on computing is said to wait for the disk.
const STALLED: f64 = 0.5;
/// Cells of the context's bar.
const BAR: usize = 6;
/// Columns of a model's name.
const NAME_MAX: usize = 24;

/// A fact: what it says in pieces, and how soon it goes when room is short, the highest first.
struct Fact {
    goes: u8,
    pieces: Vec<(String, Role)>,
}

impl Screen {
    /// What is going on, if anything is, for so many columns.
    pub(super) fn activity(&self, room: usize) -> Option<(Role, String)> {
        if let Some(search) = self.recall.search() {
            return Some((
                Role::Accent,
                format!("history: {}\u{2581}  Ctrl-R older, Enter takes it, Esc leaves", search.wanted),
            ));
        }
        if let Some(remark) = &self.remark {
            let text = match &remark.words {
                Words::Line(text) => text.clone(),
                Words::List(names) => listed(names, room),
            };
            return Some((tone_role(remark.tone), text));
        }
        if let Some(doing) = self.chat.busy_aside().filter(|_| self.live.is_none()) {
            if self.stopping {
                let before = filter::clean_line(&self.chat.facts().model);
                let text = format!("{} giving it up, then {before} is opened again", self.spinner());
                return Some((Role::Accent, text));
            }
            return Some((Role::Accent, format!("{} {doing}", self.spinner())));
        }
        if let Some(live) = &self.live {
            let now = self.now;
            let words = match live.phase {
                _ if self.stopping => "stopping".to_owned(),
                Phase::Asked => self.chat.busy_aside().unwrap_or("preparing").to_owned(),
                Phase::Prompt(done, total) => reading(done, total, live.reading_per_s(now)),
                Phase::Writing => match (self.chat.busy_aside(), live.written.parts().thinking) {
                    (Some(doing), _) => doing.to_owned(),
                    (None, true) => "thinking".to_owned(),
                    (None, false) => "writing".to_owned(),
                },
            };
            let waits = self.experts.rates().stalled.is_some_and(|share| share > STALLED);
            let disk = if waits { ", waiting for disk" } else { "" };
            let since = span_words(now.saturating_sub(live.since));
            return Some((Role::Accent, format!("{} {words}{disk}, {since}", self.spinner())));
        }
        if self.chat.editing() {
            let files = self.chat.beside().count();
            let beside = match files {
                0 => String::new(),
                1 => " and the file beside it".to_owned(),
                _ => format!(" and the {files} files beside it"),
            };
            return Some((Role::Accent, format!("the last question anew{beside}")));
        }
        let file =
            |file: &Attachment| format!("{} ({} tokens)", filter::clean_line(&file.name), short(file.tokens));
        let names: Vec<_> = self.chat.beside().map(file).collect();
        if !names.is_empty() {
            return Some((Role::Accent, format!("with {}", names.join(", "))));
        }
        if self.top.is_some() {
            return Some((Role::Dim, "End goes to the end".to_owned()));
        }
        None
    }

    fn spinner(&self) -> char {
        const STEPS: [char; 4] = ['\u{25dc}', '\u{25dd}', '\u{25de}', '\u{25df}'];
        STEPS[(self.now.as_millis() / 250 % 4) as usize]
    }

    /// The line of facts, `width` columns.
    pub(super) fn status(&self, width: usize) -> Line<'static> {
        let mut facts = self.facts();
        facts.push(Fact { goes: 6, pieces: vec![("F1 help  F2 experts  F3 models".to_owned(), Role::Dim)] });
        let length = |facts: &[Fact]| {
            let text = |fact: &Fact| fact.pieces.iter().map(|(text, _)| text.width()).sum::<usize>();
            facts.iter().map(text).sum::<usize>() + 3 * facts.len() - 1
        };
        while facts.len() > 1 && length(&facts) > width {
            let first = facts.iter().map(|fact| fact.goes).max();
            facts.retain(|fact| Some(fact.goes) != first);
        }
        let ground = self.theme.style(Role::Status);
        let mut spans = vec![Span::styled(" ", ground)];
        for (index, fact) in facts.into_iter().enumerate() {
            if index > 0 {
                spans.push(Span::styled(" \u{b7} ", ground.patch(self.fg(Role::Dim))));
            }
            let pieces = fact.pieces.into_iter();
            spans.extend(pieces.map(|(text, role)| Span::styled(text, ground.patch(self.fg(role)))));
        }
        let used: usize = spans.iter().map(|span| span.content.width()).sum();
        spans.push(Span::styled(" ".repeat(width.saturating_sub(used)), ground));
        Line::from(spans)
    }

    /// The colour of a role, without its ground.
    fn fg(&self, role: Role) -> ratatui::style::Style {
        let mut style = self.theme.style(role);
        style.bg = None;
        style
    }

    fn facts(&self) -> Vec<Fact> {
        let fact = |goes, text: String| Fact { goes, pieces: vec![(text, Role::Text)] };
        let facts = self.chat.facts();
        let name = filter::clean_line(&facts.model);
        let mut list = vec![fact(3, cut(name.strip_suffix(".gguf").unwrap_or(&name), NAME_MAX))];
        if !facts.format.is_empty() {
            list.push(fact(5, facts.format.clone()));
        }
        list.extend(self.context());
        let memory = self.experts.map().memory;
        if let Some(owned) = memory.owned_bytes {
            list.push(fact(4, format!("RAM {}", figures::bytes_of(owned, memory.budget_bytes))));
        }
        let hits = self.experts.rates().hit_rate.or_else(|| self.hits_of_the_last());
        // Where all experts are in memory every use is a hit.
        if let Some(rate) = hits.filter(|_| memory.slot_bytes > 0) {
            list.push(fact(2, format!("hits {:.0} %", (100.0 * rate).floor())));
        }
        list.extend(self.speed());
        list
    }

    fn context(&self) -> Option<Fact> {
        let size = self.chat.facts().context;
        if size == 0 {
            return None;
        }
        let used = match self.live.as_ref().map(|live| (live.phase, live)) {
            Some((Phase::Prompt(done, _), _)) => Some(done),
            Some((Phase::Writing, live)) => Some(live.prompt + live.pieces),
            Some((Phase::Asked, _)) | None => self.chat.context_used(),
        };
        let Some(used) = used else {
            return Some(Fact { goes: 1, pieces: vec![("ctx ?".to_owned(), Role::Text)] });
        };
        let percent = (used * 100 / size).min(100);
        let role = match percent {
            100 => Role::Error,
            CONTEXT_WARNING_PERCENT.. => Role::Warning,
            _ => Role::Bar,
        };
        let full = (percent * BAR).div_ceil(100).min(BAR);
        Some(Fact {
            goes: 1,
            pieces: vec![
                ("ctx ".to_owned(), Role::Text),
                ("\u{2501}".repeat(full), role),
                ("\u{2500}".repeat(BAR - full), Role::Dim),
                (format!(" {percent}%"), if role == Role::Bar { Role::Text } else { role }),
            ],
        })
    }

    fn hits_of_the_last(&self) -> Option<f64> {
        self.chat.last()?.cache.as_ref()?.answer.hit_rate()
    }

    fn speed(&self) -> Option<Fact> {
        let rate = match &self.live {
            Some(live) if live.phase == Phase::Writing => {
                self.experts.rates().tokens_per_s.or_else(|| live.writing_per_s(self.now))?
            }
            Some(_) => return None,
            None => self.chat.last()?.generated_tokens_per_s(),
        };
        (rate > 0.0).then(|| Fact { goes: 0, pieces: vec![(format!("{rate:.1} tok/s"), Role::Text)] })
    }
}

/// As many names as there is room for, and how many more there are.
fn listed(names: &[String], room: usize) -> String {
    let all = names.join("  ");
    if all.width() <= room {
        return all;
    }
    let rest = |shown: usize| format!("+{} more", names.len() - shown);
    let fits = |&shown: &usize| {
        names[..shown].iter().map(|name| name.width() + 2).sum::<usize>() + rest(shown).width() <= room
    };
    let shown = (0..names.len()).rev().find(fits).unwrap_or(0);
    names[..shown].iter().cloned().chain([rest(shown)]).collect::<Vec<_>>().join("  ")
}
