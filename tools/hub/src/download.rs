//! One file: locked, fetched over several connections, written in order to `CHECKSUM.incomplete`, checked
//! while it is written, synced and renamed. What was written by an earlier try is checked and kept. It must
//! not know what a snapshot is.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use moelten_loader::supervise::supervised;

use crate::api;
use crate::cache::{Cache, sync_folder};
use crate::digest::FileDigest;
use crate::error::HubError;
use crate::http::{Failure, Http, TRIES, host, sleep};
use crate::name::ModelName;
use crate::select::RemoteFile;
use crate::watch::Watch;
use crate::window::{Next, Window};

/// Size of a piece in bytes. With the window of pieces, of which connections fill some, and the one that is
/// written, at most 36 MiB are in memory.
const PIECE: u64 = 4 << 20;
/// Connections for one file.
const CONNECTIONS: u64 = 4;
/// Time between two looks at progress and Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that are read back at once, when what an earlier try wrote is checked.
const BACK: usize = 1 << 20;

/// A file to download and everything that takes.
pub struct Download<'a> {
    /// Client.
    pub http: &'a Http,
    /// Where it is written.
    pub cache: &'a Cache,
    /// The repository, for errors.
    pub name: &'a ModelName,
    /// The revision that was looked up, 40 hexadecimal digits.
    pub commit: &'a str,
    /// What is downloaded, as the hub lists it.
    pub file: &'a RemoteFile,
    /// Progress and Ctrl-C.
    pub watch: &'a dyn Watch,
    /// Bytes of other files that are done, for progress.
    pub before: u64,
}

impl Download<'_> {
    /// Makes the file complete in the cache. Bytes of other tries and other processes count.
    ///
    /// # Errors
    /// [`HubError`]; what has arrived is kept, except with [`HubError::WrongBytes`].
    pub fn run(&self) -> Result<(), HubError> {
        let Self { cache, file, .. } = self;
        let repo = &self.name.repo;
        let blob = cache.blob(repo, &file.checksum);
        let digest =
            FileDigest::for_checksum(&file.checksum, file.bytes).ok_or_else(|| HubError::Answer {
                host: host(self.http.endpoint()),
                what: format!("a checksum of {} that is neither SHA-256 nor SHA-1", file.path),
            })?;
        if is_whole(&blob, file.bytes) {
            return Ok(());
        }
        let folder = cache.repo(repo).join("blobs");
        fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        let lock = cache.lock_file(repo, &file.checksum)?;
        self.wait_for(&lock)?;
        // Another process may have completed it meanwhile.
        if is_whole(&blob, file.bytes) {
            return Ok(());
        }
        let path = cache.incomplete(repo, &file.checksum);
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut target = open.map_err(HubError::io(&path))?;
        let digest = self.fill(&mut target, &path, digest)?;
        let found = digest.finish();
        if found != file.checksum {
            fs::remove_file(&path).map_err(HubError::io(&path))?;
            let (file, expected) = (file.path.clone(), file.checksum.clone());
            return Err(HubError::WrongBytes { file, found, expected });
        }
        target.sync_all().map_err(HubError::io(&path))?;
        drop(target);
        fs::rename(&path, &blob).map_err(HubError::io(&blob))?;
        sync_folder(&folder).map_err(HubError::io(&folder))
    }

    /// Takes the lock; says so if another process holds it.
    fn wait_for(&self, lock: &File) -> Result<(), HubError> {
        let mut said = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(fs::TryLockError::WouldBlock) => {}
                // Without locks on this file system two downloads at once would write the same file.
                Err(fs::TryLockError::Error(error)) => return Err(HubError::io(self.cache.root())(error)),
            }
            if self.watch.stopped() {
                return Err(HubError::Stopped);
            }
            if !said {
                self.watch.note(&format!("another program downloads {}; waiting for it", self.file.path));
                said = true;
            }
            sleep(LOOK, &|| self.watch.stopped());
        }
    }

    /// Brings the file to its full length. Returns the checksum of all its bytes.
    fn fill(&self, target: &mut File, path: &Path, digest: FileDigest) -> Result<FileDigest, HubError> {
        let size = self.file.bytes;
        let have = target.seek(SeekFrom::End(0)).map_err(HubError::io(path))?;
        let have = if have > size { 0 } else { have };
        target.set_len(have).map_err(HubError::io(path))?;
        let mut digest = digest;
        self.check_back(target, path, have, &mut digest)?;
        self.watch.progress(self.before + have);
        if have == size {
            return Ok(digest);
        }
        let source = self.source()?;
        let Some(digest) = self.in_pieces(target, path, &source, have, digest)? else {
            self.watch.note(&format!(
                "{} sends files only as a whole: this download starts again and cannot resume",
                host(&source)
            ));
            return self.in_one_stream(target, path, &source);
        };
        Ok(digest)
    }

    /// Adds the bytes of an earlier try to the checksum.
    fn check_back(
        &self,
        target: &mut File,
        path: &Path,
        have: u64,
        digest: &mut FileDigest,
    ) -> Result<(), HubError> {
        target.seek(SeekFrom::Start(0)).map_err(HubError::io(path))?;
        let mut buffer = vec![0; BACK.min(usize::try_from(have).unwrap_or(BACK))];
        let mut left = have;
        while left > 0 {
            let wanted = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            target.read_exact(&mut buffer[..wanted]).map_err(HubError::io(path))?;
            digest.update(&buffer[..wanted]);
            left -= wanted as u64;
            self.watch.progress(self.before + have - left);
            if self.watch.stopped() {
                return Err(HubError::Stopped);
            }
        }
        Ok(())
    }

    /// Asks the hub for the address of the bytes after all redirects, and whether they are still those of the
    /// listing.
    fn source(&self) -> Result<String, HubError> {
        let url = resolve(self.http, self.name, self.commit, &self.file.path);
        let answer = self.http.ask(&url, true, &|| self.watch.stopped())?;
        let status = answer.response.status().as_u16();
        if status >= 400 {
            return Err(api::refusal(self.http, self.name, status, &answer.first));
        }
        let header = |name: &str| answer.first.get(name).and_then(|value| value.to_str().ok());
        let changed = |what: String| HubError::Changed { file: self.file.path.clone(), what };
        let etag = header("x-linked-etag").or_else(|| header("etag"));
        if let Some(etag) = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"'))
            && etag != self.file.checksum
        {
            return Err(changed(format!("its checksum is {etag:?}, listed {}", self.file.checksum)));
        }
        if let Some(size) = header("x-linked-size").and_then(|size| size.parse::<u64>().ok())
            && size != self.file.bytes
        {
            return Err(changed(format!("its size is {size} bytes, listed {}", self.file.bytes)));
        }
        Ok(answer.url)
    }

    /// Several connections fetch pieces; this thread writes them in order. `None` if the server ignores
    /// ranges.
    fn in_pieces(
        &self,
        target: &mut File,
        path: &Path,
        source: &str,
        have: u64,
        mut digest: FileDigest,
    ) -> Result<Option<FileDigest>, HubError> {
        let size = self.file.bytes;
        let pieces = (size - have).div_ceil(PIECE);
        let window = Window::new(pieces);
        let fetcher = Arc::new(Fetcher {
            http: self.http.clone(),
            url: source.to_owned(),
            again: resolve(self.http, self.name, self.commit, &self.file.path),
            file: self.file.path.clone(),
            from: have,
            size,
            window: Arc::clone(&window),
        });
        for _ in 0..CONNECTIONS.min(pieces) {
            let fetcher = Arc::clone(&fetcher);
            let ending = Arc::clone(&window);
            let host = host(source);
            let on_panic = move |what| ending.fail(HubError::Answer { host, what });
            // Not waited for: one that hangs in a read must not hold up Ctrl-C.
            supervised("download", on_panic, move || fetcher.run()).map_err(HubError::io(path))?;
        }
        let mut write = || -> Result<Option<FileDigest>, HubError> {
            loop {
                if self.watch.stopped() {
                    return Err(HubError::Stopped);
                }
                let (next, bytes) = window.next(LOOK)?;
                self.watch.progress(self.before + have + bytes);
                match next {
                    Next::Piece(piece) => {
                        target.write_all(&piece).map_err(HubError::io(path))?;
                        digest.update(&piece);
                        window.recycle(piece);
                    }
                    Next::Wait => {}
                    Next::End => return Ok(None),
                }
            }
        };
        let written = write();
        window.close();
        match written {
            Ok(_) => Ok(Some(digest)),
            Err(HubError::Answer { what, .. }) if what == NO_RANGES => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The whole file from its start, over one connection.
    fn in_one_stream(&self, target: &mut File, path: &Path, source: &str) -> Result<FileDigest, HubError> {
        let mut tries = 1;
        loop {
            target.set_len(0).and_then(|()| target.seek(SeekFrom::Start(0))).map_err(HubError::io(path))?;
            let digest = FileDigest::for_checksum(&self.file.checksum, self.file.bytes);
            let digest = digest.ok_or(HubError::Stopped)?;
            match self.stream(target, path, source, digest) {
                Ok(digest) => return Ok(digest),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(why, _)) if tries >= TRIES => {
                    return Err(HubError::Network { host: host(source), why, tries });
                }
                Err(Failure::Again(_, wait)) => {
                    sleep(wait.unwrap_or_else(|| self.http.pause(tries)), &|| self.watch.stopped());
                }
            }
            tries += 1;
        }
    }

    fn stream(
        &self,
        target: &mut File,
        path: &Path,
        source: &str,
        mut digest: FileDigest,
    ) -> Result<FileDigest, Failure> {
        let answer = self.http.once(source, false, None)?;
        let status = answer.response.status().as_u16();
        if status != 200 {
            return Err(Failure::Final(api::refusal(self.http, self.name, status, &answer.first)));
        }
        let mut reader = answer.response.into_body().into_reader();
        let (mut buffer, mut done) = (vec![0; 256 << 10], 0);
        loop {
            if self.watch.stopped() {
                return Err(Failure::Final(HubError::Stopped));
            }
            let read = reader.read(&mut buffer).map_err(|error| Failure::Again(error.to_string(), None))?;
            done += read as u64;
            if done > self.file.bytes || (read == 0 && done < self.file.bytes) {
                return Err(Failure::Again(format!("{done} bytes came of {}", self.file.bytes), None));
            }
            if read == 0 {
                return Ok(digest);
            }
            target.write_all(&buffer[..read]).map_err(|e| Failure::Final(HubError::io(path)(e)))?;
            digest.update(&buffer[..read]);
            self.watch.progress(self.before + done);
        }
    }
}

/// Marks a server that answers a range with the whole file.
const NO_RANGES: &str = "the whole file in place of a part";

/// What one connection needs to fetch pieces.
struct Fetcher {
    http: Http,
    url: String,
    /// The hub's own address of the file: it redirects anew, for when the one above is valid no more.
    again: String,
    file: String,
    /// Byte at which the first piece begins.
    from: u64,
    size: u64,
    window: Arc<Window>,
}

impl Fetcher {
    fn run(&self) {
        while let Some((piece, memory)) = self.window.take() {
            match self.piece(piece, memory) {
                Ok(bytes) => self.window.put(piece, bytes),
                Err(error) => self.window.fail(error),
            }
        }
    }

    /// Fetches a piece into empty memory. Tries count only while nothing arrives: a slow line is not an
    /// error.
    fn piece(&self, piece: u64, memory: Vec<u8>) -> Result<Vec<u8>, HubError> {
        let from = self.from + piece * PIECE;
        let length = PIECE.min(self.size - from);
        let mut bytes = memory;
        bytes.reserve_exact(usize::try_from(length).unwrap_or(0));
        let (mut tries, mut url) = (1, &self.url);
        while (bytes.len() as u64) < length {
            let before = bytes.len();
            let Err(failure) = self.part(url, from, length, &mut bytes) else { continue };
            url = &self.again;
            let (why, wait) = match failure {
                Failure::Final(error) => return Err(error),
                Failure::Again(why, wait) => (why, wait),
            };
            if bytes.len() > before {
                tries = 1;
            } else if tries >= TRIES {
                return Err(HubError::Network { host: host(&self.url), why, tries });
            } else {
                tries += 1;
            }
            sleep(wait.unwrap_or_else(|| self.http.pause(tries)), &|| !self.window.arrived(0));
        }
        Ok(bytes)
    }

    /// One request for what is missing of a piece.
    fn part(&self, url: &str, from: u64, length: u64, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        let range = (from + bytes.len() as u64, from + length - 1);
        let answer = self.http.once(url, false, Some(range))?;
        let status = answer.response.status().as_u16();
        let fault = |what: String| Failure::Final(HubError::Answer { host: host(&self.url), what });
        let changed = |what: String| Failure::Final(HubError::Changed { file: self.file.clone(), what });
        match status {
            206 => {}
            // The whole file is good enough if the part begins at its start and is all of it.
            200 if range == (0, self.size - 1) => {}
            200 => return Err(fault(NO_RANGES.to_owned())),
            416 => return Err(changed(format!("the server has no bytes {} to {}", range.0, range.1))),
            // A signed address that has expired, or a server that is not ready: the next try asks again.
            401 | 403 => return Err(Failure::Again(format!("status {status}"), None)),
            _ => return Err(fault(format!("status {status}"))),
        }
        if status == 206 {
            self.check_range(range, answer.response.headers()).map_err(changed)?;
        }
        let mut reader = answer.response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        while (bytes.len() as u64) < length {
            let read = match reader.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Again(error.to_string(), None)),
            };
            if read == 0 {
                return Err(Failure::Again("the connection ended early".to_owned(), None));
            }
            let left = usize::try_from(length).unwrap_or(usize::MAX) - bytes.len();
            bytes.extend_from_slice(&buffer[..read.min(left)]);
            if !self.window.arrived(read.min(left) as u64) {
                return Err(Failure::Final(HubError::Stopped));
            }
        }
        // Only a body that was read to its end gives its connection back. A failure costs no byte.
        let _end = reader.read(&mut buffer);
        Ok(())
    }

    /// The part that came is the one that was asked for, of a file of the listed size.
    fn check_range(&self, range: (u64, u64), headers: &ureq::http::HeaderMap) -> Result<(), String> {
        let text = headers.get("content-range").and_then(|text| text.to_str().ok()).unwrap_or("");
        let expected = format!("bytes {}-", range.0);
        let size = text.rsplit('/').next().unwrap_or("");
        if !text.starts_with(&expected) || (size != "*" && size != self.size.to_string()) {
            return Err(format!(
                "bytes {} to {} of {} were asked for, {text:?} came",
                range.0, range.1, self.size
            ));
        }
        Ok(())
    }
}

/// Address of a file of a commit.
pub fn resolve(http: &Http, name: &ModelName, commit: &str, path: &str) -> String {
    let mut encoded = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    format!("{}/{}/resolve/{commit}/{encoded}", http.endpoint(), name.repo)
}

fn is_whole(path: &Path, bytes: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == bytes)
}
