//! Figures and texts that commands print: forecasts, progress, plots, measures of predictions. It must not
//! know how the model runs.

pub mod bench;
pub mod card;
pub mod divergence;
pub mod earlier;
pub mod forecast;
pub mod gpu;
pub mod gpu_work;
pub mod inspection;
pub mod layer_words;
pub mod memory_words;
pub mod page;
pub mod plot;
pub mod progress;
pub mod quantize_plan;
pub mod routing;
pub mod suggestion_words;
pub mod type_choice;
pub mod type_table;
pub mod vram;
pub mod waiting;
pub mod windows;
