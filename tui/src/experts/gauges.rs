//! Rates as bars with their numbers. It must not know how rates are computed.

use moelten_engine::api::ExpertMap;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use unicode_width::UnicodeWidthStr;

use super::history::{History, sparkline};
use super::rates::Rates;
use crate::chat::figures;
use crate::markdown::theme::{Role, Theme};

/// Columns of a name, of the text after a bar, and of the shortest bar.
const NAME: u16 = 13;
const VALUE: u16 = 18;
const BAR_MIN: u16 = 7;
/// Columns of the longest bar: a longer one shows nothing more.
const BAR_MAX: u16 = 24;
/// Columns between two gauges in a row.
const BETWEEN: u16 = 2;
/// Columns of a gauge with a short bar.
pub const WIDTH_MIN: u16 = NAME + BAR_MIN + 1 + VALUE;
/// Characters that are filled by eighths.
const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// What stands for a rate that is not known yet.
const UNKNOWN: &str = "-";

/// A number, with its share of what is possible, or its course over time.
#[derive(Debug, Clone, PartialEq)]
pub struct Gauge {
    name: &'static str,
    /// 0 to 1; `None` where the limit is unknown.
    share: Option<f64>,
    /// The values of the last half minute; drawn in place of the share.
    course: Option<Vec<f64>>,
    value: String,
    role: Role,
}

/// All gauges, the most informative first. Which there are depends only on whether the model streams, and
/// whether it prefetches, so that they keep their places while rates come and go.
pub fn list(
    rates: &Rates,
    history: &History,
    map: &ExpertMap,
    streams: bool,
    prefetches: bool,
) -> Vec<Gauge> {
    let part = |part: Option<f64>, whole: Option<f64>| part.zip(whole).map(|(part, whole)| part / whole);
    let speed = |now: Option<f64>, limit: Option<f64>| match (now, limit) {
        (Some(now), Some(limit)) => format!("{now:.2} of {limit:.1} GB/s"),
        (Some(now), None) => format!("{now:.2} GB/s"),
        (None, _) => UNKNOWN.to_owned(),
    };
    let percent = |share: Option<f64>| share.map_or_else(|| UNKNOWN.to_owned(), figures::percent);
    let gauge = |name, share, value, role| Gauge { name, share, course: None, value, role };
    let tokens = match (rates.tokens_per_s, rates.bound_tokens_per_s) {
        (Some(now), Some(bound)) => format!("{} of {}", short(now), short(bound)),
        (Some(now), None) => short(now),
        (None, _) => UNKNOWN.to_owned(),
    };
    let share = part(rates.tokens_per_s, rates.bound_tokens_per_s);
    let mut list = vec![Gauge {
        course: Some(history.tokens_per_s()),
        ..gauge("tokens/s", share, tokens, Role::Accent)
    }];
    if streams {
        let limit = rates.limits.disk_gb_per_s;
        let disk =
            gauge("disk", part(rates.disk_gb_per_s, limit), speed(rates.disk_gb_per_s, limit), Role::Bar);
        list.push(Gauge { course: Some(history.disk_gb_per_s()), ..disk });
        let name = if map.gpu.is_some() { "in RAM, VRAM" } else { "found in RAM" };
        list.push(gauge(name, rates.hit_rate, percent(rates.hit_rate), Role::Good));
        let stalls = rates
            .stalled
            .map_or_else(|| UNKNOWN.to_owned(), |share| format!("{} of the time", figures::percent(share)));
        list.push(gauge("disk stalls", rates.stalled, stalls, Role::Warning));
    }
    let limit = rates.limits.ram_gb_per_s;
    list.push(gauge(
        "RAM reads",
        part(rates.ram_gb_per_s, limit),
        speed(rates.ram_gb_per_s, limit),
        Role::Bar,
    ));
    if prefetches {
        list.push(gauge("predicted", rates.recall, percent(rates.recall), Role::Good));
    }
    if let Some(gpu) = &map.gpu {
        let name = if gpu.exact { "GPU, exact" } else { "GPU, close" };
        let words = match gpu.lost {
            true => "not used any more".to_owned(),
            false => percent(gpu.share()),
        };
        list.push(gauge(name, gpu.share().filter(|_| !gpu.lost), words, Role::Good));
    }
    if let Some(owned) = map.memory.owned_bytes {
        let budget = map.memory.budget_bytes;
        let words = format!("{} of {}", figures::bytes(owned), figures::bytes(budget));
        list.push(gauge("memory", Some(owned as f64 / budget.max(1) as f64), words, Role::Bar));
    }
    list
}

/// How many gauges fit into a row.
fn columns(count: usize, width: u16) -> u16 {
    let fit = (width + BETWEEN) / (NAME + BAR_MIN + 1 + VALUE + BETWEEN);
    fit.clamp(1, count.max(1) as u16)
}

/// Rows that `count` gauges take in `width` columns.
pub fn rows(count: usize, width: u16) -> u16 {
    count.div_ceil(usize::from(columns(count, width))) as u16
}

/// Draws as many gauges as fit, the first ones of the list, column by column.
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
    let value = gauge.value.width() as u16;
    let bar_width = rest.saturating_sub(VALUE.max(value) + 1).min(BAR_MAX);
    let mut x = area.x + NAME.min(area.width);
    if let Some(course) = gauge.course.as_ref().filter(|_| bar_width >= BAR_MIN.min(4)) {
        let bars = sparkline(course, usize::from(bar_width));
        buf.set_stringn(x, area.y, bars, usize::from(bar_width), theme.style(gauge.role));
        x += bar_width + 1;
    } else if bar_width >= BAR_MIN.min(4) {
        bar(gauge.share, gauge.role, Rect { x, y: area.y, width: bar_width, height: 1 }, buf, theme);
        x += bar_width + 1;
    }
    buf.set_stringn(
        x,
        area.y,
        &gauge.value,
        usize::from(area.right().saturating_sub(x)),
        theme.style(Role::Text),
    );
}

/// Draws a bar that is filled to `share`, 0 to 1; nothing if the share is unknown.
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
            // Without partial characters, only a full one counts.
            cell.set_symbol(if i < full { "█" } else { "░" });
        }
    }
}

/// A speed with two significant digits, or as a whole number.
fn short(speed: f64) -> String {
    if speed < 9.95 { format!("{speed:.1}") } else { format!("{speed:.0}") }
}
