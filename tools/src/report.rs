//! Figures and words that commands print: forecasts, progress, drawings, measures of predictions. It must not
//! know options.

pub mod bench;
pub mod divergence;
pub mod forecast;
pub mod memory_words;
pub mod plot;
pub mod progress;
pub mod quantize_plan;
pub mod windows;
