// What every kernel binds: the slab, the job's input, output and parameters, and the table of slots.
struct Job {
    rows: u32,          // of the matrix, or of the hidden layer
    blocks: u32,        // of 32 columns, or of 32 rows of the hidden layer
    base: u32,          // byte of the matrix in a slot
    row_bytes: u32,
    in_stride: u32,     // words between the inputs of two slots; 0 when they share one
    out_start: u32,
    out_stride: u32,    // words between the outputs of two slots
    up_start: u32,      // first word of the outputs of `up`
    gate_bias: u32,     // byte in a slot, or NONE
    up_bias: u32,
    limit: u32,         // bits of a float
    alpha: u32,
}
const NONE = 0xffffffffu;
// Words of the record of 32 activations: 8 of codes, the scale, the negated sums of all and of the first 16 codes.
const RECORD = 16u;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<uniform> slab: vec4<u32>;
@group(1) @binding(0) var<storage, read> x: array<u32>;
@group(1) @binding(1) var<storage, read_write> o: array<u32>;
@group(1) @binding(2) var<storage, read> slots: array<vec2<u32>>;   // byte in the slab, number of the slab
@group(1) @binding(3) var<uniform> job: Job;

fn byte_at(a: u32) -> u32 { return (w[a >> 2u] >> ((a & 3u) * 8u)) & 255u; }
// Four bytes at any byte.
fn word_at(a: u32) -> u32 {
    let i = a >> 2u;
    let s = (a & 3u) * 8u;
    if (s == 0u) { return w[i]; }
    return (w[i] >> s) | (w[i + 1u] << (32u - s));
}
// The bits of a half as those of a float.
fn half_at(a: u32) -> u32 {
    let h = byte_at(a) | (byte_at(a + 1u) << 8u);
    let s = (h & 0x8000u) << 16u;
    let e = (h >> 10u) & 31u;
    let m = h & 1023u;
    if (e == 31u) { return s | 0x7f800000u | (m << 13u); }
    if (e != 0u) { return s | ((e + 112u) << 23u) | (m << 13u); }
    if (m == 0u) { return s; }
    let z = countLeadingZeros(m) - 21u;
    return s | ((113u - z) << 23u) | (((m << z) & 1023u) << 13u);
}
// A whole number below 2^24 as a float: exact.
fn number(i: i32) -> u32 { return bitcast<u32>(f32(i)); }
fn negated_sum(record: u32) -> i32 { return bitcast<i32>(x[record + 9u]); }
