//! The map of the experts: layers downwards, experts across. A character shows two pixels with colours and
//! one without. In a small area several experts or layers share a pixel; in a large one each gets several. It
//! must not know rates.

use std::collections::HashMap;
use std::ops::Range;

use moelten_engine::api::{ExpertCell, ExpertPlace, ExpertRow};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};

use crate::markdown::theme::{Role, Theme};

/// Share of the colour of a use or a prediction that remains after each token.
const FADE: f64 = 0.55;
/// Age, in tokens, after which a use or a prediction is no longer drawn.
const AGE_MAX: u64 = 6;
/// Largest width of an expert, in columns.
const WIDTH_MAX: usize = 4;

/// The state of an expert, as the map and the legend show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// In the cache.
    Resident,
    /// Used by the current token, not predicted.
    Used,
    /// Used by the current token, as predicted.
    PredictedUsed,
    /// Predicted and not used.
    PredictedUnused,
    /// Being read.
    Loading,
    /// On disk only.
    Absent,
    /// Used some tokens ago. With colours, the colour fades instead.
    Recent,
}

impl Mark {
    /// All marks, in the order of the legend.
    pub const ALL: [Self; 7] = [
        Self::Resident,
        Self::Used,
        Self::PredictedUsed,
        Self::PredictedUnused,
        Self::Loading,
        Self::Absent,
        Self::Recent,
    ];

    fn role(self) -> Role {
        match self {
            Self::Resident => Role::Resident,
            Self::Used | Self::Recent => Role::Used,
            Self::PredictedUsed => Role::PredictedUsed,
            Self::PredictedUnused => Role::PredictedUnused,
            Self::Loading => Role::Loading,
            Self::Absent => Role::Absent,
        }
    }

    /// The character of a map without colours.
    fn glyph(self) -> char {
        match self {
            Self::Resident => '░',
            Self::Used => '█',
            Self::PredictedUsed => '#',
            Self::PredictedUnused => 'x',
            Self::Loading => '~',
            Self::Absent => '·',
            Self::Recent => '▓',
        }
    }

    /// The text of the legend.
    pub fn label(self) -> &'static str {
        match self {
            Self::Resident => "resident",
            Self::Used => "used",
            Self::PredictedUsed => "predicted, used",
            Self::PredictedUnused => "predicted, unused",
            Self::Loading => "loading",
            Self::Absent => "on disk",
            Self::Recent => "just used",
        }
    }

    /// Whether the mark occurs only while experts are read from disk.
    pub fn of_streaming(self) -> bool {
        matches!(self, Self::PredictedUsed | Self::PredictedUnused | Self::Loading | Self::Absent)
    }

    /// The character and style of the legend.
    pub fn sample(self, theme: Theme) -> (char, Style) {
        match (theme.coloured(), self) {
            (false, _) => (self.glyph(), Style::new()),
            // A fading colour is shown half-way.
            (true, Self::Recent) => {
                ('■', Style::new().fg(theme.blend(Role::Resident, &[(Role::Used, 0.45)])))
            }
            (true, _) => ('■', theme.style(self.role())),
        }
    }
}

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
    /// Pixels of a character, one above the other: 2 with colours, else 1.
    pixels_per_row: usize,
}

impl Grid {
    /// Fits the map into `width` columns and `height` rows.
    pub fn fit(rows: &[ExpertRow], width: u16, height: u16, coloured: bool) -> Self {
        let experts = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0).max(1);
        let (layers, width) = (rows.len().max(1), usize::from(width).max(1));
        let pixels_per_row = if coloured { 2 } else { 1 };
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

    /// Draws the map; what does not fit into `area` is cut off.
    pub fn draw(&self, rows: &[ExpertRow], area: Rect, buf: &mut Buffer, theme: Theme) {
        let mut palette = Palette { theme, known: HashMap::new() };
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
                let Some(cell) = buf.cell_mut((area.x + x, area.y + y)) else { continue };
                if theme.coloured() {
                    let (top, bottom) = (palette.colour(pixel(0)), palette.colour(pixel(1)));
                    // Tiles of full width get a gap between them.
                    let last = usize::from(x) % WIDTH_MAX == WIDTH_MAX - 1;
                    let gap = self.pixels_per_expert == WIDTH_MAX && last;
                    if !gap {
                        cell.set_char(if top == bottom { '█' } else { '▀' }).set_fg(top).set_bg(bottom);
                    }
                } else if let Some(pixel) = pixel(0) {
                    cell.set_char(pixel.mark().glyph());
                }
            }
        }
    }
}

/// Caches the colours of pixels: there are few distinct pixels, and blending is slow.
struct Palette {
    theme: Theme,
    known: HashMap<Pixel, Color>,
}

impl Palette {
    fn colour(&mut self, pixel: Option<Pixel>) -> Color {
        let Some(pixel) = pixel else { return Color::Reset };
        *self.known.entry(pixel).or_insert_with(|| pixel.colour(self.theme))
    }
}

/// One or more experts that are drawn as one pixel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Pixel {
    count: usize,
    resident: usize,
    loading: bool,
    /// Age of the last use, in tokens; `None` if it has faded. The same for the last prediction that was
    /// used, and for the last one that was not.
    used: Option<u64>,
    predicted_used: Option<u64>,
    predicted_unused: Option<u64>,
}

impl Pixel {
    /// The pixel of some experts; `None` without experts.
    fn of(cells: impl Iterator<Item = ExpertCell>) -> Option<Self> {
        let mut all = Self::default();
        let younger = |a: &mut Option<u64>, b: u64| {
            if b <= AGE_MAX {
                *a = Some(a.map_or(b, |a| a.min(b)));
            }
        };
        for cell in cells {
            all.count += 1;
            all.resident += usize::from(cell.place == ExpertPlace::Resident);
            all.loading |= cell.place == ExpertPlace::Loading;
            if let Some(age) = cell.used {
                younger(&mut all.used, age);
            }
            if let Some(prediction) = cell.prediction {
                let last =
                    if prediction.correct { &mut all.predicted_used } else { &mut all.predicted_unused };
                younger(last, prediction.age);
            }
        }
        (all.count > 0).then_some(all)
    }

    fn colour(self, theme: Theme) -> Color {
        let strength = |age: Option<u64>| age.map_or(0.0, |age| FADE.powf(age as f64));
        let resident = self.resident as f64 / self.count as f64;
        // A use that was predicted is drawn as such only if it is the last use.
        let predicted = self.predicted_used.filter(|age| self.used.is_none_or(|used| *age <= used));
        let over = [
            (Role::Resident, resident),
            (Role::PredictedUnused, strength(self.predicted_unused)),
            (Role::Used, strength(self.used)),
            (Role::PredictedUsed, strength(predicted)),
            (Role::Loading, f64::from(u8::from(self.loading))),
        ];
        theme.blend(Role::Absent, &over)
    }

    fn mark(self) -> Mark {
        match self {
            _ if self.loading => Mark::Loading,
            _ if self.predicted_used == Some(0) => Mark::PredictedUsed,
            _ if self.used == Some(0) => Mark::Used,
            _ if self.predicted_unused == Some(0) => Mark::PredictedUnused,
            _ if self.used.is_some() => Mark::Recent,
            _ if self.resident * 2 >= self.count => Mark::Resident,
            _ => Mark::Absent,
        }
    }
}
