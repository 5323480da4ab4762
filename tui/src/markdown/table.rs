//! Tables: columns as wide as their text, narrowed when they do not fit, and one line for each cell when not even that does.
//! It must not know how cells were written.

use pulldown_cmark::Alignment;
use ratatui::style::{Modifier, Style};
use ratatui::text::Span;
use unicode_width::UnicodeWidthStr;

use super::wrap::{self, Spans};
use crate::filter;
use crate::theme::{Role, Theme};

/// Between two columns.
const BETWEEN: &str = " │ ";
/// Words longer than this are broken where a table is narrow.
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
    /// Without rows.
    pub fn new(alignments: Vec<Alignment>) -> Self {
        Self { alignments, rows: Vec::new(), row: Vec::new(), cell_end: 0 }
    }

    /// The next cell of a row, which ends there in the source.
    pub fn cell(&mut self, cell: Spans, end: usize) {
        self.row.push(cell);
        self.cell_end = end;
    }

    /// The row has ended. What is beyond the columns of the head stays with the last one: the parser leaves it out.
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

    /// Lines of at most `width` columns.
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
            let cells: Vec<_> =
                row.iter().zip(&widths).map(|(cell, &width)| wrap::words(cell, width)).collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(0);
            for i in 0..height {
                let mut line = Spans::new();
                for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
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
                    if number == 0 {
                        text.iter_mut().for_each(|span| span.style = span.style.add_modifier(Modifier::BOLD));
                    }
                    line.extend(text);
                    line.push(Span::raw(" ".repeat(rest - left)));
                }
                lines.push(line);
            }
            if number == 0 {
                let rule: Vec<_> = widths.iter().map(|&width| "─".repeat(width)).collect();
                lines.push(vec![Span::styled(rule.join("─┼─"), frame)]);
            }
        }
        lines
    }

    /// Widths of the columns that fit into so much together: every column as wide as it wants to be or as all that do not get
    /// what they want. `None` when words would have to be broken.
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
        // The highest limit at which all fit; one more for those that still want it, from the left.
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

    /// Each row as lines of `head: cell`.
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
