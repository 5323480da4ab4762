// Products and sums of rows with the device's own operations. WGSL does not promise that they are rounded as IEEE 754
// says; a test of the pipelines decides whether they are used.
fn fused(a: u32, b: u32, c: u32) -> u32 {
    return bitcast<u32>(fma(bitcast<f32>(a), bitcast<f32>(b), bitcast<f32>(c)));
}
fn times(a: u32, b: u32) -> u32 { return bitcast<u32>(bitcast<f32>(a) * bitcast<f32>(b)); }
