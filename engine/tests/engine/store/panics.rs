//! A reader that panics: the read fails with the panic's message, nothing hangs, and the next request works.

use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{EngineError, Prefetch};

use super::disk::{Behaviour, PANIC, chance};
use super::setup::{Case, From, Setup, session};
use crate::common::{folder, golden, stepwise};

fn olmoe() -> Case {
    Case::new("olmoe", folder("olmoe"), golden("olmoe").ids)
}

fn on(behaviour: Behaviour) -> Setup {
    Setup { from: From::Disk(behaviour), percent: 25, threads: 2, ..Default::default() }
}

#[test]
fn a_reader_that_panics_once_reads_again() {
    let case = olmoe();
    for from in [0, 1, 17, 100] {
        let mut one = on(Behaviour::Panics { from, count: 1 }).session(&case.path);
        assert!(stepwise(&mut one, &case.ids) == case.expected, "{from}");
        assert_eq!(one.model().experts().stats().retries, 1, "{from}");
    }
}

#[test]
fn a_reader_that_panics_for_ever_is_an_error_with_its_message() {
    let case = olmoe();
    for prefetch in [Prefetch::Off, Prefetch::On] {
        for from in [0, 3, 20, 77] {
            let setup = Setup { prefetch, ..on(Behaviour::Panics { from, count: u64::MAX }) };
            let mut one = setup.session(&case.path);
            let cancel = Cancel::new();
            let failed = case.ids.iter().find_map(|&id| one.decode(id, &cancel, &mut ()).err());
            for error in [failed, one.append(&case.ids, &cancel, &mut (), &mut |_| {}).err()] {
                let Some(EngineError::Expert { source, .. }) = error else { panic!("{error:?}") };
                assert_eq!(source.to_string(), format!("reading an expert: {PANIC}"));
            }
        }
    }
}

#[test]
fn after_panics_the_same_sequence_goes_on_with_the_right_bits() {
    let case = olmoe();
    let (vocab, mut failures) = (case.expected.len() / case.ids.len(), 0);
    for seed in 0..8 {
        // Both tries of a read fail often enough.
        let model = on(Behaviour::Panicky { seed, one_in: 4 }).model(&case.path);
        let (mut one, cancel, mut done) = (session(&model), Cancel::new(), 0);
        for attempt in 0.. {
            assert!(attempt < 2000, "it fails for ever");
            if done == case.ids.len() {
                break;
            }
            let ids = &case.ids[done..case.ids.len().min(done + 1 + (chance(seed, attempt) % 2) as usize)];
            match one.append(ids, &cancel, &mut (), &mut |_| {}) {
                Ok(()) => {
                    done += ids.len();
                    let bits: Vec<u32> = one.logits().iter().map(|logit| logit.to_bits()).collect();
                    assert!(bits == case.expected[(done - 1) * vocab..done * vocab], "{seed}: token {done}");
                }
                Err(EngineError::Expert { source, .. }) => {
                    assert!(source.to_string().ends_with(PANIC), "{source}");
                    assert_eq!(one.tokens(), &case.ids[..done], "what failed is not in the sequence");
                    failures += 1;
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
    assert!(failures > 10, "{failures} failures prove little");
}
