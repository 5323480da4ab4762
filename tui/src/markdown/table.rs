//! Tables: columns as wide as their text, narrowed when the table is too wide, and one line for each cell
//! when even narrow columns do not fit. It must not know the Markdown of a cell.

use pulldown_cmark::Alignment;
use ratatui::style::{Modifier, Style};
use ratatui::text::Span;
use unicode_width::UnicodeWidthStr;

use super::filter;
use super::theme::{Role, Theme};
use super::wrap::{self, Spans};

/// The separator of two columns.
const BETWEEN: &str = " │ ";
/// Longest word, in columns, that a narrow table keeps in one piece.
const WORD_MAX: usize = 20;

/// A table under construction.
pub struct Table {
    alignments: Vec<Alignment>,
    /// `[rows][columns]`, the head first.
    rows: Vec<Vec<Spans>>,
    row: Vec<Spans>,
    /// Where in the source the last cell ended.
    cell_end: usize,
}

impl Table {
    /// A table without rows; one alignment for each column.
    pub fn new(alignments: Vec<Alignment>) -> Self {
        Self { alignments, rows: Vec::new(), row: Vec::new(), cell_end: 0 }
    }

    /// Adds the next cell of the current row. `end` is the byte of the source at which the cell ends.
    pub fn cell(&mut self, cell: Spans, end: usize) {
        self.row.push(cell);
        self.cell_end = end;
    }

    /// Ends the current row, which reaches to byte `end` of the source. The parser drops cells beyond the
    /// header's columns; their text is added to the last cell.
    pub fn row(&mut self, source: &str, end: usize, style: Style) {
        let beyond = source.get(self.cell_end..end).unwrap_or_default();
        if let Some(last) =
            self.row.last_mut().filter(|_| beyond.contains(|c: char| c != '|' && !c.is_whitespace()))
        {
            let beyond = filter::clean_line(beyond.trim().trim_end_matches('|'));
            wrap::add(last, &format!(" {}", beyond.trim()), style);
        }
        let row = std::mem::take(&mut self.row);
        self.rows.push(row);
    }

    /// The table as lines of at most `width` columns, `[lines]`.
    pub fn lines(mut self, width: usize, theme: Theme) -> Vec<Spans> {
        let columns = self.alignments.len().max(self.rows.iter().map(Vec::len).max().unwrap_or(0));
        self.rows.iter_mut().for_each(|row| row.resize(columns, Spans::new()));
        let frame = theme.style(Role::Frame);
        let between = BETWEEN.width() * columns.saturating_sub(1);
        let Some(widths) = self.widths(columns, width.saturating_sub(between)) else {
            return self.records(width, theme);
        };
        let mut lines = Vec::new();
        for (number, row) in self.rows.iter().enumerate() {
            lines.extend(self.row_lines(row, &widths, number == 0, frame));
            if number == 0 {
                let rule: Vec<_> = widths.iter().map(|&width| "─".repeat(width)).collect();
                lines.push(vec![Span::styled(rule.join("─┼─"), frame)]);
            }
        }
        lines
    }

    /// One row as lines, its cells wrapped to `widths` and aligned; the header is bold.
    fn row_lines(&self, row: &[Spans], widths: &[usize], header: bool, frame: Style) -> Vec<Spans> {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, &width)| wrap::words(cell, width)).collect();
        let height = cells.iter().map(Vec::len).max().unwrap_or(0);
        let line = |i: usize| {
            let mut line = Spans::new();
            for (column, (cell, &width)) in cells.iter().zip(widths).enumerate() {
                if column > 0 {
                    line.push(Span::styled(BETWEEN, frame));
                }
                let mut text = cell.get(i).cloned().unwrap_or_default();
                let rest = width.saturating_sub(wrap::columns(&text));
                let left = match self.alignments.get(column) {
                    Some(Alignment::Right) => rest,
                    Some(Alignment::Center) => rest / 2,
                    _ => 0,
                };
                line.push(Span::raw(" ".repeat(left)));
                if header {
                    text.iter_mut().for_each(|span| span.style = span.style.add_modifier(Modifier::BOLD));
                }
                line.extend(text);
                line.push(Span::raw(" ".repeat(rest - left)));
            }
            line
        };
        (0..height).map(line).collect()
    }

    /// Column widths that add up to at most `all`: each column gets its natural width or a common limit,
    /// whichever is less. `None` when words would have to be broken.
    fn widths(&self, columns: usize, all: usize) -> Option<Vec<usize>> {
        let widest = |column: usize, of: fn(&Spans) -> usize| {
            self.rows.iter().map(|row| of(&row[column])).max().unwrap_or(0).max(1)
        };
        let wants: Vec<_> = (0..columns).map(|column| widest(column, longest_line)).collect();
        if wants.iter().sum::<usize>() <= all {
            return Some(wants);
        }
        let needs: Vec<_> = (0..columns).map(|column| widest(column, longest_word)).collect();
        if needs.iter().sum::<usize>() > all {
            return None;
        }
        // The highest common limit at which all fit; columns that are still too narrow share the rest from
        // the left.
        let given =
            |limit: usize| wants.iter().zip(&needs).map(move |(&want, &need)| want.min(limit.max(need)));
        let limit = (1..=all).take_while(|&limit| given(limit).sum::<usize>() <= all).last()?;
        let mut widths: Vec<_> = given(limit).collect();
        let mut rest = all - widths.iter().sum::<usize>();
        for (width, &want) in widths.iter_mut().zip(&wants) {
            if rest > 0 && *width < want {
                *width += 1;
                rest -= 1;
            }
        }
        Some(widths)
    }

    /// Each row as lines of `header: cell`.
    fn records(&self, width: usize, theme: Theme) -> Vec<Spans> {
        let Some((head, rows)) = self.rows.split_first() else { return Vec::new() };
        let (dim, frame) = (theme.style(Role::Dim), theme.style(Role::Frame));
        let mut lines = Vec::new();
        if rows.is_empty() {
            lines.extend(head.iter().flat_map(|cell| wrap::words(cell, width)));
        }
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                lines.push(vec![Span::styled("─".repeat(width.min(WORD_MAX)), frame)]);
            }
            for (name, cell) in head.iter().zip(row) {
                let mut text = name.clone();
                text.iter_mut().for_each(|span| span.style = span.style.patch(dim));
                if !name.is_empty() {
                    wrap::add(&mut text, ": ", dim);
                }
                text.extend(cell.iter().cloned());
                lines.extend(wrap::words(&text, width));
            }
        }
        lines
    }
}

fn longest_line(cell: &Spans) -> usize {
    let text: String = cell.iter().map(|span| &*span.content).collect();
    text.split('\n').map(UnicodeWidthStr::width).max().unwrap_or(0)
}

fn longest_word(cell: &Spans) -> usize {
    let text: String = cell.iter().map(|span| &*span.content).collect();
    text.split([' ', '\n']).map(UnicodeWidthStr::width).max().unwrap_or(0).min(WORD_MAX)
}
