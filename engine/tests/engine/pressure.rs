//! A running model while free memory runs short: the cache becomes smaller, and no logit changes.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{How, folder, golden, logits, model, session};
use moelten_engine::CachePlan;
use moelten_engine::EngineError;
use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::plan::{Experts, Io, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::system::System;
use moelten_engine::{Keeper, Watch};

const FLOOR: u64 = 100 << 20;

fn free(root: &Path, bytes: u64) {
    fs::create_dir_all(root.join("proc")).unwrap();
    // Replaced atomically, because the kernel never shows a part of it.
    fs::write(root.join("next"), format!("MemAvailable: {} kB\n", bytes / 1024)).unwrap();
    fs::rename(root.join("next"), root.join("proc/meminfo")).unwrap();
}

fn streaming(ram: Ram) -> (Arc<Model>, CachePlan) {
    let options = How { ram, io: Io::Direct, threads: Some(1), ..Default::default() };
    let model = model(&folder("mixtral"), options);
    let Experts::Cached(cached) = model.plan().experts.clone() else { panic!("{:?}", model.plan()) };
    (model, cached)
}

fn resident(model: &Model) -> usize {
    model.experts().resident().iter().map(Vec::len).sum()
}

/// Waits until `done`, at most ten seconds.
fn until(done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(10), "it did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_shortage_shrinks_the_cache_and_changes_no_bit() {
    let ids = golden("mixtral").ids;
    let bits = |model: &Arc<Model>| -> Vec<u32> {
        let logits = logits(&mut session(model, KvFormat::F32), &ids).0;
        logits.iter().map(|logit| logit.to_bits()).collect()
    };
    let (model, cached) = streaming(Ram::Bytes(1 << 30));
    let before = bits(&model);
    let full = resident(&model);
    assert!(full > 0 && cached.share() > 0.99, "{cached:?}");

    let root = tempfile::tempdir().unwrap();
    free(root.path(), 2 * FLOOR);
    let keeper = Keeper::new(System::at(root.path()), cached.clone(), FLOOR);
    let watch = Watch::begin(Arc::clone(model.experts()), keeper, Duration::from_millis(10)).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((watch.given_back(), resident(&model)), (0, full), "memory is plentiful");
    free(root.path(), FLOOR / 2);
    let all = cached.bytes() - cached.bytes_with(&vec![0; cached.shape.quotas.len()]);
    // Released memory does not show in the recorded machine, so the cache releases all of it.
    until(|| watch.given_back() == all);
    assert_eq!(resident(&model), 0);
    assert!(before == bits(&model));
    assert_eq!(resident(&model), 0, "a cache without quotas keeps nothing");
}

#[test]
fn slots_in_use_are_released_when_they_are_free() {
    let (model, cached) = streaming(Ram::Bytes(1 << 30));
    let ids = golden("mixtral").ids;
    let expected = logits(&mut session(&model, KvFormat::F32), &ids).0;
    let (plan, full) = (cached.clone(), resident(&model));
    assert!(full > 0);
    // During forward passes, repeatedly.
    let store = Arc::clone(model.experts());
    let shrinker = std::thread::spawn(move || {
        let mut quotas = cached.shape.quotas.clone();
        for round in 0..3 {
            if round > 0 {
                quotas.clone_from(&cached.shape.quotas);
                store.grow(&quotas);
            }
            while quotas.iter().any(|&quota| quota > 0) {
                quotas.iter_mut().for_each(|quota| *quota = quota.saturating_sub(1));
                store.shrink(&quotas);
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    });
    let mut runs = 0;
    while !shrinker.is_finished() || runs < 2 {
        assert!(expected == logits(&mut session(&model, KvFormat::F32), &ids).0);
        runs += 1;
    }
    shrinker.join().unwrap();
    assert_eq!(resident(&model), 0);
    // All released slots can be used again.
    model.experts().grow(&plan.shape.quotas);
    assert!(expected == logits(&mut session(&model, KvFormat::F32), &ids).0);
    assert_eq!(resident(&model), full);
}

#[test]
fn only_an_automatic_budget_is_watched() {
    let (model, _) = streaming(Ram::Auto);
    assert!(model.plan().floor() >= 96 << 20);
    assert_eq!(model.given_back(), 0);
}

/// Without the thread that yields memory to others, requests must not go on as if it were there.
#[test]
fn a_panic_of_the_watch_is_the_error_of_every_request() {
    let (model, mut cached) = streaming(Ram::Bytes(1 << 30));
    let ids = golden("mixtral").ids;
    logits(&mut session(&model, KvFormat::F32), &ids);
    // A bank that the cache does not have.
    cached.shape.experts.push(8);
    cached.shape.quotas.push(8);
    cached.shape.classes.push(0);
    let root = tempfile::tempdir().unwrap();
    free(root.path(), 1 << 10);
    let keeper = Keeper::new(System::at(root.path()), cached, 1 << 16);
    let _watch = Watch::begin(Arc::clone(model.experts()), keeper, Duration::from_millis(10)).unwrap();
    let mut one = session(&model, KvFormat::F32);
    let (cancel, started) = (Cancel::new(), Instant::now());
    let first = loop {
        assert!(started.elapsed() < Duration::from_secs(10), "requests go on");
        one.keep_prefix(&[]);
        if let Err(error) = one.append(&ids, &cancel, &mut (), &mut |_| {}) {
            break error;
        }
    };
    let second = session(&model, KvFormat::F32).append(&ids, &cancel, &mut (), &mut |_| {}).unwrap_err();
    for error in [first, second] {
        let EngineError::Expert { source, .. } = &error else { panic!("{error}") };
        let message = source.to_string();
        assert!(message.starts_with("moelten-pressure: index out of bounds"), "{message}");
    }
}
