//! The filters of texts and numbers. It must not know the filters of lists.

use super::datum::{Datum, Form, Items, Mapping};
use super::given::{Given, flag, int, int_or_none, size, text, wrong};
use super::json::{self, JsonStyle};
use super::lexer::is_space;
use super::meter::{Growing, Meter};
use super::methods;
use super::percent;
use super::problem::{Done, Problem};
use super::show;
use super::wrap;

/// `subject|name(arguments)`
///
/// # Errors
/// Wrong arguments, and values without a number.
pub(super) fn apply(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<Datum> {
    match name {
        "abs" | "float" | "int" | "round" | "filesizeformat" => number(meter, name, subject, given),
        "tojson" => to_json(meter, subject, given),
        "format" => {
            if !given.positional.is_empty() && !given.named.is_empty() {
                return Err(Problem::failed(
                    "can't handle positional and keyword arguments at the same time",
                ));
            }
            let values = if given.named.is_empty() {
                Datum::Seq(Form::Tuple, Items::new(given.positional)?.into())
            } else {
                let pairs = given.named.into_iter().map(|(name, value)| (Datum::Text(name), value));
                Datum::Map(Mapping::from_pairs(meter, pairs)?.into())
            };
            percent::format(meter, &show::text_of(meter, subject)?, &values).map(Datum::text)
        }
        "pprint" => {
            let [_verbose] = given.bind(name, ["verbose"], 0)?;
            show::repr(meter, subject).map(Datum::text)
        }
        "urlencode" => url_encode(meter, subject, given),
        _ => {
            let subject = show::text_of(meter, subject)?;
            meter.scan(subject.len())?;
            of_text(meter, name, &subject, given)
        }
    }
}

fn of_text(meter: &Meter, name: &str, subject: &str, given: Given) -> Done<Datum> {
    match name {
        "lower" | "upper" | "capitalize" => {
            let [] = given.bind(name, [], 0)?;
            methods::cased(meter, subject, name)
        }
        "title" => {
            let [] = given.bind(name, [], 0)?;
            title(meter, subject)
        }
        "string" | "safe" => {
            let [] = given.bind(name, [], 0)?;
            made(meter, subject)
        }
        "trim" => {
            let [chars] = given.bind(name, ["chars"], 0)?;
            made(meter, methods::stripped(subject, "strip", chars.as_ref())?)
        }
        "center" => {
            let [width] = given.bind(name, ["width"], 0)?;
            methods::padded(meter, subject, "center", size(width.as_ref(), 80)?, " ")
        }
        "replace" => {
            let [old, new, count] = given.bind(name, ["old", "new", "count"], 2)?;
            let (old, new) = (old.unwrap_or(Datum::None), new.unwrap_or(Datum::None));
            let count = int_or_none(count.as_ref())?.unwrap_or(-1);
            let (old, new) = (show::text_of(meter, &old)?, show::text_of(meter, &new)?);
            methods::replace(meter, subject, &old, &new, count)
        }
        "e" | "escape" | "forceescape" => {
            let [] = given.bind(name, [], 0)?;
            escape(meter, subject)
        }
        "indent" => indent(meter, subject, given),
        "truncate" => truncate(meter, subject, given),
        "wordwrap" => wrap::word_wrap(meter, subject, given),
        "wordcount" => {
            let [] = given.bind(name, [], 0)?;
            let words = subject.split(|c: char| c != '_' && !c.is_alphanumeric());
            Ok(Datum::Int(words.filter(|word| !word.is_empty()).count() as i128))
        }
        "striptags" => {
            let [] = given.bind(name, [], 0)?;
            strip_tags(meter, subject)
        }
        other => Err(Problem::failed(format!("No filter named '{other}'."))),
    }
}

fn made(meter: &Meter, text: &str) -> Done<Datum> {
    meter.bytes(text.len())?;
    Ok(Datum::text(text))
}

fn title(meter: &Meter, subject: &str) -> Done<Datum> {
    meter.bytes(subject.len().saturating_mul(3))?;
    let mut out = String::with_capacity(subject.len());
    let mut inside = false;
    for c in subject.chars() {
        if inside {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        inside = !(is_space(c) || "-({[<".contains(c));
    }
    Ok(Datum::text(out))
}

fn escape(meter: &Meter, subject: &str) -> Done<Datum> {
    let mut out = Growing::new(meter);
    for c in subject.chars() {
        match c {
            '&' => out.push("&amp;")?,
            '<' => out.push("&lt;")?,
            '>' => out.push("&gt;")?,
            '"' => out.push("&#34;")?,
            '\'' => out.push("&#39;")?,
            c => out.push_char(c)?,
        }
    }
    Ok(Datum::text(out.finish()))
}

fn indent(meter: &Meter, subject: &str, given: Given) -> Done<Datum> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"], 0)?;
    let indention = match &width {
        Some(Datum::Text(text)) => text.to_string(),
        other => {
            let width = size(other.as_ref(), 4)?;
            meter.bytes(width)?;
            " ".repeat(width)
        }
    };
    let (first, blank) = (flag(first.as_ref(), false), flag(blank.as_ref(), false));
    // A last line break adds an empty line.
    meter.bytes(subject.len())?;
    let ended = format!("{subject}\n");
    let mut out = Growing::new(meter);
    for (at, line) in methods::lines(meter, &ended, false)?.into_iter().enumerate() {
        if at > 0 {
            out.push("\n")?;
        }
        if at == 0 && first || at > 0 && (blank || !line.is_empty()) {
            out.push(&indention)?;
        }
        out.push(line)?;
    }
    Ok(Datum::text(out.finish()))
}

fn truncate(meter: &Meter, subject: &str, given: Given) -> Done<Datum> {
    let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let end = end.unwrap_or(Datum::text("..."));
    let end = text(&end)?;
    let length = int(length.as_ref(), 255)?;
    let leeway = int_or_none(leeway.as_ref())?.unwrap_or(5);
    let ending = end.chars().count() as i128;
    if length < ending || leeway < 0 {
        return Err(Problem::failed(format!("expected length >= {ending}, got {length}")));
    }
    if subject.chars().count() as i128 <= length.saturating_add(leeway) {
        return made(meter, subject);
    }
    let most = usize::try_from(length - ending).unwrap_or(usize::MAX);
    let cut = subject.char_indices().nth(most).map_or(subject, |(at, _)| &subject[..at]);
    let kept =
        if flag(kill.as_ref(), false) { cut } else { cut.rsplit_once(' ').map_or(cut, |(left, _)| left) };
    made(meter, &format!("{kept}{end}"))
}

fn strip_tags(meter: &Meter, subject: &str) -> Done<Datum> {
    meter.bytes(subject.len().saturating_mul(2))?;
    let without = |text: &str, open: &str, close: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(open) {
            let Some(end) = rest[start..].find(close) else { break };
            out.push_str(&rest[..start]);
            rest = &rest[start + end + close.len()..];
        }
        out + rest
    };
    let plain = without(&without(subject, "<!--", "-->"), "<", ">");
    let mut words = String::new();
    for word in plain.split(is_space).filter(|word| !word.is_empty()) {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    Ok(Datum::text(unescape(&words)))
}

/// The usual entities of HTML as characters.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        let name = end.map(|end| &rest[1..end]);
        let c = match name {
            Some("amp") => Some('&'),
            Some("lt") => Some('<'),
            Some("gt") => Some('>'),
            Some("quot") => Some('"'),
            Some("apos") => Some('\''),
            Some("nbsp") => Some('\u{a0}'),
            Some(name) => name.strip_prefix('#').and_then(|code| {
                let hex = code.strip_prefix(['x', 'X']);
                let code = hex.map_or_else(|| code.parse(), |hex| u32::from_str_radix(hex, 16));
                code.ok().and_then(char::from_u32)
            }),
            None => None,
        };
        match (c, end) {
            (Some(c), Some(end)) => {
                out.push(c);
                rest = &rest[end + 1..];
            }
            _ => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn url_encode(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let [] = given.bind("urlencode", [], 0)?;
    let mut out = Growing::new(meter);
    let pairs = match subject {
        Datum::Map(map) => methods::pairs(meter, map)?,
        Datum::Seq(..) | Datum::Stream(_) | Datum::Undefined(_) => subject.items(meter)?,
        other => {
            quote(&mut out, &show::text_of(meter, other)?, b"/")?;
            return Ok(Datum::text(out.finish()));
        }
    };
    for (at, pair) in pairs.iter().enumerate() {
        let parts = pair.items(meter)?;
        let [key, value] = parts.as_slice() else { return Err(wrong(pair, "a pair")) };
        out.push(if at > 0 { "&" } else { "" })?;
        for (part, after) in [(key, "="), (value, "")] {
            let text = show::text_of(meter, part)?;
            for (at, word) in text.split(' ').enumerate() {
                out.push(if at > 0 { "+" } else { "" })?;
                quote(&mut out, word, b"")?;
            }
            out.push(after)?;
        }
    }
    Ok(Datum::text(out.finish()))
}

fn quote(out: &mut Growing<'_>, text: &str, safe: &[u8]) -> Done<()> {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) || safe.contains(&byte) {
            out.push_char(char::from(byte))?;
        } else {
            out.push(&format!("%{byte:02X}"))?;
        }
    }
    Ok(())
}

fn to_json(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = given.bind("tojson", names, 0)?;
    let indent = match &indent {
        None | Some(Datum::None) => None,
        Some(Datum::Text(text)) => Some(text.to_string()),
        Some(other) => {
            let width = size(Some(other), 0)?;
            meter.bytes(width)?;
            Some(" ".repeat(width))
        }
    };
    let mut item_separator = if indent.is_some() { "," } else { ", " }.to_owned();
    let mut key_separator = ": ".to_owned();
    if let Some(separators) = separators.filter(|separators| !matches!(separators, Datum::None)) {
        let pair = separators.items(meter)?;
        let [item, key] = pair.as_slice() else { return Err(wrong(&separators, "two separators")) };
        item_separator = text(item)?.to_owned();
        key_separator = text(key)?.to_owned();
    }
    let style = JsonStyle {
        ensure_ascii: flag(ascii.as_ref(), false),
        indent,
        item_separator,
        key_separator,
        sort_keys: flag(sort.as_ref(), false),
    };
    json::dumps(meter, subject, &style).map(Datum::text)
}

fn number(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<Datum> {
    if let Datum::Undefined(message) = subject {
        return Err(Problem::failed(&**message));
    }
    match name {
        "abs" => {
            let [] = given.bind(name, [], 0)?;
            match (subject, subject.as_int()) {
                (Datum::Float(value), _) => Ok(Datum::Float(value.abs())),
                (_, Some(value)) => Ok(Datum::Int(value.saturating_abs())),
                _ => Err(wrong(subject, "a number")),
            }
        }
        "float" => {
            let [default] = given.bind(name, ["default"], 0)?;
            Ok(float(subject).map_or_else(|| default.unwrap_or(Datum::Float(0.0)), Datum::Float))
        }
        "int" => {
            let [default, base] = given.bind(name, ["default", "base"], 0)?;
            let base = int(base.as_ref(), 10)?;
            whole(subject, base, default.unwrap_or(Datum::Int(0)))
        }
        "round" => round(meter, subject, given),
        _ => file_size(subject, given),
    }
}

/// Python's `float`.
fn float(value: &Datum) -> Option<f64> {
    match value {
        Datum::Text(text) => {
            let text = text.trim_matches(is_space);
            let digits = text.trim_start_matches(['+', '-']);
            let underscores = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
            if underscores { None } else { text.replace('_', "").parse().ok() }
        }
        other => other.as_float(),
    }
}

/// Python's `int`, by way of `float` if it refuses.
fn whole(value: &Datum, base: i128, default: Datum) -> Done<Datum> {
    if let Some(number) = value.as_int() {
        return Ok(Datum::Int(number));
    }
    if let Datum::Text(text) = value
        && let Some(number) = parse_int(text.trim_matches(is_space), base)
    {
        return Ok(Datum::Int(number));
    }
    let infinite = || Problem::failed("cannot convert float infinity to integer");
    Ok(match float(value) {
        Some(number) if number.is_infinite() && matches!(value, Datum::Float(_)) => return Err(infinite()),
        Some(number) if number.abs() < 1e38 => Datum::Int(number as i128),
        _ => default,
    })
}

fn parse_int(text: &str, base: i128) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find_map(|(prefix, radix)| {
        let digits = lower.strip_prefix(prefix)?;
        (base == 0 || base == radix).then_some((digits, radix))
    });
    let (digits, base) = prefixed.unwrap_or((&lower, if base == 0 { 10 } else { base }));
    let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
    if digits.is_empty() || digits.starts_with('_') || digits.ends_with('_') || digits.contains("__") {
        return None;
    }
    let digits = digits.replace('_', "");
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base).ok()?;
    Some(if negative { -number } else { number })
}

fn round(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let [precision, method] = given.bind("round", ["precision", "method"], 0)?;
    let precision = int(precision.as_ref(), 0)?;
    let method = method.unwrap_or(Datum::text("common"));
    let method = text(&method)?;
    let Some(value) = subject.as_float() else { return Err(wrong(subject, "a number")) };
    let Ok(places) = i32::try_from(precision.clamp(-400, 400)) else {
        return Err(Problem::failed("the precision is out of range"));
    };
    let factor = 10_f64.powi(places);
    match method {
        "ceil" => return Ok(Datum::Float((value * factor).ceil() / factor)),
        "floor" => return Ok(Datum::Float((value * factor).floor() / factor)),
        "common" => {}
        _ => return Err(Problem::failed("method must be common, ceil or floor")),
    }
    if let Some(whole) = subject.as_int() {
        if places >= 0 {
            return Ok(Datum::Int(whole));
        }
        let Some(unit) = 10_i128.checked_pow(places.unsigned_abs()) else { return Ok(Datum::Int(0)) };
        let (down, rest) = (whole.div_euclid(unit), whole.rem_euclid(unit));
        let up = rest * 2 > unit || rest * 2 == unit && down % 2 != 0;
        return Ok(Datum::Int((down + i128::from(up)).saturating_mul(unit)));
    }
    meter.bytes(800)?;
    // Rust writes the nearest digits of the exact value, ties to even, as Python rounds.
    let rounded = match usize::try_from(places) {
        Ok(places) => format!("{value:.places$}").parse().unwrap_or(value),
        Err(_) => (value * factor).round_ties_even() / factor,
    };
    Ok(Datum::Float(rounded))
}

fn file_size(subject: &Datum, given: Given) -> Done<Datum> {
    let [binary] = given.bind("filesizeformat", ["binary"], 0)?;
    let Some(bytes) = float(subject) else { return Err(wrong(subject, "a number")) };
    let binary = flag(binary.as_ref(), false);
    let (base, units) = if binary {
        (1024.0, ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"])
    } else {
        (1000.0, ["kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"])
    };
    if bytes == 1.0 {
        return Ok(Datum::text("1 Byte"));
    }
    if bytes < base {
        return Ok(Datum::text(format!("{} Bytes", bytes as i64)));
    }
    let mut unit = base;
    for (at, name) in units.iter().enumerate() {
        unit *= base;
        if bytes < unit || at + 1 == units.len() {
            return Ok(Datum::text(format!("{:.1} {name}", base * bytes / unit)));
        }
    }
    Ok(Datum::text(""))
}
