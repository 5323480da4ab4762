//! The program from end to end, without a terminal.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../common/mod.rs"]
mod common;

mod advice;
mod bench;
#[cfg(unix)]
mod exits;
mod fit;
mod hostile;
mod hub;
mod measure;
mod models;
mod pipe_chat;
#[cfg(target_os = "linux")]
mod pressure;
mod quantize;
#[cfg(unix)]
mod quantize_faults;
mod replay;
mod run;
#[cfg(target_os = "linux")]
mod streaming;
#[cfg(target_os = "linux")]
mod texts;
mod wild;
