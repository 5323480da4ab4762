//! Jinja templates as Jinja2 renders them in the environment of `transformers`: an immutable sandbox with
//! trimmed blocks, `tojson` that writes plain JSON, `raise_exception`, `strftime_now`, and the tags
//! `generation`, `break` and `continue`.
//!
//! Templates are untrusted programs. Nothing that one makes is larger, deeper or slower than the meter of
//! the rendering allows (`meter.rs`), and values that it can reach hold no files, clocks or other
//! templates. The interpreter is our own because a meter has to stand in front of every operator, which no
//! library offers by a stable interface, and because operators, printing and scopes have to be Python's to
//! the character.
//!
//! On purpose it differs from Jinja2 in this: `escape` and `safe` give plain texts, which are not escaped
//! again when they are joined; texts have no bytes (`encode`); `random`, `lipsum`, `urlize` and `xmlattr`,
//! the tags `include`, `import`, `extends` and `autoescape`, and attributes in the fields of `format` are
//! errors; numbers end at 127 bits; dates are in UTC. `do` and namespaces in namespaces work.
//!
//! It must not know conversations.

mod blocks;
mod checks;
mod datum;
mod expressions;
mod filters;
mod functions;
mod given;
mod json;
mod lexer;
mod list_filters;
mod lookup;
mod machine;
mod meter;
mod methods;
mod names;
mod operators;
mod parser;
mod percent;
mod problem;
#[cfg(test)]
mod recorded;
mod show;
mod statements;
mod strftime;
mod subscripts;
mod syntax;
mod template;
mod text_filters;
mod wrap;

pub(crate) use problem::Problem;
pub(crate) use template::Template;
