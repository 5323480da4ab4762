//! What Linux says about itself in `/proc` and `/sys`: reading and parsing, nothing more. Other systems have
//! no such files, so every answer may be missing; Windows is asked for its memory by a call. It must not know
//! what the answers are used for.

use std::fs;
use std::path::{Path, PathBuf};

use moelten_loader::io::machine;

/// CPU numbers above this are taken for damage, not for a machine.
const CPUS_MAX: usize = 1 << 16;

/// The files of a running system, or a recorded copy of them.
#[derive(Debug, Clone)]
pub struct System {
    /// Where `proc` and `sys` are; `None` on Windows, which has neither.
    root: Option<PathBuf>,
}

/// A control group that this process is in, itself or one above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its folder.
    pub path: PathBuf,
    /// Whether it is of version 2: files are named differently.
    pub unified: bool,
}

impl System {
    /// This machine.
    pub fn here() -> Self {
        Self { root: (!cfg!(windows)).then(|| PathBuf::from("/")) }
    }

    /// A copy of `proc` and `sys` below `root`.
    pub fn at(root: &Path) -> Self {
        Self { root: Some(root.to_owned()) }
    }

    fn path(&self, path: &str) -> Option<PathBuf> {
        Some(self.root.as_ref()?.join(path))
    }

    /// Bytes of memory of the machine.
    pub fn total_memory(&self) -> Option<u64> {
        match self.root {
            Some(_) => self.field_bytes("proc/meminfo", "MemTotal"),
            None => Some(machine::memory()?.total),
        }
    }

    /// Bytes of memory of the machine that programs may still take without swapping.
    pub fn available_memory(&self) -> Option<u64> {
        match self.root {
            Some(_) => self.field_bytes("proc/meminfo", "MemAvailable"),
            None => Some(machine::memory()?.available),
        }
    }

    /// A file's text, e.g. of `proc/meminfo`.
    pub fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)?).ok()
    }

    /// The number that is all of a file.
    pub fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    /// Names of what is in a folder, sorted; none where it cannot be read.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let entries =
            self.path(folder).and_then(|path| fs::read_dir(path).ok()).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_unstable();
        names
    }

    /// Where a path leads when its links are followed.
    pub fn resolved(&self, path: &str) -> Option<String> {
        fs::canonicalize(self.path(path)?).ok()?.into_os_string().into_string().ok()
    }

    /// The CPUs that a file lists, ascending.
    pub fn cpus(&self, path: &str) -> Option<Vec<usize>> {
        cpu_list(&self.text(path)?)
    }

    /// The value of `name:` in a file of such lines.
    pub fn field(&self, path: &str, name: &str) -> Option<String> {
        field(&self.text(path)?, name).map(str::to_owned)
    }

    /// As [`Self::field`], a number of kB, in bytes.
    pub fn field_bytes(&self, path: &str, name: &str) -> Option<u64> {
        let value = self.field(path, name)?;
        value.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// The control groups of this process that may limit `controller` (`memory`, `cpu`), innermost first,
    /// versions 1 and 2.
    pub fn groups(&self, controller: &str) -> Vec<Group> {
        let text = self.text("proc/self/cgroup").unwrap_or_default();
        let mut groups = Vec::new();
        let Some(mounts) = self.path("sys/fs/cgroup") else { return groups };
        for line in text.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let unified = controllers.is_empty();
            if !unified && !controllers.split(',').any(|name| name == controller) {
                continue;
            }
            // Version 1 is mounted under one controller's name or under all of those that it comes with.
            let candidates = if unified {
                vec![mounts.clone()]
            } else {
                vec![mounts.join(controllers), mounts.join(controller)]
            };
            let Some(mount) = candidates.into_iter().find(|mount| mount.is_dir()) else { continue };
            let group = mount.join(path.trim_start_matches('/'));
            let above = group.ancestors().take_while(|path| path.starts_with(&mount));
            groups.extend(above.map(|path| Group { path: path.to_owned(), unified }));
        }
        groups
    }
}

impl Group {
    /// The text of one of the group's files.
    pub fn text(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.path.join(name)).ok()
    }

    /// The number that is all of one of the group's files.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }
}

/// The value of `name` in lines like `MemFree:  10 kB`. Some files put a tab before the colon.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found.trim_end() == name).then(|| value.trim())
    })
}

/// The kernel's list format: `0-3,8,10-11`.
pub(crate) fn cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > CPUS_MAX {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_systems_lines() {
        let text = "MemTotal:  100 kB\nMemFree:  10 kB\nmodel name\t: Some CPU @ 3: fast\n";
        assert_eq!(field(text, "MemFree"), Some("10 kB"));
        assert_eq!(field(text, "Mem"), None);
        assert_eq!(field(text, "model name"), Some("Some CPU @ 3: fast"));
    }

    #[test]
    fn reads_lists_of_cpus() {
        assert_eq!(cpu_list("0-2,8,10-11\n"), Some(vec![0, 1, 2, 8, 10, 11]));
        assert_eq!(cpu_list("\n"), Some(vec![]));
        assert_eq!(cpu_list("3"), Some(vec![3]));
        for damaged in ["a", "2-1", "1-", "0-99999999999", "-1"] {
            assert_eq!(cpu_list(damaged), None, "{damaged}");
        }
    }

    #[test]
    fn groups_go_up_to_the_mount() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::create_dir_all(root.path().join("sys/fs/cgroup/cpu,cpuacct")).unwrap();
        let text = "4:cpu,cpuacct:/a/b\n3:cpuset:/c\n0::/d\n";
        fs::write(root.path().join("proc/self/cgroup"), text).unwrap();
        let groups: Vec<_> = System::at(root.path())
            .groups("cpu")
            .into_iter()
            .map(|g| (g.path.strip_prefix(root.path().join("sys/fs/cgroup")).unwrap().to_owned(), g.unified))
            .collect();
        let expected = [("cpu,cpuacct/a/b", false), ("cpu,cpuacct/a", false), ("cpu,cpuacct", false)];
        let expected = expected.into_iter().chain([("d", true), ("", true)]);
        assert_eq!(groups, expected.map(|(path, unified)| (path.into(), unified)).collect::<Vec<_>>());
    }
}
