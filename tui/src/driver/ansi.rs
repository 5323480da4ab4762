//! Styled lines as text with escape sequences, for the ordinary screen. It must not know what a line says;
//! its text was filtered before.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;

/// A line as text; without `styled`, without escape sequences.
pub fn line(line: &Line<'_>, styled: bool) -> String {
    let mut out = String::new();
    for span in &line.spans {
        let codes = if styled { codes(line.style.patch(span.style)) } else { Vec::new() };
        if codes.is_empty() {
            out.push_str(&span.content);
        } else {
            out.push_str(&format!("\u{1b}[{}m{}\u{1b}[0m", codes.join(";"), span.content));
        }
    }
    // Blanks at the end would be selected with the text.
    if styled { out } else { out.trim_end().to_owned() }
}

/// The parameters of the sequence that selects a style (ECMA-48, SGR).
fn codes(style: Style) -> Vec<String> {
    const MODIFIERS: [(Modifier, u8); 5] = [
        (Modifier::BOLD, 1),
        (Modifier::DIM, 2),
        (Modifier::ITALIC, 3),
        (Modifier::UNDERLINED, 4),
        (Modifier::REVERSED, 7),
    ];
    let set = MODIFIERS.iter().filter(|(modifier, _)| style.add_modifier.contains(*modifier));
    let mut codes: Vec<_> = set.map(|(_, code)| code.to_string()).collect();
    codes.extend(style.fg.and_then(|colour| code(colour, 30)));
    codes.extend(style.bg.and_then(|colour| code(colour, 40)));
    codes
}

/// The parameter of a colour; `base` is 30 for the text and 40 for its background.
fn code(colour: Color, base: u8) -> Option<String> {
    let named = |number: u8| Some(format!("{}", base + number));
    let bright = |number: u8| Some(format!("{}", base + 60 + number));
    match colour {
        Color::Reset => None,
        Color::Black => named(0),
        Color::Red => named(1),
        Color::Green => named(2),
        Color::Yellow => named(3),
        Color::Blue => named(4),
        Color::Magenta => named(5),
        Color::Cyan => named(6),
        Color::Gray => named(7),
        Color::DarkGray => bright(0),
        Color::LightRed => bright(1),
        Color::LightGreen => bright(2),
        Color::LightYellow => bright(3),
        Color::LightBlue => bright(4),
        Color::LightMagenta => bright(5),
        Color::LightCyan => bright(6),
        Color::White => bright(7),
        Color::Indexed(index) => Some(format!("{};5;{index}", base + 8)),
        Color::Rgb(r, g, b) => Some(format!("{};2;{r};{g};{b}", base + 8)),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::text::Span;

    use super::*;

    #[test]
    fn styles_become_sequences_and_plain_text_has_none() {
        let bold = Style::new().fg(Color::Indexed(75)).add_modifier(Modifier::BOLD);
        let spans = vec![Span::raw("a "), Span::styled("b", bold), Span::raw("  ")];
        let styled = Line::from(spans).style(Style::new().fg(Color::LightRed));
        assert_eq!(
            line(&styled, true),
            "\u{1b}[91ma \u{1b}[0m\u{1b}[1;38;5;75mb\u{1b}[0m\u{1b}[91m  \u{1b}[0m"
        );
        assert_eq!(line(&styled, false), "a b");
        assert_eq!(line(&Line::raw("x"), true), "x");
    }
}
