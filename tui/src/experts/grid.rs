//! The map of the experts: layers downwards, experts across. A character shows two pixels, or one where it
//! carries marks. In a small area several experts or layers share a pixel; in a large one each gets several.
//! It must not know rates.

use std::ops::Range;

use moelten_engine::api::{ExpertCell, ExpertPlace, ExpertRow};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Color;

use super::look::{Fill, Guess, Recency};
use crate::markdown::theme::Theme;

/// Age, in tokens, up to which a use is recent.
const LATELY: u64 = 8;
/// Largest width of an expert, in columns.
const WIDTH_MAX: usize = 4;

/// The layout of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    layers: usize,
    experts: usize,
    /// Layers that share a pixel, and pixels of a layer: at least one of the two is 1.
    layers_per_pixel: usize,
    pixels_per_layer: usize,
    /// The same for experts.
    experts_per_pixel: usize,
    pixels_per_expert: usize,
    /// Pixels of a character, one above the other: 2 with colours and without marks, else 1.
    pixels_per_row: usize,
}

impl Grid {
    /// Fits the map into `width` columns and `height` rows; with `halves` a character shows two pixels.
    pub fn fit(rows: &[ExpertRow], width: u16, height: u16, halves: bool) -> Self {
        let experts = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0).max(1);
        let (layers, width) = (rows.len().max(1), usize::from(width).max(1));
        let pixels_per_row = if halves { 2 } else { 1 };
        let pixels = (usize::from(height) * pixels_per_row).max(1);
        Self {
            layers,
            experts,
            layers_per_pixel: layers.div_ceil(pixels),
            // A layer is at most one character high.
            pixels_per_layer: (pixels / layers).clamp(1, pixels_per_row),
            experts_per_pixel: experts.div_ceil(width),
            pixels_per_expert: (width / experts).clamp(1, WIDTH_MAX),
            pixels_per_row,
        }
    }

    /// Columns that the map takes.
    pub fn columns(&self) -> u16 {
        (self.experts.div_ceil(self.experts_per_pixel) * self.pixels_per_expert) as u16
    }

    /// Rows that the map takes.
    pub fn height(&self) -> u16 {
        let pixels = self.layers.div_ceil(self.layers_per_pixel) * self.pixels_per_layer;
        pixels.div_ceil(self.pixels_per_row) as u16
    }

    /// The layers that a row of characters shows.
    pub fn layers(&self, row: u16) -> Range<usize> {
        let first = usize::from(row) * self.pixels_per_row;
        self.pixel_layers(first).start..self.pixel_layers(first + self.pixels_per_row - 1).end
    }

    /// The layers that a row of pixels shows.
    fn pixel_layers(&self, pixel: usize) -> Range<usize> {
        let first = pixel / self.pixels_per_layer * self.layers_per_pixel;
        first.min(self.layers)..(first + self.layers_per_pixel).min(self.layers)
    }

    /// The experts that a column shows.
    fn experts(&self, column: usize) -> Range<usize> {
        let first = column / self.pixels_per_expert * self.experts_per_pixel;
        first..first + self.experts_per_pixel
    }

    /// Draws the map, with the marks of prefetches if `marks`; what does not fit into `area` is cut off.
    pub fn draw(&self, rows: &[ExpertRow], area: Rect, buf: &mut Buffer, theme: Theme, marks: bool) {
        for y in 0..self.height().min(area.height) {
            for x in 0..self.columns().min(area.width) {
                let experts = self.experts(usize::from(x));
                let pixel = |which: usize| {
                    let layers = self.pixel_layers(usize::from(y) * self.pixels_per_row + which);
                    let rows = rows.get(layers).unwrap_or_default();
                    let cells =
                        rows.iter().flat_map(|row| row.cells.iter().take(experts.end).skip(experts.start));
                    Pixel::of(cells.copied())
                };
                // Tiles of full width get a gap between them.
                let place = usize::from(x) % self.pixels_per_expert;
                if self.pixels_per_expert == WIDTH_MAX && place == WIDTH_MAX - 1 {
                    continue;
                }
                let Some(cell) = buf.cell_mut((area.x + x, area.y + y)) else { continue };
                let Some(top) = pixel(0) else { continue };
                let guess = top.guess.filter(|_| marks && place == 0);
                if !theme.coloured() {
                    cell.set_char(guess.map_or_else(|| top.fill.glyph(top.recency), Guess::glyph));
                } else if self.pixels_per_row == 2 {
                    let bottom = pixel(1).map_or(Color::Reset, |pixel| pixel.colour(theme));
                    let top = top.colour(theme);
                    cell.set_char(if top == bottom { '█' } else { '▀' }).set_fg(top).set_bg(bottom);
                } else if let Some(guess) = guess {
                    cell.set_char(guess.glyph()).set_style(guess.style(top.recency, theme));
                    cell.set_bg(top.colour(theme));
                } else {
                    cell.set_char('█').set_fg(top.colour(theme));
                }
            }
        }
    }
}

/// One or more experts that are drawn as one pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pixel {
    fill: Fill,
    recency: Recency,
    guess: Option<Guess>,
}

impl Pixel {
    /// The pixel of some experts; `None` without experts. One of them that arrives, was used or was guessed
    /// shows; where most of the others are is the fill.
    fn of(cells: impl Iterator<Item = ExpertCell>) -> Option<Self> {
        let (mut count, mut resident, mut on_device, mut loading) = (0, 0, 0, false);
        let (mut used, mut right, mut wrong) = (u64::MAX, false, false);
        for cell in cells {
            count += 1;
            resident += usize::from(cell.place == ExpertPlace::Resident);
            on_device += usize::from(cell.place == ExpertPlace::Device);
            loading |= cell.place == ExpertPlace::Loading;
            used = used.min(cell.used.unwrap_or(u64::MAX));
            if let Some(prediction) = cell.prediction.filter(|prediction| prediction.age == 0) {
                right |= prediction.correct;
                wrong |= !prediction.correct;
            }
        }
        let fill = match () {
            _ if loading => Fill::Arriving,
            _ if on_device * 2 >= count => Fill::Vram,
            _ if (resident + on_device) * 2 >= count => Fill::Ram,
            _ => Fill::Disk,
        };
        let recency = match used {
            0 => Recency::Now,
            1..=LATELY => Recency::Lately,
            _ => Recency::Idle,
        };
        let guess = if right { Some(Guess::Right) } else { wrong.then_some(Guess::Wrong) };
        (count > 0).then_some(Self { fill, recency, guess })
    }

    fn colour(self, theme: Theme) -> Color {
        self.fill.colour(self.recency, theme)
    }
}
