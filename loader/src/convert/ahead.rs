//! Long reads of mapped files: while one batch is processed, the next is read, and pages that were used are
//! released, so that a model larger than memory does not fill it. It must not know what the bytes are for.

use std::sync::mpsc::sync_channel;

use super::threads::not_started;
use crate::error::{LoadError, Result};
use crate::io::FileBytes;
use crate::supervise::{caught, supervised_in};

/// A byte range of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window<'f> {
    pub file: &'f FileBytes,
    pub offset: u64,
    pub bytes: u64,
}

/// Groups items into batches of about `most` bytes; `weight` gives the bytes of an item.
pub(super) fn batched<T>(
    mut items: impl Iterator<Item = Result<T>>,
    most: u64,
    weight: impl Fn(&T) -> u64,
) -> impl Iterator<Item = Result<Vec<T>>> {
    std::iter::from_fn(move || {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < most {
            match items.next() {
                Some(Ok(item)) => {
                    bytes += weight(&item);
                    batch.push(item);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!batch.is_empty()).then_some(Ok(batch))
    })
}

/// Calls `work` with one batch after the other until it returns `false` or fails. `windows` gives the byte
/// ranges that an item reads.
///
/// # Errors
/// Those of `work` and of reading; a panic of the reading thread.
pub(super) fn each_batch<'f, T: Send, W: IntoIterator<Item = Window<'f>>>(
    batches: impl Iterator<Item = Result<Vec<T>>> + Send,
    windows: impl Fn(&T) -> W + Sync,
    mut work: impl FnMut(&[T]) -> Result<bool>,
) -> Result<()> {
    let windows = |batch: &[T]| runs(batch.iter().flat_map(&windows));
    let read = |batch: Result<Vec<T>>| {
        let batch = batch?;
        for Window { file, offset, bytes } in windows(&batch) {
            let failed = |source| LoadError::io(file.path(), "read the file", source);
            file.populate(offset, bytes).map_err(failed)?;
        }
        Ok(batch)
    };
    std::thread::scope(|scope| {
        let (to_work, ready) = sync_channel(0);
        let reader = move || {
            let failed = to_work.clone();
            // Sending fails once the work has ended.
            let all = move || drop(batches.map(read).try_for_each(|batch| to_work.send(batch)));
            if let Err(panic) = caught("read-ahead", all) {
                let _ended = failed.send(Err(LoadError::panicked(panic)));
            }
        };
        supervised_in(scope, "read-ahead", reader).map_err(not_started)?;
        for batch in ready {
            let batch = batch?;
            let go_on = work(&batch)?;
            for Window { file, offset, bytes } in windows(&batch) {
                file.forget(offset, bytes);
            }
            if !go_on {
                break;
            }
        }
        Ok(())
    })
}

/// Joins adjacent windows. Those of two files may alternate.
fn runs<'f>(windows: impl Iterator<Item = Window<'f>>) -> Vec<Window<'f>> {
    let mut merged: Vec<Window<'f>> = Vec::new();
    for window in windows {
        let follows = |last: &&mut Window<'f>| {
            std::ptr::eq(last.file, window.file) && last.offset + last.bytes == window.offset
        };
        match merged.iter_mut().rev().take(2).find(follows) {
            Some(last) => last.bytes += window.bytes,
            None => merged.push(window),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_reader_is_an_error() {
        let batches = (1..4).map(|i| {
            assert_ne!(i, 3, "the third batch");
            Ok(vec![i])
        });
        let mut seen = Vec::new();
        let windows = |_: &i32| None::<Window<'_>>;
        let result = each_batch(batches, windows, |batch| {
            seen.extend_from_slice(batch);
            Ok(true)
        });
        let message = result.unwrap_err().to_string();
        assert!(message.contains("read-ahead: ") && message.contains("the third batch"), "{message}");
        assert_eq!(seen, [1, 2]);
    }
}
