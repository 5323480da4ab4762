//! Lines of styled text as an SVG file. It must not know where they come from.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::ansi::{Colour, Look, Run};

/// Width and height of a character, and the margin, in pixels. Widths are in tenths.
const WIDTH: usize = 84;
const HEIGHT: usize = 17;
const MARGIN: usize = 14;
/// Distance of the base line from the top of a row.
const BASE: usize = 13;
const GROUND: Colour = [22, 24, 29];
const TEXT: Colour = [208, 212, 220];

/// Draws a screen. Styles become classes, so that the file stays small.
pub fn draw(title: &str, lines: &[Vec<Run>], columns: usize, rows: usize) -> String {
    let (width, height) = (columns * WIDTH / 10 + 2 * MARGIN, rows * HEIGHT + 2 * MARGIN);
    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    let mut body = String::new();
    for (row, line) in lines.iter().enumerate() {
        grounds(line, row, &mut body);
        texts(line, row, &mut classes, &mut body);
    }
    let mut styles = String::new();
    for (style, number) in &classes {
        let _ = write!(styles, ".c{number}{{{style}}}");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         role=\"img\"><title>{}</title><style>text{{white-space:pre;fill:{}}}{styles}</style>\n<rect width=\"100%\" \
         height=\"100%\" rx=\"8\" fill=\"{}\"/>\n<g transform=\"translate({MARGIN},{MARGIN})\" font-family=\"\
         ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace\" font-size=\"14\">\n{body}</g></svg>\n",
        escaped(title),
        hex(TEXT),
        hex(GROUND),
    )
}

/// Tenths of a pixel as a number of pixels.
fn pixels(tenths: usize) -> String {
    if tenths.is_multiple_of(10) {
        (tenths / 10).to_string()
    } else {
        format!("{}.{}", tenths / 10, tenths % 10)
    }
}

/// The colours behind the texts of a line.
fn grounds(line: &[Run], row: usize, out: &mut String) {
    let mut next: Option<(usize, usize, Colour)> = None;
    let mut write = |rect: Option<(usize, usize, Colour)>| {
        if let Some((column, columns, colour)) = rect {
            let (x, width) = (pixels(column * WIDTH), pixels(columns * WIDTH));
            let (y, colour) = (row * HEIGHT, hex(colour));
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{HEIGHT}\" fill=\"{colour}\"/>"
            );
        }
    };
    for run in line {
        let Some(colour) = colours(run.look).1 else { continue };
        match &mut next {
            Some((column, columns, same)) if *column + *columns == run.column && *same == colour => {
                *columns += run.columns;
            }
            _ => write(next.replace((run.column, run.columns, colour))),
        }
    }
    write(next);
}

/// The texts of a line, each at its column.
fn texts(line: &[Run], row: usize, classes: &mut BTreeMap<String, usize>, out: &mut String) {
    let y = row * HEIGHT + BASE;
    for run in line {
        let text = run.text.trim_end();
        let blanks = text.chars().take_while(|c| *c == ' ').count();
        let text = &text[blanks..];
        if text.is_empty() {
            continue;
        }
        let style = style(run.look);
        let count = classes.len();
        let class = if style.is_empty() {
            String::new()
        } else {
            format!(" class=\"c{}\"", classes.entry(style).or_insert(count))
        };
        let (x, length) = (pixels((run.column + blanks) * WIDTH), pixels(text.chars().count() * WIDTH));
        let text = escaped(text);
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" textLength=\"{length}\"{class}>{text}</text>");
    }
}

/// The colours of a text and behind it.
fn colours(look: Look) -> (Option<Colour>, Option<Colour>) {
    match look.reversed {
        true => (Some(look.ground.unwrap_or(GROUND)), Some(look.text.unwrap_or(TEXT))),
        false => (look.text, look.ground),
    }
}

fn style(look: Look) -> String {
    let mut style = String::new();
    if let Some(colour) = colours(look).0 {
        let _ = write!(style, "fill:{};", hex(colour));
    }
    for (is, words) in [
        (look.bold, "font-weight:bold;"),
        (look.dim, "opacity:.6;"),
        (look.italic, "font-style:italic;"),
        (look.underlined, "text-decoration:underline;"),
    ] {
        if is {
            style.push_str(words);
        }
    }
    style
}

fn hex([red, green, blue]: Colour) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ansi::lines;

    #[test]
    fn texts_are_placed_by_their_columns_and_colours_lie_behind_them() {
        let screen = "  a<b\u{1b}[48;2;1;2;3mcd\u{1b}[1me\u{1b}[0m   ";
        let svg = draw("T & t", &lines(screen, 20), 20, 1);
        assert!(svg.contains("<title>T &amp; t</title>"), "{svg}");
        assert!(svg.contains("<text x=\"16.8\" y=\"13\" textLength=\"25.2\">a&lt;b</text>"), "{svg}");
        let behind = "<rect x=\"42\" y=\"0\" width=\"25.2\" height=\"17\" fill=\"#010203\"/>";
        assert_eq!(svg.matches(behind).count(), 1, "one for the whole stretch: {svg}");
        assert!(svg.contains(".c0{font-weight:bold;}") && svg.contains("class=\"c0\">e<"), "{svg}");
    }
}
