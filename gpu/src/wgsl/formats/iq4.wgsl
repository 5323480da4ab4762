// Four codes of the table of IQ4, as bytes of two's complement:
// -127, -104, -83, -65 | -49, -35, -22, -10 | 1, 13, 25, 38 | 53, 69, 89, 113.
fn table(n: u32) -> u32 {
    var r = 0u;
    for (var k = 0u; k < 4u; k++) {
        let v = (n >> (8u * k)) & 15u;
        let low = select(0xf6eaddcfu, 0xbfad9881u, v < 4u);
        let high = select(0x71594535u, 0x26190d01u, v < 12u);
        r |= ((select(high, low, v < 8u) >> ((v & 3u) * 8u)) & 255u) << (8u * k);
    }
    return r;
}
fn table_sum(a: u32, record: u32) -> i32 {
    var s = 0;
    for (var k = 0u; k < 4u; k++) {
        let q = word_at(a + 4u * k);
        s += dot4I8Packed(table(q & 0x0f0f0f0fu), x[record + k]);
        s += dot4I8Packed(table((q >> 4u) & 0x0f0f0f0fu), x[record + 4u + k]);
    }
    return s;
}
