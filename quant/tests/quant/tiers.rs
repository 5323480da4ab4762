//! Names of tiers, which of them the machine has, and loops picked from them. It must not know what a loop
//! computes.

use moelten_quant::{Format, Isa, Kernels, Picks};

#[test]
fn names_round_trip_and_scalar_is_always_there() {
    for isa in Isa::ALL {
        assert_eq!(Isa::from_name(&isa.name().to_uppercase()), Some(isa));
    }
    assert_eq!(Isa::available().first(), Some(&Isa::Scalar));
    assert_eq!(Isa::available().last(), Some(&Isa::best()));
    assert!(Isa::ALL.into_iter().all(|isa| isa.missing().is_empty() == Isa::available().contains(&isa)));
}

#[test]
fn picks_are_kept_by_format_and_number_of_tokens() {
    let mut picks = Picks::of(Isa::Avx2);
    picks.set(Format::Q4K, 1, Isa::Scalar);
    assert_eq!((picks.get(Format::Q4K, 1), picks.get(Format::Q4K, 7)), (Isa::Scalar, Isa::Avx2));
    picks.set(Format::Q8_0, 64, Isa::Scalar);
    assert_eq!((picks.get(Format::Q8_0, 1), picks.get(Format::Q8_0, 2)), (Isa::Avx2, Isa::Scalar));
}

#[test]
fn every_candidate_is_here() {
    for tokens in [1, 2] {
        let candidates = Picks::candidates(tokens);
        assert!(!candidates.is_empty() && candidates.iter().all(|isa| Isa::available().contains(isa)));
    }
    let all = Kernels::for_isa(Isa::Scalar).expect("always there");
    let picked = all.with_picks(&Picks::of(Isa::best())).expect("the best is available");
    assert_eq!(picked.isa(), Isa::Scalar);
    let missing = Isa::ALL.into_iter().find(|isa| !Isa::available().contains(isa));
    assert!(missing.is_none_or(|isa| all.with_picks(&Picks::of(isa)).is_none()));
}
