//! Breaks styled text into lines: between words, between wide characters, and inside words that are longer
//! than a line. It must not know Markdown.

use ratatui::style::Style;
use ratatui::text::Span;
use unicode_segmentation::UnicodeSegmentation;
use unicode_width::UnicodeWidthStr;

/// A line under construction.
pub type Spans = Vec<Span<'static>>;

/// Columns that the spans take together.
pub fn columns(spans: &[Span<'_>]) -> usize {
    spans.iter().map(|span| span.content.width()).sum()
}

/// Appends text, to the last span if its style is the same.
pub fn add(spans: &mut Spans, text: &str, style: Style) {
    match spans.last_mut() {
        Some(last) if last.style == style => last.content.to_mut().push_str(text),
        _ => spans.push(Span::styled(text.to_owned(), style)),
    }
}

/// Lines of at most `width` columns, broken between words where possible. `\n` ends a line. Spaces at a break
/// are dropped.
pub fn words(text: &[Span<'_>], width: usize) -> Vec<Spans> {
    let mut lines = Wrapper::new(width);
    for span in text {
        // In ASCII a byte is a column, so a word is placed at once; other text goes by grapheme.
        for piece in span.content.split_inclusive([' ', '\n']) {
            let word = piece.trim_end_matches([' ', '\n']);
            if word.is_ascii() {
                lines.piece(word, word.len(), span.style);
            } else {
                word.graphemes(true).for_each(|piece| lines.piece(piece, piece.width(), span.style));
            }
            match piece.as_bytes().last() {
                Some(b'\n') => lines.end(),
                Some(b' ') => lines.space(span.style),
                _ => {}
            }
        }
    }
    lines.end_word();
    lines.done
}

/// Lines of at most `width` columns, broken exactly at that column: for code, whose spaces matter.
pub fn columns_of(text: &Spans, width: usize) -> Vec<Spans> {
    if columns(text) <= width {
        return vec![text.clone()];
    }
    let (mut done, mut at) = (vec![Spans::new()], 0);
    for span in text {
        for piece in span.content.graphemes(true) {
            let wide = piece.width();
            if at > 0 && at + wide > width {
                done.push(Spans::new());
                at = 0;
            }
            at += wide;
            let line = done.last_mut().expect("there is always one");
            add(line, piece, span.style);
        }
    }
    done
}

/// Lines of styled text under construction.
struct Wrapper {
    width: usize,
    done: Vec<Spans>,
    /// Columns used in the last line.
    at: usize,
    /// Styles of the spaces before the pending word.
    spaces: Vec<Style>,
    /// The pending word: not placed on a line yet.
    word: Spans,
    word_columns: usize,
}

impl Wrapper {
    fn new(width: usize) -> Self {
        let (done, spaces, word) = (vec![Spans::new()], Vec::new(), Spans::new());
        Self { width, done, at: 0, spaces, word, word_columns: 0 }
    }

    fn piece(&mut self, piece: &str, columns: usize, style: Style) {
        if piece.is_empty() {
            return;
        }
        // Scripts with wide characters have no spaces between words: each one may end a line.
        let wide = !piece.is_ascii() && columns > 1;
        if wide {
            self.end_word();
        }
        add(&mut self.word, piece, style);
        self.word_columns += columns;
        if wide {
            self.end_word();
        }
    }

    fn space(&mut self, style: Style) {
        self.end_word();
        self.spaces.push(style);
    }

    fn end(&mut self) {
        self.end_word();
        self.spaces.clear();
        self.new_line();
    }

    fn new_line(&mut self) {
        self.done.push(Spans::new());
        self.at = 0;
    }

    /// Places the pending word, on a new line if it does not fit on this one.
    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        let word = std::mem::take(&mut self.word);
        let columns = std::mem::take(&mut self.word_columns);
        let spaces = std::mem::take(&mut self.spaces);
        if self.at > 0 && self.at + spaces.len() + columns > self.width {
            self.new_line();
        } else {
            let line = self.done.last_mut().expect("there is always one");
            spaces.iter().for_each(|&style| add(line, " ", style));
            self.at += spaces.len();
        }
        if self.at + columns <= self.width {
            let line = self.done.last_mut().expect("there is always one");
            word.iter().for_each(|span| add(line, &span.content, span.style));
            self.at += columns;
            return;
        }
        for (i, line) in columns_of(&word, self.width).into_iter().enumerate() {
            if i > 0 || self.at > 0 {
                self.new_line();
            }
            self.at = self::columns(&line);
            *self.done.last_mut().expect("there is always one") = line;
        }
    }
}
