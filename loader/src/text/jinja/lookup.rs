//! Attributes and items by name, as Jinja2 looks them up: `a.b` tries the attribute first and `a['b']` the
//! item. It must not know expressions.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use super::datum::{Datum, Object};
use super::meter::Meter;
use super::methods;
use super::problem::{Done, Problem};
use super::subscripts;

/// A method of a value that is not yet called.
pub(super) struct Bound {
    pub subject: Datum,
    pub name: Arc<str>,
    depth: usize,
}

impl Object for Bound {
    fn shown(&self) -> String {
        format!("<built-in method {} of {} object>", self.name, self.subject.type_name())
    }

    fn attribute(&self, _: &str) -> Option<Datum> {
        None
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `subject.name`
///
/// # Errors
/// Attributes of undefined values.
pub(super) fn attribute(meter: &Meter, subject: &Datum, name: &Arc<str>) -> Done<Datum> {
    if methods::has(subject, name) {
        return bound(subject, name);
    }
    own(meter, subject, name)
}

/// `subject[key]`
///
/// # Errors
/// Items of undefined values.
pub(super) fn item(meter: &Meter, subject: &Datum, key: &Datum) -> Done<Datum> {
    if let Datum::Text(name) = key {
        let found = own(meter, subject, name)?;
        return if found.is_undefined() && methods::has(subject, name) {
            bound(subject, name)
        } else {
            Ok(found)
        };
    }
    if let Datum::Undefined(message) = subject {
        return Err(Problem::failed(&**message));
    }
    let found = subscripts::item(meter, subject, key)?;
    Ok(found
        .unwrap_or_else(|| Datum::undefined(format!("'{} object' has no such element", subject.type_name()))))
}

fn bound(subject: &Datum, name: &Arc<str>) -> Done<Datum> {
    let depth = super::datum::depth_over([subject])?;
    Ok(Datum::Object(Rc::new(Bound { subject: subject.clone(), name: Arc::clone(name), depth })))
}

/// What a value itself has under a name.
fn own(meter: &Meter, subject: &Datum, name: &Arc<str>) -> Done<Datum> {
    let found = match subject {
        Datum::Undefined(message) => return Err(Problem::failed(&**message)),
        Datum::Map(map) => {
            meter.scan(name.len())?;
            map.get_text(name).cloned()
        }
        Datum::Namespace(namespace) => {
            let attributes = namespace.attributes.borrow();
            meter.steps(attributes.len() / 16)?;
            attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        }
        Datum::Object(object) => object.attribute(name),
        Datum::Seq(_, items) if items.grouped => match &**name {
            "grouper" => items.list.first().cloned(),
            "list" => items.list.get(1).cloned(),
            _ => None,
        },
        _ => None,
    };
    Ok(found.unwrap_or_else(|| {
        Datum::undefined(format!("'{} object' has no attribute '{name}'", subject.type_name()))
    }))
}

/// What a path like `a.0.b` leads to; values on the way that are not there become `default`.
///
/// # Errors
/// Items of undefined values.
pub(super) fn path(meter: &Meter, subject: &Datum, path: &Datum, default: Option<&Datum>) -> Done<Datum> {
    let Some(text) = path.as_text() else { return item(meter, subject, path) };
    let mut found = subject.clone();
    for part in text.split('.') {
        meter.steps(1)?;
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let key = match part.parse() {
            Ok(number) if is_number => Datum::Int(number),
            _ => Datum::text(part),
        };
        found = item(meter, &found, &key)?;
        if found.is_undefined()
            && let Some(default) = default
        {
            found = default.clone();
        }
    }
    Ok(found)
}
