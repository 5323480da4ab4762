//! The syntax tree of a template. It must not know values or how a template is run.

use std::sync::Arc;

/// A statement or a text.
#[derive(Debug)]
pub(super) enum Node {
    Raw(Arc<str>),
    Output(usize, Expr),
    Do(usize, Expr),
    If(Vec<(usize, Expr, Vec<Node>)>, Vec<Node>),
    For(Arc<ForNode>),
    Set(usize, Target, Expr),
    /// `{% set x %}...{% endset %}`, with the filters that its text goes through.
    SetBlock(usize, Target, Vec<Call>, Vec<Node>),
    With(usize, Vec<(Target, Expr)>, Vec<Node>),
    Macro(Arc<MacroNode>),
    /// The call, and the body that it can run as `caller`.
    CallBlock(usize, Expr, Arc<MacroNode>),
    Filter(usize, Vec<Call>, Vec<Node>),
    /// Statements with variables of their own: `block`, `generation`.
    Scoped(Vec<Node>),
    Break,
    Continue,
}

/// `{% for target in items if test recursive %}`.
#[derive(Debug)]
pub(super) struct ForNode {
    pub line: usize,
    pub target: Target,
    pub items: Expr,
    pub test: Option<Expr>,
    pub recursive: bool,
    /// Whether the body mentions `loop`, which knows the items to come.
    pub uses_loop: bool,
    pub body: Vec<Node>,
    pub otherwise: Vec<Node>,
}

/// A template's own function, defined between `{% macro %}` and `{% endmacro %}`.
#[derive(Debug)]
pub(super) struct MacroNode {
    pub name: Arc<str>,
    pub parameters: Vec<(Arc<str>, Option<Expr>)>,
    pub body: Vec<Node>,
    /// Whether the body mentions `varargs`, `kwargs` and `caller`, and so takes them.
    pub varargs: bool,
    pub kwargs: bool,
    pub caller: bool,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    /// An attribute of a namespace.
    Attribute(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

/// An expression.
#[derive(Debug)]
pub(super) enum Expr {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Arc<str>),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Operators of one rank, from the left.
    Chain(Box<Expr>, Vec<(Arithmetic, Expr)>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    /// Condition, value, other value.
    If(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
    /// A value and what is taken from it, step by step.
    Path(Box<Expr>, Vec<Postfix>),
}

/// One step of a path.
#[derive(Debug)]
pub(super) enum Postfix {
    Attribute(Arc<str>),
    Index(Expr),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Passed),
    Filter(Call),
    /// The test, and whether it is negated.
    Test(Call, bool),
}

/// A filter or test with arguments.
#[derive(Debug)]
pub(super) struct Call {
    pub name: Arc<str>,
    pub passed: Passed,
}

/// Arguments as they are written.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub positional: Vec<Expr>,
    pub named: Vec<(Arc<str>, Expr)>,
    /// `*args`
    pub rest: Option<Box<Expr>>,
    /// `**kwargs`
    pub map: Option<Box<Expr>>,
}

/// An operator on two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

/// An operator of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}
