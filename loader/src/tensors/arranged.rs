//! Matrices that a file holds in another form than products take: transposed, with interleaved rows, with
//! scales in a tensor of their own. They are arranged when they are read, one expert at a time; nothing is
//! written to disk. It must not know names.
//!
//! All arranged matrices form one file that does not exist (`io::made`). A *unit* of it is what is made of
//! one run of bytes of the source: a matrix, or the gate and the up matrix of an expert. Sources are read in
//! their order, in pieces of bounded size, and each piece is scattered to where it belongs.

use std::io;
use std::ops::Range;

use moelten_quant::Format;

use crate::io::made::{MakeBuffers, Recipe, Sources};
use crate::io::pieces::PAGE;
use crate::tensors::small_floats::{write_blocks, write_eights, write_fours, write_sixteens};
use crate::tensors::turned::{Columns, TILE};

/// Bytes of a source that are read at a time, unless a row is longer.
const READ: usize = 1 << 20;

/// A row of a source with more bytes is read in part where only a part is wanted.
const PART_FROM: usize = 8192;
/// The most columns that are turned at once.
const TURNED: usize = 1024;

/// The type of E4M3 numbers in safetensors files.
pub(super) const EIGHTS: &str = "F8_E4M3";

/// A run of bytes of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SourceRun {
    pub file: usize,
    pub offset: u64,
}

/// Where the weights of output row `j` are: in line `j` of the source, or, of two matrices whose lines
/// alternate, in line `2 j` for the first matrix and in the odd ones for the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lines {
    InOrder,
    Alternating,
}

/// Whether lines of the source are its rows or its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Along {
    Rows,
    Columns,
}

/// How the source stores its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stored {
    /// Floats of this many bytes each, as in the output.
    Floats(usize),
    /// E4M3 numbers and scales for blocks of them.
    Scaled(Grid),
    /// Floats as in the output; each row is a tensor of its own. Number `first` of [`Arranged::runs`] is the
    /// first row's.
    Apart { first: usize },
    /// Pairs of E2M1 numbers, neighbours in one byte, and an E8M0 scale for each 32 of a row.
    Fours { scales: SourceRun },
    /// The same with an E4M3 scale for each 16 of a row, and perhaps one more for all of them.
    Sixteens { scales: SourceRun, whole: Option<Whole> },
    /// Blocks of NVFP4, and one more scale for all of them.
    Blocks { whole: Whole },
}

/// An f32 number by which a whole matrix is multiplied, or divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole {
    pub place: SourceRun,
    pub divides: bool,
}

/// Scales, `[rows, cols]` of them, each for `block_rows x block_cols` numbers of the source.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Grid {
    pub place: SourceRun,
    pub scale: ScaleType,
    pub rows: usize,
    pub cols: usize,
    pub block_rows: usize,
    pub block_cols: usize,
    /// Row of the tensor that the source's first row is.
    pub first_row: usize,
}

/// How the numbers of a [`Grid`] are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScaleType {
    /// A format of floats.
    Float(Format),
    /// A power of two: E8M0 (OCP Microscaling Formats 1.0).
    Power,
}

impl ScaleType {
    pub fn bytes(self) -> usize {
        match self {
            Self::Float(format) => format.block_bytes(),
            Self::Power => 1,
        }
    }

    /// Appends the numbers in `bytes` to `out`.
    fn read(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::Float(format) => {
                out.resize(bytes.len() / format.block_bytes(), 0.0);
                moelten_quant::decode(format, bytes, out);
            }
            Self::Power => out.extend(bytes.iter().map(|&e| match e {
                // The smallest is subnormal.
                0 => f32::from_bits(0x0040_0000),
                255 => f32::NAN,
                e => f32::from_bits(u32::from(e) << 23),
            })),
        }
    }
}

/// One unit: rows `[rows, cols]` of one format, made of one run of bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Unit {
    pub from: SourceRun,
    pub stored: Stored,
    pub along: Along,
    pub lines: Lines,
    pub rows: usize,
    pub cols: usize,
    pub format: Format,
}

impl Unit {
    fn row_bytes(&self) -> usize {
        self.format.row_bytes(self.cols).unwrap_or(0)
    }

    fn bytes(&self) -> u64 {
        (self.rows as u64).saturating_mul(self.row_bytes() as u64)
    }

    /// The output row that is made of a line.
    fn row_of(&self, line: usize) -> usize {
        match self.lines {
            Lines::InOrder => line,
            Lines::Alternating => line / 2 + line % 2 * (self.rows / 2),
        }
    }

    /// A run of lines that holds those of some output rows.
    fn lines_of(&self, rows: &Range<usize>) -> Range<usize> {
        let half = self.rows / 2;
        match self.lines {
            Lines::InOrder => rows.clone(),
            Lines::Alternating if rows.end <= half => 2 * rows.start..2 * rows.end,
            Lines::Alternating if rows.start >= half => 2 * (rows.start - half)..2 * (rows.end - half),
            Lines::Alternating => 0..self.rows,
        }
    }

    /// Bytes of a line that is a row.
    fn line_bytes(&self) -> usize {
        match self.stored {
            Stored::Blocks { .. } => Format::Nvfp4.row_bytes(self.cols).unwrap_or(0),
            _ => self.cols * self.half_bytes() / 2,
        }
    }

    /// Where scales of single bytes lie that belong to rows, and how many numbers share one.
    fn scales_of_rows(&self) -> Option<(SourceRun, usize)> {
        match self.stored {
            Stored::Fours { scales } => Some((scales, 32)),
            Stored::Sixteens { scales, .. } => Some((scales, 16)),
            Stored::Floats(_) | Stored::Scaled(_) | Stored::Apart { .. } | Stored::Blocks { .. } => None,
        }
    }

    /// Bytes of a number of the source, in halves.
    fn half_bytes(&self) -> usize {
        match self.stored {
            Stored::Floats(bytes) => 2 * bytes,
            Stored::Apart { .. } => 2 * self.format.block_bytes(),
            Stored::Scaled(_) => 2,
            // Blocks never lie as columns.
            Stored::Fours { .. } | Stored::Sixteens { .. } | Stored::Blocks { .. } => 1,
        }
    }
}

/// All units, in the order of their bytes. Each begins at a page, because parts of a slot do.
#[derive(Debug, Default)]
pub(super) struct Arranged {
    units: Vec<(u64, Unit)>,
    end: u64,
    /// Where rows are that are tensors of their own.
    runs: Vec<SourceRun>,
}

impl Arranged {
    /// Adds a unit and returns where it begins.
    pub fn push(&mut self, unit: Unit) -> u64 {
        let start = self.end;
        self.units.push((start, unit));
        self.end = (start.saturating_add(unit.bytes())).next_multiple_of(PAGE as u64);
        start
    }

    /// Notes where rows are that are tensors of their own, and returns how they are stored.
    pub fn apart(&mut self, rows: impl IntoIterator<Item = SourceRun>) -> Stored {
        let first = self.runs.len();
        self.runs.extend(rows);
        Stored::Apart { first }
    }

    pub fn is_empty(&self) -> bool {
        self.units.is_empty()
    }

    /// The unit that holds a byte, and where it begins.
    fn find(&self, offset: u64) -> Option<&(u64, Unit)> {
        let after = self.units.partition_point(|(start, _)| *start <= offset);
        let found = self.units.get(after.checked_sub(1)?)?;
        (offset < found.0 + found.1.bytes()).then_some(found)
    }
}

impl Recipe for Arranged {
    fn size(&self) -> u64 {
        self.end
    }

    fn unit(&self, offset: u64) -> Option<(u64, u64)> {
        self.find(offset).map(|(start, unit)| (*start, unit.bytes()))
    }

    fn make(
        &self,
        files: &dyn Sources,
        buffers: &mut MakeBuffers,
        offset: u64,
        out: &mut [u8],
    ) -> io::Result<()> {
        let (start, unit) = self.find(offset).ok_or(io::ErrorKind::InvalidInput)?;
        let row = unit.row_bytes().max(1);
        let skipped = usize::try_from(offset - start).map_err(io::Error::other)?;
        let rows = skipped / row..(skipped + out.len()).div_ceil(row);
        if rows.end > unit.rows {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !skipped.is_multiple_of(row) || !out.len().is_multiple_of(row) {
            // Biases of experts are parts of rows, which are made whole.
            let mut whole = vec![0; rows.len() * row];
            self.make(files, buffers, start + (rows.start * row) as u64, &mut whole)?;
            let from = skipped - rows.start * row;
            out.copy_from_slice(&whole[from..][..out.len()]);
            return Ok(());
        }
        if let Stored::Apart { first } = unit.stored {
            for (row, to) in rows.zip(out.chunks_exact_mut(row)) {
                let run = self.runs.get(first + row).ok_or(io::ErrorKind::InvalidInput)?;
                to.copy_from_slice(buffers.lines.read(files.file(run.file)?, run.offset, to.len())?);
            }
            return Ok(());
        }
        match unit.along {
            Along::Rows => along_rows(unit, files, buffers, rows, out),
            Along::Columns => along_columns(unit, files, buffers, rows, out),
        }
    }
}

/// Lines are rows: each becomes a row.
fn along_rows(
    unit: &Unit,
    files: &dyn Sources,
    buffers: &mut MakeBuffers,
    rows: Range<usize>,
    out: &mut [u8],
) -> io::Result<()> {
    let (line_bytes, row_bytes) = (unit.line_bytes(), unit.row_bytes());
    scales(unit, files, buffers)?;
    let whole = whole_scale(unit, files, buffers)?;
    let MakeBuffers { lines, beside, numbers } = buffers;
    let (wanted, step) = (unit.lines_of(&rows), (READ / line_bytes.max(1)).max(1));
    let of_row = unit.scales_of_rows().map_or(0, |(_, share)| unit.cols / share);
    for first in wanted.clone().step_by(step) {
        let some = first..wanted.end.min(first + step);
        let beside = match unit.scales_of_rows() {
            Some((SourceRun { file, offset }, _)) => {
                beside.read(files.file(file)?, offset + (some.start * of_row) as u64, some.len() * of_row)?
            }
            None => &[],
        };
        let at = unit.from.offset + (some.start * line_bytes) as u64;
        let lines = lines.read(files.file(unit.from.file)?, at, some.len() * line_bytes)?;
        for (i, line) in some.enumerate() {
            let row = unit.row_of(line);
            if !rows.contains(&row) {
                continue;
            }
            let to = &mut out[(row - rows.start) * row_bytes..][..row_bytes];
            let bytes = &lines[i * line_bytes..][..line_bytes];
            let scales = &beside[i * of_row..][..of_row];
            match unit.stored {
                Stored::Floats(_) => to.copy_from_slice(bytes),
                Stored::Apart { .. } => return Err(io::ErrorKind::Unsupported.into()),
                Stored::Fours { .. } => write_fours(bytes, scales, to),
                Stored::Sixteens { .. } => write_sixteens(unit.format, whole, bytes, scales, to),
                Stored::Blocks { .. } => write_blocks(whole, bytes, to),
                Stored::Scaled(grid) => {
                    write_eights(unit.format, bytes, |column| grid.at(numbers, line, column), to);
                }
            }
        }
    }
    Ok(())
}

/// Lines are columns: rows of the source become columns.
fn along_columns(
    unit: &Unit,
    files: &dyn Sources,
    buffers: &mut MakeBuffers,
    rows: Range<usize>,
    out: &mut [u8],
) -> io::Result<()> {
    let (row_bytes, size) = (unit.row_bytes(), unit.half_bytes() / 2);
    scales(unit, files, buffers)?;
    let MakeBuffers { lines: buffer, numbers, .. } = buffers;
    let from = files.file(unit.from.file)?;
    let wanted = unit.lines_of(&rows);
    // Long rows are read in part.
    let whole = rows.len() == unit.rows || unit.rows * size <= PART_FROM;
    let (first_line, lines) = if whole { (0, unit.rows) } else { (wanted.start, wanted.len()) };
    // Blocks of 32 columns are written at once.
    let step = (READ / (unit.rows * size).max(1)).next_multiple_of(32).clamp(32, TURNED);
    let (mut gathered, mut turned) = (Vec::new(), Vec::new());
    for first in (0..unit.cols).step_by(step) {
        let some = first..unit.cols.min(first + step);
        let place =
            |column: usize, line: usize| unit.from.offset + ((column * unit.rows + line) * size) as u64;
        let bytes: &[u8] = if whole {
            buffer.read(from, place(first, 0), some.len() * unit.rows * size)?
        } else {
            gathered.clear();
            for column in some.clone() {
                let part = buffer.read(from, place(column, wanted.start), wanted.len() * size)?;
                gathered.extend_from_slice(part);
            }
            &gathered
        };
        let columns = Columns { bytes, of_column: lines * size, count: some.len() };
        for tile in wanted.clone().step_by(TILE) {
            let tile = tile..wanted.end.min(tile + TILE);
            columns.lines(tile.start - first_line..tile.end - first_line, size, &mut turned);
            for (line, numbers_of) in tile.zip(turned.chunks_exact(some.len() * size)) {
                let row = unit.row_of(line);
                if !rows.contains(&row) {
                    continue;
                }
                let to = &mut out[(row - rows.start) * row_bytes..][..row_bytes];
                match unit.stored {
                    Stored::Floats(_) => to[some.start * size..some.end * size].copy_from_slice(numbers_of),
                    Stored::Scaled(grid) => {
                        let (start, end) =
                            (bytes_of(unit.format, some.start), bytes_of(unit.format, some.end));
                        let scale = |column| grid.at(numbers, some.start + column, line);
                        write_eights(unit.format, numbers_of, scale, &mut to[start..end]);
                    }
                    Stored::Fours { .. }
                    | Stored::Sixteens { .. }
                    | Stored::Blocks { .. }
                    | Stored::Apart { .. } => {
                        return Err(io::ErrorKind::Unsupported.into());
                    }
                }
            }
        }
    }
    Ok(())
}

fn bytes_of(format: Format, columns: usize) -> usize {
    columns / format.block_len() * format.block_bytes()
}

/// Reads the scales of a unit as numbers.
fn scales(unit: &Unit, files: &dyn Sources, buffers: &mut MakeBuffers) -> io::Result<()> {
    let Stored::Scaled(Grid { place, scale, rows, cols, .. }) = unit.stored else { return Ok(()) };
    buffers.numbers.clear();
    let bytes = buffers.beside.read(files.file(place.file)?, place.offset, rows * cols * scale.bytes())?;
    scale.read(bytes, &mut buffers.numbers);
    Ok(())
}

/// The scale of a whole unit; 1 where there is none.
fn whole_scale(unit: &Unit, files: &dyn Sources, buffers: &mut MakeBuffers) -> io::Result<f32> {
    let (Stored::Sixteens { whole: Some(whole), .. } | Stored::Blocks { whole }) = unit.stored else {
        return Ok(1.0);
    };
    let Whole { place, divides } = whole;
    let bytes = buffers.beside.read(files.file(place.file)?, place.offset, 4)?;
    let scale = f32::from_le_bytes(bytes.try_into().map_err(io::Error::other)?);
    Ok(if divides { scale.recip() } else { scale })
}

impl Grid {
    /// The scale of a number of the source.
    fn at(&self, numbers: &[f32], row: usize, col: usize) -> f32 {
        numbers[(self.first_row + row) / self.block_rows * self.cols + col / self.block_cols]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::read_at::ReadAt;
    use crate::tensors::small_floats::EIGHT_BITS;

    /// A file in memory whose reads begin at multiples of a power of two.
    struct Bytes(Vec<u8>, usize);

    impl ReadAt for Bytes {
        fn align(&self) -> usize {
            self.1
        }

        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            assert!(offset.is_multiple_of(self.1 as u64));
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let len = rest.len().min(buffer.len());
            buffer[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        }
    }

    impl Sources for [Bytes; 2] {
        fn file(&self, index: usize) -> io::Result<&dyn ReadAt> {
            self.get(index).map(|file| file as &dyn ReadAt).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
    }

    /// The rows of a unit, read at once, which must be those read one by one.
    fn made(unit: Unit, weights: Vec<u8>, beside: Vec<u8>) -> Vec<Vec<u8>> {
        let mut arranged = Arranged::default();
        arranged.push(Unit { rows: 1, cols: 1, format: Format::F32, along: Along::Rows, ..unit });
        let start = arranged.push(unit);
        assert_eq!(arranged.unit(start + 3), Some((start, unit.bytes())));
        let mut whole = vec![0; usize::try_from(unit.bytes()).unwrap()];
        for align in [1, 4096] {
            let files = [Bytes(weights.clone(), align), Bytes(beside.clone(), align)];
            let mut buffers = MakeBuffers::default();
            arranged.make(&files, &mut buffers, start, &mut whole).unwrap();
            let row_bytes = unit.row_bytes();
            for (first, count) in [(0, 1), (1, 2), (unit.rows - 1, 1), (0, unit.rows / 2), (unit.rows / 2, 1)]
            {
                let mut part = vec![0; count * row_bytes];
                let at = start + (first * row_bytes) as u64;
                arranged.make(&files, &mut buffers, at, &mut part).unwrap();
                assert!(part == whole[first * row_bytes..][..part.len()], "{first}, {count}, {align}");
            }
            let mut inside = [0; 7];
            arranged.make(&files, &mut buffers, start + 1, &mut inside).unwrap();
            assert!(inside == whole[1..8], "a part of a row");
            let mut long = vec![0; whole.len() + row_bytes];
            assert!(arranged.make(&files, &mut buffers, start, &mut long).is_err());
        }
        whole.chunks(unit.row_bytes()).map(<[u8]>::to_vec).collect()
    }

    fn unit(stored: Stored, along: Along, lines: Lines, [rows, cols]: [usize; 2], format: Format) -> Unit {
        Unit { from: SourceRun { file: 0, offset: 10 }, stored, along, lines, rows, cols, format }
    }

    /// `[rows, cols]` numbers of two bytes that say where they are in the source, behind ten other bytes.
    fn places(rows: usize, cols: usize) -> Vec<u8> {
        let numbers = (0..rows * cols).flat_map(|i| ((i / cols * 256 + i % cols) as u16).to_le_bytes());
        [0; 10].into_iter().chain(numbers).collect()
    }

    #[test]
    fn transposed_matrices_become_rows() {
        // Long enough for rows to be read in part.
        for (rows, cols) in [(6, 40), (5000, 33)] {
            let stored = Stored::Floats(2);
            let shape = [rows, cols];
            let source: Vec<u8> = {
                let numbers = (0..rows * cols).flat_map(|i| ((i * 7) as u16).to_le_bytes());
                [0; 10].into_iter().chain(numbers).collect()
            };
            let got = made(unit(stored, Along::Columns, Lines::InOrder, shape, Format::BF16), source, vec![]);
            for (row, got) in got.iter().enumerate() {
                let expected: Vec<u8> =
                    (0..cols).flat_map(|col| (((col * rows + row) * 7) as u16).to_le_bytes()).collect();
                assert!(*got == expected, "row {row} of {rows}");
            }
        }
    }

    #[test]
    fn alternating_rows_are_told_apart() {
        let stored = Stored::Floats(2);
        for along in [Along::Rows, Along::Columns] {
            let source = if along == Along::Rows { places(8, 5) } else { places(5, 8) };
            let got = made(unit(stored, along, Lines::Alternating, [8, 5], Format::F16), source, vec![]);
            for (row, got) in got.iter().enumerate() {
                let line = if row < 4 { 2 * row } else { 2 * (row - 4) + 1 };
                let place = |col| if along == Along::Rows { line * 256 + col } else { col * 256 + line };
                let expected: Vec<u8> = (0..5).flat_map(|col| (place(col) as u16).to_le_bytes()).collect();
                assert_eq!(*got, expected, "row {row} {along:?}");
            }
        }
    }

    /// Scales of blocks of 32 x 64, in powers of two: by rows, and transposed.
    #[test]
    fn eight_bit_floats_get_the_scale_of_their_block() {
        let (rows, cols) = (70, 128);
        let powers: Vec<u8> = (0..6).map(|i| 125 + i).collect();
        let place = SourceRun { file: 1, offset: 3 };
        let beside: Vec<u8> = [0; 3].into_iter().chain(powers).collect();
        let grid = Grid {
            place,
            scale: ScaleType::Power,
            rows: 3,
            cols: 2,
            block_rows: 32,
            block_cols: 64,
            first_row: 0,
        };
        let source: Vec<u8> = [0; 10].into_iter().chain((0..rows * cols).map(|i| (i % 120) as u8)).collect();
        let value = |row: usize, col: usize| {
            let scale = 2f32.powi((row / 32 * 2 + col / 64) as i32 - 2);
            EIGHT_BITS[(row * cols + col) % 120] * scale
        };
        let read = |format, row: &[u8], count: usize| {
            let mut values = vec![0.0; count];
            moelten_quant::decode(format, row, &mut values);
            values
        };
        let stored = Stored::Scaled(grid);
        for format in [Format::F8, Format::F32] {
            let of_rows = unit(stored, Along::Rows, Lines::InOrder, [rows, cols], format);
            for (row, got) in made(of_rows, source.clone(), beside.clone()).iter().enumerate() {
                let expected: Vec<f32> = (0..cols).map(|col| value(row, col)).collect();
                assert_eq!(read(format, got, cols), expected, "row {row}");
            }
        }
        // 70 rows of the source as columns do not fill blocks.
        let of_columns = unit(stored, Along::Columns, Lines::InOrder, [cols, rows], Format::F32);
        for (row, got) in made(of_columns, source, beside).iter().enumerate() {
            let expected: Vec<f32> = (0..rows).map(|col| value(col, row)).collect();
            assert_eq!(read(Format::F32, got, rows), expected, "column {row}");
        }
    }

    /// Neighbours of a byte go to the two halves of a block: number `i` of the source is number `i` of the
    /// block.
    #[test]
    fn pairs_of_neighbours_become_blocks() {
        let (rows, cols) = (4, 64);
        let code = |row: usize, col: usize| (row * 5 + col * 3) % 16;
        let source = (0..rows * cols / 2).map(|i| {
            let (row, col) = (i / (cols / 2), i % (cols / 2) * 2);
            (code(row, col) | code(row, col + 1) << 4) as u8
        });
        let source: Vec<u8> = [0; 10].into_iter().chain(source).collect();
        let beside: Vec<u8> = (0..8).map(|i| 120 + i).collect();
        let stored = Stored::Fours { scales: SourceRun { file: 1, offset: 0 } };
        let fours = unit(stored, Along::Rows, Lines::InOrder, [rows, cols], Format::Mxfp4);
        let e2m1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        for (row, got) in made(fours, source, beside).iter().enumerate() {
            let mut values = vec![0.0; cols];
            moelten_quant::decode(Format::Mxfp4, got, &mut values);
            for (col, value) in values.into_iter().enumerate() {
                let (code, power) = (code(row, col), (row * 2 + col / 32) as i32 - 7);
                let sign = if code < 8 { 1.0 } else { -1.0 };
                assert_eq!(value, sign * e2m1[code % 8] * 2f32.powi(power), "{row}, {col}");
            }
        }
    }
}
