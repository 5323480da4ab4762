//! Lines of this program's texts in rows for a terminal, broken between words. It must not know what they
//! say.

use unicode_width::UnicodeWidthStr;

/// Smallest width of what is continued below itself, in columns.
const LAST_MIN: usize = 20;
/// Indentation of a line that is indented too far for a narrow terminal.
const NARROW: usize = 2;

/// A line in rows of at most `columns` columns. The last column of a table is continued below itself. Words
/// are not broken: paths and names of models are copied.
pub fn fold(line: &str, columns: usize) -> Vec<String> {
    if line.width() <= columns {
        return vec![line.to_owned()];
    }
    let indent = line.len() - line.trim_start_matches(' ').len();
    let narrow = columns < indent + LAST_MIN && indent > NARROW;
    let (line, indent) = if narrow { (&line[indent - NARROW..], NARROW) } else { (line, indent) };
    let table = line.rfind("  ").map_or(indent, |gap| gap + 2);
    let at = if columns >= line[..table].width() + LAST_MIN { table } else { indent };
    let (first, rest) = line.split_at(at);
    let column = first.width();
    let mut rows = vec![first.to_owned()];
    let mut used = column;
    for word in rest.split(' ') {
        let row = rows.last_mut().expect("there is a first row");
        if used == column {
            row.push_str(word);
        } else if used + 1 + word.width() > columns {
            rows.push(format!("{}{word}", " ".repeat(column)));
            used = column;
        } else {
            row.push(' ');
            row.push_str(word);
            used += 1;
        }
        used += word.width();
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_go_on_below_their_last_column() {
        let line =
            "  experts          1.2 GB  25 of 64 in each of 24 layers, and 8 slots for reads in flight";
        assert_eq!(
            fold(line, 60),
            [
                "  experts          1.2 GB  25 of 64 in each of 24 layers,",
                "                           and 8 slots for reads in flight",
            ]
        );
        assert!(fold(line, 30).iter().all(|row| row.len() <= 30));
        assert!(fold(&"word ".repeat(30), 20).iter().all(|row| row.len() <= 20));
        assert_eq!(fold(&"x".repeat(50), 20), ["x".repeat(50)], "a word is not broken");
        assert_eq!(fold("漢字 漢字 漢字", 10), ["漢字 漢字", "漢字"]);
        assert_eq!(fold(&"\u{3000}".repeat(30), 20).len(), 1, "wide spaces are no indentation");
    }

    #[test]
    fn what_is_indented_too_far_for_a_narrow_terminal_is_indented_less() {
        let line = format!("{:35}Fast general chat in eight languages", "");
        assert_eq!(fold(&line, 40), ["  Fast general chat in eight languages"]);
        assert_eq!(fold(&line, 60)[1], format!("{:35}eight languages", ""));
    }
}
