// Products and sums of rows in whole numbers.
fn fused(a: u32, b: u32, c: u32) -> u32 { return whole_fma(a, b, c); }
fn times(a: u32, b: u32) -> u32 { return whole_mul(a, b); }
