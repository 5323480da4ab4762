//! How much memory this process may still take: the system's estimate, capped by the control groups it is in and by
//! the limit of its address space (`ulimit -v`).

use std::fs;
use std::path::Path;

/// Bytes available without swapping, or `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let system = fs::read_to_string("/proc/meminfo").ok().and_then(|text| field_kib(&text, "MemAvailable:"));
    [system, cgroup_headroom(), address_space_headroom()].into_iter().flatten().min()
}

/// What is left of the address space, if it is limited: beyond it an allocation ends the process.
fn address_space_headroom() -> Option<u64> {
    let limit = address_space_limit(&fs::read_to_string("/proc/self/limits").ok()?)?;
    let used = field_kib(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(limit.saturating_sub(used))
}

fn address_space_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The tightest headroom of the memory control groups above this process, versions 1 and 2. Pages of files that the
/// kernel would give back first do not count as used.
fn cgroup_headroom() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    groups
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let relative = path.trim_start_matches('/');
            if controllers.is_empty() {
                let names = ("memory.max", "memory.current", "inactive_file ");
                tightest(Path::new("/sys/fs/cgroup"), relative, names)
            } else if controllers.split(',').any(|c| c == "memory") {
                let names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ");
                tightest(Path::new("/sys/fs/cgroup/memory"), relative, names)
            } else {
                None
            }
        })
        .min()
}

fn tightest(root: &Path, relative: &str, names: (&str, &str, &str)) -> Option<u64> {
    let group = root.join(relative);
    group.ancestors().take_while(|path| path.starts_with(root)).filter_map(|path| headroom(path, names)).min()
}

fn headroom(group: &Path, (limit, usage, inactive): (&str, &str, &str)) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit).filter(|&limit| limit < 1 << 60)?; // "max", or version 1's huge number
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let reclaimable = stat.lines().find_map(|line| line.strip_prefix(inactive)?.trim().parse::<u64>().ok());
    let used = number(usage)?.saturating_sub(reclaimable.unwrap_or(0));
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_systems_lines() {
        let text = "MemTotal:  100 kB\nMemFree:  10 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(field_kib(text, "MemAvailable:"), Some(2 << 20));
        assert_eq!(field_kib(text, "MemAvail:"), None);
    }

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
        let inner = root.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        let write = |path: &Path, limit: &str, usage: &str, inactive: u64| {
            fs::write(path.join("memory.max"), limit).unwrap();
            fs::write(path.join("memory.current"), usage).unwrap();
            fs::write(path.join("memory.stat"), format!("anon 5\ninactive_file {inactive}\n")).unwrap();
        };
        write(&inner, "max\n", "10", 0);
        write(&root.path().join("a"), "1000\n", "700\n", 200);
        let names = ("memory.max", "memory.current", "inactive_file ");
        assert_eq!(tightest(root.path(), "a/b", names), Some(500));
        write(&inner, "300", "299", 0);
        assert_eq!(tightest(root.path(), "a/b", names), Some(1));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
