//! The rows of a PNG file in its own order, as red, green and blue of 8 bits. Transparency is left out, as in
//! the conversion to RGB of Pillow. It must not know in which order rows are wanted.

use std::fs::File;
use std::io::{BufReader, Seek};
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

/// The rows of a file in its own order: those of the image, or of the seven passes of an interlaced one.
pub(super) struct StoredRows {
    pub path: PathBuf,
    reader: Reader<BufReader<File>>,
    /// Numbers of a pixel.
    channels: usize,
}

impl StoredRows {
    /// Opens a file; also whether it is interlaced.
    ///
    /// # Errors
    /// Files that cannot be read; other types of files; images that are too large or damaged.
    pub fn open(path: &Path) -> Result<(Self, bool)> {
        let mut file = RegularFile::open(path)?;
        if let Some(found) = other_type(&file.head(8)) {
            return Err(unsupported(path, found));
        }
        // On Windows the look at its head has moved the position.
        file.file.rewind().map_err(|source| LoadError::io(path, "read the file", source))?;
        let mut decoder = Decoder::new_with_limits(BufReader::new(file.file), Limits { bytes: MOST_BYTES });
        decoder.set_transformations(Transformations::normalize_to_color8());
        decoder.set_ignore_text_chunk(true);
        decoder.set_ignore_iccp_chunk(true);
        // Changed bytes would all end at a checksum.
        decoder.ignore_checksums(cfg!(fuzzing));
        let header = decoder.read_header_info().map_err(|error| fault(path, &error))?;
        let (width, height, interlaced) = (header.width, header.height, header.interlaced);
        for (side, length) in [("width", width), ("height", height)] {
            let (low, high) = (1, u64::from(MOST_SIDE));
            if !(1..=MOST_SIDE).contains(&length) {
                let found = length.to_string();
                return Err(LoadError::malformed(path, side, Fault::OutOfRange { found, low, high }));
            }
        }
        let (pixels, high) = (u64::from(width) * u64::from(height), most_pixels(interlaced));
        if pixels > high {
            let fault = Fault::OutOfRange { found: pixels.to_string(), low: 1, high };
            let field = if interlaced { "number of pixels (interlaced)" } else { "number of pixels" };
            return Err(LoadError::malformed(path, field, fault));
        }
        let reader = decoder.read_info().map_err(|error| fault(path, &error))?;
        // The decoder counts on whole colours.
        let palette = reader.info().palette.as_ref().map_or(0, |palette| palette.len());
        if !palette.is_multiple_of(3) || palette > 3 * 256 {
            let message = format!("a palette of {palette} bytes: up to 256 colours have 3 each");
            return Err(LoadError::malformed(path, "the image", Fault::Undecodable { message }));
        }
        let channels = match reader.output_color_type().0 {
            ColorType::Grayscale => 1,
            ColorType::GrayscaleAlpha => 2,
            ColorType::Rgba => 4,
            ColorType::Rgb | ColorType::Indexed => 3,
        };
        Ok((Self { path: path.to_owned(), reader, channels }, interlaced))
    }

    pub fn size(&self) -> (usize, usize) {
        let (width, height) = self.reader.info().size();
        (width as usize, height as usize)
    }

    /// Begins again.
    pub fn rewind(&mut self) -> Result<()> {
        let (size, channels) = (self.size(), self.channels);
        (*self, _) = Self::open(&self.path)?;
        if (self.size(), self.channels) == (size, channels) {
            return Ok(());
        }
        let message = "the file was changed while it was read".to_owned();
        Err(LoadError::malformed(&self.path, "the image", Fault::Undecodable { message }))
    }

    /// Gives the pixels of the next row to `take`; returns whether there was one.
    pub fn next(&mut self, mut take: impl FnMut([u8; 3])) -> Result<bool> {
        let row = match self.reader.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(false),
            Err(error) => return Err(fault(&self.path, &error)),
        };
        for pixel in row.data().chunks_exact(self.channels) {
            match *pixel {
                [red, green, blue, ..] => take([red, green, blue]),
                [gray, ..] => take([gray; 3]),
                [] => {}
            }
        }
        Ok(true)
    }
}

/// Most pixels of an image. Those of an interlaced one are read again for every band.
fn most_pixels(interlaced: bool) -> u64 {
    if interlaced { MOST_PIXELS / 4 } else { MOST_PIXELS }
}

/// The error for a file of another type, with what makes a PNG file of it.
fn unsupported(path: &Path, feature: &str) -> LoadError {
    let hint = "save it as PNG, for example with `magick FILE FILE.png` or `ffmpeg -i FILE FILE.png`";
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
    const TYPES: [(&[u8], &str); 6] = [
        (b"\xFF\xD8\xFF", "JPEG images"),
        (b"GIF8", "GIF images"),
        (b"RIFF", "WebP images"),
        (b"BM", "BMP images"),
        (b"II*\0", "TIFF images"),
        (b"MM\0*", "TIFF images"),
    ];
    TYPES.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}
