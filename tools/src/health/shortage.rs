//! How short of memory the machine is: swap, stalls (pressure stall information of Linux), and the memory of
//! processes as `top` counts it. It must not know models.

use moelten_engine::runtime::system::System;
use serde_json::{Value, json};

use crate::report::progress::bytes;

/// Swap space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// Bytes of all swap space.
    pub total: u64,
    /// Bytes of it in use.
    pub used: u64,
    /// Bytes of this process in it.
    pub own: u64,
    /// Whether all of it is compressed memory (zram), not a disk.
    pub compressed: bool,
}

impl Swap {
    /// `None` where the system does not say.
    pub fn of(system: &System) -> Option<Self> {
        let total = system.field_bytes("proc/meminfo", "SwapTotal")?;
        let used = total.saturating_sub(system.field_bytes("proc/meminfo", "SwapFree")?);
        let own = system.field_bytes("proc/self/status", "VmSwap").unwrap_or(0);
        let places = system.text("proc/swaps").unwrap_or_default();
        let mut places = places.lines().skip(1).peekable();
        let compressed = places.peek().is_some() && places.all(|line| line.starts_with("/dev/zram"));
        Some(Self { total, used, own, compressed })
    }

    /// For people.
    pub fn words(&self) -> String {
        if self.total == 0 {
            return "none".to_owned();
        }
        let kind = if self.compressed { " of compressed memory (zram)" } else { "" };
        let mut text = format!("{}{kind}, {} used", bytes(self.total), bytes(self.used));
        if self.own > 0 {
            text.push_str(&format!("; {} of this process, which is slow", bytes(self.own)));
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "total_bytes": self.total, "used_bytes": self.used, "own_bytes": self.own,
            "compressed": self.compressed,
        })
    }
}

/// Share of the time in which some process was stalled, in percent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalls {
    /// Over the last ten seconds.
    pub ten_seconds: f64,
    /// Over the last minute.
    pub minute: f64,
}

/// From this share of a minute on, in percent, memory is short.
const SHORT: f64 = 1.0;

impl Stalls {
    /// On `memory` or `io`; `None` where the system does not say.
    pub fn of(system: &System, what: &str) -> Option<Self> {
        let text = system.text(&format!("proc/pressure/{what}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let field = |name: &str| {
            let value = line.split_whitespace().find_map(|field| field.strip_prefix(name))?;
            value.parse::<f64>().ok()
        };
        Some(Self { ten_seconds: field("avg10=")?, minute: field("avg60=")? })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "ten_seconds_percent": self.ten_seconds, "minute_percent": self.minute })
    }
}

/// What programs waited for in the last minute, for people.
pub fn stall_words(memory: Option<Stalls>, disk: Option<Stalls>) -> Option<String> {
    let part = |name: &str, stalls: Option<Stalls>| Some(format!("{:.1} % for {name}", stalls?.minute));
    let parts: Vec<_> = [part("memory", memory), part("disks", disk)].into_iter().flatten().collect();
    if parts.is_empty() {
        return None;
    }
    let short = memory.is_some_and(|stalls| stalls.minute >= SHORT);
    let advice = if short { "; memory is short: close programs, or give a smaller --ram" } else { "" };
    Some(format!("programs waited {} of the last minute{advice}", parts.join(" and ")))
}

/// A process of this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Bytes that it owns: anonymous and shared.
    pub owned: u64,
    /// Bytes of mapped files that are in memory for it.
    pub mapped: u64,
}

impl Process {
    /// All processes of the program `name`.
    pub fn all(system: &System, name: &str) -> Vec<Self> {
        let of = |pid: &String| {
            let number = pid.parse().ok()?;
            let comm = system.text(&format!("proc/{pid}/comm"))?;
            let part = |field| system.field_bytes(&format!("proc/{pid}/status"), field);
            (comm.trim_end() == name).then_some(())?;
            Some(Self { pid: number, owned: part("RssAnon")? + part("RssShmem")?, mapped: part("RssFile")? })
        };
        system.names("proc").iter().filter_map(of).collect()
    }

    /// For people.
    pub fn words(&self) -> String {
        let Self { pid, owned, mapped } = *self;
        let all = bytes(owned + mapped);
        format!("process {pid} owns {}; `top` shows {all}: {} of mapped files", bytes(owned), bytes(mapped))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({ "pid": self.pid, "owned_bytes": self.owned, "mapped_bytes": self.mapped })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn record(root: &Path, files: &[(&str, &str)]) -> System {
        for (name, text) in files {
            let path = root.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        System::at(root)
    }

    #[test]
    fn swap_is_on_a_disk_or_in_compressed_memory() {
        let root = tempfile::tempdir().unwrap();
        let head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        let zram = format!("{head}/dev/zram0                              partition\t8388604\t\t0\t\t100\n");
        let mut files = vec![
            ("proc/meminfo", "SwapTotal:       8388604 kB\nSwapFree:        7340028 kB\n"),
            ("proc/swaps", zram.as_str()),
            ("proc/self/status", "VmSwap:\t       0 kB\n"),
        ];
        let swap = Swap::of(&record(root.path(), &files)).unwrap();
        assert_eq!(swap.words(), "8 GiB of compressed memory (zram), 1 GiB used");
        let disk = format!("{zram}/swapfile                               file\t\t4194300\t\t0\t\t-2\n");
        files[1].1 = &disk;
        files[2].1 = "VmSwap:\t  102400 kB\n";
        let swap = Swap::of(&record(root.path(), &files)).unwrap();
        assert_eq!(swap.words(), "8 GiB, 1 GiB used; 100 MiB of this process, which is slow");
        files[0].1 = "SwapTotal:       0 kB\nSwapFree:        0 kB\n";
        files[1].1 = head;
        let swap = Swap::of(&record(root.path(), &files)).unwrap();
        assert_eq!((swap.words().as_str(), swap.compressed), ("none", false));
        assert_eq!(Swap::of(&System::at(Path::new("/nowhere"))), None);
    }

    #[test]
    fn stalls_are_shares_of_the_last_minute() {
        let root = tempfile::tempdir().unwrap();
        let text = |some: &str| {
            format!(
                "some avg10=0.51 avg60={some} avg300=0.80 total=127\nfull avg10=9.00 avg60=9.00 avg300=9.00 total=4\n"
            )
        };
        let (calm, busy) = (text("0.25"), text("12.50"));
        let system = record(root.path(), &[("proc/pressure/memory", &calm), ("proc/pressure/io", &busy)]);
        let (memory, io) = (Stalls::of(&system, "memory"), Stalls::of(&system, "io"));
        assert_eq!(memory, Some(Stalls { ten_seconds: 0.51, minute: 0.25 }));
        let words = stall_words(memory, io).unwrap();
        assert_eq!(words, "programs waited 0.2 % for memory and 12.5 % for disks of the last minute");
        assert!(stall_words(io, None).unwrap().contains("memory is short"));
        // A kernel without this information, and a text in another form.
        assert_eq!(stall_words(Stalls::of(&system, "cpu"), None), None);
        let odd = record(root.path(), &[("proc/pressure/cpu", "some avg10=x\n")]);
        assert_eq!(Stalls::of(&odd, "cpu"), None);
    }

    #[test]
    fn processes_of_the_program_are_found_by_their_name() {
        let root = tempfile::tempdir().unwrap();
        let status = "RssAnon:\t    1024 kB\nRssFile:\t   20480 kB\nRssShmem:\t       0 kB\n";
        let system = record(
            root.path(),
            &[
                ("proc/12/comm", "moelten\n"),
                ("proc/12/status", status),
                ("proc/13/comm", "moelten-other\n"),
                ("proc/13/status", status),
                ("proc/meminfo", ""),
            ],
        );
        let found = Process::all(&system, "moelten");
        assert_eq!(found, [Process { pid: 12, owned: 1 << 20, mapped: 20 << 20 }]);
        assert_eq!(found[0].words(), "process 12 owns 1 MiB; `top` shows 21 MiB: 20 MiB of mapped files");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_found_on_this_machine() {
        let system = System::here();
        let name = system.text("proc/self/comm").unwrap();
        let found = Process::all(&system, name.trim_end());
        assert!(found.iter().any(|process| process.pid == std::process::id()), "{found:?}");
    }
}
