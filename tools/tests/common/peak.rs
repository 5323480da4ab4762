//! The most memory that a running program owned: anonymous, shared and locked.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::Duration;

/// Samples until the program ends.
pub struct Peak(JoinHandle<u64>);

impl Peak {
    /// Samples `child` every `interval`.
    pub fn of(child: &Child, interval: Duration) -> Self {
        Self::of_process(child.id(), interval)
    }

    /// Samples the process of this number every `interval`.
    pub fn of_process(pid: u32, interval: Duration) -> Self {
        Self(std::thread::spawn(move || {
            let mut most = 0;
            while Path::new(&format!("/proc/{pid}/status")).exists() {
                most = most.max(owned(pid));
                std::thread::sleep(interval);
            }
            most
        }))
    }

    /// The peak in bytes, once the program has ended and was waited for.
    pub fn bytes(self) -> u64 {
        self.0.join().unwrap()
    }
}

/// Bytes owned by a process.
fn owned(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    field("RssAnon") + field("RssShmem") + field("VmLck")
}
