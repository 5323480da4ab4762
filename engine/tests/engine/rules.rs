//! Experts chosen in other ways than a model's own, against the equations of DS-MoE (arXiv 2404.05567,
//! section 3.3), and refusals of what does not fit a model.

use std::sync::Arc;

use moelten_engine::{KvFormat, Model};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::load::load;
use moelten_loader::rule::ExpertRule;
use moelten_loader::spec::{CapacitySpec, ExpertLimit, Op};

use crate::common::{How, distance, folder, golden, logits, session, spread, stepwise, whole};

/// A golden model that chooses experts by a rule.
fn by(rule: &str, family: &str, how: How) -> Arc<Model> {
    let mut loaded = load(&folder(family)).unwrap();
    loaded.spec.choose_experts(&rule.parse::<ExpertRule>().unwrap()).unwrap();
    Arc::new(Model::new(&how.runtime(), loaded.spec, loaded.tensors, &how.options()).unwrap())
}

#[test]
fn rules_of_the_paper_give_what_its_equations_give() {
    let (ids, file) = (golden("dsmoe").ids, folder("dsmoe").join("golden.safetensors"));
    let expected = SafeTensors::open(&file).unwrap();
    for (rule, name) in [("2,attn=all", "logits.best"), ("over:0.5:3,attn=over:0.5:2", "logits.bounded")] {
        let expected = expected.f32s(name).unwrap().1;
        let (got, _) = logits(&mut session(&by(rule, "dsmoe", How::default()), KvFormat::F32), &ids);
        let error = distance(&got, &expected) / spread(&expected);
        assert!(error <= 1e-4, "{rule}: {error}");
        let own = golden("dsmoe").logits;
        assert!(distance(&own, &expected) / spread(&expected) > 0.1, "{rule} changes something");
    }
}

/// The model's own rule, given as another, changes no bit; fewer experts change the answer.
#[test]
fn a_rule_that_says_what_the_model_does_changes_nothing() {
    for (family, own) in [("mixtral", "2"), ("deepseek2", "2"), ("qwen3moe", "4"), ("dsmoe", "over:0.9")] {
        let ids = golden(family).ids;
        let plain = crate::common::model(&folder(family), How::default());
        let expected = logits(&mut session(&plain, KvFormat::F32), &ids).0;
        let same = logits(&mut session(&by(own, family, How::default()), KvFormat::F32), &ids).0;
        assert!(same == expected, "{family}");
        let (fewer, routes) = logits(&mut session(&by("1", family, How::default()), KvFormat::F32), &ids);
        assert!(fewer != expected, "{family}");
        let last = routes.0.last().unwrap();
        assert_eq!(last.1.len(), ids.len(), "{family}: one expert for each token");
    }
}

/// The second expert by chance: the same with any chunks, and another seed draws otherwise.
#[test]
fn draws_depend_on_the_seed_alone() {
    let ids = golden("mixtral").ids;
    let of = |rule: &str| by(rule, "mixtral", How::default());
    let seven = whole(&mut session(&of("two:chance:7"), KvFormat::F32), &ids);
    assert!(stepwise(&mut session(&of("two:chance:7"), KvFormat::F32), &ids) == seven);
    assert!(whole(&mut session(&of("two:chance:8"), KvFormat::F32), &ids) != seven);
    let own = whole(&mut session(&of("2"), KvFormat::F32), &ids);
    assert!(own != seven, "some second experts are not used");
    assert!(whole(&mut session(&of("two:0"), KvFormat::F32), &ids) == own, "all are used");
}

#[test]
fn rules_that_do_not_fit_are_refused() {
    let cases = [
        ("llama", "2", "the model has no experts to choose from"),
        ("mixtral", "attn=2", "the model has no attention experts to choose from"),
        ("mixtral", "9", "9 experts of a token, of 8 in a layer"),
        ("glm4moe", "over:0.5", "no plain softmax"),
        ("glm4moe", "two:0.2", "no plain softmax"),
        ("phimoe", "1", "SparseMixer always chooses two experts"),
    ];
    for (family, rule, message) in cases {
        let mut loaded = load(&folder(family)).unwrap();
        let before = loaded.spec.clone();
        let error = loaded.spec.choose_experts(&rule.parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains(message), "{family}, {rule}: {error}");
        assert_eq!(loaded.spec, before, "a refused rule changes nothing");
    }
}

/// GShard's whole layer by its algorithm: parts of both weights, the draw of the second expert, and a
/// capacity that first choices fill before second ones. The host's sigmoid is left out.
#[test]
fn the_layer_of_gshard_gives_what_its_algorithm_gives() {
    let mut loaded = load(&folder("gshard")).unwrap();
    loaded.spec.choose_experts(&"two:chance:7".parse::<ExpertRule>().unwrap()).unwrap();
    for branch in loaded.spec.layers.iter_mut().flat_map(|layer| &mut layer.branches) {
        let Op::Moe(moe) = &mut branch.op else { continue };
        let limit = ExpertLimit::Factor(2);
        moe.router.capacity = Some(CapacitySpec { limit, renormalise: false, prioritised: false });
        moe.squashed = false;
    }
    let file = SafeTensors::open(&folder("gshard").join("golden.safetensors")).unwrap();
    let ids: Vec<u32> = file.i32s("input_ids").unwrap().1.iter().map(|&id| id.try_into().unwrap()).collect();
    let kept: Vec<u32> =
        file.i32s("router.0").unwrap().1.iter().filter_map(|&id| u32::try_from(id).ok()).collect();
    let expected = file.f32s("logits").unwrap().1;
    let how = How::default();
    let model = Model::new(&how.runtime(), loaded.spec, loaded.tensors, &how.options()).unwrap();
    let (got, routes) = logits(&mut session(&Arc::new(model), KvFormat::F32), &ids);
    assert_eq!(routes.0[0].1, kept);
    let error = distance(&got, &expected) / spread(&expected);
    println!("GShard: worst logit error {error:.1e} of the spread");
    assert!(error <= 1e-4, "{error}");
}
