//! The state of attention to compressed tokens: keys and values of the window, a row for each run of tokens
//! before, small rows by which a token chooses among these, and what is kept of runs that are not complete.
//! Rows are only ever appended. It must not know how rows are made.

use std::io::{self, Read, Write};

use moelten_loader::io::Memory;
use moelten_loader::spec::CompressedSpec;
use moelten_quant::Kernels;

use super::contract::{BranchState, NeedsReplay, Snapshot};
use super::kv::KvView;
use super::kv::format::KvFormat;
use super::marks::Marks;
use super::recurrent::{COPIES, RecurrentState};
use super::window::WindowState;
use crate::runtime::pool::Pool;

/// What a layer keeps of the tokens so far.
pub struct CompressedState {
    window: WindowState,
    rows: Rows,
    small: Rows,
    /// Runs that are not complete: those of rows, then those of small rows.
    open: RecurrentState,
    /// Tokens of a run.
    rate: usize,
    marks: Marks,
}

/// Rows of some width, one after the other.
struct Rows {
    memory: Memory,
    width: usize,
    format: KvFormat,
}

/// What a snapshot copies beside a mark: what the window shows, and what is kept of open runs.
struct Copied {
    mark: Snapshot,
    window: Vec<u8>,
    open: Snapshot,
}

impl Rows {
    fn bytes_for(width: usize, count: usize, format: KvFormat) -> u64 {
        (width as u64).saturating_mul(count as u64).saturating_mul(format.bytes() as u64)
    }

    fn new(width: usize, count: usize, format: KvFormat) -> io::Result<Self> {
        let bytes = usize::try_from(Self::bytes_for(width, count, format));
        let memory = Memory::growing(bytes.map_err(|_| io::ErrorKind::OutOfMemory)?)?;
        Ok(Self { memory, width, format })
    }

    fn write(&mut self, kernels: &Kernels, row: usize, numbers: &[f32]) {
        let at = row * self.width..(row + 1) * self.width;
        match self.format {
            KvFormat::F32 => self.memory.numbers_mut::<f32>()[at].copy_from_slice(numbers),
            KvFormat::F16 => {
                use half::slice::HalfBitsSliceExt;
                kernels.to_f16(numbers, self.memory.numbers_mut::<u16>()[at].reinterpret_cast_mut());
            }
        }
    }

    fn read(&self, row: usize, out: &mut [f32]) {
        let at = row * self.width..(row + 1) * self.width;
        match self.format {
            KvFormat::F32 => out.copy_from_slice(&self.memory.numbers::<f32>()[at]),
            KvFormat::F16 => {
                let stored = &self.memory.numbers::<u16>()[at];
                out.iter_mut().zip(stored).for_each(|(to, &bits)| *to = half::f16::from_bits(bits).to_f32());
            }
        }
    }

    /// The bytes of the first `count` rows.
    fn bytes(&self, count: usize) -> usize {
        count * self.width * self.format.bytes()
    }
}

impl CompressedState {
    /// An empty state for a context of `context` tokens. Huge pages of the window are made `delay` tokens
    /// late. Specs without a compressor have no such state.
    ///
    /// # Errors
    /// When the system has no address space left.
    pub fn new(spec: &CompressedSpec, context: usize, format: KvFormat, delay: usize) -> io::Result<Self> {
        let (window, rate, small) = Self::shape(spec, context);
        let rows = context / rate;
        Ok(Self {
            window: WindowState::new(&spec.attention, window, format, delay)?,
            rows: Rows::new(spec.attention.head_dim, rows, format)?,
            // Choices are not rounded.
            small: Rows::new(small, rows, KvFormat::F32)?,
            open: RecurrentState::new(spec.open_numbers())?,
            rate,
            marks: Marks::default(),
        })
    }

    /// The window, the tokens of a run, and the width of small rows.
    fn shape(spec: &CompressedSpec, context: usize) -> (usize, usize, usize) {
        let rate = spec.compressor.as_ref().map_or(context.max(1), |compressor| compressor.rate);
        let choice = spec.compressor.as_ref().and_then(|compressor| compressor.choice.as_ref());
        (spec.attention.window.unwrap_or(context.max(1)), rate, choice.map_or(0, |choice| choice.head_dim))
    }

    /// Bytes that a state takes, with `snapshots` moments to come back to.
    pub fn bytes_for(spec: &CompressedSpec, context: usize, format: KvFormat, snapshots: usize) -> u64 {
        use super::kv::layer::KvLayer;
        let (window, rate, small) = Self::shape(spec, context);
        let rows = context / rate;
        let of_window = |tokens| KvLayer::bytes_for(&spec.attention, tokens, format);
        let open = (spec.open_numbers() * size_of::<f32>()) as u64;
        of_window(WindowState::capacity_for(window))
            .saturating_add(of_window(window).saturating_mul(snapshots as u64))
            .saturating_add(Rows::bytes_for(spec.attention.head_dim, rows, format))
            .saturating_add(Rows::bytes_for(small, rows, KvFormat::F32))
            .saturating_add(open * (COPIES + snapshots) as u64)
    }

    /// Writes rows of tokens of the present pass, `[tokens, head_dim]`, from position `first` on: they are
    /// keys and values.
    pub fn write(&mut self, pool: &Pool, kernels: &Kernels, first: usize, rows: &[f32]) {
        self.window.write(pool, kernels, first, rows, rows);
    }

    /// What is kept of open runs, and where complete rows go.
    pub fn parts(&mut self) -> (&mut [f32], RowWriter<'_>) {
        let Self { open, rows, small, .. } = self;
        let (before, now) = open.step();
        if let Some(before) = before {
            now.copy_from_slice(before);
        }
        (now, RowWriter { rows, small })
    }

    /// Tokens of a run.
    #[cfg(test)]
    pub fn rate(&self) -> usize {
        self.rate
    }

    /// Keys and values of the window.
    pub fn window(&self) -> KvView<'_> {
        self.window.view()
    }

    /// The row of a run.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        self.rows.read(row, out);
    }

    /// Small rows of the first `count` runs, `[count, width]`.
    pub fn small_rows(&self, count: usize) -> &[f32] {
        &self.small.memory.numbers::<f32>()[..count * self.small.width]
    }

    fn complete(&self, len: usize) -> usize {
        len / self.rate
    }
}

/// Where rows go that are complete.
pub struct RowWriter<'a> {
    rows: &'a mut Rows,
    small: &'a mut Rows,
}

impl RowWriter<'_> {
    /// Writes the row of a run.
    pub fn row(&mut self, kernels: &Kernels, row: usize, numbers: &[f32]) {
        self.rows.write(kernels, row, numbers);
    }

    /// Writes the small row of a run.
    pub fn small(&mut self, kernels: &Kernels, row: usize, numbers: &[f32]) {
        self.small.write(kernels, row, numbers);
    }
}

impl BranchState for CompressedState {
    fn len(&self) -> usize {
        self.window.len()
    }

    fn begin(&mut self, tokens: usize) {
        self.window.begin(tokens);
        self.open.begin(tokens);
    }

    fn commit(&mut self) {
        self.window.commit();
        self.open.commit();
    }

    fn rollback(&mut self) {
        self.window.rollback();
        self.open.rollback();
    }

    fn can_truncate(&self, len: usize) -> bool {
        self.window.can_truncate(len) && self.open.can_truncate(len)
    }

    fn truncate(&mut self, len: usize) -> Result<(), NeedsReplay> {
        if !self.can_truncate(len) {
            return Err(NeedsReplay);
        }
        if len < self.len() {
            self.marks.cut(len);
        }
        self.window.truncate(len)?;
        self.open.truncate(len)
    }

    fn clear(&mut self) {
        self.window.clear();
        self.open.clear();
        self.marks.cut(0);
    }

    fn snapshot(&self) -> Snapshot {
        let (mark, open, mut window) = (self.marks.mark(self.len()), self.open.snapshot(), Vec::new());
        self.window.save(&mut window).expect("writing to memory succeeds");
        let bytes = open.bytes + window.len() as u64;
        Snapshot { len: self.len(), bytes, data: Box::new(Copied { mark, window, open }) }
    }

    fn can_restore(&self, snapshot: &Snapshot) -> bool {
        snapshot.data.downcast_ref::<Copied>().is_some_and(|copied| {
            self.marks.length(&copied.mark).is_ok() && self.open.can_restore(&copied.open)
        })
    }

    fn restore(&mut self, snapshot: &Snapshot) -> Result<(), NeedsReplay> {
        if !self.can_restore(snapshot) {
            return Err(NeedsReplay);
        }
        let copied = snapshot.data.downcast_ref::<Copied>().ok_or(NeedsReplay)?;
        self.marks.cut(snapshot.len);
        self.open.restore(&copied.open)?;
        self.window.load(snapshot.len, &mut copied.window.as_slice()).map_err(|_| NeedsReplay)
    }

    fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        self.window.save(out)?;
        self.open.save(out)?;
        let count = self.complete(self.len());
        for rows in [&self.rows, &self.small] {
            out.write_all(&rows.memory.bytes()[..rows.bytes(count)])?;
        }
        Ok(())
    }

    fn load(&mut self, len: usize, from: &mut dyn Read) -> io::Result<()> {
        self.clear();
        let count = self.complete(len);
        let mut read = || -> io::Result<()> {
            self.window.load(len, from)?;
            self.open.load(len, from)?;
            for rows in [&mut self.rows, &mut self.small] {
                let bytes = rows.bytes(count);
                from.read_exact(&mut rows.memory.bytes_mut()[..bytes])?;
            }
            Ok(())
        };
        let result = read();
        if result.is_err() {
            self.clear();
        }
        result
    }
}
