const HALVES = 1u;
fn block_values(at: u32, row: u32, block: u32, record: u32) {
    let a = row + block * 18u;
    values[at] = times(number(table_sum(a + 2u, record)), half_at(a));
}
