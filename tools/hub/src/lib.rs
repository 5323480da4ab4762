//! From a name to files: the names of models on the Hugging Face hub, its API, the cache that its programs
//! share, and downloads that resume and are checked. It must not know what is in the files.
//!
//! The network is used by [`Hub::look`], [`Hub::pull`] and [`Parts::read`] alone; [`Hub::find`] reads the
//! cache.

mod api;
mod cache;
mod digest;
mod download;
mod error;
mod http;
mod hub;
mod name;
mod parts;
mod select;
mod settings;
mod watch;
mod window;

pub use cache::{Removed, repository_of};
pub use error::HubError;
pub use hub::{Found, Hub, Repository};
pub use name::{ModelName, RepoId};
pub use parts::{Part, Parts};
pub use select::{Choice, RemoteFile, Variant, choose, variants};
pub use settings::Settings;
pub use watch::Watch;
