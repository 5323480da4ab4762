//! Models of images against the paper's equations, and the invariants that they share with models of texts:
//! bits do not depend on budget, threads or prefetching, nor, without a limit, on other images.

use std::sync::Arc;

use moelten_engine::plan::{Io, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{Classifier, EngineError, Model, Observer, Prefetch, Routing, most_images};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::load::load;
use moelten_loader::spec::{BankKey, ExpertLimit, ImagePool, Op};
use moelten_quant::Isa;

use crate::common::{How, distance, folder, model, spread};

const IMAGES: usize = 3;

/// The numbers of `make_vmoe.py`.
fn patches(model: &Model) -> Vec<f32> {
    let image = model.spec().image.unwrap();
    let numbers = IMAGES * image.patches() * image.patch_numbers();
    (0..numbers).map(|at| ((at * at * 7 + at * 13) % 251) as f32 / 125.0 - 1.0).collect()
}

fn expected(name: &str) -> Vec<f32> {
    SafeTensors::open(&folder("vmoe").join("golden.safetensors")).unwrap().f32s(name).unwrap().1
}

/// Experts of every token, those that took it.
#[derive(Default)]
struct Kept(Vec<Vec<u32>>);

impl Observer for Kept {
    fn routed(&mut self, _: BankKey, routing: &Routing) {
        self.0.extend((0..routing.tokens()).map(|token| routing.token(token).0.to_vec()));
    }
}

fn scores(model: &Arc<Model>, patches: &[f32], together: usize, kept: &mut Kept) -> Vec<f32> {
    let mut classifier = Classifier::new(Arc::clone(model), together).unwrap();
    let one = patches.len() / IMAGES;
    let groups = patches.chunks(one * together);
    groups.flat_map(|group| classifier.classify(group, &Cancel::new(), kept).unwrap()).collect()
}

#[test]
fn scores_and_choices_are_those_of_the_equations_on_every_instruction_set() {
    let file = SafeTensors::open(&folder("vmoe").join("golden.safetensors")).unwrap();
    let routes = file.i32s("router.1").unwrap().1;
    let routes: Vec<Vec<u32>> =
        routes.chunks(2).map(|ids| ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect()).collect();
    assert!(routes.iter().any(|kept| kept.len() < 2), "the capacity binds");
    for isa in Isa::available() {
        let model = model(&folder("vmoe"), How { isa: Some(isa), ..Default::default() });
        let patches = patches(&model);
        let mut kept = Kept::default();
        for (name, together) in [("scores", IMAGES), ("alone", 1)] {
            let got = scores(&model, &patches, together, &mut kept);
            let expected = expected(name);
            let error = distance(&got, &expected) / spread(&expected);
            println!("{name} on {}: {error:.1e} of the spread", isa.name());
            assert!(error <= 1e-3, "{name} on {}: {error}", isa.name());
        }
        assert_eq!(kept.0[..routes.len()], routes, "{}", isa.name());
    }
}

/// The other ways to count: tokens in their order, and no limit. The mean of all patches reads no first row.
#[test]
fn other_limits_and_heads_are_those_of_the_equations() {
    let changed = |name: &str, change: &dyn Fn(&mut Op)| {
        let mut loaded = load(&folder("vmoe")).unwrap();
        let branches = loaded.spec.layers.iter_mut().flat_map(|layer| &mut layer.branches);
        branches.for_each(|branch| change(&mut branch.op));
        let model =
            Model::new(&How::default().runtime(), loaded.spec, loaded.tensors, &How::default().options());
        let model = Arc::new(model.unwrap());
        let patches = patches(&model);
        let got = scores(&model, &patches, IMAGES, &mut Kept::default());
        let error = distance(&got, &expected(name)) / spread(&expected(name));
        assert!(error <= 1e-3, "{name}: {error}");
    };
    changed("in_order", &|op| {
        let Op::Moe(moe) = op else { return };
        let capacity = moe.router.capacity.as_mut().unwrap();
        assert!(capacity.prioritised && matches!(capacity.limit, ExpertLimit::Share(_)));
        capacity.prioritised = false;
    });
    changed("unlimited", &|op| {
        if let Op::Moe(moe) = op {
            moe.router.capacity = None;
        }
    });
}

#[test]
fn bits_do_not_depend_on_budget_threads_or_prefetching() {
    let mut all = Vec::new();
    let direct =
        |ram, prefetch| How { ram, io: Io::Direct, prefetch, threads: Some(2), ..Default::default() };
    let ways = [
        How { threads: Some(1), ..Default::default() },
        How { threads: Some(3), ..Default::default() },
        direct(Ram::Min, Prefetch::Off),
        direct(Ram::Bytes(2 << 30), Prefetch::On),
    ];
    for how in ways {
        let model = model(&folder("vmoe"), how);
        let got = scores(&model, &patches(&model), IMAGES, &mut Kept::default());
        all.push(got.iter().map(|score| score.to_bits()).collect::<Vec<_>>());
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Without a limit no image depends on another; with one they are ranked together.
#[test]
fn images_depend_on_each_other_by_the_limit_alone() {
    let mut loaded = load(&folder("vmoe")).unwrap();
    assert!(loaded.spec.set_capacity(None));
    let model = Model::new(&How::default().runtime(), loaded.spec, loaded.tensors, &How::default().options());
    let model = Arc::new(model.unwrap());
    let patches = patches(&model);
    let together = scores(&model, &patches, IMAGES, &mut Kept::default());
    let alone = scores(&model, &patches, 1, &mut Kept::default());
    assert!(together.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits()));
    let limited = self::model(&folder("vmoe"), How::default());
    let together = scores(&limited, &patches, IMAGES, &mut Kept::default());
    let alone = scores(&limited, &patches, 1, &mut Kept::default());
    assert!(distance(&together, &alone) > 1e-2);
}

#[test]
fn wrong_numbers_of_images_are_refused_and_cancelled_ones_leave_no_trace() {
    let model = model(&folder("vmoe"), How::default());
    let image = model.spec().image.unwrap();
    assert_eq!((image.pool, image.rows(), most_images(&image)), (ImagePool::First, 10, 204));
    let patches = patches(&model);
    let mut classifier = Classifier::new(Arc::clone(&model), 2).unwrap();
    for wrong in [&patches[..0], &patches[..5], &patches[..]] {
        let refused = classifier.classify(wrong, &Cancel::new(), &mut ());
        assert!(matches!(refused, Err(EngineError::Setting { .. })));
    }
    let one = &patches[..patches.len() / IMAGES];
    let before = classifier.classify(one, &Cancel::new(), &mut ()).unwrap();
    let cancel = Cancel::new();
    cancel.cancel();
    assert!(matches!(classifier.classify(one, &cancel, &mut ()), Err(EngineError::Cancelled)));
    assert_eq!(classifier.classify(one, &Cancel::new(), &mut ()).unwrap(), before);
    let text = self::model(&folder("mixtral"), How::default());
    assert!(matches!(Classifier::new(text, 1), Err(EngineError::Setting { .. })));
}
