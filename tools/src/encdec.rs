//! Encoder-decoders on the command line: translation, and texts with gaps. They have no chat template. No
//! file here knows how weights are read.

mod gaps;
mod languages;
mod run;

pub use run::{Asked, EncoderArgs, run};
