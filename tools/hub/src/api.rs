//! The hub's API: the commit of a revision, and the files of a commit. It must not know which of them are
//! wanted.

use serde::Deserialize;
use ureq::http::HeaderMap;

use crate::error::HubError;
use crate::http::{Http, host};
use crate::name::{ModelName, is_commit, is_safe_path};
use crate::select::RemoteFile;

/// Pages of a listing of files that are read; a page has up to a thousand entries.
const PAGES_MAX: usize = 50;

/// A revision of a repository: its commit and its files.
#[derive(Debug)]
pub struct Listing {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// Every file.
    pub files: Vec<RemoteFile>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

/// A file in the answer about a revision. Hubs may leave all but the name out.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<SiblingLfs>,
}

#[derive(Deserialize)]
struct SiblingLfs {
    sha256: String,
    size: u64,
}

impl Sibling {
    fn file(self) -> Option<RemoteFile> {
        let (bytes, checksum) = match self.lfs {
            Some(lfs) => (lfs.size, lfs.sha256),
            None => (self.size?, self.blob?),
        };
        Some(RemoteFile { path: self.rfilename, bytes, checksum })
    }
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    oid: String,
    size: u64,
    path: String,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    oid: String,
    size: u64,
}

/// Looks up the commit and the files of a name's revision.
///
/// # Errors
/// [`HubError`]: no such repository or revision, gated, the network.
pub fn list(http: &Http, name: &ModelName, stopped: &dyn Fn() -> bool) -> Result<Listing, HubError> {
    let endpoint = http.endpoint();
    let revision = name.revision.as_deref().unwrap_or("main");
    let refused = |status: u16, headers: &HeaderMap| refusal(http, name, status, headers);
    let encoded = revision.replace('/', "%2F");
    let url = format!("{endpoint}/api/models/{}/revision/{encoded}?blobs=true", name.repo);
    let (bytes, _) = http.text(&url, stopped, &refused)?;
    let info: Info = parse(&url, &bytes)?;
    if !is_commit(&info.sha) {
        return Err(HubError::Answer {
            host: host(&url),
            what: "a commit that is not 40 hexadecimal digits".into(),
        });
    }
    let known: Option<Vec<RemoteFile>> = info.siblings.into_iter().map(Sibling::file).collect();
    if let Some(mut files) = known.filter(|files| !files.is_empty()) {
        // A file whose name leaves its folder on some system is not of a model.
        files.retain(|file| is_safe_path(&file.path));
        return Ok(Listing { commit: info.sha, files });
    }
    let files = tree(http, name, &info.sha, stopped, &refused)?;
    Ok(Listing { commit: info.sha, files })
}

/// The files of a commit page by page, where the answer about the revision does not have them all.
fn tree(
    http: &Http,
    name: &ModelName,
    commit: &str,
    stopped: &dyn Fn() -> bool,
    refused: &dyn Fn(u16, &HeaderMap) -> HubError,
) -> Result<Vec<RemoteFile>, HubError> {
    let endpoint = http.endpoint();
    let mut files = Vec::new();
    let mut next = Some(format!("{endpoint}/api/models/{}/tree/{commit}?recursive=true", name.repo));
    let mut pages = 0;
    while let Some(url) = next {
        pages += 1;
        if pages > PAGES_MAX {
            return Err(HubError::Answer {
                host: host(&url),
                what: format!("more than {PAGES_MAX} pages of files"),
            });
        }
        let (bytes, following) = http.text(&url, stopped, refused)?;
        let entries: Vec<Entry> = parse(&url, &bytes)?;
        let known = entries.into_iter().filter(|entry| entry.kind == "file" && is_safe_path(&entry.path));
        files.extend(known.map(|entry| match entry.lfs {
            Some(lfs) => RemoteFile { path: entry.path, bytes: lfs.size, checksum: lfs.oid },
            None => RemoteFile { path: entry.path, bytes: entry.size, checksum: entry.oid },
        }));
        next = following;
    }
    Ok(files)
}

fn parse<T: for<'a> Deserialize<'a>>(url: &str, bytes: &[u8]) -> Result<T, HubError> {
    serde_json::from_slice(bytes).map_err(|error| HubError::Answer {
        host: host(url),
        what: format!("JSON that is not a hub's: {error}"),
    })
}

/// The error for a status from 300, by the hub's `X-Error-Code`.
pub fn refusal(http: &Http, name: &ModelName, status: u16, headers: &HeaderMap) -> HubError {
    let repo = name.repo.to_string();
    let code = headers.get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or("");
    let page = format!("{}/{repo}", http.endpoint());
    let token = if http.has_token() { "the one that was sent has no access" } else { "none was sent" };
    match (code, status) {
        ("GatedRepo", _) => HubError::Gated { repo, page, token },
        ("RevisionNotFound", _) => {
            HubError::NoRevision { repo, revision: name.revision.clone().unwrap_or_else(|| "main".into()) }
        }
        ("RepoNotFound", _) => HubError::NoRepository { repo },
        ("EntryNotFound", _) => HubError::Changed { file: repo, what: "a listed file is gone".to_owned() },
        // The hub hides private repositories from strangers behind this status.
        (_, 401) if !http.has_token() => HubError::NoRepository { repo },
        (_, 401) => HubError::Token { status },
        (_, 403) => HubError::Gated { repo, page, token },
        (_, 404) => HubError::NoRepository { repo },
        _ => HubError::Answer { host: host(http.endpoint()), what: format!("status {status}") },
    }
}
