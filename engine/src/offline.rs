//! What is recorded of passes and used later: routing traces and what they say about caches, and the sizes of
//! inputs that quantising wants to know.

pub mod importance;
pub mod replay;
pub mod trace;
