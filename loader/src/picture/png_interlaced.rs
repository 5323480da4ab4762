//! Rows of interlaced PNG images in the order of the image. Their pixels come in seven passes (Adam7), the
//! last of which has every second row; so the file is read once for each band of rows, and memory does not
//! follow from the image. It must not know how passes are stored.

use super::png_stream::StoredRows;
use crate::error::{Fault, LoadError, Result};

/// Bytes of a band.
pub const BAND_BYTES: usize = 8 << 20;
/// The first column and row of each pass, and the distances to the next ones.
const PASSES: [[usize; 4]; 7] =
    [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

/// A band of rows, and which rows come after it.
pub(super) struct Bands {
    width: usize,
    height: usize,
    /// The first row of the band.
    first: usize,
    /// The row that comes next.
    next: usize,
    /// `[rows, width, 3]`.
    pixels: Vec<u8>,
    /// Whether a band was read before.
    begun: bool,
}

impl Bands {
    pub fn of((width, height): (usize, usize)) -> Self {
        Self { width, height, first: 0, next: 0, pixels: Vec::new(), begun: false }
    }

    /// The next row, `[width, 3]`.
    ///
    /// # Errors
    /// As those of the stream.
    pub fn row(&mut self, stream: &mut StoredRows) -> Result<Option<&[u8]>> {
        if self.next >= self.height {
            return Ok(None);
        }
        let length = 3 * self.width;
        if self.next >= self.first + self.pixels.len() / length {
            self.read(stream)?;
        }
        let at = (self.next - self.first) * length;
        self.next += 1;
        Ok(self.pixels.get(at..at + length))
    }

    /// Reads the band that begins with the next row.
    fn read(&mut self, stream: &mut StoredRows) -> Result<()> {
        if self.begun {
            stream.rewind()?;
        }
        (self.begun, self.first) = (true, self.next);
        let rows = (BAND_BYTES / (3 * self.width)).clamp(1, self.height - self.first);
        self.pixels.clear();
        self.pixels.resize(rows * 3 * self.width, 0);
        for [left, top, right, down] in PASSES {
            // A pass of a narrow image may have no pixels, and then no rows.
            for y in (top..self.height).step_by(down).filter(|_| left < self.width) {
                let own = y.checked_sub(self.first).filter(|&row| row < rows);
                let row = own.map(|row| &mut self.pixels[row * 3 * self.width..(row + 1) * 3 * self.width]);
                let places = row.into_iter().flat_map(|row| row.chunks_exact_mut(3));
                let mut places = places.skip(left).step_by(right);
                let there = stream.next(|pixel| {
                    if let Some(place) = places.next() {
                        place.copy_from_slice(&pixel);
                    }
                })?;
                if !there {
                    let message = "the file ends early".to_owned();
                    let fault = Fault::Undecodable { message };
                    return Err(LoadError::malformed(&stream.path, "the image", fault));
                }
            }
        }
        Ok(())
    }
}
