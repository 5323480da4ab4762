//! The cache beside a naive model of what it should hold, with reads that end in any order, fail, or are
//! given up.

mod world;

use moelten_loader::io::pieces::PAGE;
use proptest::prelude::*;

use super::*;
use world::World;

/// Pages of a slot.
const PAGES: usize = 3;

/// What happens, in order.
#[derive(Debug, Clone)]
enum Action {
    /// A bank's experts are asked for and used, those of another are guessed at meanwhile.
    Use { bank: usize, experts: Vec<u32>, at_once: bool, guesses: Vec<u32> },
    /// The same, but the request is given up after some steps.
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
            // Some of the memory may be out to be discarded when the cache grows.
            (0..steps / 4).for_each(|_| _ = world.step());
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
    all_memory_comes_back(&mut world, &mut naive, shape);
}

/// After the last request: all memory comes back, and no bank holds more than it may.
fn all_memory_comes_back(world: &mut World, naive: &mut Naive, shape: &CacheShape) {
    let banks = shape.experts.len();
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

/// Its memory is discarded by the thread that takes it, without the lock.
#[test]
fn shrinking_discards_nothing_itself() {
    let shape = CacheShape { experts: vec![8], quotas: vec![2], classes: vec![0], spare: vec![2] };
    let mut world = World::new(&Trace { shape, actions: Vec::new(), seed: 2, failures: false });
    world.request(0, &[1, 2]);
    assert!(world.use_all(true));
    world.leave();
    assert_eq!(world.cache.shrink(&[0]), 2 * PAGES * PAGE);
    let mut discarded = 0;
    while let Some((entry, slot)) = world.cache.next_retired() {
        // A page of what was read and, in both, the others: discarded memory reads as zero.
        assert!(slot.bytes().iter().any(|&byte| byte != 0), "the memory is still there");
        world.cache.discarded(entry, slot);
        discarded += 1;
    }
    assert_eq!((discarded, world.cache.has_retired(), world.cache.slots()), (2, false, 2));
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
