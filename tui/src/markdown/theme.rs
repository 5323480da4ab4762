//! Styles by meaning: a view names a [`Role`], the [`Theme`] gives its style on a dark, a light or a
//! colourless terminal. It must not know what is drawn.

use std::env;

use ratatui::style::{Color, Modifier, Style};

/// The meaning of a piece of the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Ordinary text, in the terminal's default colour.
    Text,
    /// Secondary text: hints, hidden reasoning, units.
    Dim,
    /// What the user wrote, and the cursor's line.
    Person,
    /// Names and values that should stand out.
    Accent,
    /// Success.
    Good,
    /// Something the user should notice.
    Warning,
    /// Something failed.
    Error,
    /// Borders and rules.
    Frame,
    /// The status line.
    Status,
    /// The selected line of a list.
    Selected,
    /// A heading or a title.
    Heading,
    /// Inline code.
    Code,
    /// Plain text inside a code block.
    CodeBlock,
    /// Keywords inside a code block.
    Keyword,
    /// String literals inside a code block.
    Literal,
    /// Numbers inside a code block.
    Number,
    /// Comments inside a code block.
    Comment,
    /// The text of a link.
    Link,
    /// A block quote.
    Quote,
    /// List markers.
    Bullet,
    /// The filled part of a bar.
    Bar,
    /// The empty part of a bar.
    BarRest,
}

/// Which colours suit the terminal's background.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourScheme {
    /// Light text on a dark background.
    #[default]
    Dark,
    /// Dark text on a light background.
    Light,
    /// No colours: only bold, dim, italic and reversed text.
    Colourless,
}

/// Whether to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourChoice {
    /// Unless `NO_COLOR` is set or the terminal has none.
    #[default]
    Auto,
    /// Even if `NO_COLOR` is set.
    Always,
    /// Without colours.
    Never,
}

/// How many colours the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourDepth {
    /// The 16 named colours.
    Sixteen,
    /// The 256 colours of xterm.
    #[default]
    Indexed,
    /// 24-bit colours.
    True,
}

/// The styles of all roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Theme {
    /// Dark, light or without colours.
    pub scheme: ColourScheme,
    /// How many colours may be used.
    pub depth: ColourDepth,
}

/// Red, green, blue.
type Rgb = (u8, u8, u8);

impl Theme {
    /// A theme without colours.
    pub const PLAIN: Self = Self { scheme: ColourScheme::Colourless, depth: ColourDepth::Sixteen };

    /// Chooses a theme: `scheme` if it is given, else `MOELTEN_THEME`, else `COLORFGBG`, else dark; `TERM`,
    /// `COLORTERM` and `NO_COLOR` say how many colours there are.
    pub fn detect(choice: ColourChoice, scheme: Option<ColourScheme>) -> Self {
        let value = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self::from_environment(choice, scheme, value)
    }

    fn from_environment(
        choice: ColourChoice,
        scheme: Option<ColourScheme>,
        value: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let term = value("TERM").unwrap_or_default();
        // Any value but an empty one counts (no-color.org). Windows has no TERM.
        let unwanted = value("NO_COLOR").is_some() || term == "dumb" || (cfg!(unix) && term.is_empty());
        if choice == ColourChoice::Never || (choice == ColourChoice::Auto && unwanted) {
            return Self::PLAIN;
        }
        let depth = match value("COLORTERM").as_deref() {
            Some("truecolor" | "24bit") => ColourDepth::True,
            Some(_) => ColourDepth::Indexed,
            None if term.contains("256") || (cfg!(windows) && term.is_empty()) => ColourDepth::Indexed,
            None => ColourDepth::Sixteen,
        };
        let named = value("MOELTEN_THEME").and_then(|name| match name.as_str() {
            "dark" => Some(ColourScheme::Dark),
            "light" => Some(ColourScheme::Light),
            _ => None,
        });
        // `15;0` is white on black: the last number is the background, and 7 and 9 to 15 are light.
        let background = value("COLORFGBG").and_then(|value| value.rsplit(';').next()?.parse::<u8>().ok());
        let light = |colour: u8| matches!(colour, 7 | 9..=15);
        let reported = background.map(|colour| match light(colour) {
            true => ColourScheme::Light,
            false => ColourScheme::Dark,
        });
        Self { scheme: scheme.or(named).or(reported).unwrap_or_default(), depth }
    }

    /// Whether the theme uses colours.
    pub fn coloured(self) -> bool {
        self.scheme != ColourScheme::Colourless
    }

    /// The style of a role.
    pub fn style(self, role: Role) -> Style {
        let style = Style::new().add_modifier(modifiers(role, self.coloured()));
        let Some(column) = self.column() else { return style };
        let style = match foreground(role, column) {
            Some(rgb) => style.fg(self.fit(rgb)),
            None => style,
        };
        match background(role, column) {
            Some(rgb) => style.bg(self.fit(rgb)),
            None => style,
        }
    }

    /// The foreground colour of a role; [`Color::Reset`] in a colourless theme.
    pub fn colour(self, role: Role) -> Color {
        self.style(role).fg.unwrap_or(Color::Reset)
    }

    /// The column of the colour tables; `None` in a colourless theme.
    fn column(self) -> Option<usize> {
        match self.scheme {
            ColourScheme::Dark => Some(0),
            ColourScheme::Light => Some(1),
            ColourScheme::Colourless => None,
        }
    }

    fn fit(self, rgb: Rgb) -> Color {
        match self.depth {
            ColourDepth::True => Color::Rgb(rgb.0, rgb.1, rgb.2),
            ColourDepth::Indexed => Color::Indexed(indexed(rgb)),
            ColourDepth::Sixteen => sixteen(rgb),
        }
    }
}

fn modifiers(role: Role, coloured: bool) -> Modifier {
    match role {
        Role::Heading | Role::Keyword | Role::Person | Role::Error => Modifier::BOLD,
        Role::Accent | Role::Warning if !coloured => Modifier::BOLD,
        Role::Link => Modifier::UNDERLINED,
        Role::Quote | Role::Comment => Modifier::ITALIC,
        Role::Selected | Role::Status if !coloured => Modifier::REVERSED,
        Role::Dim | Role::Frame if !coloured => Modifier::DIM,
        _ => Modifier::empty(),
    }
}

/// Colours on a dark and on a light background; `None` is the terminal's default.
fn foreground(role: Role, column: usize) -> Option<Rgb> {
    let both: [Rgb; 2] = match role {
        Role::Text | Role::Selected => return None,
        Role::Dim | Role::Comment => [(128, 134, 148), (112, 118, 130)],
        Role::Person => [(122, 190, 255), (20, 90, 180)],
        Role::Accent | Role::Heading => [(255, 190, 105), (160, 86, 0)],
        Role::Good => [(126, 211, 135), (20, 125, 50)],
        Role::Warning => [(240, 205, 90), (150, 105, 0)],
        Role::Error => [(255, 120, 110), (190, 25, 25)],
        Role::Frame => [(74, 80, 94), (190, 195, 205)],
        Role::Status => [(205, 210, 220), (50, 55, 65)],
        Role::Code => [(235, 175, 140), (150, 65, 20)],
        Role::CodeBlock => [(205, 210, 220), (45, 50, 60)],
        Role::Keyword => [(198, 150, 250), (120, 50, 170)],
        Role::Literal => [(150, 205, 130), (40, 120, 40)],
        Role::Number => [(240, 180, 110), (165, 90, 10)],
        Role::Link => [(110, 175, 235), (20, 90, 180)],
        Role::Quote => [(165, 172, 188), (90, 96, 110)],
        Role::Bullet => [(122, 190, 255), (20, 90, 180)],
        Role::Bar => [(96, 165, 235), (50, 115, 195)],
        Role::BarRest => [(48, 53, 65), (218, 222, 230)],
    };
    Some(both[column])
}

fn background(role: Role, column: usize) -> Option<Rgb> {
    let both: [Rgb; 2] = match role {
        Role::Status => [(42, 46, 57), (222, 226, 234)],
        Role::Selected => [(52, 66, 96), (200, 217, 245)],
        _ => return None,
    };
    Some(both[column])
}

fn distance(a: Rgb, b: Rgb) -> u32 {
    let channel = |a: u8, b: u8| u32::from(a.abs_diff(b)).pow(2);
    channel(a.0, b.0) + channel(a.1, b.1) + channel(a.2, b.2)
}

/// The nearest colour of xterm's cube and grey ramp.
fn indexed(rgb: Rgb) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let nearest = |value: u8| (0..6u8).min_by_key(|&i| LEVELS[usize::from(i)].abs_diff(value)).unwrap_or(0);
    let (r, g, b) = (nearest(rgb.0), nearest(rgb.1), nearest(rgb.2));
    let level = |i: u8| LEVELS[usize::from(i)];
    let cube = (16 + 36 * r + 6 * g + b, (level(r), level(g), level(b)));
    let greys = (0..24u8).map(|i| (232 + i, (8 + 10 * i, 8 + 10 * i, 8 + 10 * i)));
    greys.chain([cube]).min_by_key(|&(_, colour)| distance(colour, rgb)).map_or(7, |(index, _)| index)
}

/// The nearest named colour, as most terminals show it.
fn sixteen(rgb: Rgb) -> Color {
    const NAMED: [(Color, Rgb); 16] = [
        (Color::Black, (0, 0, 0)),
        (Color::Red, (170, 0, 0)),
        (Color::Green, (0, 170, 0)),
        (Color::Yellow, (170, 110, 0)),
        (Color::Blue, (0, 60, 200)),
        (Color::Magenta, (170, 0, 170)),
        (Color::Cyan, (0, 170, 170)),
        (Color::Gray, (190, 190, 190)),
        (Color::DarkGray, (90, 90, 90)),
        (Color::LightRed, (255, 90, 90)),
        (Color::LightGreen, (90, 255, 90)),
        (Color::LightYellow, (255, 235, 90)),
        (Color::LightBlue, (90, 150, 255)),
        (Color::LightMagenta, (255, 90, 255)),
        (Color::LightCyan, (90, 240, 255)),
        (Color::White, (255, 255, 255)),
    ];
    NAMED.iter().min_by_key(|(_, colour)| distance(*colour, rgb)).map_or(Color::Reset, |(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn theme(choice: ColourChoice, set: &[(&str, &str)]) -> Theme {
        let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Theme::from_environment(choice, None, value)
    }

    #[test]
    fn the_environment_decides_unless_the_user_does() {
        let xterm = ("TERM", "xterm-256color");
        assert_eq!(
            theme(ColourChoice::Auto, &[xterm]),
            Theme { scheme: ColourScheme::Dark, depth: ColourDepth::Indexed }
        );
        assert_eq!(theme(ColourChoice::Auto, &[xterm, ("NO_COLOR", "1")]), Theme::PLAIN);
        assert_eq!(theme(ColourChoice::Auto, &[("TERM", "dumb")]), Theme::PLAIN);
        assert_eq!(theme(ColourChoice::Never, &[xterm]), Theme::PLAIN);
        assert_eq!(theme(ColourChoice::Always, &[xterm, ("NO_COLOR", "1")]).depth, ColourDepth::Indexed);
        assert_eq!(theme(ColourChoice::Auto, &[("TERM", "linux")]).depth, ColourDepth::Sixteen);
        assert_eq!(theme(ColourChoice::Auto, &[xterm, ("COLORTERM", "truecolor")]).depth, ColourDepth::True);
        assert_eq!(theme(ColourChoice::Auto, &[xterm, ("COLORFGBG", "0;15")]).scheme, ColourScheme::Light);
        assert_eq!(
            theme(ColourChoice::Auto, &[xterm, ("COLORFGBG", "15;default;0")]).scheme,
            ColourScheme::Dark
        );
        assert_eq!(
            theme(ColourChoice::Auto, &[xterm, ("COLORFGBG", "15;0"), ("MOELTEN_THEME", "light")]).scheme,
            ColourScheme::Light
        );
    }

    #[test]
    fn without_colours_no_style_has_one() {
        for role in [Role::Error, Role::Status, Role::Selected, Role::Bar, Role::Link, Role::Dim] {
            let style = Theme::PLAIN.style(role);
            assert_eq!((style.fg, style.bg), (None, None), "{role:?}");
        }
    }

    #[test]
    fn colours_fit_the_terminal() {
        assert_eq!(indexed((255, 0, 0)), 196);
        assert_eq!(indexed((128, 128, 128)), 244);
        assert_eq!(sixteen((250, 250, 250)), Color::White);
    }
}
