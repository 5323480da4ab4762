//! The grammar of statements, on top of that of expressions. It must not know how a statement is run.

use std::sync::Arc;

use super::lexer::Lexeme;
use super::parser::Parser;
use super::problem::{Done, Problem};
use super::syntax::{Expr, ForNode, MacroNode, Node, Target};

/// Positions in the parser's counts of watched names.
const LOOP: usize = 0;
const VARARGS: usize = 1;
const KWARGS: usize = 2;
const CALLER: usize = 3;

/// The tree of a whole template.
///
/// # Errors
/// [`Problem`] of the kind `Syntax` with its line.
pub(super) fn parse(source: &str) -> Done<Vec<Node>> {
    let mut parser = Parser::new(source)?;
    let nodes = parser.body(&[])?;
    match parser.now {
        Lexeme::End => Ok(nodes),
        _ => parser.expected("the end of the template"),
    }
}

impl Parser<'_> {
    /// Nodes up to a tag with one of the names `ends`, of which the name is left in hand; without `ends`, up
    /// to the end.
    fn body(&mut self, ends: &[&str]) -> Done<Vec<Node>> {
        let mut nodes = Vec::new();
        loop {
            let line = self.line();
            match &self.now {
                Lexeme::End if ends.is_empty() => return Ok(nodes),
                Lexeme::End => {
                    let what = ends.iter().map(|end| format!("'{end}'")).collect::<Vec<_>>().join(" or ");
                    return self.fail(format!("unexpected end of template: {what} is missing"));
                }
                Lexeme::OutputBegin => {
                    self.take()?;
                    nodes.push(Node::Output(line, self.tuple(true, false, &[])?));
                    if self.now != Lexeme::OutputEnd {
                        return self.expected("'}}'");
                    }
                    self.take()?;
                }
                Lexeme::BlockBegin => {
                    self.take()?;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(nodes);
                    }
                    nodes.push(self.nested(|parser| parser.statement(line))?);
                    self.block_end()?;
                }
                Lexeme::Raw(_) => {
                    if let Lexeme::Raw(text) = self.take()? {
                        nodes.push(Node::Raw(text.into()));
                    }
                }
                _ => return self.expected("text or a tag"),
            }
        }
    }

    /// The body of a statement and its end tag, of which the end is left in hand.
    fn block(&mut self, end: &str) -> Done<Vec<Node>> {
        self.block_end()?;
        let nodes = self.body(&[end])?;
        self.take()?;
        Ok(nodes)
    }

    fn block_end(&mut self) -> Done<()> {
        if self.now != Lexeme::BlockEnd {
            return self.expected("'%}'");
        }
        self.take().map(drop)
    }

    fn statement(&mut self, line: usize) -> Done<Node> {
        let name = self.need_name("the name of a tag")?;
        match &*name {
            "if" => self.if_statement(line),
            "for" => self.for_statement(line),
            "set" => self.set_statement(line),
            "with" => self.with_statement(line),
            "macro" => self.macro_statement(),
            "call" => self.call_statement(line),
            "print" => Ok(Node::Output(line, self.tuple(true, false, &[])?)),
            "do" => Ok(Node::Do(line, self.tuple(true, false, &[])?)),
            "filter" => {
                let filters = self.filter_chain()?;
                Ok(Node::Filter(line, filters, self.block("endfilter")?))
            }
            "generation" => Ok(Node::Scoped(self.block("endgeneration")?)),
            "block" => {
                let name = self.need_name("the name of the block")?;
                while self.skip_name("scoped")? || self.skip_name("required")? {}
                let nodes = self.block("endblock")?;
                self.skip_name(&name)?;
                Ok(Node::Scoped(nodes))
            }
            "break" | "continue" if self.loops == 0 => {
                Err(Problem::syntax(line, format!("'{name}' outside loop")))
            }
            "break" => Ok(Node::Break),
            "continue" => Ok(Node::Continue),
            "include" | "import" | "from" | "extends" => {
                Err(Problem::syntax(line, format!("'{name}': a chat template cannot read other templates")))
            }
            _ => Err(Problem::syntax(line, format!("Encountered unknown tag '{name}'"))),
        }
    }

    fn if_statement(&mut self, line: usize) -> Done<Node> {
        let mut branches = Vec::new();
        let mut line = line;
        loop {
            let condition = self.tuple(false, false, &[])?;
            self.block_end()?;
            let body = self.body(&["elif", "else", "endif"])?;
            branches.push((line, condition, body));
            line = self.line();
            if !self.skip_name("elif")? {
                break;
            }
        }
        let otherwise = if self.skip_name("else")? { self.block("endif")? } else { Vec::new() };
        self.skip_name("endif")?;
        Ok(Node::If(branches, otherwise))
    }

    fn for_statement(&mut self, line: usize) -> Done<Node> {
        let target = self.targets(&["in"], false)?;
        if !self.skip_name("in")? {
            return self.expected("'in'");
        }
        let items = self.tuple(false, false, &["recursive"])?;
        let test = if self.skip_name("if")? { Some(self.expression(true)?) } else { None };
        let recursive = self.skip_name("recursive")?;
        self.block_end()?;
        let seen = self.seen[LOOP];
        self.loops += 1;
        let body = self.body(&["endfor", "else"])?;
        self.loops -= 1;
        let uses_loop = self.seen[LOOP] > seen || recursive;
        let otherwise = if self.skip_name("else")? { self.block("endfor")? } else { Vec::new() };
        self.skip_name("endfor")?;
        Ok(Node::For(Arc::new(ForNode { line, target, items, test, recursive, uses_loop, body, otherwise })))
    }

    fn set_statement(&mut self, line: usize) -> Done<Node> {
        let target = self.targets(&[], true)?;
        if self.skip_sign("=")? {
            return Ok(Node::Set(line, target, self.tuple(true, false, &[])?));
        }
        let filters = if self.skip_sign("|")? { self.filter_chain()? } else { Vec::new() };
        Ok(Node::SetBlock(line, target, filters, self.block("endset")?))
    }

    fn with_statement(&mut self, line: usize) -> Done<Node> {
        let mut pairs: Vec<(Target, Expr)> = Vec::new();
        while self.now != Lexeme::BlockEnd {
            if !pairs.is_empty() {
                self.need_sign(",")?;
            }
            let target = self.target(false)?;
            self.need_sign("=")?;
            pairs.push((target, self.expression(true)?));
        }
        Ok(Node::With(line, pairs, self.block("endwith")?))
    }

    fn macro_statement(&mut self) -> Done<Node> {
        let name = self.need_name("the name of the macro")?;
        Ok(Node::Macro(Arc::new(self.macro_rest(name, "endmacro")?)))
    }

    fn call_statement(&mut self, line: usize) -> Done<Node> {
        // The parameters come before the call: they are read first, the body after it.
        let parameters = if self.is_sign("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression(true)?;
        let body = self.macro_body("caller".into(), parameters, "endcall")?;
        Ok(Node::CallBlock(line, call, Arc::new(body)))
    }

    fn macro_rest(&mut self, name: Arc<str>, end: &str) -> Done<MacroNode> {
        let parameters = self.parameters()?;
        self.macro_body(name, parameters, end)
    }

    fn macro_body(
        &mut self,
        name: Arc<str>,
        parameters: Vec<(Arc<str>, Option<Expr>)>,
        end: &str,
    ) -> Done<MacroNode> {
        let seen = self.seen;
        let loops = std::mem::take(&mut self.loops);
        let body = self.block(end)?;
        self.loops = loops;
        let uses = |at: usize| self.seen[at] > seen[at];
        let (varargs, kwargs, caller) = (uses(VARARGS), uses(KWARGS), uses(CALLER));
        Ok(MacroNode { name, parameters, body, varargs, kwargs, caller })
    }

    fn parameters(&mut self) -> Done<Vec<(Arc<str>, Option<Expr>)>> {
        self.need_sign("(")?;
        let mut parameters: Vec<(Arc<str>, Option<Expr>)> = Vec::new();
        while !self.is_sign(")") {
            if !parameters.is_empty() {
                self.need_sign(",")?;
            }
            let name = self.need_name("the name of a parameter")?;
            let default = if self.skip_sign("=")? { Some(self.expression(true)?) } else { None };
            if default.is_none() && parameters.last().is_some_and(|(_, default)| default.is_some()) {
                return self.fail("non-default argument follows default argument");
            }
            parameters.push((name, default));
        }
        self.need_sign(")")?;
        Ok(parameters)
    }

    /// One target or several with commas, up to a name in `ends`.
    fn targets(&mut self, ends: &[&str], attributes: bool) -> Done<Target> {
        let first = self.target(attributes)?;
        if !self.is_sign(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_sign(",")? {
            let over = matches!(self.now, Lexeme::BlockEnd | Lexeme::Sign("=" | ")"));
            if over || ends.iter().any(|end| self.is_name(end)) {
                break;
            }
            all.push(self.target(attributes)?);
        }
        Ok(Target::Tuple(all))
    }

    fn target(&mut self, attributes: bool) -> Done<Target> {
        if self.skip_sign("(")? {
            let inner = self.nested(|parser| parser.targets(&[], attributes))?;
            self.need_sign(")")?;
            return Ok(inner);
        }
        let line = self.line();
        let name = self.need_name("a name to assign to")?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return Err(Problem::syntax(line, format!("can't assign to '{name}'")));
        }
        if attributes && self.skip_sign(".")? {
            return Ok(Target::Attribute(name, self.need_name("the name of an attribute")?));
        }
        Ok(Target::Name(name))
    }
}
