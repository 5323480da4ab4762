//! The filters of lists and mappings. It must not know the filters of texts.

use std::cmp::Ordering;

use super::datum::{Datum, Form, Items, equal, order};
use super::given::{Given, flag, size, text, wrong};
use super::lookup;
use super::meter::Meter;
use super::methods;
use super::operators::arithmetic;
use super::problem::{Done, Problem};
use super::subscripts;
use super::syntax::Arithmetic;

/// The filters of this file.
pub(super) const NAMES: [&str; 17] = [
    "batch", "slice", "count", "length", "dictsort", "first", "last", "groupby", "items", "join", "list",
    "max", "min", "reverse", "sort", "sum", "unique",
];

/// `subject|name(arguments)`
///
/// # Errors
/// Wrong arguments, and values without order or items.
pub(super) fn apply(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<Datum> {
    match name {
        "count" | "length" => {
            let [] = given.bind(name, [], 0)?;
            Ok(Datum::Int(subject.len(meter)? as i128))
        }
        "first" => {
            let [] = given.bind(name, [], 0)?;
            Ok(subject
                .walk()?
                .next()
                .unwrap_or_else(|| Datum::undefined("No first item, sequence was empty.")))
        }
        "last" => {
            let [] = given.bind(name, [], 0)?;
            last(meter, subject)
        }
        "list" => {
            let [] = given.bind(name, [], 0)?;
            Datum::list(meter, subject.items(meter)?)
        }
        "items" => {
            let [] = given.bind(name, [], 0)?;
            match subject {
                Datum::Undefined(_) => Datum::stream(meter, Vec::new()),
                Datum::Map(map) => Datum::stream(meter, methods::pairs(meter, map)?),
                _ => Err(Problem::failed("Can only get item pairs from a mapping.")),
            }
        }
        "reverse" => {
            let [] = given.bind(name, [], 0)?;
            if let Datum::Text(_) = subject {
                let bounds = [Datum::None, Datum::None, Datum::Int(-1)];
                return subscripts::slice(meter, subject, bounds);
            }
            let mut items = subject.items(meter)?;
            items.reverse();
            Datum::stream(meter, items)
        }
        "join" => {
            let [separator, attribute] = given.bind(name, ["d", "attribute"], 0)?;
            let items = valued(meter, subject, attribute.as_ref())?;
            let separator = separator.unwrap_or(Datum::text(""));
            methods::join_any(meter, &super::show::text_of(meter, &separator)?, &items)
        }
        "batch" | "slice" => rows(meter, name, subject, given),
        "min" | "max" => extreme(meter, name, subject, given),
        "sum" => sum(meter, subject, given),
        "sort" => {
            let [reverse, case, attribute] =
                given.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let keys = Keys { attribute, case: flag(case.as_ref(), false), default: None };
            let sorted = sort(meter, keys.of(meter, subject.items(meter)?)?, flag(reverse.as_ref(), false))?;
            Datum::list(meter, sorted.into_iter().map(|(_, item)| item).collect())
        }
        "dictsort" => dict_sort(meter, subject, given),
        "unique" => unique(meter, subject, given),
        "groupby" => group(meter, subject, given),
        other => Err(Problem::failed(format!("the filter '{other}' is not supported"))),
    }
}

fn last(meter: &Meter, subject: &Datum) -> Done<Datum> {
    let none = || Datum::undefined("No last item, sequence was empty.");
    match subject {
        // Python reads it from its end, which a generator does not have.
        Datum::Stream(_) => Err(Problem::failed("'generator' object is not reversible")),
        Datum::Text(text) => {
            let last = text.chars().next_back();
            Ok(last.map_or_else(none, |c| Datum::text(&*c.encode_utf8(&mut [0; 4]))))
        }
        Datum::Seq(_, items) => Ok(items.list.last().cloned().unwrap_or_else(none)),
        other => Ok(other.items(meter)?.pop().unwrap_or_else(none)),
    }
}

/// The items, or an attribute of each.
fn valued(meter: &Meter, subject: &Datum, attribute: Option<&Datum>) -> Done<Vec<Datum>> {
    let items = subject.items(meter)?;
    match attribute {
        None | Some(Datum::None) => Ok(items),
        Some(attribute) => items.iter().map(|item| lookup::path(meter, item, attribute, None)).collect(),
    }
}

fn rows(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<Datum> {
    let [count, fill] = given.bind(name, ["count", "fill_with"], 1)?;
    let count = size(count.as_ref(), 1)?;
    if count == 0 {
        return Err(Problem::failed("integer division or modulo by zero"));
    }
    meter.items(count)?;
    let items = subject.items(meter)?;
    let fill = fill.filter(|fill| !matches!(fill, Datum::None));
    let mut made = Vec::new();
    if name == "batch" {
        for chunk in items.chunks(count) {
            let mut row = chunk.to_vec();
            if let Some(fill) = &fill {
                meter.items(count)?;
                row.resize(count, fill.clone());
            }
            made.push(Datum::list(meter, row)?);
        }
        return Datum::stream(meter, made);
    }
    let (each, longer) = (items.len() / count, items.len() % count);
    let mut rest = items.into_iter();
    for at in 0..count {
        let mut row: Vec<Datum> = rest.by_ref().take(each + usize::from(at < longer)).collect();
        if at >= longer {
            row.extend(fill.clone());
        }
        made.push(Datum::list(meter, row)?);
    }
    Datum::stream(meter, made)
}

/// An item behind its key.
type Keyed = (Vec<Datum>, Datum);

/// What items are compared by.
struct Keys {
    attribute: Option<Datum>,
    case: bool,
    default: Option<Datum>,
}

impl Keys {
    /// Each item with its key; several attributes with commas make a key of several.
    fn of(&self, meter: &Meter, items: Vec<Datum>) -> Done<Vec<Keyed>> {
        items.into_iter().map(|item| Ok((self.key(meter, &item)?, item))).collect()
    }

    fn key(&self, meter: &Meter, item: &Datum) -> Done<Vec<Datum>> {
        let lowered = |value: Datum| match &value {
            Datum::Text(text) if !self.case => methods::cased(meter, text, "lower"),
            _ => Ok(value),
        };
        meter.items(2)?;
        match &self.attribute {
            None | Some(Datum::None) => Ok(vec![lowered(item.clone())?]),
            Some(Datum::Text(paths)) => {
                let parts = paths.split(',').map(Datum::text);
                parts.map(|part| lowered(lookup::path(meter, item, &part, self.default.as_ref())?)).collect()
            }
            Some(other) => Ok(vec![lowered(lookup::path(meter, item, other, self.default.as_ref())?)?]),
        }
    }
}

fn key_order(meter: &Meter, a: &[Datum], b: &[Datum]) -> Done<Ordering> {
    for (a, b) in a.iter().zip(b) {
        if !equal(meter, a, b)? {
            return Ok(order(meter, a, b, "<")?.unwrap_or(Ordering::Equal));
        }
    }
    Ok(Ordering::Equal)
}

/// A stable merge sort: the library's sort must not meet comparisons that fail or have no total order.
fn sort(meter: &Meter, mut keyed: Vec<Keyed>, reverse: bool) -> Done<Vec<Keyed>> {
    if keyed.len() < 2 {
        return Ok(keyed);
    }
    let right = keyed.split_off(keyed.len() / 2);
    let mut right = sort(meter, right, reverse)?.into_iter().peekable();
    let mut left = sort(meter, keyed, reverse)?.into_iter().peekable();
    let mut made = Vec::new();
    let wrong = if reverse { Ordering::Less } else { Ordering::Greater };
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let later = key_order(meter, &a.0, &b.0)? == wrong;
        made.extend(if later { right.next() } else { left.next() });
    }
    made.extend(left);
    made.extend(right);
    Ok(made)
}

fn dict_sort(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let [case, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let Datum::Map(map) = subject else { return Err(wrong(subject, "a mapping")) };
    let place = match by.as_ref().map(text).transpose()? {
        None | Some("key") => 0,
        Some("value") => 1,
        Some(_) => return Err(Problem::failed("You can only sort by either \"key\" or \"value\"")),
    };
    let keys = Keys { attribute: Some(Datum::Int(place)), case: flag(case.as_ref(), false), default: None };
    let sorted = sort(meter, keys.of(meter, methods::pairs(meter, map)?)?, flag(reverse.as_ref(), false))?;
    Datum::list(meter, sorted.into_iter().map(|(_, item)| item).collect())
}

fn extreme(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<Datum> {
    let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"], 0)?;
    let keys = Keys { attribute, case: flag(case.as_ref(), false), default: None };
    let wanted = if name == "min" { Ordering::Less } else { Ordering::Greater };
    let mut best: Option<Keyed> = None;
    for candidate in keys.of(meter, subject.items(meter)?)? {
        let better = match &best {
            None => true,
            Some((key, _)) => key_order(meter, &candidate.0, key)? == wanted,
        };
        if better {
            best = Some(candidate);
        }
    }
    Ok(best.map_or_else(|| Datum::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn sum(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let [attribute, start] = given.bind("sum", ["attribute", "start"], 0)?;
    let mut total = start.unwrap_or(Datum::Int(0));
    if total.as_text().is_some() {
        return Err(Problem::failed("sum() can't sum strings [use ''.join(seq) instead]"));
    }
    for item in valued(meter, subject, attribute.as_ref())? {
        total = arithmetic(meter, Arithmetic::Add, &total, &item)?;
    }
    Ok(total)
}

fn unique(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let [case, attribute] = given.bind("unique", ["case_sensitive", "attribute"], 0)?;
    let keys = Keys { attribute, case: flag(case.as_ref(), false), default: None };
    let mut seen = super::datum::Mapping::from_pairs(meter, [])?;
    let mut made = Vec::new();
    for (key, item) in keys.of(meter, subject.items(meter)?)? {
        let key = Datum::tuple(meter, key)?;
        if seen.get(&key)?.is_none() {
            seen.insert(meter, key, Datum::None)?;
            made.push(item);
        }
    }
    Datum::stream(meter, made)
}

/// Tuples of a key and the items that have it, in the order of the keys.
fn group(meter: &Meter, subject: &Datum, given: Given) -> Done<Datum> {
    let [attribute, default, case] = given.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let keys = Keys { attribute, case: flag(case.as_ref(), false), default };
    let own = Keys { attribute: keys.attribute.clone(), case: true, default: keys.default.clone() };
    let mut groups: Vec<(Vec<Datum>, Vec<Datum>)> = Vec::new();
    for (key, item) in sort(meter, keys.of(meter, subject.items(meter)?)?, false)? {
        match groups.last_mut() {
            Some((last, items)) if key_order(meter, last, &key)? == Ordering::Equal => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let mut made = Vec::new();
    for (_, items) in groups {
        let Some(first) = items.first() else { continue };
        let key = own.key(meter, first)?.into_iter().next().unwrap_or(Datum::None);
        let items = Datum::list(meter, items)?;
        meter.items(3)?;
        let mut group = Items::new(vec![key, items])?;
        group.grouped = true;
        made.push(Datum::Seq(Form::Tuple, group.into()));
    }
    Datum::list(meter, made)
}
