//! The program from end to end, without a terminal.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]
#![cfg_attr(
    not(target_os = "linux"),
    allow(unused_imports, unused_mut, reason = "some tests are for Linux alone")
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the tests of downloads use the rest")]
#[path = "../../hub/tests/hub/fake_hub.rs"]
mod fake_hub;

mod advice;
mod bench;
#[cfg(target_os = "linux")]
mod clock;
mod determinism;
mod encdec;
mod examples;
#[cfg(unix)]
mod exits;
mod fit;
mod hostile;
mod hub;
mod hub_headers;
mod images;
#[cfg(target_os = "linux")]
mod killed;
#[cfg(target_os = "linux")]
mod machine;
mod measure;
#[cfg(target_os = "linux")]
mod memory;
mod models;
mod pipe_chat;
#[cfg(target_os = "linux")]
mod pressure;
mod quantize;
#[cfg(unix)]
mod quantize_faults;
mod replay;
mod run;
mod settings;
#[cfg(target_os = "linux")]
mod streaming;
mod supply;
#[cfg(target_os = "linux")]
mod system_faults;
#[cfg(target_os = "linux")]
mod texts;
mod wild;
#[cfg(windows)]
mod windows;
