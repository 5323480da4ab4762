//! The live picture of the experts: at rest it agrees with the store, and taking it changes nothing.

use moelten_loader::spec::BankKey;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use moelten_engine::Model;
use moelten_engine::Observer;
use moelten_engine::Prefetch;
use moelten_engine::Routing;
use moelten_engine::Sequence;
use moelten_engine::api::{ExpertCell, ExpertMap, ExpertPlace, ExpertRow};
use moelten_engine::runtime::cancel::Cancel;

use super::disk::Behaviour;
use super::setup::{Case, From, Setup, session};
use crate::common::{How, folder, golden, model, stepwise, whole};

/// The experts that the last pass chose in each layer.
#[derive(Default)]
struct Last(Vec<BTreeSet<u32>>);

impl Observer for Last {
    fn routed(&mut self, BankKey { layer, .. }: BankKey, routing: &Routing) {
        self.0.resize_with(self.0.len().max(layer + 1), BTreeSet::new);
        self.0[layer] = (0..routing.tokens()).flat_map(|token| routing.token(token).0).copied().collect();
    }
}

fn append(session: &mut Sequence, ids: &[u32]) -> Last {
    let mut last = Last::default();
    session.append(ids, &Cancel::new(), &mut last, &mut |_| {}).unwrap();
    last
}

fn decode(session: &mut Sequence, id: u32) -> Last {
    let mut last = Last::default();
    session.decode(id, &Cancel::new(), &mut last).unwrap();
    last
}

fn cells(map: &ExpertMap, matching: impl Fn(&ExpertCell) -> bool) -> Vec<BTreeSet<u32>> {
    let row = |row: &ExpertRow| {
        (0..).zip(&row.cells).filter(|(_, cell)| matching(cell)).map(|(id, _)| id).collect()
    };
    map.rows.iter().map(row).collect()
}

/// Compares the picture with the counters and the residency of the store.
fn agrees(model: &Model, map: &ExpertMap, what: &str) {
    let stats = model.experts().stats();
    for (shown, counted) in [(map.decode, stats.decode), (map.prefill, stats.prefill)] {
        let shown = (shown.used, shown.used_bytes, shown.missed_bytes, shown.stall);
        assert_eq!(shown, (counted.used, counted.used_bytes, counted.missed_bytes, counted.stall), "{what}");
    }
    let sum = |of: fn(&ExpertRow) -> u64| map.rows.iter().map(of).sum::<u64>();
    assert_eq!(sum(|row| row.requested), stats.experts_used(), "{what}");
    assert_eq!(sum(|row| row.missed), stats.decode.missed + stats.prefill.missed, "{what}");
    let prefetch = stats.prefetch_total();
    assert_eq!(
        (sum(|row| row.chosen), sum(|row| row.predicted)),
        (prefetch.chosen, prefetch.predicted),
        "{what}"
    );
    let resident = cells(map, |cell| cell.place == ExpertPlace::Resident);
    let expected = model.experts().resident().into_iter().map(|row| row.into_iter().collect());
    assert_eq!(resident, expected.collect::<Vec<BTreeSet<_>>>(), "{what}");
    assert!(!map.stalled, "{what}");
}

#[test]
fn the_picture_shows_what_the_store_counts() {
    let (path, ids) = (folder("qwen3moe"), golden("qwen3moe").ids);
    for (percent, prefetch) in
        [(0, Prefetch::On), (25, Prefetch::Off), (50, Prefetch::On), (75, Prefetch::Auto)]
    {
        let what = format!("{percent} %, {prefetch:?}");
        let mut session = Setup { percent, prefetch, ..Default::default() }.session(&path);
        let live = session.model().live();
        assert!(live.map().rows.iter().all(|row| row.hit_rate().is_none()), "{what}");
        let (prompt, steps) = ids.split_at(ids.len() / 2);
        let last = append(&mut session, prompt);
        assert_eq!(cells(&live.map(), |cell| cell.used == Some(0)), last.0, "{what}: prompt");
        let mut last = Last::default();
        for id in steps {
            last = decode(&mut session, *id);
        }
        let map = live.map();
        agrees(session.model(), &map, &what);
        assert_eq!(cells(&map, |cell| cell.used == Some(0)), last.0, "{what}: one token");
        assert_eq!(
            (map.prefill.tokens, map.decode.tokens),
            (prompt.len() as u64, steps.len() as u64),
            "{what}"
        );
        if prefetch == Prefetch::Off {
            let stats = session.model().experts().stats();
            assert_eq!((map.read_bytes, map.reads), (stats.bytes_read, stats.reads), "{what}");
        }
        // A prediction for the last token is correct exactly where the token used the expert.
        if prefetch == Prefetch::On {
            let correct = cells(&map, |cell| {
                cell.prediction.is_some_and(|prediction| prediction.age == 0 && prediction.correct)
            });
            let all = cells(&map, |cell| cell.prediction.is_some_and(|prediction| prediction.age == 0));
            for ((correct, all), used) in correct.iter().zip(&all).zip(&last.0) {
                assert_eq!(*correct, all & used, "{what}");
            }
            assert!(all.iter().any(|row| !row.is_empty()), "{what}");
        }
        session.model().experts().shrink(&vec![1; map.rows.len()]);
        let map = live.map();
        agrees(session.model(), &map, &what);
        assert!(map.rows.iter().all(|row| row.slots <= 1), "{what}");
    }
}

#[test]
fn a_model_in_place_shows_used_experts() {
    let (path, ids) = (folder("olmoe"), golden("olmoe").ids);
    let model = model(&path, How { threads: Some(1), ..Default::default() });
    let mut session = session(&model);
    let live = model.live();
    append(&mut session, &ids[1..]);
    let last = decode(&mut session, ids[0]);
    let map = live.map();
    agrees(&model, &map, "in memory");
    assert_eq!(cells(&map, |cell| cell.used == Some(0)), last.0);
    assert!(map.rows.iter().all(|row| row.slots == row.cells.len() && row.hit_rate() == Some(1.0)));
    assert_eq!((map.read_bytes, map.memory.slot_bytes), (0, 0));
}

#[test]
fn taking_pictures_changes_no_bit() {
    let case = Case::new("qwen3moe", folder("qwen3moe"), golden("qwen3moe").ids);
    for from in [From::Direct, From::Disk(Behaviour::Late(3))] {
        let setup = Setup { from, percent: 25, prefetch: Prefetch::On, threads: 2, ..Default::default() };
        let model = setup.model(&case.path);
        let (live, done) = (model.live(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let (mut before, mut pictures) = (live.map(), 0);
                while !done.load(Ordering::Relaxed) {
                    let now = live.map();
                    let ordered = before.rows.iter().zip(&now.rows).all(|(a, b)| a.requested <= b.requested);
                    assert!(ordered && before.decode.tokens <= now.decode.tokens);
                    (before, pictures) = (now, pictures + 1);
                }
                pictures
            });
            let mut one = session(&model);
            assert!(stepwise(&mut one, &case.ids) == case.expected, "{from:?}: token by token");
            drop(one);
            assert!(whole(&mut session(&model), &case.ids) == case.expected, "{from:?}: in one go");
            done.store(true, Ordering::Relaxed);
            assert!(watcher.join().unwrap() > 0, "at least one picture was taken");
        });
        agrees(&model, &live.map(), "afterwards");
    }
}
