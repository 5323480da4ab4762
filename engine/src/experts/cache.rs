//! The expert cache: which experts are resident, which are loading, and which are evicted. Plain bookkeeping;
//! it must neither read nor wait. Banks whose experts have one size share slots. The quota of a bank is the
//! number of experts that it keeps between requests. A few spare slots are for experts that are loading or
//! used only once.
//!
//! What a bank keeps is decided when its experts are requested, from the ranking alone and never from the
//! order in which reads end. One trace of requests always leaves the same content.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

use moelten_loader::io::pieces::Piece;

use super::live::LiveState;
use super::policy::{Policy, Ranking};
use super::room::CacheShape;
use crate::api::ExpertPlace;

/// The memory of an expert; empty while it is loading.
pub type Slot = Arc<OnceLock<Piece>>;

/// The number of no entry.
const NONE: u32 = u32::MAX;

/// A slot and its use.
#[derive(Debug)]
pub struct Entry {
    /// The memory, unless it is out with readers.
    pub slot: Slot,
    /// Pieces of the memory that are not out with readers: the rest that no part needed, and parts that came
    /// back.
    pub back: Vec<Piece>,
    /// What the slot is used for.
    pub state: State,
    /// Requests that hold the expert.
    pub pins: u32,
    class: u32,
    /// Whether the system has brought the memory. The first write to it takes longer otherwise.
    touched: bool,
}

/// The use of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// None.
    Free,
    /// None, while the memory is out to be touched or discarded.
    Touching,
    /// None: the memory goes back to the system, and the slot does not count until the cache grows.
    Retired,
    /// An expert is loading into it.
    Reading(Reading),
    /// An expert is resident in it.
    Here {
        /// The expert's bank.
        bank: u32,
        /// The expert's id in the bank.
        expert: u32,
    },
}

/// An expert that is loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The expert's bank.
    pub bank: u32,
    /// The expert's id in the bank.
    pub expert: u32,
    /// Parts that have not come back.
    pub left: u32,
    /// Whether it is only a prefetch.
    pub guess: bool,
    /// The read was given up: the slot becomes free when the last part is back.
    pub orphan: bool,
    /// A part could not be read.
    pub failed: bool,
}

/// A bank's experts.
#[derive(Debug)]
struct Bank {
    /// Entry of each expert, or `NONE`.
    entries: Vec<u32>,
    ranking: Ranking,
    /// Experts that stay resident between requests, at most.
    quota: usize,
    class: u32,
    /// Experts that the bank keeps after the present request.
    keep: Vec<bool>,
    /// Experts that a device holds: they are kept there, not here.
    elsewhere: Vec<bool>,
}

/// Slots, the experts in them, and what each bank keeps.
#[derive(Debug)]
pub struct Cache {
    /// A copy of the places of all experts, for views.
    live: Arc<LiveState>,
    entries: Vec<Entry>,
    /// Free entries of each size.
    free: Vec<Vec<u32>>,
    banks: Vec<Bank>,
    /// Memory for sorting.
    order: Vec<u32>,
    evicted: Vec<(u32, u32)>,
    wrong: Vec<u32>,
    /// Slots of each size that are never retired.
    spare: Vec<usize>,
    /// Slots of each size that are to be retired when they become free.
    debts: Vec<usize>,
    /// Entries of prefetched experts that the present request uses.
    right: Vec<u32>,
    /// Prefetches since the last request: entry, bank and expert.
    guessed: Vec<(u32, u32, u32)>,
    /// Retired slots whose memory may still be there.
    retired: Vec<u32>,
}

impl Cache {
    /// An empty cache. `slots[class]` is the memory of the slots of each size: as many as quotas and spare
    /// slots.
    pub fn new(
        shape: &CacheShape,
        policy: Policy,
        slots: Vec<Vec<Piece>>,
        most_parts: usize,
        live: Arc<LiveState>,
    ) -> Self {
        let mut entries = Vec::new();
        let mut free = Vec::new();
        for (class, slots) in (0..).zip(slots) {
            let mut list = Vec::with_capacity(slots.len());
            for piece in slots {
                list.push(entries.len() as u32);
                // Mapped files have slots without memory.
                let touched = piece.is_empty();
                let slot = Arc::new(OnceLock::from(piece));
                let back = Vec::with_capacity(most_parts + 1);
                entries.push(Entry { slot, back, state: State::Free, pins: 0, class, touched });
            }
            free.push(list);
        }
        let banks = shape.experts.iter().zip(&shape.quotas).zip(&shape.classes);
        let banks = banks.map(|((&experts, &quota), &class)| Bank {
            entries: vec![NONE; experts],
            ranking: Ranking::new(policy, experts),
            quota,
            class,
            keep: vec![false; experts],
            elsewhere: vec![false; experts],
        });
        let most = shape.experts.iter().copied().max().unwrap_or(0);
        Self {
            live,
            entries,
            spare: shape.spare.clone(),
            debts: vec![0; free.len()],
            free,
            banks: banks.collect(),
            order: Vec::with_capacity(most),
            evicted: Vec::with_capacity(most),
            wrong: Vec::with_capacity(most),
            right: Vec::with_capacity(most),
            guessed: Vec::with_capacity(most),
            retired: Vec::new(),
        }
    }

    /// The places of all experts, for views.
    pub fn live(&self) -> &Arc<LiveState> {
        &self.live
    }

    /// An entry by its number.
    pub fn entry(&self, entry: u32) -> &Entry {
        &self.entries[entry as usize]
    }

    /// As [`Self::entry`], to change.
    pub fn entry_mut(&mut self, entry: u32) -> &mut Entry {
        &mut self.entries[entry as usize]
    }

    /// The entry of an expert that is resident or loading.
    pub fn find(&self, bank: usize, expert: u32) -> Option<u32> {
        let entry = self.banks[bank].entries[expert as usize];
        (entry != NONE).then_some(entry)
    }

    /// Resident experts of a bank.
    pub fn here(&self, bank: usize) -> impl Iterator<Item = u32> + '_ {
        let entries = self.banks[bank].entries.iter().enumerate();
        entries.filter_map(|(expert, &entry)| {
            let here = entry != NONE && matches!(self.entries[entry as usize].state, State::Here { .. });
            here.then_some(expert as u32)
        })
    }

    /// The number of experts that a bank keeps.
    #[cfg(test)]
    pub fn quota(&self, bank: usize) -> usize {
        self.banks[bank].quota
    }

    /// The number of slots that are not retired.
    #[cfg(test)]
    pub fn slots(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state != State::Retired).count()
    }

    /// Requests experts of a bank, each with the number of tokens that use it. Decides which experts the bank
    /// keeps, and evicts the others unless a request holds them. Prefetches that the request does not use are
    /// given up (see [`Self::next_wrong`]). Returns the number of those that it uses.
    pub fn request(&mut self, bank: usize, uses: impl Iterator<Item = (u32, u32)> + Clone) -> u64 {
        let state = &mut self.banks[bank];
        state.ranking.used(uses.clone());
        state.keep.fill(false);
        uses.clone().for_each(|(expert, _)| state.keep[expert as usize] = true);
        // Wrong prefetches of all banks go first: they do not compete. A request for more experts than there
        // are spare slots uses one after the other, and a prefetched expert would hold its slot out of turn.
        let few = uses.count() <= self.spare[self.banks[bank].class as usize];
        self.give_up_guesses(|cache, entry, of, expert| {
            let failed = matches!(cache.entry(entry).state, State::Reading(reading) if reading.failed);
            few && of as usize == bank && cache.banks[bank].keep[expert as usize] && !failed
        });
        let Self { banks, order, .. } = self;
        let state = &mut banks[bank];
        let (experts, keep) = (&state.entries, &state.keep);
        order.clear();
        let known = |e: usize| (keep[e] || experts[e] != NONE) && !state.elsewhere[e];
        order.extend((0..experts.len() as u32).filter(|&e| known(e as usize)));
        let ranking = &state.ranking;
        order.sort_unstable_by_key(|&expert| Reverse(ranking.value(expert)));
        state.keep.fill(false);
        order.iter().take(state.quota).for_each(|&expert| state.keep[expert as usize] = true);
        // Prefetched experts of this request stay until they have been used.
        self.right.iter().for_each(|&entry| self.entries[entry as usize].pins += 1);
        self.make_room(bank);
        self.right.iter().for_each(|&entry| self.entries[entry as usize].pins -= 1);
        self.right.len() as u64
    }

    /// How many experts of its bank rank above an expert, of how many; `None` if it was never used.
    pub fn depth(&self, bank: usize, expert: u32) -> Option<(usize, usize)> {
        let state = &self.banks[bank];
        Some((state.ranking.depth(expert)?, state.entries.len()))
    }

    /// Whether an entry was prefetched for the present request.
    pub fn guessed_right(&self, entry: u32) -> bool {
        self.right.contains(&entry)
    }

    /// Gives up all prefetches since the last request if no slot is free for a needed expert of `bank`. See
    /// [`Self::next_wrong`].
    pub fn make_way(&mut self, bank: usize) {
        if self.free(bank) == 0 {
            self.give_up_guesses(|_, _, _, _| false);
        }
    }

    /// Gives up the prefetches since the last request except those that are `right`, which are listed.
    fn give_up_guesses(&mut self, right: impl Fn(&Self, u32, u32, u32) -> bool) {
        self.right.clear();
        while let Some((entry, bank, expert)) = self.guessed.pop() {
            let found = &self.entries[entry as usize];
            // The slot may have another use by now.
            let same = match found.state {
                State::Reading(r) => r.guess && !r.orphan && (r.bank, r.expert) == (bank, expert),
                State::Here { bank: l, expert: e } => found.pins == 0 && (l, e) == (bank, expert),
                State::Free | State::Touching | State::Retired => false,
            };
            if !same {
                continue;
            }
            if right(self, entry, bank, expert) {
                self.right.push(entry);
            } else if let State::Reading(reading) = found.state {
                self.abandon(entry, reading);
                self.wrong.push(entry);
            } else {
                self.leave(entry);
            }
        }
    }

    /// A prefetch that was given up: its parts need not be read.
    pub fn next_wrong(&mut self) -> Option<u32> {
        self.wrong.pop()
    }

    /// Whether a device holds an expert.
    pub fn is_elsewhere(&self, bank: usize, expert: u32) -> bool {
        self.banks[bank].elsewhere[expert as usize]
    }

    /// Notes whether a device holds an expert. One that it holds gives its slot back as soon as no request
    /// uses it.
    pub fn set_elsewhere(&mut self, bank: usize, expert: u32, elsewhere: bool) {
        let state = &mut self.banks[bank];
        state.elsewhere[expert as usize] = elsewhere;
        if elsewhere {
            state.keep[expert as usize] = false;
            self.make_room(bank);
        }
    }

    /// Notes that there is no device any more.
    pub fn nothing_elsewhere(&mut self) {
        self.banks.iter_mut().for_each(|bank| bank.elsewhere.fill(false));
    }

    /// Evicts the experts that a bank does not keep and no request holds.
    fn make_room(&mut self, bank: usize) {
        for expert in 0..self.banks[bank].entries.len() {
            let state = &self.banks[bank];
            let entry = state.entries[expert];
            if entry != NONE && !state.keep[expert] && self.entries[entry as usize].pins == 0 {
                self.leave(entry);
            }
        }
    }

    /// A request holds the entry no longer. If it was the last one, an expert that its bank does not keep is
    /// evicted, and a read is given up. Returns whether a read was given up: its parts need not be read.
    pub fn unpin(&mut self, entry: u32) -> bool {
        let found = &mut self.entries[entry as usize];
        found.pins -= 1;
        if found.pins > 0 {
            return false;
        }
        match found.state {
            State::Here { bank, expert } => {
                if !self.banks[bank as usize].keep[expert as usize] {
                    self.leave(entry);
                }
                false
            }
            // A failed read whose memory is back: it was kept so that requests see the error. Without the
            // memory a reader is still verifying the expert and will finish the read.
            State::Reading(Reading { left: 0, failed: true, .. }) if !found.back.is_empty() => {
                self.set_free(entry);
                false
            }
            State::Reading(reading) => {
                if !reading.orphan {
                    self.abandon(entry, reading);
                }
                true
            }
            State::Free | State::Touching | State::Retired => false,
        }
    }

    /// Evicts a resident expert; does nothing to an entry that is loading.
    fn leave(&mut self, entry: u32) {
        if let State::Here { bank, expert } = self.entries[entry as usize].state {
            self.banks[bank as usize].entries[expert as usize] = NONE;
            self.live.set_place(bank as usize, expert, ExpertPlace::Absent);
            self.evicted.push((bank, expert));
            self.set_free(entry);
        }
    }

    /// Takes a free slot for an expert of `bank` that is neither resident nor loading. The memory is the
    /// caller's until the last part has come back. `None` if no slot is free.
    pub fn begin(&mut self, bank: usize, expert: u32, guess: bool) -> Option<(u32, Piece)> {
        let class = self.banks[bank].class;
        let entry = self.free[class as usize].pop()?;
        let place = &mut self.banks[bank].entries[expert as usize];
        debug_assert_eq!(*place, NONE, "one read for each expert");
        *place = entry;
        self.live.set_place(bank, expert, ExpertPlace::Loading);
        let found = &mut self.entries[entry as usize];
        let bank = bank as u32;
        found.state = State::Reading(Reading { bank, expert, left: 0, guess, orphan: false, failed: false });
        found.touched = true;
        if guess {
            self.guessed.push((entry, bank, expert));
        }
        let slot = Arc::get_mut(&mut found.slot).expect("a free slot is not shared");
        let piece = slot.take().expect("a free slot has its memory");
        Some((entry, piece))
    }

    /// A free slot whose memory the system has not brought yet, with the memory, which is the caller's until
    /// [`Self::touched`]. The first one that reads would take.
    pub fn next_untouched(&mut self) -> Option<(u32, Piece)> {
        let Self { entries, free, .. } = self;
        let (list, at) = free.iter_mut().find_map(|list| {
            let at = list.iter().rposition(|&entry| !entries[entry as usize].touched)?;
            Some((list, at))
        })?;
        let entry = list.remove(at);
        let found = &mut entries[entry as usize];
        found.state = State::Touching;
        let slot = Arc::get_mut(&mut found.slot).expect("a free slot is not shared");
        Some((entry, slot.take().expect("a free slot has its memory")))
    }

    /// Takes back the memory of [`Self::next_untouched`]. `all` says whether all of it was touched.
    pub fn touched(&mut self, entry: u32, piece: Piece, all: bool) {
        let found = &mut self.entries[entry as usize];
        debug_assert_eq!(found.state, State::Touching, "only these come back");
        found.touched = all;
        found.back.push(piece);
        self.set_free(entry);
    }

    /// The number of free slots of the size that a bank uses.
    pub fn free(&self, bank: usize) -> usize {
        self.free[self.banks[bank].class as usize].len()
    }

    /// Takes back a part of a read. Returns the whole memory of the slot if it was the last part.
    pub fn came_back(&mut self, entry: u32, piece: Piece, read: bool) -> Option<Piece> {
        let found = &mut self.entries[entry as usize];
        let State::Reading(reading) = &mut found.state else { unreachable!("parts belong to reads") };
        reading.left -= 1;
        reading.failed |= !read && !reading.orphan;
        if !piece.is_empty() {
            found.back.push(piece);
        }
        if reading.left > 0 {
            return None;
        }
        found.back.sort_unstable_by_key(Piece::start);
        Some(found.back.drain(..).reduce(Piece::join).unwrap_or_default())
    }

    /// Ends a read with the whole memory of the slot. Returns whether the expert is resident now; it is not
    /// if the read failed or was given up, and the slot is free then.
    pub fn finish(&mut self, entry: u32, slot: Piece) -> bool {
        let found = &mut self.entries[entry as usize];
        let State::Reading(reading) = found.state else { unreachable!("only reads finish") };
        let Reading { bank, expert, orphan, failed, .. } = reading;
        if orphan || failed {
            if !orphan {
                self.banks[bank as usize].entries[expert as usize] = NONE;
                self.live.set_place(bank as usize, expert, ExpertPlace::Absent);
            }
            // Not into the slot: a request that holds it would take it for the expert.
            found.back.push(slot);
            // Requests hold the entry until they have seen the error.
            if found.pins == 0 {
                self.set_free(entry);
            }
            return false;
        }
        let empty = found.slot.set(slot).is_ok();
        debug_assert!(empty, "a slot is filled once");
        found.state = State::Here { bank, expert };
        self.live.set_place(bank as usize, expert, ExpertPlace::Resident);
        true
    }

    fn abandon(&mut self, entry: u32, reading: Reading) {
        self.entries[entry as usize].state = State::Reading(Reading { orphan: true, ..reading });
        self.banks[reading.bank as usize].entries[reading.expert as usize] = NONE;
        self.live.set_place(reading.bank as usize, reading.expert, ExpertPlace::Absent);
    }

    /// Frees a slot whose memory is back.
    fn set_free(&mut self, entry: u32) {
        let found = &mut self.entries[entry as usize];
        if let Some(piece) = found.back.pop() {
            let empty = found.slot.set(piece).is_ok();
            debug_assert!(empty, "a slot has its memory once");
        }
        let class = found.class as usize;
        found.state = State::Free;
        self.free[class].push(entry);
        self.pay(class);
    }

    /// Retires free slots, as many as are to be retired. The spare ones stay: without them a request might
    /// wait for ever. Returns the bytes of the retired slots.
    fn pay(&mut self, class: usize) -> usize {
        let mut bytes = 0;
        while self.debts[class] > 0 && self.free[class].len() > self.spare[class] {
            let Some(entry) = self.free[class].pop() else { break };
            self.debts[class] -= 1;
            bytes += self.retire(entry);
        }
        bytes
    }

    /// Retires a free slot. Its memory goes back to the system when it is discarded: see
    /// [`Self::next_retired`]. Returns its bytes.
    fn retire(&mut self, entry: u32) -> usize {
        let found = &mut self.entries[entry as usize];
        found.state = State::Retired;
        self.retired.push(entry);
        found.slot.get().map_or(0, Piece::len)
    }

    /// Whether retired slots may have memory that was not discarded.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// A retired slot whose memory was not discarded, with the memory, which is the caller's to discard until
    /// [`Self::discarded`].
    pub fn next_retired(&mut self) -> Option<(u32, Piece)> {
        while let Some(entry) = self.retired.pop() {
            let found = &mut self.entries[entry as usize];
            let slot = Arc::get_mut(&mut found.slot).filter(|_| found.state == State::Retired);
            if let Some(piece) = slot.and_then(OnceLock::take) {
                return Some((entry, piece));
            }
        }
        None
    }

    /// Takes back the memory of [`Self::next_retired`].
    pub fn discarded(&mut self, entry: u32, piece: Piece) {
        let found = &mut self.entries[entry as usize];
        found.back.push(piece);
        match found.state {
            // The cache has grown meanwhile.
            State::Touching => self.set_free(entry),
            _ => {
                let piece = found.back.pop();
                let empty = piece.is_none_or(|piece| found.slot.set(piece).is_ok());
                debug_assert!(empty, "a slot has its memory once");
            }
        }
    }

    /// Experts that were evicted since the last call, as bank and id.
    pub fn drain_evicted(&mut self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.evicted.drain(..)
    }

    /// Lowers quotas to at most these: evicts experts that no request holds, and retires as many slots as
    /// quotas fell by, those in use when they become free. Returns the bytes of the slots that were retired
    /// now. Nothing is discarded here: see [`Self::next_retired`].
    pub fn shrink(&mut self, quotas: &[usize]) -> usize {
        let mut bytes = 0;
        for (bank, &quota) in quotas.iter().enumerate() {
            let state = &mut self.banks[bank];
            let fewer = state.quota.saturating_sub(quota);
            if fewer == 0 {
                continue;
            }
            state.quota = quota;
            self.live.set_slots(bank, quota);
            let class = state.class as usize;
            // Experts that the present request keeps count, even if they are still loading.
            let (keep, ranking) = (&state.keep, &state.ranking);
            self.order.clear();
            self.order.extend((0..keep.len() as u32).filter(|&expert| keep[expert as usize]));
            self.order.sort_unstable_by_key(|&expert| Reverse(ranking.value(expert)));
            for i in quota..self.order.len() {
                self.banks[bank].keep[self.order[i] as usize] = false;
            }
            self.make_room(bank);
            self.debts[class] += fewer;
            bytes += self.pay(class);
        }
        bytes
    }

    /// Raises quotas to at least these, after [`Self::shrink`] has lowered them: retired slots become free
    /// again, and the system brings their memory when it is written.
    ///
    /// # Panics
    /// If a quota is above its first value.
    pub fn grow(&mut self, quotas: &[usize]) {
        for (bank, &quota) in quotas.iter().enumerate() {
            let state = &mut self.banks[bank];
            let more = quota.saturating_sub(state.quota);
            state.quota += more;
            self.live.set_slots(bank, state.quota);
            let class = state.class as usize;
            let still_here = more.min(self.debts[class]);
            self.debts[class] -= still_here;
            for _ in still_here..more {
                let retired = |entry: &Entry| entry.state == State::Retired && entry.class as usize == class;
                let entry = self.entries.iter().position(retired).expect("as many slots were given up");
                let found = &mut self.entries[entry];
                found.touched = false;
                if found.slot.get().is_none() {
                    // Its memory is being discarded.
                    found.state = State::Touching;
                    continue;
                }
                found.state = State::Free;
                // Slots that have memory are taken first.
                self.free[class].insert(0, entry as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests;
