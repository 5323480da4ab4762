//! The experts of the next bank, guessed or known, while those of the present one are read. It must not know where
//! experts are.

use crate::layers::ffn::moe::Moe;
use crate::layers::ffn::router::Routing;
use crate::layers::linear::Compute;
use crate::layers::norm::Norm;
use crate::layers::scratch::AheadScratch;

/// Ranks the experts that a later branch will probably choose, the likeliest first, in `s.ranked`. `x` is the
/// residual stream `[tokens, d_model]` that the present branch has not added to yet: what one layer adds is
/// little, so the next router mostly decides the same (arXiv 2312.17238). The order is the router's own
/// preference, whatever its scores mean; experts that more tokens prefer come first.
pub(super) fn rank(compute: Compute<'_>, norm: Option<&Norm>, moe: &Moe, x: &[f32], s: &mut AheadScratch) {
    let normed = &mut s.normed[..x.len()];
    match norm {
        Some(norm) => norm.apply(compute, x, normed),
        None => normed.copy_from_slice(x),
    }
    moe.route(compute, normed, |_| true, &mut s.route, &mut s.packed, &mut s.grouped);
    vote(&s.route.routing, moe.spec.experts, 1, &mut s.votes, &mut s.ranked);
}

/// Ranks the experts of `moe`, each of which stands for `size` of those that `routing` has chosen. They are
/// known, not guessed.
pub(super) fn known(routing: &Routing, moe: &Moe, size: usize, s: &mut AheadScratch) {
    vote(routing, moe.spec.experts, size, &mut s.votes, &mut s.ranked);
}

/// Ranks `experts` experts, each of which stands for `size` of those of `routing`.
fn vote(routing: &Routing, experts: usize, size: usize, votes: &mut Vec<(u32, u32)>, ranked: &mut Vec<u32>) {
    votes.clear();
    votes.resize(experts, (0, u32::MAX));
    for token in 0..routing.tokens() {
        for (rank, &expert) in (0..).zip(routing.token(token).0) {
            let (tokens, best) = &mut votes[expert as usize / size];
            (*tokens, *best) = (*tokens + 1, rank.min(*best));
        }
    }
    ranked.clear();
    ranked.extend((0..experts as u32).filter(|&expert| votes[expert as usize].0 > 0));
    let votes = &*votes;
    ranked.sort_unstable_by_key(|&expert| {
        let (tokens, best) = votes[expert as usize];
        (std::cmp::Reverse(tokens), best, expert)
    });
}
