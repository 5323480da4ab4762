//! Python's two ways to write values into a pattern: `'%s' % value` and `'{}'.format(value)`.
//!
//! It must not know filters.

use super::datum::{Datum, Form};
use super::given::{Given, wrong};
use super::meter::{Growing, Meter};
use super::problem::{Done, Problem};
use super::show;
use super::subscripts;

/// How one value is written.
#[derive(Debug, Clone, Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `pattern % values`, in which a tuple gives one value for each field and a mapping gives them by name.
///
/// # Errors
/// More or fewer fields than values, and values of the wrong type.
pub(super) fn format(meter: &Meter, pattern: &str, values: &Datum) -> Done<String> {
    let one = std::slice::from_ref(values);
    let (list, mut next) = match values {
        Datum::Seq(Form::Tuple, items) => (items.list.as_slice(), 0),
        _ => (one, 0),
    };
    let mut take = || {
        next += 1;
        let few = || Problem::failed("not enough arguments for format string");
        list.get(next - 1).cloned().ok_or_else(few)
    };
    let mut named = false;
    let mut out = Growing::new(meter);
    let mut rest = pattern;
    while let Some(at) = rest.find('%') {
        out.push(&rest[..at])?;
        rest = &rest[at + 1..];
        let mut value = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let Some((name, after)) = inner.split_once(')') else {
                return Err(Problem::failed("incomplete format key"));
            };
            let Datum::Map(map) = values else { return Err(Problem::failed("format requires a mapping")) };
            let key = Datum::text(name);
            let found = map.get(&key)?.cloned();
            value = Some(found.ok_or_else(|| Problem::failed(format!("key '{name}' is missing")))?);
            (rest, named) = (after, true);
        }
        let (spec, after) = percent_spec(rest, &mut take)?;
        rest = after;
        if spec.kind == Some('%') {
            out.push("%")?;
            continue;
        }
        let value = match value {
            Some(value) => value,
            None => take()?,
        };
        percent_field(meter, &mut out, &spec, &value)?;
    }
    out.push(rest)?;
    if next < list.len() && !named && !matches!(values, Datum::Map(_)) {
        return Err(Problem::failed("not all arguments converted during string formatting"));
    }
    Ok(out.finish())
}

/// Reads flags, width, precision and kind.
fn percent_spec<'a>(rest: &'a str, take: &mut dyn FnMut() -> Done<Datum>) -> Done<(Spec, &'a str)> {
    let mut spec = Spec::default();
    let mut chars = rest.chars().peekable();
    let mut left = false;
    while let Some(flag) = chars.next_if(|c| "-+ #0".contains(*c)) {
        match flag {
            '-' => left = true,
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            _ => spec.zero = true,
        }
    }
    let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Done<Option<i128>> {
        if chars.next_if_eq(&'*').is_some() {
            let value = take()?;
            return value.as_int().map(Some).ok_or_else(|| Problem::failed("* wants int"));
        }
        let mut number = None;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
            chars.next();
            number = Some(number.unwrap_or(0_i128).saturating_mul(10).saturating_add(i128::from(digit)));
        }
        Ok(number)
    };
    let width = number(&mut chars)?.unwrap_or(0);
    if chars.next_if_eq(&'.').is_some() {
        let precision = number(&mut chars)?.unwrap_or(0).max(0);
        spec.precision = Some(usize::try_from(precision).unwrap_or(usize::MAX));
    }
    while chars.next_if(|c| "hlL".contains(*c)).is_some() {}
    spec.width = usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX);
    spec.align = (left || width < 0).then_some('<');
    spec.kind = chars.next();
    if spec.kind.is_none() {
        return Err(Problem::failed("incomplete format"));
    }
    let after: usize = chars.map(char::len_utf8).sum();
    Ok((spec, &rest[rest.len() - after..]))
}

fn percent_field(meter: &Meter, out: &mut Growing<'_>, spec: &Spec, value: &Datum) -> Done<()> {
    let kind = spec.kind.unwrap_or('s');
    match kind {
        's' | 'r' | 'a' => {
            let text =
                if kind == 's' { show::text_of(meter, value)? } else { show::repr(meter, value)?.into() };
            let spec = Spec { align: spec.align.or(Some('>')), zero: false, ..spec.clone() };
            padded_text(out, &spec, &text)
        }
        'c' => {
            let c = match value {
                Datum::Text(text) if text.chars().nth(1).is_none() => text.to_string(),
                other => {
                    let code = other.as_int().and_then(|code| u32::try_from(code).ok());
                    code.and_then(char::from_u32).ok_or_else(|| wrong(other, "a character"))?.to_string()
                }
            };
            padded_text(out, &Spec { align: spec.align.or(Some('>')), ..spec.clone() }, &c)
        }
        'd' | 'i' | 'u' => {
            let number = match value {
                Datum::Float(number) if number.is_finite() && number.abs() < 1e38 => *number as i128,
                other => other.as_int().ok_or_else(|| {
                    let found = other.type_name();
                    Problem::failed(format!("%{kind} format: a real number is required, not {found}"))
                })?,
            };
            let mut digits = number.unsigned_abs().to_string();
            if let Some(least) = spec.precision.filter(|least| *least > digits.len()) {
                meter.bytes(least)?;
                digits.insert_str(0, &"0".repeat(least - digits.len()));
            }
            padded_number(out, spec, number < 0, "", &digits)
        }
        'x' | 'X' | 'o' => {
            let number = value.as_int().ok_or_else(|| wrong(value, "an integer"))?;
            let (prefix, digits) = radix(number.unsigned_abs(), kind);
            padded_number(out, spec, number < 0, if spec.alternate { prefix } else { "" }, &digits)
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = value
                .as_float()
                .ok_or_else(|| Problem::failed(format!("must be real number, not {}", value.type_name())))?;
            let digits =
                float_digits(meter, number.abs(), kind, spec.precision.unwrap_or(6), spec.alternate)?;
            padded_number(out, spec, number.is_sign_negative(), "", &digits)
        }
        other => Err(Problem::failed(format!("unsupported format character '{other}'"))),
    }
}

fn radix(number: u128, kind: char) -> (&'static str, String) {
    match kind {
        'x' => ("0x", format!("{number:x}")),
        'X' => ("0X", format!("{number:X}")),
        'o' => ("0o", format!("{number:o}")),
        _ => ("0b", format!("{number:b}")),
    }
}

/// The digits of a number that is not negative.
fn float_digits(meter: &Meter, number: f64, kind: char, precision: usize, keep: bool) -> Done<String> {
    // The library takes no larger precision than this, and no number has that many digits.
    if precision > 10_000 {
        return Err(Problem::limit("a precision of more than 10000 digits"));
    }
    meter.bytes(precision.saturating_add(400))?;
    if !number.is_finite() {
        let text = if number.is_nan() { "nan" } else { "inf" };
        return Ok(if kind.is_uppercase() { text.to_uppercase() } else { text.to_owned() });
    }
    let scientific = |precision: usize| {
        let text = format!("{number:.precision$e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        (digits.to_owned(), exponent)
    };
    let exponential = |digits: &str, exponent: i32| {
        let sign = if exponent < 0 { '-' } else { '+' };
        let e = if kind.is_uppercase() { 'E' } else { 'e' };
        format!("{digits}{e}{sign}{:02}", exponent.abs())
    };
    Ok(match kind.to_ascii_lowercase() {
        'f' => format!("{number:.precision$}"),
        'e' => {
            let (digits, exponent) = scientific(precision);
            exponential(&digits, exponent)
        }
        _ => {
            let precision = precision.max(1);
            let (digits, exponent) = scientific(precision - 1);
            let short = |text: &str| {
                let cut = !keep && text.contains('.');
                if cut {
                    text.trim_end_matches('0').trim_end_matches('.').to_owned()
                } else {
                    text.to_owned()
                }
            };
            if exponent < -4 || exponent >= i32::try_from(precision).unwrap_or(i32::MAX) {
                exponential(&short(&digits), exponent)
            } else {
                let places = i32::try_from(precision).unwrap_or(0) - 1 - exponent;
                short(&format!("{number:.*}", usize::try_from(places).unwrap_or(0)))
            }
        }
    })
}

fn padded_text(out: &mut Growing<'_>, spec: &Spec, text: &str) -> Done<()> {
    let cut = match spec.precision {
        Some(most) => text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end]),
        None => text,
    };
    let missing = spec.width.saturating_sub(cut.chars().count());
    let (before, after) = match spec.align.unwrap_or('<') {
        '>' | '=' => (missing, 0),
        '^' => (missing / 2, missing - missing / 2),
        _ => (0, missing),
    };
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' }).to_string();
    out.push_times(&fill, before)?;
    out.push(cut)?;
    out.push_times(&fill, after)
}

fn padded_number(out: &mut Growing<'_>, spec: &Spec, negative: bool, prefix: &str, digits: &str) -> Done<()> {
    let sign = if negative {
        "-"
    } else {
        spec.sign.filter(|c| *c != '-').map_or("", |c| if c == '+' { "+" } else { " " })
    };
    let digits = match spec.grouping {
        Some(separator) => grouped(digits, separator),
        None => digits.to_owned(),
    };
    let missing = spec.width.saturating_sub(sign.len() + prefix.len() + digits.chars().count());
    let fill = spec.fill.unwrap_or(if spec.zero && spec.align.is_none() { '0' } else { ' ' }).to_string();
    let align = spec.align.unwrap_or(if spec.zero { '=' } else { '>' });
    let (before, inside, after) = match align {
        '<' => (0, 0, missing),
        '^' => (missing / 2, 0, missing - missing / 2),
        '=' => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    out.push_times(&fill, before)?;
    out.push(sign)?;
    out.push(prefix)?;
    out.push_times(&fill, inside)?;
    out.push(&digits)?;
    out.push_times(&fill, after)
}

/// The digits before the point in groups of three.
fn grouped(digits: &str, separator: char) -> String {
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(separator);
        }
        out.push(digit);
    }
    out + rest
}

/// `pattern.format(arguments)`.
///
/// # Errors
/// Fields without a value, and values of the wrong type.
pub(super) fn format_fields(meter: &Meter, pattern: &str, given: &Given) -> Done<String> {
    let mut out = Growing::new(meter);
    let mut next = 0;
    fields(meter, &mut out, pattern, given, &mut next, true)?;
    Ok(out.finish())
}

fn fields(
    meter: &Meter,
    out: &mut Growing<'_>,
    pattern: &str,
    given: &Given,
    next: &mut usize,
    outer: bool,
) -> Done<()> {
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        let sign = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(sign) {
            out.push(sign)?;
            rest = after;
            continue;
        }
        if sign == "}" {
            return Err(Problem::failed("Single '}' encountered in format string"));
        }
        let mut depth = 1;
        let close = rest.char_indices().find(|(_, c)| {
            depth += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let Some((close, _)) = close else {
            return Err(Problem::failed("expected '}' before end of string"));
        };
        let field = &rest[..close];
        rest = &rest[close + 1..];
        meter.steps(1)?;
        let (path, spec) = field.split_once(':').unwrap_or((field, ""));
        let (path, conversion) = path.split_once('!').unwrap_or((path, ""));
        let mut value = field_value(meter, path, given, next)?;
        match conversion {
            "" => {}
            "s" => value = Datum::text(show::text_of(meter, &value)?),
            "r" | "a" => value = Datum::text(show::repr(meter, &value)?),
            _ => return Err(Problem::failed(format!("unknown conversion specifier '{conversion}'"))),
        }
        let spec = if spec.contains('{') {
            if !outer {
                return Err(Problem::failed("Max string recursion exceeded"));
            }
            let mut inner = Growing::new(meter);
            fields(meter, &mut inner, spec, given, next, false)?;
            inner.finish()
        } else {
            spec.to_owned()
        };
        write_field(meter, out, &value, &spec)?;
    }
    out.push(rest)
}

fn field_value(meter: &Meter, path: &str, given: &Given, next: &mut usize) -> Done<Datum> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut steps) = path.split_at(end);
    let position = if name.is_empty() {
        *next += 1;
        Some(*next - 1)
    } else {
        name.parse::<usize>().ok()
    };
    let found = match position {
        Some(at) => given.positional.get(at).cloned(),
        None => given.named.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.clone()),
    };
    let missing = || match position {
        Some(at) => Problem::failed(format!("Replacement index {at} out of range for positional args tuple")),
        None => Problem::failed(format!("'{name}'")),
    };
    let mut value = found.ok_or_else(missing)?;
    while !steps.is_empty() {
        meter.steps(1)?;
        let (key, after) = match steps.strip_prefix('.') {
            Some(_) => return Err(Problem::failed(format!("'{path}': attributes are not supported"))),
            None => {
                steps[1..].split_once(']').ok_or_else(|| Problem::failed("Missing ']' in format string"))?
            }
        };
        let index = key.parse::<i128>().map_or_else(|_| Datum::text(key), Datum::Int);
        value = subscripts::item(meter, &value, &index)?
            .ok_or_else(|| Problem::failed(format!("'{key}' is no item of the value to be formatted")))?;
        steps = after;
    }
    Ok(value)
}

fn write_field(meter: &Meter, out: &mut Growing<'_>, value: &Datum, text: &str) -> Done<()> {
    let spec = field_spec(text)?;
    match value {
        Datum::Bool(_) if text.is_empty() => out.push(&show::text_of(meter, value)?),
        Datum::Int(_) | Datum::Bool(_)
            if !matches!(spec.kind, Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%')) =>
        {
            let number = value.as_int().unwrap_or(0);
            let (prefix, digits) = match spec.kind {
                Some(kind @ ('x' | 'X' | 'o' | 'b')) => radix(number.unsigned_abs(), kind),
                Some('c') => {
                    let c = u32::try_from(number).ok().and_then(char::from_u32);
                    ("", c.ok_or_else(|| wrong(value, "a character"))?.to_string())
                }
                None | Some('d' | 'n') => ("", number.unsigned_abs().to_string()),
                Some(kind) => return Err(unknown(kind, value)),
            };
            padded_number(out, &spec, number < 0, if spec.alternate { prefix } else { "" }, &digits)
        }
        Datum::Int(_) | Datum::Bool(_) | Datum::Float(_) => {
            let number = value.as_float().unwrap_or(0.0);
            let digits = match spec.kind {
                None if spec.precision.is_none() => show::float(number.abs()),
                Some('%') => {
                    float_digits(meter, number.abs() * 100.0, 'f', spec.precision.unwrap_or(6), false)? + "%"
                }
                Some(kind @ ('e' | 'E' | 'f' | 'F' | 'g' | 'G')) => {
                    float_digits(meter, number.abs(), kind, spec.precision.unwrap_or(6), spec.alternate)?
                }
                None => float_digits(meter, number.abs(), 'g', spec.precision.unwrap_or(6), false)?,
                Some(kind) => return Err(unknown(kind, value)),
            };
            padded_number(out, &spec, number.is_sign_negative(), "", &digits)
        }
        _ if text.is_empty() => out.push(&show::text_of(meter, value)?),
        Datum::Text(text) if matches!(spec.kind, None | Some('s')) => {
            if matches!(spec.align, Some('=')) || spec.sign.is_some() {
                return Err(Problem::failed("this format is not allowed for a string"));
            }
            padded_text(out, &spec, text)
        }
        Datum::Text(_) => Err(unknown(spec.kind.unwrap_or(' '), value)),
        other => {
            let name = other.type_name();
            Err(Problem::failed(format!("unsupported format string passed to {name}.__format__")))
        }
    }
}

fn unknown(kind: char, value: &Datum) -> Problem {
    let name = value.type_name();
    Problem::failed(format!("Unknown format code '{kind}' for object of type '{name}'"))
}

/// `[[fill]align][sign][#][0][width][grouping][.precision][kind]`
fn field_spec(text: &str) -> Done<Spec> {
    let bad = || Problem::failed(format!("Invalid format specifier '{text}'"));
    let mut spec = Spec::default();
    let mut chars: Vec<char> = text.chars().collect();
    chars.reverse();
    let is_align = |c: Option<&char>| c.is_some_and(|c| "<>=^".contains(*c));
    if chars.len() >= 2 && is_align(chars.get(chars.len() - 2)) {
        spec.fill = chars.pop();
        spec.align = chars.pop();
    } else if is_align(chars.last()) {
        spec.align = chars.pop();
    }
    if chars.last().is_some_and(|c| "+- ".contains(*c)) {
        spec.sign = chars.pop();
    }
    if chars.last() == Some(&'#') {
        chars.pop();
        spec.alternate = true;
    }
    if chars.last() == Some(&'0') {
        chars.pop();
        spec.zero = true;
    }
    let number = |chars: &mut Vec<char>| {
        let mut number = None;
        while let Some(digit) = chars.last().and_then(|c| c.to_digit(10)) {
            chars.pop();
            number = Some(number.unwrap_or(0_usize).saturating_mul(10).saturating_add(digit as usize));
        }
        number
    };
    spec.width = number(&mut chars).unwrap_or(0);
    if chars.last().is_some_and(|c| ",_".contains(*c)) {
        spec.grouping = chars.pop();
    }
    if chars.last() == Some(&'.') {
        chars.pop();
        spec.precision = Some(number(&mut chars).ok_or_else(bad)?);
    }
    spec.kind = chars.pop();
    if chars.is_empty() { Ok(spec) } else { Err(bad()) }
}
