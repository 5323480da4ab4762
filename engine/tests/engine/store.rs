//! The expert store: residency, the origin of bytes and faults of the disk never change a bit of the output.

pub mod disk;
mod equality;
mod faults;
mod live;
mod panics;
pub mod setup;
