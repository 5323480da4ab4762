//! The layout of the expert view: title, map, legend and gauges, as many as there is room for. It must not
//! know how rates are computed.

use std::time::Duration;

use moelten_engine::api::{ExpertMap, ExpertRow};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use unicode_width::UnicodeWidthStr;

use super::gauges;
use super::grid::{Grid, Mark};
use super::rates::{Rates, Window};
use crate::chat::Limits;
use crate::markdown::theme::{Role, Theme};

/// Columns of a layer number.
const NUMBER: u16 = 4;
/// Columns of the bar of a layer, with the space before it.
const BAR: u16 = 6;
/// Width from which on every layer has bars, in columns.
const BARS_FROM: u16 = 60;
/// Rows that the map keeps before gauges are drawn.
const MAP_MIN: u16 = 6;

/// The last snapshot and the rates of the last seconds.
#[derive(Debug, Clone)]
pub struct ExpertView {
    window: Window,
    map: ExpertMap,
}

impl ExpertView {
    /// A view without a snapshot. Known limits are shown beside the rates.
    pub fn new(limits: Limits) -> Self {
        Self { window: Window::new(limits), map: ExpertMap::default() }
    }

    /// Takes the next snapshot, at time `at` of any monotonic clock. A few snapshots a second are enough.
    pub fn update(&mut self, map: ExpertMap, at: Duration) {
        self.window.push(&map, at);
        self.map = map;
    }

    /// The rates of the last seconds.
    pub fn rates(&self) -> Rates {
        self.window.rates()
    }

    /// The last snapshot; empty before the first one.
    pub fn map(&self) -> &ExpertMap {
        &self.map
    }

    /// Draws as much as there is room for: the map first, then the legend, then the gauges.
    pub fn draw(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let area = area.intersection(buf.area);
        if area.is_empty() {
            return;
        }
        if self.map.rows.is_empty() {
            let text = "This model has no experts.";
            buf.set_stringn(area.x, area.y, text, usize::from(area.width), theme.style(Role::Dim));
            return;
        }
        let (title, legend) = (u16::from(area.height >= 4), u16::from(area.height >= 7));
        let gauges = gauges::list(&self.rates(), &self.map);
        let room = area.height.saturating_sub(title + legend + MAP_MIN);
        let gauge_rows = gauges::rows(gauges.len(), area.width).min(room);
        let below = legend + gauge_rows;
        let middle = Rect { y: area.y + title, height: area.height - title - below, ..area };
        let used = self.draw_map(middle, buf, theme);
        if title > 0 {
            self.draw_title(Rect { height: 1, ..area }, buf, theme);
        }
        // Legend and gauges follow the map without a gap.
        let mut y = middle.y + used;
        if legend > 0 {
            self.draw_legend(Rect { y, height: 1, ..area }, buf, theme);
            y += 1;
        }
        gauges::draw(&gauges, Rect { y, height: gauge_rows, ..area }, buf, theme);
    }

    /// Draws the layers and their bars. Returns the rows that they take.
    fn draw_map(&self, area: Rect, buf: &mut Buffer, theme: Theme) -> u16 {
        let streams = self.streams();
        let bars = if area.width >= BARS_FROM && streams { 2 * BAR } else { 0 };
        let number = if area.width > 4 * NUMBER { NUMBER } else { 0 };
        let inner = Rect { x: area.x + number, width: area.width - number - bars, ..area };
        let grid = Grid::fit(&self.map.rows, inner.width, inner.height, theme.coloured());
        grid.draw(&self.map.rows, inner, buf, theme);
        let right = inner.x + grid.columns().min(inner.width);
        for row in 0..grid.height().min(area.height) {
            let y = area.y + row;
            let layers = grid.layers(row);
            let Some(first) = self.map.rows.get(layers.start) else { continue };
            if number > 0 {
                let label = format!("{:>3}", first.layer);
                buf.set_stringn(area.x, y, label, usize::from(number - 1), theme.style(Role::Dim));
            }
            if bars > 0 {
                let (hits, predicted) = self.window.layers(layers);
                for (i, (share, role)) in
                    [(hits, Role::Bar), (predicted, Role::PredictedUsed)].into_iter().enumerate()
                {
                    let bar = Rect { x: right + i as u16 * BAR + 1, y, width: BAR - 1, height: 1 };
                    gauges::bar(share, role, bar, buf, theme);
                }
            }
        }
        grid.height().min(area.height)
    }

    /// Whether experts are read from disk at all.
    fn streams(&self) -> bool {
        self.map.memory.slot_bytes > 0
    }

    /// The meaning of the marks, as many as there is room for.
    fn draw_legend(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let mut x = area.x;
        for mark in Mark::ALL.into_iter().filter(|mark| self.streams() || !mark.of_streaming()) {
            let (glyph, style) = mark.sample(theme);
            let words = mark.label();
            let width = (2 + words.width()) as u16;
            if x + width > area.right() {
                break;
            }
            buf.set_string(x, area.y, glyph.to_string(), style);
            buf.set_string(x + 2, area.y, words, theme.style(Role::Dim));
            x += width + 2;
        }
    }

    fn draw_title(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let rows = &self.map.rows;
        let experts = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0);
        let dim = theme.style(Role::Dim);
        let heading = format!("{} layers of {experts} experts", rows.len());
        let mut spans = vec![Span::styled(heading, theme.style(Role::Heading))];
        let kept = kept(rows);
        let kept = if self.streams() { format!(", {kept} resident") } else { ", all resident".to_owned() };
        spans.push(Span::styled(kept, dim));
        let title = Line::from(spans);
        let width = title.width() as u16;
        buf.set_line(area.x, area.y, &title, area.width);
        let bars = if area.width >= BARS_FROM && self.streams() { 2 * BAR } else { 0 };
        let inner_width = area.width - NUMBER.min(area.width) - bars;
        let grid = Grid::fit(rows, inner_width, 1, theme.coloured());
        let right = NUMBER + grid.columns().min(inner_width);
        if bars > 0 && width < right {
            for (i, name) in ["hits", "pred"].into_iter().enumerate() {
                buf.set_string(area.x + right + i as u16 * BAR + 1, area.y, name, dim);
            }
        }
        let state = if self.map.stalled { "waiting for disk" } else { "" };
        if width + 2 + (state.width() as u16) < right {
            buf.set_string(area.x + right - state.width() as u16, area.y, state, theme.style(Role::Loading));
        }
    }
}

/// How many experts of a layer the cache keeps: `40`, or `38 to 40`.
fn kept(rows: &[ExpertRow]) -> String {
    let slots = || rows.iter().map(|row| row.slots);
    match (slots().min().unwrap_or(0), slots().max().unwrap_or(0)) {
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least} to {most}"),
    }
}
