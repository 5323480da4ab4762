//! Figures and texts that commands print: forecasts, progress, plots, measures of predictions. It must not
//! know how the model runs.

pub mod bench;
pub mod divergence;
pub mod forecast;
pub mod gpu;
pub mod layer_words;
pub mod memory_words;
pub mod plot;
pub mod progress;
pub mod quantize_plan;
pub mod windows;
