//! What share of a model's experts a cache of any size finds: by what a run of the model counted, or by an
//! estimate. `docs/memory.md` explains the figures. It must not know what a miss costs.

/// How regular the routing of a model is that has not run yet: likely, and the range of published and own
/// measurements (`docs/memory.md`). 0 is random, 1 the most regular one known.
const LIKELY: f64 = 0.6;
const LEAST: f64 = 0.0;
const MOST: f64 = 1.0;

/// Best measured hit rate by the share of cached experts: the upper envelope of ten models with LRU caches on
/// real texts.
const BEST_HITS: [(f64, f64); 8] = [
    (0.0, 0.0),
    (0.06, 0.58),
    (0.12, 0.73),
    (0.25, 0.87),
    (0.38, 0.94),
    (0.5, 0.96),
    (0.75, 0.99),
    (1.0, 1.0),
];

/// What is known of a model's routing.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Routing {
    /// Nothing.
    #[default]
    Unknown,
    /// How far it is from random, 0, to the most regular one known, 1.
    Locality(f64),
    /// Shares of the used bytes by the size of the cache that would have found them: part `n` of the list, in
    /// a cache of more than `n` of its parts of the experts. The rest was used for the first time.
    Counted(Vec<f64>),
}

impl Routing {
    /// The likely hit rate of a cache of this share of the experts.
    pub fn hits(&self, share: f64) -> f64 {
        match self {
            Self::Unknown => hits_at(share, LIKELY),
            Self::Locality(locality) => hits_at(share, *locality),
            Self::Counted(parts) => {
                let filled = share.clamp(0.0, 1.0) * parts.len() as f64;
                let found =
                    parts.iter().enumerate().map(|(n, part)| part * (filled - n as f64).clamp(0.0, 1.0));
                found.sum::<f64>().clamp(0.0, 1.0)
            }
        }
    }

    /// The range of hit rates that may be expected.
    pub fn range(&self, share: f64) -> (f64, f64) {
        match self {
            Self::Unknown => (hits_at(share, LEAST), hits_at(share, MOST)),
            known => (known.hits(share), known.hits(share)),
        }
    }
}

/// Hit rate of a cache of this share of the experts, between random routing and the most regular one known.
fn hits_at(share: f64, locality: f64) -> f64 {
    (share + locality * (best_hits(share) - share)).clamp(0.0, 1.0)
}

/// The locality that gives these hits with this share of the experts in the cache; `None` where the share
/// decides alone. Negative if an earlier run found less than random routing would, as short ones do.
pub fn locality(share: f64, hits: f64) -> Option<f64> {
    let room = best_hits(share) - share;
    (room > 0.005).then(|| ((hits - share) / room).clamp(-0.5, 1.2))
}

/// Interpolates [`BEST_HITS`].
fn best_hits(share: f64) -> f64 {
    let after = BEST_HITS.iter().position(|&(at, _)| share <= at).unwrap_or(BEST_HITS.len() - 1).max(1);
    let ((from, low), (to, high)) = (BEST_HITS[after - 1], BEST_HITS[after]);
    low + (high - low) * ((share - from) / (to - from)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locality_is_found_again_in_other_caches() {
        for share in [0.1, 0.3, 0.5, 0.7] {
            for expected in [0.0, 0.4, 1.0] {
                let found = locality(share, Routing::Locality(expected).hits(share)).unwrap();
                assert!((found - expected).abs() < 1e-9, "{share} {expected} {found}");
            }
        }
        // A cache of everything or nothing tells nothing.
        assert_eq!((locality(1.0, 1.0), locality(0.0, 0.0)), (None, None));
        assert_eq!(Routing::Locality(5.0).hits(0.9), 1.0);
    }

    #[test]
    fn friendly_routing_is_never_worse_than_none() {
        for percent in 0..=100 {
            let share = f64::from(percent) / 100.0;
            assert!(best_hits(share) >= share && best_hits(share) <= 1.0, "{share}");
        }
        assert!((best_hits(0.185) - 0.80).abs() < 1e-9);
        assert_eq!((best_hits(0.0), best_hits(0.5), best_hits(1.0)), (0.0, 0.96, 1.0));
    }

    #[test]
    fn what_was_counted_gives_the_hits_of_every_cache() {
        // A tenth was used for the first time: not even a cache of everything had it.
        let counted = Routing::Counted(vec![0.5, 0.25, 0.1, 0.05]);
        let hits: Vec<f64> =
            [0.0, 0.25, 0.375, 0.5, 1.0, 2.0].iter().map(|&share| counted.hits(share)).collect();
        let expected = [0.0, 0.5, 0.625, 0.75, 0.9, 0.9];
        assert!(hits.iter().zip(expected).all(|(hits, expected)| (hits - expected).abs() < 1e-9), "{hits:?}");
        assert_eq!(counted.range(0.25), (0.5, 0.5));
        let (low, high) = Routing::Unknown.range(0.25);
        assert!((low, high) == (0.25, 0.87) && Routing::Unknown.hits(0.25) > low);
    }
}
