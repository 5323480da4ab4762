//! Parts of files on the hub, several at a time, each over a connection of its own. The address to which the
//! hub redirects for a file is asked for once. It must not know what the parts are used for.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use moelten_loader::supervise::supervised_in;

use crate::api;
use crate::download::resolve;
use crate::error::HubError;
use crate::http::Http;
use crate::name::ModelName;
use crate::select::RemoteFile;

/// Connections at a time.
const CONNECTIONS: usize = 16;

/// A part of a file.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// The file, as the hub lists it.
    pub file: &'a RemoteFile,
    /// Offset of the first byte.
    pub from: u64,
    /// Number of bytes; fewer come at the file's end.
    pub bytes: u64,
}

/// Reads parts of the files of one commit.
#[derive(Debug)]
pub struct Parts<'a> {
    http: Http,
    name: &'a ModelName,
    commit: &'a str,
    /// Addresses of files on other hosts, which are valid for a while.
    known: Mutex<HashMap<String, String>>,
}

impl<'a> Parts<'a> {
    pub(crate) fn new(http: Http, name: &'a ModelName, commit: &'a str) -> Self {
        Self { http, name, commit, known: Mutex::default() }
    }

    /// The bytes of all parts, in their order.
    ///
    /// # Errors
    /// [`HubError`]: the first one.
    pub fn read(
        &self,
        parts: &[Part],
        stopped: &(dyn Fn() -> bool + Sync),
    ) -> Result<Vec<Vec<u8>>, HubError> {
        let mut read = Vec::with_capacity(parts.len());
        for some in parts.chunks(CONNECTIONS) {
            if let [part] = some {
                read.push(self.one(part, stopped)?);
                continue;
            }
            std::thread::scope(|scope| {
                let begin = |part| supervised_in(scope, "part", move || self.one(part, stopped));
                let running: Vec<_> = some.iter().map(|part| (part, begin(part))).collect();
                for (part, thread) in running {
                    // Where no thread could be started, it is read here; a panic there is one here.
                    let done = thread.ok().and_then(|thread| thread.join().ok().and_then(Result::ok));
                    read.push(done.unwrap_or_else(|| self.one(part, stopped))?);
                }
                Ok(())
            })?;
        }
        Ok(read)
    }

    fn one(&self, part: &Part, stopped: &dyn Fn() -> bool) -> Result<Vec<u8>, HubError> {
        let &Part { file, from, bytes } = part;
        let last = from.saturating_add(bytes).min(file.bytes).saturating_sub(1);
        if file.bytes == 0 || from > last {
            return Ok(Vec::new());
        }
        let refused = |status, headers: &_| api::refusal(&self.http, self.name, status, headers);
        let read = |url: &str| self.http.read(url, (from, last), stopped, &refused);
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&file.path).cloned();
        // An address that is valid no more is asked for again.
        if let Some((bytes, _)) = known.and_then(|url| read(&url).ok()) {
            return Ok(bytes);
        }
        let (bytes, url) = read(&resolve(&self.http, self.name, self.commit, &file.path))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(file.path.clone(), url);
        Ok(bytes)
    }
}
