const HALVES = 1u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + block * 18u;
    var s = 8 * negated_sum(record);
    for (var k = 0u; k < 4u; k++) {
        let q = word_at(a + 2u + 4u * k);
        s += dot4I8Packed(q & 0x0f0f0f0fu, x[record + k]);
        s += dot4I8Packed((q >> 4u) & 0x0f0f0f0fu, x[record + 4u + k]);
    }
    values[at] = times(number(s), half_at(a));
}
