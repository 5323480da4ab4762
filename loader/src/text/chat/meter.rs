//! A meter on what a template makes: every string and list that an operator, a filter, a method or an output
//! statement builds is charged, before it is built, to one allowance per rendering.
//!
//! The engine counts its steps, but one step can double a string; sixty steps make more bytes than there are.
//! So after compiling, the instructions that make values are replaced by calls of metered functions that do
//! the same, and the allocating filters are wrapped. It must not know conversations.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::machinery::{
    CodeGenerator, Instruction, Instructions, Token, eval, make_string_output, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Tuple, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, Value};

/// Bytes that one rendering may make, output included.
pub(super) const MADE_BYTES_MAX: usize = 32 << 20;
/// Bytes that a list charges for each item.
const ITEM_BYTES: usize = 32;
/// Largest whole number that a filter takes as an argument: widths and counts.
const ARGUMENT_MAX: i64 = 1 << 16;
/// A key that every namespace has and no template can write.
const NAMESPACE_MARK: &str = "\u{1}namespace";
/// Message of the error; recognised by [`exhausted`].
const EXHAUSTED: &str = "the template makes too much text";

/// Filters whose result is not bounded by a number or a truth value.
const FILTERS: [&str; 36] = [
    "lower",
    "upper",
    "title",
    "capitalize",
    "replace",
    "dictsort",
    "items",
    "reverse",
    "trim",
    "join",
    "split",
    "lines",
    "default",
    "d",
    "attr",
    "first",
    "last",
    "sort",
    "list",
    "string",
    "batch",
    "slice",
    "indent",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "map",
    "groupby",
    "unique",
    "chain",
    "zip",
    "pprint",
    "format",
    "escape",
    "e",
];

/// The allowance of one rendering.
#[derive(Clone)]
struct Meter(Arc<AtomicUsize>);

/// Whether `error` says that the allowance is used up.
pub(super) fn exhausted(error: &Error) -> bool {
    error.detail() == Some(EXHAUSTED)
}

/// Compiles and renders `source` in `environment`, in which it has the name `name`.
pub(super) fn render(
    mut environment: Environment<'_>,
    syntax: SyntaxConfig,
    name: &str,
    source: &str,
    context: Value,
) -> Result<String, Error> {
    let meter = Meter(Arc::new(AtomicUsize::new(MADE_BYTES_MAX)));
    meter.install(&mut environment);
    let (instructions, blocks) = compile(syntax, name, source)?;
    let mut text = String::new();
    let mut output = make_string_output(&mut text);
    eval(&environment, &instructions, context, &blocks, &mut output, AutoEscape::None)?;
    Ok(text)
}

/// Compiles `source` into metered instructions.
pub(super) fn compile<'a>(
    syntax: SyntaxConfig,
    name: &'a str,
    source: &'a str,
) -> Result<(Instructions<'a>, BTreeMap<&'a str, Instructions<'a>>), Error> {
    check_constants(source, &syntax)?;
    let tree = parse(source, name, syntax)?;
    let mut generator = CodeGenerator::new(name, source);
    generator.compile_stmt(&tree);
    let (instructions, blocks) = generator.finish();
    let blocks = blocks.iter().map(|(name, block)| (*name, metered(block))).collect();
    Ok((metered(&instructions), blocks))
}

/// Refuses tags that multiply by more than the largest product, because the compiler evaluates constant
/// expressions like `'x' * 99999999`.
fn check_constants(source: &str, syntax: &SyntaxConfig) -> Result<(), Error> {
    const PRODUCT_MAX: u128 = 100_000;
    let (mut product, mut multiplies) = (1_u128, false);
    for token in tokenize(source, false, syntax.clone()) {
        // Faults of the tokens are left to the parser, which has better messages.
        let Ok((token, span)) = token else { return Ok(()) };
        match token {
            Token::VariableStart | Token::BlockStart => (product, multiplies) = (1, false),
            Token::Mul => multiplies = true,
            // A power like `10 ** 8` together with a product is refused; no real template needs it.
            Token::Pow => product = u128::MAX,
            Token::Int(number) => product = product.saturating_mul(u128::from(number.max(1))),
            Token::Int128(_) => product = u128::MAX,
            _ => {}
        }
        if multiplies && product > PRODUCT_MAX {
            let problem = format!("line {}: multiplies by more than {PRODUCT_MAX}", span.start_line);
            return Err(Error::new(ErrorKind::SyntaxError, problem));
        }
    }
    Ok(())
}

/// The same instructions with metered calls in place of those that make values, and raw text, which the
/// engine writes without asking the formatter, as a constant that is written.
fn metered<'a>(plain: &Instructions<'a>) -> Instructions<'a> {
    let all: Vec<&Instruction<'a>> = (0..).map_while(|at| plain.get(at)).collect();
    // New index of each instruction, and of the end.
    let mut moved = Vec::with_capacity(all.len() + 1);
    let mut next = 0_u32;
    for instruction in &all {
        moved.push(next);
        next += match instruction {
            Instruction::EmitRaw(_) => 2,
            Instruction::SetAttr(_) => 4,
            _ => 1,
        };
    }
    moved.push(next);
    let target = |at: &u32| moved.get(*at as usize).copied().unwrap_or(next);
    let mut out = Instructions::new(plain.name(), plain.source());
    for (at, instruction) in (0..).zip(all) {
        let replaced = match instruction {
            Instruction::EmitRaw(text) => {
                add(&mut out, Instruction::LoadConst(Value::from(*text)), plain, at);
                Instruction::Emit
            }
            // On the stack, the value is below the namespace.
            Instruction::SetAttr(name) => {
                add(&mut out, Instruction::Swap, plain, at);
                add(&mut out, call("=", 1), plain, at);
                add(&mut out, Instruction::Swap, plain, at);
                Instruction::SetAttr(name)
            }
            Instruction::Iterate(to) => Instruction::Iterate(target(to)),
            Instruction::Jump(to) => Instruction::Jump(target(to)),
            Instruction::JumpIfFalse(to) => Instruction::JumpIfFalse(target(to)),
            Instruction::JumpIfFalseOrPop(to) => Instruction::JumpIfFalseOrPop(target(to)),
            Instruction::JumpIfTrueOrPop(to) => Instruction::JumpIfTrueOrPop(target(to)),
            Instruction::BuildMacro(name, to, flags) => Instruction::BuildMacro(name, target(to), *flags),
            Instruction::StringConcat => call("~", 2),
            Instruction::Add => call("+", 2),
            Instruction::Mul => call("*", 2),
            Instruction::Rem => call("%", 2),
            Instruction::Slice => call("[:]", 4),
            // Longer lists are bounded by the source, in which all items are written.
            Instruction::BuildList(Some(count)) if *count < 10_000 => call("[]", *count),
            Instruction::BuildTuple(Some(count)) if *count < 10_000 => call("()", *count),
            Instruction::BuildMap(pairs) if *pairs < 10_000 => call("{}", 2 * pairs),
            other => other.clone(),
        };
        add(&mut out, replaced, plain, at);
    }
    out
}

fn call(name: &'static str, arguments: usize) -> Instruction<'static> {
    Instruction::CallFunction(name, u16::try_from(arguments).ok())
}

/// Appends `instruction` with the source position of instruction `at` of `plain`.
fn add<'a>(out: &mut Instructions<'a>, instruction: Instruction<'a>, plain: &Instructions<'a>, at: u32) {
    match (plain.get_span(at), plain.get_line(at).and_then(|line| u16::try_from(line).ok())) {
        (Some(span), _) => out.add_with_span(instruction, span),
        (None, Some(line)) => out.add_with_line(instruction, line),
        (None, None) => out.add(instruction),
    };
}

impl Meter {
    fn charge(&self, bytes: usize) -> Result<(), Error> {
        let less = |left: usize| left.checked_sub(bytes);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::InvalidOperation, EXHAUSTED)),
        }
    }

    /// Charges the length of `value` as text.
    fn charge_text(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.charge(text.len()),
            None => {
                let mut counter = Counter { left: self.0.load(Ordering::Relaxed), counted: 0 };
                // A formatting error means that the counter is exhausted; the charge reports it.
                let whole = write!(counter, "{value}").is_ok();
                self.charge(if whole { counter.counted } else { usize::MAX })
            }
        }
    }

    /// Charges a copy of `value` that shares what it contains.
    fn charge_copy(&self, value: &Value) -> Result<(), Error> {
        match value.as_str() {
            Some(text) => self.charge(text.len()),
            None => self.charge(value.len().unwrap_or(1).saturating_mul(ITEM_BYTES)),
        }
    }

    /// Charges the items of a new container. Each is charged with its whole text, so shared parts cannot hide
    /// exponential growth.
    fn charge_contents(&self, items: &[Value]) -> Result<(), Error> {
        items.iter().try_for_each(|item| {
            not_a_namespace(item)?;
            self.charge(ITEM_BYTES)?;
            self.charge_text(item)
        })
    }

    fn install(&self, environment: &mut Environment<'_>) {
        self.install_operators(environment);
        self.install_containers(environment);
        self.install_filters(environment);
        let meter = self.clone();
        environment.set_formatter(move |out, state, value| {
            meter.charge_text(value)?;
            minijinja::escape_formatter(out, state, value)
        });
    }

    fn install_operators(&self, environment: &mut Environment<'_>) {
        let meter = self.clone();
        environment.add_function("~", move |a: Value, b: Value| {
            meter.charge_text(&a)?;
            meter.charge_text(&b)?;
            Ok::<_, Error>(Value::from(format!("{a}{b}")))
        });
        for (name, expression) in [("+", "a + b"), ("*", "a * b"), ("%", "a % b")] {
            let meter = self.clone();
            environment
                .add_function(name, move |a: Value, b: Value| meter.operator(name, expression, &a, &b));
        }
        let meter = self.clone();
        environment.add_function("[:]", move |a: Value, from: Value, to: Value, step: Value| {
            meter.charge_copy(&a)?;
            plain("a[from:to:step]", [("a", a), ("from", from), ("to", to), ("step", step)])
        });
    }

    fn install_containers(&self, environment: &mut Environment<'_>) {
        let meter = self.clone();
        environment.add_function("[]", move |items: Rest<ValueOrKwargs>| {
            let items = items.into_values();
            meter.charge_contents(&items)?;
            Ok::<_, Error>(Value::from(items))
        });
        let meter = self.clone();
        environment.add_function("()", move |items: Rest<ValueOrKwargs>| {
            let items = items.into_values();
            meter.charge_contents(&items)?;
            Ok::<_, Error>(Value::from(Tuple::from(items)))
        });
        let meter = self.clone();
        environment.add_function("{}", move |items: Rest<ValueOrKwargs>| {
            let items = items.into_values();
            meter.charge_contents(&items)?;
            let pairs = items.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            Ok::<_, Error>(Value::from_pairs(pairs))
        });
        environment.add_function("=", |value: Value| not_a_namespace(&value).map(|()| value));
        for (name, mark) in [("dict", false), ("namespace", true)] {
            let meter = self.clone();
            environment.add_function(name, move |items: Rest<ValueOrKwargs>| {
                let items = items.into_values();
                let mut pairs = Vec::new();
                for map in items.iter() {
                    for key in map.try_iter()? {
                        let value = map.get_item(&key)?;
                        meter.charge_contents(std::slice::from_ref(&value))?;
                        pairs.push((key, value));
                    }
                }
                if mark {
                    pairs.push((Value::from(NAMESPACE_MARK), Value::from(true)));
                }
                call_plain(name, &[Value::from_pairs(pairs)])
            });
        }
    }

    fn install_filters(&self, environment: &mut Environment<'_>) {
        for name in FILTERS {
            let meter = self.clone();
            environment.add_filter(name, move |items: Rest<ValueOrKwargs>| {
                let items = items.into_values();
                meter.filter(name, &items)?;
                let made = Environment::new().empty_state().apply_filter(name, &items)?;
                meter.charge_copy(&made)?;
                Ok::<_, Error>(made)
            });
        }
        let meter = self.clone();
        environment.add_filter("tojson", move |value: Value, options: minijinja::value::Kwargs| {
            meter.charge_text(&value)?;
            super::functions::to_json(&value, options)
        });
        let meter = self.clone();
        environment.set_unknown_method_callback(
            move |state: &mut State<'_, '_>, value: &Value, method: &str, arguments: &[Value]| {
                let all: Vec<Value> = std::iter::once(value).chain(arguments).cloned().collect();
                meter.filter(method, &all)?;
                let made =
                    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)?;
                meter.charge_copy(&made)?;
                Ok(made)
            },
        );
    }

    fn operator(&self, name: &str, expression: &'static str, a: &Value, b: &Value) -> Result<Value, Error> {
        let number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
        if !(number(a) && number(b)) {
            match name {
                "*" => {
                    let (times, what) = if number(a) { (a, b) } else { (b, a) };
                    let bytes = what.as_str().map_or_else(|| what.len().unwrap_or(1) * ITEM_BYTES, str::len);
                    self.charge(bytes.saturating_mul(times.as_usize().unwrap_or(1)))?;
                }
                // Python formats with `%`; the engine does so only by its filter.
                "%" if a.as_str().is_some() => {
                    let mut items = vec![a.clone()];
                    match b.downcast_object_ref::<Tuple>() {
                        Some(tuple) => items.extend(tuple.iter().cloned()),
                        None => items.push(b.clone()),
                    }
                    self.formatting(a, &items[1..])?;
                    return Environment::new().empty_state().apply_filter("format", &items);
                }
                _ => {
                    self.charge_copy(a)?;
                    self.charge_copy(b)?;
                }
            }
        }
        plain(expression, [("a", a.clone()), ("b", b.clone())])
    }

    /// Charges the result of the filter or method `name` before it is called. The first of `items` is its
    /// subject.
    fn filter(&self, name: &str, items: &[Value]) -> Result<(), Error> {
        let Some((subject, arguments)) = items.split_first() else { return Ok(()) };
        arguments.iter().try_for_each(not_a_namespace)?;
        let unlimited =
            matches!(name, "default" | "d" | "get" | "count" | "startswith" | "endswith" | "find");
        if !unlimited && arguments.iter().filter_map(Value::as_i64).any(|number| number > ARGUMENT_MAX) {
            let problem = format!("a number given to {name} is larger than {ARGUMENT_MAX}");
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        let text = subject.as_str().unwrap_or_default();
        let argument = |at: usize| arguments.get(at).and_then(Value::as_str).unwrap_or_default();
        match name {
            "replace" => {
                let places = text.matches(argument(0)).count();
                self.charge(places.saturating_mul(argument(1).len()).saturating_add(text.len()))
            }
            // A filter has the list first, a method the separator.
            "join" => {
                let (list, separator) = match arguments.first() {
                    Some(list) if subject.as_str().is_some() && list.as_str().is_none() => (list, text),
                    _ => (subject, argument(0)),
                };
                self.charge(list.len().unwrap_or(1).saturating_mul(separator.len()))?;
                self.charge_text(list)
            }
            "indent" => {
                let width = arguments.first().and_then(Value::as_usize).unwrap_or(argument(0).len().max(4));
                self.charge(text.lines().count().saturating_mul(width))
            }
            "format" => self.formatting(subject, arguments),
            "map" if matches!(argument(0), "replace" | "join" | "format" | "indent" | "map" | "list") => {
                let problem = format!("map({:?}) is not supported", argument(0));
                Err(Error::new(ErrorKind::InvalidOperation, problem))
            }
            "string" | "pprint" | "escape" | "e" => self.charge_text(subject),
            _ => Ok(()),
        }
    }

    /// Charges a printf or `str.format` call. No real template needs a width of five digits.
    fn formatting(&self, pattern: &Value, arguments: &[Value]) -> Result<(), Error> {
        let text = pattern.as_str().unwrap_or_default();
        let wide = text.as_bytes().windows(5).any(|digits| digits.iter().all(u8::is_ascii_digit));
        if wide || text.contains('*') && text.contains('%') {
            let problem = "a format with such a width is not supported".to_owned();
            return Err(Error::new(ErrorKind::InvalidOperation, problem));
        }
        let fields = text.matches(['%', '{']).count();
        self.charge(text.len().saturating_add(fields.saturating_mul(10_000)))?;
        // A field may be used repeatedly.
        arguments
            .iter()
            .try_for_each(|argument| (0..fields.max(1)).try_for_each(|_| self.charge_text(argument)))
    }
}

/// The only mutable objects are namespaces: kept out of containers and of each other, they form no cycle,
/// which would be printed without end. Macros keep the namespaces that they use.
fn not_a_namespace(value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Plain
        || value.kind() == ValueKind::Map && value.get_attr(NAMESPACE_MARK).is_ok_and(|mark| mark.is_true())
    {
        let problem = "a namespace or macro inside of another value is not supported";
        return Err(Error::new(ErrorKind::InvalidOperation, problem));
    }
    Ok(())
}

/// Evaluates an expression of the engine without meter.
fn plain<const N: usize>(
    expression: &'static str,
    variables: [(&'static str, Value); N],
) -> Result<Value, Error> {
    Environment::new().compile_expression(expression)?.eval(Value::from_pairs(variables))
}

/// Calls a global function of the engine without meter.
fn call_plain(name: &str, items: &[Value]) -> Result<Value, Error> {
    let environment = Environment::new();
    let mut state = environment.empty_state();
    match state.lookup(name) {
        Some(function) => function.call(&mut state, items),
        None => Err(Error::from(ErrorKind::UnknownFunction)),
    }
}

/// Counts formatted bytes up to a limit.
struct Counter {
    left: usize,
    counted: usize,
}

impl fmt::Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.counted =
            self.counted.checked_add(text.len()).filter(|counted| *counted <= self.left).ok_or(fmt::Error)?;
        Ok(())
    }
}
