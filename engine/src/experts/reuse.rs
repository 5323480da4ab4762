//! How large a cache would have had to be to hold the experts that were used, counted while a model runs. It
//! must not know which experts are resident.
//!
//! The ranking does not depend on the number of slots, so the experts of a bank form a stack: the first `n`
//! are the content of `n` slots (Mattson et al., IBM Systems Journal 9(2), 1970). The depth of an expert when
//! it is used so says for every size whether it would have been found, as in `offline::replay`.

/// Parts into which the depth of a stack is divided.
pub const PARTS: usize = 32;

/// Bytes of used experts by their depth, of all banks together. Those that were never used before are in no
/// part: no cache has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Part `n` is of depths from `n` to `n + 1` of [`PARTS`] of a bank's experts.
    pub bytes: [u64; PARTS],
}

impl Reuse {
    /// Counts the use of an expert of `bytes` bytes at `depth` in a stack of `experts`. An expert of a small
    /// bank takes several parts.
    pub fn count(&mut self, depth: usize, experts: usize, bytes: u64) {
        let from = depth * PARTS / experts.max(1);
        let to = ((depth + 1) * PARTS / experts.max(1)).max(from + 1);
        let parts = self.bytes.get_mut(from..to.min(PARTS)).unwrap_or_default();
        let each = bytes / parts.len().max(1) as u64;
        parts.iter_mut().for_each(|part| *part += each);
    }

    /// The counts since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = *self;
        since.bytes.iter_mut().zip(before.bytes).for_each(|(now, before)| *now -= before);
        since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_are_parts_of_a_bank() {
        let mut reuse = Reuse::default();
        reuse.count(0, 128, 100);
        reuse.count(7, 128, 100);
        let before = reuse;
        reuse.count(127, 128, 50);
        // One of eight experts is four of the parts.
        reuse.count(2, 8, 400);
        let mut expected = [0; PARTS];
        (expected[0], expected[1], expected[31]) = (100, 100, 50);
        expected[8..12].fill(100);
        assert_eq!(reuse.bytes, expected);
        assert_eq!(reuse.since(&before).bytes.iter().sum::<u64>(), 450);
        // More experts than parts, none a whole number of them.
        let mut odd = Reuse::default();
        (0..60).for_each(|depth| odd.count(depth, 60, 1000));
        assert_eq!(odd.bytes.iter().sum::<u64>(), 60_000);
    }
}
