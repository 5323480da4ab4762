//! Line plots over 0 to 100 % on both axes: coloured braille dots on a terminal, letters elsewhere. It must
//! not know what the lines mean.

/// Rows of the plot.
const ROWS: usize = 16;
/// Columns left of the plot: percentages and axis.
const MARGIN: usize = 6;
/// Widest plot, in columns.
const COLUMNS_MAX: usize = 72;
/// Dots of a braille character.
const DOTS: (usize, usize) = (2, 4);
/// Bits of the dots in a braille character, `[row][column]` (Unicode, block U+2800).
const DOT_BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
/// Colours of the lines in order (SGR): blue, yellow, green, magenta.
const COLOURS: [u8; 4] = [34, 33, 32, 35];

/// A line: heights of 0 to 1 over places of 0 to 1.
pub struct Line<'a> {
    /// Shown in the legend.
    pub name: &'a str,
    /// The letter that draws it without colours.
    pub mark: char,
    /// Height at a place.
    pub height: &'a dyn Fn(f64) -> f64,
}

/// Draws at most four lines within `columns`, later ones on top. `coloured` adds escape sequences.
pub fn draw(lines: &[Line<'_>], columns: usize, coloured: bool) -> String {
    let width = columns.saturating_sub(MARGIN + 1).clamp(10, COLUMNS_MAX);
    let (grid, marks): (Vec<Vec<String>>, Vec<String>) = if coloured {
        let paint = |line: usize, text: &str| format!("\u{1b}[{}m{text}\u{1b}[0m", COLOURS[line]);
        let cell = |cell: Option<(usize, u32)>| match cell {
            None => " ".to_owned(),
            Some((line, bits)) => {
                paint(line, char::from_u32(0x2800 + bits).unwrap_or(' ').encode_utf8(&mut [0; 4]))
            }
        };
        let grid = braille(lines, width).into_iter().map(|row| row.into_iter().map(cell).collect());
        (grid.collect(), (0..lines.len()).map(|line| paint(line, "\u{2501}\u{2501}")).collect())
    } else {
        let grid = letters(lines, width).into_iter().map(|row| row.into_iter().map(String::from).collect());
        (grid.collect(), lines.iter().map(|line| line.mark.to_string()).collect())
    };
    let mut out = String::new();
    for (row, cells) in grid.iter().enumerate() {
        // A label at every fifth row: 100, 67, 33 and 0 %.
        let percent = (100.0 * (ROWS - 1 - row) as f64 / (ROWS - 1) as f64).round();
        let label = if row % 5 == 0 { format!("{percent:>3} %") } else { " ".repeat(5) };
        out.push_str(&format!("{label}|{}", cells.concat()).trim_end().replace("%|", "%+"));
        out.push('\n');
    }
    let axis = "-".repeat(width);
    out.push_str(&format!("     +{axis}\n      0 %{:>width$}\n", "100 %", width = width - 3));
    let legend: Vec<String> =
        lines.iter().zip(marks).map(|(line, mark)| format!("{mark} {}", line.name)).collect();
    let several = if coloured { "" } else { "   * several" };
    out.push_str(&format!("      {}{several}\n", legend.join("   ")));
    out
}

/// Row of a height, from the top of `rows`.
fn row(height: f64, rows: usize) -> usize {
    // Casts of floats saturate; NaN is 0.
    rows - 1 - ((height.clamp(0.0, 1.0) * (rows - 1) as f64).round() as usize).min(rows - 1)
}

fn letters(lines: &[Line<'_>], width: usize) -> Vec<Vec<char>> {
    let mut grid = vec![vec![' '; width]; ROWS];
    for line in lines {
        for column in 0..width {
            let cell = &mut grid[row((line.height)(place(column, width)), ROWS)][column];
            *cell = if *cell == ' ' { line.mark } else { '*' };
        }
    }
    grid
}

/// For each cell the topmost line in it and its dots.
fn braille(lines: &[Line<'_>], width: usize) -> Vec<Vec<Option<(usize, u32)>>> {
    let mut grid = vec![vec![None; width]; ROWS];
    let (across, down) = (width * DOTS.0, ROWS * DOTS.1);
    for (number, line) in lines.iter().enumerate() {
        let mut before = None;
        for x in 0..across {
            let y = row((line.height)(place(x, across)), down);
            // Connect to the previous height without a gap.
            let from = before.replace(y).unwrap_or(y);
            for y in from.min(y)..=from.max(y) {
                let bit = DOT_BITS[y % DOTS.1][x % DOTS.0];
                let cell = &mut grid[y / DOTS.1][x / DOTS.0];
                *cell = match *cell {
                    Some((on_top, bits)) if on_top == number => Some((number, bits | bit)),
                    _ => Some((number, bit)),
                };
            }
        }
    }
    grid
}

/// The place of a column, 0 to 1.
fn place(column: usize, width: usize) -> f64 {
    column as f64 / (width - 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(coloured: bool) -> String {
        let (diagonal, constant) = (|x| x, |_| 1.0);
        let lines = [
            Line { name: "up", mark: 'U', height: &diagonal },
            Line { name: "const", mark: 'C', height: &constant },
        ];
        draw(&lines, 37, coloured)
    }

    #[test]
    fn letters_stand_where_the_lines_are() {
        let text = drawn(false);
        let rows: Vec<&str> = text.lines().collect();
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 37), "{text}");
        assert_eq!(rows[0], format!("100 %+{}*", "C".repeat(29)), "both end at the top right\n{text}");
        assert_eq!(rows[15], "  0 %+U");
        assert!(rows[5].starts_with(" 67 %+") && rows[10].starts_with(" 33 %+"), "{text}");
        assert_eq!(rows[16], format!("     +{}", "-".repeat(30)));
        assert!(rows[17].starts_with("      0 % ") && rows[17].ends_with(" 100 %"), "{text}");
        assert_eq!(rows[18].trim(), "U up   C const   * several");
        // A line between the corners: each column has its letter.
        let letters: usize = rows[1..16].iter().map(|row| row.matches('U').count()).sum();
        assert_eq!(letters, 29);
    }

    #[test]
    fn dots_are_braille_in_colours_and_nothing_else() {
        let text = drawn(true);
        let plain: String =
            text.split('\u{1b}').map(|part| part.split_once('m').map_or(part, |(_, t)| t)).collect();
        assert!(
            plain.chars().all(|c| c.is_ascii() || ('\u{2800}'..='\u{28ff}').contains(&c) || c == '\u{2501}')
        );
        // The lower left corner has the diagonal's first dot.
        let last = plain.lines().nth(15).unwrap();
        let dots = last.chars().nth(6).unwrap() as u32 - 0x2800;
        assert_eq!(dots & DOT_BITS[3][0], DOT_BITS[3][0]);
        assert_eq!(plain.lines().next().unwrap().chars().count(), 6 + 30);
    }

    #[test]
    fn no_height_is_outside() {
        for (height, expected) in [(f64::NAN, 15), (-1.0, 15), (0.0, 15), (1.0, 0), (7.0, 0)] {
            assert_eq!(row(height, ROWS), expected);
        }
    }
}
