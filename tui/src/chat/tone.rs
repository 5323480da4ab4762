//! How prominent a note of the program is. Drivers and the screen choose a style for it.

/// How prominent a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary text, such as the output of a command.
    Plain,
    /// A confirmation or a hint.
    Dim,
    /// Something the user should notice.
    Warning,
    /// Something failed.
    Error,
}
