//! The file system and the disk that a file is on, and what makes reading experts from them slow: networks,
//! foreign file systems, rotating disks. It must not read the file.

use std::path::{Path, PathBuf};

use moelten_engine::runtime::system::System;
use serde_json::{Value, json};

/// The file system of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its type, as the system names it: `ext4`, `nfs4`, `fuse.sshfs`.
    pub kind: String,
    /// Whether its disk rotates; `None` where that is not known.
    pub rotates: Option<bool>,
    /// Whether its disk is connected by USB.
    pub usb: bool,
}

/// Types of file systems that are on other machines.
const NETWORK: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "fuse.rclone",
    "fuse.glusterfs",
    "fuse.s3fs",
    "davfs",
    "fuse.davfs2",
    "virtiofs",
    "vboxsf",
    "fuse.vmhgfs-fuse",
    "drvfs",
];
/// Types that other systems brought along, whose drivers are slow or have limits.
const FOREIGN: &[&str] = &["ntfs", "ntfs3", "fuseblk", "vfat", "exfat", "hfsplus"];

impl Volume {
    /// That of `path`, which must be absolute and without links; `None` where the system does not say.
    pub fn of(system: &System, path: &Path) -> Option<Self> {
        let text = system.text("proc/self/mountinfo")?;
        // The deepest mount point counts; of several on one point the last one is on top.
        let mounts = text.lines().filter_map(Mount::parse);
        let over = mounts.filter(|mount| path.starts_with(&mount.point));
        let mount = over.max_by_key(|mount| mount.point.components().count())?;
        let disk = mount.disk(system);
        let place = disk.as_ref().and_then(|disk| system.resolved(disk)).unwrap_or_default();
        // Disks of virtual machines say that they rotate, whatever is behind them.
        let real = !["/virtio", "/vbd-", "/vmbus"].iter().any(|kind| place.contains(kind));
        let rotates = disk.filter(|_| real).and_then(|disk| {
            // Partitions leave that to their disk.
            let of = |folder: &str| system.number(&format!("{disk}/{folder}queue/rotational"));
            of("").or_else(|| of("../")).map(|number| number == 1)
        });
        let usb = place.contains("/usb");
        Some(Self { mount: mount.point, kind: mount.kind, rotates, usb })
    }

    /// That of a file of this machine.
    pub fn here(path: &Path) -> Option<Self> {
        Self::of(&System::here(), &path.canonicalize().ok()?)
    }

    /// Why reading experts from it is slow, and what to do; `None` if there is no reason.
    pub fn trap(&self) -> Option<String> {
        let kind = self.kind.as_str();
        if NETWORK.contains(&kind) {
            return Some(format!(
                "{kind} reads over a network or from another system: copy the model to a disk of this machine"
            ));
        }
        if self.rotates == Some(true) {
            return Some("the disk rotates: a model that is streamed needs an SSD".to_owned());
        }
        if FOREIGN.contains(&kind) {
            let name = if kind == "fuseblk" { "NTFS or exFAT (fuseblk)" } else { kind };
            return Some(format!("{name} is slow here: use a file system of this system, such as ext4"));
        }
        match kind {
            "tmpfs" | "ramfs" => {
                Some("the file is in memory: it takes RAM that --ram does not count".to_owned())
            }
            "squashfs" | "erofs" => Some(format!("{kind} is compressed: each read is unpacked")),
            _ if self.usb => Some("the disk is connected by USB: an internal SSD is faster".to_owned()),
            _ => None,
        }
    }

    /// For people, without the trap.
    pub fn words(&self) -> String {
        let disk = match self.rotates {
            Some(true) => ", rotating disk",
            Some(false) => ", SSD",
            None => "",
        };
        let usb = if self.usb { " on USB" } else { "" };
        format!("{} at {}{disk}{usb}", self.kind, self.mount.display())
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "mount": self.mount.to_string_lossy(), "type": self.kind, "rotates": self.rotates, "usb": self.usb,
            "trap": self.trap(),
        })
    }
}

/// A line of `mountinfo` (`Documentation/filesystems/proc.rst` of Linux, section 3.5).
struct Mount {
    /// `MAJOR:MINOR` of its device.
    device: String,
    point: PathBuf,
    kind: String,
    /// The device's file, or a name.
    source: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (device, _root, point) = (before.next()?, before.next()?, before.next()?);
        let mut after = after.split(' ');
        let (kind, source) = (after.next()?, after.next()?);
        Some(Self {
            device: device.to_owned(),
            point: PathBuf::from(unescaped(point)),
            kind: kind.to_owned(),
            source: unescaped(source),
        })
    }

    /// The folder of its disk or partition in `sys`.
    fn disk(&self, system: &System) -> Option<String> {
        let by_number = format!("sys/dev/block/{}", self.device);
        // Some file systems, such as btrfs, have a number of their own.
        let name = self.source.rsplit('/').next().unwrap_or_default();
        let by_name = format!("sys/class/block/{name}");
        let known = |folder: &String| !system.names(folder).is_empty();
        [by_number, by_name].into_iter().find(known)
    }
}

/// Blanks and backslashes are written as three octal digits.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(code.map_or('\\', char::from));
        rest = if code.is_some() { &after[3..] } else { after };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    #[cfg(unix)]
    use std::fs;

    use super::*;

    /// As of a laptop with a second disk, a share, a stick and a folder on the first disk's btrfs.
    #[cfg(unix)]
    const MOUNTS: &str = "\
22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n\
30 22 8:1 / /mnt/old\\040disk rw - ext4 /dev/sda1 rw\n\
31 22 0:50 /models /data rw - btrfs /dev/nvme0n1p3 rw,subvol=/models\n\
32 22 0:60 / /mnt/share rw - nfs4 nas:/models rw\n\
33 22 8:17 / /media/stick rw - fuseblk /dev/sdb1 rw\n\
34 22 8:33 / /media/ssd rw - ext4 /dev/sdc1 rw\n\
36 22 254:1 / /virtual rw - ext4 /dev/vda1 rw\n\
35 22 0:70 / /dev/shm rw - tmpfs tmpfs rw\n\
broken line\n";

    #[cfg(unix)]
    fn laptop(root: &Path) -> System {
        let disk = |folder: &str, partition: &str, rotates: &str, number: &str| {
            let folder = root.join("sys/devices").join(folder);
            fs::create_dir_all(folder.join("queue")).unwrap();
            fs::write(folder.join("queue/rotational"), rotates).unwrap();
            fs::create_dir_all(folder.join(partition)).unwrap();
            fs::write(folder.join(partition).join("partition"), "1\n").unwrap();
            for (list, name) in [("sys/dev/block", number), ("sys/class/block", partition)] {
                fs::create_dir_all(root.join(list)).unwrap();
                let target = folder.join(partition);
                std::os::unix::fs::symlink(target, root.join(list).join(name)).unwrap();
            }
        };
        disk("pci0/nvme0n1", "nvme0n1p2", "0\n", "259:2");
        disk("pci0/nvme0n1b", "nvme0n1p3", "0\n", "259:3");
        disk("pci0/ata1/sda", "sda1", "1\n", "8:1");
        disk("pci0/usb2/sdb", "sdb1", "0\n", "8:17");
        disk("pci0/usb3/sdc", "sdc1", "0\n", "8:33");
        disk("pci0/virtio0/vda", "vda1", "1\n", "254:1");
        fs::create_dir_all(root.join("proc/self")).unwrap();
        fs::write(root.join("proc/self/mountinfo"), MOUNTS).unwrap();
        System::at(root)
    }

    #[cfg(unix)]
    #[test]
    fn the_deepest_mount_has_its_type_its_disk_and_its_trap() {
        let root = tempfile::tempdir().unwrap();
        let system = laptop(root.path());
        let of = |path: &str| {
            let volume = Volume::of(&system, Path::new(path)).unwrap();
            (volume.words(), volume.trap().unwrap_or_default())
        };
        assert_eq!(of("/home/me/m.gguf"), ("ext4 at /, SSD".into(), String::new()));
        assert_eq!(of("/data/m.gguf"), ("btrfs at /data, SSD".into(), String::new()));
        let (words, trap) = of("/mnt/old disk/m.gguf");
        assert!(words == "ext4 at /mnt/old disk, rotating disk" && trap.contains("needs an SSD"), "{trap}");
        let (words, trap) = of("/mnt/share/m.gguf");
        assert!(words == "nfs4 at /mnt/share" && trap.contains("network"), "{trap}");
        let (words, trap) = of("/media/stick/m.gguf");
        assert!(words.ends_with("SSD on USB") && trap.starts_with("NTFS or exFAT"), "{trap}");
        assert!(of("/media/ssd/m.gguf").1.contains("by USB"));
        assert_eq!(of("/virtual/m.gguf"), ("ext4 at /virtual".into(), String::new()));
        assert!(of("/dev/shm/m.gguf").1.contains("takes RAM"));
        // A name that only begins like a mount point is not below it.
        assert_eq!(of("/database").0, "ext4 at /, SSD");
    }

    #[test]
    fn a_system_without_the_file_says_nothing() {
        assert_eq!(Volume::of(&System::at(Path::new("/nowhere")), Path::new("/x")), None);
        assert_eq!(unescaped("a\\040b\\134c\\9"), "a b\\c\\9");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_file_is_on_some_volume() {
        let volume = Volume::here(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(!volume.kind.is_empty() && volume.mount.is_absolute(), "{volume:?}");
    }
}
