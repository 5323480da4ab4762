//! What people see: the chat as a pure state machine with a thin driver around it, progress lines, and the filter
//! between untrusted text and the terminal. It never sees a tensor; answers come through `backend::Backend`.

pub mod filter;
pub mod terminal;
