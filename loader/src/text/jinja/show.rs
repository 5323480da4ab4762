//! Values as text: Python's `str` and `repr`. It must not know filters.

use std::borrow::Cow;

use super::datum::{Datum, Form, Mapping};
use super::meter::{Growing, Meter};
use super::problem::{Done, Problem};

/// Namespaces can contain themselves.
const NESTING_MAX: usize = 150;

/// The text of a value, as `{{ value }}` prints it. A new text is charged.
pub(super) fn text_of<'a>(meter: &Meter, datum: &'a Datum) -> Done<Cow<'a, str>> {
    match datum {
        Datum::Text(text) => Ok(Cow::Borrowed(text)),
        Datum::Undefined(_) => Ok(Cow::Borrowed("")),
        other => repr(meter, other).map(Cow::Owned),
    }
}

/// The value as it is written in Python. It is charged.
pub(super) fn repr(meter: &Meter, datum: &Datum) -> Done<String> {
    let mut out = Growing::new(meter);
    write(&mut out, meter, datum, 0)?;
    Ok(out.finish())
}

fn write(out: &mut Growing<'_>, meter: &Meter, datum: &Datum, nesting: usize) -> Done<()> {
    if nesting > NESTING_MAX {
        return Err(Problem::limit("maximum recursion depth exceeded while a value was printed"));
    }
    meter.steps(1)?;
    match datum {
        Datum::Undefined(_) => out.push("Undefined"),
        Datum::None => out.push("None"),
        Datum::Bool(value) => out.push(if *value { "True" } else { "False" }),
        Datum::Int(value) => out.push(&value.to_string()),
        Datum::Float(value) => out.push(&float(*value)),
        Datum::Text(text) => quoted(out, text),
        Datum::Seq(form, items) => {
            let (open, close) = match form {
                Form::List => ("[", "]"),
                Form::Tuple if items.list.len() == 1 => ("(", ",)"),
                Form::Tuple => ("(", ")"),
                Form::Keys => ("dict_keys([", "])"),
                Form::Values => ("dict_values([", "])"),
                Form::Pairs => ("dict_items([", "])"),
            };
            out.push(open)?;
            for (at, item) in items.list.iter().enumerate() {
                out.push(if at > 0 { ", " } else { "" })?;
                write(out, meter, item, nesting + 1)?;
            }
            out.push(close)
        }
        Datum::Range(steps) => {
            let stop = match steps.count {
                0 => steps.start,
                count => steps.start.saturating_add(steps.step.saturating_mul(count as i128)),
            };
            let step = if steps.step == 1 { String::new() } else { format!(", {}", steps.step) };
            out.push(&format!("range({}, {stop}{step})", steps.start))
        }
        Datum::Stream(_) => out.push("<generator object>"),
        Datum::Map(map) => write_map(out, meter, map, nesting),
        Datum::Namespace(namespace) => {
            let attributes = namespace.attributes.borrow().clone();
            let pairs = attributes.into_iter().map(|(name, value)| (Datum::Text(name), value));
            out.push("<Namespace ")?;
            write_map(out, meter, &Mapping::from_pairs(meter, pairs)?, nesting)?;
            out.push(">")
        }
        Datum::Object(object) => out.push(&object.shown()),
    }
}

fn write_map(out: &mut Growing<'_>, meter: &Meter, map: &Mapping, nesting: usize) -> Done<()> {
    out.push("{")?;
    for (at, (key, value)) in map.entries().iter().enumerate() {
        out.push(if at > 0 { ", " } else { "" })?;
        write(out, meter, key, nesting + 1)?;
        out.push(": ")?;
        write(out, meter, value, nesting + 1)?;
    }
    out.push("}")
}

fn quoted(out: &mut Growing<'_>, text: &str) -> Done<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\\' => out.push("\\\\")?,
            c if c == quote => {
                out.push_char('\\')?;
                out.push_char(c)?;
            }
            c if is_unprintable(c) => {
                let code = u32::from(c);
                out.push(&match code {
                    ..=0xff => format!("\\x{code:02x}"),
                    0x100..=0xffff => format!("\\u{code:04x}"),
                    _ => format!("\\U{code:08x}"),
                })?;
            }
            c => out.push_char(c)?,
        }
    }
    out.push_char(quote)
}

/// Characters that Python escapes: controls, formats, separators, private use. Noncharacters are none of
/// them here: the guard around messages is made of them.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || c != ' ' && c.is_whitespace()
        || matches!(
            u32::from(c),
            0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e
                | 0x2060..=0x2064 | 0x2066..=0x206f | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb
                | 0xe0001 | 0xe0020..=0xe007f | 0xf0000..=0x10fffd
        )
}

/// A number as Python writes it: the shortest digits that give the same number.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(-4..=15) => {
            let plain = format!("{value}");
            if plain.contains('.') { plain } else { format!("{plain}.0") }
        }
        Ok(exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        Err(_) => scientific,
    }
}
