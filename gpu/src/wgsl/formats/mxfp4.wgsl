const HALVES = 1u;
// Four codes of E2M1, doubled.
fn doubled(n: u32) -> u32 {
    var r = 0u;
    for (var k = 0u; k < 4u; k++) {
        let v = (n >> (8u * k)) & 15u;
        let m = v & 7u;
        var a = m;
        if (m > 4u) { a = 2u * m - 4u; }
        if (m == 7u) { a = 12u; }
        r |= (select(a, 0u - a, v >= 8u) & 255u) << (8u * k);
    }
    return r;
}
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + block * 17u;
    var s = 0;
    for (var k = 0u; k < 4u; k++) {
        let q = word_at(a + 1u + 4u * k);
        s += dot4I8Packed(doubled(q & 0x0f0f0f0fu), x[record + k]);
        s += dot4I8Packed(doubled((q >> 4u) & 0x0f0f0f0fu), x[record + 4u + k]);
    }
    let e = byte_at(a);
    var scale = (e - 1u) << 23u;
    if (e < 2u) { scale = 0x00200000u << e; }
    values[at] = times(number(s), scale);
}
