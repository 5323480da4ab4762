//! What can go wrong between a name and its files, in words that say what to do. It must not know how an
//! error is shown.

use std::io;
use std::path::PathBuf;

/// An error of the hub, the network or the cache.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Not a name of a model.
    #[error(
        "{0:?} is not a name of a model: names are USER/REPO, USER/REPO:QUANT or USER/REPO@REVISION:QUANT"
    )]
    Name(String),
    /// `HF_HUB_OFFLINE` forbids the network, and the cache does not have it.
    #[error("{what} is not on this machine, and HF_HUB_OFFLINE is set; unset it to download")]
    Offline {
        /// The model or file.
        what: String,
    },
    /// The hub has no such repository, or does not show it to this user.
    #[error(
        "the hub has no repository {repo}, or it is private; check the spelling, and for a private one set HF_TOKEN"
    )]
    NoRepository {
        /// `user/repo`.
        repo: String,
    },
    /// The repository asks for a consent on its page.
    #[error(
        "{repo} is gated: accept its terms at {page}, then set HF_TOKEN to a token of your account ({token})"
    )]
    Gated {
        /// `user/repo`.
        repo: String,
        /// Address of its page.
        page: String,
        /// Whether a token was sent.
        token: &'static str,
    },
    /// The token was refused.
    #[error(
        "the hub refused the token (status {status}); check HF_TOKEN or log in again with `hf auth login`"
    )]
    Token {
        /// HTTP status.
        status: u16,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repo} has no revision {revision:?}; check its spelling, or leave it out for the newest")]
    NoRevision {
        /// `user/repo`.
        repo: String,
        /// As given.
        revision: String,
    },
    /// The repository has no such file or quantisation.
    #[error("{repo} has no {wanted}; it has {have}")]
    NoVariant {
        /// `user/repo`.
        repo: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        have: String,
    },
    /// Neither GGUF files nor a folder of safetensors.
    #[error(
        "{repo} has no model that this program reads: neither GGUF files nor config.json with safetensors"
    )]
    NoModel {
        /// `user/repo`.
        repo: String,
    },
    /// The hub could not be reached, or not to the end.
    #[error("{host}: {why}, after {tries} tries; what has arrived is kept, run the command again to go on")]
    Network {
        /// Name of the server.
        host: String,
        /// What went wrong last.
        why: String,
        /// Tries without progress.
        tries: u32,
    },
    /// An answer that is no answer of a hub.
    #[error("{host} answered with {what}")]
    Answer {
        /// Name of the server.
        host: String,
        /// What was wrong with it.
        what: String,
    },
    /// The file on the server is not the one that the hub listed.
    #[error("{file} has changed on the hub during the download ({what}); run the command again")]
    Changed {
        /// File of the repository.
        file: String,
        /// What differs.
        what: String,
    },
    /// The bytes do not have the checksum that the hub lists.
    #[error(
        "{file} arrived with other bytes than the hub lists (checksum {found}, listed {expected}); they were deleted, \
         run the command again"
    )]
    WrongBytes {
        /// File of the repository.
        file: String,
        /// Of the bytes that arrived.
        found: String,
        /// As listed.
        expected: String,
    },
    /// Not enough space on the disk.
    #[error("{}: {} are needed, {} are free; free some space or set HF_HUB_CACHE", folder.display(), size(*need), size(*free))]
    Disk {
        /// The cache.
        folder: PathBuf,
        /// Bytes still to download.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// An error of the file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// This processor lacks instructions that encrypted connections need here.
    #[error(
        "this processor lacks instructions that encrypted connections need here ({0}); download the file with another \
         program and open it by its path"
    )]
    Processor(&'static str),
    /// Stopped by the user.
    #[error("stopped; what has arrived is kept, run the command again to go on")]
    Stopped,
}

/// In words.
fn size(bytes: u64) -> String {
    moelten_loader::size::bytes(bytes)
}

impl HubError {
    /// An error of the file system at `path`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.into(), source }
    }
}
