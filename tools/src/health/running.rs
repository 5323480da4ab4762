//! Runs that ended without a word. While a model is open, a small locked file in the folder for state says
//! so. Whatever way the program ends, except by force, removes it. A file without a lock belongs to a run
//! that was ended by force: by the kernel for lack of memory, by `kill -9`, or together with the machine. It
//! must not know what the model does.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use moelten_engine::runtime::memory;
use moelten_engine::runtime::system::System;
use moelten_loader::io::fault::remove_before_the_end;
use moelten_tui::figures;
use serde::{Deserialize, Serialize};

use crate::open::kept;
use crate::report::progress::bytes;

/// Time between two looks at the memory.
const INTERVAL: Duration = Duration::from_secs(2);
/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 64 << 10;

/// Files of this process, to be removed by code that ends it. `None` when the process is about to end: a
/// model that another thread is still opening makes no file any more.
static MARKERS: Mutex<Option<Vec<PathBuf>>> = Mutex::new(Some(Vec::new()));

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The model, by its name.
    model: String,
    /// What identifies this start of the machine.
    boot: Option<String>,
    /// How many processes the kernel had ended for lack of memory when the run began.
    kills: Option<u64>,
    /// Bytes that the process may own; `None` while the model is opened.
    budget: Option<u64>,
    /// Bytes that it owned, and bytes that were free, at the last look.
    owned: Option<u64>,
    /// See `owned`.
    free: Option<u64>,
    /// Time of the last look, in seconds since 1970.
    seen: u64,
}

/// The file of a run. Dropping it removes the file.
#[derive(Debug)]
pub struct Running {
    path: PathBuf,
    file: File,
    state: State,
    looked: Instant,
}

impl Running {
    /// Says that a model is being opened; `None` where nothing is to be kept or nothing can be.
    pub fn begin(model: &str) -> Option<Self> {
        if !kept::keeps() {
            return None;
        }
        Self::begin_in(&folder()?, &System::here(), model)
    }

    fn begin_in(folder: &Path, system: &System, model: &str) -> Option<Self> {
        fs::create_dir_all(folder).ok()?;
        // Another process sees the file only when it is locked.
        let new = tempfile::Builder::new().prefix(".new-").tempfile_in(folder).ok()?;
        new.as_file().try_lock().ok()?;
        let own = std::process::id();
        let path = (0..100).map(|n| folder.join(format!("{own}-{n}.json"))).find(|path| !path.exists())?;
        // Held while the file gets its name: no file with a name is missing from the list.
        let mut markers = MARKERS.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = markers.as_mut()?;
        let file = new.persist(&path).ok()?;
        paths.push(path.clone());
        remove_before_the_end(paths);
        drop(markers);
        let state = State {
            model: model.to_owned(),
            boot: boot(system),
            kills: kills(system),
            budget: None,
            owned: None,
            free: None,
            seen: 0,
        };
        let mut running = Self { path, file, state, looked: Instant::now() };
        running.look_at(system);
        Some(running)
    }

    /// Says what the process may own, as soon as that is known.
    pub fn opened(&mut self, budget: u64) {
        self.state.budget = Some(budget);
        self.look_at(&System::here());
    }

    /// Looks at the memory, if the last look is two seconds old. Errors only cost the next start a figure.
    pub fn look(&mut self) {
        if self.looked.elapsed() >= INTERVAL {
            self.look_at(&System::here());
        }
    }

    fn look_at(&mut self, system: &System) {
        self.looked = Instant::now();
        self.state.owned = memory::owned_bytes_on(system);
        self.state.free = memory::free_bytes(system);
        self.state.seen = seconds(SystemTime::now());
        let Ok(mut text) = serde_json::to_vec(&self.state) else { return };
        // A shorter text leaves nothing of a longer one.
        text.resize(text.len().max(512), b' ');
        let _ = self.file.seek(SeekFrom::Start(0)).and_then(|_| self.file.write_all(&text));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let mut markers = MARKERS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(paths) = markers.as_mut() {
            paths.retain(|path| *path != self.path);
            remove_before_the_end(paths);
        }
    }
}

/// Removes the files of this process. For the end of the program: threads that hold a model may outlive it.
pub fn end() {
    remove(&mut MARKERS.lock().unwrap_or_else(PoisonError::into_inner));
}

/// As [`end`], for code that ends the program from any thread: the one that is ended may hold the lock.
pub fn end_now() {
    if let Ok(mut markers) = MARKERS.try_lock() {
        remove(&mut markers);
    }
}

fn remove(markers: &mut Option<Vec<PathBuf>>) {
    for path in markers.take().into_iter().flatten() {
        let _ = fs::remove_file(path);
    }
}

/// What is known of runs that ended without a word since the last call, for people: a line, or none. With
/// `forget` it is said this once.
pub fn ended_by_force(forget: bool) -> Option<String> {
    ended_in(&folder()?, &System::here(), forget)
}

fn ended_in(folder: &Path, system: &System, forget: bool) -> Option<String> {
    let entries = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let named = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let dead = entries.filter(named).filter_map(|path| dead(&path, forget));
    let last = dead.max_by_key(|state| state.seen)?;
    Some(words(&last, system, SystemTime::now()))
}

/// What a file says whose process is gone.
fn dead(path: &Path, forget: bool) -> Option<State> {
    let mut file = File::open(path).ok()?;
    match file.try_lock() {
        Ok(()) => {}
        // Running, or a file system without locks, which says nothing.
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => return None,
    }
    let mut text = String::new();
    let read = Read::by_ref(&mut file).take(BYTES_MAX).read_to_string(&mut text);
    if forget {
        let _ = fs::remove_file(path);
    }
    read.ok()?;
    serde_json::from_str(text.trim_end()).ok()
}

fn words(state: &State, system: &System, now: SystemTime) -> String {
    let age = Duration::from_secs(seconds(now).saturating_sub(state.seen));
    let run = format!("the last run of {} ({})", state.model, figures::ago(age));
    let figures = match (state.owned, state.budget, state.free) {
        (Some(owned), budget, free) => {
            let budget =
                budget.map_or_else(String::new, |budget| format!(" of a budget of {}", bytes(budget)));
            let free = free.map_or_else(String::new, |free| format!(" and {} were free", bytes(free)));
            format!(" At the last look it owned {}{budget}{free}.", bytes(owned))
        }
        _ => String::new(),
    };
    if state.boot.is_some() && state.boot != boot(system) {
        return format!("{run} was ended by a restart or a loss of power of the machine.{figures}");
    }
    let killed = state.kills.zip(kills(system)).is_some_and(|(then, now)| now > then);
    if killed {
        format!(
            "{run} was ended by the kernel, which ran out of memory.{figures} Close other programs, or give a smaller \
             --ram or --ctx."
        )
    } else {
        format!(
            "{run} was ended by force: by `kill -9`, by a program that watches the memory, or by a crash.{figures}"
        )
    }
}

/// Processes that the kernel has ended for lack of memory since the machine started.
fn kills(system: &System) -> Option<u64> {
    let text = system.text("proc/vmstat")?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

fn boot(system: &System) -> Option<String> {
    Some(system.text("proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn folder() -> Option<PathBuf> {
    Some(kept::state()?.join("running"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with this many kills, started under this name.
    fn machine(root: &Path, kills: u64, boot: &str) -> System {
        for (file, text) in [
            ("vmstat", format!("nr_free_pages 9\noom_kill {kills}\noom_kill_other 77\n")),
            ("meminfo", "MemAvailable:   131072 kB\n".to_owned()),
            ("self/status", "RssAnon:\t 7340032 kB\nRssShmem:\t 0 kB\nVmLck:\t 0 kB\n".to_owned()),
            ("sys/kernel/random/boot_id", format!("{boot}\n")),
        ] {
            let path = root.join("proc").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        System::at(root)
    }

    #[test]
    fn a_run_that_was_ended_by_force_is_told_once() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("running");
        let system = machine(root.path(), 3, "a");
        let mut running = Running::begin_in(&folder, &system, "big.gguf").unwrap();
        running.state.budget = Some(8 << 30);
        running.look_at(&system);
        assert_eq!(ended_in(&folder, &system, true), None, "it is still there");
        // The process is gone: its lock is free and its file is not.
        let left = fs::read(&running.path).unwrap();
        let again = |name: &str| fs::write(folder.join(name), &left).unwrap();
        drop(running);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        again("1-0.json");
        let told = ended_in(&folder, &system, false).unwrap();
        assert_eq!(
            told,
            "the last run of big.gguf (just now) was ended by force: by `kill -9`, by a program that watches the \
             memory, or by a crash. At the last look it owned 7 GiB of a budget of 8 GiB and 128 MiB were free."
        );
        let told = ended_in(&folder, &machine(root.path(), 4, "a"), true).unwrap();
        assert!(
            told.contains("was ended by the kernel, which ran out of memory. At the last look"),
            "{told}"
        );
        assert_eq!(ended_in(&folder, &system, true), None, "it was said");
        again("1-0.json");
        let told = ended_in(&folder, &machine(root.path(), 4, "b"), true).unwrap();
        assert!(told.contains("a restart or a loss of power"), "{told}");
    }

    #[test]
    fn damaged_files_are_removed_and_say_nothing() {
        let root = tempfile::tempdir().unwrap();
        let system = machine(root.path(), 0, "a");
        fs::write(root.path().join("1-0.json"), "{\"model\":").unwrap();
        fs::write(root.path().join("other"), "x").unwrap();
        assert_eq!(ended_in(root.path(), &system, true), None);
        assert!(!root.path().join("1-0.json").exists() && root.path().join("other").exists());
        assert_eq!(ended_in(&root.path().join("none"), &system, true), None);
    }
}
