//! PNG files, row by row, as red, green and blue of 8 bits. Transparency is left out, as Pillow's
//! conversion to RGB does. It must not know what becomes of an image.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use png::{ColorType, Decoder, DecodingError, Limits, Reader, Transformations};

use crate::error::{Fault, LoadError, Result};
use crate::io::regular::RegularFile;

/// Bytes that the decoder may take.
pub const MOST_BYTES: usize = 8 << 20;
/// Widest and highest image, in pixels.
const MOST_SIDE: u32 = 1 << 16;
/// Most pixels of an image: a small file can stand for very many.
const MOST_PIXELS: u64 = 1 << 28;

/// An open image.
pub struct Png {
    path: PathBuf,
    reader: Reader<BufReader<File>>,
    /// Numbers of a pixel.
    channels: usize,
    /// The last row, `[width, 3]`.
    row: Vec<u8>,
}

/// Opens a PNG file.
///
/// # Errors
/// Files that cannot be read; other types of files; images that are interlaced, too large or damaged.
pub fn open(path: &Path) -> Result<Png> {
    let file = RegularFile::open(path)?;
    if let Some(found) = other_type(&file.head(8)) {
        return Err(unsupported(path, found, "save it as PNG"));
    }
    let mut decoder = Decoder::new_with_limits(BufReader::new(file.file), Limits { bytes: MOST_BYTES });
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(|error| fault(path, &error))?;
    let (width, height, interlaced) = (header.width, header.height, header.interlaced);
    for (side, length) in [("width", width), ("height", height)] {
        let (low, high) = (1, u64::from(MOST_SIDE));
        if !(1..=MOST_SIDE).contains(&length) {
            let found = length.to_string();
            return Err(LoadError::malformed(path, side, Fault::OutOfRange { found, low, high }));
        }
    }
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MOST_PIXELS {
        let fault = Fault::OutOfRange { found: pixels.to_string(), low: 1, high: MOST_PIXELS };
        return Err(LoadError::malformed(path, "number of pixels", fault));
    }
    if interlaced {
        return Err(unsupported(path, "an interlaced image", "save it without interlacing"));
    }
    let reader = decoder.read_info().map_err(|error| fault(path, &error))?;
    let channels = match reader.output_color_type().0 {
        ColorType::Grayscale => 1,
        ColorType::GrayscaleAlpha => 2,
        ColorType::Rgba => 4,
        ColorType::Rgb | ColorType::Indexed => 3,
    };
    Ok(Png { path: path.to_owned(), reader, channels, row: Vec::new() })
}

impl Png {
    /// Width and height in pixels.
    pub fn size(&self) -> (usize, usize) {
        let (width, height) = self.reader.info().size();
        (width as usize, height as usize)
    }

    /// The next row, `[width, 3]`.
    ///
    /// # Errors
    /// Damaged data, an early end, failed reads.
    pub fn row(&mut self) -> Result<Option<&[u8]>> {
        let row = match self.reader.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(None),
            Err(error) => return Err(fault(&self.path, &error)),
        };
        self.row.clear();
        for pixel in row.data().chunks_exact(self.channels) {
            match *pixel {
                [red, green, blue, ..] => self.row.extend([red, green, blue]),
                [gray, ..] => self.row.extend([gray; 3]),
                [] => {}
            }
        }
        Ok(Some(&self.row))
    }
}

fn unsupported(path: &Path, feature: &str, hint: &str) -> LoadError {
    LoadError::Unsupported { path: path.to_owned(), feature: feature.to_owned(), hint: hint.to_owned() }
}

/// The error of a decoder.
fn fault(path: &Path, error: &DecodingError) -> LoadError {
    let message = match error {
        DecodingError::IoError(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            let error = std::io::Error::new(error.kind(), error.to_string());
            return LoadError::io(path, "read the image", error);
        }
        DecodingError::IoError(_) => "the file ends early".to_owned(),
        other => other.to_string(),
    };
    LoadError::malformed(path, "the image", Fault::Undecodable { message })
}

/// The type of an image file that is not read, by its first bytes.
fn other_type(head: &[u8]) -> Option<&'static str> {
    const TYPES: [(&[u8], &str); 5] = [
        (b"\xFF\xD8\xFF", "JPEG images"),
        (b"GIF8", "GIF images"),
        (b"RIFF", "WebP images"),
        (b"BM", "BMP images"),
        (b"II*\0", "TIFF images"),
    ];
    TYPES.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}
