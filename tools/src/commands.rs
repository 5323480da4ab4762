//! The commands, one file each: its options (`Args`) and what it does (`run`).
