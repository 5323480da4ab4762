//! Expressions and calls. It must not know how statements are run.

use std::any::Any;
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::checks;
use super::datum::{Datum, Form, Mapping, Object, contains, equal, order};
use super::filters;
use super::functions::{self, Builtin, Cycler, Joiner};
use super::given::{Given, wrong};
use super::lookup::{self, Bound};
use super::machine::{LoopValue, Machine, MacroValue, Scope};
use super::meter::Growing;
use super::methods;
use super::operators::arithmetic;
use super::problem::{Done, Problem};
use super::show;
use super::subscripts;
use super::syntax::{Call, Comparison, Expr, Passed, Postfix};

impl Machine<'_> {
    /// The value of an expression.
    ///
    /// # Errors
    /// What Jinja2 refuses, and exceeded limits.
    pub(super) fn value(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Done<Datum> {
        self.meter.steps(1)?;
        let _nested = self.meter.enter()?;
        match expr {
            Expr::None => Ok(Datum::None),
            Expr::Bool(value) => Ok(Datum::Bool(*value)),
            Expr::Int(value) => Ok(Datum::Int(*value)),
            Expr::Float(value) => Ok(Datum::Float(*value)),
            Expr::Text(text) => Ok(Datum::Text(Arc::clone(text))),
            Expr::Name(name) => Ok(variable(name, scope)),
            Expr::List(items) => self.sequence(Form::List, items, scope),
            Expr::Tuple(items) => self.sequence(Form::Tuple, items, scope),
            Expr::Dict(pairs) => self.dictionary(pairs, scope),
            Expr::Chain(first, more) => {
                let mut value = self.value(first, scope)?;
                for (operator, expr) in more {
                    let other = self.value(expr, scope)?;
                    value = arithmetic(self.meter, *operator, &value, &other)?;
                }
                Ok(value)
            }
            Expr::Concat(parts) => self.concatenation(parts, scope),
            Expr::Compare(first, more) => self.comparison(first, more, scope),
            Expr::And(parts) => self.first_with(false, parts, scope),
            Expr::Or(parts) => self.first_with(true, parts, scope),
            Expr::Not(expr) => Ok(Datum::Bool(!self.value(expr, scope)?.truth())),
            Expr::Negative(expr) => self.signed(expr, true, scope),
            Expr::Positive(expr) => self.signed(expr, false, scope),
            Expr::If(condition, value, other) => self.choice(condition, value, other.as_deref(), scope),
            Expr::Path(base, steps) => self.path(base, steps, None, scope),
        }
    }

    fn choice(
        &mut self,
        condition: &Expr,
        value: &Expr,
        other: Option<&Expr>,
        scope: &Rc<Scope>,
    ) -> Done<Datum> {
        if self.value(condition, scope)?.truth() {
            return self.value(value, scope);
        }
        match other {
            Some(other) => self.value(other, scope),
            None => Ok(Datum::undefined(
                "the inline if-expression evaluated to false and no else section was defined.",
            )),
        }
    }

    fn values(&mut self, exprs: &[Expr], scope: &Rc<Scope>) -> Done<Vec<Datum>> {
        exprs.iter().map(|expr| self.value(expr, scope)).collect()
    }

    fn sequence(&mut self, form: Form, items: &[Expr], scope: &Rc<Scope>) -> Done<Datum> {
        self.meter.items(items.len())?;
        let items = self.values(items, scope)?;
        Datum::seq(self.meter, form, items)
    }

    fn dictionary(&mut self, pairs: &[(Expr, Expr)], scope: &Rc<Scope>) -> Done<Datum> {
        let mut map = Mapping::from_pairs(self.meter, [])?;
        for (key, value) in pairs {
            let key = self.value(key, scope)?;
            let value = self.value(value, scope)?;
            map.insert(self.meter, key, value)?;
        }
        Ok(Datum::Map(map.into()))
    }

    fn concatenation(&mut self, parts: &[Expr], scope: &Rc<Scope>) -> Done<Datum> {
        let mut out = Growing::new(self.meter);
        for part in parts {
            let value = self.value(part, scope)?;
            out.push(&show::text_of(self.meter, &value)?)?;
        }
        Ok(Datum::text(out.finish()))
    }

    /// The first value whose truth is `wanted`, or the last one.
    fn first_with(&mut self, wanted: bool, parts: &[Expr], scope: &Rc<Scope>) -> Done<Datum> {
        let mut value = Datum::None;
        for part in parts {
            value = self.value(part, scope)?;
            if value.truth() == wanted {
                break;
            }
        }
        Ok(value)
    }

    fn signed(&mut self, expr: &Expr, negative: bool, scope: &Rc<Scope>) -> Done<Datum> {
        let value = self.value(expr, scope)?;
        match (&value, value.as_int()) {
            (Datum::Float(number), _) => Ok(Datum::Float(if negative { -number } else { *number })),
            (_, Some(number)) => Ok(Datum::Int(if negative { -number } else { number })),
            _ => Err(wrong(&value, "a number")),
        }
    }

    fn comparison(&mut self, first: &Expr, more: &[(Comparison, Expr)], scope: &Rc<Scope>) -> Done<Datum> {
        let mut left = self.value(first, scope)?;
        for (comparison, expr) in more {
            let right = self.value(expr, scope)?;
            let meter = self.meter;
            let holds = match comparison {
                Comparison::Equal => equal(meter, &left, &right)?,
                Comparison::NotEqual => !equal(meter, &left, &right)?,
                Comparison::In => contains(meter, &right, &left)?,
                Comparison::NotIn => !contains(meter, &right, &left)?,
                Comparison::Less => order(meter, &left, &right, "<")?.is_some_and(Ordering::is_lt),
                Comparison::LessEqual => order(meter, &left, &right, "<=")?.is_some_and(Ordering::is_le),
                Comparison::Greater => order(meter, &left, &right, ">")?.is_some_and(Ordering::is_gt),
                Comparison::GreaterEqual => order(meter, &left, &right, ">=")?.is_some_and(Ordering::is_ge),
            };
            if !holds {
                return Ok(Datum::Bool(false));
            }
            left = right;
        }
        Ok(Datum::Bool(true))
    }

    /// A value and what is taken from it; the last call is given `caller` too.
    pub(super) fn path(
        &mut self,
        base: &Expr,
        steps: &[Postfix],
        caller: Option<&Datum>,
        scope: &Rc<Scope>,
    ) -> Done<Datum> {
        let mut value = self.value(base, scope)?;
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            self.meter.steps(1)?;
            at += 1;
            value = match step {
                Postfix::Attribute(name) => match steps.get(at) {
                    Some(Postfix::Call(passed)) => {
                        at += 1;
                        let given = self.given(passed, caller.filter(|_| at == steps.len()), scope)?;
                        self.call_method(&value, name, given)?
                    }
                    _ => lookup::attribute(self.meter, &value, name)?,
                },
                Postfix::Call(passed) => {
                    let given = self.given(passed, caller.filter(|_| at == steps.len()), scope)?;
                    self.call(&value, given)?
                }
                other => self.accessed(&value, other, scope)?,
            };
        }
        Ok(value)
    }

    fn accessed(&mut self, value: &Datum, step: &Postfix, scope: &Rc<Scope>) -> Done<Datum> {
        match step {
            Postfix::Index(index) => {
                let index = self.value(index, scope)?;
                lookup::item(self.meter, value, &index)
            }
            Postfix::Slice(bounds) => {
                let [start, stop, step] = &**bounds;
                let bound = |machine: &mut Self, bound: &Option<Expr>| match bound {
                    Some(expr) => machine.value(expr, scope),
                    None => Ok(Datum::None),
                };
                let bounds = [bound(self, start)?, bound(self, stop)?, bound(self, step)?];
                subscripts::slice(self.meter, value, bounds)
            }
            Postfix::Filter(call) => self.filtered(value, call, scope),
            Postfix::Test(call, negated) => {
                let given = self.given(&call.passed, None, scope)?;
                let holds = checks::test(self.meter, &call.name, value, given)?;
                Ok(Datum::Bool(holds != *negated))
            }
            Postfix::Attribute(name) => lookup::attribute(self.meter, value, name),
            Postfix::Call(passed) => {
                let given = self.given(passed, None, scope)?;
                self.call(value, given)
            }
        }
    }

    /// A value behind a filter.
    pub(super) fn filtered(&mut self, value: &Datum, call: &Call, scope: &Rc<Scope>) -> Done<Datum> {
        let given = self.given(&call.passed, None, scope)?;
        filters::apply(self.meter, &call.name, value, given)
    }

    /// The values of arguments.
    fn given(&mut self, passed: &Passed, caller: Option<&Datum>, scope: &Rc<Scope>) -> Done<Given> {
        let mut given = Given { positional: self.values(&passed.positional, scope)?, named: Vec::new() };
        for (name, expr) in &passed.named {
            given.named.push((Arc::clone(name), self.value(expr, scope)?));
        }
        if let Some(rest) = &passed.rest {
            let rest = self.value(rest, scope)?;
            given.positional.extend(rest.items(self.meter)?);
        }
        if let Some(map) = &passed.map {
            let map = self.value(map, scope)?;
            let Datum::Map(map) = &map else { return Err(wrong(&map, "a mapping after **")) };
            self.meter.items(2 * map.entries().len())?;
            for (key, value) in map.entries() {
                let Datum::Text(name) = key else { return Err(wrong(key, "a string as keyword")) };
                given.named.push((Arc::clone(name), value.clone()));
            }
        }
        given.named.extend(caller.map(|caller| ("caller".into(), caller.clone())));
        Ok(given)
    }

    fn call_method(&mut self, subject: &Datum, name: &Arc<str>, given: Given) -> Done<Datum> {
        if methods::has(subject, name) {
            return methods::call(self.meter, subject, name, given);
        }
        if let Datum::Object(object) = subject {
            if let Some(cycler) = known::<Cycler>(object) {
                let [] = given.bind(name, [], 0)?;
                return cycler.method(name).ok_or_else(|| methods::unknown(subject, name));
            }
            if let Some(value) = known::<LoopValue>(object) {
                match &**name {
                    "cycle" => {
                        let count = given.positional.len().max(1);
                        let item = given.positional.get(value.at.get() % count).cloned();
                        return item.ok_or_else(|| Problem::failed("no items for cycling given"));
                    }
                    "changed" => return self.changed(value, given),
                    _ => {}
                }
            }
        }
        let callee = lookup::attribute(self.meter, subject, name)?;
        match callee {
            Datum::Undefined(_) => Err(methods::unknown(subject, name)),
            callee => self.call(&callee, given),
        }
    }

    fn changed(&self, value: &LoopValue, given: Given) -> Done<Datum> {
        let now = Datum::tuple(self.meter, given.positional)?;
        let same = match &*value.last_changed.borrow() {
            Some(last) => equal(self.meter, last, &now)?,
            None => false,
        };
        if !same {
            value.last_changed.replace(Some(now));
        }
        Ok(Datum::Bool(!same))
    }

    /// Calls a value.
    fn call(&mut self, callee: &Datum, given: Given) -> Done<Datum> {
        let Datum::Object(object) = callee else {
            return Err(match callee {
                Datum::Undefined(message) => Problem::failed(&**message),
                other => Problem::failed(format!("'{}' object is not callable", other.type_name())),
            });
        };
        if let Some(Builtin(name)) = known(object) {
            return functions::call(self.meter, name, given, self.now, &mut self.namespaces);
        }
        if let Some(value) = known::<MacroValue>(object) {
            return self.call_macro(value, given);
        }
        if let Some(value) = known::<LoopValue>(object) {
            let [items] = given.bind("loop", ["iterable"], 1)?;
            return self.call_loop(value, items.unwrap_or(Datum::None));
        }
        if let Some(joiner) = known::<Joiner>(object) {
            let [] = given.bind("joiner", [], 0)?;
            return Ok(joiner.call());
        }
        if let Some(bound) = known::<Bound>(object) {
            return methods::call(self.meter, &bound.subject, &bound.name, given);
        }
        Err(Problem::failed(format!("{} is not callable", object.shown())))
    }
}

/// The object as `T`, if it is one.
fn known<T: Any>(object: &Rc<dyn Object>) -> Option<&T> {
    object.as_any().downcast_ref()
}

/// A variable or a global function.
fn variable(name: &Arc<str>, scope: &Rc<Scope>) -> Datum {
    if let Some(value) = scope.get(name) {
        return value;
    }
    match functions::NAMES.iter().find(|known| ***known == **name) {
        Some(known) => Datum::Object(Rc::new(Builtin(known))),
        None => Datum::undefined(format!("'{name}' is undefined")),
    }
}
