// The hidden layer between the products: biases, the activation, and codes as the next product takes them. One
// workgroup for each 32 numbers. All of it in whole numbers: there are few.
fn whole_exp(x0: u32) -> u32 {
    var x = x0;
    if (is_nan(x)) { return x; }
    if (above(0xc2d00000u, x)) { x = 0xc2d00000u; }                 // -104
    if (above(x, 0x42c80000u)) { x = 0x42c80000u; }                 // 100
    let magic = 0x4b400000u;                                        // 1.5 * 2^23
    let big = whole_add(whole_mul(x, 0x3fb8aa3bu), magic);          // times log2(e), to the nearest whole number
    let n = whole_add(big, negated(magic));
    let power = bitcast<i32>(big - magic);
    var r = whole_fma(n, negated(0x3f318000u), x);                  // ln 2 in two parts
    r = whole_fma(n, 0x395e8083u, r);
    var s = 0x39500d01u;                                            // 1/5040, 1/720, 1/120, 1/24, 1/6
    s = whole_fma(s, r, 0x3ab60b61u);
    s = whole_fma(s, r, 0x3c088889u);
    s = whole_fma(s, r, 0x3d2aaaabu);
    s = whole_fma(s, r, 0x3e2aaaabu);
    s = whole_fma(s, r, 0x3f000000u);
    s = whole_fma(s, r, 0x3f800000u);
    s = whole_fma(s, r, 0x3f800000u);
    let half = power / 2;                                           // in two steps, neither out of range
    return whole_mul(whole_mul(s, u32(half + 127) << 23u), u32(power - half + 127) << 23u);
}
const GATE_MIN = 0xc2f00000u;                                       // -120
fn clamped_gate(g: u32) -> u32 {
    if (!is_nan(g) && above(GATE_MIN, g)) { return GATE_MIN; }
    return g;
}
fn silu(gate: u32) -> u32 {
    let g = clamped_gate(gate);
    return whole_div(g, whole_add(0x3f800000u, whole_exp(negated(g))));
}
fn gelu(gate: u32) -> u32 {
    let g = clamped_gate(gate);
    let cube = whole_mul(g, whole_mul(g, g));
    let u = whole_fma(0x3d372713u, cube, g);                        // 0.044715
    return whole_div(g, whole_add(0x3f800000u, whole_exp(whole_mul(MINUS_TWO_C, u))));
}
fn positive(g: u32) -> u32 { return select(g, 0u, g >= 0x80000000u || is_nan(g)); }
fn at_most(a: u32, limit: u32) -> u32 { return select(a, limit, !is_nan(a) && above(a, limit)); }
fn at_least(a: u32, limit: u32) -> u32 { return select(a, limit, !is_nan(a) && above(limit, a)); }

var<workgroup> hidden: array<u32, 32>;
var<workgroup> codes: array<u32, 32>;
var<workgroup> words: array<u32, 8>;
const TINY = 0x0d800000u;                                           // 2^-100

@compute @workgroup_size(32)
fn layer(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let slot = slots[group.y];
    if (slot.y != slab.x) { return; }
    let row = group.x * 32u + lane;
    var gate = x[group.y * job.in_stride + row];
    if (job.gate_bias != NONE) { gate = whole_add(word_at(slot.x + job.gate_bias + 4u * row), gate); }
    var up = 0x3f800000u;
    if (job.up_start != NONE) {
        up = x[job.up_start + group.y * job.in_stride + row];
        if (job.up_bias != NONE) { up = whole_add(word_at(slot.x + job.up_bias + 4u * row), up); }
    }
    hidden[lane] = activated(gate, up);
    workgroupBarrier();
    var top = 0u;
    for (var i = 0u; i < 32u; i++) { top = max(top, magnitude(hidden[i])); }
    var code = 0u;
    if (top >= TINY && top < 0x7f800000u) {
        code = whole_add(whole_mul(hidden[lane], whole_div(0x42fe0000u, top)), 0x4b400000u) & 255u;
    }
    codes[lane] = code;
    workgroupBarrier();
    if (lane < 8u) {
        words[lane] = codes[4u * lane] | (codes[4u * lane + 1u] << 8u) | (codes[4u * lane + 2u] << 16u)
            | (codes[4u * lane + 3u] << 24u);
    }
    workgroupBarrier();
    let record = job.out_start + group.y * job.out_stride + group.x * RECORD;
    if (lane < 8u) { o[record + lane] = words[lane]; }
    if (lane == 8u) {
        var scale = whole_div(top, 0x42fe0000u);
        if (top < TINY) { scale = 0u; }
        if (top >= 0x7f800000u) { scale = 0x7fc00000u; }
        o[record + 8u] = scale;
        var low = 0;
        var high = 0;
        for (var i = 0u; i < 4u; i++) {
            low += dot4I8Packed(words[i], 0x01010101u);
            high += dot4I8Packed(words[i + 4u], 0x01010101u);
        }
        o[record + 9u] = bitcast<u32>(-low - high);
        o[record + 10u] = bitcast<u32>(-low);
    }
}
