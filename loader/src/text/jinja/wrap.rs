//! The filter `wordwrap`, which is Python's `textwrap`. It must not know other filters.

use super::datum::Datum;
use super::given::{Given, flag, int, text};
use super::meter::{Growing, Meter};
use super::methods;
use super::problem::{Done, Problem};

/// How lines are filled.
struct Filling {
    width: usize,
    break_words: bool,
    break_hyphens: bool,
}

/// `subject|wordwrap(width, break_long_words, wrapstring, break_on_hyphens)`
///
/// # Errors
/// A width that is not positive.
pub(super) fn word_wrap(meter: &Meter, subject: &str, given: Given) -> Done<Datum> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, words, between, hyphens] = given.bind("wordwrap", names, 0)?;
    let width = int(width.as_ref(), 79)?;
    let filling = Filling {
        width: usize::try_from(width).unwrap_or(0),
        break_words: flag(words.as_ref(), true),
        break_hyphens: flag(hyphens.as_ref(), true),
    };
    let between = between.filter(|between| !matches!(between, Datum::None)).unwrap_or(Datum::text("\n"));
    let between = text(&between)?;
    let mut out = Growing::new(meter);
    for (at, line) in methods::lines(meter, subject, false)?.into_iter().enumerate() {
        if at > 0 {
            out.push(between)?;
        }
        if filling.width == 0 {
            return Err(Problem::failed(format!("invalid width {width} (must be > 0)")));
        }
        for (at, filled) in fill(meter, line, &filling)?.into_iter().enumerate() {
            if at > 0 {
                out.push(between)?;
            }
            out.push(&filled)?;
        }
    }
    Ok(Datum::text(out.finish()))
}

fn is_blank(chunk: &str) -> bool {
    chunk.chars().all(char::is_whitespace)
}

fn fill(meter: &Meter, line: &str, filling: &Filling) -> Done<Vec<String>> {
    // No more chunks than characters; each is charged before there are any.
    meter.items(line.len())?;
    let mut chunks = chunks(line, filling.break_hyphens);
    chunks.reverse();
    let mut lines: Vec<String> = Vec::new();
    while let Some(last) = chunks.last() {
        if is_blank(last) && !lines.is_empty() {
            chunks.pop();
            if chunks.is_empty() {
                break;
            }
        }
        let (mut parts, mut used): (Vec<&str>, usize) = (Vec::new(), 0);
        while let Some(chunk) = chunks.last() {
            let length = chunk.chars().count();
            if used + length > filling.width {
                if length > filling.width {
                    break_word(&mut chunks, &mut parts, used, filling);
                }
                break;
            }
            used += length;
            parts.extend(chunks.pop());
        }
        if parts.last().is_some_and(|part| is_blank(part)) {
            parts.pop();
        }
        if !parts.is_empty() {
            lines.push(parts.concat());
        }
    }
    Ok(lines)
}

/// Puts as much of a word into the line as fits, if words may be broken.
fn break_word<'a>(chunks: &mut [&'a str], parts: &mut Vec<&'a str>, used: usize, filling: &Filling) {
    let Some(chunk) = chunks.last_mut() else { return };
    if !filling.break_words {
        if parts.is_empty() {
            parts.push(std::mem::take(chunk));
        }
        return;
    }
    let left = filling.width.saturating_sub(used);
    let mut end = chunk.char_indices().nth(left).map_or(chunk.len(), |(at, _)| at);
    if filling.break_hyphens
        && let Some(hyphen) = chunk[..end].rfind('-')
        && chunk[..hyphen].contains(|c| c != '-')
    {
        end = hyphen + 1;
    }
    let (head, tail) = chunk.split_at(end);
    parts.push(head);
    *chunk = tail;
}

/// Words and the white space between them; words are cut behind hyphens between letters.
fn chunks(line: &str, hyphens: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut before = None;
    for (at, c) in line.char_indices() {
        if before.is_some_and(|before: char| before.is_whitespace() != c.is_whitespace()) {
            push_word(&mut found, &line[start..at], hyphens);
            start = at;
        }
        before = Some(c);
    }
    push_word(&mut found, &line[start..], hyphens);
    found
}

fn push_word<'a>(found: &mut Vec<&'a str>, word: &'a str, hyphens: bool) {
    let is_word = |c: char| c == '_' || c.is_alphanumeric();
    let mut start = 0;
    for (at, _) in word.match_indices('-').filter(|_| hyphens) {
        let mut left = word[start..at].chars().rev();
        let before = left.next().is_some_and(char::is_alphabetic) && left.next().is_some_and(is_word);
        let mut right = word[at + 1..].chars();
        let after = right.next().is_some_and(is_word) && right.next().is_some_and(char::is_alphabetic);
        if before && after {
            found.push(&word[start..=at]);
            start = at + 1;
        }
    }
    if start < word.len() {
        found.push(&word[start..]);
    }
}
