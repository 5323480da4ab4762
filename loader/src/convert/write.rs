//! Writes a conversion: makes pieces on all threads, writes them in order, and keeps a journal so that an
//! unfinished file can be resumed. It must not know what pieces are made of.

use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};

use rayon::prelude::*;
use twox_hash::XxHash3_64;

use super::ahead::{batched, each_batch};
use super::journal::{Entry, Journal};
use super::output::Output;
use super::pieces::{Maker, OutputPiece};
use super::plan::Conversion;
use super::threads::{Threads, not_started};
use crate::container::gguf::write::{GgufPlan, GgufWriter};
use crate::error::{LoadError, Result};
use crate::io::output::{PartialFile, apart};
use crate::supervise::supervised_in;

/// Largest batch, in bytes of the output or of the source, whichever is larger. While a batch is made, the
/// next is read and two wait to be written.
const BATCH_BYTES: u64 = 32 << 20;
/// Batches that may wait to be written.
const WAITING: usize = 2;

/// Progress of writing a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An unfinished file of the same conversion is being checked.
    Checked {
        /// Weights whose checksums match so far, in bytes.
        bytes: u64,
    },
    /// An unfinished file is resumed.
    Resumed {
        /// Weights that are complete, in bytes.
        bytes: u64,
    },
    /// An unfinished file cannot be resumed and is replaced.
    Replaced {
        /// Its length in bytes.
        bytes: u64,
        /// Whether it was of another source or other options.
        foreign: bool,
    },
    /// A batch has been made.
    Written {
        /// Weights so far in bytes, those of a resumed file included.
        bytes: u64,
        /// All weights of the output, in bytes.
        total: u64,
    },
}

/// How to write.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Threads that make pieces.
    pub threads: usize,
    /// Bytes of memory to use; `None` for the fastest. The file does not depend on it.
    pub memory: Option<u64>,
}

impl Default for Work {
    fn default() -> Self {
        Self { threads: std::thread::available_parallelism().map_or(1, usize::from), memory: None }
    }
}

/// Batches in memory at once: those that wait, one that is made, one that is written, and what the allocator
/// keeps.
pub(super) const IN_MEMORY: u64 = WAITING as u64 + 4;

/// Bytes that a thread needs: weights as floats, encoded weights, and what the allocator keeps.
pub(super) const OF_A_THREAD: u64 = 3 << 20;

/// Size of a batch: what the memory allows after the threads have theirs, at most [`BATCH_BYTES`].
pub(super) fn batch_bytes(work: Work) -> u64 {
    let threads = u64::try_from(work.threads).unwrap_or(u64::MAX).saturating_mul(OF_A_THREAD);
    let batch = |memory: u64| (memory.saturating_sub(threads) / IN_MEMORY).clamp(1 << 20, BATCH_BYTES);
    work.memory.map_or(BATCH_BYTES, batch)
}

/// How a conversion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    Stopped,
}

/// The partial file and journal that an earlier call has left, or new ones.
struct Unfinished {
    file: PartialFile,
    journal: Journal,
    /// Length of the partial file that was found.
    found: u64,
    /// Whether it was of another source or other options.
    foreign: bool,
}

/// The journal beside an unfinished file cannot be written.
fn not_kept(partial: &Path, source: std::io::Error) -> LoadError {
    LoadError::io(&Journal::path(partial), "keep the journal", source)
}

/// A finished piece for the writing thread. `last` says that the output is complete with it.
struct Bytes {
    output: usize,
    bytes: Vec<u8>,
    source: Option<u64>,
    last: bool,
}

impl Conversion<'_> {
    /// Writes the file with default settings; see [`Self::write_with`].
    ///
    /// # Errors
    /// As [`Self::write_with`].
    pub fn write(&self, target: &Path, on_event: &mut dyn FnMut(Event) -> bool) -> Result<bool> {
        self.write_with(target, Work::default(), on_event)
    }

    /// Writes the file; the bytes are the same for any number of threads and any memory. `on_event` is called
    /// after each batch and ends the work by returning `false`; the result is then `Ok(false)`.
    ///
    /// Until it is complete the file is called `target.partial`, with a journal beside it. When the work ends
    /// early, both are kept if a tensor is complete, and the next call with the same source and options
    /// resumes from there.
    ///
    /// # Errors
    /// [`crate::error::Fault::NotFinite`] for NaN or infinite weights that are not kept as they are,
    /// [`crate::error::Fault::Checksum`] for damaged records of the source; [`LoadError::Io`].
    pub fn write_with(
        &self,
        target: &Path,
        work: Work,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<bool> {
        let plan = self.layout(target)?;
        let Unfinished { mut file, mut journal, found, foreign } = self.unfinished(target, &plan)?;
        let Some((done, resumed)) = self.completed(&plan, &mut file, &journal, on_event)? else {
            return Ok(false);
        };
        let partial = file.path().to_owned();
        let kept = journal.keep(done).map_err(|source| not_kept(file.path(), source));
        file.set_resumable(done > 0);
        if resumed > 0 {
            on_event(Event::Resumed { bytes: resumed });
        } else if found > 0 {
            on_event(Event::Replaced { bytes: found, foreign });
        }
        let mut writer = GgufWriter::around(plan, file);
        if let Err(error) = kept.and_then(|()| writer.begin(done)) {
            if done == 0 {
                // The file is not kept, and its lock is still held.
                let _best_effort = journal.remove();
            }
            return Err(error);
        }
        let mut sink = Sink {
            writer,
            journal,
            outputs: &self.outputs,
            output: Default::default(),
            source: Default::default(),
        };
        let ended = self.pump(&mut sink, done, resumed, work, on_event);
        // On any other error the source is at fault, and resuming would fail again.
        let sound = matches!(ended, Ok(_) | Err(LoadError::Io { .. }));
        if !sound {
            sink.writer.set_resumable(false);
        }
        if !sound || sink.journal.entries().is_empty() {
            // While the lock is held: afterwards the name may belong to another process.
            let _best_effort = sink.journal.remove();
        }
        match ended? {
            End::Complete => {
                let Sink { mut writer, journal, .. } = sink;
                self.seal(&mut writer, journal.entries())?;
                if let Err(error) = writer.secure() {
                    // Nothing is resumed then, and the lock is still held.
                    let _best_effort = journal.remove();
                    return Err(error);
                }
                let finished = writer.finish();
                // With a file that could not be renamed the journal is kept. One that stays although it could
                // be removed is harmless: it is discarded by the next conversion.
                if finished.is_ok() || !partial.exists() {
                    let _best_effort = journal.remove();
                }
                finished.map(|()| true)
            }
            End::Stopped => Ok(false),
        }
    }

    /// Opens the partial file and journal of an earlier call, or new ones.
    fn unfinished(&self, target: &Path, plan: &GgufPlan) -> Result<Unfinished> {
        let inputs = self.inputs();
        let sources: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let (_, partial) = PartialFile::places(target, &sources)?;
        let beside = Journal::path(&partial);
        apart(&beside, &sources)?;
        let ours = beside.exists();
        let mut file = PartialFile::resume(target, &sources)?;
        let found = std::fs::metadata(&partial).map_or(0, |found| found.len());
        // On any error from here on, a partial file that was found is kept.
        file.set_resumable(found > 0);
        if found > 0 && !ours {
            let message = "it is not an unfinished file of this program (it has no journal); remove it";
            let source = std::io::Error::new(std::io::ErrorKind::AlreadyExists, message);
            return Err(LoadError::io(&partial, "write the file", source));
        }
        let opened = Journal::open(&partial, self.fingerprint(plan)).and_then(|(journal, foreign)| {
            if found == 0 {
                // After a power failure an unfinished file without its journal would be taken for another's.
                journal.sync_folder()?;
            }
            Ok((journal, foreign))
        });
        let (journal, foreign) = opened.map_err(|source| {
            if found == 0 {
                // It has no file that it belongs to. The lock of that file is still held.
                let _best_effort = Journal::discard(&partial);
            }
            not_kept(&partial, source)
        })?;
        Ok(Unfinished { file, journal, found, foreign })
    }

    /// How many outputs are complete in the file, by the checksums of the journal, and their bytes; `None` if
    /// `on_event` ends the work.
    fn completed(
        &self,
        plan: &GgufPlan,
        file: &mut PartialFile,
        journal: &Journal,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<Option<(usize, u64)>> {
        let (mut done, mut bytes_done) = (0, 0);
        for (entry, output) in journal.entries().iter().zip(&self.outputs) {
            let mut hash = XxHash3_64::with_seed(0);
            let (offset, bytes) = plan.place(done);
            let whole = file.read_back(offset, bytes, &mut |piece| hash.write(piece))?;
            if !whole || hash.finish() != entry.output {
                break;
            }
            bytes_done += output.bytes;
            done += 1;
            if !on_event(Event::Checked { bytes: bytes_done }) {
                return Ok(None);
            }
        }
        Ok(Some((done, bytes_done)))
    }

    /// Makes and writes all outputs from `done` on.
    fn pump(
        &self,
        sink: &mut Sink<'_>,
        done: usize,
        resumed: u64,
        work: Work,
        on_event: &mut dyn FnMut(Event) -> bool,
    ) -> Result<End> {
        let (maker, outputs, total) = (self.maker(), &self.outputs, self.bytes());
        let threads = Threads::new(work.threads)?;
        let batches = batched(self.pieces(&maker, done), batch_bytes(work), |(piece, _)| maker.weight(piece));
        let mut written = resumed;
        let mut end = End::Complete;
        std::thread::scope(|scope| {
            let (to_write, made) = sync_channel(WAITING);
            let write = move || sink.run(&made);
            let writer = supervised_in(scope, "writer", write).map_err(not_started)?;
            let name = |piece: &OutputPiece| outputs.get(piece.output).map_or("?", |o| o.plan.name.as_str());
            let make = |(piece, last): &(OutputPiece, bool)| {
                let made = maker.make(piece, name(piece))?;
                Ok(Bytes { output: piece.output, bytes: made.bytes, source: made.source, last: *last })
            };
            let worked = each_batch(
                batches,
                |(piece, _)| maker.window(piece),
                |batch| {
                    let bytes =
                        threads.run(|| batch.par_iter().map(make).collect::<Result<Vec<Bytes>>>())??;
                    written += bytes.iter().map(|bytes| bytes.bytes.len() as u64).sum::<u64>();
                    // Sending fails only after the writer has; its error is returned below.
                    let taken = to_write.send(bytes).is_ok();
                    if taken && !on_event(Event::Written { bytes: written, total }) {
                        end = End::Stopped;
                    }
                    Ok(taken && end == End::Complete)
                },
            );
            drop(to_write);
            writer.join().expect("its panics are errors").map_err(LoadError::panicked)??;
            worked
        })?;
        Ok(end)
    }
}

impl Conversion<'_> {
    /// Reads the source of every output, and calls `look` with the output's name, the checksum of its source
    /// and the bytes that were read, until it returns `false`.
    pub(super) fn each_source(
        &self,
        threads: &Threads,
        look: &mut dyn FnMut(&str, u64, u64) -> bool,
    ) -> Result<()> {
        let (maker, mut hash, mut bytes) = (self.maker(), XxHash3_64::with_seed(0), 0);
        let batches = batched(self.pieces(&maker, 0), BATCH_BYTES, |(piece, _)| maker.weight(piece));
        each_batch(
            batches,
            |(piece, _)| maker.window(piece),
            |batch| {
                let sum = |(piece, _): &_| maker.source(piece);
                let sums: Vec<_> = threads.run(|| batch.par_iter().map(sum).collect::<Result<_>>())??;
                for ((piece, last), sum) in batch.iter().zip(sums) {
                    if let Some(sum) = sum {
                        hash.write(&sum.to_le_bytes());
                    }
                    bytes += maker.window(piece).map_or(0, |window| window.bytes);
                    let name = self.outputs.get(piece.output).map_or("?", |o| o.plan.name.as_str());
                    if *last && !look(name, std::mem::take(&mut hash).finish(), std::mem::take(&mut bytes)) {
                        return Ok(false);
                    }
                }
                Ok(true)
            },
        )
    }

    /// The pieces of outputs from `first` on, each with whether it is the last of its output.
    fn pieces<'m>(
        &'m self,
        maker: &'m Maker<'m>,
        first: usize,
    ) -> impl Iterator<Item = Result<(OutputPiece, bool)>> + 'm {
        self.outputs.iter().enumerate().skip(first).flat_map(|(index, output)| {
            let (pieces, error) = match maker.pieces(index, output) {
                Ok(pieces) => (pieces, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            let count = pieces.len();
            pieces.into_iter().enumerate().map(move |(i, piece)| Ok((piece, i + 1 == count))).chain(error)
        })
    }
}

/// The writing thread's state: the file and the checksums of the current tensor.
struct Sink<'a> {
    writer: GgufWriter,
    journal: Journal,
    outputs: &'a [Output],
    output: XxHash3_64,
    source: XxHash3_64,
}

impl Sink<'_> {
    /// Writes batches until the channel closes.
    fn run(&mut self, batches: &Receiver<Vec<Bytes>>) -> Result<()> {
        for Bytes { output, bytes, source, last } in batches.iter().flatten() {
            let name = self.outputs.get(output).map_or("?", |output| output.plan.name.as_str());
            self.writer.write_tensor(name, &bytes)?;
            self.output.write(&bytes);
            if let Some(source) = source {
                self.source.write(&source.to_le_bytes());
            }
            if last {
                let take = |hash: &mut XxHash3_64| std::mem::take(hash).finish();
                let entry = Entry { output: take(&mut self.output), source: take(&mut self.source) };
                // A tensor in the journal must be in the file even if this process is killed. After a power
                // failure the checksums detect what is missing.
                self.writer.flush()?;
                let failed = |source| LoadError::io(Path::new("the journal"), "keep the journal", source);
                self.journal.push(entry).map_err(failed)?;
                self.writer.set_resumable(true);
            }
        }
        Ok(())
    }
}
