//! Routing traces: any bytes are parsed or refused; what is parsed keeps its promises, and caches can be
//! replayed over it.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use moelten_engine::offline::replay::{Replacement, Replay, Tokens, spread};
use moelten_engine::offline::trace::Trace;

fuzz_target!(|bytes: &[u8]| {
    let trace = match Trace::parse(Path::new("f"), bytes) {
        Ok(trace) => trace,
        Err(error) => {
            assert!(!error.to_string().chars().any(char::is_control), "{error:?}");
            return;
        }
    };
    let header = trace.header();
    for event in trace.events() {
        let experts = header.banks[event.bank].experts;
        assert!(event.tokens() > 0 && event.choices().iter().all(|&id| u32::from(id) < experts));
        let choices: usize = (0..event.tokens()).map(|token| event.token(token).len()).sum();
        assert_eq!(choices, event.choices().len());
    }
    let _tokens = Tokens::of(&trace, 1);
    let outcomes = Replacement::ALL.map(|policy| {
        let replay = Replay::run(&trace, policy, 0);
        let half = replay.with_slots(&spread(header, header.experts() / 2));
        (half.prefill.hits + half.decode.hits, half.prefill.uses + half.decode.uses)
    });
    let (best, uses) = outcomes[Replacement::ALL.len() - 1];
    assert!(outcomes.iter().all(|outcome| outcome.0 <= best && outcome.1 == uses));
});
