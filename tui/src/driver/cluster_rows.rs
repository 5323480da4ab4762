//! Rows with graphemes of several characters: flags, emoji with joiners, Devanagari, combining marks. Many
//! terminals give each of their characters a cell of its own, in more or other columns than Unicode says.
//! ratatui writes only the cells that it believes have changed, so parts of such graphemes would stay
//! behind. These rows are erased and written again as a whole. It must not know what is drawn.

use std::collections::BTreeMap;
use std::io;

use crossterm::cursor::{MoveTo, RestorePosition, SavePosition};
use crossterm::queue;
use crossterm::terminal::{Clear, ClearType};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::{Buffer, Cell, CellWidth};

/// The rows of the last frame that have such graphemes.
#[derive(Debug, Default)]
pub struct ClusterRows(BTreeMap<u16, Vec<Cell>>);

impl ClusterRows {
    /// What has to be written after a frame that has just been drawn: each row that has such graphemes or
    /// had some before, unless it is unchanged. Empty if there is none. The cursor stays where it is.
    ///
    /// # Errors
    /// None: the bytes are collected in memory.
    pub fn update(&mut self, frame: &Buffer) -> io::Result<Vec<u8>> {
        let width = usize::from(frame.area.width).max(1);
        let rows = || (frame.area.y..).zip(frame.content.chunks(width));
        let now: BTreeMap<u16, Vec<Cell>> = rows()
            .filter(|(_, cells)| cells.iter().any(|cell| is_cluster(cell.symbol())))
            .map(|(y, cells)| (y, cells.to_vec()))
            .collect();
        let before = std::mem::replace(&mut self.0, now);
        let now = &self.0;
        let mut bytes = Vec::new();
        for (y, cells) in rows().filter(|(y, _)| before.get(y) != now.get(y)) {
            if bytes.is_empty() {
                queue!(bytes, SavePosition)?;
            }
            queue!(bytes, MoveTo(frame.area.x, y), Clear(ClearType::UntilNewLine))?;
            CrosstermBackend::new(&mut bytes).draw(written(cells, frame.area.x, y))?;
        }
        if !bytes.is_empty() {
            queue!(bytes, RestorePosition)?;
        }
        Ok(bytes)
    }
}

/// Whether a cell's text is a grapheme of several characters.
fn is_cluster(symbol: &str) -> bool {
    symbol.len() > 1 && symbol.chars().nth(1).is_some()
}

/// The cells of a row that has been erased, without those below a wide character.
fn written(cells: &[Cell], left: u16, y: u16) -> impl Iterator<Item = (u16, u16, &Cell)> {
    let mut below = 0;
    (left..).zip(cells).filter_map(move |(x, cell)| {
        if below > 0 {
            below -= 1;
            return None;
        }
        below = cell.cell_width().max(1) - 1;
        (*cell != Cell::EMPTY).then_some((x, y, cell))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written after a frame with these rows.
    fn after(rows: &mut ClusterRows, lines: &[&str]) -> String {
        let bytes = rows.update(&Buffer::with_lines(lines.iter().copied())).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    const FLAG: &str = "\u{1f1e9}\u{1f1ea}";

    #[test]
    fn only_rows_with_clusters_are_written_again() {
        let mut rows = ClusterRows::default();
        assert_eq!(after(&mut rows, &["plain", "\u{4e16}\u{754c}"]), "", "wide characters are no clusters");
        let flag = format!("a {FLAG} b");
        let first = after(&mut rows, &["plain", &flag]);
        let erased = "\u{1b}[2;1H\u{1b}[K";
        assert!(first.starts_with(&format!("\u{1b}7{erased}")) && first.ends_with("\u{1b}8"), "{first:?}");
        // What follows the flag stands in its own column, whatever the terminal gives the flag.
        let flag_at = first.find(FLAG).unwrap();
        let after_it = first.find("\u{1b}[2;6Hb").unwrap();
        assert!(flag_at < after_it && !first.contains("plain"), "{first:?}");
        assert_eq!(after(&mut rows, &["other", &flag]), "", "the row is unchanged");
        // A row is erased once more when its last cluster goes.
        let gone = after(&mut rows, &[&flag, "b"]);
        assert!(gone.contains("\u{1b}[1;1H\u{1b}[K") && gone.contains(erased), "{gone:?}");
        assert_eq!(gone.matches(FLAG).count(), 1, "{gone:?}");
        let last = after(&mut rows, &["", "b"]);
        assert!(last.contains("\u{1b}[1;1H\u{1b}[K") && !last.contains(erased), "{last:?}");
        assert_eq!(after(&mut rows, &["", "c"]), "");
    }

    #[test]
    fn graphemes_of_several_characters_are_clusters() {
        for text in [FLAG, "e\u{301}", "\u{928}\u{93f}", "\u{2764}\u{fe0f}", "\u{e01}\u{e33}"] {
            assert!(is_cluster(text), "{text:?}");
        }
        for text in ["", "a", "\u{e9}", "\u{4e16}", "\u{1f44b}", "\u{2500}"] {
            assert!(!is_cluster(text), "{text:?}");
        }
    }
}
