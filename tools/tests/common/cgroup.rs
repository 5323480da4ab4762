//! Memory control groups of Linux, version 1 or 2.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Why [`Group::new`] has none.
pub const NONE: &str = "no memory control group can be made: that needs root and a writable /sys/fs/cgroup";

/// A control group with a limit, removed when dropped.
pub struct Group(PathBuf);

impl Group {
    /// A group of its own; `None` where there are no control groups or this user may not make one.
    pub fn new(limit: u64) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("moelten-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let versions = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        versions.into_iter().find_map(|(mount, file)| {
            let group = Path::new(mount).join(&name);
            fs::create_dir(&group).ok()?;
            let group = Self(group);
            fs::write(group.0.join(file), limit.to_string()).ok()?;
            Some(group)
        })
    }

    /// The file that processes join by writing their id.
    pub fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }

    /// Bytes of its processes now.
    pub fn used(&self) -> u64 {
        self.number("memory.usage_in_bytes").or_else(|| self.number("memory.current")).unwrap()
    }

    /// The most bytes that its processes had together.
    pub fn peak(&self) -> u64 {
        self.number("memory.max_usage_in_bytes").or_else(|| self.number("memory.peak")).unwrap_or(0)
    }

    /// Processes that the system ended because the group was full.
    pub fn kills(&self) -> u64 {
        let text = ["memory.oom_control", "memory.events"].map(|file| fs::read_to_string(self.0.join(file)));
        let text = text.into_iter().find_map(Result::ok).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.and_then(|count| count.trim().parse().ok()).unwrap()
    }

    fn number(&self, file: &str) -> Option<u64> {
        fs::read_to_string(self.0.join(file)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let started = Instant::now();
        // Processes that have ended leave the group a moment later.
        while fs::remove_dir(&self.0).is_err() && started.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
