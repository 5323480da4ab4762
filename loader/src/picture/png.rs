//! PNG files, row by row, as red, green and blue of 8 bits. It must not know what becomes of an image.

use std::path::Path;

use super::png_interlaced::Bands;
use super::png_stream::StoredRows;
use crate::error::Result;

/// An open image.
pub struct Png {
    stream: StoredRows,
    /// What is left of an interlaced image, in bands of rows.
    bands: Option<Bands>,
    /// The last row, `[width, 3]`.
    row: Vec<u8>,
}

/// Opens a PNG file.
///
/// # Errors
/// Files that cannot be read; other types of files; images that are too large or damaged.
pub fn open(path: &Path) -> Result<Png> {
    let (stream, interlaced) = StoredRows::open(path)?;
    let bands = interlaced.then(|| Bands::of(stream.size()));
    Ok(Png { stream, bands, row: Vec::new() })
}

impl Png {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        self.stream.size()
    }

    /// The next row, `[width, 3]`.
    ///
    /// # Errors
    /// Damaged data, an early end, failed reads.
    pub fn row(&mut self) -> Result<Option<&[u8]>> {
        if let Some(bands) = &mut self.bands {
            return bands.row(&mut self.stream);
        }
        self.row.clear();
        let row = &mut self.row;
        Ok(self.stream.next(|pixel| row.extend(pixel))?.then_some(&self.row))
    }
}
