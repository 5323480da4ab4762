//! The tests of Jinja2: what stands after `is`. It must not know filters.

use std::cmp::Ordering;
use std::rc::Rc;

use super::datum::{Datum, Form, contains, equal, order};
use super::given::Given;
use super::meter::Meter;
use super::methods;
use super::names::{FILTERS, TESTS};
use super::operators::arithmetic;
use super::problem::{Done, Problem};
use super::show;
use super::syntax::Arithmetic;

/// Whether `subject is name(arguments)`.
///
/// # Errors
/// Unknown tests, wrong arguments, values that cannot be compared.
pub(super) fn test(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<bool> {
    if !TESTS.contains(&name) {
        return Err(Problem::failed(format!("No test named '{name}'.")));
    }
    let needs = matches!(
        name,
        "divisibleby"
            | "eq"
            | "equalto"
            | "=="
            | "ge"
            | ">="
            | "gt"
            | "greaterthan"
            | ">"
            | "in"
            | "le"
            | "<="
            | "lt"
            | "lessthan"
            | "<"
            | "ne"
            | "!="
            | "sameas"
    );
    if !needs {
        let [] = given.bind(name, [], 0)?;
        return alone(meter, name, subject);
    }
    let parameter = match name {
        "divisibleby" => "num",
        "in" => "seq",
        _ => "other",
    };
    let [other] = given.bind(name, [parameter], 1)?;
    let other = other.unwrap_or(Datum::None);
    match name {
        "divisibleby" => Ok(!arithmetic(meter, Arithmetic::Remainder, subject, &other)?.truth()),
        "in" => contains(meter, &other, subject),
        "eq" | "equalto" | "==" => equal(meter, subject, &other),
        "ne" | "!=" => Ok(!equal(meter, subject, &other)?),
        "sameas" => Ok(same(subject, &other)),
        "lt" | "lessthan" | "<" => Ok(order(meter, subject, &other, "<")? == Some(Ordering::Less)),
        "gt" | "greaterthan" | ">" => Ok(order(meter, subject, &other, ">")? == Some(Ordering::Greater)),
        "le" | "<=" => Ok(order(meter, subject, &other, "<=")?.is_some_and(Ordering::is_le)),
        _ => Ok(order(meter, subject, &other, ">=")?.is_some_and(Ordering::is_ge)),
    }
}

/// Tests without an argument.
fn alone(meter: &Meter, name: &str, subject: &Datum) -> Done<bool> {
    Ok(match name {
        "boolean" => matches!(subject, Datum::Bool(_)),
        "callable" => matches!(subject, Datum::Object(_) | Datum::Undefined(_)),
        "defined" => !subject.is_undefined(),
        "undefined" => subject.is_undefined(),
        "true" => matches!(subject, Datum::Bool(true)),
        "false" => matches!(subject, Datum::Bool(false)),
        "none" => matches!(subject, Datum::None),
        "integer" => matches!(subject, Datum::Int(_)),
        "float" => matches!(subject, Datum::Float(_)),
        "number" => matches!(subject, Datum::Int(_) | Datum::Float(_) | Datum::Bool(_)),
        "string" => matches!(subject, Datum::Text(_)),
        "mapping" => matches!(subject, Datum::Map(_)),
        "iterable" => subject.walk().is_ok(),
        // Python: it has a length and items.
        "sequence" => matches!(
            subject,
            Datum::Undefined(_)
                | Datum::Text(_)
                | Datum::Map(_)
                | Datum::Range(_)
                | Datum::Seq(Form::List | Form::Tuple, _)
        ),
        "lower" | "upper" => {
            let text = show::text_of(meter, subject)?;
            meter.scan(text.len())?;
            methods::is_all(&text, if name == "lower" { "islower" } else { "isupper" })
        }
        "even" | "odd" => {
            let rest = arithmetic(meter, Arithmetic::Remainder, subject, &Datum::Int(2))?;
            equal(meter, &rest, &Datum::Int(i128::from(name == "odd")))?
        }
        "filter" => subject.as_text().is_some_and(|name| FILTERS.contains(&name)),
        "test" => subject.as_text().is_some_and(|name| TESTS.contains(&name)),
        _ => false,
    })
}

/// Whether both are one object: true for equal plain values, whose identity Python does not promise.
fn same(a: &Datum, b: &Datum) -> bool {
    match (a, b) {
        (Datum::None, Datum::None) => true,
        (Datum::Bool(a), Datum::Bool(b)) => a == b,
        (Datum::Int(a), Datum::Int(b)) => a == b,
        (Datum::Text(a), Datum::Text(b)) => a == b,
        (Datum::Seq(_, a), Datum::Seq(_, b)) => Rc::ptr_eq(a, b),
        (Datum::Map(a), Datum::Map(b)) => Rc::ptr_eq(a, b),
        (Datum::Namespace(a), Datum::Namespace(b)) => Rc::ptr_eq(a, b),
        (Datum::Object(a), Datum::Object(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}
