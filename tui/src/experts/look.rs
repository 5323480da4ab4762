//! How an expert looks: its fill says where its weights are, its brightness how recently it was used, and a
//! mark whether a prefetch was right. Colours are picked by hand for each number of colours of a terminal.
//! It must not know where an expert is drawn.

use ratatui::style::{Color, Style};

use crate::markdown::theme::{ColourDepth, ColourScheme, Theme};

/// Where the weights of an expert are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fill {
    /// On disk only.
    Disk,
    /// On the way from disk to RAM.
    Arriving,
    /// Ready to be computed from memory.
    Ram,
    /// In the memory of a GPU.
    Vram,
}

/// How recently an expert was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Recency {
    /// Long ago, or never.
    Idle,
    /// By one of the last tokens.
    Lately,
    /// By the token that is being computed.
    Now,
}

/// Whether a prefetch of an expert was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Guess {
    /// It was used.
    Right,
    /// It was not.
    Wrong,
}

/// A colour for terminals with 2^24, 256 and 16 colours.
type Picked = ((u8, u8, u8), u8, Color);

impl Fill {
    /// The colour of a fill and a brightness; [`Color::Reset`] without colours.
    pub fn colour(self, recency: Recency, theme: Theme) -> Color {
        use Recency::{Idle, Lately, Now};
        let dark: Picked = match (self, recency) {
            (Self::Disk, Idle) => ((46, 49, 56), 236, Color::DarkGray),
            (Self::Disk, Lately | Now) => ((104, 108, 118), 242, Color::Gray),
            (Self::Arriving, _) => ((235, 160, 40), 214, Color::LightYellow),
            (Self::Ram, Idle) => ((28, 78, 150), 25, Color::Blue),
            (Self::Ram, Lately) => ((95, 165, 250), 75, Color::LightBlue),
            (Self::Ram, Now) => ((225, 240, 255), 231, Color::White),
            (Self::Vram, Idle) => ((104, 44, 130), 54, Color::Magenta),
            (Self::Vram, Lately) => ((214, 112, 250), 177, Color::LightMagenta),
            // With 16 colours what is used now looks alike everywhere.
            (Self::Vram, Now) => ((255, 222, 255), 225, Color::White),
        };
        let light: Picked = match (self, recency) {
            (Self::Disk, Idle) => ((222, 226, 234), 254, Color::Gray),
            (Self::Disk, Lately | Now) => ((172, 176, 186), 248, Color::DarkGray),
            (Self::Arriving, _) => ((225, 130, 0), 172, Color::Yellow),
            (Self::Ram, Idle) => ((150, 190, 240), 111, Color::LightBlue),
            (Self::Ram, Lately) => ((40, 105, 205), 26, Color::Blue),
            (Self::Ram, Now) => ((5, 15, 60), 17, Color::Black),
            (Self::Vram, Idle) => ((226, 180, 240), 183, Color::LightMagenta),
            (Self::Vram, Lately) => ((160, 50, 200), 133, Color::Magenta),
            (Self::Vram, Now) => ((60, 0, 66), 53, Color::Black),
        };
        of(theme, dark, light)
    }

    /// The character of a map without colours.
    pub fn glyph(self, recency: Recency) -> char {
        match (self, recency) {
            (Self::Disk, Recency::Idle) => '·',
            (Self::Disk, _) => ':',
            (Self::Arriving, _) => '~',
            (Self::Ram, Recency::Idle) => '░',
            (Self::Ram, Recency::Lately) => '▒',
            (Self::Vram, Recency::Idle) => 'v',
            (Self::Vram, Recency::Lately) => 'V',
            (Self::Ram | Self::Vram, Recency::Now) => '█',
        }
    }

    /// The word of the legend.
    pub fn word(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Arriving => "arriving",
            Self::Ram => "RAM",
            Self::Vram => "VRAM",
        }
    }
}

impl Recency {
    /// The word of the legend.
    pub fn word(self) -> &'static str {
        match self {
            Self::Idle => "not lately",
            Self::Lately => "lately",
            Self::Now => "now",
        }
    }
}

impl Guess {
    /// The mark on an expert.
    pub fn glyph(self) -> char {
        match self {
            Self::Right => '+',
            Self::Wrong => '×',
        }
    }

    /// The words of the legend.
    pub fn word(self) -> &'static str {
        match self {
            Self::Right => "prefetched, used",
            Self::Wrong => "prefetched, not used",
        }
    }

    /// The style of the mark on a fill of this brightness.
    pub fn style(self, recency: Recency, theme: Theme) -> Style {
        let strong = (recency == Recency::Now) != (theme.scheme == ColourScheme::Light);
        let picked: Picked = match (self, strong) {
            (Self::Right, false) => ((110, 235, 120), 83, Color::LightGreen),
            (Self::Right, true) => ((0, 120, 35), 28, Color::Green),
            (Self::Wrong, false) => ((255, 110, 110), 203, Color::LightRed),
            (Self::Wrong, true) => ((180, 0, 20), 124, Color::Red),
        };
        if theme.coloured() { Style::new().fg(of(theme, picked, picked)) } else { Style::new() }
    }
}

fn of(theme: Theme, dark: Picked, light: Picked) -> Color {
    let ((r, g, b), indexed, named) = match theme.scheme {
        ColourScheme::Dark => dark,
        ColourScheme::Light => light,
        ColourScheme::Colourless => return Color::Reset,
    };
    match theme.depth {
        ColourDepth::True => Color::Rgb(r, g, b),
        ColourDepth::Indexed => Color::Indexed(indexed),
        ColourDepth::Sixteen => named,
    }
}
