//! Pure arithmetic on quantised matrices: block formats, encode and decode, dot products, matrix products and
//! the float vector kernels, one implementation per instruction set, chosen at run time.
//!
//! It never knows files, threads' owners or models.

mod format;

pub use format::Format;
