//! The methods of Python's texts, lists and mappings that change nothing. It must not know filters.

use super::datum::{Datum, Form, Mapping, equal};
use super::given::{Given, flag, int, int_or_none, size, text, wrong};
use super::lexer::is_space;
use super::meter::{Growing, Meter};
use super::percent;
use super::problem::{Done, Problem};
use super::show;

/// Methods of texts.
const OF_TEXTS: [&str; 45] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
    "encode",
    "translate",
];
/// Methods of mappings.
const OF_MAPS: [&str; 5] = ["get", "items", "keys", "values", "copy"];
/// Methods of lists and tuples.
const OF_LISTS: [&str; 3] = ["count", "index", "copy"];

/// Whether `subject` has this method.
pub(super) fn has(subject: &Datum, name: &str) -> bool {
    match subject {
        Datum::Text(_) => OF_TEXTS.contains(&name),
        Datum::Map(_) => OF_MAPS.contains(&name),
        Datum::Seq(Form::List, _) => OF_LISTS.contains(&name),
        Datum::Seq(Form::Tuple, _) | Datum::Range(_) => OF_LISTS[..2].contains(&name),
        _ => false,
    }
}

/// Calls the method `name` of `subject`.
///
/// # Errors
/// Wrong arguments, and what Python raises.
pub(super) fn call(meter: &Meter, subject: &Datum, name: &str, given: Given) -> Done<Datum> {
    match subject {
        Datum::Text(text) => {
            meter.scan(text.len())?;
            of_text(meter, text, name, given)
        }
        Datum::Map(map) => of_map(meter, map, name, given),
        _ => of_list(meter, subject, name, given),
    }
}

fn of_map(meter: &Meter, map: &std::rc::Rc<Mapping>, name: &str, given: Given) -> Done<Datum> {
    if name == "get" {
        let [key, default] = given.bind(name, ["key", "default"], 1)?;
        let found = map.get(key.as_ref().unwrap_or(&Datum::None))?;
        return Ok(found.cloned().or(default).unwrap_or(Datum::None));
    }
    let [] = given.bind(name, [], 0)?;
    let entries = map.entries();
    match name {
        "keys" => Datum::seq(meter, Form::Keys, entries.iter().map(|(key, _)| key.clone()).collect()),
        "values" => Datum::seq(meter, Form::Values, entries.iter().map(|(_, value)| value.clone()).collect()),
        "items" => Datum::seq(meter, Form::Pairs, pairs(meter, map)?),
        _ => Ok(Datum::Map(std::rc::Rc::clone(map))),
    }
}

/// The entries of a mapping as tuples.
pub(super) fn pairs(meter: &Meter, map: &Mapping) -> Done<Vec<Datum>> {
    let pair = |(key, value): &(Datum, Datum)| Datum::tuple(meter, vec![key.clone(), value.clone()]);
    map.entries().iter().map(pair).collect()
}

fn of_list(meter: &Meter, subject: &Datum, name: &str, given: Given) -> Done<Datum> {
    if name == "copy" {
        return Ok(subject.clone());
    }
    let [wanted] = given.bind(name, ["value"], 1)?;
    let wanted = wanted.unwrap_or(Datum::None);
    let mut count = 0_i128;
    for (at, item) in subject.walk()?.enumerate() {
        if equal(meter, &item, &wanted)? {
            if name == "index" {
                return Ok(Datum::Int(at as i128));
            }
            count += 1;
        }
    }
    match name {
        "index" => Err(Problem::failed("the value is not in the list")),
        _ => Ok(Datum::Int(count)),
    }
}

fn of_text(meter: &Meter, subject: &str, name: &str, given: Given) -> Done<Datum> {
    match name {
        "lower" | "upper" | "casefold" | "swapcase" | "capitalize" | "title" => {
            let [] = given.bind(name, [], 0)?;
            cased(meter, subject, name)
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = given.bind(name, ["chars"], 0)?;
            made(meter, stripped(subject, name, chars.as_ref())?)
        }
        "split" | "rsplit" => split(meter, subject, name, given),
        "splitlines" => {
            let [ends] = given.bind(name, ["keepends"], 0)?;
            let lines = lines(meter, subject, flag(ends.as_ref(), false))?;
            texts(meter, lines)
        }
        "partition" | "rpartition" => {
            let [separator] = given.bind(name, ["sep"], 1)?;
            partition(meter, subject, name, text(separator.as_ref().unwrap_or(&Datum::None))?)
        }
        "startswith" | "endswith" => ends(meter, subject, name, given),
        "find" | "rfind" | "index" | "rindex" | "count" => search(subject, name, given),
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) = (old.unwrap_or(Datum::None), new.unwrap_or(Datum::None));
            replace(meter, subject, text(&old)?, text(&new)?, int(count.as_ref(), -1)?)
        }
        "removeprefix" | "removesuffix" => {
            let [affix] = given.bind(name, ["affix"], 1)?;
            let affix = affix.unwrap_or(Datum::None);
            let rest = match name {
                "removeprefix" => subject.strip_prefix(text(&affix)?),
                _ => subject.strip_suffix(text(&affix)?),
            };
            made(meter, rest.unwrap_or(subject))
        }
        "center" | "ljust" | "rjust" | "zfill" => {
            let [width, fill] = given.bind(name, ["width", "fillchar"], 1)?;
            let fill = fill.unwrap_or(Datum::text(" "));
            padded(meter, subject, name, size(width.as_ref(), 0)?, text(&fill)?)
        }
        "join" => {
            let [items] = given.bind(name, ["iterable"], 1)?;
            join(meter, subject, &items.unwrap_or(Datum::None))
        }
        "format" => percent::format_fields(meter, subject, &given).map(Datum::text),
        "expandtabs" => {
            let [width] = given.bind(name, ["tabsize"], 0)?;
            expand_tabs(meter, subject, size(width.as_ref(), 8)?)
        }
        "encode" | "translate" => Err(Problem::failed(format!("the method '{name}' is not supported"))),
        _ => {
            let [] = given.bind(name, [], 0)?;
            Ok(Datum::Bool(is_all(subject, name)))
        }
    }
}

/// A new text, which is charged.
fn made(meter: &Meter, text: &str) -> Done<Datum> {
    meter.bytes(text.len())?;
    Ok(Datum::text(text))
}

fn texts<'a>(meter: &Meter, parts: impl IntoIterator<Item = &'a str>) -> Done<Datum> {
    let mut list = Vec::new();
    for part in parts {
        list.push(made(meter, part)?);
    }
    Datum::list(meter, list)
}

/// The text in another case.
pub(super) fn cased(meter: &Meter, subject: &str, name: &str) -> Done<Datum> {
    // One character has at most three in another case.
    meter.bytes(subject.len().saturating_mul(3))?;
    let mut inside = false;
    let mut made = String::with_capacity(subject.len());
    match name {
        "lower" | "casefold" => made = subject.to_lowercase(),
        "upper" => made = subject.to_uppercase(),
        "swapcase" => {
            for c in subject.chars() {
                if c.is_uppercase() { made.extend(c.to_lowercase()) } else { made.extend(c.to_uppercase()) }
            }
        }
        // A word ends where no letter is; `capitalize` has one word.
        _ => {
            for c in subject.chars() {
                match c {
                    _ if inside => made.extend(c.to_lowercase()),
                    // The letters of two letters have a case for the beginning of a word.
                    'Ǆ'..='ǆ' => made.push('ǅ'),
                    'Ǉ'..='ǉ' => made.push('ǈ'),
                    'Ǌ'..='ǌ' => made.push('ǋ'),
                    'Ǳ'..='ǳ' => made.push('ǲ'),
                    _ => made.extend(c.to_uppercase()),
                }
                inside = if name == "title" { c.is_alphabetic() } else { true };
            }
        }
    }
    Ok(Datum::text(made))
}

/// The text without white space, or without `chars`, at its ends.
pub(super) fn stripped<'a>(subject: &'a str, name: &str, chars: Option<&Datum>) -> Done<&'a str> {
    let set = match chars {
        None | Some(Datum::None) => None,
        Some(chars) => Some(text(chars)?),
    };
    let cut = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    let mut rest = subject;
    if name != "rstrip" {
        rest = rest.trim_start_matches(cut);
    }
    if name != "lstrip" {
        rest = rest.trim_end_matches(cut);
    }
    Ok(rest)
}

fn split(meter: &Meter, subject: &str, name: &str, given: Given) -> Done<Datum> {
    let [separator, most] = given.bind(name, ["sep", "maxsplit"], 0)?;
    let most = usize::try_from(int(most.as_ref(), -1)?).unwrap_or(usize::MAX);
    let parts = most.saturating_add(1);
    // The list of parts is as long as there are separators.
    let mut found: Vec<&str> = match separator.as_ref() {
        None | Some(Datum::None) => {
            meter.items(subject.split(is_space).filter(|word| !word.is_empty()).take(parts).count())?;
            words(subject, most, name == "rsplit")
        }
        Some(separator) => {
            let separator = text(separator)?;
            if separator.is_empty() {
                return Err(Problem::failed("empty separator"));
            }
            meter.items(subject.matches(separator).take(most).count())?;
            match name {
                "split" => subject.splitn(parts, separator).collect(),
                _ => subject.rsplitn(parts, separator).collect(),
            }
        }
    };
    if name == "rsplit" {
        found.reverse();
    }
    texts(meter, found)
}

/// Words between white space, at most `most` and the rest; from the right they come in reverse order.
fn words(subject: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut found = Vec::new();
    // White space at the far end counts only behind the last cut.
    let mut rest = match from_right {
        true => subject.trim_end_matches(is_space),
        false => subject.trim_start_matches(is_space),
    };
    while !rest.is_empty() {
        if found.len() == most {
            found.push(rest);
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut else {
            found.push(rest);
            break;
        };
        let space = rest[cut..].chars().next().map_or(0, char::len_utf8);
        if from_right {
            found.push(&rest[cut + space..]);
            rest = rest[..cut].trim_end_matches(is_space);
        } else {
            found.push(&rest[..cut]);
            rest = rest[cut + space..].trim_start_matches(is_space);
        }
    }
    found
}

/// The lines of a text, at all line ends that Python knows.
pub(super) fn lines<'a>(meter: &Meter, subject: &'a str, keep: bool) -> Done<Vec<&'a str>> {
    let ends = ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    meter.items(subject.matches(ends).count())?;
    let mut found = Vec::new();
    let mut rest = subject;
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            found.push(rest);
            break;
        };
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        found.push(if keep { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    Ok(found)
}

fn partition(meter: &Meter, subject: &str, name: &str, separator: &str) -> Done<Datum> {
    if separator.is_empty() {
        return Err(Problem::failed("empty separator"));
    }
    let parts = match name {
        "partition" => subject.split_once(separator).map_or([subject, "", ""], |(a, b)| [a, separator, b]),
        _ => subject.rsplit_once(separator).map_or(["", "", subject], |(a, b)| [a, separator, b]),
    };
    let list = parts.into_iter().map(|part| made(meter, part)).collect::<Done<_>>()?;
    Datum::tuple(meter, list)
}

fn ends(meter: &Meter, subject: &str, name: &str, given: Given) -> Done<Datum> {
    let [affix, start, stop] = given.bind(name, ["prefix", "start", "end"], 1)?;
    let affix = affix.unwrap_or(Datum::None);
    let window = window(subject, start.as_ref(), stop.as_ref())?.1;
    let matches = |affix: &Datum| {
        let affix = text(affix)?;
        Ok(if name == "startswith" { window.starts_with(affix) } else { window.ends_with(affix) })
    };
    let found = match &affix {
        Datum::Seq(Form::Tuple, items) => {
            meter.steps(items.list.len())?;
            let all = items.list.iter().map(matches).collect::<Done<Vec<bool>>>()?;
            all.contains(&true)
        }
        other => matches(other)?,
    };
    Ok(Datum::Bool(found))
}

/// The part of a text between two places, and the number of characters before it.
fn window<'a>(subject: &'a str, start: Option<&Datum>, stop: Option<&Datum>) -> Done<(usize, &'a str)> {
    let (start, stop) = (int_or_none(start)?, int_or_none(stop)?);
    if start.is_none() && stop.is_none() {
        return Ok((0, subject));
    }
    let count = subject.chars().count();
    let place = |at: i128| {
        let at = if at < 0 { at.saturating_add(count as i128).max(0) } else { at };
        usize::try_from(at).map_or(count, |at| at.min(count))
    };
    let (start, stop) = (start.map_or(0, place), stop.map_or(count, place));
    let byte = |at: usize| subject.char_indices().nth(at).map_or(subject.len(), |(byte, _)| byte);
    Ok((start, if start <= stop { &subject[byte(start)..byte(stop)] } else { "" }))
}

fn search(subject: &str, name: &str, given: Given) -> Done<Datum> {
    let [part, start, stop] = given.bind(name, ["sub", "start", "end"], 1)?;
    let part = part.unwrap_or(Datum::None);
    let part = text(&part)?;
    let (before, window) = window(subject, start.as_ref(), stop.as_ref())?;
    if name == "count" {
        return Ok(Datum::Int(window.matches(part).count() as i128));
    }
    let found = if name.starts_with('r') { window.rfind(part) } else { window.find(part) };
    match found {
        Some(at) => Ok(Datum::Int((before + window[..at].chars().count()) as i128)),
        None if name.ends_with("find") => Ok(Datum::Int(-1)),
        None => Err(Problem::failed("substring not found")),
    }
}

/// Python's `replace`; a negative `count` is without limit.
pub(super) fn replace(meter: &Meter, subject: &str, old: &str, new: &str, count: i128) -> Done<Datum> {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let places = subject.matches(old).take(most).count();
    meter.bytes(places.saturating_mul(new.len()).saturating_add(subject.len()))?;
    Ok(Datum::text(subject.replacen(old, new, places)))
}

/// The text with `fill` around it up to `width` characters.
pub(super) fn padded(meter: &Meter, subject: &str, name: &str, width: usize, fill: &str) -> Done<Datum> {
    if fill.chars().count() != 1 {
        return Err(Problem::failed("The fill character must be exactly one character long"));
    }
    let missing = width.saturating_sub(subject.chars().count());
    let mut out = Growing::new(meter);
    let (sign, rest, fill) = match name {
        "zfill" => {
            let sign = subject.starts_with(['+', '-']);
            (&subject[..usize::from(sign)], &subject[usize::from(sign)..], "0")
        }
        _ => ("", subject, fill),
    };
    let before = match name {
        "ljust" => 0,
        // Python puts the odd one to the left of an even width.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    out.push(sign)?;
    out.push_times(fill, before)?;
    out.push(rest)?;
    out.push_times(fill, missing - before)?;
    Ok(Datum::text(out.finish()))
}

fn join(meter: &Meter, separator: &str, items: &Datum) -> Done<Datum> {
    let mut out = Growing::new(meter);
    for (at, item) in items.walk()?.enumerate() {
        meter.steps(1)?;
        if at > 0 {
            out.push(separator)?;
        }
        let Some(text) = item.as_text() else {
            let found = item.type_name();
            let problem = format!("sequence item {at}: expected str instance, {found} found");
            return Err(Problem::failed(problem));
        };
        out.push(text)?;
    }
    Ok(Datum::text(out.finish()))
}

/// The items as texts with `separator` between them.
pub(super) fn join_any(meter: &Meter, separator: &str, items: &[Datum]) -> Done<Datum> {
    let mut out = Growing::new(meter);
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(separator)?;
        }
        out.push(&show::text_of(meter, item)?)?;
    }
    Ok(Datum::text(out.finish()))
}

fn expand_tabs(meter: &Meter, subject: &str, width: usize) -> Done<Datum> {
    let mut out = Growing::new(meter);
    let mut column = 0;
    for c in subject.chars() {
        match c {
            '\t' => {
                let spaces = if width == 0 { 0 } else { width - column % width };
                out.push_times(" ", spaces)?;
                column += spaces;
            }
            _ => {
                out.push_char(c)?;
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Datum::text(out.finish()))
}

/// Python's `isdigit` and the like.
pub(super) fn is_all(subject: &str, name: &str) -> bool {
    let each = |test: &dyn Fn(char) -> bool| !subject.is_empty() && subject.chars().all(test);
    match name {
        "isalnum" => each(&char::is_alphanumeric),
        "isalpha" => each(&char::is_alphabetic),
        "isascii" => subject.is_ascii(),
        "isdecimal" | "isdigit" | "isnumeric" => each(&char::is_numeric),
        "isspace" => each(&is_space),
        "isprintable" => !subject.chars().any(|c| c.is_control() || c != ' ' && c.is_whitespace()),
        "isidentifier" => {
            let mut chars = subject.chars();
            chars.next().is_some_and(|c| c == '_' || c.is_alphabetic())
                && chars.all(|c| c == '_' || c.is_alphanumeric())
        }
        "islower" => subject.chars().any(char::is_lowercase) && !subject.chars().any(char::is_uppercase),
        "isupper" => subject.chars().any(char::is_uppercase) && !subject.chars().any(char::is_lowercase),
        "istitle" => {
            let (mut inside, mut any) = (false, false);
            for c in subject.chars() {
                if c.is_uppercase() && inside || c.is_lowercase() && !inside {
                    return false;
                }
                inside = c.is_uppercase() || c.is_lowercase();
                any |= inside;
            }
            any
        }
        _ => false,
    }
}

/// The error about a value that has no such method.
pub(super) fn unknown(subject: &Datum, name: &str) -> Problem {
    match subject {
        Datum::Undefined(_) => wrong(subject, ""),
        other => Problem::failed(format!("'{} object' has no attribute '{name}'", other.type_name())),
    }
}
