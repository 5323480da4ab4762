//! The values of templates, with the rules of Python: what is true, equal, less, a key.
//!
//! Texts, lists and mappings never change. Depth is bounded when a container is made, so that nothing that
//! walks a value runs out of stack. It must not know statements, filters or the text of values.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::meter::Meter;
use super::problem::{Done, Problem};

/// Containers in containers.
const DEPTH_MAX: usize = 100;

/// A value.
#[derive(Clone)]
pub(super) enum Datum {
    /// No value, with the message for those who need one.
    Undefined(Arc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Seq(Form, Rc<Items>),
    Range(Steps),
    Stream(Rc<Stream>),
    Map(Rc<Mapping>),
    Namespace(Rc<Namespace>),
    Object(Rc<dyn Object>),
}

/// What kind of sequence the items are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    List,
    Tuple,
    /// Keys, values and items of a mapping.
    Keys,
    Values,
    Pairs,
}

/// The items of a sequence.
pub(super) struct Items {
    pub list: Vec<Datum>,
    depth: usize,
    /// Whether it is a group of `groupby`, whose items have the names `grouper` and `list`.
    pub grouped: bool,
}

/// `range(start, stop, step)`; `count` items.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Steps {
    pub start: i128,
    pub step: i128,
    pub count: usize,
}

impl Steps {
    /// Item `at`, which must be less than `count`.
    pub(super) fn get(&self, at: usize) -> Datum {
        Datum::Int(self.start.saturating_add(self.step.saturating_mul(at as i128)))
    }
}

/// Items that can be walked through once.
pub(super) struct Stream {
    pub items: Rc<Items>,
    pub at: Cell<usize>,
}

/// A mapping in the order of insertion.
#[derive(Default)]
pub(super) struct Mapping {
    entries: Vec<(Datum, Datum)>,
    index: HashMap<Key, usize>,
    depth: usize,
}

/// The attributes of a namespace, the only value that changes.
#[derive(Default)]
pub(super) struct Namespace {
    pub attributes: RefCell<Vec<(Arc<str>, Datum)>>,
}

/// A value with behaviour of its own: a macro, a loop, a function.
pub(super) trait Object: Any {
    /// As `{{ value }}` prints it.
    fn shown(&self) -> String;
    /// What `value.name` gives; `None` where there is no such name.
    fn attribute(&self, name: &str) -> Option<Datum>;
    /// Containers in this one.
    fn depth(&self) -> usize {
        0
    }
    /// For the code that knows what it is.
    fn as_any(&self) -> &dyn Any;
}

/// A key of a mapping; equal keys are equal values.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Text(Arc<str>),
    Int(i128),
    Float(u64),
    None,
    Tuple(Vec<Key>),
}

impl Datum {
    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    /// A list, which is charged.
    pub(super) fn list(meter: &Meter, list: Vec<Self>) -> Done<Self> {
        Self::seq(meter, Form::List, list)
    }

    /// A tuple, which is charged.
    pub(super) fn tuple(meter: &Meter, list: Vec<Self>) -> Done<Self> {
        Self::seq(meter, Form::Tuple, list)
    }

    /// A sequence, which is charged.
    pub(super) fn seq(meter: &Meter, form: Form, list: Vec<Self>) -> Done<Self> {
        meter.items(list.len() + 1)?;
        Ok(Self::Seq(form, Rc::new(Items::new(list)?)))
    }

    /// What a generator gives, which is charged.
    pub(super) fn stream(meter: &Meter, list: Vec<Self>) -> Done<Self> {
        meter.items(list.len() + 1)?;
        Ok(Self::Stream(Rc::new(Stream { items: Rc::new(Items::new(list)?), at: Cell::new(0) })))
    }

    /// No value, with a message.
    pub(super) fn undefined(message: impl Into<Arc<str>>) -> Self {
        Self::Undefined(message.into())
    }

    /// The characters, where it is a string.
    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number of a number or truth value.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Bool(value) => Some(i128::from(*value)),
            Self::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The number of a number or truth value.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => self.as_int().map(|value| value as f64),
        }
    }

    /// Whether there is no value.
    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// Python's name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "str",
            Self::Seq(Form::List, _) => "list",
            Self::Seq(Form::Tuple, _) => "tuple",
            Self::Seq(Form::Keys, _) => "dict_keys",
            Self::Seq(Form::Values, _) => "dict_values",
            Self::Seq(Form::Pairs, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Stream(_) => "generator",
            Self::Map(_) => "dict",
            Self::Namespace(_) => "Namespace",
            Self::Object(_) => "function",
        }
    }

    /// Whether it counts as true.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Seq(_, items) => !items.list.is_empty(),
            Self::Range(steps) => steps.count > 0,
            Self::Map(map) => !map.entries.is_empty(),
            Self::Stream(_) | Self::Namespace(_) | Self::Object(_) => true,
        }
    }

    /// Python's `len`.
    pub(super) fn len(&self, meter: &Meter) -> Done<usize> {
        match self {
            Self::Undefined(_) => Ok(0),
            Self::Text(text) => {
                meter.scan(text.len())?;
                Ok(text.chars().count())
            }
            Self::Seq(_, items) => Ok(items.list.len()),
            Self::Range(steps) => Ok(steps.count),
            Self::Map(map) => Ok(map.entries.len()),
            other => Err(Problem::failed(format!("object of type '{}' has no len()", other.type_name()))),
        }
    }

    /// All items, one after the other, as a `for` loop takes them.
    pub(super) fn walk(&self) -> Done<Walk> {
        Ok(match self {
            Self::Undefined(_) => Walk::Items(Rc::default(), 0),
            Self::Text(text) => Walk::Text(Arc::clone(text), 0),
            Self::Seq(_, items) => Walk::Items(Rc::clone(items), 0),
            Self::Range(steps) => Walk::Range(*steps, 0),
            Self::Stream(stream) => Walk::Stream(Rc::clone(stream)),
            Self::Map(map) => Walk::Keys(Rc::clone(map), 0),
            other => {
                return Err(Problem::failed(format!("'{}' object is not iterable", other.type_name())));
            }
        })
    }

    /// All items at once, which are charged.
    pub(super) fn items(&self, meter: &Meter) -> Done<Vec<Self>> {
        let mut all = Vec::new();
        for item in self.walk()? {
            meter.items(1)?;
            meter.steps(1)?;
            all.push(item);
        }
        Ok(all)
    }

    /// Containers in this one.
    fn depth(&self) -> usize {
        match self {
            Self::Seq(_, items) => items.depth,
            Self::Stream(stream) => stream.items.depth,
            Self::Map(map) => map.depth,
            Self::Object(object) => object.depth(),
            _ => 0,
        }
    }
}

/// The depth of a container of `items`, at most [`DEPTH_MAX`].
pub(super) fn depth_over<'a>(items: impl IntoIterator<Item = &'a Datum>) -> Done<usize> {
    let depth = 1 + items.into_iter().map(Datum::depth).max().unwrap_or(0);
    if depth > DEPTH_MAX {
        return Err(Problem::limit(format!("more than {DEPTH_MAX} containers in containers")));
    }
    Ok(depth)
}

impl Items {
    /// Checks the depth of `list`.
    pub(super) fn new(list: Vec<Datum>) -> Done<Self> {
        Ok(Self { depth: depth_over(&list)?, list, grouped: false })
    }
}

impl Default for Items {
    fn default() -> Self {
        Self { list: Vec::new(), depth: 1, grouped: false }
    }
}

impl Mapping {
    /// Adds an entry, or replaces the value of an equal key; the entry is charged.
    pub(super) fn insert(&mut self, meter: &Meter, key: Datum, value: Datum) -> Done<()> {
        meter.items(4)?;
        let hashed = Key::of(&key)?;
        self.depth = self.depth.max(depth_over([&key, &value])?);
        match self.index.get(&hashed) {
            Some(at) => self.entries[*at].1 = value,
            None => {
                self.index.insert(hashed, self.entries.len());
                self.entries.push((key, value));
            }
        }
        Ok(())
    }

    /// A mapping of `pairs`.
    pub(super) fn from_pairs(meter: &Meter, pairs: impl IntoIterator<Item = (Datum, Datum)>) -> Done<Self> {
        let mut map = Self { depth: 1, ..Self::default() };
        for (key, value) in pairs {
            map.insert(meter, key, value)?;
        }
        Ok(map)
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &Datum) -> Done<Option<&Datum>> {
        Ok(self.index.get(&Key::of(key)?).map(|at| &self.entries[*at].1))
    }

    /// The value of a text as key.
    pub(super) fn get_text(&self, key: &Arc<str>) -> Option<&Datum> {
        self.index.get(&Key::Text(Arc::clone(key))).map(|at| &self.entries[*at].1)
    }

    /// All entries in their order.
    pub(super) fn entries(&self) -> &[(Datum, Datum)] {
        &self.entries
    }
}

impl Key {
    /// # Errors
    /// Values that are no keys.
    fn of(datum: &Datum) -> Done<Self> {
        Ok(match datum {
            Datum::Text(text) => Self::Text(Arc::clone(text)),
            Datum::None => Self::None,
            Datum::Bool(value) => Self::Int(i128::from(*value)),
            Datum::Int(value) => Self::Int(*value),
            Datum::Float(value) if value.fract() == 0.0 && value.abs() < 1e38 => Self::Int(*value as i128),
            Datum::Float(value) => Self::Float(value.to_bits()),
            Datum::Seq(Form::Tuple, items) => {
                Self::Tuple(items.list.iter().map(Self::of).collect::<Done<_>>()?)
            }
            other => return Err(Problem::failed(format!("unhashable type: '{}'", other.type_name()))),
        })
    }
}

/// Items one after the other.
pub(super) enum Walk {
    Items(Rc<Items>, usize),
    Text(Arc<str>, usize),
    Range(Steps, usize),
    Stream(Rc<Stream>),
    Keys(Rc<Mapping>, usize),
}

impl Iterator for Walk {
    type Item = Datum;

    fn next(&mut self) -> Option<Datum> {
        match self {
            Self::Items(items, at) => {
                *at += 1;
                items.list.get(*at - 1).cloned()
            }
            Self::Text(text, at) => {
                let c = text[*at..].chars().next()?;
                *at += c.len_utf8();
                Some(Datum::text(&*c.encode_utf8(&mut [0; 4])))
            }
            Self::Range(steps, at) => {
                *at += 1;
                (*at <= steps.count).then(|| steps.get(*at - 1))
            }
            Self::Stream(stream) => {
                let at = stream.at.get();
                stream.at.set(at + 1);
                stream.items.list.get(at).cloned()
            }
            Self::Keys(map, at) => {
                *at += 1;
                map.entries.get(*at - 1).map(|(key, _)| key.clone())
            }
        }
    }
}

/// Whether two values are equal.
pub(super) fn equal(meter: &Meter, a: &Datum, b: &Datum) -> Done<bool> {
    meter.steps(1)?;
    Ok(match (a, b) {
        (Datum::Undefined(_), Datum::Undefined(_)) | (Datum::None, Datum::None) => true,
        (Datum::Text(a), Datum::Text(b)) => {
            meter.scan(a.len().min(b.len()))?;
            a == b
        }
        (Datum::Seq(one, a), Datum::Seq(other, b)) => {
            if one != other || a.list.len() != b.list.len() {
                return Ok(false);
            }
            for (a, b) in a.list.iter().zip(&b.list) {
                if !equal(meter, a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Datum::Map(a), Datum::Map(b)) => {
            if a.entries.len() != b.entries.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match b.get(key)? {
                    Some(other) if equal(meter, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Datum::Range(a), Datum::Range(b)) => a == b,
        (Datum::Stream(a), Datum::Stream(b)) => Rc::ptr_eq(a, b),
        (Datum::Namespace(a), Datum::Namespace(b)) => Rc::ptr_eq(a, b),
        (Datum::Object(a), Datum::Object(b)) => Rc::ptr_eq(a, b),
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => matches!((a.as_float(), b.as_float()), (Some(a), Some(b)) if a == b),
        },
    })
}

/// The order of two values; `None` for numbers that have none.
///
/// # Errors
/// Values of which neither is less.
pub(super) fn order(meter: &Meter, a: &Datum, b: &Datum, sign: &str) -> Done<Option<Ordering>> {
    meter.steps(1)?;
    match (a, b) {
        (Datum::Text(a), Datum::Text(b)) => {
            meter.scan(a.len().min(b.len()))?;
            return Ok(Some(a.cmp(b)));
        }
        (Datum::Seq(one, a), Datum::Seq(other, b))
            if one == other && matches!(one, Form::List | Form::Tuple) =>
        {
            for (a, b) in a.list.iter().zip(&b.list) {
                if !equal(meter, a, b)? {
                    return order(meter, a, b, sign);
                }
            }
            return Ok(Some(a.list.len().cmp(&b.list.len())));
        }
        (Datum::Undefined(message), _) | (_, Datum::Undefined(message)) => {
            return Err(Problem::failed(&**message));
        }
        _ => {}
    }
    match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
        (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
        (.., Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
        _ => Err(Problem::failed(format!(
            "'{sign}' not supported between instances of '{}' and '{}'",
            a.type_name(),
            b.type_name()
        ))),
    }
}

/// Python's `item in container`.
pub(super) fn contains(meter: &Meter, container: &Datum, item: &Datum) -> Done<bool> {
    match container {
        Datum::Text(text) => {
            let Some(part) = item.as_text() else {
                return Err(Problem::failed(format!(
                    "'in <string>' requires string as left operand, not {}",
                    item.type_name()
                )));
            };
            meter.scan(text.len())?;
            Ok(text.contains(part))
        }
        Datum::Map(map) => Ok(map.get(item)?.is_some()),
        Datum::Namespace(_)
        | Datum::Object(_)
        | Datum::None
        | Datum::Int(_)
        | Datum::Bool(_)
        | Datum::Float(_) => {
            let name = container.type_name();
            Err(Problem::failed(format!("argument of type '{name}' is not iterable")))
        }
        _ => {
            for other in container.walk()? {
                if equal(meter, item, &other)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}
