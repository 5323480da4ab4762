//! Where kernels for ARM would stand. There are none: aarch64 runs the `scalar` tier, and nobody has run that there yet.
//!
//! What fits: a group of sixteen interleaved rows (`interleave`) is four quarters of one 16-byte register each, so every
//! load is a vector with four rows in it, and `Rows` becomes four of them. The dot product of four codes and four
//! activations in each lane is `sdot` (FEAT_DotProd), signed times signed, so no zero point is left to correct but the
//! format's own. Its intrinsics are not stable in Rust: it would be inline assembly inside functions with
//! `#[target_feature(enable = "dotprod")]`. The definition of a product is that of `codes`, so the bits would be too.
