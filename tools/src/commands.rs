//! The commands, one file each with its options (`...Args`) and its function `run`. They must not know each
//! other.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod config;
pub mod doctor;
pub mod first;
pub mod fit;
pub mod imatrix;
pub mod inspect;
pub mod logits;
pub mod make_example;
pub mod models;
pub mod ppl;
pub mod pull;
pub mod quantize;
pub mod replay;
pub mod run;
pub mod tune;
pub mod verify;
