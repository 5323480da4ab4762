//! Speeds and shares as bars with their numbers. It must not know how they were measured.

use moelten_engine::api::ExpertMap;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::rates::Rates;
use crate::figures;
use crate::theme::{Role, Theme};

/// Columns of a name, of the words after a bar, and of a bar at least.
const NAME: u16 = 9;
const WORDS: u16 = 22;
const BAR_MIN: u16 = 7;
/// Columns of a bar at most: beyond it nothing more is seen.
const BAR_MAX: u16 = 24;
/// Between two gauges beside each other.
const BETWEEN: u16 = 2;
/// Parts of a character that a bar can fill.
const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A number and how much of what is possible it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    name: &'static str,
    /// 0 to 1, where it is known.
    share: Option<f64>,
    words: String,
    role: Role,
}

/// All there is to show, the most telling first.
pub fn list(rates: &Rates, map: &ExpertMap) -> Vec<Gauge> {
    let gauge = |name, share, words, role| Gauge { name, share, words, role };
    let part = |part: Option<f64>, whole: Option<f64>| part.zip(whole).map(|(part, whole)| part / whole);
    let streams = map.memory.slot_bytes > 0;
    let mut list = Vec::new();
    if let Some(speed) = rates.tokens_per_s {
        let words = match rates.bound_tokens_per_s {
            Some(bound) => format!("{} of {} tok/s", short(speed), short(bound)),
            None => format!("{} tok/s", short(speed)),
        };
        list.push(gauge("speed", part(Some(speed), rates.bound_tokens_per_s), words, Role::Accent));
    }
    let speed = |name, speed: Option<f64>, limit: Option<f64>| {
        speed.map(|speed| {
            let words = match limit {
                Some(limit) => format!("{speed:.2} of {limit:.1} GB/s"),
                None => format!("{speed:.2} GB/s"),
            };
            gauge(name, limit.map(|limit| speed / limit), words, Role::Bar)
        })
    };
    list.extend(speed("RAM", rates.ram_gb_per_s, rates.limits.ram_gb_per_s));
    if streams {
        list.extend(speed("disk", rates.disk_gb_per_s, rates.limits.disk_gb_per_s));
        let share = |name, share: Option<f64>, role| {
            share.map(|share| gauge(name, Some(share), figures::percent(share), role))
        };
        list.extend(share("hits", rates.hit_rate, Role::Bar));
        list.extend(share("foreseen", rates.recall, Role::GuessedRight));
        list.extend(share("waiting", rates.stalled, Role::Warning));
    }
    if let Some(owned) = map.memory.owned_bytes {
        let budget = map.memory.budget_bytes;
        let words = format!("{} of {}", figures::bytes(owned), figures::bytes(budget));
        list.push(gauge("memory", Some(owned as f64 / budget.max(1) as f64), words, Role::Good));
    }
    list
}

/// Gauges beside each other.
fn columns(count: usize, width: u16) -> u16 {
    let fit = (width + BETWEEN) / (NAME + BAR_MIN + 1 + WORDS + BETWEEN);
    fit.clamp(1, count.max(1) as u16)
}

/// Rows that so many gauges take.
pub fn rows(count: usize, width: u16) -> u16 {
    count.div_ceil(usize::from(columns(count, width))) as u16
}

/// Draws as many gauges as there is room for, the most telling, one column after the other.
pub fn draw(gauges: &[Gauge], area: Rect, buf: &mut Buffer, theme: Theme) {
    if area.is_empty() {
        return;
    }
    let columns = columns(gauges.len(), area.width);
    let gauges = &gauges[..gauges.len().min(usize::from(columns * area.height))];
    let rows = gauges.len().div_ceil(usize::from(columns)).max(1) as u16;
    let each = (area.width + BETWEEN) / columns - BETWEEN.min(area.width / columns);
    for (i, gauge) in gauges.iter().enumerate() {
        let (column, row) = (i as u16 / rows, i as u16 % rows);
        if row < area.height {
            let place =
                Rect { x: area.x + column * (each + BETWEEN), y: area.y + row, width: each, height: 1 };
            one(gauge, place.intersection(area), buf, theme);
        }
    }
}

fn one(gauge: &Gauge, area: Rect, buf: &mut Buffer, theme: Theme) {
    let dim = theme.style(Role::Dim);
    buf.set_stringn(area.x, area.y, gauge.name, usize::from(area.width), dim);
    let rest = area.width.saturating_sub(NAME);
    let words = gauge.words.width() as u16;
    let bar_width = rest.saturating_sub(WORDS.max(words) + 1).min(BAR_MAX);
    let mut x = area.x + NAME.min(area.width);
    if bar_width >= BAR_MIN.min(4) {
        bar(gauge.share, gauge.role, Rect { x, y: area.y, width: bar_width, height: 1 }, buf, theme);
        x += bar_width + 1;
    }
    buf.set_stringn(
        x,
        area.y,
        &gauge.words,
        usize::from(area.right().saturating_sub(x)),
        theme.style(Role::Text),
    );
}

/// A bar that is filled to a share; none where it is not known.
pub fn bar(share: Option<f64>, role: Role, area: Rect, buf: &mut Buffer, theme: Theme) {
    let Some(share) = share.filter(|share| share.is_finite()).map(|share| share.clamp(0.0, 1.0)) else {
        return;
    };
    let parts = (share * f64::from(area.width) * PARTS.len() as f64).round() as usize;
    let (full, part) = (parts / PARTS.len(), parts % PARTS.len());
    for i in 0..usize::from(area.width) {
        let Some(cell) = buf.cell_mut((area.x + i as u16, area.y)) else { return };
        if theme.coloured() {
            let glyph = if i < full {
                "█"
            } else if i == full && part > 0 {
                PARTS[part]
            } else {
                " "
            };
            cell.set_symbol(glyph).set_fg(theme.colour(role)).set_bg(theme.colour(Role::BarRest));
        } else {
            // Only what is full looks full.
            cell.set_symbol(if i < full { "█" } else { "░" });
        }
    }
}

/// A speed without more digits than it deserves.
fn short(speed: f64) -> String {
    if speed < 9.95 { format!("{speed:.1}") } else { format!("{speed:.0}") }
}
