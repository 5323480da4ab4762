//! The cache beside a naive model of what it should hold, with reads that end in any order, fail, or are
//! given up.

use moelten_loader::io::pieces::PAGE;
use moelten_loader::spec::BankKey;
use proptest::prelude::*;

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

/// Pages of a slot.
const PAGES: usize = 3;

/// What happens, in order.
#[derive(Debug, Clone)]
enum Action {
    /// A bank's experts are asked for and used, those of another are guessed at meanwhile.
    Use { bank: usize, experts: Vec<u32>, at_once: bool, guesses: Vec<u32> },
    /// The same, but after some steps nobody wants them any more.
    BreakOff { bank: usize, experts: Vec<u32>, steps: u8, guesses: Vec<u32> },
    /// Memory is short or plenty: after some steps of the next request banks keep this part of their first
    /// quotas, in eighths.
    Resize { steps: u8, eighths: usize },
}

#[derive(Debug, Clone)]
struct Trace {
    shape: CacheShape,
    actions: Vec<Action>,
    /// Decides in which order reads end and which of them fail.
    seed: u64,
    failures: bool,
}

fn traces() -> impl Strategy<Value = Trace> {
    let banks = prop::collection::vec((2..9_usize, 0..9_usize, 0..2_u32), 2..4);
    (banks, 2..5_usize).prop_flat_map(|(banks, spare)| {
        let count = banks.len();
        let experts: Vec<usize> = banks.iter().map(|bank| bank.0).collect();
        let quotas = banks.iter().map(|bank| bank.1.min(bank.0)).collect();
        let classes = banks.iter().map(|bank| bank.2).collect();
        let shape = CacheShape { experts: experts.clone(), quotas, classes, spare: vec![spare; 2] };
        let some = move |bank: usize, experts: &[usize]| {
            prop::sample::subsequence((0..experts[bank] as u32).collect::<Vec<_>>(), 1..=experts[bank])
        };
        let action = (0..count).prop_flat_map(move |bank| {
            let guesses =
                prop::sample::subsequence((0..experts[(bank + 1) % count] as u32).collect::<Vec<_>>(), 0..=2);
            (some(bank, &experts), guesses, any::<u8>(), 0..16_usize, any::<bool>()).prop_map(
                move |(experts, guesses, steps, kind, at_once)| match kind {
                    0..3 => Action::BreakOff { bank, experts, steps: steps % 16, guesses },
                    3 => Action::Resize { steps: steps % 16, eighths: (steps / 16) as usize % 9 },
                    _ => Action::Use { bank, experts, at_once, guesses },
                },
            )
        });
        (Just(shape), prop::collection::vec(action, 1..40), any::<u64>(), any::<bool>())
            .prop_map(|(shape, actions, seed, failures)| Trace { shape, actions, seed, failures })
    })
}

/// Any of them.
fn policy(trace: &Trace) -> Policy {
    Policy::ALL[(trace.seed >> 8) as usize % Policy::ALL.len()]
}

/// A part with a reader, or in the queue.
struct Part {
    entry: u32,
    piece: Piece,
    tag: u8,
}

/// What an expert's bytes are.
fn tag(bank: u32, expert: u32) -> u8 {
    (1 + bank * 16 + expert) as u8
}

/// The cache with readers whose steps are taken one by one, and whoever uses it.
struct World {
    cache: Cache,
    queue: Vec<Part>,
    reading: Vec<Part>,
    verifying: Vec<(u32, Piece)>,
    touching: Option<(u32, Piece)>,
    random: u64,
    failures: bool,
    /// The present request.
    bank: usize,
    ids: Vec<u32>,
    entries: Vec<u32>,
    slots: Vec<Option<Slot>>,
    next: usize,
}

impl World {
    fn new(trace: &Trace) -> Self {
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
            random: trace.seed,
            failures: trace.failures,
            bank: 0,
            ids: Vec::new(),
            entries: Vec::new(),
            slots: Vec::new(),
            next: 0,
        }
    }

    fn dice(&mut self, sides: usize) -> usize {
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
            self.queue.push(Part { entry, piece, tag: tag(bank as u32, expert) });
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
    fn step(&mut self) -> bool {
        let touching = usize::from(self.touching.is_some());
        let kinds = [self.queue.len().min(1), self.reading.len(), self.verifying.len(), touching];
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
        let (entry, slot) = self.touching.take().expect("it is one of the kinds");
        let all = self.dice(3) > 0;
        self.cache.touched(entry, slot, all);
        true
    }

    /// A reader begins to touch a free slot, if it is not at one.
    fn touch(&mut self) {
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

    fn let_go(&mut self, index: usize) {
        self.slots[index] = None;
        let entry = std::mem::replace(&mut self.entries[index], NONE);
        if entry != NONE && self.cache.unpin(entry) {
            self.recall(entry);
        }
    }

    fn request(&mut self, bank: usize, ids: &[u32]) {
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

    fn guess(&mut self, bank: usize, ids: &[u32]) {
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
            assert!(self.step(), "somebody waits for ever");
            self.check();
        }
    }

    /// Uses all that was asked for: some at once, or one after the other.
    fn use_all(&mut self, at_once: bool) -> bool {
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

    fn leave(&mut self) {
        (0..self.ids.len()).for_each(|index| self.let_go(index));
        self.ids.clear();
    }

    /// Every slot is in one place with all of its memory.
    fn check(&self) {
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
            let touching = self.touching.iter().filter(|(of, _)| *of == number);
            let away = away + touching.map(|(_, slot)| slot.len()).sum::<usize>();
            let inside = entry.slot.get().map_or(0, Piece::len);
            let back: usize = entry.back.iter().map(Piece::len).sum();
            assert_eq!(inside + back + away, PAGES * PAGE, "slot {number}: {entry:?}");
            let (reads, in_list) = match entry.state {
                State::Free | State::Here { .. } => (false, 1),
                State::Touching => (true, 0),
                State::Retired => (false, 0),
                // Of a read that failed only those know who wait for it.
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

/// What banks keep, found the slow way.
struct Naive {
    rankings: Vec<Ranking>,
    quotas: Vec<usize>,
    content: Vec<Vec<u32>>,
    /// What would be there if the last request had not been broken off.
    missing: Vec<Vec<u32>>,
}

impl Naive {
    fn request(&mut self, bank: usize, ids: &[u32]) {
        self.rankings[bank].used(ids.iter().map(|&id| (id, 1 + id % 3)));
        let mut all: Vec<u32> = self.content[bank].iter().chain(ids).copied().collect();
        all.sort_unstable();
        all.dedup();
        self.content[bank] = all;
        self.missing[bank].clear();
        self.cut(bank);
    }

    fn cut(&mut self, bank: usize) {
        let ranking = &self.rankings[bank];
        let mut all = [&self.content[bank][..], &self.missing[bank]].concat();
        all.sort_unstable_by_key(|&expert| Reverse(ranking.value(expert)));
        all.truncate(self.quotas[bank]);
        self.content[bank].retain(|expert| all.contains(expert));
        self.missing[bank].retain(|expert| all.contains(expert));
    }

    /// The last request of a bank was broken off when these were here.
    fn broken_off(&mut self, bank: usize, here: Vec<u32>) {
        let should = std::mem::replace(&mut self.content[bank], here);
        assert!(self.content[bank].iter().all(|expert| should.contains(expert)));
        self.missing[bank] = should;
        let content = &self.content[bank];
        self.missing[bank].retain(|expert| !content.contains(expert));
    }
}

fn run(trace: &Trace) {
    let mut world = World::new(trace);
    let (shape, banks) = (&trace.shape, trace.shape.experts.len());
    let mut naive = Naive {
        rankings: shape.experts.iter().map(|&experts| Ranking::new(policy(trace), experts)).collect(),
        quotas: shape.quotas.clone(),
        content: vec![Vec::new(); banks],
        missing: vec![Vec::new(); banks],
    };
    let mut resize = None;
    for action in &trace.actions {
        let (&bank, experts, guesses) = match action {
            Action::Use { bank, experts, guesses, .. } => (bank, experts, guesses),
            Action::BreakOff { bank, experts, guesses, .. } => (bank, experts, guesses),
            Action::Resize { steps, eighths } => {
                resize = Some((*steps, *eighths));
                continue;
            }
        };
        if world.dice(3) == 0 {
            world.touch();
            world.check();
        }
        world.request(bank, experts);
        naive.request(bank, experts);
        world.check();
        if trace.seed.is_multiple_of(2) {
            world.guess((bank + 1) % banks, guesses);
        }
        if let Some((steps, eighths)) = resize.take() {
            (0..steps).for_each(|_| _ = world.step());
            naive.quotas = shape.quotas.iter().map(|quota| quota * eighths / 8).collect();
            world.cache.shrink(&naive.quotas);
            world.cache.grow(&naive.quotas);
            (0..banks).for_each(|bank| naive.cut(bank));
            world.check();
        }
        let whole = match action {
            Action::Use { at_once, .. } => world.use_all(*at_once),
            Action::BreakOff { steps, .. } => {
                (0..*steps).for_each(|_| _ = world.step());
                world.check();
                false
            }
            Action::Resize { .. } => unreachable!("it was kept for the next request"),
        };
        world.leave();
        world.check();
        let here: Vec<u32> = world.cache.here(bank).collect();
        if whole {
            assert_eq!(here, naive.content[bank], "what is at rest depends on requests alone");
        } else {
            // What had not arrived is not there; what had, is a part of what should be.
            naive.broken_off(bank, here);
        }
    }
    all_memory_comes_back(&mut world, &mut naive, trace);
}

/// When nothing is requested any more, all memory comes back, and no bank holds more than its quota.
fn all_memory_comes_back(world: &mut World, naive: &mut Naive, trace: &Trace) {
    let (shape, banks) = (&trace.shape, trace.shape.experts.len());
    for bank in 0..banks {
        world.request(bank, &[]);
        naive.request(bank, &[]);
        world.leave();
    }
    while world.step() {}
    world.check();
    let (cache, mut live) = (&world.cache, 0);
    for (class, (free, &spare)) in cache.free.iter().zip(&shape.spare).enumerate() {
        let of_class = |bank: &usize| shape.classes[*bank] as usize == class;
        let here: usize = (0..banks).filter(of_class).map(|bank| cache.here(bank).count()).sum();
        let quotas: usize = (0..banks).filter(of_class).map(|bank| naive.quotas[bank]).sum();
        assert_eq!(free.len() + here, quotas + spare, "size {class}: what was given up went back");
        live += free.len() + here;
    }
    assert_eq!(live, cache.slots());
    for bank in 0..banks {
        assert_eq!(cache.here(bank).collect::<Vec<_>>(), naive.content[bank]);
        assert!(naive.content[bank].len() <= cache.quota(bank));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn is_what_a_naive_cache_would_be(trace in traces()) {
        run(&trace);
    }
}

/// Room for two experts in a single bank beside two spare slots.
fn small() -> World {
    let shape = CacheShape { experts: vec![8, 8], quotas: vec![0, 0], classes: vec![0, 0], spare: vec![2] };
    World::new(&Trace { shape, actions: Vec::new(), seed: 2, failures: false })
}

#[test]
fn a_guess_that_was_left_behind_makes_way() {
    let mut world = small();
    world.request(0, &[1]);
    assert!(world.use_all(true));
    world.guess(1, &[3, 4]);
    world.leave();
    while world.step() {}
    // The other bank's turn does not come; the first one's comes again.
    world.request(0, &[5, 6]);
    assert!(world.use_all(true));
    world.leave();
    world.check();
}

#[test]
fn a_guess_in_the_last_slot_makes_way() {
    let mut world = small();
    world.request(0, &[1]);
    world.guess(1, &[3]);
    assert!(world.use_all(true));
    world.leave();
    world.request(0, &[1, 2]);
    world.leave();
    world.check();
}

#[test]
fn a_failed_read_is_never_here() {
    let mut world = small();
    world.request(0, &[1]);
    let entry = world.entries[0];
    world.reading.append(&mut world.queue);
    while let Some(part) = world.reading.pop() {
        if let Some(slot) = world.cache.came_back(entry, part.piece, false) {
            assert!(!world.cache.finish(entry, slot));
        }
    }
    assert!(world.slots[0].as_ref().unwrap().get().is_none());
    assert_eq!(world.cache.find(0, 1), None);
    world.check();
    world.leave();
    world.check();
    assert_eq!(world.cache.free(0), 2);
}

#[test]
fn what_is_being_verified_is_not_freed_twice() {
    let mut world = small();
    world.request(0, &[1]);
    while world.verifying.is_empty() {
        assert!(world.step());
    }
    world.leave();
    assert_eq!(world.cache.free(0), 1);
    while world.step() {}
    world.check();
    assert_eq!(world.cache.free(0), 2);
}
