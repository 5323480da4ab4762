//! The arguments of a call, and how they meet the parameters of built-in functions. It must not know which
//! functions there are.

use std::sync::Arc;

use super::datum::Datum;
use super::problem::{Done, Problem};

/// Evaluated arguments.
#[derive(Default)]
pub(super) struct Given {
    pub positional: Vec<Datum>,
    pub named: Vec<(Arc<str>, Datum)>,
}

impl Given {
    /// The arguments in the order of the parameters `names`, of which the first `required` must be given.
    ///
    /// # Errors
    /// Too many or too few arguments, and names that the function `what` does not have.
    pub(super) fn bind<const N: usize>(
        self,
        what: &str,
        names: [&str; N],
        required: usize,
    ) -> Done<[Option<Datum>; N]> {
        let mut bound = [const { None }; N];
        if self.positional.len() > N {
            let given = self.positional.len();
            return Err(Problem::failed(format!("{what}() takes at most {N} arguments, {given} were given")));
        }
        for (place, value) in bound.iter_mut().zip(self.positional) {
            *place = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = names.iter().position(|known| **known == *name) else {
                let problem = format!("{what}() got an unexpected keyword argument '{name}'");
                return Err(Problem::failed(problem));
            };
            if bound[at].replace(value).is_some() {
                let problem = format!("{what}() got multiple values for argument '{name}'");
                return Err(Problem::failed(problem));
            }
        }
        match bound.iter().zip(names).take(required).find(|(value, _)| value.is_none()) {
            Some((_, name)) => Err(Problem::failed(format!("{what}() missing required argument: '{name}'"))),
            None => Ok(bound),
        }
    }

    /// Takes the argument `name` out of the named ones.
    pub(super) fn take_named(&mut self, name: &str) -> Option<Datum> {
        let at = self.named.iter().position(|(known, _)| **known == *name)?;
        Some(self.named.swap_remove(at).1)
    }
}

/// A whole number; `default` if none was given.
pub(super) fn int(value: Option<&Datum>, default: i128) -> Done<i128> {
    match value {
        None => Ok(default),
        Some(value) => value.as_int().ok_or_else(|| wrong(value, "an integer")),
    }
}

/// A whole number or None.
pub(super) fn int_or_none(value: Option<&Datum>) -> Done<Option<i128>> {
    match value {
        None | Some(Datum::None) => Ok(None),
        Some(value) => value.as_int().map(Some).ok_or_else(|| wrong(value, "an integer")),
    }
}

/// A width or count that is not negative; larger ones than memory are refused when they are used.
pub(super) fn size(value: Option<&Datum>, default: usize) -> Done<usize> {
    match value {
        None => Ok(default),
        Some(value) => match value.as_int() {
            Some(number) => Ok(usize::try_from(number.max(0)).unwrap_or(usize::MAX)),
            None => Err(wrong(value, "an integer")),
        },
    }
}

/// A truth value; `default` if none was given.
pub(super) fn flag(value: Option<&Datum>, default: bool) -> bool {
    value.map_or(default, Datum::truth)
}

/// The characters of a string.
///
/// # Errors
/// Any other value.
pub(super) fn text(value: &Datum) -> Done<&str> {
    value.as_text().ok_or_else(|| wrong(value, "a string"))
}

/// The error about a value of another type.
pub(super) fn wrong(value: &Datum, expected: &str) -> Problem {
    match value {
        Datum::Undefined(message) => Problem::failed(&**message),
        other => Problem::failed(format!("expected {expected}, got {}", other.type_name())),
    }
}
