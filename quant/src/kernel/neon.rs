//! Where kernels for ARM would stand. There are none: aarch64 runs the `scalar` tier, and nobody has run that there yet.
//!
//! What fits: `Rows` as four 16-byte registers with four rows in each, which `Rows::quads` fills by transposing 16 bytes of
//! each row. The dot product of four codes and four activations in each lane is `sdot` (FEAT_DotProd), signed times signed,
//! so no zero point is left to correct but the format's own. Its intrinsics are not stable in Rust: it would be inline
//! assembly inside functions with `#[target_feature(enable = "dotprod")]`. The definition of a product is that of `codes`, so
//! the bits would be too.
