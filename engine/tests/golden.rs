//! Every family against Hugging Face transformers with the same bfloat16 weights in f32: logits at every
//! position, chosen experts, and greedy text. See `golden/README.md`.

#[path = "engine/common/mod.rs"]
mod common;

use common::{FAMILIES, How, distance, folder, golden, greedy, logits, model, session, spread};
use moelten_engine::KvFormat;
use moelten_quant::Isa;

#[test]
fn logits_and_routes_match_on_every_instruction_set() {
    let tiers = Isa::available();
    println!("instruction sets covered: {}", tiers.iter().map(|i| i.name()).collect::<Vec<_>>().join(", "));
    for family in FAMILIES {
        let golden = golden(family);
        for &isa in &tiers {
            let model = model(&folder(family), How { isa: Some(isa), ..Default::default() });
            let (got, routes) = logits(&mut session(&model, KvFormat::F32), &golden.ids);
            let error = distance(&got, &golden.logits) / spread(&golden.logits);
            println!("{family:15} {:8} worst logit error {error:.1e} of the spread", isa.name());
            assert!(error <= 1e-3, "{family} on {}: {error}", isa.name());
            assert_eq!(routes.0, golden.routes, "{family}: experts differ");
        }
    }
}

#[test]
fn greedy_text_matches() {
    for family in FAMILIES {
        let golden = golden(family);
        let model = model(&folder(family), How::default());
        let got = greedy(&mut session(&model, KvFormat::F32), &golden.ids, golden.greedy.len());
        assert_eq!(got, golden.greedy, "{family}");
    }
}

#[test]
fn half_precision_kv_stays_close() {
    for family in FAMILIES {
        let golden = golden(family);
        let model = model(&folder(family), How::default());
        let (got, _) = logits(&mut session(&model, KvFormat::F16), &golden.ids[..1]);
        // The first token attends to itself alone: only its value is rounded, to 11 bits. So the first
        // position bounds the error before any route can change.
        let vocab = model.spec().vocab;
        let error = distance(&got, &golden.logits[..vocab]) / spread(&golden.logits);
        assert!(error <= 2e-2, "{family}: {error}");
    }
}
