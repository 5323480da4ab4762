//! Rows of an embedding in its file, by a file in memory that counts its reads.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moelten_quant::Format;

use super::*;

/// Rows of the matrix.
const ROWS: u32 = 1000;
/// Numbers of a row: 1024 bytes.
const COLS: usize = 256;
/// Where the matrix begins, not at a page.
const START: u64 = 5000;
/// Rows that begin within [`SHARED_READ`] of a row, itself included.
const SHARED: u32 = (SHARED_READ / 1024) as u32 + 1;

/// A file of a header, the matrix, and nothing after it.
struct File {
    bytes: Vec<u8>,
    reads: Arc<AtomicU64>,
    /// The reads of these numbers fail.
    failing: Range<u64>,
}

impl ReadAt for File {
    fn align(&self) -> usize {
        PAGE
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        assert!(offset.is_multiple_of(PAGE as u64) && buffer.len().is_multiple_of(PAGE));
        assert!(buffer.as_ptr().addr().is_multiple_of(PAGE));
        if self.failing.contains(&self.reads.fetch_add(1, Ordering::Relaxed)) {
            buffer.fill(0xa5);
            return Err(io::Error::other("a bad sector"));
        }
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }
}

/// The number in a row and column.
fn number(row: u32, col: usize) -> f32 {
    row as f32 + col as f32 / COLS as f32
}

/// The embedding and the count of its reads.
fn in_file(failing: Range<u64>) -> (InFile, Arc<AtomicU64>) {
    let mut bytes = vec![0xff; START as usize];
    for row in 0..ROWS {
        bytes.extend((0..COLS).flat_map(|col| number(row, col).to_le_bytes()));
    }
    let reads = Arc::new(AtomicU64::new(0));
    let matrix = MatrixRef {
        format: Format::F32,
        rows: ROWS as usize,
        cols: COLS,
        file: 0,
        offset: START,
        bytes: bytes.len() as u64 - START,
    };
    let file = File { bytes, reads: Arc::clone(&reads), failing };
    (InFile::new(Box::new(file), matrix).unwrap(), reads)
}

/// Reads rows that must come out right; returns the number of reads.
fn read(tokens: &[u32]) -> u64 {
    let (embedding, reads) = in_file(0..0);
    let mut out = vec![f32::NAN; tokens.len() * COLS];
    embedding.rows(tokens.iter().copied(), &|| false, &mut out).unwrap();
    check(tokens, &out);
    reads.load(Ordering::Relaxed)
}

fn check(tokens: &[u32], out: &[f32]) {
    for (&token, row) in tokens.iter().zip(out.chunks_exact(COLS)) {
        assert!((0..COLS).all(|col| row[col].to_bits() == number(token, col).to_bits()), "token {token}");
    }
}

#[test]
fn a_row_is_one_read_however_often_it_is_asked_for() {
    assert_eq!(read(&[]), 0);
    assert_eq!(read(&[7]), 1);
    assert_eq!(read(&[7; 500]), 1);
    assert_eq!(read(&[900, 7, 900, 7, 7, 900]), 2);
}

#[test]
fn neighbours_share_a_read() {
    assert_eq!(read(&[10, 11, 12, 9]), 1);
    assert_eq!(read(&[10, 10 + SHARED - 1]), 1);
    assert_eq!(read(&[10, 10 + SHARED]), 2);
    // In any order, from one end to the other.
    let mut all: Vec<u32> = (0..ROWS).map(|row| row * 389 % ROWS).collect();
    assert_eq!(read(&all), u64::from(ROWS.div_ceil(SHARED)));
    all.extend_from_within(..);
    assert_eq!(read(&all), u64::from(ROWS.div_ceil(SHARED)));
}

#[test]
fn the_last_row_ends_where_the_file_ends() {
    assert_eq!(read(&[ROWS - 1]), 1);
    assert_eq!(read(&[ROWS - 2, ROWS - 1, 0]), 2);
}

#[test]
fn one_error_is_read_again_and_two_are_an_error() {
    let tokens = [3, 500, 900];
    for at in 0..3 {
        let (embedding, reads) = in_file(at..at + 1);
        let mut out = vec![0.0; tokens.len() * COLS];
        embedding.rows(tokens.into_iter(), &|| false, &mut out).unwrap();
        check(&tokens, &out);
        assert_eq!(reads.load(Ordering::Relaxed), 4);
        let (embedding, _) = in_file(at..at + 2);
        let error = embedding.rows(tokens.into_iter(), &|| false, &mut out).unwrap_err();
        let EngineError::Embedding { token, source } = error else { panic!("{error}") };
        assert_eq!((token, source.to_string().as_str()), (tokens[at as usize], "a bad sector"));
        // The next prompt works.
        embedding.rows(tokens.into_iter(), &|| false, &mut out).unwrap();
        check(&tokens, &out);
    }
}

#[test]
fn a_prompt_is_stopped_between_two_reads() {
    let tokens = [3, 500, 900];
    let (embedding, reads) = in_file(0..0);
    let (mut out, asked) = (vec![0.0; tokens.len() * COLS], Cell::new(0));
    let stop = || asked.replace(asked.get() + 1) == 2;
    let error = embedding.rows(tokens.into_iter(), &stop, &mut out).unwrap_err();
    assert!(matches!(error, EngineError::Cancelled), "{error}");
    assert_eq!(reads.load(Ordering::Relaxed), 2);
}
