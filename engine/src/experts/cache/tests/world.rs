//! The cache with readers whose steps are taken one by one, and checks that no slot is lost or doubled.

use moelten_loader::io::pieces::PAGE;
use moelten_loader::spec::BankKey;

use super::*;

impl Cache {
    /// Whether no slot is being read, touched or discarded, nor waits for that.
    pub(in crate::experts) fn is_at_rest(&self) -> bool {
        let out = |entry: &Entry| entry.state == State::Retired && entry.slot.get().is_none();
        let busy = |entry: &Entry| matches!(entry.state, State::Reading(_) | State::Touching) || out(entry);
        !self.entries.iter().any(busy) && !self.has_retired()
    }

    /// Checks that every slot is free, holds an expert or is retired, in one place and with all of its
    /// memory, and that there are as many as there should be.
    pub(in crate::experts) fn check_at_rest(&self, slot_bytes: usize) {
        let listed = self.banks.iter().flat_map(|bank| &bank.entries).filter(|&&entry| entry != NONE);
        let mut listed: Vec<u32> = listed.chain(self.free.iter().flatten()).copied().collect();
        listed.sort_unstable();
        let live = |&entry: &u32| self.entry(entry).state != State::Retired;
        let entries: Vec<u32> = (0..self.entries.len() as u32).filter(live).collect();
        assert_eq!(listed, entries, "every slot that was not retired is free or an expert's, once");
        for entry in &self.entries {
            assert_eq!((entry.pins, entry.back.len()), (0, 0), "{entry:?}");
            assert_eq!(entry.slot.get().map(Piece::len), Some(slot_bytes), "{entry:?}");
        }
        let kept: usize = self.banks.iter().map(|bank| bank.quota).sum();
        let owed: usize = self.debts.iter().sum();
        assert_eq!(listed.len(), kept + owed + self.spare.iter().sum::<usize>());
    }
}

/// A part with a reader, or in the queue.
pub struct TaggedPart {
    entry: u32,
    pub piece: Piece,
    tag: u8,
}

/// What an expert's bytes are.
fn tag(bank: u32, expert: u32) -> u8 {
    (1 + bank * 16 + expert) as u8
}

/// The cache, readers whose steps are taken one by one, and a request.
pub struct World {
    pub cache: Cache,
    pub queue: Vec<TaggedPart>,
    pub reading: Vec<TaggedPart>,
    pub verifying: Vec<(u32, Piece)>,
    touching: Option<(u32, Piece)>,
    discarding: Option<(u32, Piece)>,
    random: u64,
    failures: bool,
    /// The present request.
    bank: usize,
    ids: Vec<u32>,
    pub entries: Vec<u32>,
    pub slots: Vec<Option<Slot>>,
    next: usize,
}

impl World {
    pub fn new(trace: &Trace) -> Self {
        let shape = &trace.shape;
        let mut counts = shape.spare.clone();
        for (&quota, &class) in shape.quotas.iter().zip(&shape.classes) {
            counts[class as usize] += quota;
        }
        let slots =
            counts.iter().map(|&count| Piece::reserve(std::iter::repeat_n(PAGES * PAGE, count)).unwrap());
        let keys = (0..).map(|layer| BankKey { layer, bank: 0 });
        let banks = keys.zip(&shape.experts).zip(&shape.quotas);
        let live = LiveState::of_shape(banks.map(|((key, &experts), &slots)| (key, experts, slots)));
        let cache = Cache::new(shape, policy(trace), slots.collect(), PAGES, Arc::new(live));
        Self {
            cache,
            queue: Vec::new(),
            reading: Vec::new(),
            verifying: Vec::new(),
            touching: None,
            discarding: None,
            random: trace.seed,
            failures: trace.failures,
            bank: 0,
            ids: Vec::new(),
            entries: Vec::new(),
            slots: Vec::new(),
            next: 0,
        }
    }

    pub fn dice(&mut self, sides: usize) -> usize {
        // Knuth's MMIX generator, its high bits.
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % sides
    }

    fn begin(&mut self, bank: usize, expert: u32, guess: bool) -> bool {
        if !guess {
            self.cache.make_way(bank);
            self.recall_wrong();
        }
        let Some((entry, slot)) = self.cache.begin(bank, expert, guess) else { return false };
        assert_eq!(slot.len(), PAGES * PAGE);
        let parts = 1 + self.dice(PAGES);
        let mut rest = slot;
        for _ in 0..parts {
            let (piece, others) = rest.split_at(PAGE);
            rest = others;
            self.queue.push(TaggedPart { entry, piece, tag: tag(bank as u32, expert) });
        }
        let found = self.cache.entry_mut(entry);
        if !rest.is_empty() {
            rest.bytes_mut().fill(tag(bank as u32, expert));
            found.back.push(rest);
        }
        let State::Reading(reading) = &mut found.state else { panic!("it has begun") };
        reading.left = parts as u32;
        true
    }

    fn recall(&mut self, entry: u32) {
        while let Some(at) = self.queue.iter().position(|part| part.entry == entry) {
            let part = self.queue.swap_remove(at);
            if let Some(slot) = self.cache.came_back(entry, part.piece, false) {
                self.cache.finish(entry, slot);
            }
        }
    }

    fn recall_wrong(&mut self) {
        while let Some(wrong) = self.cache.next_wrong() {
            self.recall(wrong);
        }
    }

    /// Readers do something; says whether there was anything to do.
    pub fn step(&mut self) -> bool {
        let touching = usize::from(self.touching.is_some());
        let discarding = usize::from(self.discarding.is_some() || self.cache.has_retired());
        let kinds = [self.queue.len().min(1), self.reading.len(), self.verifying.len(), touching, discarding];
        let sum: usize = kinds.iter().sum();
        if sum == 0 {
            return false;
        }
        let mut choice = self.dice(sum);
        if choice < kinds[0] {
            let part = self.queue.remove(0);
            self.reading.push(part);
            return true;
        }
        choice -= kinds[0];
        if choice < kinds[1] {
            let mut part = self.reading.swap_remove(choice);
            let read = !self.failures || self.dice(12) > 0;
            part.piece.bytes_mut().fill(if read { part.tag } else { 0xee });
            if let Some(slot) = self.cache.came_back(part.entry, part.piece, read) {
                self.verifying.push((part.entry, slot));
            }
            return true;
        }
        choice -= kinds[1];
        if choice < kinds[2] {
            let (entry, slot) = self.verifying.swap_remove(choice);
            self.cache.finish(entry, slot);
            return true;
        }
        choice -= kinds[2];
        if choice < kinds[3] {
            let (entry, slot) = self.touching.take().expect("it is one of the kinds");
            let all = self.dice(3) > 0;
            self.cache.touched(entry, slot, all);
        } else if let Some((entry, mut slot)) = self.discarding.take() {
            slot.bytes_mut().fill(0);
            self.cache.discarded(entry, slot);
        } else {
            self.discarding = self.cache.next_retired();
        }
        true
    }

    /// A reader begins to touch a free slot, if it is not at one.
    pub fn touch(&mut self) {
        if self.touching.is_none() {
            self.touching = self.cache.next_untouched();
        }
    }

    fn hold(&mut self, index: usize, entry: u32) {
        let found = self.cache.entry_mut(entry);
        found.pins += 1;
        if let State::Reading(reading) = &mut found.state {
            reading.guess = false;
        }
        self.slots[index] = Some(Arc::clone(&found.slot));
        self.entries[index] = entry;
    }

    pub fn let_go(&mut self, index: usize) {
        self.slots[index] = None;
        let entry = std::mem::replace(&mut self.entries[index], NONE);
        if entry != NONE && self.cache.unpin(entry) {
            self.recall(entry);
        }
    }

    pub fn request(&mut self, bank: usize, ids: &[u32]) {
        self.bank = bank;
        self.ids = ids.to_vec();
        self.entries = vec![NONE; ids.len()];
        self.slots = vec![None; ids.len()];
        self.next = 0;
        self.cache.request(bank, ids.iter().map(|&id| (id, 1 + id % 3)));
        self.recall_wrong();
        for (index, &id) in ids.iter().enumerate() {
            if let Some(entry) = self.cache.find(bank, id) {
                self.hold(index, entry);
            }
        }
        self.pump();
    }

    fn pump(&mut self) {
        while self.next < self.ids.len() {
            if self.entries[self.next] == NONE {
                let (bank, id) = (self.bank, self.ids[self.next]);
                assert_eq!(self.cache.find(bank, id), None, "an expert is read once");
                if !self.begin(bank, id, false) {
                    break;
                }
                let entry = self.cache.find(bank, id).unwrap();
                self.hold(self.next, entry);
            }
            self.next += 1;
        }
    }

    pub fn guess(&mut self, bank: usize, ids: &[u32]) {
        for &id in ids {
            if self.cache.find(bank, id).is_none() && !self.begin(bank, id, true) {
                break;
            }
        }
    }

    /// Whether it came; after a failure it does not.
    fn wait(&mut self, index: usize) -> bool {
        loop {
            self.pump();
            if self.slots[index].as_ref().is_some_and(|slot| slot.get().is_some()) {
                return true;
            }
            if self.entries[index] != NONE
                && let State::Reading(reading) = self.cache.entry(self.entries[index]).state
                && reading.failed
                && reading.left == 0
                && !self.verifying.iter().any(|(entry, _)| *entry == self.entries[index])
            {
                return false;
            }
            assert!(self.step(), "a request waits for ever");
            self.check();
        }
    }

    /// Uses all that was asked for: some at once, or one after the other.
    pub fn use_all(&mut self, at_once: bool) -> bool {
        let mut first = 0;
        while first < self.ids.len() {
            let mut end = first + 1;
            while at_once && end < self.ids.len() && self.entries[end] != NONE {
                end += 1;
            }
            if !(first..end).all(|index| self.wait(index)) {
                return false;
            }
            for index in first..end {
                let slot = self.slots[index].as_ref().unwrap().get().unwrap();
                let expected = tag(self.bank as u32, self.ids[index]);
                assert!(slot.bytes().iter().all(|&byte| byte == expected), "not this expert's bytes");
            }
            (first..end).for_each(|index| self.let_go(index));
            first = end;
        }
        true
    }

    pub fn leave(&mut self) {
        (0..self.ids.len()).for_each(|index| self.let_go(index));
        self.ids.clear();
    }

    /// Every slot is in one place with all of its memory.
    pub fn check(&self) {
        let cache = &self.cache;
        let mut listed = vec![0; cache.entries.len()];
        cache.free.iter().flatten().for_each(|&entry| listed[entry as usize] += 1);
        for (bank, state) in cache.banks.iter().enumerate() {
            for (expert, &entry) in state.entries.iter().enumerate().filter(|(_, entry)| **entry != NONE) {
                let of = match cache.entry(entry).state {
                    State::Here { bank, expert } => (bank, expert),
                    State::Reading(reading) if !reading.orphan => (reading.bank, reading.expert),
                    other => panic!("{other:?} is listed"),
                };
                assert_eq!(of, (bank as u32, expert as u32));
                listed[entry as usize] += 1;
            }
        }
        for (number, (entry, &listed)) in (0..).zip(cache.entries.iter().zip(&listed)) {
            let parts = self.queue.iter().chain(&self.reading).filter(|part| part.entry == number);
            let away: usize = parts.map(|part| part.piece.len()).sum();
            let verified = self.verifying.iter().filter(|(of, _)| *of == number);
            let away = away + verified.map(|(_, slot)| slot.len()).sum::<usize>();
            let others = self.touching.iter().chain(&self.discarding).filter(|(of, _)| *of == number);
            let away = away + others.map(|(_, slot)| slot.len()).sum::<usize>();
            let inside = entry.slot.get().map_or(0, Piece::len);
            let back: usize = entry.back.iter().map(Piece::len).sum();
            assert_eq!(inside + back + away, PAGES * PAGE, "slot {number}: {entry:?}");
            let (reads, in_list) = match entry.state {
                State::Free | State::Here { .. } => (false, 1),
                State::Touching => (true, 0),
                State::Retired => (away > 0, 0),
                // A failed read is known only to the requests that wait for it.
                State::Reading(r) => (true, usize::from(!r.orphan && (r.left > 0 || !r.failed))),
            };
            assert!(reads || inside == PAGES * PAGE, "slot {number}: {entry:?}");
            if !reads || away > 0 {
                assert!(
                    listed == in_list || matches!(entry.state, State::Reading(r) if r.failed),
                    "slot {number}: {entry:?} is listed {listed} times"
                );
            }
            let held = self.entries.iter().filter(|&&held| held == number).count();
            assert_eq!(entry.pins as usize, held, "slot {number}");
        }
    }
}
