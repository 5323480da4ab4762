//! Which snapshots of an append-only state still hold: a mark is a length, and it holds until the state was
//! cut below that length. It must not know what the state stores.

use super::contract::{NeedsReplay, Snapshot};

/// The cuts of a state since it was made.
#[derive(Debug, Default)]
pub struct Marks {
    /// Number of cuts so far.
    generation: u64,
    /// Cuts, `(generation, length)`, without those that a later cut went below: lengths ascend.
    cuts: Vec<(u64, usize)>,
}

impl Marks {
    /// The state was cut to `len` tokens.
    pub fn cut(&mut self, len: usize) {
        self.generation += 1;
        let higher = self.cuts.iter().rposition(|&(_, cut)| cut < len).map_or(0, |last| last + 1);
        self.cuts.truncate(higher);
        self.cuts.push((self.generation, len));
    }

    /// A mark at the present `len`.
    pub fn mark(&self, len: usize) -> Snapshot {
        Snapshot::mark(len, self.generation)
    }

    /// The length of a mark that still holds.
    ///
    /// # Errors
    /// [`NeedsReplay`] when the state was cut below it, or the snapshot is none of these marks.
    pub fn length(&self, snapshot: &Snapshot) -> Result<usize, NeedsReplay> {
        let made = snapshot.generation().ok_or(NeedsReplay)?;
        let lowest = self.cuts.iter().find(|&&(generation, _)| generation > made);
        let holds = made <= self.generation && lowest.is_none_or(|&(_, cut)| cut >= snapshot.len);
        if holds { Ok(snapshot.len) } else { Err(NeedsReplay) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_until_the_state_was_cut_below_it() {
        let mut marks = Marks::default();
        let ten = marks.mark(10);
        marks.cut(12);
        let five = marks.mark(5);
        marks.cut(10);
        assert_eq!((marks.length(&ten), marks.length(&five)), (Ok(10), Ok(5)));
        marks.cut(7);
        let seven = marks.mark(7);
        marks.cut(9);
        assert_eq!((marks.length(&ten), marks.length(&five)), (Err(NeedsReplay), Ok(5)));
        assert_eq!(marks.length(&seven), Ok(7));
        marks.cut(0);
        assert_eq!((marks.length(&five), marks.length(&seven)), (Err(NeedsReplay), Err(NeedsReplay)));
        let other = Snapshot { len: 0, bytes: 0, data: Box::new("of another state") };
        assert_eq!(marks.length(&other), Err(NeedsReplay));
    }
}
