//! The map itself: layers downwards, experts across. With colours a character shows two pixels, one above the other; without
//! them, one. Where there is less room than experts or layers several share a pixel, where there is more each gets several.
//! It must not know rates.

use std::collections::HashMap;
use std::ops::Range;

use moelten_engine::api::{ExpertCell, ExpertPlace, ExpertRow};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style};

use crate::theme::{Role, Theme};

/// Of the colour of a use or a guess this share is left after each token.
const FADE: f64 = 0.55;
/// After so many nothing is seen any more.
const OLD: u64 = 6;
/// Columns that an expert gets at most.
const WIDEST: usize = 4;

/// What a place on the map can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Weights in memory.
    Resident,
    /// In use, and nobody foresaw it.
    Used,
    /// In use, as was foreseen.
    Right,
    /// Foreseen and not used.
    Wrong,
    /// On its way.
    Loading,
    /// On the disk.
    Absent,
    /// Used some tokens ago; colours fade instead.
    Recent,
}

impl Mark {
    /// In the order of the legend.
    pub const ALL: [Self; 7] =
        [Self::Resident, Self::Used, Self::Right, Self::Wrong, Self::Loading, Self::Absent, Self::Recent];

    fn role(self) -> Role {
        match self {
            Self::Resident => Role::Resident,
            Self::Used | Self::Recent => Role::Used,
            Self::Right => Role::GuessedRight,
            Self::Wrong => Role::GuessedWrong,
            Self::Loading => Role::Loading,
            Self::Absent => Role::Absent,
        }
    }

    /// For maps without colours.
    fn glyph(self) -> char {
        match self {
            Self::Resident => '░',
            Self::Used => '█',
            Self::Right => '#',
            Self::Wrong => 'x',
            Self::Loading => '~',
            Self::Absent => '·',
            Self::Recent => '▓',
        }
    }

    /// For the legend.
    pub fn words(self) -> &'static str {
        match self {
            Self::Resident => "in memory",
            Self::Used => "used",
            Self::Right => "foreseen, used",
            Self::Wrong => "foreseen in vain",
            Self::Loading => "loading",
            Self::Absent => "on disk",
            Self::Recent => "just used",
        }
    }

    /// Whether only models whose experts are read show it.
    pub fn of_streaming(self) -> bool {
        matches!(self, Self::Right | Self::Wrong | Self::Loading | Self::Absent)
    }

    /// How the legend shows it.
    pub fn sample(self, theme: Theme) -> (char, Style) {
        match (theme.coloured(), self) {
            (false, _) => (self.glyph(), Style::new()),
            // What fades: half-way.
            (true, Self::Recent) => {
                ('■', Style::new().fg(theme.blend(Role::Resident, &[(Role::Used, 0.45)])))
            }
            (true, _) => ('■', theme.style(self.role())),
        }
    }
}

/// How a map is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    layers: usize,
    experts: usize,
    /// Layers that share a pixel, and pixels that a layer has: one of them is 1.
    layers_per_pixel: usize,
    pixels_per_layer: usize,
    /// The same across.
    experts_per_pixel: usize,
    pixels_per_expert: usize,
    /// Pixels of a character, one above the other.
    pixels_per_row: usize,
}

impl Grid {
    /// Fills a room of so many characters as well as it can be.
    pub fn fit(rows: &[ExpertRow], width: u16, height: u16, coloured: bool) -> Self {
        let experts = rows.iter().map(|row| row.cells.len()).max().unwrap_or(0).max(1);
        let (layers, width) = (rows.len().max(1), usize::from(width).max(1));
        let pixels_per_row = if coloured { 2 } else { 1 };
        let pixels = (usize::from(height) * pixels_per_row).max(1);
        Self {
            layers,
            experts,
            layers_per_pixel: layers.div_ceil(pixels),
            // A character high at most.
            pixels_per_layer: (pixels / layers).clamp(1, pixels_per_row),
            experts_per_pixel: experts.div_ceil(width),
            pixels_per_expert: (width / experts).clamp(1, WIDEST),
            pixels_per_row,
        }
    }

    /// Columns that it takes.
    pub fn columns(&self) -> u16 {
        (self.experts.div_ceil(self.experts_per_pixel) * self.pixels_per_expert) as u16
    }

    /// Rows that it takes.
    pub fn height(&self) -> u16 {
        let pixels = self.layers.div_ceil(self.layers_per_pixel) * self.pixels_per_layer;
        pixels.div_ceil(self.pixels_per_row) as u16
    }

    /// Layers of a row of characters.
    pub fn layers(&self, row: u16) -> Range<usize> {
        let first = usize::from(row) * self.pixels_per_row;
        self.of_pixel(first).start..self.of_pixel(first + self.pixels_per_row - 1).end
    }

    /// Layers of a row of pixels.
    fn of_pixel(&self, pixel: usize) -> Range<usize> {
        let first = pixel / self.pixels_per_layer * self.layers_per_pixel;
        first.min(self.layers)..(first + self.layers_per_pixel).min(self.layers)
    }

    /// Experts of a column.
    fn experts(&self, column: usize) -> Range<usize> {
        let first = column / self.pixels_per_expert * self.experts_per_pixel;
        first..first + self.experts_per_pixel
    }

    /// Draws the map into an area, which may be smaller.
    pub fn draw(&self, rows: &[ExpertRow], area: Rect, buf: &mut Buffer, theme: Theme) {
        let mut palette = Palette { theme, known: HashMap::new() };
        for y in 0..self.height().min(area.height) {
            for x in 0..self.columns().min(area.width) {
                let experts = self.experts(usize::from(x));
                let pixel = |which: usize| {
                    let layers = self.of_pixel(usize::from(y) * self.pixels_per_row + which);
                    let rows = rows.get(layers).unwrap_or_default();
                    let cells =
                        rows.iter().flat_map(|row| row.cells.iter().take(experts.end).skip(experts.start));
                    Pixel::of(cells.copied())
                };
                let Some(cell) = buf.cell_mut((area.x + x, area.y + y)) else { continue };
                if theme.coloured() {
                    let (top, bottom) = (palette.colour(pixel(0)), palette.colour(pixel(1)));
                    // Where tiles are wide enough there is a gap between them.
                    let gap = self.pixels_per_expert == WIDEST && usize::from(x) % WIDEST == WIDEST - 1;
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

/// The colours of pixels that were seen before: there are few kinds of them.
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

/// Several experts as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Pixel {
    count: usize,
    resident: usize,
    loading: bool,
    /// Ages of the last use, and of the last right and wrong guess; `None` if that has faded.
    used: Option<u64>,
    right: Option<u64>,
    wrong: Option<u64>,
}

impl Pixel {
    /// `None` of no expert.
    fn of(cells: impl Iterator<Item = ExpertCell>) -> Option<Self> {
        let mut all = Self::default();
        let younger = |a: &mut Option<u64>, b: u64| {
            if b <= OLD {
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
            if let Some(guess) = cell.guessed {
                younger(if guess.right { &mut all.right } else { &mut all.wrong }, guess.age);
            }
        }
        (all.count > 0).then_some(all)
    }

    fn colour(self, theme: Theme) -> Color {
        let strength = |age: Option<u64>| age.map_or(0.0, |age| FADE.powf(age as f64));
        let resident = self.resident as f64 / self.count as f64;
        // A right guess is a use: an older one is not what shows.
        let right = self.right.filter(|right| self.used.is_none_or(|used| *right <= used));
        let over = [
            (Role::Resident, resident),
            (Role::GuessedWrong, strength(self.wrong)),
            (Role::Used, strength(self.used)),
            (Role::GuessedRight, strength(right)),
            (Role::Loading, f64::from(u8::from(self.loading))),
        ];
        theme.blend(Role::Absent, &over)
    }

    fn mark(self) -> Mark {
        match self {
            _ if self.loading => Mark::Loading,
            _ if self.right == Some(0) => Mark::Right,
            _ if self.used == Some(0) => Mark::Used,
            _ if self.wrong == Some(0) => Mark::Wrong,
            _ if self.used.is_some() => Mark::Recent,
            _ if self.resident * 2 >= self.count => Mark::Resident,
            _ => Mark::Absent,
        }
    }
}
