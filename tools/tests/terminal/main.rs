//! The chat in a real terminal, which tmux provides.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "../common/mod.rs"]
mod common;

#[allow(dead_code, reason = "the tests of downloads use the rest")]
#[path = "../../hub/tests/hub/fake_hub.rs"]
mod fake_hub;

mod first;
mod hostile;
mod journeys;
mod lines;
#[cfg(target_os = "linux")]
mod pty;
mod screen;
mod scripts;
#[cfg(target_os = "linux")]
mod soak;
#[cfg(target_os = "linux")]
mod speed;
mod thoughts;
mod tmux;
