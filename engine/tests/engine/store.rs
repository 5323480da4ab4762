//! The expert store: residency, the origin of bytes and faults of the disk never change a bit of the output.

mod disk;
mod equality;
mod faults;
mod live;
mod setup;
