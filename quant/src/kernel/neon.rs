//! Placeholder for ARM kernels. There are none: aarch64 runs the `scalar` tier, which has not been run on
//! ARM hardware.
//!
//! A plan: `Rows` as four 16-byte registers with four rows in each, which `Rows::quads` fills by
//! transposing 16 bytes of each row. The dot product of four codes and four activations in each lane is
//! `sdot` (FEAT_DotProd), signed times signed, so only the format's own zero point needs a correction. Its
//! intrinsics are not stable in Rust: it needs inline assembly inside functions with
//! `#[target_feature(enable = "dotprod")]`. A product is defined by `codes`, so the bits are the same.
