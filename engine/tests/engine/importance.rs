//! Sums of squares of the inputs of matrices: they match numpy for every cut of the text and every residency
//! of the experts, and observing them changes no logit.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::{How, folder, golden, model, session};
use moelten_engine::KvFormat;
use moelten_engine::Model;
use moelten_engine::offline::importance::InputSquares;
use moelten_engine::plan::{Io, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::runtime::ledger::Ledger;
use moelten_loader::container::safetensors::SafeTensors;

/// The sums `[rows, cols]` and the counts `[rows]` of each matrix, by name.
type Sums = BTreeMap<String, (Vec<f32>, Vec<u64>)>;

/// The sums of the golden prompt, read in pieces of `piece` tokens.
fn sums(model: &Arc<Model>, ids: &[u32], piece: usize) -> Sums {
    let mut session = session(model, KvFormat::F32);
    let mut squares = InputSquares::new(model.spec(), model.runtime().ledger()).unwrap();
    for ids in ids.chunks(piece) {
        session.observe(ids, &Cancel::new(), &mut squares, &mut |_| {}).unwrap();
    }
    let by_role = squares.by_role(model.spec());
    by_role
        .into_iter()
        .map(|(role, s)| (role.to_string(), (s.sums().to_vec(), s.counts().to_vec())))
        .collect()
}

fn plain(family: &str) -> Arc<Model> {
    model(&folder(family), How { threads: Some(2), ..How::default() })
}

#[test]
fn sums_match_numpy() {
    for family in ["llama", "mixtral", "qwen2moe"] {
        let expected = SafeTensors::open(&folder(family).join("squares.safetensors")).unwrap();
        let found = sums(&plain(family), &golden(family).ids, 64);
        let names: Vec<_> =
            found.keys().flat_map(|name| [format!("{name}.counts"), format!("{name}.in_sum2")]).collect();
        let mut listed: Vec<_> =
            expected.catalog().tensors().iter().map(|tensor| tensor.name.clone()).collect();
        listed.sort();
        assert_eq!(names, listed, "{family}: every matrix, and nothing else");
        for (name, (sums, counts)) in found {
            let (_, exact) = expected.f32s(&format!("{name}.in_sum2")).unwrap();
            assert_eq!(exact.len(), sums.len());
            let largest = exact.iter().copied().fold(0.0, f32::max);
            for (column, (found, exact)) in sums.iter().zip(&exact).enumerate() {
                let off = (found - exact).abs();
                assert!(
                    off <= 2e-4 * exact + 1e-6 * largest,
                    "{family} {name} {column}: {found}, not {exact}"
                );
            }
            let (_, exact) = expected.f32s(&format!("{name}.counts")).unwrap();
            assert_eq!(
                counts,
                exact.iter().map(|&count| count as u64).collect::<Vec<_>>(),
                "{family} {name}"
            );
        }
    }
}

#[test]
fn sums_do_not_depend_on_threads_or_residency() {
    let path = folder("qwen2moe");
    let ids = golden("qwen2moe").ids;
    let expected = sums(&plain("qwen2moe"), &ids, 64);
    let few = How { threads: Some(1), ram: Ram::Min, io: Io::Direct, ..How::default() };
    assert_eq!(sums(&model(&path, few), &ids, 64), expected);
    // Pieces change only the rounding of f32 sums.
    for (name, (found, counts)) in sums(&plain("qwen2moe"), &ids, 5) {
        let (whole, all) = &expected[&name];
        assert_eq!(&counts, all, "{name}");
        assert!(found.iter().zip(whole).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs()), "{name}");
    }
}

#[test]
fn logits_do_not_change() {
    for family in ["llama", "qwen2moe"] {
        let (model, ids) = (plain(family), golden(family).ids);
        let mut squares = InputSquares::new(model.spec(), model.runtime().ledger()).unwrap();
        let run = |observer: &mut dyn moelten_engine::Observer| {
            let (mut session, mut all) = (session(&model, KvFormat::F32), Vec::new());
            let mut each = |logits: &[f32]| {
                all.extend(logits.iter().map(|logit| logit.to_bits()));
                Ok(())
            };
            session.append_all(&ids, &Cancel::new(), observer, &mut each).unwrap();
            all
        };
        assert_eq!(run(&mut ()), run(&mut squares), "{family}");
    }
}

#[test]
fn sums_are_charged() {
    let model = plain("qwen2moe");
    let need = InputSquares::bytes_for(model.spec());
    let ledger = Ledger::new(need);
    let squares = InputSquares::new(model.spec(), &ledger).unwrap();
    assert_eq!(ledger.free(), 0);
    let error = InputSquares::new(model.spec(), &ledger).unwrap_err().to_string();
    assert!(error.contains("the sums of squares"), "{error}");
    drop(squares);
    assert_eq!(ledger.free(), need);
}
