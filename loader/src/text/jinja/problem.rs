//! What can go wrong with a template. It must not know how templates are run.

use std::fmt;

/// The result type of the template engine.
pub(crate) type Done<T> = Result<T, Problem>;

/// What went wrong: the source, the conversation, or the amount of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    /// The source is no template.
    Syntax,
    /// An operation that Jinja2 refuses too, and what the template itself raises.
    Failed,
    /// A limit on steps, memory or nesting.
    Limit,
}

/// An error of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What went wrong.
    pub kind: ProblemKind,
    /// The line in the template, from 1; 0 while it is unknown.
    pub line: usize,
    /// What happened, in the words of Jinja2 where it has some.
    pub message: String,
}

impl Problem {
    /// A syntax error in `line`.
    pub(super) fn syntax(line: usize, message: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Syntax, line, message: message.into() }
    }

    /// A failed operation.
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Failed, line: 0, message: message.into() }
    }

    /// An exceeded limit.
    pub(super) fn limit(message: impl Into<String>) -> Self {
        Self { kind: ProblemKind::Limit, line: 0, message: message.into() }
    }

    /// The same in `line`, unless the line is known already.
    pub(super) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.message)
    }
}
