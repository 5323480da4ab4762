//! A model hub on this machine, for tests of downloads: the API, redirects to another host, ranges, and the
//! faults that real ones have. Checksums are given: it must not know how they are computed.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The commit that every revision points to.
pub const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
/// The repository that exists.
pub const REPO: &str = "org/model";

/// A file of the repository.
#[derive(Debug, Clone)]
pub struct FakeFile {
    /// Path in the repository.
    pub path: String,
    /// Content.
    pub bytes: Arc<Vec<u8>>,
    /// SHA-256 of a large file, git's SHA-1 of a small one.
    pub checksum: String,
}

/// What goes wrong. Numbers count down with every answer that they spoil.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The connection ends after this many bytes of a body; in this many answers.
    pub cut: Option<(usize, u32)>,
    /// Nothing more comes after this many bytes of a body; in this many answers.
    pub stall: Option<(usize, u32)>,
    /// Requests of files are answered with this status; this many times.
    pub status: Option<(u16, u32)>,
    /// Requests of the API are answered with this status and error code.
    pub refusal: Option<(u16, &'static str)>,
    /// Ranges are answered with the whole file.
    pub no_ranges: bool,
    /// Checksum that the file's address shows in place of the listed one.
    pub etag: Option<String>,
    /// A byte of every body is another one.
    pub wrong_bytes: bool,
    /// Addresses of files redirect to themselves.
    pub redirect_loop: bool,
    /// Files are said to have this many bytes more than they have.
    pub longer: u64,
    /// Number in the addresses of the other host; those with another number are valid no more.
    pub signed: u32,
    /// Entries of a page of the listing; 0 for all.
    pub page: usize,
    /// Time before each answer.
    pub delay: Duration,
    /// Time before each 64 KiB of a body.
    pub slow: Duration,
}

/// A request as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Name and port that the client wanted to reach.
    pub host: String,
    /// The part that was asked for.
    pub range: Option<String>,
    /// The secret that came with it.
    pub token: Option<String>,
}

/// The server; its threads end with the process.
#[derive(Debug, Clone)]
pub struct FakeHub {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: Vec<FakeFile>,
    faults: Mutex<Faults>,
    connections: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
}

impl FakeHub {
    /// Starts a hub with one repository.
    ///
    /// # Panics
    /// If no port can be had.
    pub fn start(files: Vec<FakeFile>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared {
            files,
            faults: Mutex::default(),
            connections: AtomicUsize::new(0),
            seen: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                shared.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(&stream, &shared, port));
            }
        });
        Self { port, shared }
    }

    /// For `HF_ENDPOINT`.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What goes wrong from now on.
    pub fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Number of requests for bodies whose path has this part.
    pub fn requests_of(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.method == "GET" && seen.path.contains(part)).count()
    }
}

fn serve(stream: &TcpStream, shared: &Shared, port: u16) {
    let Ok(reading) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reading);
    while let Some(seen) = request(&mut lines) {
        shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        let answering = Answering { stream, shared, seen: &seen, port };
        if !matches!(answering.answer(), Ok(true)) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn request(lines: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut first = String::new();
    if lines.read_line(&mut first).ok()? == 0 {
        return None;
    }
    let mut parts = first.split_whitespace();
    let mut seen = Seen {
        method: parts.next()?.to_owned(),
        path: parts.next()?.to_owned(),
        host: String::new(),
        range: None,
        token: None,
    };
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Some(seen) };
        let value = value.trim().to_owned();
        match name.to_lowercase().as_str() {
            "host" => seen.host = value,
            "range" => seen.range = Some(value),
            "authorization" => seen.token = Some(value),
            _ => {}
        }
    }
}

/// One answer on a connection. Methods return whether the connection stays.
struct Answering<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    seen: &'a Seen,
    port: u16,
}

impl Answering<'_> {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self) -> io::Result<bool> {
        let delay = self.faults().delay;
        std::thread::sleep(delay);
        let path = self.seen.path.split('?').next().unwrap_or("");
        let api = format!("/api/models/{REPO}/");
        let file = format!("/{REPO}/resolve/{COMMIT}/");
        if let Some((status, code)) = self.faults().refusal {
            return self.reply(status, &[format!("X-Error-Code: {code}")], b"{}");
        }
        if let Some(rest) = path.strip_prefix(&api) {
            if rest.starts_with("tree/") {
                return self.tree();
            }
            let siblings = self.siblings();
            let info = format!("{{\"id\":\"{REPO}\",\"sha\":\"{COMMIT}\",\"siblings\":[{siblings}]}}");
            return self.reply(200, &[], info.as_bytes());
        }
        if path.starts_with("/api/") {
            return self.reply(404, &["X-Error-Code: RepoNotFound".to_owned()], b"{}");
        }
        if let Some(name) = path.strip_prefix(&file) {
            return self.resolve(name);
        }
        let signed = format!("signed={}", self.faults().signed);
        match path.strip_prefix("/cdn/") {
            Some(_) if !self.seen.path.ends_with(&signed) => self.reply(403, &[], b"expired"),
            Some(name) => match self.shared.files.iter().find(|file| file.path == name) {
                Some(file) => self.body(&file.bytes, &[]),
                None => self.reply(404, &[], b""),
            },
            None => self.reply(404, &[], b""),
        }
    }

    /// Files in the answer about a revision: all about them, or their names where the listing has pages.
    fn siblings(&self) -> String {
        let faults = self.faults().clone();
        let sibling = |file: &FakeFile| {
            let size = file.bytes.len() as u64 + faults.longer;
            let (path, sum) = (&file.path, &file.checksum);
            match sum.len() {
                _ if faults.page > 0 => format!("{{\"rfilename\":\"{path}\"}}"),
                40 => format!("{{\"rfilename\":\"{path}\",\"size\":{size},\"blobId\":\"{sum}\"}}"),
                _ => format!(
                    "{{\"rfilename\":\"{path}\",\"size\":{size},\"blobId\":\"{}\",\
                     \"lfs\":{{\"sha256\":\"{sum}\",\"size\":{size},\"pointerSize\":132}}}}",
                    "b".repeat(40)
                ),
            }
        };
        self.shared.files.iter().map(sibling).collect::<Vec<_>>().join(",")
    }

    /// The listing, in pages if asked to.
    fn tree(&self) -> io::Result<bool> {
        let faults = self.faults().clone();
        let from: usize = self.seen.path.split("cursor=").nth(1).and_then(|c| c.parse().ok()).unwrap_or(0);
        let page = if faults.page == 0 { self.shared.files.len().max(1) } else { faults.page };
        let entry = |file: &FakeFile| {
            let size = file.bytes.len() as u64 + faults.longer;
            let large = match file.checksum.len() {
                64 => {
                    format!(",\"lfs\":{{\"oid\":\"{}\",\"size\":{size},\"pointerSize\":132}}", file.checksum)
                }
                _ => String::new(),
            };
            let oid = if large.is_empty() { file.checksum.clone() } else { "b".repeat(40) };
            format!(
                "{{\"type\":\"file\",\"oid\":\"{oid}\",\"size\":{size},\"path\":\"{}\"{large}}}",
                file.path
            )
        };
        let entries: Vec<_> = self.shared.files.iter().skip(from).take(page).map(entry).collect();
        let next = format!("/api/models/{REPO}/tree/{COMMIT}?recursive=true&cursor={}", from + page);
        let link = (from + page < self.shared.files.len())
            .then(|| format!("Link: <http://127.0.0.1:{}{next}>; rel=\"next\"", self.port));
        let link: Vec<_> = link.into_iter().collect();
        self.reply(200, &link, format!("[{}]", entries.join(",")).as_bytes())
    }

    /// The address of a file: small ones are sent from here, large ones from another host.
    fn resolve(&self, name: &str) -> io::Result<bool> {
        let Some(file) = self.shared.files.iter().find(|file| file.path == name) else {
            return self.reply(404, &["X-Error-Code: EntryNotFound".to_owned()], b"");
        };
        let faults = self.faults().clone();
        let etag = faults.etag.clone().unwrap_or_else(|| file.checksum.clone());
        let commit = format!("X-Repo-Commit: {COMMIT}");
        if faults.redirect_loop {
            let here = format!("Location: http://127.0.0.1:{}{}", self.port, self.seen.path);
            return self.reply(302, &[here, commit], b"");
        }
        if file.checksum.len() == 40 {
            return self.body(&file.bytes, &[format!("ETag: \"{etag}\""), commit]);
        }
        let size = file.bytes.len() as u64 + faults.longer;
        let location =
            format!("Location: http://localhost:{}/cdn/{name}?signed={}", self.port, faults.signed);
        let linked = [format!("X-Linked-Etag: \"{etag}\""), format!("X-Linked-Size: {size}")];
        self.reply(302, &[location, commit, linked[0].clone(), linked[1].clone()], b"")
    }

    fn body(&self, bytes: &[u8], headers: &[String]) -> io::Result<bool> {
        let mut faults = self.faults();
        if let Some((status, times)) = faults.status
            && times > 0
            && self.seen.method == "GET"
        {
            faults.status = Some((status, times - 1));
            drop(faults);
            return self.reply(status, &["Retry-After: 0".to_owned()], b"later");
        }
        let no_ranges = faults.no_ranges;
        drop(faults);
        let range = self.seen.range.as_deref().filter(|_| !no_ranges).and_then(|range| {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            Some((from.parse::<usize>().ok()?, to.parse::<usize>().unwrap_or(usize::MAX)))
        });
        let Some((from, to)) = range else { return self.send(200, headers, bytes, bytes.len()) };
        if from >= bytes.len() {
            return self.reply(416, &[format!("Content-Range: bytes */{}", bytes.len())], b"");
        }
        let to = to.min(bytes.len() - 1);
        let mut headers = headers.to_vec();
        headers.push(format!("Content-Range: bytes {from}-{to}/{}", bytes.len()));
        self.send(206, &headers, &bytes[from..=to], to + 1 - from)
    }

    fn reply(&self, status: u16, headers: &[String], body: &[u8]) -> io::Result<bool> {
        self.head(status, headers, body.len())?;
        if self.seen.method == "GET" {
            (&mut &*self.stream).write_all(body)?;
        }
        Ok(true)
    }

    fn head(&self, status: u16, headers: &[String], length: usize) -> io::Result<()> {
        let mut text = format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n");
        headers.iter().for_each(|header| text += &format!("{header}\r\n"));
        (&mut &*self.stream).write_all(format!("{text}\r\n").as_bytes())
    }

    /// Sends a file's bytes, with the faults of bodies.
    fn send(&self, status: u16, headers: &[String], bytes: &[u8], length: usize) -> io::Result<bool> {
        self.head(status, headers, length)?;
        if self.seen.method != "GET" {
            return Ok(true);
        }
        let faults = {
            let mut faults = self.faults();
            let now = faults.clone();
            let less = |fault: &mut Option<(usize, u32)>| {
                if let Some((_, times)) = fault {
                    *times = times.saturating_sub(1);
                }
            };
            less(&mut faults.cut);
            less(&mut faults.stall);
            now
        };
        let mut bytes = std::borrow::Cow::Borrowed(bytes);
        if faults.wrong_bytes {
            let middle = bytes.len() / 2;
            bytes.to_mut().iter_mut().skip(middle).take(1).for_each(|byte| *byte ^= 1);
        }
        let spoiled = |fault: Option<(usize, u32)>| fault.filter(|fault| fault.1 > 0).map(|fault| fault.0);
        let (cut, stall) = (spoiled(faults.cut), spoiled(faults.stall));
        let end = cut.or(stall).map_or(bytes.len(), |end| end.min(bytes.len()));
        for part in bytes[..end].chunks(64 << 10) {
            if !faults.slow.is_zero() {
                std::thread::sleep(faults.slow);
            }
            (&mut &*self.stream).write_all(part)?;
        }
        if stall.is_some() {
            std::thread::sleep(Duration::from_secs(30));
        }
        Ok(cut.is_none() && stall.is_none())
    }
}
