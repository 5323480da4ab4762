//! Statements: what a template does one after the other. It must not know how an expression is computed.

use std::rc::Rc;
use std::sync::Arc;

use super::datum::{Datum, Mapping};
use super::given::Given;
use super::machine::{LoopValue, Machine, MacroValue, Scope};
use super::meter::Growing;
use super::problem::{Done, Problem};
use super::show;
use super::syntax::{Call, Expr, ForNode, MacroNode, Node, Target};

/// Where a body goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

impl Machine<'_> {
    /// Runs `nodes` with the variables of `scope`.
    ///
    /// # Errors
    /// Problems with their line.
    pub(super) fn run(&mut self, nodes: &[Node], scope: &Rc<Scope>, out: &mut Growing<'_>) -> Done<Flow> {
        for node in nodes {
            self.meter.steps(1)?;
            let _nested = self.meter.enter()?;
            let flow = self.step(node, scope, out)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn step(&mut self, node: &Node, scope: &Rc<Scope>, out: &mut Growing<'_>) -> Done<Flow> {
        match node {
            Node::Raw(text) => out.push(text)?,
            Node::Output(line, expr) => self.output(expr, scope, out).map_err(|problem| problem.at(*line))?,
            Node::Do(line, expr) => {
                self.value(expr, scope).map_err(|problem| problem.at(*line))?;
            }
            Node::If(branches, otherwise) => return self.branch(branches, otherwise, scope, out),
            Node::For(node) => {
                let at = |problem: Problem| problem.at(node.line);
                let items = self.value(&node.items, scope).map_err(at)?;
                self.for_loop(node, &items, scope, 0, out).map_err(at)?;
            }
            Node::Set(line, target, expr) => {
                let at = |problem: Problem| problem.at(*line);
                let value = self.value(expr, scope).map_err(at)?;
                self.assign(target, value, scope).map_err(at)?;
            }
            Node::SetBlock(line, target, filters, body) => {
                let text = self.captured(filters, body, scope).map_err(|problem| problem.at(*line))?;
                self.assign(target, text, scope).map_err(|problem| problem.at(*line))?;
            }
            Node::Filter(line, filters, body) => {
                let text = self.captured(filters, body, scope).map_err(|problem| problem.at(*line))?;
                out.push(&show::text_of(self.meter, &text)?)?;
            }
            Node::With(line, pairs, body) => return self.with(*line, pairs, body, scope, out),
            Node::Macro(node) => {
                let value = self.macro_value(node, scope)?;
                scope.set(&node.name, value);
            }
            Node::CallBlock(line, expr, node) => {
                let at = |problem: Problem| problem.at(*line);
                let text = self.call_block(expr, node, scope).map_err(at)?;
                out.push(&show::text_of(self.meter, &text)?)?;
            }
            Node::Scoped(body) => return self.run(body, &Scope::within(scope), out),
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn output(&mut self, expr: &Expr, scope: &Rc<Scope>, out: &mut Growing<'_>) -> Done<()> {
        let value = self.value(expr, scope)?;
        out.push(&show::text_of(self.meter, &value)?)
    }

    fn branch(
        &mut self,
        branches: &[(usize, Expr, Vec<Node>)],
        otherwise: &[Node],
        scope: &Rc<Scope>,
        out: &mut Growing<'_>,
    ) -> Done<Flow> {
        for (line, condition, body) in branches {
            if self.value(condition, scope).map_err(|problem| problem.at(*line))?.truth() {
                return self.run(body, scope, out);
            }
        }
        self.run(otherwise, scope, out)
    }

    fn with(
        &mut self,
        line: usize,
        pairs: &[(Target, Expr)],
        body: &[Node],
        scope: &Rc<Scope>,
        out: &mut Growing<'_>,
    ) -> Done<Flow> {
        let inner = Scope::within(scope);
        for (target, expr) in pairs {
            let value = self.value(expr, scope).map_err(|problem| problem.at(line))?;
            self.assign(target, value, &inner).map_err(|problem| problem.at(line))?;
        }
        self.run(body, &inner, out)
    }

    /// The text of a body behind filters.
    fn captured(&mut self, filters: &[Call], body: &[Node], scope: &Rc<Scope>) -> Done<Datum> {
        let mut out = Growing::new(self.meter);
        self.run(body, &Scope::within(scope), &mut out)?;
        let mut value = Datum::text(out.finish());
        for filter in filters {
            value = self.filtered(&value, filter, scope)?;
        }
        Ok(value)
    }

    fn assign(&mut self, target: &Target, value: Datum, scope: &Rc<Scope>) -> Done<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Attribute(name, attribute) => {
                let Some(Datum::Namespace(namespace)) = scope.get(name) else {
                    return Err(Problem::failed("cannot assign attribute on non-namespace object"));
                };
                let mut attributes = namespace.attributes.borrow_mut();
                self.meter.steps(attributes.len() / 16)?;
                match attributes.iter_mut().find(|(known, _)| known == attribute) {
                    Some((_, old)) => *old = value,
                    None => {
                        self.meter.items(2)?;
                        attributes.push((Arc::clone(attribute), value));
                    }
                }
            }
            Target::Tuple(targets) => {
                let items = value.items(self.meter)?;
                if items.len() != targets.len() {
                    let (found, expected) = (items.len(), targets.len());
                    return Err(Problem::failed(format!(
                        "{found} values cannot be assigned to {expected} names"
                    )));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item, scope)?;
                }
            }
        }
        Ok(())
    }

    fn for_loop(
        &mut self,
        node: &Arc<ForNode>,
        items: &Datum,
        scope: &Rc<Scope>,
        level: usize,
        out: &mut Growing<'_>,
    ) -> Done<()> {
        let passed = if node.uses_loop {
            self.counted_loop(node, items, scope, level, out)?
        } else {
            self.plain_loop(node, items, scope, out)?
        };
        if !passed {
            self.run(&node.otherwise, &Scope::within(scope), out)?;
        }
        Ok(())
    }

    /// A loop that takes one item after the other; whether there was one.
    fn plain_loop(
        &mut self,
        node: &Arc<ForNode>,
        items: &Datum,
        scope: &Rc<Scope>,
        out: &mut Growing<'_>,
    ) -> Done<bool> {
        let mut passed = false;
        for item in items.walk()? {
            self.meter.steps(1)?;
            let inner = Scope::within(scope);
            if !self.chosen(node, item, &inner)? {
                continue;
            }
            passed = true;
            if self.run(&node.body, &inner, out)? == Flow::Break {
                break;
            }
        }
        Ok(passed)
    }

    /// Assigns the item, and whether it passes the test of the loop.
    fn chosen(&mut self, node: &ForNode, item: Datum, scope: &Rc<Scope>) -> Done<bool> {
        self.assign(&node.target, item, scope)?;
        match &node.test {
            Some(test) => Ok(self.value(test, scope)?.truth()),
            None => Ok(true),
        }
    }

    /// A loop whose items are counted first; whether there was one.
    fn counted_loop(
        &mut self,
        node: &Arc<ForNode>,
        items: &Datum,
        scope: &Rc<Scope>,
        level: usize,
        out: &mut Growing<'_>,
    ) -> Done<bool> {
        let items = match items {
            Datum::Seq(..) | Datum::Range(_) if node.test.is_none() => items.clone(),
            _ => {
                let mut chosen = Vec::new();
                for item in items.walk()? {
                    self.meter.steps(1)?;
                    self.meter.items(1)?;
                    if node.test.is_none() || self.chosen(node, item.clone(), &Scope::within(scope))? {
                        chosen.push(item);
                    }
                }
                Datum::list(self.meter, chosen)?
            }
        };
        if node.recursive {
            self.capture(scope)?;
        }
        let value = Rc::new(LoopValue::new(self.meter, node, scope, items, level)?);
        let name: Arc<str> = "loop".into();
        let mut at = 0;
        while let Some(item) = value.item(at) {
            self.meter.steps(1)?;
            value.at.set(at);
            let inner = Scope::within(scope);
            self.assign(&node.target, item, &inner)?;
            inner.set(&name, Datum::Object(Rc::<LoopValue>::clone(&value)));
            if self.run(&node.body, &inner, out)? == Flow::Break {
                break;
            }
            at += 1;
        }
        Ok(value.count > 0)
    }

    /// `loop(items)` in a recursive loop.
    pub(super) fn call_loop(&mut self, value: &LoopValue, items: Datum) -> Done<Datum> {
        let Some(scope) = &value.scope else {
            return Err(Problem::failed(
                "The loop must have the 'recursive' marker to be called recursively.",
            ));
        };
        let mut out = Growing::new(self.meter);
        self.for_loop(&value.node, &items, scope, value.level + 1, &mut out)?;
        Ok(Datum::text(out.finish()))
    }

    fn macro_value(&mut self, node: &Arc<MacroNode>, scope: &Rc<Scope>) -> Done<Datum> {
        self.capture(scope)?;
        Ok(Datum::Object(Rc::new(MacroValue { node: Arc::clone(node), scope: Rc::clone(scope) })))
    }

    fn call_block(&mut self, expr: &Expr, node: &Arc<MacroNode>, scope: &Rc<Scope>) -> Done<Datum> {
        let caller = self.macro_value(node, scope)?;
        match expr {
            Expr::Path(base, steps) => self.path(base, steps, Some(&caller), scope),
            _ => Err(Problem::failed("expected a call in a call block")),
        }
    }

    /// The text that a macro writes.
    pub(super) fn call_macro(&mut self, value: &MacroValue, mut given: Given) -> Done<Datum> {
        let node = &value.node;
        let scope = Scope::within(&value.scope);
        let mut positional = std::mem::take(&mut given.positional).into_iter();
        for (name, default) in &node.parameters {
            let named = given.take_named(name);
            let value = match (positional.next(), named) {
                (Some(_), Some(_)) => {
                    let problem = format!("macro '{}' got two values for '{name}'", node.name);
                    return Err(Problem::failed(problem));
                }
                (Some(value), None) | (None, Some(value)) => value,
                (None, None) => match default {
                    Some(default) => self.value(default, &scope)?,
                    None => Datum::undefined(format!("parameter '{name}' was not provided")),
                },
            };
            scope.set(name, value);
        }
        self.more_arguments(node, positional.collect(), given, &scope)?;
        let mut out = Growing::new(self.meter);
        self.run(&node.body, &scope, &mut out)?;
        Ok(Datum::text(out.finish()))
    }

    /// Arguments that no parameter takes.
    fn more_arguments(
        &mut self,
        node: &MacroNode,
        positional: Vec<Datum>,
        mut given: Given,
        scope: &Rc<Scope>,
    ) -> Done<()> {
        let caller = given.take_named("caller");
        if node.caller {
            let none = || Datum::undefined("No caller defined");
            scope.set(&"caller".into(), caller.unwrap_or_else(none));
        } else if caller.is_some() {
            return Err(Problem::failed(format!("macro '{}' takes no keyword argument 'caller'", node.name)));
        }
        if node.varargs {
            scope.set(&"varargs".into(), Datum::tuple(self.meter, positional)?);
        } else if !positional.is_empty() {
            let count = node.parameters.len();
            let problem = format!("macro '{}' takes not more than {count} argument(s)", node.name);
            return Err(Problem::failed(problem));
        }
        if node.kwargs {
            let pairs = given.named.into_iter().map(|(name, value)| (Datum::Text(name), value));
            scope.set(&"kwargs".into(), Datum::Map(Mapping::from_pairs(self.meter, pairs)?.into()));
        } else if let Some((name, _)) = given.named.first() {
            return Err(Problem::failed(format!("macro '{}' takes no keyword argument '{name}'", node.name)));
        }
        Ok(())
    }
}
