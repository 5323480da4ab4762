//! Weights outside experts copied from their files into memory, on huge pages if the system has them, so that
//! weights that every token reads stay resident while experts are loaded and evicted. It must not know how
//! they are multiplied.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::io::{FileBytes, Memory};
use crate::supervise::on_threads;
use crate::tensors::bank::MatrixRef;
use crate::tensors::roles::Role;
use crate::tensors::store::TensorStore;

/// Alignment of matrices in the memory: a cache line.
const ALIGN: u64 = 64;

/// Which weights are copied. Numbers of every layer by token never are: a token needs one row of many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// All but the experts.
    Dense,
    /// All but the experts and the embedding.
    DenseWithoutEmbedding,
    /// Those that are arranged when they are read; the others stay in their files.
    Arranged,
}

impl TensorStore {
    /// Bytes of memory that [`TensorStore::copied`] takes.
    pub fn copied_bytes(&self, which: Copied) -> u64 {
        self.to_copy(which).map(|matrix| matrix.bytes.next_multiple_of(ALIGN)).sum()
    }

    /// The same tensors, those of `which` in memory. `done` counts their bytes while they are copied.
    ///
    /// # Errors
    /// No address space is left; [`io::ErrorKind::Interrupted`] if `stop` is set; a panic of a copying
    /// thread.
    pub fn copied(
        mut self,
        which: Copied,
        threads: usize,
        stop: Option<&AtomicBool>,
        done: &AtomicU64,
    ) -> io::Result<Self> {
        let len = usize::try_from(self.copied_bytes(which)).map_err(io::Error::other)?;
        let mut memory = Memory::zeroed(len)?;
        let mut rest = memory.bytes_mut();
        let mut jobs = Vec::new();
        for matrix in self.to_copy(which) {
            let padded = usize::try_from(matrix.bytes.next_multiple_of(ALIGN)).map_err(io::Error::other)?;
            let (part, others) = rest.split_at_mut(padded);
            rest = others;
            jobs.push((*matrix, part));
        }
        let (jobs, failed) = (Mutex::new(jobs.into_iter()), Mutex::new(None));
        let stopped = || stop.is_some_and(|stop| stop.load(Ordering::Relaxed));
        let work = || {
            while !stopped()
                && let Some((matrix, part)) = next(&jobs)
            {
                if let Err(error) = self.copy(&matrix, part) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return;
                }
                done.fetch_add(matrix.bytes, Ordering::Relaxed);
            }
        };
        on_threads("copier", threads, work).map_err(io::Error::other)?;
        drop(jobs);
        if stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }

        let file = self.files.len();
        let mut offset = 0;
        let copied: Vec<Role> = self.roles_to_copy(which).map(|(role, _)| role).collect();
        for role in copied {
            if let Some(matrix) = self.dense.get_mut(&role) {
                *matrix = MatrixRef { file, offset, ..*matrix };
                offset += matrix.bytes.next_multiple_of(ALIGN);
            }
        }
        // Read-ahead has brought more into the page cache than was copied. Files that are used in place stay
        // there.
        if which != Copied::Arranged {
            for file in &self.files {
                file.forget(0, file.size());
            }
        }
        self.files.push(FileBytes::generated(Path::new("memory"), memory)?);
        Ok(self)
    }

    /// The matrices that are copied, in the order of the memory.
    fn to_copy(&self, which: Copied) -> impl Iterator<Item = &MatrixRef> {
        self.roles_to_copy(which).map(|(_, matrix)| matrix)
    }

    fn roles_to_copy(&self, which: Copied) -> impl Iterator<Item = (Role, &MatrixRef)> {
        let has = move |role: Role, matrix: &MatrixRef| match which {
            Copied::Arranged => self.is_arranged(matrix),
            _ if role == Role::LayerInputTable => false,
            Copied::Dense => true,
            Copied::DenseWithoutEmbedding => role != Role::Embed,
        };
        self.dense
            .iter()
            .map(|(role, matrix)| (*role, matrix))
            .filter(move |(role, matrix)| has(*role, matrix))
    }

    fn copy(&self, matrix: &MatrixRef, part: &mut [u8]) -> io::Result<()> {
        let len = usize::try_from(matrix.bytes).map_err(io::Error::other)?;
        let file = self.file(matrix.file);
        file.read_rows_to(matrix.offset, &mut part[..len])?;
        // The copy replaces the mapped pages.
        file.forget(matrix.offset, matrix.bytes);
        Ok(())
    }
}

/// The next job. The lock is released before it is done.
fn next<J>(jobs: &Mutex<impl Iterator<Item = J>>) -> Option<J> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).next()
}
