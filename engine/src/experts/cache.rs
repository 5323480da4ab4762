//! Which experts are in memory, which are on their way, and who makes room: the store's bookkeeping, without
//! any reading or waiting of its own. Slots are shared by banks whose experts have one size; how many experts
//! a bank keeps when it is at rest is its quota. A few spare slots hold what is on its way or used only once.
//!
//! What a bank keeps is decided when its experts are asked for, from the ranking alone, never from the order
//! in which reads end: for one trace of requests the content is always the same.

use std::cmp::Reverse;
use std::sync::{Arc, OnceLock};

use moelten_loader::io::pieces::Piece;

use super::live::LiveState;
use super::policy::{Policy, Ranking};
use super::room::CacheShape;
use crate::api::ExpertPlace;

/// Memory of an expert: empty while it is being read.
pub type Slot = Arc<OnceLock<Piece>>;

/// No entry.
const NONE: u32 = u32::MAX;

/// A slot and what it is used for.
#[derive(Debug)]
pub struct Entry {
    /// Its memory.
    pub slot: Slot,
    /// What of it is not out with readers: what no part needed, and parts that came back.
    pub back: Vec<Piece>,
    /// The expert, and what is known of it.
    pub state: State,
    /// Who uses it now.
    pub pins: u32,
    class: u32,
    /// Whether the system has brought its memory: who writes there first waits for that.
    touched: bool,
}

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing.
    Free,
    /// Nothing, but its memory is out to be touched or discarded.
    Touching,
    /// Its memory was given back to the system.
    Retired,
    /// An expert is being read.
    Reading(Reading),
    /// An expert is here.
    Here {
        /// Number of the bank that the expert belongs to.
        bank: u32,
        /// Number of the expert in its bank.
        expert: u32,
    },
}

/// An expert on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Number of the bank that the expert belongs to.
    pub bank: u32,
    /// Number of the expert in its bank.
    pub expert: u32,
    /// Parts that have not come back.
    pub left: u32,
    /// Whether it is only a guess.
    pub guess: bool,
    /// Nobody wants it any more: its slot becomes free when its last part is back.
    pub orphan: bool,
    /// A part could not be read.
    pub failed: bool,
}

/// One bank.
#[derive(Debug)]
struct Bank {
    /// Entry of each expert, or `NONE`.
    entries: Vec<u32>,
    ranking: Ranking,
    /// Experts it keeps at rest.
    quota: usize,
    class: u32,
    /// Of the present request: experts that stay.
    keep: Vec<bool>,
}

/// The bookkeeping.
#[derive(Debug)]
pub struct Cache {
    /// Where everything is, for those who watch.
    live: Arc<LiveState>,
    entries: Vec<Entry>,
    /// Free entries of each size.
    free: Vec<Vec<u32>>,
    banks: Vec<Bank>,
    /// For sorting.
    order: Vec<u32>,
    evicted: Vec<(u32, u32)>,
    wrong: Vec<u32>,
    /// Slots of each size that stay free when a bank gives up places.
    spare: Vec<usize>,
    /// Slots of each size beyond them whose memory goes back to the system when they become free.
    debts: Vec<usize>,
    /// Right guesses of the present request.
    right: Vec<u32>,
    /// Guesses since the last request: entry, bank and expert.
    guessed: Vec<(u32, u32, u32)>,
    /// Retired slots whose memory may still be there.
    retired: Vec<u32>,
}

impl Cache {
    /// An empty cache; `slots[class]` has the memory of each size, as much as quotas and spare slots need.
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

    /// Where everything is, for those who watch.
    pub fn live(&self) -> &Arc<LiveState> {
        &self.live
    }

    /// An entry by its number.
    pub fn entry(&self, entry: u32) -> &Entry {
        &self.entries[entry as usize]
    }

    /// An entry by its number, to change.
    pub fn entry_mut(&mut self, entry: u32) -> &mut Entry {
        &mut self.entries[entry as usize]
    }

    /// The entry of an expert that is here or on its way.
    pub fn find(&self, bank: usize, expert: u32) -> Option<u32> {
        let entry = self.banks[bank].entries[expert as usize];
        (entry != NONE).then_some(entry)
    }

    /// Experts of a bank that are here.
    pub fn here(&self, bank: usize) -> impl Iterator<Item = u32> + '_ {
        let entries = self.banks[bank].entries.iter().enumerate();
        entries.filter_map(|(expert, &entry)| {
            let here = entry != NONE && matches!(self.entries[entry as usize].state, State::Here { .. });
            here.then_some(expert as u32)
        })
    }

    /// Experts a bank keeps at rest.
    #[cfg(test)]
    pub fn quota(&self, bank: usize) -> usize {
        self.banks[bank].quota
    }

    /// Number of slots that hold memory.
    #[cfg(test)]
    pub fn slots(&self) -> usize {
        self.entries.iter().filter(|entry| entry.state != State::Retired).count()
    }

    /// A bank's experts are asked for, each by a number of tokens. What stays of it and of what is here is
    /// decided; the rest, as far as nobody uses it, leaves. Guesses that were wrong are given up: see
    /// [`Self::next_wrong`]; returns how many were right.
    pub fn request(&mut self, bank: usize, uses: impl Iterator<Item = (u32, u32)> + Clone) -> u64 {
        let state = &mut self.banks[bank];
        state.ranking.used(uses.clone());
        state.keep.fill(false);
        uses.clone().for_each(|(expert, _)| state.keep[expert as usize] = true);
        // Wrong guesses first, here or on their way, whichever bank they were for: they do not compete. More
        // experts than there are spare slots are used one after the other: a guess would hold one against
        // that order.
        let few = uses.count() <= self.spare[self.banks[bank].class as usize];
        self.give_up_guesses(|cache, entry, of, expert| {
            let failed = matches!(cache.entry(entry).state, State::Reading(reading) if reading.failed);
            few && of as usize == bank && cache.banks[bank].keep[expert as usize] && !failed
        });
        let Self { banks, order, .. } = self;
        let state = &mut banks[bank];
        let (experts, keep) = (&state.entries, &state.keep);
        order.clear();
        order.extend((0..experts.len() as u32).filter(|&e| keep[e as usize] || experts[e as usize] != NONE));
        let ranking = &state.ranking;
        order.sort_unstable_by_key(|&expert| Reverse(ranking.value(expert)));
        state.keep.fill(false);
        order.iter().take(state.quota).for_each(|&expert| state.keep[expert as usize] = true);
        // They have just been read: they stay until they have been used.
        self.right.iter().for_each(|&entry| self.entries[entry as usize].pins += 1);
        self.make_room(bank);
        self.right.iter().for_each(|&entry| self.entries[entry as usize].pins -= 1);
        self.right.len() as u64
    }

    /// Whether an entry was guessed for the present request.
    pub fn guessed_right(&self, entry: u32) -> bool {
        self.right.contains(&entry)
    }

    /// Gives up all guesses since the last request, because a need for an expert of `bank` finds no free
    /// slot. See [`Self::next_wrong`].
    pub fn make_way(&mut self, bank: usize) {
        if self.free(bank) == 0 {
            self.give_up_guesses(|_, _, _, _| false);
        }
    }

    /// Gives up the guesses since the last request but those that are `right`, which are listed.
    fn give_up_guesses(&mut self, right: impl Fn(&Self, u32, u32, u32) -> bool) {
        self.right.clear();
        while let Some((entry, bank, expert)) = self.guessed.pop() {
            let found = &self.entries[entry as usize];
            // The slot may serve another expert by now.
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

    /// A guess that was given up, whose parts nobody needs to read.
    pub fn next_wrong(&mut self) -> Option<u32> {
        self.wrong.pop()
    }

    /// Lets go of what a bank does not keep and nobody uses.
    fn make_room(&mut self, bank: usize) {
        for expert in 0..self.banks[bank].entries.len() {
            let state = &self.banks[bank];
            let entry = state.entries[expert];
            if entry != NONE && !state.keep[expert] && self.entries[entry as usize].pins == 0 {
                self.leave(entry);
            }
        }
    }

    /// One user less. What its bank does not keep leaves; a read that nobody waits for any more is given up,
    /// and the caller is told so: its parts need not be read.
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
            // It failed, its memory is back, and it waited for its users to see that. Without memory it is
            // being looked at by a reader, who has yet to finish it.
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

    /// An entry that is here leaves; one that is on its way is left alone.
    fn leave(&mut self, entry: u32) {
        if let State::Here { bank, expert } = self.entries[entry as usize].state {
            self.banks[bank as usize].entries[expert as usize] = NONE;
            self.live.set_place(bank as usize, expert, ExpertPlace::Absent);
            self.evicted.push((bank, expert));
            self.set_free(entry);
        }
    }

    /// A free slot for an expert of `bank` that is neither here nor on its way. Its memory is the caller's
    /// until the last part has come back.
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
        let slot = Arc::get_mut(&mut found.slot).expect("nobody uses a free slot");
        let piece = slot.take().expect("a free slot has its memory");
        Some((entry, piece))
    }

    /// A free slot whose memory nobody has touched yet, and its memory, which is the caller's until
    /// [`Self::touched`]. The one that the next reads would take first.
    pub fn next_untouched(&mut self) -> Option<(u32, Piece)> {
        let Self { entries, free, .. } = self;
        let (list, at) = free.iter_mut().find_map(|list| {
            let at = list.iter().rposition(|&entry| !entries[entry as usize].touched)?;
            Some((list, at))
        })?;
        let entry = list.remove(at);
        let found = &mut entries[entry as usize];
        found.state = State::Touching;
        let slot = Arc::get_mut(&mut found.slot).expect("nobody uses a free slot");
        Some((entry, slot.take().expect("a free slot has its memory")))
    }

    /// The memory of [`Self::next_untouched`] comes back; `all` of it was touched or not.
    pub fn touched(&mut self, entry: u32, piece: Piece, all: bool) {
        let found = &mut self.entries[entry as usize];
        debug_assert_eq!(found.state, State::Touching, "only these come back");
        found.touched = all;
        found.back.push(piece);
        self.set_free(entry);
    }

    /// Free slots of the size that a bank uses.
    pub fn free(&self, bank: usize) -> usize {
        self.free[self.banks[bank].class as usize].len()
    }

    /// A part has come back. When it was the last, the whole slot.
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

    /// The whole slot of a finished read: the expert is here, or the slot is free if nobody wants it or it
    /// failed. Says whether the expert is here.
    pub fn finish(&mut self, entry: u32, slot: Piece) -> bool {
        let found = &mut self.entries[entry as usize];
        let State::Reading(reading) = found.state else { unreachable!("only reads finish") };
        let Reading { bank, expert, orphan, failed, .. } = reading;
        if orphan || failed {
            if !orphan {
                self.banks[bank as usize].entries[expert as usize] = NONE;
                self.live.set_place(bank as usize, expert, ExpertPlace::Absent);
            }
            // Not into the slot: those who hold it would take it for the expert.
            found.back.push(slot);
            // Those who wait hold it until they have seen the error.
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

    /// Gives memory of slots that nobody uses back to the system, as much as is owed; the spare ones stay,
    /// without which a request might wait for ever. Returns the bytes.
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
    /// [`Self::next_retired`].
    fn retire(&mut self, entry: u32) -> usize {
        let found = &mut self.entries[entry as usize];
        found.state = State::Retired;
        self.retired.push(entry);
        found.slot.get().map_or(0, Piece::len)
    }

    /// Whether some retired slots may still have their memory.
    pub fn has_retired(&self) -> bool {
        !self.retired.is_empty()
    }

    /// A retired slot whose memory is still there, and its memory, which is the caller's to discard until
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

    /// The memory of [`Self::next_retired`] comes back, empty.
    pub fn discarded(&mut self, entry: u32, piece: Piece) {
        let found = &mut self.entries[entry as usize];
        found.back.push(piece);
        match found.state {
            // It was wanted again meanwhile.
            State::Touching => self.set_free(entry),
            _ => {
                let piece = found.back.pop();
                let empty = piece.is_none_or(|piece| found.slot.set(piece).is_ok());
                debug_assert!(empty, "a slot has its memory once");
            }
        }
    }

    /// Experts that have left since the last call.
    pub fn drain_evicted(&mut self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.evicted.drain(..)
    }

    /// Lowers quotas to these at most: experts that nobody uses leave, and the memory of as many slots goes
    /// back to the system, of those in use later. Returns the bytes that went back now.
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
            // What the present request wants to keep counts, whether it has been read or not.
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

    /// Raises quotas to these at least, where [`Self::shrink`] has lowered them: slots whose memory went back
    /// to the system are free again, and memory comes when they are written.
    ///
    /// # Panics
    /// If a quota is above what it was at first.
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
