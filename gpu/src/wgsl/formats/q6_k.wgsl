const HALVES = 2u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + (block / 8u) * 210u;
    let p = block % 8u;
    let part = p / 4u;
    let q = p & 3u;
    let d = half_at(a + 208u);
    let low_sum = bitcast<i32>(x[record + 10u]);
    for (var h = 0u; h < 2u; h++) {
        var s = 32 * select(negated_sum(record) - low_sum, low_sum, h == 0u);
        for (var k = 0u; k < 4u; k++) {
            let low = word_at(a + part * 64u + (q & 1u) * 32u + h * 16u + 4u * k) >> ((q / 2u) * 4u);
            let high = (word_at(a + 128u + part * 32u + h * 16u + 4u * k) >> (q * 2u)) & 0x03030303u;
            s += dot4I8Packed((low & 0x0f0f0f0fu) | (high << 4u), x[record + h * 4u + k]);
        }
        let scale = bitcast<i32>(byte_at(a + 192u + 2u * p + h) << 24u) >> 24u;
        values[at + h] = times(number(s), times(d, number(scale)));
    }
}
