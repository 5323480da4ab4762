// Scale and minimum of piece p, of six bits each, in the twelve bytes at a.
fn scale_and_minimum(a: u32, p: u32) -> vec2<i32> {
    if (p < 4u) { return vec2(i32(byte_at(a + p) & 63u), i32(byte_at(a + 4u + p) & 63u)); }
    let low = byte_at(a + 4u + p);
    let scale = (low & 15u) | ((byte_at(a + p - 4u) >> 6u) << 4u);
    let minimum = (low >> 4u) | ((byte_at(a + p) >> 6u) << 4u);
    return vec2(i32(scale), i32(minimum));
}
fn with_minimum(s: i32, record: u32, a: u32, p: u32) -> u32 {
    let sm = scale_and_minimum(a + 4u, p);
    let v = times(number(s), times(half_at(a), number(sm.x)));
    return fused(number(negated_sum(record)), times(half_at(a + 2u), number(sm.y)), v);
}
