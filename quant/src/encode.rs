//! Floats to block bytes. Each block depends on its own values (and the importance of their columns) alone,
//! so rows can be encoded in any pieces, by any number of threads, to the same bytes. It must not know
//! files or threads.

mod arith;
mod blocks;
mod pack;
mod plain;
mod range;
mod search;
mod super_blocks;

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use half::{bf16, f16};

use crate::format::Format;
use range::OutOfRange;

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
    /// The source, or a row of it, is not a whole number of blocks.
    PartialBlock {
        /// Values given.
        len: usize,
        /// Values per block.
        block_len: usize,
    },
    /// The importance of a column is negative, infinite or not a number.
    Importance {
        /// The first such column.
        column: usize,
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
            Self::Importance { column } => {
                write!(f, "the importance of column {column} is not a number from 0 up")
            }
        }
    }
}

impl std::error::Error for EncodeError {}

/// Encodes whole blocks of finite values.
///
/// - `F16`, `BF16`: rounded to nearest even.
/// - `Q8_0`, `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1`, `MXFP4`: byte for byte as ggml's reference quantisers.
/// - `Q4_K`, `Q5_K`, `Q6_K`, `IQ4_NL`, `IQ4_XS`: scales searched for the least squared error, in which
///   larger values count more.
/// - `Q2_K`, `Q3_K`: not supported.
///
/// Scales are stored in half precision, whose smallest number is `6e-8`: values well below that become
/// zeros, and small ones near it lose digits.
///
/// # Errors
/// See [`EncodeError`]; `out` is then partly written. What is written without one decodes to finite values.
///
/// # Panics
/// If `out` is not exactly as long as the blocks.
pub fn encode(format: Format, src: &[f32], out: &mut [u8]) -> Result<(), EncodeError> {
    check(format, src, out)?;
    match format {
        Format::F32 => each(src, out, |x: &[f32; 1]| Ok(x[0].to_le_bytes())),
        Format::F16 => sixteen_bits(src, out, f16::INFINITY.to_bits(), |x, bits| {
            bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(x);
        }),
        Format::BF16 => sixteen_bits(src, out, bf16::INFINITY.to_bits(), |x, bits| {
            for (bits, x) in bits.iter_mut().zip(x) {
                let x = x.to_bits();
                // Half of what is cut off, and a bit more where the last bit kept is odd: to nearest even.
                *bits = ((x + 0x7fff + (x >> 16 & 1)) >> 16) as u16;
            }
        }),
        Format::Q4_0 => each(src, out, plain::q4_0),
        Format::Q4_1 => each(src, out, plain::q4_1),
        Format::Q5_0 => each(src, out, plain::q5_0),
        Format::Q5_1 => each(src, out, plain::q5_1),
        Format::Q8_0 => each(src, out, plain::q8_0),
        Format::Mxfp4 => each(src, out, |x| Ok(plain::mxfp4(x))),
        Format::Q2K => each(src, out, |x| super_blocks::q2_k(x, None)),
        Format::Q3K => each(src, out, |x| super_blocks::q3_k(x, None)),
        Format::Q4K => each(src, out, |x| super_blocks::q4_k(x, None)),
        Format::Q5K => each(src, out, |x| super_blocks::q5_k(x, None)),
        Format::Q6K => each(src, out, |x| super_blocks::q6_k(x, None)),
        Format::Iq4Nl => each(src, out, |x| blocks::iq4_nl(x, None)),
        Format::Iq4Xs => each(src, out, |x| super_blocks::iq4_xs(x, None)),
        _ => Err(EncodeError::Unsupported(format)),
    }
}

/// Encodes whole rows of finite values where errors in some columns matter more than in others.
///
/// `src` is `[rows, cols]`, `importance` is `[cols]`: by how much a squared error in that column counts, in
/// any unit, as the mean square of the activations it multiplies (an "importance matrix") says. Without
/// importance this is [`encode`], and so it is for `F32`, `F16`, `BF16` and `Q8_0`, whose codes follow from
/// the values alone.
///
/// # Errors
/// See [`EncodeError`]; `out` is then partly written. What is written without one decodes to finite values.
///
/// # Panics
/// If `out` is not exactly as long as the blocks, or `src` is not a whole number of rows.
pub fn encode_weighted(
    format: Format,
    src: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), EncodeError> {
    let Some(weights) = importance else { return encode(format, src, out) };
    let (cols, block_len) = (weights.len(), format.block_len());
    if !cols.is_multiple_of(block_len) {
        return Err(EncodeError::PartialBlock { len: cols, block_len });
    }
    assert!(src.len().is_multiple_of(cols), "encode: {} values are no rows of {cols}", src.len());
    if let Some(column) = weights.iter().position(|w| !w.is_finite() || *w < 0.0) {
        return Err(EncodeError::Importance { column });
    }
    check(format, src, out)?;
    match format {
        Format::Q4_0 => each_weighted(src, weights, out, blocks::q4_0),
        Format::Q4_1 => each_weighted(src, weights, out, blocks::q4_1),
        Format::Q5_0 => each_weighted(src, weights, out, blocks::q5_0),
        Format::Q5_1 => each_weighted(src, weights, out, blocks::q5_1),
        Format::Mxfp4 => each_weighted(src, weights, out, |x, w| Ok(blocks::mxfp4(x, w))),
        Format::Q2K => each_weighted(src, weights, out, |x, w| super_blocks::q2_k(x, Some(w))),
        Format::Q3K => each_weighted(src, weights, out, |x, w| super_blocks::q3_k(x, Some(w))),
        Format::Q4K => each_weighted(src, weights, out, |x, w| super_blocks::q4_k(x, Some(w))),
        Format::Q5K => each_weighted(src, weights, out, |x, w| super_blocks::q5_k(x, Some(w))),
        Format::Q6K => each_weighted(src, weights, out, |x, w| super_blocks::q6_k(x, Some(w))),
        Format::Iq4Nl => each_weighted(src, weights, out, |x, w| blocks::iq4_nl(x, Some(w))),
        Format::Iq4Xs => each_weighted(src, weights, out, |x, w| super_blocks::iq4_xs(x, Some(w))),
        _ => encode(format, src, out),
    }
}

/// Whole blocks, room for them, finite values.
fn check(format: Format, src: &[f32], out: &[u8]) -> Result<(), EncodeError> {
    let Some(bytes) = format.row_bytes(src.len()) else {
        return Err(EncodeError::PartialBlock { len: src.len(), block_len: format.block_len() });
    };
    assert_eq!(out.len(), bytes, "encode: {} values of {format} take {bytes} bytes", src.len());
    // By pieces, so that a piece is looked at without branches.
    for (piece, values) in src.chunks(256).enumerate() {
        if !values.iter().fold(true, |all, x| all & x.is_finite()) {
            let at = values.iter().position(|x| !x.is_finite()).expect("one is not");
            return Err(EncodeError::NotFinite { index: piece * 256 + at });
        }
    }
    Ok(())
}

/// The error of block `i`, which holds `x`.
fn out_of_range<const N: usize>(i: usize, x: &[f32; N]) -> EncodeError {
    let largest = x.iter().fold(0.0, |largest, x| x.abs().max(largest));
    let at = x.iter().position(|x| x.abs() == largest).expect("one of them is the largest");
    EncodeError::OutOfRange { index: i * N + at }
}

/// Stores two bytes for each value. `convert` fills a piece; an exponent as that of `infinity` is an
/// overflow.
fn sixteen_bits(
    src: &[f32],
    out: &mut [u8],
    infinity: u16,
    convert: impl Fn(&[f32], &mut [u16]),
) -> Result<(), EncodeError> {
    const PIECE: usize = 64;
    let mut bits = [0; PIECE];
    for (piece, (x, out)) in src.chunks(PIECE).zip(out.chunks_mut(2 * PIECE)).enumerate() {
        let bits = &mut bits[..x.len()];
        convert(x, bits);
        if let Some(at) = bits.iter().position(|bits| bits & infinity == infinity) {
            return Err(EncodeError::OutOfRange { index: piece * PIECE + at });
        }
        for (out, bits) in out.as_chunks_mut().0.iter_mut().zip(bits) {
            *out = bits.to_le_bytes();
        }
    }
    Ok(())
}

/// Runs `block` on each `N` values and stores its `B` bytes.
fn each<const N: usize, const B: usize>(
    src: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; N]) -> Result<[u8; B], OutOfRange>,
) -> Result<(), EncodeError> {
    for (i, (x, b)) in src.as_chunks::<N>().0.iter().zip(out.as_chunks_mut::<B>().0).enumerate() {
        *b = block(x).map_err(|_| out_of_range(i, x))?;
    }
    Ok(())
}

/// As [`each`], with the importance of the columns of each block.
fn each_weighted<const N: usize, const B: usize>(
    src: &[f32],
    importance: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; N], &[f32; N]) -> Result<[u8; B], OutOfRange>,
) -> Result<(), EncodeError> {
    let blocks = src.as_chunks::<N>().0.iter().zip(importance.as_chunks::<N>().0.iter().cycle());
    for (i, ((x, w), b)) in blocks.zip(out.as_chunks_mut::<B>().0).enumerate() {
        *b = block(x, w).map_err(|_| out_of_range(i, x))?;
    }
    Ok(())
}
