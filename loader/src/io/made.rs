//! Bytes that are in no file as they are needed, and are made from files when they are read: the reading
//! side. It must not know how they are made, which a [`Recipe`] does.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use super::pieces::{PAGE, Piece};
use super::read_at::{ReadAt, read_fully};

/// How bytes are made. They come in units, which are whole matrices.
pub(crate) trait Recipe: std::fmt::Debug + Send + Sync {
    /// Length of all units.
    fn size(&self) -> u64;

    /// Start and length of the unit that holds the byte at `offset`.
    fn unit(&self, offset: u64) -> Option<(u64, u64)>;

    /// Makes the bytes at `offset`, which lie in one unit, from `files`. Whole rows cost least.
    ///
    /// # Errors
    /// Those of reading; [`io::ErrorKind::InvalidInput`] for bytes that are not of one unit.
    fn make(
        &self,
        files: &dyn Sources,
        buffers: &mut MakeBuffers,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<()>;
}

/// The files that a recipe reads.
pub(crate) trait Sources {
    /// The file of an index.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no such file.
    fn file(&self, index: usize) -> io::Result<&dyn ReadAt>;
}

impl Sources for Vec<Box<dyn ReadAt>> {
    fn file(&self, index: usize) -> io::Result<&dyn ReadAt> {
        self.get(index).map(|file| &**file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Memory that sources are read to, kept from read to read.
#[derive(Debug, Default)]
pub(crate) struct MakeBuffers {
    /// For weights.
    pub lines: Buffer,
    /// For what lies beside them.
    pub beside: Buffer,
    /// Scales as numbers.
    pub numbers: Vec<f32>,
}

/// Memory for direct reads, as large as the longest so far.
#[derive(Debug, Default)]
pub(crate) struct Buffer(Piece);

impl Buffer {
    /// The `len` bytes at `offset` of a file.
    ///
    /// # Errors
    /// Those of reading; no memory is left.
    pub fn read(&mut self, from: &dyn ReadAt, offset: u64, len: usize) -> io::Result<&[u8]> {
        let lead = usize::try_from(offset % from.align() as u64).map_err(io::Error::other)?;
        let need = lead.checked_add(len).ok_or(io::ErrorKind::OutOfMemory)?;
        if self.0.len() < need {
            self.0 = Piece::default();
            let pages = need.checked_next_multiple_of(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
            self.0 = Piece::reserve([pages].into_iter())?.pop().unwrap_or_default();
        }
        let room = need.next_multiple_of(from.align());
        let bytes = self.0.bytes_mut().get_mut(..room).ok_or(io::ErrorKind::InvalidInput)?;
        read_fully(from, bytes, offset - lead as u64, need)?;
        Ok(&self.0.bytes()[lead..need])
    }
}

/// A reader of whole units that are made from `files`.
pub(super) fn reader(recipe: Arc<dyn Recipe>, files: Vec<Box<dyn ReadAt>>) -> Box<dyn ReadAt> {
    Box::new(Reader { recipe, files, spare: Mutex::default() })
}

/// As many buffers exist as there are reads at a time.
struct Reader {
    recipe: Arc<dyn Recipe>,
    files: Vec<Box<dyn ReadAt>>,
    spare: Mutex<Vec<MakeBuffers>>,
}

impl ReadAt for Reader {
    fn align(&self) -> usize {
        1
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let (start, len) = self.recipe.unit(offset).ok_or(io::ErrorKind::UnexpectedEof)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let unit = buffer.get_mut(..len).filter(|_| start == offset).ok_or(io::ErrorKind::InvalidInput)?;
        let mut buffers = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        let made = self.recipe.make(&self.files, &mut buffers, offset, unit);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(buffers);
        made.map(|()| len)
    }
}
