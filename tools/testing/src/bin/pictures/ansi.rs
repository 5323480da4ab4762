//! A captured screen as runs of equal style. It understands what `tmux capture-pane -e` prints: texts and SGR
//! sequences (ECMA-48, 8.3.117). It must not know how they are drawn.

/// A colour, red, green and blue.
pub type Colour = [u8; 3];

/// How a text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    /// Its colour; `None` is the terminal's.
    pub text: Option<Colour>,
    /// The colour behind it.
    pub ground: Option<Colour>,
    pub bold: bool,
    pub dim: bool,
    pub italic: bool,
    pub underlined: bool,
    pub reversed: bool,
}

/// A text of one style, and the column that it begins at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub column: usize,
    pub columns: usize,
    pub text: String,
    pub look: Look,
}

/// The lines of a screen with this many columns. Every character takes one column: the pictures have no others.
pub fn lines(screen: &str, columns: usize) -> Vec<Vec<Run>> {
    let mut look = Look::default();
    screen.lines().map(|text| line(text, columns, &mut look)).collect()
}

fn line(text: &str, columns: usize, look: &mut Look) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let (mut column, mut rest) = (0, text);
    while let Some(first) = rest.chars().next() {
        if let Some(sequence) = rest.strip_prefix("\u{1b}[") {
            let end = sequence.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(sequence.len());
            if sequence[end..].starts_with('m') {
                change(look, &sequence[..end]);
            }
            rest = sequence.get(end + 1..).unwrap_or_default();
            continue;
        }
        rest = &rest[first.len_utf8()..];
        // Shift in and out, which choose a set of characters.
        if first.is_control() || column == columns {
            continue;
        }
        match runs.last_mut().filter(|run| run.look == *look) {
            Some(run) => {
                run.text.push(first);
                run.columns += 1;
            }
            None => runs.push(Run { column, columns: 1, text: first.to_string(), look: *look }),
        }
        column += 1;
    }
    runs
}

/// Obeys the parameters of an SGR sequence.
fn change(look: &mut Look, parameters: &str) {
    let numbers: Vec<u8> =
        parameters.split([';', ':']).map(|number| number.parse().unwrap_or_default()).collect();
    let mut numbers = numbers.into_iter();
    while let Some(number) = numbers.next() {
        match number {
            0 => *look = Look::default(),
            1 => look.bold = true,
            2 => look.dim = true,
            3 => look.italic = true,
            4 => look.underlined = true,
            7 => look.reversed = true,
            22 => (look.bold, look.dim) = (false, false),
            23 => look.italic = false,
            24 => look.underlined = false,
            27 => look.reversed = false,
            30..=37 => look.text = Some(indexed(number - 30)),
            90..=97 => look.text = Some(indexed(number - 90 + 8)),
            40..=47 => look.ground = Some(indexed(number - 40)),
            100..=107 => look.ground = Some(indexed(number - 100 + 8)),
            38 => look.text = long(&mut numbers),
            48 => look.ground = long(&mut numbers),
            39 => look.text = None,
            49 => look.ground = None,
            _ => {}
        }
    }
}

/// A colour of a table of 256, or by its parts.
fn long(numbers: &mut impl Iterator<Item = u8>) -> Option<Colour> {
    match numbers.next()? {
        5 => numbers.next().map(indexed),
        2 => Some([numbers.next()?, numbers.next()?, numbers.next()?]),
        _ => None,
    }
}

/// A colour of the table of 256, as xterm has it.
fn indexed(index: u8) -> Colour {
    const BASIC: [Colour; 16] = [
        [0, 0, 0],
        [205, 49, 49],
        [13, 188, 121],
        [229, 229, 16],
        [36, 114, 200],
        [188, 63, 188],
        [17, 168, 205],
        [229, 229, 229],
        [102, 102, 102],
        [241, 76, 76],
        [35, 209, 139],
        [245, 245, 67],
        [59, 142, 234],
        [214, 112, 214],
        [41, 184, 219],
        [255, 255, 255],
    ];
    match index {
        0..16 => BASIC[usize::from(index)],
        16..232 => {
            let part = |number: u8| if number == 0 { 0 } else { 55 + 40 * number };
            let index = index - 16;
            [part(index / 36), part(index / 6 % 6), part(index % 6)]
        }
        _ => [8 + 10 * (index - 232); 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_begin_and_end_where_the_sequences_say() {
        let screen = "a\u{1b}[1;38;2;9;8;7mbc\u{1b}[0m d\n\u{1b}[7m\u{1b}[48;5;196mx\u{1b}[49my\n";
        let lines = lines(screen, 80);
        let texts: Vec<_> = lines[0].iter().map(|run| (run.column, run.text.as_str())).collect();
        assert_eq!(texts, [(0, "a"), (1, "bc"), (3, " d")]);
        let bold = Look { text: Some([9, 8, 7]), bold: true, ..Look::default() };
        assert_eq!((lines[0][1].look, lines[0][2].look), (bold, Look::default()));
        let ground = Look { ground: Some([255, 0, 0]), reversed: true, ..Look::default() };
        assert_eq!(lines[1][0].look, ground);
        assert_eq!(lines[1][1].look, Look { ground: None, ..ground });
        assert_eq!(indexed(255), [238; 3]);
    }

    #[test]
    fn lines_end_at_the_width_of_the_screen() {
        assert_eq!(lines("abcdef", 3)[0][0].text, "abc");
    }
}
