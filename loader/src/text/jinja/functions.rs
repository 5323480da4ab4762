//! The global functions of templates. It must not know expressions.

use std::any::Any;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::datum::{Datum, Mapping, Namespace, Object, Steps, depth_over};
use super::given::{Given, int, text};
use super::meter::Meter;
use super::problem::{Done, Problem};
use super::strftime::strftime;

/// All global functions by name.
pub(super) const NAMES: [&str; 7] =
    ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"];
/// Longest range, as Jinja2's sandbox has it.
const RANGE_MAX: usize = 100_000;

/// A global function.
pub(super) struct Builtin(pub &'static str);

impl Object for Builtin {
    fn shown(&self) -> String {
        format!("<function {}>", self.0)
    }

    fn attribute(&self, _: &str) -> Option<Datum> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Gives its items in turn.
pub(super) struct Cycler {
    items: Vec<Datum>,
    at: Cell<usize>,
    depth: usize,
}

impl Object for Cycler {
    fn shown(&self) -> String {
        "<Cycler>".to_owned()
    }

    fn attribute(&self, name: &str) -> Option<Datum> {
        (name == "current").then(|| self.items.get(self.at.get()).cloned()).flatten()
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Cycler {
    /// Calls `next` or `reset`; `None` for other methods.
    pub(super) fn method(&self, name: &str) -> Option<Datum> {
        match name {
            "next" => {
                let at = self.at.get();
                self.at.set((at + 1) % self.items.len().max(1));
                self.items.get(at).cloned()
            }
            "reset" => {
                self.at.set(0);
                Some(Datum::None)
            }
            _ => None,
        }
    }
}

/// Gives nothing when it is called first, and then its separator.
pub(super) struct Joiner {
    separator: Arc<str>,
    used: Cell<bool>,
}

impl Object for Joiner {
    fn shown(&self) -> String {
        "<Joiner>".to_owned()
    }

    fn attribute(&self, _: &str) -> Option<Datum> {
        None
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Joiner {
    /// The next separator.
    pub(super) fn call(&self) -> Datum {
        if self.used.replace(true) { Datum::Text(Arc::clone(&self.separator)) } else { Datum::text("") }
    }
}

/// Calls the global function `name` at the time `now`, in seconds since the beginning of 1970. Namespaces are
/// left in `namespaces`, whose owner takes them apart.
///
/// # Errors
/// Wrong arguments, and what the template raises.
pub(super) fn call(
    meter: &Meter,
    name: &str,
    given: Given,
    now: u64,
    namespaces: &mut Vec<Rc<Namespace>>,
) -> Done<Datum> {
    match name {
        "range" => range(given),
        "raise_exception" => {
            let [message] = given.bind(name, ["message"], 1)?;
            let message = message.unwrap_or(Datum::None);
            Err(Problem::failed(&*super::show::text_of(meter, &message)?))
        }
        "strftime_now" => {
            let [format] = given.bind(name, ["format"], 1)?;
            let format = format.unwrap_or(Datum::None);
            meter.bytes(text(&format)?.len().saturating_mul(16))?;
            strftime(text(&format)?, now).map(Datum::text)
        }
        "dict" => Ok(Datum::Map(Rc::new(mapping(meter, given)?))),
        "namespace" => {
            let namespace = Rc::new(Namespace::default());
            for (name, value) in mapping(meter, given)?.entries() {
                let name = text(name)?;
                meter.items(4)?;
                namespace.attributes.borrow_mut().push((name.into(), value.clone()));
            }
            namespaces.push(Rc::clone(&namespace));
            Ok(Datum::Namespace(namespace))
        }
        "cycler" => {
            if !given.named.is_empty() || given.positional.is_empty() {
                return Err(Problem::failed("at least one item has to be provided"));
            }
            let depth = depth_over(&given.positional)?;
            Ok(Datum::Object(Rc::new(Cycler { items: given.positional, at: Cell::new(0), depth })))
        }
        _ => {
            let [separator] = given.bind(name, ["sep"], 0)?;
            let separator = separator.unwrap_or(Datum::text(", "));
            let separator = text(&separator)?.into();
            Ok(Datum::Object(Rc::new(Joiner { separator, used: Cell::new(false) })))
        }
    }
}

/// The mapping of `dict(...)`: of another one or of pairs, and of names.
fn mapping(meter: &Meter, given: Given) -> Done<Mapping> {
    let Given { positional, named } = given;
    let mut map = Mapping::from_pairs(meter, [])?;
    if positional.len() > 1 {
        return Err(Problem::failed("dict expected at most 1 argument"));
    }
    match positional.first() {
        Some(Datum::Map(other)) => {
            for (key, value) in other.entries() {
                map.insert(meter, key.clone(), value.clone())?;
            }
        }
        Some(other) => {
            for pair in other.walk()? {
                let pair = pair.items(meter)?;
                let [key, value] = pair.as_slice() else {
                    return Err(Problem::failed("a dictionary is made of pairs"));
                };
                map.insert(meter, key.clone(), value.clone())?;
            }
        }
        None => {}
    }
    for (name, value) in named {
        map.insert(meter, Datum::Text(name), value)?;
    }
    Ok(map)
}

fn range(given: Given) -> Done<Datum> {
    if !given.named.is_empty() || given.positional.is_empty() || given.positional.len() > 3 {
        return Err(Problem::failed("range expected 1 to 3 arguments"));
    }
    let number = |at: usize, default: i128| int(given.positional.get(at), default);
    let (start, stop) = match given.positional.len() {
        1 => (0, number(0, 0)?),
        _ => (number(0, 0)?, number(1, 0)?),
    };
    let step = number(2, 1)?;
    if step == 0 {
        return Err(Problem::failed("range() arg 3 must not be zero"));
    }
    let span = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let count = if span <= 0 { 0 } else { (span - 1) / step.saturating_abs() + 1 };
    match usize::try_from(count) {
        Ok(count) if count <= RANGE_MAX => Ok(Datum::Range(Steps { start, step, count })),
        _ => {
            let problem = format!("Range too big. The sandbox blocks ranges larger than {RANGE_MAX}.");
            Err(Problem::failed(problem))
        }
    }
}
