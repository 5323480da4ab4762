//! Lists of names that are put together of others. It must not know families.

use super::roles::NameRule;

/// The rules of `a` and then those of `b`: `N` is the length of both.
pub(crate) const fn joined<const A: usize, const B: usize, const N: usize>(
    a: [NameRule; A],
    b: [NameRule; B],
) -> [NameRule; N] {
    assert!(A > 0 && A + B == N, "the lengths add up");
    let mut out = [a[0]; N];
    let mut at = 1;
    while at < N {
        out[at] = if at < A { a[at] } else { b[at - A] };
        at += 1;
    }
    out
}
