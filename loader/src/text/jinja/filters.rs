//! The filters of Jinja2 by name, and those that apply other filters and tests to each item. It must not
//! know expressions.

use std::sync::Arc;

use super::checks;
use super::datum::Datum;
use super::given::{Given, flag, text};
use super::list_filters;
use super::lookup;
use super::meter::Meter;
use super::methods;
use super::names::FILTERS;
use super::problem::{Done, Problem};
use super::text_filters;

/// `subject|name(arguments)`
///
/// # Errors
/// Unknown filters, wrong arguments, and what Jinja2 refuses.
pub(super) fn apply(meter: &Meter, name: &str, subject: &Datum, given: Given) -> Done<Datum> {
    let _nested = meter.enter()?;
    match name {
        "default" | "d" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"], 0)?;
            let missing = subject.is_undefined() || flag(boolean.as_ref(), false) && !subject.truth();
            Ok(if missing { default.unwrap_or(Datum::text("")) } else { subject.clone() })
        }
        "attr" => {
            let [attribute] = given.bind(name, ["name"], 1)?;
            let attribute = attribute.unwrap_or(Datum::None);
            let attribute: Arc<str> = text(&attribute)?.into();
            // Unlike `a.b`, it does not look for the item of a mapping.
            match subject {
                Datum::Map(_) if !methods::has(subject, &attribute) => {
                    Ok(Datum::undefined(format!("'dict object' has no attribute '{attribute}'")))
                }
                _ => lookup::attribute(meter, subject, &attribute),
            }
        }
        "map" => map(meter, subject, given),
        "select" | "reject" => chosen(meter, subject, given, name == "select", false),
        "selectattr" | "rejectattr" => chosen(meter, subject, given, name == "selectattr", true),
        _ if list_filters::NAMES.contains(&name) => list_filters::apply(meter, name, subject, given),
        _ if FILTERS.contains(&name) => text_filters::apply(meter, name, subject, given),
        _ => Err(Problem::failed(format!("No filter named '{name}'."))),
    }
}

fn map(meter: &Meter, subject: &Datum, mut given: Given) -> Done<Datum> {
    let mut made = Vec::new();
    let attribute = if given.positional.is_empty() { given.take_named("attribute") } else { None };
    if let Some(attribute) = attribute {
        let default = given.take_named("default");
        let [] = given.bind("map", [], 0)?;
        for item in subject.walk()? {
            meter.items(1)?;
            made.push(lookup::path(meter, &item, &attribute, default.as_ref())?);
        }
        return Datum::stream(meter, made);
    }
    if given.positional.is_empty() {
        return Err(Problem::failed("map requires a filter argument"));
    }
    let name = given.positional.remove(0);
    let name = text(&name)?;
    for item in subject.walk()? {
        meter.items(1)?;
        let given = Given { positional: given.positional.clone(), named: given.named.clone() };
        made.push(apply(meter, name, &item, given)?);
    }
    Datum::stream(meter, made)
}

/// The items for which a test is `wanted`, of an attribute if `by_attribute`.
fn chosen(meter: &Meter, subject: &Datum, mut given: Given, wanted: bool, by_attribute: bool) -> Done<Datum> {
    let mut made = Vec::new();
    if !subject.truth() {
        return Datum::stream(meter, made);
    }
    let mut next = || if given.positional.is_empty() { None } else { Some(given.positional.remove(0)) };
    let attribute = if by_attribute {
        Some(next().ok_or_else(|| Problem::failed("Missing parameter for attribute name"))?)
    } else {
        None
    };
    let test = next();
    for item in subject.walk()? {
        meter.items(1)?;
        let value = match &attribute {
            Some(attribute) => lookup::path(meter, &item, attribute, None)?,
            None => item.clone(),
        };
        let passes = match &test {
            None => value.truth(),
            Some(name) => {
                let given = Given { positional: given.positional.clone(), named: given.named.clone() };
                checks::test(meter, text(name)?, &value, given)?
            }
        };
        if passes == wanted {
            made.push(item);
        }
    }
    Datum::stream(meter, made)
}
