//! What a signal asks of the chat. Plain data; the program around the chat catches the signals.

/// What the program around the chat has made of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalRequest {
    /// SIGINT: as Ctrl-C.
    Interrupt,
    /// SIGTSTP: suspend the chat.
    Suspend,
    /// SIGCONT: the chat goes on; another program may have used the terminal.
    Resume,
    /// SIGTERM or SIGHUP: end the chat.
    End,
}
