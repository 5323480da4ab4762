//! What one rendering may cost: steps, bytes that it makes, and nesting. All of it is charged before it is
//! spent, so that a hostile template ends with an error and not with the memory of the machine.
//!
//! It must not know values or templates.

use std::cell::Cell;

use super::problem::{Done, Problem};

/// Steps of one rendering: one for each expression, statement and pass of a loop.
const STEPS_MAX: u64 = 2_000_000;
/// Bytes that one rendering may make, output included.
const MADE_BYTES_MAX: usize = 32 << 20;
/// Nesting of expressions, statements and macro calls while a template runs.
const NESTING_MAX: usize = 400;
/// Bytes of text that are searched or compared in one step.
const SCANNED_BYTES: usize = 256;
/// Bytes that a list charges for each item.
pub(super) const ITEM_BYTES: usize = 32;

/// The allowances of one rendering.
pub(super) struct Meter {
    steps: Cell<u64>,
    bytes: Cell<usize>,
    nesting: Cell<usize>,
}

impl Meter {
    /// A meter with the whole allowances.
    pub(super) fn new() -> Self {
        Self { steps: Cell::new(STEPS_MAX), bytes: Cell::new(MADE_BYTES_MAX), nesting: Cell::new(0) }
    }

    /// Spends `count` steps.
    pub(super) fn steps(&self, count: usize) -> Done<()> {
        match self.steps.get().checked_sub(count as u64) {
            Some(left) => self.steps.set(left),
            None => return Err(Problem::limit(format!("it takes more than {STEPS_MAX} steps"))),
        }
        Ok(())
    }

    /// Spends the steps for reading `bytes` bytes.
    pub(super) fn scan(&self, bytes: usize) -> Done<()> {
        self.steps(bytes / SCANNED_BYTES)
    }

    /// Spends `bytes` bytes, and the steps for writing them.
    pub(super) fn bytes(&self, bytes: usize) -> Done<()> {
        match self.bytes.get().checked_sub(bytes) {
            Some(left) => self.bytes.set(left),
            None => {
                let limit = MADE_BYTES_MAX >> 20;
                return Err(Problem::limit(format!("it makes more than {limit} MiB of text")));
            }
        }
        self.scan(bytes)
    }

    /// Spends the bytes of a list of `count` items.
    pub(super) fn items(&self, count: usize) -> Done<()> {
        self.bytes(count.saturating_mul(ITEM_BYTES))
    }

    /// One level deeper, until the result is dropped.
    pub(super) fn enter(&self) -> Done<Nested<'_>> {
        let nesting = self.nesting.get() + 1;
        if nesting > NESTING_MAX {
            return Err(Problem::limit("maximum recursion depth exceeded"));
        }
        self.nesting.set(nesting);
        Ok(Nested(&self.nesting))
    }
}

/// A level of nesting.
pub(super) struct Nested<'a>(&'a Cell<usize>);

impl Drop for Nested<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Text that grows at the expense of a meter.
pub(super) struct Growing<'a> {
    meter: &'a Meter,
    text: String,
}

impl<'a> Growing<'a> {
    /// An empty text.
    pub(super) fn new(meter: &'a Meter) -> Self {
        Self { meter, text: String::new() }
    }

    /// Appends `text`.
    pub(super) fn push(&mut self, text: &str) -> Done<()> {
        self.meter.bytes(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// Appends `c`.
    pub(super) fn push_char(&mut self, c: char) -> Done<()> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    /// Appends `text` `count` times.
    pub(super) fn push_times(&mut self, text: &str, count: usize) -> Done<()> {
        self.meter.bytes(text.len().saturating_mul(count))?;
        self.text.extend(std::iter::repeat_n(text, count));
        Ok(())
    }

    /// The text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}
