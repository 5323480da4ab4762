//! A disk that fails: the right bits or a clean error, never a hang, and the sequence can continue
//! afterwards.

use std::io;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use moelten_engine::EngineError;
use moelten_engine::Model;
use moelten_engine::Prefetch;
use moelten_engine::Sequence;
use moelten_engine::plan::{Experts, Io, Plan, PlanOptions, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_loader::load::load;

use super::disk::{Behaviour, EIO, chance};
use super::setup::{Case, From, Setup, session};
use crate::common::{How, folder, golden, stepwise, whole};

/// Fails the test when `work` takes longer than `seconds`.
fn within<T: Send + 'static>(seconds: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, wait) = mpsc::channel();
    let worker = std::thread::spawn(move || done.send(work()).unwrap());
    match wait.recv_timeout(Duration::from_secs(seconds)) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(worker.join().unwrap_err()),
    }
}

fn olmoe() -> Case {
    Case::new("olmoe", folder("olmoe"), golden("olmoe").ids)
}

fn on(behaviour: Behaviour) -> Setup {
    Setup { from: From::Disk(behaviour), percent: 25, ..Default::default() }
}

/// Appends a piece until it succeeds. Returns the bits of the logits and the number of failures.
fn insist(session: &mut Sequence, piece: &[u32]) -> (Vec<u32>, usize) {
    let cancel = Cancel::new();
    for failures in 0..200 {
        let (before, mut all) = (session.tokens().len(), Vec::new());
        let result = session.append_all(piece, &cancel, &mut (), &mut |logits| {
            all.extend(logits.iter().map(|logit| logit.to_bits()));
            Ok(())
        });
        match result {
            Ok(()) => return (all, failures),
            Err(EngineError::Expert { source, .. }) => {
                assert_eq!(source.raw_os_error(), Some(EIO), "{source}");
                assert_eq!(session.tokens().len(), before, "what failed is not in the sequence");
            }
            Err(other) => panic!("{other}"),
        }
    }
    panic!("it fails for ever");
}

#[test]
fn f03_short_reads_and_interrupts_change_nothing() {
    within(60, || {
        let case = olmoe();
        for behaviour in [Behaviour::Short(1), Behaviour::Short(2), Behaviour::Bytes] {
            let mut session = on(behaviour).session(&case.path);
            assert!(stepwise(&mut session, &case.ids) == case.expected, "{behaviour:?}");
            assert_eq!(session.model().experts().stats().retries, 0);
        }
    });
}

#[test]
fn f02_one_error_is_one_retry() {
    within(60, || {
        let case = olmoe();
        for from in [0, 1, 2, 17, 100] {
            let mut session = on(Behaviour::Errors { from, count: 1 }).session(&case.path);
            assert!(stepwise(&mut session, &case.ids) == case.expected, "{from}");
            assert_eq!(session.model().experts().stats().retries, 1, "{from}");
        }
    });
}

#[test]
fn f01_a_disk_that_always_fails_is_a_clean_error() {
    within(60, || {
        let case = olmoe();
        for prefetch in [Prefetch::Off, Prefetch::On] {
            for from in [0, 1, 2, 3, 5, 20, 77] {
                let setup = Setup { prefetch, ..on(Behaviour::Errors { from, count: u64::MAX }) };
                let mut session = setup.session(&case.path);
                let cancel = Cancel::new();
                let (vocab, mut failed) = (session.model().spec().vocab, None);
                for (i, &id) in case.ids.iter().enumerate() {
                    match session.decode(id, &cancel, &mut ()) {
                        Ok(()) => {
                            let bits: Vec<u32> = session.logits().iter().map(|l| l.to_bits()).collect();
                            assert!(bits == case.expected[i * vocab..(i + 1) * vocab], "{from}: token {i}");
                        }
                        Err(error) => {
                            failed = Some((i, error));
                            break;
                        }
                    }
                }
                let (token, error) = failed.expect("experts are missing until the end");
                let EngineError::Expert { layer, expert, source } = &error else { panic!("{error}") };
                assert!(*layer < 3 && *expert < 16);
                assert_eq!(source.raw_os_error(), Some(EIO), "{error}");
                assert_eq!(session.tokens(), &case.ids[..token], "what was read before stays");
                // A second attempt fails too, and does not hang.
                let again = session.append(&case.ids[token..], &cancel, &mut (), &mut |_| {});
                assert!(matches!(again, Err(EngineError::Expert { .. })), "{again:?}");
            }
        }
    });
}

#[test]
fn after_an_error_the_sequence_continues_with_the_right_bits() {
    within(100, || {
        let case = olmoe();
        let vocab = case.expected.len() / case.ids.len();
        let mut failures = 0;
        for seed in 0..12 {
            let prefetch = if seed % 2 == 0 { Prefetch::On } else { Prefetch::Off };
            let percent = [0, 25, 75][seed as usize % 3];
            // Every part is tried twice.
            let flaky = Behaviour::Flaky { seed, one_in: 8 };
            let setup = Setup { prefetch, percent, threads: 1 + seed as usize % 2, ..on(flaky) };
            let mut session = setup.session(&case.path);
            let mut start = 0;
            for index in 0.. {
                if start == case.ids.len() {
                    break;
                }
                let end = case.ids.len().min(start + 1 + (chance(seed, index) % 3) as usize);
                let (bits, failed) = insist(&mut session, &case.ids[start..end]);
                assert!(bits == case.expected[start * vocab..end * vocab], "{setup:?}: {start}..{end}");
                (start, failures) = (end, failures + failed);
            }
        }
        assert!(failures > 20, "{failures} failures prove little");
    });
}

/// In the smallest cache, pieces of a few tokens need more experts than there are slots.
#[test]
fn pieces_of_any_length_run_in_the_smallest_cache() {
    within(60, || {
        let case = olmoe();
        for prefetch in [Prefetch::Off, Prefetch::On] {
            for length in [1, 2, 3, 4, 5, 9] {
                let mut session = Setup { prefetch, ..Default::default() }.session(&case.path);
                let bits: Vec<u32> =
                    case.ids.chunks(length).flat_map(|ids| whole(&mut session, ids)).collect();
                assert!(bits == case.expected, "pieces of {length}");
            }
        }
    });
}

#[test]
fn f04_a_disk_that_sleeps_for_two_seconds_is_waited_for() {
    within(60, || {
        let case = olmoe();
        let started = Instant::now();
        let mut session = on(Behaviour::Stall { at: 30, millis: 2000 }).session(&case.path);
        assert!(stepwise(&mut session, &case.ids) == case.expected);
        assert!(started.elapsed() >= Duration::from_secs(2));
        assert!(session.model().experts().stats().decode.stall >= Duration::from_millis(1900));
    });
}

/// Cancelling takes 20 ms; the rest is an allowance for a busy machine.
const SOON: Duration = Duration::from_millis(200);

#[test]
fn f04_cancelling_and_closing_do_not_wait_for_the_disk() {
    within(25, || {
        let case = olmoe();
        for prefetch in [Prefetch::Off, Prefetch::On] {
            let setup = Setup { prefetch, ..on(Behaviour::Stall { at: 40, millis: 30_000 }) };
            let mut session = setup.session(&case.path);
            let cancel = Cancel::new();
            let (other, asked) = (cancel.clone(), mpsc::channel());
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(600));
                asked.0.send(Instant::now()).unwrap();
                other.cancel();
            });
            let result = case.ids.iter().cycle().try_for_each(|&id| {
                if session.tokens().len() == session.context() {
                    session.keep_prefix(&[]);
                }
                session.decode(id, &cancel, &mut ())
            });
            assert!(matches!(result, Err(EngineError::Cancelled)), "{result:?}");
            let took = asked.1.recv().unwrap().elapsed();
            assert!(took < SOON, "stopped after {took:?}");
            // The other readers go on. The slot of the stalled read stays unavailable.
            session.keep_prefix(&[]);
            assert!(stepwise(&mut session, &case.ids) == case.expected);
            let closing = Instant::now();
            drop(session);
            assert!(closing.elapsed() < SOON, "closed after {:?}", closing.elapsed());
        }
    });
}

#[test]
fn a_truncated_file_is_a_clean_error() {
    within(60, || {
        let case = olmoe();
        let len = std::fs::metadata(case.path.join("model.safetensors")).unwrap().len() / 3;
        let mut session = on(Behaviour::Cut { from: 20, len }).session(&case.path);
        let error = session.append(&case.ids, &Cancel::new(), &mut (), &mut |_| {}).unwrap_err();
        let EngineError::Expert { source, .. } = &error else { panic!("{error}") };
        assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
        assert!(error.to_string().contains("bytes too early"), "{error}");
    });
}

/// Two sequences share the model, its slots and its readers.
#[test]
fn concurrent_sequences_have_the_same_bits() {
    within(60, || {
        let case = Arc::new(olmoe());
        for (percent, prefetch) in [(0, Prefetch::On), (25, Prefetch::Off), (50, Prefetch::On)] {
            let setup = Setup { percent, prefetch, threads: 2, sessions: 2, ..on(Behaviour::Late(3)) };
            let model = setup.model(&case.path);
            let sequences: Vec<_> = [stepwise, whole]
                .into_iter()
                .map(|read: fn(&mut Sequence, &[u32]) -> Vec<u32>| {
                    let (case, model) = (Arc::clone(&case), Arc::clone(&model));
                    std::thread::spawn(move || {
                        let mut one = session(&model);
                        for _ in 0..2 {
                            one.keep_prefix(&[]);
                            assert!(read(&mut one, &case.ids) == case.expected, "{setup:?}");
                        }
                    })
                })
                .collect();
            sequences.into_iter().for_each(|thread| thread.join().unwrap());
        }
    });
}

/// A sequence that waits for another one can be cancelled.
#[test]
fn cancelling_does_not_wait_for_another_sequence() {
    within(25, || {
        let case = Arc::new(olmoe());
        let setup = Setup { sessions: 2, ..on(Behaviour::Stall { at: 0, millis: 4000 }) };
        let model = setup.model(&case.path);
        let (started, begun) = mpsc::channel();
        let (of, with) = (Arc::clone(&case), Arc::clone(&model));
        let first = std::thread::spawn(move || {
            let mut first = session(&with);
            started.send(()).unwrap();
            assert!(whole(&mut first, &of.ids) == of.expected);
        });
        begun.recv().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let mut second = session(&model);
        let cancel = Cancel::new();
        let stop = cancel.clone();
        let stopper = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            stop.cancel();
            Instant::now()
        });
        let result = second.append(&case.ids, &cancel, &mut (), &mut |_| {});
        assert!(matches!(result, Err(EngineError::Cancelled)), "{result:?}");
        let took = stopper.join().unwrap().elapsed();
        assert!(took < SOON, "stopped after {took:?}");
        assert!(!first.is_finished(), "the other sequence is still computing");
        first.join().unwrap();
        assert!(whole(&mut second, &case.ids) == case.expected);
    });
}

/// After a cancellation at any time a sequence continues, and a model can be closed.
#[test]
fn cancelling_at_any_time_is_safe() {
    within(100, || {
        let case = olmoe();
        for seed in 0..16 {
            let percent = [0, 25, 75][seed as usize % 3];
            let late = From::Disk(Behaviour::Late(seed));
            let setup = Setup { from: late, percent, prefetch: Prefetch::On, ..Default::default() };
            let mut session = setup.session(&case.path);
            let mut stopped = 0;
            for attempt in 0..12 {
                let cancel = Cancel::new();
                let other = cancel.clone();
                let after = Duration::from_micros(chance(seed, attempt) % 8000);
                let stopper = std::thread::spawn(move || {
                    std::thread::sleep(after);
                    other.cancel();
                });
                session.keep_prefix(&[]);
                let step = 1 + (attempt as usize % 3) * 8;
                let result = (case.ids.chunks(step))
                    .try_for_each(|ids| session.append(ids, &cancel, &mut (), &mut |_| {}));
                match result {
                    Ok(()) => {}
                    Err(EngineError::Cancelled) => stopped += 1,
                    Err(other) => panic!("{other}"),
                }
                stopper.join().unwrap();
            }
            assert!(stopped > 2, "{stopped} of 12 prove little");
            if seed % 4 == 0 {
                continue; // closes while reads are in flight
            }
            session.keep_prefix(&[]);
            assert!(stepwise(&mut session, &case.ids) == case.expected, "{setup:?}");
        }
    });
}

#[test]
fn f15_slots_larger_than_memory_are_a_clean_error() {
    let loaded = load(&folder("olmoe")).unwrap();
    let options = PlanOptions { ram: Ram::Min, io: Io::Direct, ..Default::default() };
    let mut plan = Plan::with_memory(&loaded.spec, &loaded.tensors, options, 0, 1 << 40).unwrap();
    let Experts::Cached(cached) = &mut plan.experts else { panic!("{:?}", plan.experts) };
    cached.slot_bytes = vec![1 << 60];
    cached.shape.spare = vec![2];
    plan.budget = u64::MAX;
    let how = How { threads: Some(1), ..Default::default() };
    let model = Model::with_plan(&how.runtime(), loaded.spec, loaded.tensors, &how.options(), plan, None);
    let Err(error) = model else { panic!("no machine has so much memory") };
    let EngineError::Store(source) = &error else { panic!("{error}") };
    assert_eq!(source.kind(), io::ErrorKind::OutOfMemory, "{error}");
}
