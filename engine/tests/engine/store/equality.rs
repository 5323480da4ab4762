//! Cache size, source, prefetch, threads and the order in which reads end never change a bit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moelten_engine::Model;
use moelten_engine::Prefetch;
use moelten_engine::plan::{Experts, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::load::load_static;
use moelten_quant::Format;

use super::disk::Behaviour;
use super::setup::{Case, From, Setup, session};
use crate::common::wide::{converted, wide};
use crate::common::{How, folder, golden, stepwise, whole};

/// Golden families with experts.
const MOE: [&str; 6] = ["mixtral", "qwen2moe", "qwen3moe", "olmoe", "granitemoe", "phimoe"];

fn goldens() -> impl Iterator<Item = Case> {
    MOE.into_iter().map(|family| Case::new(family, folder(family), golden(family).ids))
}

fn builtin_path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-tales.gguf")
}

/// Runs a text on a model with a cache, and checks bits, residency and counters.
fn check(case: &Case, setup: Setup) {
    let what = format!("{}: {setup:?}", case.name);
    let model = setup.model(&case.path);
    assert!(model.experts().streams(), "{what}");
    let Experts::Cached(cached) = &model.plan().experts else { panic!("{what}") };
    let quotas = cached.shape.quotas.clone();
    let mut one = session(&model);
    assert!(stepwise(&mut one, &case.ids) == case.expected, "{what}: token by token");
    let at_rest = |when: &str| {
        let resident = model.experts().resident();
        for (layer, (resident, &quota)) in resident.iter().zip(&quotas).enumerate() {
            assert!(resident.len() <= quota, "{what}: {when}, layer {layer}: {resident:?} of {quota}");
        }
        resident.iter().map(Vec::len).sum::<usize>() as u64
    };
    let resident = at_rest("after decoding");
    let stats = model.experts().stats();
    assert!(stats.decode.missed > 0 && stats.decode.missed <= stats.decode.used, "{what}: {stats:?}");
    if setup.percent < 100 {
        assert!(stats.decode.missed > resident, "{what}: some experts must have been evicted: {stats:?}");
    } else {
        // A prefetched expert counts as missed or not, depending on the speed of the disk.
        let misses = stats.decode.missed..=stats.decode.missed + stats.prefetch_total().used;
        assert!(misses.contains(&resident), "{what}: {resident} {stats:?}");
    }
    if setup.prefetch == Prefetch::Off {
        assert_eq!(stats.prefetch_total().read, 0, "{what}");
    }
    if setup.from != From::Mapped {
        assert!(stats.bytes_read >= stats.decode.missed_bytes, "{what}: {stats:?}");
    }
    drop(one);
    assert!(whole(&mut session(&model), &case.ids) == case.expected, "{what}: in one go");
    at_rest("after a prompt");
}

/// The extremes of all settings and some combinations between them. All combinations would take too long.
fn setups() -> Vec<Setup> {
    let mut all = Vec::new();
    let percents = [0, 25, 50, 75, 100];
    let froms = [From::Direct, From::Mapped, From::Disk(Behaviour::Late(7))];
    let prefetches = [Prefetch::Off, Prefetch::On, Prefetch::Auto];
    for (i, percent) in percents.into_iter().enumerate() {
        for (j, from) in froms.into_iter().enumerate() {
            let prefetch = prefetches[(i + j) % 3];
            all.push(Setup { from, percent, prefetch, threads: 1 + (i + j) % 2, sessions: 1 });
        }
    }
    // The smallest cache with every other setting.
    for prefetch in prefetches {
        for from in froms {
            all.push(Setup { from, percent: 0, prefetch, threads: 2, sessions: 1 });
        }
    }
    all
}

#[test]
fn golden_families_give_the_same_bits() {
    // Each family takes a third of the setups, so that every setup has two families.
    for (i, case) in goldens().enumerate() {
        setups().into_iter().skip(i % 3).step_by(3).for_each(|setup| check(&case, setup));
    }
}

/// Experts of several formats, and experts of more than one part, each of which takes a read.
#[test]
fn quantised_models_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let models = [("olmoe", &[Format::Q4_0, Format::Q4K][..]), ("mixtral", &[Format::F32])];
    for (i, (family, formats)) in models.into_iter().enumerate() {
        let path = dir.path().join(format!("{family}.gguf"));
        converted(&wide(family, dir.path()), formats, &path);
        let ids = golden(family).ids.into_iter().cycle().take(40).collect();
        let case = Case::new(&format!("{family} {formats:?}"), path, ids);
        setups().into_iter().skip(i).step_by(2).for_each(|setup| check(&case, setup));
    }
}

#[test]
fn the_builtin_model_gives_the_same_bits() {
    let ids = (1..30).map(|i| i * 131 % 4096).collect();
    let case = Case::new("tiny-tales", builtin_path(), ids);
    for (i, percent) in [0, 25, 50, 75, 100].into_iter().enumerate() {
        let prefetch = [Prefetch::On, Prefetch::Off][i % 2];
        check(&case, Setup { percent, prefetch, threads: 1 + i % 2, ..Default::default() });
    }
    check(&case, Setup { from: From::Mapped, percent: 25, prefetch: Prefetch::On, ..Default::default() });
}

/// A model that is in no file is used in place, because it cannot be read again.
#[test]
fn a_model_in_no_file_gives_the_same_bits() {
    let case = Case::new("tiny-tales", builtin_path(), (1..20).map(|i| i * 131 % 4096).collect());
    let bytes: &'static [u8] = std::fs::read(&case.path).unwrap().leak();
    let loaded = load_static("carried", bytes).unwrap();
    let how = How { threads: Some(1), ram: Ram::Min, ..Default::default() };
    let model = Model::new(&how.runtime(), loaded.spec, loaded.tensors, &how.options());
    let model = Arc::new(model.unwrap());
    assert!(!model.experts().streams());
    assert!(whole(&mut session(&model), &case.ids) == case.expected);
}

/// Residency after a text depends on the requests alone.
#[test]
fn residency_does_not_depend_on_prefetch_or_the_disk() {
    let (path, ids) = (folder("qwen3moe"), golden("qwen3moe").ids);
    let froms =
        [From::Direct, From::Mapped].into_iter().chain((0..4).map(|s| From::Disk(Behaviour::Late(s))));
    for percent in [25, 50, 75] {
        let after = |from, prefetch| {
            let mut session = Setup { from, percent, prefetch, ..Default::default() }.session(&path);
            stepwise(&mut session, &ids[..ids.len() / 2]);
            let rest = whole(&mut session, &ids[ids.len() / 2..]);
            (session.model().experts().resident(), rest)
        };
        let expected = after(From::Direct, Prefetch::Off);
        for from in froms.clone() {
            for prefetch in [Prefetch::Off, Prefetch::On] {
                assert!(after(from, prefetch) == expected, "{percent} %, {from:?}, {prefetch:?}");
            }
        }
    }
}

/// All free slots are touched while a sequence is idle, before the first answer and after one.
#[cfg(target_os = "linux")]
#[test]
fn slots_that_were_touched_ahead_give_the_same_bits() {
    use moelten_loader::io::pieces::{PAGE, Piece};
    if Piece::reserve([PAGE].into_iter()).unwrap()[0].populate(0..PAGE).is_err() {
        moelten_testing::skip!("this system cannot populate memory before it is written");
    }
    let case = Case::new("olmoe", folder("olmoe"), golden("olmoe").ids);
    for first in [0, 1] {
        let model = Setup { percent: 75, threads: 2, ..Default::default() }.model(&case.path);
        let Experts::Cached(cached) = &model.plan().experts else { panic!("the model has a cache") };
        let slots: usize = cached.slots().iter().sum();
        let mut session = session(&model);
        session.append(&case.ids[..first], &Cancel::new(), &mut (), &mut |_| {}).unwrap();
        let stats = model.experts().stats();
        let used: usize = model.experts().resident().iter().map(Vec::len).sum();
        let deadline = Instant::now() + Duration::from_secs(60);
        while model.experts().stats().touched < (slots - used) as u64 {
            assert!(Instant::now() < deadline, "{used} of {slots}: {:?}", model.experts().stats());
            std::thread::sleep(Duration::from_millis(10));
        }
        let touched = model.experts().stats();
        assert_eq!(touched.bytes_read, stats.bytes_read, "touching slots reads nothing");
        session.keep_prefix(&[]);
        assert!(stepwise(&mut session, &case.ids) == case.expected, "after {first}");
        assert_eq!(model.experts().stats().touched, touched.touched, "no slot is touched twice");
    }
}

/// The cache shrinks between texts and goes on with fewer slots.
#[test]
fn a_smaller_cache_goes_on() {
    let case = Case::new("olmoe", folder("olmoe"), golden("olmoe").ids);
    for prefetch in [Prefetch::Off, Prefetch::On] {
        let mut session = Setup { percent: 100, prefetch, ..Default::default() }.session(&case.path);
        assert!(stepwise(&mut session, &case.ids) == case.expected);
        for quota in [9, 3, 0] {
            let experts = session.model().experts();
            let before: usize = experts.resident().iter().map(Vec::len).sum();
            let bytes = experts.shrink(&[quota; 3]);
            let after: usize = experts.resident().iter().map(Vec::len).sum();
            assert!(before > after && after <= 3 * quota && bytes > 0, "{quota}: {before} {after} {bytes}");
            session.keep_prefix(&[]);
            assert!(stepwise(&mut session, &case.ids) == case.expected, "{quota}");
        }
    }
}
