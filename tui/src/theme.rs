//! Colours by what they mean: views name a role, the theme knows its style on a dark, a light or a colourless terminal.
//! It must not know what is drawn.

use std::env;

use ratatui::style::{Color, Modifier, Style};

/// What a piece of the screen is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Ordinary text, in the terminal's own colour.
    Text,
    /// Beside the point: hints, folded thoughts, units.
    Dim,
    /// What the person wrote, and where they type.
    Person,
    /// Names and values to be found at a glance.
    Accent,
    /// Something went well.
    Good,
    /// To be seen.
    Warning,
    /// It did not work.
    Error,
    /// Borders and rules.
    Frame,
    /// A bar of facts below or above everything.
    Status,
    /// The chosen line of a list.
    Selected,
    /// A heading.
    Heading,
    /// `code` inside a line.
    Code,
    /// Lines of code.
    CodeBlock,
    /// Words of a programming language.
    Keyword,
    /// Text inside code.
    Literal,
    /// Numbers inside code.
    Number,
    /// Comments inside code.
    Comment,
    /// Where a link leads.
    Link,
    /// Somebody else's words.
    Quote,
    /// Marks of lists.
    Bullet,
    /// The filled part of a bar.
    Bar,
    /// The rest of it.
    BarRest,
    /// An expert that is not in memory.
    Absent,
    /// An expert that is in memory.
    Resident,
    /// An expert in use now.
    Used,
    /// An expert on its way.
    Loading,
    /// A guess that was right.
    GuessedRight,
    /// A guess that was wrong.
    GuessedWrong,
}

/// What the terminal's background is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Look {
    /// Light text on a dark ground.
    #[default]
    Dark,
    /// Dark text on a light ground.
    Light,
    /// No colours at all.
    Plain,
}

/// Whether colours are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// As the terminal and `NO_COLOR` say.
    #[default]
    Auto,
    /// In any case.
    Always,
    /// In no case.
    Never,
}

/// Colours that a terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Depth {
    /// The 16 named ones.
    Sixteen,
    /// The 256 of xterm.
    #[default]
    Indexed,
    /// All.
    True,
}

/// Styles of all roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Theme {
    /// The terminal's ground.
    pub look: Look,
    /// Its colours.
    pub depth: Depth,
}

/// Red, green, blue.
type Rgb = (u8, u8, u8);

impl Theme {
    /// A theme without colours.
    pub const PLAIN: Self = Self { look: Look::Plain, depth: Depth::Sixteen };

    /// Asks the environment. `look` is what the person chose, if they did; `MOELTEN_THEME` and `COLORFGBG` come after it.
    pub fn detect(choice: Choice, look: Option<Look>) -> Self {
        let value = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        Self::from_environment(choice, look, value)
    }

    fn from_environment(choice: Choice, look: Option<Look>, value: impl Fn(&str) -> Option<String>) -> Self {
        let term = value("TERM").unwrap_or_default();
        // Any value but an empty one (no-color.org). Windows has no TERM.
        let unwelcome = value("NO_COLOR").is_some() || term == "dumb" || (cfg!(unix) && term.is_empty());
        if choice == Choice::Never || (choice == Choice::Auto && unwelcome) {
            return Self::PLAIN;
        }
        let depth = match value("COLORTERM").as_deref() {
            Some("truecolor" | "24bit") => Depth::True,
            Some(_) => Depth::Indexed,
            None if term.contains("256") || cfg!(windows) => Depth::Indexed,
            None => Depth::Sixteen,
        };
        let named = value("MOELTEN_THEME").and_then(|name| match name.as_str() {
            "dark" => Some(Look::Dark),
            "light" => Some(Look::Light),
            _ => None,
        });
        // `15;0` is white on black: the last number is the ground, and 7 and 9 to 15 are light ones.
        let ground = value("COLORFGBG").and_then(|value| value.rsplit(';').next()?.parse::<u8>().ok());
        let ground = ground.map(|ground| if matches!(ground, 7 | 9..=15) { Look::Light } else { Look::Dark });
        Self { look: look.or(named).or(ground).unwrap_or_default(), depth }
    }

    /// Whether there are colours.
    pub fn coloured(self) -> bool {
        self.look != Look::Plain
    }

    /// The style of a role.
    pub fn style(self, role: Role) -> Style {
        let style = Style::new().add_modifier(modifiers(role, self.coloured()));
        let Some(look) = self.palette() else { return style };
        let style = match foreground(role, look) {
            Some(rgb) => style.fg(self.fit(rgb)),
            None => style,
        };
        match background(role, look) {
            Some(rgb) => style.bg(self.fit(rgb)),
            None => style,
        }
    }

    /// The colour of a role, for views that mix their own; [`Color::Reset`] without colours.
    pub fn colour(self, role: Role) -> Color {
        self.style(role).fg.unwrap_or(Color::Reset)
    }

    /// The colour of a role with others over it, each covering a share, 0 to 1, of what is below. [`Color::Reset`] without
    /// colours.
    pub fn blend(self, ground: Role, over: &[(Role, f64)]) -> Color {
        let Some(look) = self.palette() else { return Color::Reset };
        let Some(ground) = foreground(ground, look) else { return Color::Reset };
        let cover = |below, &(role, share): &(Role, f64)| {
            foreground(role, look).map_or(below, |above| mix(below, above, share.clamp(0.0, 1.0)))
        };
        self.fit(over.iter().fold(ground, cover))
    }

    /// Which column of the tables is in use.
    fn palette(self) -> Option<usize> {
        match self.look {
            Look::Dark => Some(0),
            Look::Light => Some(1),
            Look::Plain => None,
        }
    }

    fn fit(self, rgb: Rgb) -> Color {
        match self.depth {
            Depth::True => Color::Rgb(rgb.0, rgb.1, rgb.2),
            Depth::Indexed => Color::Indexed(indexed(rgb)),
            Depth::Sixteen => sixteen(rgb),
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

/// On dark and on light ground; `None` is the terminal's own.
fn foreground(role: Role, look: usize) -> Option<Rgb> {
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
        Role::Absent => [(36, 40, 50), (228, 231, 238)],
        Role::Resident => [(52, 92, 150), (150, 185, 230)],
        Role::Used => [(255, 205, 100), (215, 110, 0)],
        Role::Loading => [(90, 220, 235), (0, 150, 175)],
        Role::GuessedRight => [(105, 215, 120), (25, 150, 60)],
        Role::GuessedWrong => [(230, 85, 105), (205, 40, 70)],
    };
    Some(both[look])
}

fn background(role: Role, look: usize) -> Option<Rgb> {
    let both: [Rgb; 2] = match role {
        Role::Status => [(42, 46, 57), (222, 226, 234)],
        Role::Selected => [(52, 66, 96), (200, 217, 245)],
        _ => return None,
    };
    Some(both[look])
}

fn mix(from: Rgb, to: Rgb, share: f64) -> Rgb {
    let channel =
        |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * share).round() as u8;
    (channel(from.0, to.0), channel(from.1, to.1), channel(from.2, to.2))
}

fn distance(a: Rgb, b: Rgb) -> u32 {
    let channel = |a: u8, b: u8| u32::from(a.abs_diff(b)).pow(2);
    channel(a.0, b.0) + channel(a.1, b.1) + channel(a.2, b.2)
}

/// The nearest of xterm's colour cube and its greys.
fn indexed(rgb: Rgb) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let nearest = |value: u8| (0..6u8).min_by_key(|&i| LEVELS[usize::from(i)].abs_diff(value)).unwrap_or(0);
    let (r, g, b) = (nearest(rgb.0), nearest(rgb.1), nearest(rgb.2));
    let level = |i: u8| LEVELS[usize::from(i)];
    let cube = (16 + 36 * r + 6 * g + b, (level(r), level(g), level(b)));
    let greys = (0..24u8).map(|i| (232 + i, (8 + 10 * i, 8 + 10 * i, 8 + 10 * i)));
    greys.chain([cube]).min_by_key(|&(_, colour)| distance(colour, rgb)).map_or(7, |(index, _)| index)
}

/// The nearest of the named colours, as most terminals show them.
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

    fn theme(choice: Choice, set: &[(&str, &str)]) -> Theme {
        let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        Theme::from_environment(choice, None, value)
    }

    #[test]
    fn the_environment_decides_unless_a_person_does() {
        let xterm = ("TERM", "xterm-256color");
        assert_eq!(theme(Choice::Auto, &[xterm]), Theme { look: Look::Dark, depth: Depth::Indexed });
        assert_eq!(theme(Choice::Auto, &[xterm, ("NO_COLOR", "1")]), Theme::PLAIN);
        assert_eq!(theme(Choice::Auto, &[("TERM", "dumb")]), Theme::PLAIN);
        assert_eq!(theme(Choice::Never, &[xterm]), Theme::PLAIN);
        assert_eq!(theme(Choice::Always, &[xterm, ("NO_COLOR", "1")]).depth, Depth::Indexed);
        assert_eq!(theme(Choice::Auto, &[("TERM", "linux")]).depth, Depth::Sixteen);
        assert_eq!(theme(Choice::Auto, &[xterm, ("COLORTERM", "truecolor")]).depth, Depth::True);
        assert_eq!(theme(Choice::Auto, &[xterm, ("COLORFGBG", "0;15")]).look, Look::Light);
        assert_eq!(theme(Choice::Auto, &[xterm, ("COLORFGBG", "15;default;0")]).look, Look::Dark);
        assert_eq!(
            theme(Choice::Auto, &[xterm, ("COLORFGBG", "15;0"), ("MOELTEN_THEME", "light")]).look,
            Look::Light
        );
    }

    #[test]
    fn without_colours_no_style_has_one() {
        for role in [Role::Error, Role::Status, Role::Selected, Role::Used, Role::Link, Role::Dim] {
            let style = Theme::PLAIN.style(role);
            assert_eq!((style.fg, style.bg), (None, None), "{role:?}");
        }
        assert_eq!(Theme::PLAIN.blend(Role::Absent, &[(Role::Used, 0.5)]), Color::Reset);
    }

    #[test]
    fn colours_fit_the_terminal() {
        assert_eq!(indexed((255, 0, 0)), 196);
        assert_eq!(indexed((128, 128, 128)), 244);
        assert_eq!(sixteen((250, 250, 250)), Color::White);
        let theme = Theme { look: Look::Dark, depth: Depth::True };
        assert_eq!(theme.blend(Role::Absent, &[(Role::Used, 0.0)]), theme.colour(Role::Absent));
        assert_eq!(theme.blend(Role::Absent, &[(Role::Used, 1.0)]), theme.colour(Role::Used));
        let half = theme.blend(Role::Absent, &[(Role::Used, 0.0), (Role::Resident, 0.5)]);
        assert!(half != theme.colour(Role::Absent) && half != theme.colour(Role::Resident));
    }
}
