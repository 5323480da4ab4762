//! The grammar of expressions. It must not know statements or how an expression is computed.

use std::sync::Arc;

use super::lexer::{Lexeme, Lexer};
use super::problem::{Done, Problem};
use super::syntax::{Arithmetic, Call, Comparison, Expr, Passed, Postfix};

/// Nesting of brackets and statements in a source.
const NESTING_MAX: usize = 120;

/// The names whose use in a body changes what the body is given.
pub(super) const WATCHED: [&str; 4] = ["loop", "varargs", "kwargs", "caller"];

/// Reads a source with one lexeme in hand and one ahead.
pub(super) struct Parser<'a> {
    lexer: Lexer<'a>,
    pub(super) now: Lexeme,
    ahead: Lexeme,
    /// Lines of the two.
    line_now: usize,
    line_ahead: usize,
    nesting: usize,
    /// How often each of [`WATCHED`] was read so far.
    pub(super) seen: [usize; 4],
    /// Loops around the current place, within its macro.
    pub(super) loops: usize,
}

impl<'a> Parser<'a> {
    /// A parser at the beginning of `source`.
    pub(super) fn new(source: &'a str) -> Done<Self> {
        let mut lexer = Lexer::new(source);
        let now = lexer.next()?;
        let line_now = lexer.line();
        let ahead = if now == Lexeme::End { Lexeme::End } else { lexer.next()? };
        let line_ahead = lexer.line();
        Ok(Self { lexer, now, ahead, line_now, line_ahead, nesting: 0, seen: [0; 4], loops: 0 })
    }

    /// The line of the lexeme in hand.
    pub(super) fn line(&self) -> usize {
        self.line_now
    }

    /// The lexeme in hand; the next one takes its place.
    pub(super) fn take(&mut self) -> Done<Lexeme> {
        let next = if self.ahead == Lexeme::End { Lexeme::End } else { self.lexer.next()? };
        let taken = std::mem::replace(&mut self.now, std::mem::replace(&mut self.ahead, next));
        self.line_now = std::mem::replace(&mut self.line_ahead, self.lexer.line());
        Ok(taken)
    }

    /// An error at the lexeme in hand.
    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Done<T> {
        Err(Problem::syntax(self.line_now, message))
    }

    /// An error that says what was expected.
    pub(super) fn expected<T>(&self, what: &str) -> Done<T> {
        let found = match &self.now {
            Lexeme::Raw(_) => "text outside of tags".to_owned(),
            Lexeme::OutputBegin => "'{{'".to_owned(),
            Lexeme::OutputEnd => "'}}'".to_owned(),
            Lexeme::BlockBegin => "'{%'".to_owned(),
            Lexeme::BlockEnd => "'%}'".to_owned(),
            Lexeme::Name(name) => format!("'{name}'"),
            Lexeme::Text(_) => "a text".to_owned(),
            Lexeme::Int(_) | Lexeme::Float(_) => "a number".to_owned(),
            Lexeme::Sign(sign) => format!("'{sign}'"),
            Lexeme::End => "the end of the template".to_owned(),
        };
        self.fail(format!("expected {what}, got {found}"))
    }

    /// Whether the lexeme in hand is this operator or bracket.
    pub(super) fn is_sign(&self, sign: &str) -> bool {
        matches!(self.now, Lexeme::Sign(found) if found == sign)
    }

    /// Whether the lexeme in hand is this name.
    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(&self.now, Lexeme::Name(found) if found == name)
    }

    /// Takes an operator or bracket if it is in hand.
    pub(super) fn skip_sign(&mut self, sign: &str) -> Done<bool> {
        let found = self.is_sign(sign);
        if found {
            self.take()?;
        }
        Ok(found)
    }

    /// Takes a name if it is in hand.
    pub(super) fn skip_name(&mut self, name: &str) -> Done<bool> {
        let found = self.is_name(name);
        if found {
            self.take()?;
        }
        Ok(found)
    }

    /// Takes an operator or bracket that must be there.
    pub(super) fn need_sign(&mut self, sign: &str) -> Done<()> {
        if self.skip_sign(sign)? { Ok(()) } else { self.expected(&format!("'{sign}'")) }
    }

    /// Takes a name that must be there.
    pub(super) fn need_name(&mut self, what: &str) -> Done<Arc<str>> {
        if !matches!(self.now, Lexeme::Name(_)) {
            return self.expected(what);
        }
        match self.take()? {
            Lexeme::Name(name) => Ok(name.into()),
            _ => self.expected(what),
        }
    }

    /// Runs `work` one level deeper.
    pub(super) fn nested<T>(&mut self, work: impl FnOnce(&mut Self) -> Done<T>) -> Done<T> {
        if self.nesting >= NESTING_MAX {
            return self.fail(format!("more than {NESTING_MAX} levels of nesting"));
        }
        self.nesting += 1;
        let done = work(self);
        self.nesting -= 1;
        done
    }

    /// An expression with or without `a if b else c`.
    pub(super) fn expression(&mut self, conditional: bool) -> Done<Expr> {
        self.nested(|parser| if conditional { parser.conditional() } else { parser.or() })
    }

    fn conditional(&mut self) -> Done<Expr> {
        let mut value = self.or()?;
        let mut count = 0;
        while self.skip_name("if")? {
            count += 1;
            if count > NESTING_MAX {
                return self.fail("too many conditions in one expression");
            }
            let condition = self.or()?;
            let other =
                if self.skip_name("else")? { Some(Box::new(self.nested(Self::conditional)?)) } else { None };
            value = Expr::If(Box::new(condition), Box::new(value), other);
        }
        Ok(value)
    }

    fn or(&mut self) -> Done<Expr> {
        let first = self.and()?;
        let mut all = vec![first];
        while self.skip_name("or")? {
            all.push(self.and()?);
        }
        Ok(single(all, Expr::Or))
    }

    fn and(&mut self) -> Done<Expr> {
        let first = self.not()?;
        let mut all = vec![first];
        while self.skip_name("and")? {
            all.push(self.not()?);
        }
        Ok(single(all, Expr::And))
    }

    fn not(&mut self) -> Done<Expr> {
        if self.skip_name("not")? {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Done<Expr> {
        let first = self.sum()?;
        let mut more = Vec::new();
        loop {
            let operator = match &self.now {
                Lexeme::Sign("==") => Comparison::Equal,
                Lexeme::Sign("!=") => Comparison::NotEqual,
                Lexeme::Sign("<") => Comparison::Less,
                Lexeme::Sign("<=") => Comparison::LessEqual,
                Lexeme::Sign(">") => Comparison::Greater,
                Lexeme::Sign(">=") => Comparison::GreaterEqual,
                Lexeme::Name(name) if name == "in" => Comparison::In,
                Lexeme::Name(name)
                    if name == "not" && matches!(&self.ahead, Lexeme::Name(next) if next == "in") =>
                {
                    self.take()?;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.take()?;
            more.push((operator, self.sum()?));
        }
        Ok(if more.is_empty() { first } else { Expr::Compare(Box::new(first), more) })
    }

    fn chain(
        &mut self,
        signs: &[(&str, Arithmetic)],
        operand: impl Fn(&mut Self) -> Done<Expr>,
    ) -> Done<Expr> {
        let first = operand(self)?;
        let mut more = Vec::new();
        while let Some((_, operator)) = signs.iter().find(|(sign, _)| self.is_sign(sign)) {
            self.take()?;
            more.push((*operator, operand(self)?));
        }
        Ok(if more.is_empty() { first } else { Expr::Chain(Box::new(first), more) })
    }

    fn sum(&mut self) -> Done<Expr> {
        self.chain(&[("+", Arithmetic::Add), ("-", Arithmetic::Subtract)], Self::concat)
    }

    fn concat(&mut self) -> Done<Expr> {
        let mut all = vec![self.product()?];
        while self.skip_sign("~")? {
            all.push(self.product()?);
        }
        Ok(single(all, Expr::Concat))
    }

    fn product(&mut self) -> Done<Expr> {
        let signs = [
            ("*", Arithmetic::Multiply),
            ("/", Arithmetic::Divide),
            ("//", Arithmetic::FloorDivide),
            ("%", Arithmetic::Remainder),
        ];
        self.chain(&signs, Self::power)
    }

    fn power(&mut self) -> Done<Expr> {
        self.chain(&[("**", Arithmetic::Power)], |parser| parser.unary(true))
    }

    fn unary(&mut self, filtered: bool) -> Done<Expr> {
        let node = if self.skip_sign("-")? {
            Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?))
        } else if self.skip_sign("+")? {
            Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?))
        } else {
            self.primary()?
        };
        let mut steps = Vec::new();
        self.postfix(&mut steps)?;
        if filtered {
            self.filters(&mut steps)?;
        }
        Ok(if steps.is_empty() { node } else { Expr::Path(Box::new(node), steps) })
    }

    fn primary(&mut self) -> Done<Expr> {
        if self.is_sign("(") || self.is_sign("[") || self.is_sign("{") {
            return self.bracketed();
        }
        if !matches!(self.now, Lexeme::Name(_) | Lexeme::Text(_) | Lexeme::Int(_) | Lexeme::Float(_)) {
            return self.expected("an expression");
        }
        match self.take()? {
            Lexeme::Name(name) => Ok(match name.as_str() {
                "true" | "True" => Expr::Bool(true),
                "false" | "False" => Expr::Bool(false),
                "none" | "None" => Expr::None,
                _ => {
                    self.watch(&name);
                    Expr::Name(name.into())
                }
            }),
            Lexeme::Text(mut text) => {
                while matches!(self.now, Lexeme::Text(_)) {
                    if let Lexeme::Text(more) = self.take()? {
                        text.push_str(&more);
                    }
                }
                Ok(Expr::Text(text.into()))
            }
            Lexeme::Int(number) => Ok(Expr::Int(number)),
            Lexeme::Float(number) => Ok(Expr::Float(number)),
            _ => self.expected("an expression"),
        }
    }

    fn watch(&mut self, name: &str) {
        if let Some(at) = WATCHED.iter().position(|watched| *watched == name) {
            self.seen[at] += 1;
        }
    }

    fn bracketed(&mut self) -> Done<Expr> {
        if self.skip_sign("(")? {
            let tuple = self.nested(|parser| parser.tuple(true, true, &[]))?;
            self.need_sign(")")?;
            return Ok(tuple);
        }
        if self.skip_sign("[")? {
            let mut items = Vec::new();
            while !self.is_sign("]") {
                if !items.is_empty() {
                    self.need_sign(",")?;
                    if self.is_sign("]") {
                        break;
                    }
                }
                items.push(self.expression(true)?);
            }
            self.need_sign("]")?;
            return Ok(Expr::List(items));
        }
        self.need_sign("{")?;
        let mut pairs = Vec::new();
        while !self.is_sign("}") {
            if !pairs.is_empty() {
                self.need_sign(",")?;
                if self.is_sign("}") {
                    break;
                }
            }
            let key = self.expression(true)?;
            self.need_sign(":")?;
            pairs.push((key, self.expression(true)?));
        }
        self.need_sign("}")?;
        Ok(Expr::Dict(pairs))
    }

    /// Expressions with commas between them are a tuple. Names in `ends` end it.
    pub(super) fn tuple(&mut self, conditional: bool, explicit: bool, ends: &[&str]) -> Done<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if matches!(self.now, Lexeme::OutputEnd | Lexeme::BlockEnd | Lexeme::Sign(")"))
                || ends.iter().any(|end| self.is_name(end))
            {
                break;
            }
            items.push(self.expression(conditional)?);
            if !self.skip_sign(",")? {
                break;
            }
            is_tuple = true;
        }
        if is_tuple {
            return Ok(Expr::Tuple(items));
        }
        match items.pop() {
            Some(item) => Ok(item),
            None if explicit => Ok(Expr::Tuple(items)),
            None => self.expected("an expression"),
        }
    }

    /// `.name`, `[index]` and `(arguments)`.
    fn postfix(&mut self, steps: &mut Vec<Postfix>) -> Done<()> {
        loop {
            if self.skip_sign(".")? {
                if let Lexeme::Int(index) = self.now {
                    self.take()?;
                    steps.push(Postfix::Index(Expr::Int(index)));
                } else {
                    steps.push(Postfix::Attribute(self.need_name("a name or a number")?));
                }
            } else if self.skip_sign("[")? {
                let step = self.nested(Self::subscript)?;
                self.need_sign("]")?;
                steps.push(step);
            } else if self.is_sign("(") {
                steps.push(Postfix::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    fn subscript(&mut self) -> Done<Postfix> {
        let first = if self.is_sign(":") { None } else { Some(self.expression(true)?) };
        if !self.is_sign(":") {
            return match first {
                Some(first) if self.is_sign(",") => {
                    let mut items = vec![first];
                    while self.skip_sign(",")? {
                        items.push(self.expression(true)?);
                    }
                    Ok(Postfix::Index(Expr::Tuple(items)))
                }
                Some(first) => Ok(Postfix::Index(first)),
                None => self.expected("an expression"),
            };
        }
        let mut parts = [first, None, None];
        for part in &mut parts[1..] {
            if !self.skip_sign(":")? {
                break;
            }
            if !self.is_sign(":") && !self.is_sign("]") {
                *part = Some(self.expression(true)?);
            }
        }
        Ok(Postfix::Slice(Box::new(parts)))
    }

    /// `|filter`, `is test` and calls of their results.
    fn filters(&mut self, steps: &mut Vec<Postfix>) -> Done<()> {
        loop {
            if self.skip_sign("|")? {
                steps.push(Postfix::Filter(self.call()?));
            } else if self.skip_name("is")? {
                let negated = self.skip_name("not")?;
                steps.push(Postfix::Test(self.test()?, negated));
            } else if self.is_sign("(") {
                steps.push(Postfix::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    /// The filters of a `filter` or `set` block, of which the first has no `|` before it.
    pub(super) fn filter_chain(&mut self) -> Done<Vec<Call>> {
        let mut calls = vec![self.call()?];
        while self.skip_sign("|")? {
            calls.push(self.call()?);
        }
        Ok(calls)
    }

    fn dotted(&mut self) -> Done<Arc<str>> {
        let mut name = self.need_name("a name")?;
        while self.skip_sign(".")? {
            name = format!("{name}.{}", self.need_name("a name")?).into();
            if name.len() > 200 {
                return self.fail("a name is longer than 200 bytes");
            }
        }
        Ok(name)
    }

    fn call(&mut self) -> Done<Call> {
        let name = self.dotted()?;
        let passed = if self.is_sign("(") { self.arguments()? } else { Passed::default() };
        Ok(Call { name, passed })
    }

    fn test(&mut self) -> Done<Call> {
        let name = self.dotted()?;
        let passed = match &self.now {
            Lexeme::Sign("(") => self.arguments()?,
            Lexeme::Name(word) if word == "is" => {
                return self.fail("You cannot chain multiple tests with is");
            }
            Lexeme::Name(word) if matches!(word.as_str(), "else" | "or" | "and") => Passed::default(),
            Lexeme::Name(_)
            | Lexeme::Text(_)
            | Lexeme::Int(_)
            | Lexeme::Float(_)
            | Lexeme::Sign("[" | "{") => {
                let argument = self.nested(|parser| {
                    let node = parser.primary()?;
                    let mut steps = Vec::new();
                    parser.postfix(&mut steps)?;
                    Ok(if steps.is_empty() { node } else { Expr::Path(Box::new(node), steps) })
                })?;
                Passed { positional: vec![argument], ..Passed::default() }
            }
            _ => Passed::default(),
        };
        Ok(Call { name, passed })
    }

    /// Arguments in parentheses.
    pub(super) fn arguments(&mut self) -> Done<Passed> {
        self.need_sign("(")?;
        let mut passed = Passed::default();
        let mut first = true;
        while !self.is_sign(")") {
            if !first {
                self.need_sign(",")?;
                if self.is_sign(")") {
                    break;
                }
            }
            first = false;
            let named = matches!(self.now, Lexeme::Name(_)) && self.ahead == Lexeme::Sign("=");
            if passed.map.is_some()
                || passed.rest.is_some() && !named && !self.is_sign("**")
                || !passed.named.is_empty() && !named && !self.is_sign("*") && !self.is_sign("**")
            {
                return self.fail("invalid syntax for function call expression");
            }
            if self.skip_sign("*")? {
                passed.rest = Some(Box::new(self.expression(true)?));
            } else if self.skip_sign("**")? {
                passed.map = Some(Box::new(self.expression(true)?));
            } else if named {
                let name = self.need_name("a name")?;
                self.need_sign("=")?;
                passed.named.push((name, self.expression(true)?));
            } else {
                passed.positional.push(self.expression(true)?);
            }
        }
        self.need_sign(")")?;
        Ok(passed)
    }
}

/// The only expression, or all of them combined.
fn single(mut all: Vec<Expr>, combined: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    match all.pop() {
        Some(only) if all.is_empty() => only,
        Some(last) => {
            all.push(last);
            combined(all)
        }
        None => Expr::None,
    }
}
