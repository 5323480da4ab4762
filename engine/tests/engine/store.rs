//! Proof of the expert store: what is resident, where bytes come from and what goes wrong on the way never
//! changes a bit of the output.

mod disk;
mod equality;
mod faults;
mod live;
mod setup;
