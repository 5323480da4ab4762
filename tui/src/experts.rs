//! The expert view: which experts are resident, in use, being read and predicted, layer by layer, and the
//! speeds of RAM and disk beside their limits. It gets plain snapshots and must not know where they come
//! from.

mod gauges;
mod grid;
mod history;
mod look;
mod rates;
mod view;

pub use view::ExpertView;

#[cfg(test)]
mod tests;
