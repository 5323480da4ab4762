//! Text for a terminal: the filter for untrusted text, colours, line breaking, and Markdown as styled lines.
//! Everything here is pure. It must not know where text comes from, nor where lines go.

mod document;
pub mod filter;
mod highlight;
mod languages;
mod open;
mod parse;
mod render;
pub mod rows;
mod table;
pub mod theme;
mod wrap;

pub use document::Document;

#[cfg(test)]
mod tests;
