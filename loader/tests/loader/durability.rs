//! Files that are written whole, on a disk that fails and on a machine that loses power: faults F10 and F12
//! of the project's list. Afterwards there is the old file or the new one, and the same work done again
//! succeeds.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moelten_loader::convert::{Conversion, Work};
use moelten_loader::error::{LoadError, Result};
use moelten_loader::io::disk::{Watch, watched};
use moelten_loader::io::output::PartialFile;
use moelten_loader::load::load;
use moelten_quant::Format;

use crate::common::Folder;
use crate::simulated::{Luck, Recorder, Refusing};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const NAME: &str = "out.gguf";
/// What a conversion that can be resumed leaves.
const PARTIAL: [&str; 2] = ["out.gguf.partial", "out.gguf.partial.journal"];

/// Converts a small model to a file in `folder`.
fn convert(folder: &Path) -> Result<bool> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden/llama");
    let loaded = load(&source).unwrap();
    let conversion = Conversion::plan(&loaded, &|_| Format::F16).unwrap();
    conversion.write_with(&folder.join(NAME), Work { threads: 1, memory: Some(8 << 20) }, &mut |_| true)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes of an undisturbed conversion.
fn expected() -> Vec<u8> {
    let folder = Folder::new();
    assert!(convert(folder.path()).unwrap());
    assert_eq!(names(folder.path()), [NAME]);
    std::fs::read(folder.path().join(NAME)).unwrap()
}

fn system_error(error: &LoadError) -> Option<i32> {
    match error {
        LoadError::Io { source, .. } => source.raw_os_error(),
        _ => None,
    }
}

/// Each operation of a conversion in turn fails: it, or it and all that follow. The error is the system's,
/// the file is not there, or complete if only the folder could not be synced, and the next conversion
/// succeeds.
#[test]
fn f10_every_operation_of_a_conversion_may_fail() {
    let expected = expected();
    let mut refused = BTreeSet::new();
    for (count, error) in [(1, EIO), (usize::MAX, EIO), (1, ENOSPC)] {
        for first in 0.. {
            let folder = Folder::new();
            let target = folder.path().join(NAME);
            let watch = Arc::new(Refusing::new(first, count, error));
            let ended = watched(watch.clone() as Arc<dyn Watch>, || convert(folder.path()));
            let Some(step) = watch.refused() else { break };
            refused.insert(step);
            match &ended {
                // Only the journal is removed after the file has its name.
                Ok(complete) => assert!(complete & (step == "remove"), "{first} {step}"),
                Err(failure) => assert_eq!(system_error(failure), Some(error), "{first} {step}: {failure}"),
            }
            let renamed = ended.is_ok() || step == "sync_folder" && target.exists();
            assert_eq!(target.exists(), renamed, "{first} {step}");
            assert!(!target.exists() || std::fs::read(&target).unwrap() == expected, "{first} {step}");
            if matches!(step, "sync" | "close") && count == 1 {
                assert_eq!(names(folder.path()), [""; 0], "{first} {step}: nothing may be resumed");
            }
            let left = names(folder.path());
            let whole = left.is_empty() || left == [NAME] || left == PARTIAL;
            assert!(whole || count > 1 || step == "remove", "{first} {step}: {left:?}");
            assert!(convert(folder.path()).unwrap(), "{first} {step}: again");
            assert!(std::fs::read(&target).unwrap() == expected, "{first} {step}: again");
            assert_eq!(names(folder.path()), [NAME], "{first} {step}: again");
        }
    }
    let all = ["close", "open", "remove", "rename", "set_len", "sync", "sync_folder", "write"];
    assert_eq!(refused.into_iter().collect::<Vec<_>>(), all);
}

/// Replaces a file, as conversations and saved sequences are replaced.
fn replace(target: &Path, text: &[u8]) -> Result<()> {
    let mut file = PartialFile::create_private(target)?;
    for part in text.chunks(3) {
        file.write(part)?;
        file.flush()?;
    }
    file.commit()
}

const OLD: &[u8] = b"the conversation of yesterday";
const NEW: &[u8] = b"the conversation of today, which is longer";

/// Each operation of replacing a file in turn fails: the old file or the new one is there, and nothing else.
#[test]
fn f10_a_file_is_replaced_or_stays() {
    for first in 0.. {
        let folder = Folder::new();
        let target = folder.file("talk.json", OLD);
        let watch = Arc::new(Refusing::new(first, 1, EIO));
        let ended = watched(watch.clone() as Arc<dyn Watch>, || replace(&target, NEW));
        let Some(step) = watch.refused() else { break };
        let failure = ended.expect_err("nothing here may fail unseen");
        assert_eq!(system_error(&failure), Some(EIO), "{step}");
        let found = std::fs::read(&target).unwrap();
        // After the rename only the folder can fail, and the error says what that means.
        let complete = step == "sync_folder";
        assert!(found == if complete { NEW } else { OLD }, "{step}");
        assert_eq!(failure.to_string().contains("the file is complete"), complete, "{failure}");
        assert_eq!(names(folder.path()), ["talk.json"], "{step}");
    }
}

/// Everything that a loss of power may leave after the first `steps` operations.
fn lucks(steps: usize) -> impl Iterator<Item = Luck> {
    let some = (0..3).map(move |seed| Luck::Some(3 * steps as u64 + seed));
    [Luck::Nothing, Luck::Names, Luck::Bytes, Luck::Everything].into_iter().chain(some)
}

#[test]
fn f12_power_is_lost_while_a_file_is_replaced() {
    let folder = Folder::new();
    let target = folder.file("talk.json", OLD);
    let recorder = Arc::new(Recorder::default());
    watched(recorder.clone() as Arc<dyn Watch>, || replace(&target, NEW)).unwrap();
    let mut found = [0, 0];
    for steps in 0..=recorder.len() {
        let disk = recorder.disk(&[(target.clone(), OLD.to_vec())], steps);
        for luck in lucks(steps) {
            let left = disk.after_power_cut(luck);
            let new = left[&target] == NEW;
            assert!(new || left[&target] == OLD, "{steps} {luck:?}: {left:?}");
            assert!(new || steps < recorder.len(), "{luck:?}: what was committed stays");
            found[usize::from(new)] += 1;
        }
    }
    assert!(found.iter().all(|&count| count > 0), "{found:?}");
}

/// The record of a conversion, and of one that fails in the middle and is resumed, and what power cuts leave
/// of them: the file is absent or complete, and converting again gives the same bytes and leaves no other
/// file.
#[test]
fn f12_power_is_lost_during_a_conversion() {
    let expected = expected();
    let (mut tried, mut length) = (BTreeSet::new(), 0);
    for resumed in [false, true] {
        let folder = Folder::new();
        let recorder = Arc::new(Recorder::default());
        let convert_here = || watched(recorder.clone() as Arc<dyn Watch>, || convert(folder.path()));
        if resumed {
            recorder.most.store(length / 2, Ordering::Relaxed);
            convert_here().unwrap_err();
            assert_eq!(names(folder.path()), PARTIAL);
            recorder.most.store(0, Ordering::Relaxed);
        }
        assert!(convert_here().unwrap());
        length = recorder.len();
        for steps in 0..=recorder.len() {
            let disk = recorder.disk(&[], steps);
            for luck in lucks(steps) {
                let left: Vec<(PathBuf, Vec<u8>)> = disk.after_power_cut(luck).into_iter().collect();
                let again = Folder::new();
                for (path, bytes) in &left {
                    again.file(path.file_name().unwrap().to_str().unwrap(), bytes);
                }
                let target = again.path().join(NAME);
                let complete = target.exists();
                assert!(!complete || std::fs::read(&target).unwrap() == expected, "{steps} {luck:?}");
                assert!(complete || steps < recorder.len(), "{luck:?}: what was finished stays");
                if !complete && tried.insert(left) {
                    assert!(convert(again.path()).unwrap(), "{steps} {luck:?}");
                    assert!(std::fs::read(&target).unwrap() == expected, "{steps} {luck:?}");
                    assert_eq!(names(again.path()), [NAME], "{steps} {luck:?}");
                }
            }
        }
    }
    println!("{} states of the disk were recovered from", tried.len());
    assert!(tried.len() > 50, "{} states", tried.len());
}
