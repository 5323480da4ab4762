const HALVES = 1u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + (block / 8u) * 176u;
    let p = block % 8u;
    var s = 0;
    for (var k = 0u; k < 8u; k++) {
        let q = word_at(a + 48u + (p / 2u) * 32u + 4u * k) >> ((p & 1u) * 4u);
        let high = (word_at(a + 16u + 4u * k) >> p) & 0x01010101u;
        s += dot4I8Packed((q & 0x0f0f0f0fu) | (high << 4u), x[record + k]);
    }
    values[at] = with_minimum(s, record, a, p);
}
