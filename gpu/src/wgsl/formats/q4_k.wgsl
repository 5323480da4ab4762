const HALVES = 1u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + (block / 8u) * 144u;
    let p = block % 8u;
    var s = 0;
    for (var k = 0u; k < 8u; k++) {
        let q = word_at(a + 16u + (p / 2u) * 32u + 4u * k) >> ((p & 1u) * 4u);
        s += dot4I8Packed(q & 0x0f0f0f0fu, x[record + k]);
    }
    values[at] = with_minimum(s, record, a, p);
}
