//! Disks that fail and machines that lose power: watches that refuse or record operations, and what a record
//! can leave on a disk when it ends early.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use moelten_loader::io::disk::{Step, Watch};

/// Pseudo-random numbers (SplitMix64, Steele, Lea, Flood 2014).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Refuses operations from number `first` on, as many as `count`.
#[derive(Debug)]
pub struct Refusing {
    pub first: usize,
    pub count: usize,
    /// The error of the system, `EIO` or `ENOSPC`.
    pub error: i32,
    /// Names of the operations so far.
    seen: Mutex<Vec<&'static str>>,
}

impl Refusing {
    pub fn new(first: usize, count: usize, error: i32) -> Self {
        Self { first, count, error, seen: Mutex::default() }
    }

    /// The name of the first operation that was refused; `None` if the work had fewer.
    pub fn refused(&self) -> Option<&'static str> {
        self.seen.lock().unwrap().get(self.first).copied()
    }
}

impl Watch for Refusing {
    fn step(&self, _: &Path, step: Step<'_>) -> io::Result<()> {
        let mut seen = self.seen.lock().unwrap();
        let number = seen.len();
        seen.push(match step {
            Step::Open => "open",
            Step::Write { .. } => "write",
            Step::SetLen(_) => "set_len",
            Step::Sync => "sync",
            Step::Close => "close",
            Step::Rename(_) => "rename",
            Step::Remove => "remove",
            Step::SyncFolder => "sync_folder",
        });
        if (self.first..self.first.saturating_add(self.count)).contains(&number) {
            return Err(io::Error::from_raw_os_error(self.error));
        }
        Ok(())
    }
}

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

#[derive(Debug, Clone)]
enum Did {
    Open,
    Change(Change),
    Sync,
    Rename(PathBuf),
    Remove,
    SyncFolder,
}

/// Records all operations, which are done as well.
#[derive(Debug, Default)]
pub struct Recorder {
    steps: Mutex<Vec<(PathBuf, Did)>>,
    /// Once there are this many, all others are refused; 0: none is.
    pub most: AtomicUsize,
}

impl Watch for Recorder {
    fn step(&self, path: &Path, step: Step<'_>) -> io::Result<()> {
        let did = match step {
            Step::Open => Did::Open,
            Step::Write { offset, bytes } => {
                Did::Change(Change::Write(usize::try_from(offset).unwrap(), bytes.to_vec()))
            }
            Step::SetLen(len) => Did::Change(Change::SetLen(usize::try_from(len).unwrap())),
            Step::Sync => Did::Sync,
            Step::Close => return Ok(()),
            Step::Rename(to) => Did::Rename(to.to_owned()),
            Step::Remove => Did::Remove,
            Step::SyncFolder => Did::SyncFolder,
        };
        let mut steps = self.steps.lock().unwrap();
        let most = self.most.load(Ordering::Relaxed);
        if most > 0 && steps.len() >= most {
            return Err(io::ErrorKind::Other.into());
        }
        steps.push((path.to_owned(), did));
        Ok(())
    }
}

impl Recorder {
    /// Number of operations.
    pub fn len(&self) -> usize {
        self.steps.lock().unwrap().len()
    }

    /// What was on its way to a disk with these files when the first `steps` operations were done.
    pub fn disk(&self, files: &[(PathBuf, Vec<u8>)], steps: usize) -> Disk {
        let mut disk = Disk::default();
        for (path, bytes) in files {
            disk.names.insert(path.clone(), disk.files.len());
            disk.files.push(Stored { durable: bytes.clone(), pending: Vec::new() });
        }
        disk.durable_names = disk.names.clone();
        self.steps.lock().unwrap().iter().take(steps).for_each(|(path, did)| disk.apply(path, did));
        disk
    }
}

#[derive(Debug, Clone)]
struct Stored {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Renaming {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

type Names = BTreeMap<PathBuf, usize>;

/// What is safely on a disk, and what is still in the system's memory.
#[derive(Debug, Default)]
pub struct Disk {
    files: Vec<Stored>,
    /// Indices of files by name, as running programs see them.
    names: Names,
    durable_names: Names,
    pending_names: Vec<Renaming>,
}

/// How much of what was not synced a loss of power leaves.
#[derive(Debug, Clone, Copy)]
pub enum Luck {
    /// Nothing but what was synced.
    Nothing,
    /// All names, but no bytes: what file systems do that write names at once and bytes late.
    Names,
    /// All bytes of the files that have a name.
    Bytes,
    /// All of it.
    Everything,
    /// Names up to some point, any of the bytes in any order, the last write torn; by this seed.
    Some(u64),
}

impl Disk {
    fn apply(&mut self, path: &Path, did: &Did) {
        match did {
            Did::Open => {
                if !self.names.contains_key(path) {
                    self.rename(Renaming::Create(path.to_owned(), self.files.len()));
                    self.files.push(Stored { durable: Vec::new(), pending: Vec::new() });
                }
            }
            Did::Change(change) => self.file(path).pending.push(change.clone()),
            Did::Sync => {
                let file = self.file(path);
                file.durable = after(&file.durable, &file.pending);
                file.pending.clear();
            }
            Did::Rename(to) => self.rename(Renaming::Rename(path.to_owned(), to.clone())),
            Did::Remove => self.rename(Renaming::Remove(path.to_owned())),
            Did::SyncFolder => {
                self.durable_names = self.names.clone();
                self.pending_names.clear();
            }
        }
    }

    fn rename(&mut self, renaming: Renaming) {
        renamed(&mut self.names, &renaming);
        self.pending_names.push(renaming);
    }

    fn file(&mut self, path: &Path) -> &mut Stored {
        &mut self.files[self.names[path]]
    }

    /// The files that are there after a loss of power.
    pub fn after_power_cut(&self, luck: Luck) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut dice = Dice(if let Luck::Some(seed) = luck { seed } else { 0 });
        let kept = match luck {
            Luck::Nothing | Luck::Bytes => 0,
            Luck::Names | Luck::Everything => self.pending_names.len(),
            Luck::Some(_) => dice.below(self.pending_names.len() + 1),
        };
        let mut names = self.durable_names.clone();
        self.pending_names[..kept].iter().for_each(|renaming| renamed(&mut names, renaming));
        let mut bytes = |file: &Stored| {
            let mut pending = match luck {
                Luck::Nothing | Luck::Names => Vec::new(),
                Luck::Bytes | Luck::Everything => file.pending.clone(),
                Luck::Some(_) => file.pending.iter().filter(|_| dice.below(3) > 0).cloned().collect(),
            };
            if matches!(luck, Luck::Some(_))
                && let Some(Change::Write(_, last)) = pending.last_mut()
            {
                last.truncate(dice.below(last.len() + 1));
            }
            after(&file.durable, &pending)
        };
        names.iter().map(|(name, &index)| (name.clone(), bytes(&self.files[index]))).collect()
    }
}

fn after(bytes: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for change in changes {
        match change {
            Change::SetLen(len) => bytes.resize(*len, 0),
            Change::Write(offset, written) => {
                bytes.resize(bytes.len().max(offset + written.len()), 0);
                bytes[*offset..offset + written.len()].copy_from_slice(written);
            }
        }
    }
    bytes
}

fn renamed(names: &mut Names, renaming: &Renaming) {
    match renaming {
        Renaming::Create(path, file) => {
            names.insert(path.clone(), *file);
        }
        Renaming::Rename(from, to) => {
            let file = names.remove(from).expect("a file that was created before");
            names.insert(to.clone(), file);
        }
        Renaming::Remove(path) => {
            names.remove(path);
        }
    }
}

#[test]
fn the_simulated_disk_loses_what_was_not_synced() {
    let recorder = Recorder::default();
    let [new, old] = ["new", "old"].map(Path::new);
    for step in [
        Step::Open,
        Step::Write { offset: 0, bytes: b"abc" },
        Step::Sync,
        Step::Write { offset: 3, bytes: b"def" },
        Step::Rename(old),
    ] {
        recorder.step(new, step).unwrap();
    }
    let before = [(old.to_owned(), b"before".to_vec())];
    let disk = recorder.disk(&before, recorder.len());
    let state = |luck| {
        disk.after_power_cut(luck)
            .into_iter()
            .map(|(name, bytes)| format!("{}={}", name.display(), String::from_utf8(bytes).unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(state(Luck::Nothing), ["old=before"]);
    assert_eq!(state(Luck::Names), ["old=abc"]);
    assert_eq!(state(Luck::Everything), ["old=abcdef"]);
    assert_eq!(recorder.disk(&before, 4).after_power_cut(Luck::Everything).len(), 2);
}
