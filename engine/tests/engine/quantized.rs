//! Folders quantised as `moelten quantize` does it: every golden family in every mixture that its widths
//! allow. Weights are within the error of the type, logits within the effect of noise of that size, and any
//! number of threads gives the same bytes.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::{FAMILIES, deviation, folder, golden, run, worst_noise};
use moelten_loader::convert::types::{Class, MIXTURES, Mixture, TypeError, TypePlan};
use moelten_loader::convert::verify::verify;
use moelten_loader::convert::{Conversion, Event, FileLayout, Types, Work};
use moelten_loader::load::load;
use moelten_quant::Format;

/// Bound for the error of a type as a share of the weights, for weights drawn like those of the goldens. It
/// is a tenth above the measured error; a wrong scale or order is far outside.
fn error_of(format: Format) -> f64 {
    match format {
        Format::F32 => 0.0,
        Format::F16 => 0.0004,
        Format::BF16 => 0.002,
        Format::Q8_0 => 0.0065,
        Format::Q6K => 0.021,
        Format::Q5_0 | Format::Q5_1 | Format::Q5K => 0.05,
        Format::Iq4Nl | Format::Iq4Xs | Format::Q4K | Format::Q4_1 => 0.092,
        Format::Q4_0 => 0.1,
        Format::Mxfp4 => 0.14,
        Format::Q3K => 0.165,
        Format::Q2K => 0.295,
        other => unreachable!("nothing writes {other}"),
    }
}

fn quantise(family: &str, mixture: &Mixture, layout: FileLayout, target: &Path) -> Result<(), TypeError> {
    let loaded = load(&folder(family)).unwrap();
    let types = TypePlan::new(&loaded, mixture, &[], false)?;
    let choose = |role| types.format(role);
    let plan = Conversion::plan_as(&loaded, layout, Types::Chosen(&choose)).unwrap();
    assert!(plan.write(target, &mut |_| true).unwrap());
    Ok(())
}

#[test]
fn every_family_in_every_mixture_its_widths_allow() {
    let dir = tempfile::tempdir().unwrap();
    let mut written = BTreeMap::new();
    for family in FAMILIES.into_iter().chain(["mixtral-256"]) {
        let (golden, source) = (golden(family), load(&folder(family)).unwrap());
        let exact = dir.path().join("exact.gguf");
        quantise(family, Mixture::named("f32").unwrap(), FileLayout::Standard, &exact).unwrap();
        let mut bounds: BTreeMap<u64, f32> = BTreeMap::new();
        for mixture in &MIXTURES {
            let target = dir.path().join("quantised.gguf");
            match quantise(family, mixture, FileLayout::Standard, &target) {
                Ok(()) => {}
                Err(TypeError::Columns { block: 256, .. }) if family != "mixtral-256" => continue,
                Err(other) => panic!("{family} {}: {other}", mixture.name),
            }
            *written.entry(mixture.name).or_insert(0) += 1;
            let report =
                verify(&load(&target).unwrap(), Some(&source), 2, &mut |_, _| true).unwrap().unwrap();
            assert_eq!(report.damage, [], "{family} {}", mixture.name);
            let mut largest = 0.0_f64;
            for ((class, kind), weights) in &report.classes {
                let (found, allowed) =
                    (weights.distance.unwrap().relative(), error_of(Format::from_name(kind).unwrap()));
                let name = mixture.name;
                assert!(found <= allowed, "{family} {name}: {} {kind}: {found} of {allowed}", class.name());
                assert!(*class != Class::Router || found == 0.0, "{family} {name}: routers stay exact");
                largest = largest.max(allowed);
            }
            // Uniform noise as large as the error of the coarsest type, in all matrices.
            let bound = *bounds.entry(largest.to_bits()).or_insert_with(|| {
                // Products also round activations.
                let share = (largest as f32).max(error_of(Format::Q8_0) as f32);
                // Good rounding is better than noise; the rest is room for chance.
                1.3 * worst_noise(&exact, 3, &golden.ids, &golden.logits, &|block| {
                    let mean = block.iter().map(|x| x * x).sum::<f32>() / block.len() as f32;
                    share * 12.0_f32.sqrt() * mean.sqrt()
                })
            });
            let got = deviation(&run(&target, &golden.ids).0, &golden.logits);
            println!("{family:15} {:7} {got:.1e} of the spread, bound {bound:.1e}", mixture.name);
            assert!(got <= bound, "{family} {}: {got} is above {bound}", mixture.name);
        }
    }
    // K-quants fit at least once, other types nearly everywhere.
    for mixture in &MIXTURES {
        let count = written.get(mixture.name).copied().unwrap_or(0);
        assert!(count >= 1, "{} was never written", mixture.name);
    }
    assert_eq!(written["q4_0"], FAMILIES.len() + 1);
}

#[test]
fn threads_and_memory_change_no_byte() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load(&folder("mixtral-256")).unwrap();
    for (name, layout) in [("q4_k_m", FileLayout::Standard), ("q4_0", FileLayout::Packed)] {
        let types = TypePlan::new(&loaded, Mixture::named(name).unwrap(), &[], false).unwrap();
        let choose = |role| types.format(role);
        let plan = Conversion::plan_as(&loaded, layout, Types::Chosen(&choose)).unwrap();
        let mut first: Option<Vec<u8>> = None;
        for (threads, memory) in [(1, None), (2, None), (7, Some(0)), (1, Some(8 << 20))] {
            let target = dir.path().join(format!("{threads}.gguf"));
            assert!(plan.write_with(&target, Work { threads, memory }, &mut |_| true).unwrap());
            let bytes = std::fs::read(&target).unwrap();
            assert!(first.get_or_insert_with(|| bytes.clone()) == &bytes, "{threads} threads");
        }
    }
}

/// Stopped while it writes, and again while the partial file is checked: no complete tensor is made twice.
#[test]
fn stopping_never_loses_complete_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load(&folder("mixtral-256")).unwrap();
    let types = TypePlan::new(&loaded, Mixture::named("q4_k_m").unwrap(), &[], false).unwrap();
    let choose = |role| types.format(role);
    let plan = Conversion::plan_as(&loaded, FileLayout::Standard, Types::Chosen(&choose)).unwrap();
    let (whole, target) = (dir.path().join("whole.gguf"), dir.path().join("target.gguf"));
    assert!(plan.write(&whole, &mut |_| true).unwrap());
    let work = Work { threads: 1, memory: Some(0) };
    let small = |event| !matches!(event, Event::Written { bytes, total } if bytes > total / 2);
    assert!(!plan.write_with(&target, work, &mut { small }).unwrap());
    let left = || std::fs::metadata(dir.path().join("target.gguf.partial")).unwrap().len();
    let before = left();
    for _ in 0..3 {
        assert!(
            !plan.write_with(&target, work, &mut |event| !matches!(event, Event::Checked { .. })).unwrap()
        );
        assert_eq!(left(), before);
    }
    let mut resumed = 0;
    let finished = plan.write_with(&target, work, &mut |event| {
        if let Event::Resumed { bytes } = event {
            resumed = bytes;
        }
        true
    });
    assert!(finished.unwrap() && resumed > before / 2, "{resumed} of {before}");
    assert!(std::fs::read(&target).unwrap() == std::fs::read(&whole).unwrap());
}
