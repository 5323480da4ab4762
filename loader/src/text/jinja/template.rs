//! A compiled template and its rendering. It must not know conversations.

use std::rc::Rc;

use super::blocks;
use super::json::from_json;
use super::machine::{Machine, Scope};
use super::meter::{Growing, Meter};
use super::problem::Done;
use super::syntax::Node;

/// A template that can be rendered.
#[derive(Debug)]
pub(crate) struct Template {
    nodes: Vec<Node>,
}

impl Template {
    /// Compiles `source`.
    ///
    /// # Errors
    /// A syntax error with its line.
    pub(crate) fn compile(source: &str) -> Done<Self> {
        Ok(Self { nodes: blocks::parse(source)? })
    }

    /// The text that the template makes of `variables` at the time `now`, in seconds since the beginning of
    /// 1970.
    ///
    /// # Errors
    /// What the template raises, operations that Jinja2 refuses, and exceeded limits, each with its line.
    pub(crate) fn render(
        &self,
        variables: &serde_json::Map<String, serde_json::Value>,
        now: u64,
    ) -> Done<String> {
        let meter = Meter::new();
        let mut machine = Machine::new(&meter, now);
        let scope = Rc::new(Scope::default());
        for (name, value) in variables {
            scope.set(&name.as_str().into(), from_json(&meter, value)?);
        }
        machine.capture(&scope)?;
        let mut out = Growing::new(&meter);
        machine.run(&self.nodes, &scope, &mut out)?;
        Ok(out.finish())
    }
}
