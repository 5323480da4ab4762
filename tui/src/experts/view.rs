//! The layout of the expert view: a sentence, the map with its axes, a legend, and gauges, as many as there
//! is room for. Rows are reserved, so that nothing moves when rates come and go. It must not know how rates
//! are computed.

use std::time::Duration;

use moelten_engine::api::{ExpertMap, ExpertRow};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;
use unicode_width::UnicodeWidthStr;

use super::gauges::{self, Gauge};
use super::grid::Grid;
use super::history::History;
use super::look::{Fill, Guess, Recency};
use super::rates::{Rates, Window};
use crate::chat::Limits;
use crate::markdown::rows::{self, cut};
use crate::markdown::theme::{Role, Theme};

/// Columns of a layer number.
const NUMBER: u16 = 6;
/// Columns of the bar of a layer, with the space before it.
const BAR: u16 = 7;
/// Width from which on every layer has bars, in columns.
const BARS_FROM: u16 = 60;
/// Width from which on the sentence has one row, in columns.
const ONE_ROW_FROM: u16 = 116;
/// Rows that the map keeps before gauges are drawn.
const MAP_MIN: u16 = 5;

/// The last snapshot and the rates of the last seconds.
#[derive(Debug, Clone)]
pub struct ExpertView {
    window: Window,
    history: History,
    map: ExpertMap,
    /// Whether experts were ever predicted: then marks have a place from here on.
    prefetches: bool,
}

/// The rows of each part.
struct Parts {
    sentence: u16,
    axis: u16,
    map: u16,
    legend: u16,
    gauges: u16,
}

impl ExpertView {
    /// A view without a snapshot. Known limits are shown beside the rates.
    pub fn new(limits: Limits) -> Self {
        Self {
            window: Window::new(limits),
            history: History::default(),
            map: ExpertMap::default(),
            prefetches: false,
        }
    }

    /// Takes the next snapshot, at time `at` of any monotonic clock. A few snapshots a second are enough.
    pub fn update(&mut self, map: ExpertMap, at: Duration) {
        self.window.push(&map, at);
        self.history.push(&map, at);
        self.prefetches |= map.rows.iter().any(|row| row.chosen > 0);
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

    /// Whether experts are read from disk at all.
    fn streams(&self) -> bool {
        self.map.memory.slot_bytes > 0
    }

    /// Whether a character shows two layers. One that carries marks shows one.
    fn halves(&self, theme: Theme) -> bool {
        theme.coloured() && !self.prefetches
    }

    fn gauges(&self) -> Vec<Gauge> {
        gauges::list(&self.rates(), &self.history, &self.map, self.streams(), self.prefetches)
    }

    /// Columns that the view uses of at most `most`.
    pub fn width(&self, most: u16, height: u16, theme: Theme) -> u16 {
        let bars = self.bars(most);
        let inner = most.saturating_sub(NUMBER + bars);
        let columns = Grid::fit(&self.map.rows, inner, height, self.halves(theme)).columns();
        (NUMBER + columns + bars).max(gauges::WIDTH_MIN).min(most)
    }

    /// Rows that the view uses in `width` columns, if there is room for every layer.
    pub fn height(&self, width: u16, theme: Theme) -> u16 {
        let layers = self.map.rows.len() as u16;
        let map = if self.halves(theme) { layers.div_ceil(2) } else { layers };
        let gauges = gauges::rows(self.gauges().len(), width);
        self.sentence_rows(width) + 1 + map + self.legend_rows(width, theme) + gauges
    }

    fn sentence_rows(&self, width: u16) -> u16 {
        if width >= ONE_ROW_FROM || !self.streams() { 1 } else { 2 }
    }

    /// Columns of all bars of a layer.
    fn bars(&self, width: u16) -> u16 {
        match (width >= BARS_FROM && self.streams(), self.prefetches) {
            (false, _) => 0,
            (true, false) => BAR,
            (true, true) => 2 * BAR,
        }
    }

    /// How the rows are shared out: the map first, then the sentence, the gauges, the legend and the axis.
    fn parts(&self, width: u16, height: u16, theme: Theme) -> Parts {
        let mut left = height;
        let mut take = |wanted: u16, keep: u16| {
            let taken = if left >= keep + wanted { wanted } else { 0 };
            left -= taken;
            taken
        };
        let sentence = match take(self.sentence_rows(width), 4) {
            0 => take(1, 3),
            rows => rows,
        };
        let axis = take(1, MAP_MIN);
        let legend = match take(self.legend_rows(width, theme), MAP_MIN) {
            0 => take(1, MAP_MIN),
            rows => rows,
        };
        let layers = self.map.rows.len() as u16;
        let map = if self.halves(theme) { layers.div_ceil(2) } else { layers };
        let wanted = gauges::rows(self.gauges().len(), width);
        let gauges = wanted.min(left.saturating_sub(map.min(MAP_MIN)));
        Parts { sentence, axis, map: left - gauges, legend, gauges }
    }

    /// Draws as much as there is room for.
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
        let parts = self.parts(area.width, area.height, theme);
        let at = |y: u16, height: u16| Rect { y: area.y + y, height, ..area };
        self.draw_sentence(at(0, parts.sentence), buf, theme);
        let top = parts.sentence + parts.axis;
        let (rows, right) = self.draw_map(at(top, parts.map), buf, theme);
        if parts.axis > 0 {
            self.draw_axis(at(parts.sentence, 1), right, buf, theme);
        }
        // Legend and gauges follow the map without a gap.
        self.draw_legend(at(top + rows, parts.legend), buf, theme);
        gauges::draw(&self.gauges(), at(top + rows + parts.legend, parts.gauges), buf, theme);
    }

    /// One plain sentence about what is happening.
    fn sentence(&self) -> String {
        let first = "Each square is one expert.";
        let gpu = self.map.gpu.filter(|gpu| !gpu.lost);
        let gpu = gpu.and_then(|gpu| Some((gpu.share()?, gpu.exactness())));
        let gpu = gpu.map_or_else(String::new, |(share, exactness)| {
            format!(" GPU: {:.0} %, {exactness}.", (100.0 * share).floor())
        });
        if !self.streams() {
            return format!("{first} All of them are in RAM.{gpu}");
        }
        let rates = self.rates();
        let prefetch = match (rates.recall, self.prefetches) {
            (Some(right), _) => format!("prefetch on, {:.0} % right", (100.0 * right).floor()),
            (None, true) => "prefetch paused, it did not pay".to_owned(),
            (None, false) => "prefetch off".to_owned(),
        };
        let Some(hits) = rates.hit_rate else {
            let (kept, of) = (kept(&self.map.rows), experts(&self.map.rows));
            return format!(
                "{first} {kept} of the {of} of a layer fit into RAM; the others are read from disk when they are needed."
            );
        };
        let disk = match (rates.disk_gb_per_s, rates.limits.disk_gb_per_s) {
            (Some(now), Some(limit)) => format!("disk {now:.2} of {limit:.1} GB/s; "),
            (Some(now), None) => format!("disk {now:.2} GB/s; "),
            (None, _) => String::new(),
        };
        let place = if self.map.gpu.is_some() { "RAM or VRAM" } else { "RAM" };
        let hits = (100.0 * hits).floor();
        format!("{first} {hits:.0} % of those used were in {place}; {disk}{prefetch}.{gpu}")
    }

    fn draw_sentence(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let (text, width) = (self.sentence(), usize::from(area.width));
        let rows = rows::rows(&text, width);
        for (index, (y, row)) in (area.y..area.bottom()).zip(&rows).enumerate() {
            let last = index + 1 == usize::from(area.height);
            let line = if last { cut(&text[row.start..], width) } else { text[row.clone()].to_owned() };
            buf.set_stringn(area.x, y, line, width, theme.style(Role::Heading));
        }
    }

    /// Draws the layers and their bars. Returns the rows that they take, and the column after the map.
    fn draw_map(&self, area: Rect, buf: &mut Buffer, theme: Theme) -> (u16, u16) {
        let bars = self.bars(area.width);
        let number = if area.width > 4 * NUMBER { NUMBER } else { 0 };
        let inner = Rect { x: area.x + number, width: area.width - number - bars, ..area };
        let grid = Grid::fit(&self.map.rows, inner.width, inner.height, self.halves(theme));
        grid.draw(&self.map.rows, inner, buf, theme, self.prefetches);
        let right = inner.x + grid.columns().min(inner.width);
        for row in 0..grid.height().min(area.height) {
            let y = area.y + row;
            let layers = grid.layers(row);
            let Some(first) = self.map.rows.get(layers.start) else { continue };
            if number > 0 {
                let label = format!("{:>5}", first.layer);
                buf.set_stringn(area.x, y, label, usize::from(number - 1), theme.style(Role::Dim));
            }
            if bars > 0 {
                let (hits, predicted) = self.window.layers(layers);
                let shares = [hits, predicted].into_iter().take(usize::from(bars / BAR));
                for (i, share) in shares.enumerate() {
                    let bar = Rect { x: right + i as u16 * BAR + 1, y, width: BAR - 1, height: 1 };
                    gauges::bar(share, Role::Good, bar, buf, theme);
                }
            }
        }
        (grid.height().min(area.height), right)
    }

    /// What is downwards, what is across, and what the bars are.
    fn draw_axis(&self, area: Rect, right: u16, buf: &mut Buffer, theme: Theme) {
        let dim = theme.style(Role::Dim);
        let number = if area.width > 4 * NUMBER { NUMBER } else { 0 };
        if number > 0 {
            buf.set_string(area.x, area.y, "layer", dim);
        }
        let x = area.x + number;
        let last = format!("{}", experts(&self.map.rows).saturating_sub(1));
        let room = usize::from(right.saturating_sub(x));
        let first = "expert 0";
        if room >= first.len() + 3 + last.len() {
            let line = "\u{2500}".repeat(room - first.len() - last.len() - 2);
            buf.set_string(x, area.y, format!("{first} {line} {last}"), dim);
        } else {
            buf.set_stringn(x, area.y, "expert", room, dim);
        }
        let bars = usize::from(self.bars(area.width) / BAR);
        for (i, name) in ["in RAM", "right"].into_iter().take(bars).enumerate() {
            buf.set_string(right + i as u16 * BAR + 1, area.y, name, dim);
        }
    }

    /// The items of the legend: a sample and its words, or words alone.
    fn legend(&self, theme: Theme) -> Vec<(Option<(char, Style)>, &'static str)> {
        let sample = |fill: Fill, recency| match theme.coloured() {
            true => ('■', Style::new().fg(fill.colour(recency, theme))),
            false => (fill.glyph(recency), Style::new()),
        };
        let mut items = Vec::new();
        if self.streams() {
            let fills = [Fill::Disk, Fill::Arriving, Fill::Ram];
            items.extend(fills.map(|fill| (Some(sample(fill, Recency::Idle)), fill.word())));
        }
        if self.map.gpu.is_some() {
            items.push((Some(sample(Fill::Vram, Recency::Idle)), Fill::Vram.word()));
        }
        items.push((None, "used:"));
        let recencies = [Recency::Idle, Recency::Lately, Recency::Now];
        items.extend(recencies.map(|recency| (Some(sample(Fill::Ram, recency)), recency.word())));
        if self.prefetches {
            let guess =
                |guess: Guess| (Some((guess.glyph(), guess.style(Recency::Idle, theme))), guess.word());
            items.extend([Guess::Right, Guess::Wrong].map(guess));
        }
        items
    }

    fn legend_rows(&self, width: u16, theme: Theme) -> u16 {
        let wide =
            |(sample, words): &(Option<_>, &str)| words.width() + 2 * usize::from(sample.is_some()) + 2;
        let all: usize = self.legend(theme).iter().map(wide).sum();
        if all > usize::from(width) + 2 { 2 } else { 1 }
    }

    /// The meaning of fills, brightness and marks, as many as there is room for.
    fn draw_legend(&self, area: Rect, buf: &mut Buffer, theme: Theme) {
        let (mut x, mut y) = (area.x, area.y);
        for (sample, words) in self.legend(theme) {
            let width = words.width() as u16 + if sample.is_some() { 2 } else { 0 };
            if x > area.x && x + width > area.right() {
                (x, y) = (area.x, y + 1);
            }
            if y >= area.bottom() || x + width > area.right() {
                break;
            }
            if let Some((glyph, style)) = sample {
                buf.set_string(x, y, glyph.to_string(), style);
                x += 2;
            }
            buf.set_string(x, y, words, theme.style(Role::Dim));
            x += words.width() as u16 + 2;
        }
    }
}

/// Experts of the widest layer.
fn experts(rows: &[ExpertRow]) -> usize {
    rows.iter().map(|row| row.cells.len()).max().unwrap_or(0)
}

/// How many experts of a layer the cache keeps: `40`, or `38 to 40`.
fn kept(rows: &[ExpertRow]) -> String {
    let slots = || rows.iter().map(|row| row.slots);
    match (slots().min().unwrap_or(0), slots().max().unwrap_or(0)) {
        (least, most) if least == most => most.to_string(),
        (least, most) => format!("{least} to {most}"),
    }
}
