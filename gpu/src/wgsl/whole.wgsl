// Single precision in whole numbers: numbers are their bits, every operation is rounded once to nearest even, and
// subnormal numbers, infinities and NaN are as IEEE 754 has them. WGSL defines operations on u32 exactly, so no
// driver may change a bit of these. Products and sums with `fma()` are in `fused.wgsl`.

// The 64-bit number (h, l) shifted right; bit 0 is set when a lost bit was.
fn shift_right_sticky(h: u32, l: u32, by: u32) -> vec2<u32> {
    if (by == 0u) { return vec2(h, l); }
    if (by >= 64u) { return vec2(0u, 1u); }
    if (by >= 32u) {
        let k = by - 32u;
        var lost = l;
        var low = h;
        if (k != 0u) { lost |= h << (32u - k); low = h >> k; }
        return vec2(0u, low | select(0u, 1u, lost != 0u));
    }
    let lost = l << (32u - by);
    return vec2(h >> by, (l >> by) | (h << (32u - by)) | select(0u, 1u, lost != 0u));
}

fn magnitude(a: u32) -> u32 { return a & 0x7fffffffu; }
fn is_nan(a: u32) -> bool { return magnitude(a) > 0x7f800000u; }

// a * b + c.
fn whole_fma(ua: u32, ub: u32, uc: u32) -> u32 {
    var ea = i32((ua >> 23u) & 255u);
    var eb = i32((ub >> 23u) & 255u);
    var ec = i32((uc >> 23u) & 255u);
    if (max(ea, max(eb, ec)) == 255) {
        let infinity = 0x7f800000u;
        let xa = magnitude(ua);
        let xb = magnitude(ub);
        let xc = magnitude(uc);
        let s = (ua ^ ub) & 0x80000000u;
        if (max(xa, max(xb, xc)) > infinity) { return 0x7fc00000u; }
        if (max(xa, xb) == infinity) {
            if (min(xa, xb) == 0u || (xc == infinity && (uc & 0x80000000u) != s)) { return 0x7fc00000u; }
            return s | infinity;
        }
        return uc;
    }
    var ma = ua & 0x7fffffu;
    var mb = ub & 0x7fffffu;
    var mc = uc & 0x7fffffu;
    let sp = (ua ^ ub) & 0x80000000u;
    let sc = uc & 0x80000000u;
    if (ea != 0) { ma |= 0x800000u; } else if (ma != 0u) { let z = countLeadingZeros(ma) - 8u; ma <<= z; ea = 1 - i32(z); }
    if (eb != 0) { mb |= 0x800000u; } else if (mb != 0u) { let z = countLeadingZeros(mb) - 8u; mb <<= z; eb = 1 - i32(z); }
    if (ec != 0) { mc |= 0x800000u; } else if (mc != 0u) { let z = countLeadingZeros(mc) - 8u; mc <<= z; ec = 1 - i32(z); }
    if (ma == 0u || mb == 0u) {
        if (mc == 0u) { return sp & sc; }
        return uc;
    }
    // 24 x 24 bits give 48, in halves of 12.
    let a1 = ma >> 12u;
    let a0 = ma & 4095u;
    let b1 = mb >> 12u;
    let b0 = mb & 4095u;
    let h = a1 * b1;
    let m = a1 * b0 + a0 * b1;
    let l = a0 * b0;
    let x = h << 24u;
    let s1 = x + (m << 12u);
    let s2 = s1 + l;
    var ph = (h >> 8u) + (m >> 20u) + select(0u, 1u, s1 < x) + select(0u, 1u, s2 < l);
    var pl = s2;
    // The product is now in [2^60, 2^62), the addend in [2^60, 2^61).
    ph = (ph << 14u) | (pl >> 18u);
    pl <<= 14u;
    var e = ea + eb - 314;
    var ch = mc << 5u;
    var cl = 0u;
    if (mc != 0u) {
        let d = e - (ec - 187);
        if (d >= 0) {
            let r = shift_right_sticky(ch, cl, u32(d));
            ch = r.x;
            cl = r.y;
        } else {
            let r = shift_right_sticky(ph, pl, u32(-d));
            ph = r.x;
            pl = r.y;
            e = ec - 187;
        }
    }
    var rh: u32;
    var rl: u32;
    var s = sp;
    if (sp == sc) {
        rl = pl + cl;
        rh = ph + ch + select(0u, 1u, rl < pl);
    } else {
        if (ph > ch || (ph == ch && pl >= cl)) {
            rl = pl - cl;
            rh = ph - ch - select(0u, 1u, pl < cl);
        } else {
            s = sc;
            rl = cl - pl;
            rh = ch - ph - select(0u, 1u, cl < pl);
        }
        if ((rh | rl) == 0u) { return 0u; }
    }
    if (rh == 0u) { rh = rl; rl = 0u; e -= 32; }
    let z = countLeadingZeros(rh);
    if (z != 0u) { rh = (rh << z) | (rl >> (32u - z)); rl <<= z; e -= i32(z); }
    let exponent = e + 190;
    if (exponent >= 255) { return s | 0x7f800000u; }
    if (exponent <= 0) { let r = shift_right_sticky(rh, rl, u32(1 - exponent)); rh = r.x; rl = r.y; }
    var t = rh >> 8u;
    let rest = rh & 255u;
    if (rest > 128u || (rest == 128u && (rl != 0u || (t & 1u) == 1u))) { t += 1u; }
    if (exponent <= 0) { return s | t; }
    return s | ((u32(exponent - 1) << 23u) + t);
}

fn negated(a: u32) -> u32 { return a ^ 0x80000000u; }
fn whole_mul(a: u32, b: u32) -> u32 { return whole_fma(a, b, (a ^ b) & 0x80000000u); }
fn whole_add(a: u32, b: u32) -> u32 { return whole_fma(a, 0x3f800000u, b); }

// a / b for a normal or infinite b: long division with a sticky remainder.
fn whole_div(ua: u32, ub: u32) -> u32 {
    var ea = i32((ua >> 23u) & 255u);
    let eb = i32((ub >> 23u) & 255u);
    let s = (ua ^ ub) & 0x80000000u;
    if (is_nan(ua) || is_nan(ub)) { return 0x7fc00000u; }
    if (ea == 255) {
        if (eb == 255) { return 0x7fc00000u; }
        return s | 0x7f800000u;
    }
    if (eb == 255) { return s; }
    var ma = ua & 0x7fffffu;
    let mb = (ub & 0x7fffffu) | 0x800000u;
    if (ea != 0) { ma |= 0x800000u; } else {
        if (ma == 0u) { return s; }
        let z = countLeadingZeros(ma) - 8u;
        ma <<= z;
        ea = 1 - i32(z);
    }
    var e = ea - eb + 127;
    if (ma < mb) { ma <<= 1u; e -= 1; }
    var r = ma;
    var t = 0u;
    for (var i = 0u; i < 26u; i++) {
        t <<= 1u;
        if (r >= mb) { r -= mb; t |= 1u; }
        r <<= 1u;
    }
    var sticky = select(0u, 1u, r != 0u);
    if (e >= 255) { return s | 0x7f800000u; }
    if (e <= 0) {
        let by = u32(1 - e);
        if (by > 26u) { return s; }
        sticky |= select(0u, 1u, (t & ((1u << by) - 1u)) != 0u);
        t >>= by;
    }
    var m = t >> 2u;
    let rest = t & 3u;
    if (rest > 2u || (rest == 2u && (sticky == 1u || (m & 1u) == 1u))) { m += 1u; }
    if (e <= 0) { return s | m; }
    return s | ((u32(e - 1) << 23u) + m);
}

// Whether a > b, for numbers that are not NaN; -0 is below 0.
fn above(a: u32, b: u32) -> bool {
    let ka = bitcast<i32>(a) ^ (bitcast<i32>(select(0u, 0x7fffffffu, a >= 0x80000000u)));
    let kb = bitcast<i32>(b) ^ (bitcast<i32>(select(0u, 0x7fffffffu, b >= 0x80000000u)));
    return ka > kb;
}
