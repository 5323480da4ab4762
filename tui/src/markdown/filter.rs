//! Keeps untrusted text (model answers, metadata, file names, error messages) from controlling the terminal.
//! Escape sequences and control characters are dropped; characters that reorder a line are shown as
//! `<U+202E>`.
//!
//! A [`Filter`] keeps its state for the length of a stream, so that it also finds sequences that arrive in
//! pieces. It must not know where the text comes from.

/// Longest string sequence (OSC, DCS, ...), in characters. An unterminated one ends there, so that it cannot
/// hide the rest of an answer; without its introducer the rest is harmless.
const STRING_CHARS_MAX: usize = 4096;

/// Removes terminal control sequences (ECMA-48 and xterm) from a stream of text.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    state: State,
    /// The last character was a carriage return, written as a line end; a line feed after it is part of it.
    after_return: bool,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    #[default]
    Text,
    /// After ESC, and after intermediate bytes of a short escape.
    Escape,
    /// In a control sequence, before its final byte.
    Control,
    /// In a string sequence (OSC, DCS, SOS, PM, APC), with the number of characters so far.
    String(usize),
    /// After ESC in a string sequence.
    StringEscape(usize),
}

impl Filter {
    /// A filter for the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the harmless part of `text` to `out`.
    pub fn push(&mut self, text: &str, out: &mut String) {
        text.chars().for_each(|c| self.push_char(c, out));
    }

    fn push_char(&mut self, c: char, out: &mut String) {
        self.state = match (self.state, c) {
            // CAN and SUB end any sequence; a line end ends an unterminated one.
            (_, '\u{18}' | '\u{1a}') => State::Text,
            (State::Escape | State::Control | State::String(_) | State::StringEscape(_), '\n' | '\r') => {
                self.show(c, out);
                State::Text
            }
            (State::String(_), '\u{7}' | '\u{9c}') | (State::StringEscape(_), '\\') => State::Text,
            (State::String(len) | State::StringEscape(len), _) if len >= STRING_CHARS_MAX => State::Text,
            (State::String(len), '\u{1b}') => State::StringEscape(len + 1),
            (State::String(len), _) => State::String(len + 1),
            // ESC inside a string that is not its terminator begins another sequence.
            (State::StringEscape(_) | State::Escape, _) => self.after_escape(c, out),
            (State::Control, ' '..='?') => State::Control,
            (State::Control, '@'..='~') => State::Text,
            (State::Text | State::Control, _) => self.text(c, out),
        };
    }

    fn after_escape(&mut self, c: char, out: &mut String) -> State {
        match c {
            '[' => State::Control,
            ']' | 'P' | 'X' | '^' | '_' => State::String(0),
            ' '..='/' => State::Escape,
            '0'..='~' => State::Text,
            _ => self.text(c, out),
        }
    }

    fn text(&mut self, c: char, out: &mut String) -> State {
        match c {
            '\u{1b}' => State::Escape,
            '\u{9b}' => State::Control,
            '\u{90}' | '\u{98}' | '\u{9d}'..='\u{9f}' => State::String(0),
            _ => {
                self.show(c, out);
                State::Text
            }
        }
    }

    fn show(&mut self, c: char, out: &mut String) {
        let second_half = self.after_return && c == '\n';
        self.after_return = c == '\r';
        match c {
            '\n' if second_half => {}
            '\r' => out.push('\n'),
            '\n' | '\t' => out.push(c),
            // Bidirectional overrides can make a line read as something else (CVE-2021-42574).
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                out.push_str(&format!("<U+{:04X}>", u32::from(c)));
            }
            _ if c.is_control() => {}
            _ => out.push(c),
        }
    }
}

/// A complete text without control sequences and control characters; line feeds and tabs stay.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    Filter::new().push(text, &mut out);
    out
}

/// As [`clean`], with line feeds and tabs as spaces: for names and values inside a sentence.
pub fn clean_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_of_any_language_passes() {
        let text = "Grüße, 世界! 👩‍👩‍👧 naïve\tand\nso on [31m ]0;x\\";
        assert_eq!(clean(text), text);
    }

    #[test]
    fn sequences_are_dropped() {
        for (hostile, shown) in [
            ("a\x1b[31mred\x1b[0m", "ared"),
            ("a\x1b]52;c;aGk=\x07b", "ab"),
            ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", "alinkb"),
            ("a\u{9b}2Jb\u{9d}0;title\u{9c}c", "abc"),
            ("a\x1bPq#0\x1b\\b\x1b_G\x1b\\c\x1b^x\x1b\\d\x1bXy\x1b\\e", "abcde"),
            ("a\x1b(0b\x1bcc\x1b#8d", "abcd"),
            ("a\x1b]0;never ended\nb", "a\nb"),
            ("a\x1b]0;new\x1b[31mb", "ab"),
            ("a\x1b[3\u{e9}b", "a\u{e9}b"),
            ("bell\x07 nul\0 del\x7f c1\u{85} bs\x08.", "bell nul del c1 bs."),
            ("one\r\ntwo\rthree\r\r\nfour", "one\ntwo\nthree\n\nfour"),
            ("user\u{202e}gpj.exe\u{2069}", "user<U+202E>gpj.exe<U+2069>"),
            ("\x1b", ""),
        ] {
            assert_eq!(clean(hostile), shown, "{hostile:?}");
        }
    }

    #[test]
    fn a_string_without_an_end_does_not_hide_the_rest() {
        let text = format!("\x1b]0;{}shown", "x".repeat(2 * STRING_CHARS_MAX));
        assert!(clean(&text).ends_with("xshown"));
    }

    #[test]
    fn names_stay_on_one_line() {
        assert_eq!(clean_line("a\nerror: b\r\n\tc"), "a error: b  c");
    }

    /// Text made of the characters that control sequences are made of.
    fn hostile() -> impl Strategy<Value = String> {
        const PARTS: [&str; 14] =
            ["\x1b", "[", "]", "\\", "\x07", "\u{9b}", "\u{9d}", "\u{9c}", "P", ";", "1", "m", "\r", "\n"];
        let part = prop_oneof![
            4 => proptest::sample::select(&PARTS[..]).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
        ];
        proptest::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn nothing_that_controls_comes_out_however_it_is_cut(text in hostile(), cuts in proptest::collection::vec(1usize..5, 1..40)) {
            let whole = clean(&text);
            prop_assert!(whole.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()), "{whole:?}");
            let (mut filter, mut out) = (Filter::new(), String::new());
            let mut rest: Vec<char> = text.chars().collect();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let piece: String = rest.drain(..(*cut).min(rest.len())).collect();
                filter.push(&piece, &mut out);
            }
            prop_assert_eq!(out, whole);
        }
    }
}
