//! The cache that programs of the Hugging Face hub share: `models--USER--REPO` with `blobs` named by
//! checksum, `refs` from revisions to commits, `snapshots` of links to blobs, and locks beside them. It must
//! not use the network.
//!
//! Layout: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>. A snapshot is linked when all
//! files of a download are complete, and a revision points to it after that: what is found is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::HubError;
use crate::name::{RepoId, is_commit, is_revision};
use crate::select::RemoteFile;

/// Levels of folders below a snapshot that are searched.
const DEPTH: usize = 4;

/// The folder of the cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// What was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// How many there were.
    pub files: usize,
    /// Their bytes on the disk.
    pub bytes: u64,
}

impl Cache {
    /// The cache in this folder, which need not exist.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a repository.
    pub fn repo(&self, repo: &RepoId) -> PathBuf {
        self.root.join(repo.folder())
    }

    /// The complete file with this checksum.
    pub fn blob(&self, repo: &RepoId, checksum: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(checksum)
    }

    /// The file while it is downloaded: its first bytes, without gaps.
    pub fn incomplete(&self, repo: &RepoId, checksum: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(format!("{checksum}.incomplete"))
    }

    /// The lock file that a download of this checksum holds, as the hub's own programs do.
    ///
    /// # Errors
    /// [`HubError::Io`].
    pub fn lock_file(&self, repo: &RepoId, checksum: &str) -> Result<File, HubError> {
        let folder = self.root.join(".locks").join(repo.folder());
        fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        let path = folder.join(format!("{checksum}.lock"));
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        open.map_err(HubError::io(&path))
    }

    /// The commit that a revision pointed to when it was downloaded last.
    pub fn commit(&self, repo: &RepoId, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let path = is_revision(revision).then(|| self.repo(repo).join("refs").join(revision))?;
        let commit = fs::read_to_string(path).ok()?;
        let commit = commit.trim();
        is_commit(commit).then(|| commit.to_owned())
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, repo: &RepoId, commit: &str) -> PathBuf {
        self.repo(repo).join("snapshots").join(commit)
    }

    /// Files of a snapshot that are really there; a link to nothing is not.
    pub fn files(&self, repo: &RepoId, commit: &str) -> Vec<RemoteFile> {
        let mut files = Vec::new();
        collect(&self.snapshot(repo, commit), "", DEPTH, &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// Makes a complete file part of a snapshot.
    ///
    /// # Errors
    /// [`HubError::Io`].
    pub fn link(&self, repo: &RepoId, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        let snapshot = self.snapshot(repo, commit);
        let path = snapshot.join(&file.path);
        let folder = path.parent().unwrap_or(&snapshot);
        fs::create_dir_all(folder).map_err(HubError::io(folder))?;
        let blob = self.blob(repo, &file.checksum);
        if path.exists() && same_file(&path, &blob) {
            return Ok(());
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(HubError::io(&path)(error)),
            _ => {}
        }
        // Joined part by part: Windows follows no link with slashes.
        let up = std::iter::repeat_n("..", 2 + file.path.matches('/').count());
        let target: PathBuf = up.chain(["blobs", file.checksum.as_str()]).collect();
        match point(&target, &path, &blob) {
            // Another download has just made the same link.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && same_file(&path, &blob) => Ok(()),
            made => made.map_err(HubError::io(&path)),
        }
    }

    /// Makes a revision point to a commit, at once or not at all.
    ///
    /// # Errors
    /// [`HubError::Io`].
    pub fn set_commit(&self, repo: &RepoId, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(repo, revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.repo(repo).join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.root).to_owned();
        fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        // Two downloads, also of one process, may end at the same time.
        static WRITES: AtomicU64 = AtomicU64::new(0);
        let nth = WRITES.fetch_add(1, Ordering::Relaxed);
        let new = folder.join(format!(".{}-{nth}.new", std::process::id()));
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(commit.as_bytes())?;
            file.sync_all()?;
            drop(file);
            fs::rename(&new, &path)?;
            sync_folder(&folder)
        };
        write().map_err(HubError::io(&path))
    }

    /// Deletes a repository: all its revisions and blobs. The number of files and bytes that this frees or,
    /// without `really`, would free.
    ///
    /// # Errors
    /// [`HubError::Io`]; nothing outside the repository's folder is touched.
    pub fn remove(&self, repo: &RepoId, really: bool) -> Result<Option<Removed>, HubError> {
        let folder = self.repo(repo);
        // A link in the place of the folder would lead out of the cache.
        match fs::symlink_metadata(&folder) {
            Ok(found) if found.is_dir() => {}
            _ => return Ok(None),
        }
        let mut removed = Removed { files: 0, bytes: 0 };
        for path in [folder.join("blobs"), folder.join("snapshots")] {
            weigh(&path, DEPTH + 1, &mut removed);
        }
        if really {
            // Under another name first: a half-deleted repository must not look like one.
            let aside = self.root.join(format!(".removing-{}-{}", std::process::id(), repo.folder()));
            fs::rename(&folder, &aside).map_err(HubError::io(&folder))?;
            fs::remove_dir_all(&aside).map_err(HubError::io(&aside))?;
        }
        Ok(Some(removed))
    }
}

/// The repository of a path into a cache, wherever the cache is:
/// `.../models--USER--REPO/snapshots/COMMIT/...`.
pub fn repository_of(path: &Path) -> Option<RepoId> {
    let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
    let here =
        |at: &[&str]| (at[1] == "snapshots" && is_commit(at[2])).then(|| RepoId::of_folder(at[0])).flatten();
    parts.windows(3).rev().find_map(here)
}

fn collect(folder: &Path, before: &str, depth: usize, files: &mut Vec<RemoteFile>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        // Follows links: what is not there is not listed.
        let Ok(found) = fs::metadata(&path) else { continue };
        let name = format!("{before}{name}");
        if found.is_dir() && depth > 0 {
            collect(&path, &format!("{name}/"), depth - 1, files);
        } else if found.is_file() {
            files.push(RemoteFile { path: name, bytes: found.len(), checksum: String::new() });
        }
    }
}

/// Counts regular files below a folder; links are not followed and weigh nothing.
fn weigh(folder: &Path, depth: usize, removed: &mut Removed) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if found.is_dir() && depth > 0 {
            weigh(&entry.path(), depth - 1, removed);
        } else if found.is_file() {
            removed.files += 1;
            removed.bytes += found.len();
        }
    }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(unix)]
fn point(target: &Path, path: &Path, _blob: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

/// Links need a privilege on Windows: without it a second name of the file, or a copy on another volume.
#[cfg(not(unix))]
fn point(target: &Path, path: &Path, blob: &Path) -> io::Result<()> {
    #[cfg(windows)]
    if std::os::windows::fs::symlink_file(target, path).is_ok() {
        if path.exists() {
            return Ok(());
        }
        // Some volumes take links and do not follow them; Wine takes them and makes none.
        let _ = fs::remove_file(path);
    }
    let _ = target;
    fs::hard_link(blob, path).or_else(|_| fs::copy(blob, path).map(drop))
}

/// Makes the names in a folder durable; Windows has no such call.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo() -> RepoId {
        RepoId::new("u/r").expect("sound")
    }

    #[test]
    fn a_snapshot_is_links_and_a_revision_points_to_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cache, commit) = (Cache::new(folder.path()), "a".repeat(40));
        let file = RemoteFile { path: "sub/m.gguf".into(), bytes: 3, checksum: "b".repeat(64) };
        fs::create_dir_all(cache.repo(&repo()).join("blobs")).expect("a folder");
        fs::write(cache.blob(&repo(), &file.checksum), "abc").expect("a file");
        cache.link(&repo(), &commit, &file).expect("linked");
        cache.link(&repo(), &commit, &file).expect("linked again");
        cache.set_commit(&repo(), "main", &commit).expect("written");
        let path = cache.snapshot(&repo(), &commit).join("sub/m.gguf");
        assert_eq!(fs::read(&path).expect("through the link"), b"abc");
        #[cfg(unix)]
        assert_eq!(
            fs::read_link(&path).expect("a link"),
            Path::new(&format!("../../../blobs/{}", file.checksum))
        );
        assert_eq!(cache.commit(&repo(), "main").as_deref(), Some(commit.as_str()));
        assert_eq!(cache.files(&repo(), &commit)[0].path, "sub/m.gguf");
        assert_eq!(repository_of(&path), Some(repo()));
        assert_eq!(repository_of(&cache.snapshot(&repo(), &commit)), Some(repo()));
        assert_eq!(repository_of(Path::new("/elsewhere/m.gguf")), None);
    }

    #[test]
    fn removing_frees_the_blobs_and_leaves_neighbours() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path());
        let other = RepoId::new("u/other").expect("sound");
        for repo in [&repo(), &other] {
            fs::create_dir_all(cache.repo(repo).join("blobs")).expect("a folder");
            fs::write(cache.repo(repo).join("blobs/x"), [0; 1000]).expect("a file");
        }
        let expected = Some(Removed { files: 1, bytes: 1000 });
        assert_eq!(cache.remove(&repo(), false).expect("counted"), expected);
        assert!(cache.repo(&repo()).exists());
        assert_eq!(cache.remove(&repo(), true).expect("deleted"), expected);
        assert!(!cache.repo(&repo()).exists() && cache.repo(&other).exists());
        assert_eq!(cache.remove(&repo(), true).expect("nothing there"), None);
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_in_the_place_of_a_repository_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let elsewhere = tempfile::tempdir().expect("a folder");
        fs::write(elsewhere.path().join("precious"), "x").expect("a file");
        let cache = Cache::new(folder.path());
        std::os::unix::fs::symlink(elsewhere.path(), cache.repo(&repo())).expect("a link");
        assert_eq!(cache.remove(&repo(), true).expect("nothing"), None);
        assert!(elsewhere.path().join("precious").exists());
    }
}
