//! What a running template has: variables, macros, loops and the meter. It must not know how expressions are
//! computed or statements run; both are methods of [`Machine`] in files of their own.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::datum::{Datum, Namespace, Object, depth_over};
use super::meter::Meter;
use super::problem::Done;
use super::syntax::{ForNode, MacroNode};

/// A rendering.
pub(super) struct Machine<'a> {
    pub meter: &'a Meter,
    /// The time for `strftime_now`, in seconds since the beginning of 1970.
    pub now: u64,
    /// Everything that can be part of a circle, to be taken apart at the end.
    pub namespaces: Vec<Rc<Namespace>>,
    pub captured: Vec<Rc<Scope>>,
}

impl<'a> Machine<'a> {
    /// A machine that has made nothing yet.
    pub(super) fn new(meter: &'a Meter, now: u64) -> Self {
        Self { meter, now, namespaces: Vec::new(), captured: Vec::new() }
    }

    /// Remembers that a value refers to `scope`.
    pub(super) fn capture(&mut self, scope: &Rc<Scope>) -> Done<()> {
        if self.captured.last().is_none_or(|last| !Rc::ptr_eq(last, scope)) {
            self.meter.items(8)?;
            self.captured.push(Rc::clone(scope));
        }
        Ok(())
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Values that this sets free may contain others of the lists, which are kept until all are empty.
        for namespace in &self.namespaces {
            drop(namespace.attributes.take());
        }
        for scope in &self.captured {
            drop(scope.variables.take());
        }
    }
}

/// The variables of a block.
#[derive(Default)]
pub(super) struct Scope {
    pub variables: RefCell<HashMap<Arc<str>, Datum>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    /// A scope within `parent`.
    pub(super) fn within(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent: Some(Rc::clone(parent)) })
    }

    /// Sets a variable.
    pub(super) fn set(&self, name: &Arc<str>, value: Datum) {
        self.variables.borrow_mut().insert(Arc::clone(name), value);
    }

    /// The variable of this or an outer scope.
    pub(super) fn get(&self, name: &str) -> Option<Datum> {
        let mut scope = self;
        loop {
            if let Some(value) = scope.variables.borrow().get(name) {
                return Some(value.clone());
            }
            scope = scope.parent.as_deref()?;
        }
    }
}

/// A macro with the variables around it.
pub(super) struct MacroValue {
    pub node: Arc<MacroNode>,
    pub scope: Rc<Scope>,
}

impl Object for MacroValue {
    fn shown(&self) -> String {
        format!("<Macro '{}'>", self.node.name)
    }

    fn attribute(&self, name: &str) -> Option<Datum> {
        (name == "name").then(|| Datum::Text(Arc::clone(&self.node.name)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The variable `loop`.
pub(super) struct LoopValue {
    pub node: Arc<ForNode>,
    /// The scope around the loop, for a loop that can be called.
    pub scope: Option<Rc<Scope>>,
    /// A sequence or a range.
    items: Datum,
    pub count: usize,
    pub at: Cell<usize>,
    /// Loops around this one that called it.
    pub level: usize,
    /// What `loop.changed` was called with.
    pub last_changed: RefCell<Option<Datum>>,
    depth: usize,
}

impl LoopValue {
    /// A loop over `items`, a sequence or a range, at its beginning.
    pub(super) fn new(
        meter: &Meter,
        node: &Arc<ForNode>,
        scope: &Rc<Scope>,
        items: Datum,
        level: usize,
    ) -> Done<Self> {
        Ok(Self {
            node: Arc::clone(node),
            scope: node.recursive.then(|| Rc::clone(scope)),
            count: items.len(meter)?,
            depth: depth_over([&items])?,
            items,
            at: Cell::new(0),
            level,
            last_changed: RefCell::default(),
        })
    }

    /// Item `at`.
    pub(super) fn item(&self, at: usize) -> Option<Datum> {
        match &self.items {
            Datum::Seq(_, items) => items.list.get(at).cloned(),
            Datum::Range(steps) => (at < steps.count).then(|| steps.get(at)),
            _ => None,
        }
    }
}

impl Object for LoopValue {
    fn shown(&self) -> String {
        format!("<LoopContext {}/{}>", self.at.get() + 1, self.count)
    }

    fn attribute(&self, name: &str) -> Option<Datum> {
        let (at, count) = (self.at.get(), self.count);
        let number = |number: usize| Some(Datum::Int(number as i128));
        match name {
            "index" => number(at + 1),
            "index0" => number(at),
            "revindex" => number(count.saturating_sub(at)),
            "revindex0" => number(count.saturating_sub(at + 1)),
            "first" => Some(Datum::Bool(at == 0)),
            "last" => Some(Datum::Bool(at + 1 == count)),
            "length" => number(count),
            "depth" => number(self.level + 1),
            "depth0" => number(self.level),
            "previtem" => {
                let item = at.checked_sub(1).and_then(|at| self.item(at));
                Some(item.unwrap_or_else(|| Datum::undefined("there is no previous item")))
            }
            "nextitem" => {
                let item = self.item(at + 1);
                Some(item.unwrap_or_else(|| Datum::undefined("there is no next item")))
            }
            _ => None,
        }
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
