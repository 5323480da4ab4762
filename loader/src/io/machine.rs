//! What a system says of the machine when it is asked by calls: memory, and room on a disk. Linux says it in
//! files, which are read elsewhere. It must not know what the answers are used for.

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineMemory {
    /// All of it.
    pub total: u64,
    /// What programs may still take without swapping.
    pub available: u64,
}

/// Memory of the machine; `None` on systems for which this is not written.
#[cfg(windows)]
pub fn memory() -> Option<MachineMemory> {
    use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};

    let size = u32::try_from(size_of::<MEMORYSTATUSEX>()).ok()?;
    let mut found = MEMORYSTATUSEX { dwLength: size, ..Default::default() };
    // SAFETY: the call writes one structure of the length that it is told, to memory that is borrowed here.
    let known = unsafe { GlobalMemoryStatusEx(&raw mut found) } != 0;
    // Windows promises no more memory than RAM and page file have, written to or not.
    let available = found.ullAvailPhys.min(found.ullAvailPageFile);
    known.then_some(MachineMemory { total: found.ullTotalPhys, available })
}

/// Memory of the machine; `None` on systems for which this is not written.
#[cfg(not(windows))]
pub fn memory() -> Option<MachineMemory> {
    None
}

/// Free bytes for this user on the disk of `folder`.
#[cfg(windows)]
pub(super) fn free_bytes(folder: &std::path::Path) -> Option<u64> {
    use std::os::windows::ffi::OsStrExt;

    use windows_sys::Win32::Storage::FileSystem::GetDiskFreeSpaceExW;

    let name: Vec<u16> = folder.as_os_str().encode_wide().chain([0]).collect();
    let (mut free, unwanted) = (0, std::ptr::null_mut());
    // SAFETY: the name ends with a zero and lives until the call returns; the call writes one number, to
    // memory that is borrowed here, and nothing where the pointer is null.
    let known = unsafe { GetDiskFreeSpaceExW(name.as_ptr(), &raw mut free, unwanted, unwanted) } != 0;
    known.then_some(free)
}

#[cfg(all(test, windows))]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory_and_a_disk() {
        let memory = memory().unwrap();
        assert!(memory.available > 1 << 20 && memory.available <= memory.total, "{memory:?}");
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 1 << 20);
        assert_eq!(free_bytes(&folder.path().join("none")), None);
    }
}
