//! The experts of the next bank, guessed or known, while those of the present one are read. It must not know
//! where experts are.

use moelten_loader::spec::RouterInput;

use crate::experts::store::ExpertStore;
use crate::layers::ffn::router::Routing;
use crate::layers::ffn::router_weights::RouterWeights;
use crate::layers::linear::Compute;
use crate::layers::norm::Norm;
use crate::layers::scratch::AheadScratch;
use crate::layers::streams::StreamWeights;
use crate::weights::NextBank;

/// The next bank, as far as its experts are to be prefetched.
pub(super) struct Ahead<'a> {
    compute: Compute<'a>,
    store: &'a ExpertStore,
    next: Option<NextBank<'a>>,
    /// The residual streams that the present branch has not added to yet, `[tokens, streams, d_model]`.
    x: &'a [f32],
    s: &'a mut AheadScratch,
}

impl<'a> Ahead<'a> {
    /// Prepares a guess at the experts of `next`, or their choice, where `routing` is it, or those that are
    /// listed for the tokens that `token` returns. `x` are the residual streams that the present branch has
    /// not added to yet.
    pub fn new(
        compute: Compute<'a>,
        store: &'a ExpertStore,
        next: Option<NextBank<'a>>,
        (routing, token, x): (&Routing, &dyn Fn(usize) -> u32, &'a [f32]),
        s: &'a mut AheadScratch,
    ) -> Self {
        if let Some(NextBank { experts, input: RouterInput::Groups { size, .. }, .. }) = next {
            vote(routing, experts, size, &mut s.votes, &mut s.ranked);
        } else if let Some(NextBank { router: Some(router), .. }) = next
            && router.spec.listed
        {
            s.ranked.clear();
            for &expert in (0..routing.tokens()).filter_map(|row| router.listed_for(token(row))).flatten() {
                if !s.ranked.contains(&u32::from(expert)) {
                    s.ranked.push(expert.into());
                }
            }
        }
        Self { compute, store, next, x, s }
    }

    /// Asks for these experts, now that those of the present bank are on their way.
    pub fn prefetch(&mut self) {
        let Some(NextBank { bank, experts, input, router, streams, norm }) = self.next else { return };
        match (input, router) {
            // What a router reads that stands before attention is known soon enough.
            (RouterInput::Outset, _) | (RouterInput::Branch | RouterInput::Residual { .. }, None) => return,
            (RouterInput::Groups { .. }, _) => {}
            (_, Some(router)) if router.spec.listed => {}
            (RouterInput::Branch | RouterInput::Residual { .. }, Some(router)) => {
                rank(self.compute, (streams, norm), (router, experts), self.x, self.s);
            }
        }
        self.store.prefetch(bank, &self.s.ranked);
    }
}

/// Ranks the experts that a later branch will probably choose, the likeliest first, in `s.ranked`. `x` are
/// the residual streams of tokens that the present branch has not added to yet: what one layer adds is
/// little, so the next router mostly decides the same (arXiv 2312.17238). The order is the router's own
/// preference, whatever its scores mean; experts that more tokens prefer come first.
pub(super) fn rank(
    compute: Compute<'_>,
    (streams, norm): (Option<&StreamWeights>, Option<&Norm>),
    (router, experts): (&RouterWeights, usize),
    x: &[f32],
    s: &mut AheadScratch,
) {
    let tokens = x.len() / streams.map_or(router.weight.cols, StreamWeights::width);
    let x = match streams {
        None => x,
        Some(streams) => {
            streams.read(compute, x, &mut s.streams);
            &s.streams.read[..tokens * router.weight.cols]
        }
    };
    let normed = &mut s.normed[..x.len()];
    match norm {
        Some(norm) => norm.apply(compute, x, normed),
        None => normed.copy_from_slice(x),
    }
    router.route(compute, normed, (|_| true, |_| 0), &mut s.route, &mut s.packed, &mut s.grouped);
    vote(&s.route.routing, experts, 1, &mut s.votes, &mut s.ranked);
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
