const HALVES = 1u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + (block / 8u) * 136u;
    let p = block % 8u;
    let low = (byte_at(a + 4u + p / 2u) >> ((p & 1u) * 4u)) & 15u;
    let highs = byte_at(a + 2u) | (byte_at(a + 3u) << 8u);
    let scale = i32(low | (((highs >> (2u * p)) & 3u) << 4u)) - 32;
    values[at] = times(number(table_sum(a + 8u + p * 16u, record)), times(half_at(a), number(scale)));
}
