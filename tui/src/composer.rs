//! What the person is writing: a text of several lines with a cursor, the keys of shells and editors as methods, and
//! how it lies on the screen. It must not know keys, nor what becomes of the text.

use std::cell::OnceCell;
use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use crate::wrap;

/// Steps that can be taken back.
const UNDO_MAX: usize = 200;
/// Bytes of texts that are kept for that, but for the last.
const UNDO_BYTES_MAX: usize = 4 << 20;

/// A text being written.
#[derive(Debug, Clone)]
pub struct Composer {
    text: String,
    /// Byte of the text that the cursor stands before.
    cursor: usize,
    /// Columns that rows are broken to.
    width: usize,
    /// The column that Up and Down try to keep.
    goal: Option<usize>,
    /// What was cut last.
    cut: String,
    before: Vec<(String, usize)>,
    /// Whether the last change was typing, which is taken back in one step.
    typing: bool,
    /// Rows of the text at `width`, once somebody asked: a text may be long, and come by the character.
    rows: OnceCell<Vec<Range<usize>>>,
}

/// Where a cursor stands in its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(usize);

impl Default for Composer {
    fn default() -> Self {
        Self {
            text: String::new(),
            cursor: 0,
            width: 80,
            goal: None,
            cut: String::new(),
            before: Vec::new(),
            typing: false,
            rows: OnceCell::new(),
        }
    }
}

impl Composer {
    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Text before the cursor.
    pub fn before_cursor(&self) -> &str {
        &self.text[..self.cursor]
    }

    /// Breaks rows to so many columns from now on.
    pub fn set_width(&mut self, width: usize) {
        let width = width.max(1);
        if width != self.width {
            self.width = width;
            self.rows.take();
        }
    }

    /// The rows, as ranges of the text.
    pub fn rows(&self) -> &[Range<usize>] {
        self.rows.get_or_init(|| wrap::rows(&self.text, self.width))
    }

    /// Row and column of the cursor.
    pub fn place(&self) -> (usize, usize) {
        // At a break without a line end the cursor stands at the beginning of the second row.
        let rows = self.rows();
        let row = rows.iter().rposition(|row| row.start <= self.cursor).unwrap_or(0);
        let before = &self.text[rows[row].start..self.cursor];
        (row, before.graphemes(true).map(wrap::columns).sum())
    }

    /// Replaces the text; the cursor goes to its end.
    pub fn set(&mut self, text: &str) {
        self.remember(false);
        self.text = text.to_owned();
        self.cursor = self.text.len();
        self.changed();
    }

    /// The text, and where the cursor stands in it.
    pub fn written(&self) -> (String, Place) {
        (self.text.clone(), Place(self.cursor))
    }

    /// Replaces the text by one that was there before, with its cursor.
    pub fn put_back(&mut self, text: String, Place(cursor): Place) {
        self.remember(false);
        self.text = text;
        self.cursor = cursor;
        self.changed();
    }

    /// Takes the text away.
    pub fn take(&mut self) -> String {
        let text = std::mem::take(&mut self.text);
        self.cursor = 0;
        self.before.clear();
        self.changed();
        text
    }

    /// Writes at the cursor.
    pub fn insert(&mut self, text: &str) {
        self.remember(text.chars().count() == 1 && text != " " && text != "\n");
        self.text.insert_str(self.cursor, text);
        self.cursor += text.len();
        self.changed();
    }

    /// Puts `text` in the place of a part of the text that ends at the cursor.
    pub fn replace_from(&mut self, start: usize, text: &str) {
        self.remember(false);
        self.text.replace_range(start..self.cursor, text);
        self.cursor = start + text.len();
        self.changed();
    }

    /// Removes the character before the cursor.
    pub fn backspace(&mut self) {
        let start = self.left_of(self.cursor);
        self.remove(start..self.cursor, false);
    }

    /// Removes the character after the cursor.
    pub fn delete(&mut self) {
        let end = self.right_of(self.cursor);
        self.remove(self.cursor..end, false);
    }

    /// Cuts to the end of the line, or the line end itself.
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

    /// Writes what was cut last.
    pub fn yank(&mut self) {
        let cut = self.cut.clone();
        self.insert(&cut);
    }

    /// Takes the last change back.
    pub fn undo(&mut self) {
        if let Some((text, cursor)) = self.before.pop() {
            self.text = text;
            self.cursor = cursor;
            self.changed();
            self.typing = false;
        }
    }

    /// One character to the left.
    pub fn left(&mut self) {
        self.go(self.left_of(self.cursor));
    }

    /// One character to the right.
    pub fn right(&mut self) {
        self.go(self.right_of(self.cursor));
    }

    /// One word to the left.
    pub fn word_left(&mut self) {
        self.go(self.word_left_of());
    }

    /// One word to the right.
    pub fn word_right(&mut self) {
        self.go(self.word_right_of());
    }

    /// To the beginning of the line.
    pub fn home(&mut self) {
        self.go(self.line_start());
    }

    /// To the end of the line.
    pub fn end(&mut self) {
        self.go(self.line_end());
    }

    /// To the row above; false if there is none.
    pub fn up(&mut self) -> bool {
        let (row, column) = self.place();
        row > 0 && self.go_to(row - 1, column)
    }

    /// To the row below; false if there is none.
    pub fn down(&mut self) -> bool {
        let (row, column) = self.place();
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
            // The end of a row that was broken is the beginning of the next.
            let end = range.start + at + grapheme.len();
            let last = end == range.end && self.rows().get(row + 1).is_some_and(|next| next.start == end);
            if used + wrap::columns(grapheme) > goal || last {
                break;
            }
            used += wrap::columns(grapheme);
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

    fn remember(&mut self, typing: bool) {
        if !(typing && self.typing) {
            if self.before.len() == UNDO_MAX {
                self.before.remove(0);
            }
            self.before.push((self.text.clone(), self.cursor));
            let mut bytes: usize = self.before.iter().map(|(text, _)| text.len()).sum();
            while bytes > UNDO_BYTES_MAX && self.before.len() > 1 {
                bytes -= self.before.remove(0).0.len();
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
    fn characters_are_what_people_see() {
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
    fn words_and_lines_can_be_cut_and_brought_back() {
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
    fn typing_is_taken_back_by_the_word() {
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
        assert_eq!(composer.before.len(), 1);
        composer.undo();
        assert!(composer.text().ends_with("x\n\n\n\n"));
    }

    #[test]
    fn up_and_down_keep_the_column_and_stop_at_the_edges() {
        let mut composer = composer("wide line\nx\nanother one");
        assert_eq!(composer.place(), (2, 11));
        assert!(composer.up() && composer.up());
        assert_eq!(composer.place(), (0, 9));
        assert!(!composer.up());
        assert!(composer.down() && composer.down());
        assert_eq!(composer.place(), (2, 11));
        assert!(!composer.down());
    }

    #[test]
    fn broken_rows_are_rows() {
        let mut composer = composer("one two three");
        composer.set_width(8);
        assert_eq!(composer.rows().len(), 2);
        assert_eq!(composer.place(), (1, 5));
        assert!(composer.up());
        assert_eq!(composer.place(), (0, 5));
        composer.end();
        composer.left();
        assert!(composer.up());
        composer.right();
        composer.right();
        composer.right();
        composer.right();
        assert_eq!(composer.place(), (1, 0), "the end of a broken row is the beginning of the next");
    }
}
