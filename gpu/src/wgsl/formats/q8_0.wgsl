const HALVES = 1u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + block * 34u;
    var s = 0;
    for (var k = 0u; k < 8u; k++) { s += dot4I8Packed(word_at(a + 2u + 4u * k), x[record + k]); }
    values[at] = times(number(s), half_at(a));
}
