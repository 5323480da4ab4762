//! The text being composed: several lines with a cursor, the editing operations of shells and editors, and
//! the rows that the text takes on the screen. It must not know keys, nor what becomes of the text.

use std::cell::OnceCell;
use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use crate::markdown::rows;

/// Longest undo history, in steps.
const UNDO_MAX: usize = 200;
/// Largest undo history, in bytes; the last step is kept even if it is larger.
const UNDO_BYTES_MAX: usize = 4 << 20;

/// A text being composed.
#[derive(Debug, Clone)]
pub struct Composer {
    text: String,
    /// Byte of the text at which the cursor stands.
    cursor: usize,
    /// Columns of a row.
    width: usize,
    /// The column that moving up and down tries to keep.
    goal: Option<usize>,
    /// The text that was cut last.
    cut: String,
    /// Earlier texts with their cursors, the oldest first.
    undo: Vec<(String, usize)>,
    /// Whether the last change was typing: a word of typing is one undo step.
    typing: bool,
    /// Rows of the text at `width`, computed on demand: a long text may arrive character by character.
    rows: OnceCell<Vec<Range<usize>>>,
}

/// A text with its cursor, to be restored later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComposerSnapshot {
    /// Everything that was composed.
    pub text: String,
    cursor: usize,
}

impl Default for Composer {
    fn default() -> Self {
        Self {
            text: String::new(),
            cursor: 0,
            width: 80,
            goal: None,
            cut: String::new(),
            undo: Vec::new(),
            typing: false,
            rows: OnceCell::new(),
        }
    }
}

impl Composer {
    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the text is empty.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The text before the cursor.
    pub fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Sets the columns of a row.
    pub fn set_width(&mut self, width: usize) {
        let width = width.max(1);
        if width != self.width {
            self.width = width;
            self.rows.take();
        }
    }

    /// The rows of the text, as byte ranges, `[rows]`.
    pub fn rows(&self) -> &[Range<usize>] {
        self.rows.get_or_init(|| rows::rows(&self.text, self.width))
    }

    /// Row and column of the cursor, both from 0.
    pub fn cursor(&self) -> (usize, usize) {
        // Where a line is broken the cursor stands at the beginning of the second row.
        let rows = self.rows();
        let row = rows.iter().rposition(|row| row.start <= self.cursor).unwrap_or(0);
        let before = &self.text[rows[row].start..self.cursor];
        (row, before.graphemes(true).map(rows::columns).sum())
    }

    /// Replaces the text and puts the cursor at its end.
    pub fn set(&mut self, text: &str) {
        self.remember(false);
        self.text = text.to_owned();
        self.cursor = self.text.len();
        self.changed();
    }

    /// The text and its cursor, for [`Self::restore`].
    pub fn snapshot(&self) -> ComposerSnapshot {
        ComposerSnapshot { text: self.text.clone(), cursor: self.cursor }
    }

    /// Replaces the text and the cursor by earlier ones.
    pub fn restore(&mut self, snapshot: ComposerSnapshot) {
        self.remember(false);
        self.text = snapshot.text;
        self.cursor = snapshot.cursor;
        self.changed();
    }

    /// Empties the composer, including its undo history, and returns the text.
    pub fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        self.cursor = 0;
        self.undo.clear();
        self.changed();
        text
    }

    /// Inserts text at the cursor.
    pub fn insert(&mut self, text: &str) {
        self.remember(text.chars().count() == 1 && text != " " && text != "\n");
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
        self.changed();
    }

    /// Replaces the text from byte `start` to the cursor by `text`.
    pub fn replace_from(&mut self, start: usize, text: &str) {
        self.remember(false);
        self.text.replace_range(start..self.cursor, text);
        self.cursor = start + text.len();
        self.changed();
    }

    /// Removes the grapheme before the cursor.
    pub fn backspace(&mut self) {
        let start = self.left_of(self.cursor);
        self.remove(start..self.cursor, false);
    }

    /// Removes the grapheme after the cursor.
    pub fn delete(&mut self) {
        let end = self.right_of(self.cursor);
        self.remove(self.cursor..end, false);
    }

    /// Cuts to the end of the line; at the end of a line, cuts the line end.
    pub fn cut_to_end(&mut self) {
        let end = self.line_end();
        let end = if end == self.cursor { self.right_of(end) } else { end };
        self.remove(self.cursor..end, true);
    }

    /// Cuts to the beginning of the line.
    pub fn cut_to_start(&mut self) {
        self.remove(self.line_start()..self.cursor, true);
    }

    /// Cuts the word before the cursor.
    pub fn cut_word_left(&mut self) {
        self.remove(self.word_left_of()..self.cursor, true);
    }

    /// Cuts the word after the cursor.
    pub fn cut_word_right(&mut self) {
        self.remove(self.cursor..self.word_right_of(), true);
    }

    /// Inserts the text that was cut last.
    pub fn yank(&mut self) {
        let cut = self.cut.clone();
        self.insert(&cut);
    }

    /// Undoes the last change.
    pub fn undo(&mut self) {
        if let Some((text, cursor)) = self.undo.pop() {
            self.text = text;
            self.cursor = cursor;
            self.changed();
            self.typing = false;
        }
    }

    /// Moves the cursor one grapheme to the left.
    pub fn left(&mut self) {
        self.go(self.left_of(self.cursor));
    }

    /// Moves the cursor one grapheme to the right.
    pub fn right(&mut self) {
        self.go(self.right_of(self.cursor));
    }

    /// Moves the cursor one word to the left.
    pub fn word_left(&mut self) {
        self.go(self.word_left_of());
    }

    /// Moves the cursor one word to the right.
    pub fn word_right(&mut self) {
        self.go(self.word_right_of());
    }

    /// Moves the cursor to the beginning of the line.
    pub fn home(&mut self) {
        self.go(self.line_start());
    }

    /// Moves the cursor to the end of the line.
    pub fn end(&mut self) {
        self.go(self.line_end());
    }

    /// Moves the cursor to the row above; false if there is none.
    pub fn up(&mut self) -> bool {
        let (row, column) = self.cursor();
        row > 0 && self.go_to(row - 1, column)
    }

    /// Moves the cursor to the row below; false if there is none.
    pub fn down(&mut self) -> bool {
        let (row, column) = self.cursor();
        row + 1 < self.rows().len() && self.go_to(row + 1, column)
    }

    fn go(&mut self, cursor: usize) {
        self.cursor = cursor;
        self.goal = None;
        self.typing = false;
    }

    fn go_to(&mut self, row: usize, column: usize) -> bool {
        let goal = self.goal.unwrap_or(column);
        let range = self.rows()[row].clone();
        let mut used = 0;
        let mut cursor = range.start;
        for (at, grapheme) in self.text[range.clone()].grapheme_indices(true) {
            // The end of a broken row is the beginning of the next one.
            let end = range.start + at + grapheme.len();
            let last = end == range.end && self.rows().get(row + 1).is_some_and(|next| next.start == end);
            if used + rows::columns(grapheme) > goal || last {
                break;
            }
            used += rows::columns(grapheme);
            cursor = end;
        }
        self.go(cursor);
        self.goal = Some(goal);
        true
    }

    fn remove(&mut self, range: Range<usize>, keep: bool) {
        if range.is_empty() {
            return;
        }
        self.remember(false);
        if keep {
            self.cut = self.text[range.clone()].to_owned();
        }
        self.cursor = range.start;
        self.text.replace_range(range, "");
        self.changed();
    }

    /// Adds the text to the undo history, unless typing goes on.
    fn remember(&mut self, typing: bool) {
        if !(typing && self.typing) {
            if self.undo.len() == UNDO_MAX {
                self.undo.remove(0);
            }
            self.undo.push((self.text.clone(), self.cursor));
            let mut bytes: usize = self.undo.iter().map(|(text, _)| text.len()).sum();
            while bytes > UNDO_BYTES_MAX && self.undo.len() > 1 {
                bytes -= self.undo.remove(0).0.len();
            }
        }
        self.typing = typing;
    }

    fn changed(&mut self) {
        self.goal = None;
        self.rows.take();
    }

    fn left_of(&self, at: usize) -> usize {
        self.text[..at].grapheme_indices(true).next_back().map_or(at, |(start, _)| start)
    }

    fn right_of(&self, at: usize) -> usize {
        self.text[at..].graphemes(true).next().map_or(at, |grapheme| at + grapheme.len())
    }

    fn word_left_of(&self) -> usize {
        let mut words = self.text[..self.cursor].split_word_bound_indices().rev();
        words.find(|(_, word)| !word.trim().is_empty()).map_or(0, |(start, _)| start)
    }

    fn word_right_of(&self) -> usize {
        let mut words = self.text[self.cursor..].split_word_bound_indices();
        let found = words.find(|(_, word)| !word.trim().is_empty());
        found.map_or(self.text.len(), |(start, word)| self.cursor + start + word.len())
    }

    fn line_start(&self) -> usize {
        self.text[..self.cursor].rfind('\n').map_or(0, |at| at + 1)
    }

    fn line_end(&self) -> usize {
        self.text[self.cursor..].find('\n').map_or(self.text.len(), |at| self.cursor + at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composer(text: &str) -> Composer {
        let mut composer = Composer::default();
        composer.insert(text);
        composer
    }

    #[test]
    fn characters_are_graphemes() {
        let mut composer = composer("né👩‍👩‍👧世");
        composer.backspace();
        composer.backspace();
        assert_eq!(composer.text(), "né");
        composer.left();
        composer.delete();
        composer.insert("o");
        assert_eq!((composer.text(), composer.before_cursor()), ("no", "no"));
    }

    #[test]
    fn words_and_lines_can_be_cut_and_pasted() {
        let mut composer = composer("one two\nthree four");
        composer.cut_word_left();
        assert_eq!(composer.text(), "one two\nthree ");
        composer.home();
        composer.yank();
        assert_eq!(composer.text(), "one two\nfourthree ");
        composer.cut_to_end();
        composer.cut_to_start();
        assert_eq!(composer.text(), "one two\n");
        composer.left();
        composer.cut_to_end();
        assert_eq!(composer.text(), "one two");
        composer.home();
        composer.word_right();
        composer.cut_word_right();
        assert_eq!(composer.text(), "one");
        composer.undo();
        composer.undo();
        assert_eq!(composer.text(), "one two\n");
    }

    #[test]
    fn typing_is_undone_by_the_word() {
        let mut composer = Composer::default();
        "hello my".chars().for_each(|c| composer.insert(c.encode_utf8(&mut [0; 4])));
        composer.undo();
        assert_eq!(composer.text(), "hello ");
        composer.undo();
        composer.undo();
        assert_eq!(composer.text(), "");
        composer.undo();
        assert_eq!(composer.text(), "");
    }

    #[test]
    fn a_long_paste_is_not_kept_many_times() {
        let mut composer = composer(&"x".repeat(UNDO_BYTES_MAX / 2 + 1));
        for _ in 0..5 {
            composer.insert("\n");
        }
        assert_eq!(composer.undo.len(), 1);
        composer.undo();
        assert!(composer.text().ends_with("x\n\n\n\n"));
    }

    #[test]
    fn up_and_down_keep_the_column_and_stop_at_the_edges() {
        let mut composer = composer("wide line\nx\nanother one");
        assert_eq!(composer.cursor(), (2, 11));
        assert!(composer.up() && composer.up());
        assert_eq!(composer.cursor(), (0, 9));
        assert!(!composer.up());
        assert!(composer.down() && composer.down());
        assert_eq!(composer.cursor(), (2, 11));
        assert!(!composer.down());
    }

    #[test]
    fn broken_rows_are_rows() {
        let mut composer = composer("one two three");
        composer.set_width(8);
        assert_eq!(composer.rows().len(), 2);
        assert_eq!(composer.cursor(), (1, 5));
        assert!(composer.up());
        assert_eq!(composer.cursor(), (0, 5));
        composer.end();
        composer.left();
        assert!(composer.up());
        composer.right();
        composer.right();
        composer.right();
        composer.right();
        assert_eq!(composer.cursor(), (1, 0), "the end of a broken row is the beginning of the next");
    }
}
