//! Where expert bytes come from when not all of them stay in memory: direct reads into slots, or the mapped
//! file, whose pages are populated and released. It must not know which experts are needed, nor how long they
//! stay.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use moelten_loader::container::packed::verify_record;
use moelten_loader::io::pieces::{PAGE, Piece};
use moelten_loader::io::read_at::{Access, ReadAt, read_fully};
use moelten_loader::spec::MOST_MATRICES;
use moelten_loader::tensors::bank::RecordRef;
use moelten_loader::tensors::store::TensorStore;
use moelten_quant::QMatrix;

/// Most bytes of one read. It is large enough for full speed on any drive, and small enough that several
/// readers share an expert and that a prefetch in progress delays a requested expert only briefly.
pub const PART: usize = 1 << 20;

/// The most parts of an expert whose slot has `slot_bytes` bytes.
pub fn most_parts(slot_bytes: usize) -> usize {
    slot_bytes.div_ceil(PART) + MOST_MATRICES
}

/// A contiguous run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Extent {
    file: usize,
    offset: u64,
    bytes: u64,
}

impl Extent {
    /// Bytes between the start of its first page and its own start.
    fn lead(&self) -> usize {
        (self.offset % PAGE as u64) as usize
    }

    /// Bytes of all pages that it touches.
    fn padded(&self) -> usize {
        (self.lead() + self.bytes as usize).next_multiple_of(PAGE)
    }
}

/// A part of an expert that is being read.
#[derive(Debug)]
pub struct Part {
    /// The cache entry of the expert.
    pub entry: u32,
    file: usize,
    offset: u64,
    /// Bytes to read.
    need: usize,
    /// Where they are read to; empty when the file is mapped.
    pub piece: Piece,
}

impl Part {
    /// Bytes to read. The file may end after them, even if the last page is not full.
    pub fn need(&self) -> usize {
        self.need
    }
}

/// How expert bytes get into memory.
pub enum Source {
    /// Read into slots.
    Slots {
        /// The files, in the order of the tensor store.
        files: Vec<Box<dyn ReadAt>>,
        /// Direct, or buffered if a file system refuses direct reads.
        access: Access,
        /// Whether the checksum of a record has been verified, `[bank][expert]`.
        verified: Vec<Vec<AtomicBool>>,
    },
    /// Used in the mapped file.
    Mapped,
}

impl Source {
    /// Opens the files of `tensors` for direct reads.
    ///
    /// # Errors
    /// The system's error when a file cannot be opened.
    pub fn open(tensors: &TensorStore) -> io::Result<Self> {
        let mut access = Access::Direct;
        let mut files: Vec<Box<dyn ReadAt>> = Vec::new();
        for file in tensors.readable_files() {
            let (file, how) = file.reader()?;
            if how == Access::Buffered {
                access = Access::Buffered;
            }
            files.push(file);
        }
        Ok(Self::slots(tensors, files, access))
    }

    /// A source that reads `files` in place of the files of `tensors`.
    pub fn slots(tensors: &TensorStore, files: Vec<Box<dyn ReadAt>>, access: Access) -> Self {
        let verified =
            tensors.banks().iter().map(|bank| bank.iter().map(|_| AtomicBool::new(false)).collect());
        Self::Slots { files, access, verified: verified.collect() }
    }

    /// Bytes of a slot for any expert of `bank`.
    pub fn slot_bytes(tensors: &TensorStore, bank: usize) -> usize {
        let expert = |id| extents(tensors, bank, id).iter().flatten().map(Extent::padded).sum();
        (0..tensors.bank(bank).experts()).map(expert).max().unwrap_or(0)
    }

    /// Cuts the memory of `slot` into the parts of an expert and passes each to `part`. Returns the memory
    /// that no part needs.
    pub fn parts(
        &self,
        tensors: &TensorStore,
        bank: usize,
        expert: u32,
        entry: u32,
        mut slot: Piece,
        mut part: impl FnMut(Part),
    ) -> Piece {
        for extent in extents(tensors, bank, expert as usize).iter().flatten() {
            let (mut offset, mut need) =
                (extent.offset - extent.lead() as u64, extent.lead() + extent.bytes as usize);
            // What is arranged is arranged at once.
            let most = if tensors.file(extent.file).is_made() { need } else { PART };
            while need > 0 {
                let now = need.min(most);
                let piece = match self {
                    Self::Slots { .. } => {
                        let (piece, rest) = slot.split_at(now.next_multiple_of(PAGE));
                        slot = rest;
                        piece
                    }
                    Self::Mapped => Piece::default(),
                };
                part(Part { entry, file: extent.file, offset, need: now, piece });
                (offset, need) = (offset + now as u64, need - now);
            }
        }
        slot
    }

    /// Reads a part into its memory, or populates its pages where the file is mapped.
    ///
    /// # Errors
    /// The system's error, or [`io::ErrorKind::UnexpectedEof`] when the file has become shorter.
    pub fn read(&self, tensors: &TensorStore, part: &mut Part) -> io::Result<()> {
        match self {
            Self::Slots { files, .. } => {
                let file = files.get(part.file).ok_or(io::ErrorKind::NotFound)?;
                read_fully(&**file, part.piece.bytes_mut(), part.offset, part.need)
            }
            Self::Mapped => tensors.file(part.file).populate(part.offset, part.need as u64),
        }
    }

    /// Verifies the checksum of an expert the first time that it is read, if its file has one.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the bytes are not those that were written.
    pub fn verify(&self, tensors: &TensorStore, bank: usize, expert: u32, slot: &Piece) -> io::Result<()> {
        let Self::Slots { verified, .. } = self else { return Ok(()) };
        let Some(record) = tensors.bank(bank).record(expert as usize) else { return Ok(()) };
        let seen = &verified[bank][expert as usize];
        if seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        // A record starts at the start of a page, so it starts with the slot.
        if !verify_record(&slot.bytes()[..record.bytes as usize], record.checksum) {
            let problem = "checksum mismatch; the file or the disk is damaged";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        seen.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Tells the source that an expert was evicted. The pages of a mapped file go back to the system.
    pub fn evicted(&self, tensors: &TensorStore, bank: usize, expert: u32) {
        if matches!(self, Self::Mapped) {
            for extent in extents(tensors, bank, expert as usize).iter().flatten() {
                tensors.file(extent.file).forget(extent.offset, extent.bytes);
            }
        }
    }

    /// The matrices of a resident expert, in the order of its bank. `slot` holds its bytes unless the file is
    /// mapped.
    pub fn view<'a>(
        &self,
        tensors: &'a TensorStore,
        bank: usize,
        expert: u32,
        slot: &'a Piece,
    ) -> [Option<QMatrix<'a>>; MOST_MATRICES] {
        let matrices = tensors.bank(bank).expert(expert as usize);
        if matches!(self, Self::Mapped) {
            return std::array::from_fn(|i| matrices.get(i).map(|matrix| tensors.view(matrix)));
        }
        let extents = extents(tensors, bank, expert as usize);
        std::array::from_fn(|i| {
            let matrix = matrices.get(i)?;
            let mut base = 0;
            for extent in extents.iter().flatten() {
                let inside = matrix.file == extent.file
                    && (extent.offset..extent.offset + extent.bytes).contains(&matrix.offset);
                if inside {
                    base += extent.lead() + (matrix.offset - extent.offset) as usize;
                    break;
                }
                base += extent.padded();
            }
            let bytes = &slot.bytes()[base..base + matrix.bytes as usize];
            let view = QMatrix::new(matrix.format, matrix.rows, matrix.cols, bytes);
            Some(view.expect("references carry consistent sizes"))
        })
    }
}

/// The runs of bytes to read for an expert: its record, or each of its matrices, or those that are arranged
/// together.
fn extents(tensors: &TensorStore, bank: usize, expert: usize) -> [Option<Extent>; MOST_MATRICES] {
    let bank = tensors.bank(bank);
    let mut extents = [None; MOST_MATRICES];
    if let Some(&RecordRef { file, offset, bytes, .. }) = bank.record(expert) {
        extents[0] = Some(Extent { file, offset, bytes });
        return extents;
    }
    let mut before = None;
    for (extent, m) in extents.iter_mut().zip(bank.expert(expert)) {
        let (offset, bytes) = tensors.file(m.file).unit(m.offset).unwrap_or((m.offset, m.bytes));
        let own = Extent { file: m.file, offset, bytes };
        // Matrices that are arranged together are read once.
        *extent = (before != Some(own)).then_some(own);
        before = Some(own);
    }
    extents
}

/// The tensors, shared by the store and its readers.
pub type Tensors = Arc<TensorStore>;
