//! What stands in place of an empty conversation: a card with the model and what to expect of it, and hints
//! for the first keys. It must not know how the numbers were found.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::progress::short;
use crate::chat::{Facts, figures};
use crate::markdown::filter::clean_line;
use crate::markdown::rows::cut;
use crate::markdown::theme::{Role, Theme};

/// Widest card, in columns.
const WIDTH_MAX: usize = 76;
/// The hints below the card.
const HINTS: [&str; 3] = [
    "Type a message and press Enter. @FILE in it attaches a text.",
    "/ lists all commands, F1 shows the keys, F2 the experts at work.",
    "F3 opens another model, F4 an earlier conversation.",
];

/// Draws as much as there is room for: the lines of the card first, then the hints, then the frame.
pub fn draw(facts: &Facts, area: Rect, buffer: &mut Buffer, theme: Theme) {
    let width = usize::from(area.width.saturating_sub(4)).min(WIDTH_MAX);
    let card = card(facts, theme, width.saturating_sub(4));
    let room = usize::from(area.height);
    if width < 16 || room < card.len() + 1 {
        return;
    }
    let framed = room > card.len() + HINTS.len() + 4;
    let hints = if room > card.len() + HINTS.len() + 1 { HINTS.len() } else { 0 };
    let mut lines = Vec::new();
    if framed {
        lines.push(rule('\u{256d}', '\u{256e}', width, theme));
    }
    for line in card {
        lines.push(if framed { within(line, width, theme) } else { line });
    }
    if framed {
        lines.push(rule('\u{2570}', '\u{256f}', width, theme));
    }
    if hints > 0 {
        lines.push(Line::default());
    }
    let hint = |text: &&str| Line::styled(format!("  {}", cut(text, width)), theme.style(Role::Dim));
    lines.extend(HINTS.iter().take(hints).map(hint));
    let x = area.x + (area.width - width as u16) / 2;
    let y = area.y + (area.height - lines.len() as u16) / 2;
    for (y, line) in (y..area.bottom()).zip(&lines) {
        buffer.set_line(x, y, line, area.right().saturating_sub(x));
    }
}

/// Name, kind and size, where its weights are, and what to expect; each at most `width` columns.
fn card(facts: &Facts, theme: Theme, width: usize) -> Vec<Line<'static>> {
    let text = theme.style(Role::Text);
    let name = cut(&clean_line(&facts.model), width);
    let mut lines = vec![Line::styled(name, theme.style(Role::Heading))];
    let about = &facts.card;
    let size = (about.bytes > 0).then(|| figures::bytes(about.bytes));
    let kind = clean_line(&about.kind);
    let kind = Some(kind).filter(|kind| !kind.is_empty());
    let parts: Vec<_> = kind.into_iter().chain(size).collect();
    if !parts.is_empty() {
        lines.push(Line::styled(cut(&parts.join(" \u{b7} "), width), text));
    }
    if about.budget_bytes > 0 {
        let budget = figures::bytes(about.budget_bytes);
        let (word, role, rest) = match about.cached {
            None => ("RAM", Role::Good, format!("  the whole model is in memory (budget {budget})")),
            Some(share) => {
                let percent = (100.0 * share).floor();
                let rest = format!("  {percent} % of the experts in RAM (budget {budget}), the rest on disk");
                ("STREAM", Role::Warning, rest)
            }
        };
        let rest = cut(&rest, width.saturating_sub(word.width()));
        lines.push(Line::from(vec![Span::styled(word, theme.style(role)), Span::styled(rest, text)]));
    }
    let speed = about.speed.as_ref().map(|speed| format!("about {speed}"));
    let context = (facts.context > 0).then(|| format!("context {} tokens", short(facts.context)));
    let parts: Vec<_> = speed.into_iter().chain(context).collect();
    if !parts.is_empty() {
        lines.push(Line::styled(cut(&parts.join(" \u{b7} "), width), text));
    }
    lines
}

fn rule(left: char, right: char, width: usize, theme: Theme) -> Line<'static> {
    let line = "\u{2500}".repeat(width.saturating_sub(2));
    Line::styled(format!("{left}{line}{right}"), theme.style(Role::Frame))
}

/// A line between the sides of the frame.
fn within(line: Line<'static>, width: usize, theme: Theme) -> Line<'static> {
    let side = theme.style(Role::Frame);
    let rest = width.saturating_sub(4 + line.width());
    let mut spans = vec![Span::styled("\u{2502} ", side)];
    spans.extend(line.spans.into_iter().map(|span| Span { style: line.style.patch(span.style), ..span }));
    spans.push(Span::styled(format!("{} \u{2502}", " ".repeat(rest)), side));
    Line::from(spans)
}
