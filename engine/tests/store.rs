//! Proof of the expert store: what is resident, where bytes come from and what goes wrong on the way never changes a bit of
//! the output.
#![allow(clippy::unwrap_used, reason = "a failing helper of a test may panic")]

mod common;

#[path = "store/disk.rs"]
mod disk;
#[path = "store/equality.rs"]
mod equality;
#[path = "store/faults.rs"]
mod faults;
#[path = "store/live.rs"]
mod live;
#[path = "store/setup.rs"]
mod setup;
