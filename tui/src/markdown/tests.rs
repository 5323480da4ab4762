//! What documents look like, finished and at every prefix.

use std::fmt::Write as _;

use proptest::prelude::*;
use ratatui::style::Modifier;
use ratatui::text::Line;
use unicode_width::UnicodeWidthStr;

use super::theme::{ColourDepth, ColourScheme, Role, Theme};
use super::*;

const DARK: Theme = Theme { scheme: ColourScheme::Dark, depth: ColourDepth::True };

fn plain(lines: &[Line<'_>]) -> Vec<String> {
    lines.iter().map(|line| line.spans.iter().map(|span| &*span.content).collect()).collect()
}

fn shown(text: &str, width: u16) -> Vec<String> {
    plain(Document::whole(text).lines(width, DARK))
}

/// The lines of a document that is still growing.
fn so_far(text: &str, width: u16) -> Vec<String> {
    let mut document = Document::new();
    document.push(text);
    plain(document.lines(width, DARK))
}

/// The style of a piece of text in the first line that has it.
fn style_of(text: &str, piece: &str) -> ratatui::style::Style {
    let mut document = Document::whole(text);
    let spans = document.lines(60, DARK).iter().flat_map(|line| line.spans.clone());
    spans.into_iter().find(|span| span.content.contains(piece)).unwrap().style
}

#[test]
fn a_page() {
    let text = "# Title\nSome *text* with `code`, and a [link](http://a.b) that is long enough to wrap.\n\n\
                1. one\n2. two\n   - deep\n   - deeper\n     text\n\n> said\n> so\n\n```rust\nfn main() {}\n\tx\n```\n\n---\n\
                | a | number |\n|---|---:|\n| x | 1 |\n| long cell | 22 |\n\nend";
    let expected = [
        "Title",
        "",
        "Some text with code, and a link (http://a.b)",
        "that is long enough to wrap.",
        "",
        "1. one",
        "2. two",
        "   ◦ deep",
        "   ◦ deeper",
        "     text",
        "",
        "┃ said",
        "┃ so",
        "",
        "╭ rust",
        "│ fn main() {}",
        "│     x",
        "",
        &"─".repeat(46),
        "",
        "a         │ number",
        "──────────┼───────",
        "x         │      1",
        "long cell │     22",
        "",
        "end",
    ];
    assert_eq!(shown(text, 46), expected);
}

#[test]
fn styles_say_what_text_is() {
    let text = "# Head\n\na *bb* **cc** ~~dd~~ `ee` [ff](g) > *h*\n\n- [x] done";
    assert_eq!(style_of(text, "Head").fg, DARK.style(Role::Heading).fg);
    assert!(style_of(text, "bb").add_modifier.contains(Modifier::ITALIC));
    assert!(style_of(text, "cc").add_modifier.contains(Modifier::BOLD));
    assert!(style_of(text, "dd").add_modifier.contains(Modifier::CROSSED_OUT));
    assert_eq!(style_of(text, "ee").fg, DARK.style(Role::Code).fg);
    assert_eq!(style_of(text, "ff").fg, DARK.style(Role::Link).fg);
    assert_eq!(shown(text, 40).last().unwrap(), "• [x] done");
    let mut document = Document::whole("`a` b");
    assert_eq!(plain(document.lines(40, Theme::PLAIN)), ["`a` b"], "without colours the marks stay");
}

#[test]
fn what_is_half_written_does_not_flicker() {
    assert_eq!(so_far("a **bold", 40), ["a bold"]);
    assert_eq!(so_far("a **", 40), ["a"]);
    assert_eq!(so_far("use `let x", 40), ["use let x"]);
    assert_eq!(so_far("para\n--", 40), ["para"], "it may become a rule or a heading");
    assert_eq!(so_far("| a | b |\n|--", 40), ["| a | b |"]);
    assert_eq!(so_far("| a | b |\n|--|--|\n| 1", 40), ["a │ b", "──┼──", "1 │"]);
    assert_eq!(so_far("```py\nif **x", 40), ["╭ py", "│ if **x"]);
    assert_eq!(so_far("```py\nx\n``", 40), ["╭ py", "│ x"]);
    assert_eq!(so_far("2 * 3 and a_b", 40), ["2 * 3 and a_b"]);
    assert_eq!(shown("para\n\n**", 40), ["para", "", "**"], "what is finished is shown as it is");
}

#[test]
fn nothing_that_was_written_is_lost() {
    assert_eq!(
        shown("see [a]\n\n[a]: http://b \"c\"\n[a]: d", 40),
        ["see [a]", "", "[a]: http://b \"c\"", "[a]: d"]
    );
    assert_eq!(shown("`x]: y`\n\n[a]: b", 40), ["x]: y", "", "[a]: b"]);
    assert_eq!(
        shown("<div>\nhi\n</div>\n\na<br>b <i>c</i>", 40),
        ["<div>", "hi", "</div>", "", "a", "b <i>c</i>"]
    );
    assert_eq!(shown("|a|b|\n|-|-|\n|1|2|3|4|", 40), ["a │ b", "──┼───────", "1 │ 2 |3|4"]);
    assert_eq!(shown("[t](u \"v\") <http://w> ![i](j)", 60), ["t (u \"v\") http://w i (j)"]);
    assert_eq!(shown("-\n- a", 40), ["•", "• a"]);
}

#[test]
fn entities_hide_no_control() {
    assert_eq!(shown("a &#27;[31m &#x9b;2J &#x202e;b `&amp;`", 60), ["a [31m 2J <U+202E>b &amp;"]);
}

#[test]
fn tables_narrow_before_they_fall_apart() {
    let text = "| name | what it is |\n|:-:|---|\n| one | a long explanation of it |";
    assert_eq!(
        shown(text, 24),
        ["name │ what it is", "─────┼──────────────────", "one  │ a long", "     │ explanation of it"]
    );
    assert_eq!(shown(text, 10), ["name: one", "what it", "is: a long", "explanatio", "n of it"]);
}

#[test]
fn wide_characters_break_where_they_must() {
    assert_eq!(shown("世界世界 a", 6), ["世界世", "界 a"]);
    assert_eq!(shown("世", 1), ["世"]);
    assert_eq!(shown("👩‍👩‍👧 e\u{301}e\u{301}", 4), ["👩‍👩‍👧", "e\u{301}e\u{301}"]);
}

/// Found by fuzzing: a marker made the first line of a code block, a rule or a table wider than the screen.
#[test]
fn markers_before_blocks_keep_to_the_width() {
    assert_eq!(shown("- ```[ ] b\n  x", 5), ["•", "[ ] b", "x"]);
    assert_eq!(shown("- ```\n  x", 5), ["• x"]);
    for width in 1..12 {
        for block in
            ["```long name\n  code that is long", "---", "***", "| a | b |\n  |---|---|\n  | 1 | 2 |", "> q"]
        {
            for text in [format!("- {block}\n"), format!("1. - * {block}\n"), format!("> - {block}")] {
                for line in shown(&text, width) {
                    assert!(line.width() <= usize::from(width.max(2)), "{line:?} of {text:?} at {width}");
                }
            }
        }
    }
}

/// A document that arrives in pieces of `step` bytes, all of whose states are drawn.
fn grown(text: &str, step: usize, width: u16) -> Vec<String> {
    let mut document = Document::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rest.floor_char_boundary(step).max(rest.ceil_char_boundary(1)));
        document.push(piece);
        document.lines(width, DARK);
        rest = others;
    }
    document.finish();
    plain(document.lines(width, DARK))
}

/// Found by fuzzing: blocks were told apart with link definitions as such, and drawn with them as text.
#[test]
fn link_definitions_are_text_wherever_blocks_end() {
    for text in [
        "- [x](a []  b\n>\n[a]: http:4333333\n-\n- [ ] b\n>\n[a]: httpb \"",
        "[a]: b\n-\n- c\n\nd\n",
        "[a]: b\n\"title\nmore\"\n# c\n[a]: d\n1. e\n",
        "> [a]: b\nc\n- d\n",
    ] {
        for step in 1..8 {
            assert_eq!(grown(text, step, 41), shown(text, 41), "{text:?} in pieces of {step}");
        }
    }
}

#[test]
fn finished_blocks_are_kept() {
    let mut document = Document::new();
    document.push("# one\n\ntwo\n\nthree\n");
    document.lines(40, DARK);
    assert_eq!(document.settled, (12, 3), "all but the last");
    assert_eq!(plain(document.lines(40, DARK)), ["one", "", "two", "", "three"]);
    assert_eq!(plain(document.lines(2, DARK)), ["on", "e", "", "tw", "o", "", "th", "re", "e"]);
}

/// A document of blocks, some of them unfinished, with unique words.
fn document() -> impl Strategy<Value = String> {
    const FORMS: [&str; 24] = [
        "W W\n",
        "# W W\n\n",
        "- W\n  - W **W\n  W**\n",
        "- W\n\n      W\n",
        "3. W\n4. `W W`\n",
        "> W *W*\n> > W\n\n",
        "```rust\nlet W = \"W\"; // W\n```\n",
        "```\nW\n",
        "| W | W |\n|---|:-:|\n| W | W W |\n| W | W | W |\n\n",
        "| W |\n|-\n",
        "[W](http://W) W\n\n",
        "[W]: http://W\n\n",
        "[W][W] **W** ~~W~~\n",
        "---\n",
        "W\n===\n",
        "\n    W\n",
        "<b>W</b>\n",
        "<div>\nW\n\n",
        "W **W *W\n\n",
        "&lt;W &#27; &amp;\n",
        "1) W\n\n   W\n",
        "* [ ] W\n* [x] W\n",
        "世W界W\\*\t~W_\n",
        "\n",
    ];
    proptest::collection::vec(proptest::sample::select(&FORMS[..]), 0..9).prop_map(|forms| {
        let (mut text, mut word) = (String::new(), 10);
        for c in forms.concat().chars() {
            if c == 'W' {
                write!(text, "q{word}z").unwrap();
                word += 1;
            } else {
                text.push(c);
            }
        }
        text
    })
}

/// The complete words of [`document`].
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|w| w.starts_with('q') && w.ends_with('z'))
        .collect()
}

fn joined(lines: &[String]) -> String {
    lines.concat().chars().filter(|c| c.is_ascii_alphanumeric()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_prefix_shows_its_words(text in document(), width in 1u16..200, cut in any::<prop::sample::Index>()) {
        let end = text.floor_char_boundary(cut.index(text.len() + 1));
        let text = &text[..end];
        for lines in [so_far(text, width), shown(text, width)] {
            let all = joined(&lines);
            for word in words(text) {
                prop_assert!(all.contains(word), "{word} of {text:?} in {lines:#?}");
            }
            for line in &lines {
                prop_assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
                prop_assert!(line.width() <= usize::from(width.max(2)), "{line:?} of {text:?}");
            }
        }
    }

    #[test]
    fn pieces_make_the_same_document(text in document(), width in 1u16..100, step in 1usize..30) {
        prop_assert_eq!(grown(&text, step, width), shown(&text, width), "{:?}", text);
    }

    #[test]
    fn anything_renders(text in "[ -~\n\t*_`|>#\\-\\[\\]()!~:0-9&;<世👩\u{301}\u{200d}]{0,120}", width in 0u16..60) {
        for lines in [so_far(&text, width), shown(&text, width)] {
            prop_assert!(lines.iter().all(|line| line.chars().all(|c| !c.is_control())));
        }
    }
}

/// The delimiters of formulas stay, and what is escaped inside them; other escapes are those of Markdown.
#[test]
fn formulas_keep_their_backslashes() {
    let shown = |text: &str| {
        let lines = Document::whole(text).lines(60, Theme::PLAIN).to_vec();
        lines.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(shown("So \\(a_1 + b_1\\) is even."), ["So \\(a_1 + b_1\\) is even."]);
    assert_eq!(shown("\\[ \\{ x \\mid x > 0 \\} \\]"), ["\\[ \\{ x \\mid x > 0 \\} \\]"]);
    assert_eq!(shown("5 \\* 3 and \\_x\\_"), ["5 * 3 and _x_"]);
    assert_eq!(shown("A [note]\n\n[note]: http://a.b\n")[2], "[note]: http://a.b");
}

/// Where a line of code is broken it is marked: a copy of the code has no line end there.
#[test]
fn broken_lines_of_code_are_marked() {
    let lines =
        Document::whole("```\nlet long = first_part + second_part;\nx\n```").lines(24, Theme::PLAIN).to_vec();
    let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["│ let long = first_part", "↳ + second_part;", "│ x"]);
}

#[test]
fn tables_fit_into_40_columns() {
    let table = "| model | size | speed | verdict |\n|---|---|---|---|\n| qwen3-30b-a3b-instruct | 17.3 GB | 3.3 to 9.0 tok/s | STREAM |";
    let lines = Document::whole(table).lines(40, Theme::PLAIN).to_vec();
    let text: Vec<_> = lines.iter().map(ToString::to_string).collect();
    assert!(lines.iter().all(|line| line.width() <= 40), "{text:#?}");
    for word in ["qwen3-30b-a3b-instruct", "17.3 GB", "STREAM", "speed"] {
        assert!(text.iter().any(|line| line.contains(word)), "{word} is not in {text:#?}");
    }
}
