//! How much memory this process may still take: the system's estimate, capped by the control groups it is in
//! and by the limit of its address space (`ulimit -v`).

use std::time::Duration;

use crate::runtime::system::{Group, System};

/// Bytes available without swapping, or `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let here = System::here();
    [free_bytes(&here), address_space_headroom(&here)].into_iter().flatten().min()
}

/// Bytes of memory that are free without swapping, on the machine and in the control groups of this process.
pub fn free_bytes(system: &System) -> Option<u64> {
    let machine = system.available_memory();
    [machine, cgroup_headroom(system)].into_iter().flatten().min()
}

/// How long, since the machine started, some process stood still because memory was short (pressure stall
/// information, `Documentation/accounting/psi.rst` of Linux).
pub fn stalled(system: &System) -> Option<Duration> {
    let text = system.text("proc/pressure/memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = line.split_whitespace().find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

/// Bytes of memory that no other process can use while this one lives: anonymous, shared and locked.
pub fn owned_bytes() -> Option<u64> {
    owned_bytes_on(&System::here())
}

/// As [`owned_bytes`], on a system or a recorded copy of one.
pub fn owned_bytes_on(system: &System) -> Option<u64> {
    let part = |name| system.field_bytes("proc/self/status", name);
    Some(part("RssAnon")? + part("RssShmem")? + part("VmLck")?)
}

/// Bytes of mapped files that are in memory for this process. With [`owned_bytes`] they are what `top` shows
/// as `RES`. The system takes them back when others need memory.
pub fn mapped_bytes() -> Option<u64> {
    System::here().field_bytes("proc/self/status", "RssFile")
}

/// Bytes that this process had read from disks so far, page faults included.
pub fn disk_bytes_read() -> Option<u64> {
    System::here().field("proc/self/io", "read_bytes")?.parse().ok()
}

/// What is left of the address space, if it is limited: beyond it an allocation ends the process.
pub fn address_space_headroom(system: &System) -> Option<u64> {
    let limit = address_space_limit(&system.text("proc/self/limits")?)?;
    let used = system.field_bytes("proc/self/status", "VmSize")?;
    Some(limit.saturating_sub(used))
}

fn address_space_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The tightest headroom of the memory control groups above this process. Pages of files that the kernel
/// would give back first do not count as used.
fn cgroup_headroom(system: &System) -> Option<u64> {
    limited_groups(system).filter_map(|(group, limit)| headroom(&group, limit)).min()
}

/// The tightest limit of the memory control groups above this process, in bytes.
pub fn cgroup_limit(system: &System) -> Option<u64> {
    limited_groups(system).map(|(_, limit)| limit).min()
}

fn limited_groups(system: &System) -> impl Iterator<Item = (Group, u64)> {
    system.groups("memory").into_iter().filter_map(|group| {
        let limit = group.number(if group.unified { "memory.max" } else { "memory.limit_in_bytes" })?;
        // Without a limit, version 2 says "max" and version 1 a huge number.
        (limit < 1 << 60).then_some((group, limit))
    })
}

fn headroom(group: &Group, limit: u64) -> Option<u64> {
    let (usage, inactive) = if group.unified {
        ("memory.current", "inactive_file ")
    } else {
        ("memory.usage_in_bytes", "total_inactive_file ")
    };
    let stat = group.text("memory.stat").unwrap_or_default();
    let reclaimable = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok());
    let used = group.number(usage)?.saturating_sub(reclaimable.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn reads_the_limit_of_the_address_space() {
        let text = |soft: &str| {
            format!(
                "Limit  Soft Limit  Hard Limit  Units\nMax open files  9 9 files\n\
                 Max address space         {soft}            unlimited            bytes\n"
            )
        };
        assert_eq!(address_space_limit(&text("419430400")), Some(419_430_400));
        assert_eq!(address_space_limit(&text("unlimited")), None);
        assert_eq!(address_space_limit(""), None);
    }

    #[test]
    fn the_tightest_group_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let groups = root.path().join("sys/fs/cgroup");
        let inner = groups.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::write(root.path().join("proc/self/cgroup"), "0::/a/b\n").unwrap();
        let system = System::at(root.path());
        let write = |path: &Path, limit: &str, usage: &str, inactive: u64| {
            fs::write(path.join("memory.max"), limit).unwrap();
            fs::write(path.join("memory.current"), usage).unwrap();
            fs::write(path.join("memory.stat"), format!("anon 5\ninactive_file {inactive}\n")).unwrap();
        };
        write(&inner, "max\n", "10", 0);
        assert_eq!(cgroup_headroom(&system), None);
        write(&groups.join("a"), "1000\n", "700\n", 200);
        assert_eq!((cgroup_headroom(&system), cgroup_limit(&system)), (Some(500), Some(1000)));
        write(&inner, "300", "299", 0);
        assert_eq!((cgroup_headroom(&system), cgroup_limit(&system)), (Some(1), Some(300)));
    }

    #[cfg(any(target_os = "linux", windows))]
    #[test]
    fn this_machine_has_memory() {
        let (available, total) = (available_bytes().unwrap(), System::here().total_memory().unwrap());
        assert!(available > 1 << 20 && available <= total);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_written_is_owned() {
        let before = owned_bytes().unwrap();
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(owned_bytes().unwrap() >= before + (32 << 20));
        drop(touched);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn owned_and_mapped_memory_are_what_the_system_counts() {
        let status = System::here();
        let all = status.field_bytes("proc/self/status", "VmRSS").unwrap();
        let locked = status.field_bytes("proc/self/status", "VmLck").unwrap();
        let told = owned_bytes().unwrap() - locked + mapped_bytes().unwrap();
        // Other tests of this process allocate meanwhile.
        assert!(told.abs_diff(all) < 64 << 20, "{told} and {all}");
    }
}
