//! Values as JSON, as Python's `json.dumps` writes it, and JSON as values. It must not know filters.

use super::datum::{Datum, Form, Mapping};
use super::meter::{Growing, Meter};
use super::problem::{Done, Problem};
use super::show;

/// The options of `json.dumps`.
pub(super) struct JsonStyle {
    pub ensure_ascii: bool,
    /// What each level of a value on several lines is indented by.
    pub indent: Option<String>,
    pub item_separator: String,
    pub key_separator: String,
    pub sort_keys: bool,
}

/// `value` as JSON, which is charged.
///
/// # Errors
/// Values that JSON does not have.
pub(super) fn dumps(meter: &Meter, value: &Datum, style: &JsonStyle) -> Done<String> {
    let mut out = Growing::new(meter);
    write(&mut out, meter, value, style, 0)?;
    Ok(out.finish())
}

fn write(out: &mut Growing<'_>, meter: &Meter, value: &Datum, style: &JsonStyle, level: usize) -> Done<()> {
    meter.steps(1)?;
    match value {
        Datum::None => out.push("null"),
        Datum::Bool(value) => out.push(if *value { "true" } else { "false" }),
        Datum::Int(value) => out.push(&value.to_string()),
        Datum::Float(value) => out.push(&number(*value)),
        Datum::Text(text) => quoted(out, text, style.ensure_ascii),
        Datum::Seq(Form::List | Form::Tuple, items) => {
            out.push("[")?;
            for (at, item) in items.list.iter().enumerate() {
                separate(out, style, at, level)?;
                write(out, meter, item, style, level + 1)?;
            }
            close(out, style, items.list.is_empty(), level, "]")
        }
        Datum::Map(map) => {
            let mut entries: Vec<&(Datum, Datum)> = map.entries().iter().collect();
            meter.items(entries.len())?;
            if style.sort_keys {
                sort(&mut entries)?;
            }
            out.push("{")?;
            for (at, (key, value)) in entries.iter().enumerate() {
                separate(out, style, at, level)?;
                let key = match key {
                    Datum::Text(text) => text.to_string(),
                    Datum::None => "null".to_owned(),
                    Datum::Bool(value) => value.to_string(),
                    Datum::Int(value) => value.to_string(),
                    Datum::Float(value) => number(*value),
                    other => {
                        let problem =
                            format!("keys must be str, int, float, bool or None, not {}", other.type_name());
                        return Err(Problem::failed(problem));
                    }
                };
                quoted(out, &key, style.ensure_ascii)?;
                out.push(&style.key_separator)?;
                write(out, meter, value, style, level + 1)?;
            }
            close(out, style, map.entries().is_empty(), level, "}")
        }
        other => {
            let name = other.type_name();
            Err(Problem::failed(format!("Object of type {name} is not JSON serializable")))
        }
    }
}

fn sort(entries: &mut [&(Datum, Datum)]) -> Done<()> {
    if entries.iter().any(|(key, _)| key.as_text().is_none()) && entries.len() > 1 {
        return Err(Problem::failed("only keys that are texts can be sorted"));
    }
    entries.sort_by(|a, b| a.0.as_text().cmp(&b.0.as_text()));
    Ok(())
}

fn separate(out: &mut Growing<'_>, style: &JsonStyle, at: usize, level: usize) -> Done<()> {
    if at > 0 {
        out.push(&style.item_separator)?;
    }
    line(out, style, level + 1)
}

fn line(out: &mut Growing<'_>, style: &JsonStyle, level: usize) -> Done<()> {
    match &style.indent {
        None => Ok(()),
        Some(indent) => {
            out.push("\n")?;
            out.push_times(indent, level)
        }
    }
}

fn close(out: &mut Growing<'_>, style: &JsonStyle, empty: bool, level: usize, end: &str) -> Done<()> {
    if !empty {
        line(out, style, level)?;
    }
    out.push(end)
}

fn number(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        _ => show::float(value),
    }
}

fn quoted(out: &mut Growing<'_>, text: &str, ascii: bool) -> Done<()> {
    out.push("\"")?;
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let escape = match c {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\0'..='\u{1f}' => "",
            // The guard around messages is made of these; it is removed after the rendering.
            '\u{fdd0}'..='\u{fdef}' => continue,
            _ if ascii && !c.is_ascii() => "",
            _ => continue,
        };
        out.push(&text[plain..at])?;
        plain = at + c.len_utf8();
        if escape.is_empty() {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push(&format!("\\u{unit:04x}"))?;
            }
        } else {
            out.push(escape)?;
        }
    }
    out.push(&text[plain..])?;
    out.push("\"")
}

/// The value of a JSON text, which is charged.
///
/// # Errors
/// More levels than a value may have, or more memory than a rendering may take.
pub(super) fn from_json(meter: &Meter, value: &serde_json::Value) -> Done<Datum> {
    Ok(match value {
        serde_json::Value::Null => Datum::None,
        serde_json::Value::Bool(value) => Datum::Bool(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Datum::Int(i128::from(number)),
            None => match number.as_u64() {
                Some(number) => Datum::Int(i128::from(number)),
                None => Datum::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
        },
        serde_json::Value::String(text) => Datum::text(text.as_str()),
        serde_json::Value::Array(items) => {
            let list = items.iter().map(|item| from_json(meter, item)).collect::<Done<_>>()?;
            Datum::list(meter, list)?
        }
        serde_json::Value::Object(map) => {
            let mut pairs = Mapping::from_pairs(meter, [])?;
            for (key, value) in map {
                pairs.insert(meter, Datum::text(key.as_str()), from_json(meter, value)?)?;
            }
            Datum::Map(pairs.into())
        }
    })
}
