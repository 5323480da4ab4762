//! Encoders and sinusoidal positions, as data. It must not know layers.

use super::norm::NormSpec;

/// The encoder of a model: the first of its layers, in which every token of a text sees every other. The
/// decoder attends to what it makes of the text (arXiv 1706.03762).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderSpec {
    /// How many of the model's layers are the encoder's.
    pub layers: usize,
    /// Norm of what they give.
    pub final_norm: NormSpec,
    /// The token that every text of the decoder begins with.
    pub start: u32,
    /// What people use the model for.
    pub purpose: Purpose,
}

/// What an encoder-decoder was trained to do, as far as its commands differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Text to text: the text itself says what to do, or has gaps to be filled.
    TextToText,
    /// Filling gaps of a text, and nothing else.
    Gaps,
    /// Translation between languages that tokens of the vocabulary name.
    Translation,
    /// Telling what is on an image. There is no decoder.
    Images,
}

/// Sinusoidal positions (arXiv 1706.03762), the sines before the cosines: number `i` of each half turns with
/// `(position + offset) * 10000^(-i / (width / 2 - 1))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinusoidSpec {
    /// Added to positions.
    pub offset: usize,
}
