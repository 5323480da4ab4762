//! What a download tells, and what it asks. It must not know how it is shown.

/// Progress of a download, and the wish to stop it.
pub trait Watch: Sync {
    /// `done` bytes of all files of the download are there.
    fn progress(&self, done: u64);
    /// Something that the user should know.
    fn note(&self, line: &str);
    /// Whether the user wants to stop.
    fn stopped(&self) -> bool;
}
