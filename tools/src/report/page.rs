//! Text for people on stdout: fitted to the width of the terminal, with coloured verdicts. In a pipe it is
//! printed as it is. It must not know what the text says.

use std::io::{self, Write};

use moelten_tui::filter;
use moelten_tui::terminal::{fold, stdout_columns, stdout_styled};

/// Prints a text of one or more lines.
///
/// # Errors
/// Writing to stdout failed.
pub fn print(text: &str) -> io::Result<()> {
    let page = Page { columns: stdout_columns(), styled: stdout_styled() };
    let mut out = io::stdout().lock();
    out.write_all(page.dress(text).as_bytes())?;
    out.flush()
}

/// How a text is printed.
struct Page {
    /// Columns of the terminal; `None` in a pipe.
    columns: Option<usize>,
    /// Whether to use colours.
    styled: bool,
}

/// Words that say how something ended, where they may stand, and the parameter of their colour (SGR).
const VERDICTS: [(&str, u8); 6] =
    [("RAM", 32), ("STREAM", 33), ("NO", 31), ("DAMAGED", 31), ("NOT ENOUGH", 31), ("sound", 32)];

impl Page {
    fn dress(&self, text: &str) -> String {
        let mut out = String::new();
        for line in filter::clean(text).split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            let lines = self.columns.map_or_else(|| vec![line.to_owned()], |columns| fold(line, columns));
            let dressed: Vec<_> = lines.iter().map(|line| self.coloured(line)).collect();
            out.push_str(&dressed.join("\n"));
            out.push_str(end);
        }
        out
    }

    /// The line with its verdict in colour, if it has one.
    fn coloured(&self, line: &str) -> String {
        let found = VERDICTS.iter().find_map(|&(word, code)| Some((verdict(line, word)?, word, code)));
        match found {
            Some((at, word, code)) if self.styled => {
                let (before, rest) = line.split_at(at);
                format!("{before}\u{1b}[{code}m{word}\u{1b}[0m{}", &rest[word.len()..])
            }
            _ => line.to_owned(),
        }
    }
}

/// Where a line has `word` as its verdict: at its beginning, after its name, or after a size. In other places
/// it is a word like others, such as the speed of RAM.
fn verdict(line: &str, word: &str) -> Option<usize> {
    line.match_indices(word).map(|(at, _)| at).find(|&at| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let begins = before.is_empty() || before.ends_with(": ") || before.ends_with("B  ");
        let labels = before.trim().is_empty() && matches!(word, "DAMAGED" | "sound");
        (begins || labels) && !after.starts_with(char::is_alphanumeric)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_gets_the_text_as_it_is() {
        let text = format!("m: STREAM, {}\n  RAM   8.1 GB/s\n", "word ".repeat(40));
        assert_eq!(Page { columns: None, styled: false }.dress(&text), text);
    }

    #[test]
    fn verdicts_are_coloured_where_they_are_verdicts() {
        let page = Page { columns: Some(80), styled: true };
        for (line, coloured) in [
            ("m.gguf: STREAM, runs", "m.gguf: \u{1b}[33mSTREAM\u{1b}[0m, runs"),
            ("RAM       4.2 GB  olmoe", "\u{1b}[32mRAM\u{1b}[0m       4.2 GB  olmoe"),
            ("m: NO, does not fit", "m: \u{1b}[31mNO\u{1b}[0m, does not fit"),
            ("  Q4_K_M    4.2 GB  RAM", "  Q4_K_M    4.2 GB  \u{1b}[32mRAM\u{1b}[0m"),
            ("  DAMAGED         a: missing", "  \u{1b}[31mDAMAGED\u{1b}[0m         a: missing"),
            ("  RAM              8.1  GB/s", "  RAM              8.1  GB/s"),
            ("decode 10 tok/s of RAM", "decode 10 tok/s of RAM"),
            ("NOTES: none", "NOTES: none"),
        ] {
            assert_eq!(page.dress(line), coloured);
        }
        assert_eq!(Page { columns: Some(80), styled: false }.dress("m: NO, x"), "m: NO, x");
    }
}
