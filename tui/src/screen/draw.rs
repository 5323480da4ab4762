//! Draws the screen: the conversation, overlays, the composer, the status line. Every size of a terminal is
//! drawn; the composer stays longest. It must not change the conversation.

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::Clear;
use unicode_width::UnicodeWidthStr;

use super::help;
use super::list::roomy;
use super::state::{Overlay, Screen};
use super::welcome;
use crate::chat::OverflowChoice;
use crate::markdown::rows::{self, cut};
use crate::markdown::theme::Role;

/// Width from which on the experts are drawn beside the conversation, in columns.
const BESIDE_FROM: u16 = 130;
/// The mark before the composer.
const PROMPT: &str = "\u{203a} ";
/// The hint in an empty composer; the shorter ones are for narrow terminals.
const PLACEHOLDERS: [&str; 3] =
    ["Type a message (/ for commands, F1 for help)", "Type a message (F1 for help)", "Type here, F1 help"];

impl Screen {
    /// Draws the whole screen.
    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        if area.is_empty() {
            return;
        }
        let indent = if area.width > 8 { PROMPT.width() as u16 } else { 0 };
        // The last column is kept for the cursor after a full row.
        self.composer.set_width(usize::from(area.width.saturating_sub(indent + 1)));
        let status = u16::from(area.height >= 4);
        let rule = u16::from(area.height >= 3);
        let rows = u16::try_from(self.composer.rows().len()).unwrap_or(u16::MAX);
        let most = (area.height / 3).max(1).min(area.height - status - rule);
        let writing = rows.min(most);
        let talk = area.height - status - rule - writing;
        let waiting = self.waiting_lines(usize::from(area.width));
        let waits = u16::try_from(waiting.len()).unwrap_or(u16::MAX).min(talk / 2);
        let talk = talk - waits;
        let at = |y: u16, height: u16| Rect { x: area.x, y: area.y + y, width: area.width, height };
        if let Some(picker) = &self.picker {
            picker.draw(area, frame.buffer_mut(), self.theme);
            return;
        }
        if let Some(list) = &self.sessions {
            list.draw(area, frame.buffer_mut(), self.theme);
            return;
        }
        let mut page = at(0, talk);
        if self.experts_open {
            page = self.draw_experts(frame, page);
        }
        self.draw_talk(frame, page);
        // The newest are nearest to the composer.
        for (y, line) in (talk..talk + waits).zip(&waiting[waiting.len() - usize::from(waits)..]) {
            frame.render_widget(line, at(y, 1));
        }
        if rule > 0 {
            self.draw_rule(frame, at(talk + waits, 1));
        }
        self.draw_composer(frame, at(talk + waits + rule, writing), indent);
        if status > 0 {
            let line = self.status(usize::from(area.width));
            frame.render_widget(line, at(area.height - 1, 1));
        }
        self.draw_palette(frame, at(0, talk));
        if let Some(Overlay::Help(top)) = self.overlay {
            self.draw_help(frame, at(0, talk), top);
        }
        if let Some(text) = self.chat.overflow_question() {
            self.draw_overflow_question(frame, at(0, talk), &text);
        }
    }

    /// Draws the experts beside the conversation, or above it on a narrow terminal; returns the rest of the
    /// area.
    fn draw_experts(&self, frame: &mut Frame<'_>, area: Rect) -> Rect {
        let line = self.theme.style(Role::Frame);
        if area.width >= BESIDE_FROM {
            let most = area.width / 2 - 2;
            let width = self.experts.width(most, area.height, self.theme) + 2;
            let x = area.x + area.width - width;
            for y in area.y..area.bottom() {
                frame.buffer_mut().set_string(x, y, "\u{2502}", line);
            }
            let view = Rect { x: x + 2, width: width - 2, ..area };
            self.experts.draw(view, frame.buffer_mut(), self.theme);
            return Rect { width: area.width - width - 1, ..area };
        }
        // Without experts, one line says so.
        let wanted = match self.experts.map().rows.is_empty() {
            true => 2,
            false => (self.experts.height(area.width, self.theme) + 1).min(area.height * 3 / 5),
        };
        let height = wanted.min(area.height.saturating_sub(1));
        if height < 2 {
            return area;
        }
        self.experts.draw(Rect { height: height - 1, ..area }, frame.buffer_mut(), self.theme);
        let rule = "\u{2500}".repeat(usize::from(area.width));
        frame.buffer_mut().set_string(area.x, area.y + height - 1, rule, line);
        Rect { y: area.y + height, height: area.height - height, ..area }
    }

    fn draw_talk(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let height = usize::from(area.height);
        let (theme, now) = (self.theme, self.now);
        let total = self.log.measure(area.width, theme, self.live.as_mut(), now);
        let end = total.saturating_sub(height);
        self.drawn = (total, height);
        self.top = self.top.filter(|top| *top < end);
        self.follow_finder(area.width, total, height);
        let top = self.top.unwrap_or(end);
        // A short conversation is drawn at the bottom, next to the composer.
        let free = u16::try_from(height.saturating_sub(total)).unwrap_or(0);
        if self.chat.turns().is_empty() && !self.chat.busy() {
            let above = Rect { height: free, ..area };
            welcome::draw(self.chat.facts(), above, frame.buffer_mut(), theme);
        }
        let area = Rect { y: area.y + free, height: area.height - free, ..area };
        self.log.draw(area, frame.buffer_mut(), top, self.live.as_ref());
        self.draw_matches(area, frame.buffer_mut(), top);
    }

    fn draw_rule(&self, frame: &mut Frame<'_>, area: Rect) {
        let width = usize::from(area.width);
        let line = self.theme.style(Role::Frame);
        let mut spans = Vec::new();
        let room = width.saturating_sub(4);
        if let Some((role, text)) = self.activity() {
            let shown = cut(&text, room);
            spans.push(Span::styled("\u{2500} ", line));
            spans.push(Span::styled(format!("{shown} "), self.theme.style(role)));
        }
        let used: usize = spans.iter().map(|span| span.content.width()).sum();
        spans.push(Span::styled("\u{2500}".repeat(width.saturating_sub(used)), line));
        frame.render_widget(Line::from(spans), area);
    }

    fn draw_composer(&self, frame: &mut Frame<'_>, area: Rect, indent: u16) {
        if area.height == 0 {
            return;
        }
        let (row, column) = self.composer.cursor();
        let height = usize::from(area.height);
        let rows = self.composer.rows();
        // The row of the cursor is visible, with as many rows before it as fit.
        let top = (row + 1).saturating_sub(height).min(rows.len().saturating_sub(height));
        let style = self.theme.style(Role::Text);
        let buffer = frame.buffer_mut();
        let room = usize::from(area.width - indent.min(area.width));
        for (y, range) in (area.y..).zip(rows.iter().skip(top).take(height)) {
            let text = rows::display(&self.composer.text()[range.clone()]);
            buffer.set_stringn(area.x + indent, y, &text, room, style);
        }
        if indent > 0 {
            let sign = if top == 0 { PROMPT } else { "\u{2026} " };
            buffer.set_stringn(area.x, area.y, sign, usize::from(indent), self.theme.style(Role::Person));
        }
        if self.composer.is_empty() && self.history.search().is_none() {
            let hint = roomy(&PLACEHOLDERS, room);
            buffer.set_stringn(area.x + indent, area.y, hint, room, self.theme.style(Role::Dim));
        }
        let x = area.x + (indent + u16::try_from(column).unwrap_or(u16::MAX - indent)).min(area.width - 1);
        let y = area.y + u16::try_from(row - top).unwrap_or(0).min(area.height - 1);
        if self.overlay.is_none() && (self.chat.overflow_question().is_none() || !self.composer.is_empty()) {
            frame.set_cursor_position(Position { x, y });
        }
    }

    /// Draws the suggestions over the end of the conversation.
    fn draw_palette(&self, frame: &mut Frame<'_>, area: Rect) {
        let height = self.palette.height().min(area.height);
        if height > 0 && self.suggests() {
            let below = Rect { y: area.bottom() - height, height, ..area };
            frame.render_widget(Clear, below);
            self.palette.draw(below, frame.buffer_mut(), self.theme);
        }
    }

    fn draw_help(&mut self, frame: &mut Frame<'_>, area: Rect, top: usize) {
        let lines = help::lines(self.theme, usize::from(area.width));
        let height = usize::from(area.height.saturating_sub(1));
        let top = top.min(lines.len().saturating_sub(height));
        self.overlay = Some(Overlay::Help(top));
        let more = top + height < lines.len();
        frame.render_widget(Clear, area);
        let hint = if more { "PgDn: more; any other key closes" } else { "any key closes" };
        let last = Line::styled(hint, self.theme.style(Role::Dim));
        let shown: Vec<_> = lines.into_iter().skip(top).take(height).collect();
        for (y, line) in (area.y..area.bottom()).zip(shown.iter().chain([&last])) {
            frame.buffer_mut().set_line(area.x, y, line, area.width);
        }
    }

    /// Draws the question about a full context over the end of the conversation.
    fn draw_overflow_question(&self, frame: &mut Frame<'_>, area: Rect, text: &str) {
        let width = usize::from(area.width.saturating_sub(4)).clamp(1, 76);
        let (warning, accent) = (self.theme.style(Role::Warning), self.theme.style(Role::Accent));
        let choices = OverflowChoice::ALL.map(|(key, _, help)| {
            Line::from(vec![Span::styled(format!("{key}  "), accent), Span::raw(help)])
        });
        // The choices are visible at any height; the explanation gets the remaining rows.
        let room = usize::from(area.height.saturating_sub(1));
        let mut lines: Vec<_> = rows::rows(text, width)
            .into_iter()
            .take(room.saturating_sub(choices.len()))
            .map(|row| Line::styled(text[row].to_owned(), warning))
            .collect();
        if lines.len() + choices.len() < room && !lines.is_empty() {
            lines.push(Line::default());
        }
        if choices.len() <= room {
            lines.extend(choices);
        } else {
            let keys = OverflowChoice::ALL
                .map(|(key, _, help)| format!("{key} {}", help.split(' ').next().unwrap_or_default()));
            lines.push(Line::styled(keys.join("  "), accent));
        }
        let height = u16::try_from(lines.len() + 1).unwrap_or(u16::MAX).min(area.height);
        let below = Rect { y: area.bottom() - height, height, ..area };
        frame.render_widget(Clear, below);
        frame.render_widget(
            Line::styled("\u{2500}".repeat(usize::from(area.width)), self.theme.style(Role::Frame)),
            below,
        );
        for (y, line) in (below.y + 1..below.bottom()).zip(&lines) {
            frame.buffer_mut().set_line(below.x + 2, y, line, below.width.saturating_sub(2));
        }
    }
}
