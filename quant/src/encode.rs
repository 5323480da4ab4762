//! Floats to block bytes. It must not know rows, files or instruction sets.

use half::{bf16, f16};

use crate::Format;

/// Why floats could not be stored in a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncodeError {
    /// There is no encoder for this format.
    Unsupported(Format),
    /// The value at `index` is infinite or not a number.
    NotFinite {
        /// Position in the source.
        index: usize,
    },
    /// The value at `index` is too large for the format, or for the scale of its block.
    OutOfRange {
        /// Position in the source.
        index: usize,
    },
    /// The source is not a whole number of blocks.
    PartialBlock {
        /// Values given.
        len: usize,
        /// Values per block.
        block_len: usize,
    },
}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsupported(format) => write!(f, "encoding to {format} is not supported"),
            Self::NotFinite { index } => write!(f, "value {index} is infinite or not a number"),
            Self::OutOfRange { index } => write!(f, "value {index} is too large for the format"),
            Self::PartialBlock { len, block_len } => {
                write!(f, "{len} values are not a whole number of blocks of {block_len}")
            }
        }
    }
}

impl std::error::Error for EncodeError {}

/// Encodes whole blocks of finite values. F16 and BF16 round to nearest even; Q8_0 takes `max|x| / 127` as the scale of
/// 32 values and rounds half away from zero, bit-equal to ggml's reference.
///
/// # Errors
/// See [`EncodeError`]; `out` is then partly written.
///
/// # Panics
/// If `out` is not exactly as long as the blocks.
pub fn encode(format: Format, src: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    let Some(bytes) = format.row_bytes(src.len()) else {
        return Err(EncodeError::PartialBlock { len: src.len(), block_len: format.block_len() });
    };
    assert_eq!(out.len(), bytes, "encode: {} values of {format} take {bytes} bytes", src.len());
    if let Some(index) = src.iter().position(|x| !x.is_finite()) {
        return Err(EncodeError::NotFinite { index });
    }
    match format {
        Format::F32 => each(src, out, |x: &[f32; 1]| Ok(x[0].to_le_bytes())),
        Format::F16 => each(src, out, |x: &[f32; 1]| {
            let h = f16::from_f32(x[0]);
            if h.is_finite() { Ok(h.to_le_bytes()) } else { Err(0) }
        }),
        Format::BF16 => each(src, out, |x: &[f32; 1]| {
            let h = bf16::from_f32(x[0]);
            if h.is_finite() { Ok(h.to_le_bytes()) } else { Err(0) }
        }),
        Format::Q8_0 => each(src, out, q8_0),
        other => Err(EncodeError::Unsupported(other)),
    }
}

/// Runs `block` on each `N` values and stores its `B` bytes; its error is the offending position in the block.
fn each<const N: usize, const B: usize>(
    src: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; N]) -> Result<[u8; B], usize>,
) -> Result<(), EncodeError> {
    for (i, (x, b)) in src.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<B>().0).enumerate() {
        *b = block(x).map_err(|at| EncodeError::OutOfRange { index: i * N + at })?;
    }
    Ok(())
}

fn q8_0(x: &[f32; 32]) -> Result<[u8; 34], usize> {
    let (mut largest, mut at) = (0.0, 0);
    for (i, x) in x.iter().enumerate() {
        if x.abs() > largest {
            (largest, at) = (x.abs(), i);
        }
    }
    let scale: f32 = largest / 127.0;
    let stored = f16::from_f32(scale);
    if !stored.is_finite() {
        return Err(at);
    }
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&stored.to_le_bytes());
    for (q, x) in block[2..].iter_mut().zip(x) {
        // `inverse` overflows when the scale is subnormal; the stored scale is 0 then, and any code in range will do.
        *q = (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8;
    }
    Ok(block)
}
