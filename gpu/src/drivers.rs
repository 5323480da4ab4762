//! Whether a Vulkan driver can be on this machine, by the files that the Vulkan loader reads on Linux.
//! The loader takes milliseconds of every start to find nothing. Wherever a machine or its settings are
//! unusual the answer is yes, and the loader decides. It must not know what a driver is used for.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What an environment variable is set to.
type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Variables that name drivers, or that may bring a loader which looks elsewhere.
const UNUSUAL: [&str; 6] =
    ["VK_DRIVER_FILES", "VK_ICD_FILENAMES", "VK_ADD_DRIVER_FILES", "LD_LIBRARY_PATH", "LD_PRELOAD", "SNAP"];
/// Where systems are whose loaders look elsewhere: Flatpak and NixOS.
const OTHER_SYSTEMS: [&str; 2] = [".flatpak-info", "run/opengl-driver"];
/// Folders in which distributions have a loader that looks where its documentation says.
const LIBRARIES: [&str; 4] =
    ["usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"];
/// Where it looks whatever the variables are, and where it does when they are not set.
const FOLDERS: [&str; 5] = ["etc", "usr/local/etc", "etc/xdg", "usr/local/share", "usr/share"];
/// Variables with lists of folders, and variables with one folder and what stands for it in the home folder.
const LISTS: [&str; 2] = ["XDG_CONFIG_DIRS", "XDG_DATA_DIRS"];
const HOMES: [(&str, &str); 2] = [("XDG_CONFIG_HOME", ".config"), ("XDG_DATA_HOME", ".local/share")];
/// In each of these folders: manifests of drivers, and settings of the loader, which may name others.
const PARTS: [&str; 2] = ["vulkan/icd.d", "vulkan/loader_settings.d"];

/// Whether a driver can be here. If not, loading the loader would find none.
pub(crate) fn may_be_here() -> bool {
    !cfg!(target_os = "linux") || found(&|name| std::env::var_os(name), Path::new("/"))
}

/// As [`may_be_here`] on Linux, with these variables and with the files below `root`.
fn found(variable: Variable<'_>, root: &Path) -> bool {
    let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let there = |path: &&str| root.join(path).exists();
    let usual = |path: &&str| root.join(path).join("libvulkan.so.1").exists();
    UNUSUAL.iter().any(set)
        || OTHER_SYSTEMS.iter().any(there)
        || !LIBRARIES.iter().any(usual)
        || folders(variable, root).iter().any(|folder| PARTS.iter().any(|part| has_any(&folder.join(part))))
}

/// All folders that the loader may look into: also those whose place a variable takes.
fn folders(variable: Variable<'_>, root: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    for list in LISTS.iter().filter_map(|name| variable(name)) {
        all.extend(std::env::split_paths(&list));
    }
    let home = variable("HOME").map(PathBuf::from);
    for (name, usual) in HOMES {
        all.extend(variable(name).map(PathBuf::from));
        all.extend(home.as_ref().map(|home| home.join(usual)));
    }
    all
}

/// Whether a folder has files, or cannot be read.
fn has_any(folder: &Path) -> bool {
    match folder.read_dir() {
        Ok(mut files) => files.next().is_some(),
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with a loader of a distribution and nothing else.
    fn machine() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), "usr/lib64/libvulkan.so.1");
        for empty in ["etc/vulkan/icd.d", "home/ann/.config"] {
            std::fs::create_dir_all(root.path().join(empty)).expect("a folder");
        }
        root
    }

    fn put(root: &Path, file: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().expect("it is in a folder")).expect("a folder");
        std::fs::write(path, "").expect("a file");
    }

    /// With these variables, whose values are folders of the machine.
    fn with(root: &Path, variables: &[(&str, &[&str])]) -> bool {
        let value = |name: &str| {
            let (_, folders) = variables.iter().find(|(variable, _)| *variable == name)?;
            Some(std::env::join_paths(folders.iter().map(|folder| root.join(folder))).expect("a list"))
        };
        found(&value, root)
    }

    const ANN: (&str, &[&str]) = ("HOME", &["home/ann"]);

    #[test]
    fn without_a_manifest_there_is_no_driver() {
        let root = machine();
        assert!(!with(root.path(), &[]));
        assert!(!with(root.path(), &[ANN, ("XDG_DATA_DIRS", &["usr/share", "nowhere"])]));
        assert!(!found(&|_| Some(OsString::new()), root.path()), "an empty variable is none");
    }

    #[test]
    fn a_manifest_is_found_in_every_place_of_the_documentation() {
        let variables: &[(&str, &[&str])] = &[
            ANN,
            ("XDG_CONFIG_HOME", &["own/config"]),
            ("XDG_CONFIG_DIRS", &["a", "b"]),
            ("XDG_DATA_HOME", &["own/data"]),
            ("XDG_DATA_DIRS", &["c", "d"]),
        ];
        let always = ["etc", "usr/local/etc", "etc/xdg", "usr/local/share", "usr/share"];
        let home = ["home/ann/.config", "home/ann/.local/share"];
        let named = ["own/config", "a", "b", "own/data", "c", "d"];
        for (places, variables) in
            [(&always[..], &[][..]), (&home, &[ANN]), (&named, variables), (&home, variables)]
        {
            for place in places {
                for part in ["icd.d/card.json", "loader_settings.d/vk_loader_settings.json"] {
                    let root = machine();
                    put(root.path(), &format!("{place}/vulkan/{part}"));
                    assert!(with(root.path(), variables), "{place} {part} {variables:?}");
                }
            }
        }
    }

    #[test]
    fn whatever_is_unusual_is_left_to_the_loader() {
        for name in UNUSUAL {
            assert!(with(machine().path(), &[(name, &["nowhere"])]), "{name}");
        }
        for file in [".flatpak-info", "run/opengl-driver/share"] {
            let root = machine();
            put(root.path(), file);
            assert!(with(root.path(), &[]), "{file}");
        }
        let elsewhere = tempfile::tempdir().expect("a folder");
        assert!(with(elsewhere.path(), &[]), "no loader where distributions have it");
    }

    #[test]
    fn a_folder_that_is_a_file_has_none() {
        let root = machine();
        put(root.path(), "usr/share/vulkan");
        assert!(!with(root.path(), &[]));
    }
}
