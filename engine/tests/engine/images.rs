//! Models of images against the paper's equations, and the invariants that they share with models of texts:
//! bits do not depend on budget, threads or prefetching, nor, without a limit, on other images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_engine::plan::{Io, Ram};
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{Classifier, EngineError, Model, Observer, Prefetch, Routing, most_images};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::load;
use moelten_loader::spec::{BankKey, ExpertLimit, ImagePool, ModelSpec, Op};
use moelten_loader::task::TaskError;
use moelten_quant::{Format, Isa};

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
        assert!(capacity.prioritised && matches!(capacity.limit, ExpertLimit::Share { .. }));
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
    assert_eq!((image.head.pool, image.rows(), most_images(&image)), (ImagePool::First, 10, 204));
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

/// The tasks of `make_adamvmoe.py`.
const TASKS: [&str; 3] = ["scenes", "parts", "animals"];

/// The model of several tasks in `path`, for one of them.
fn of_task(path: &Path, task: &str, how: How) -> Arc<Model> {
    let mut loaded = load(path).unwrap();
    loaded.spec.choose_task(task).unwrap();
    Arc::new(Model::new(&how.runtime(), loaded.spec, loaded.tensors, &how.options()).unwrap())
}

/// Compares every task of the model in `path` with the oracle.
fn check_tasks(path: &Path, how: How) {
    let file = SafeTensors::open(&folder("adamvmoe").join("golden.safetensors")).unwrap();
    for task in TASKS {
        let model = of_task(path, task, how);
        let mut kept = Kept::default();
        let got = scores(&model, &patches(&model), IMAGES, &mut kept);
        let expected = file.f32s(&format!("{task}.scores")).unwrap().1;
        let error = distance(&got, &expected) / spread(&expected);
        println!("{task}: {error:.1e} of the spread");
        assert!(error <= 1e-3, "{task} on {:?}: {error}", how.isa);
        let (shape, ids) = file.i32s(&format!("{task}.router.1")).unwrap();
        let k = usize::try_from(shape[1]).unwrap();
        let routes = ids.chunks(k).map(|ids| ids.iter().filter_map(|&id| u32::try_from(id).ok()).collect());
        assert_eq!(kept.0, routes.collect::<Vec<Vec<u32>>>(), "{task} on {:?}", how.isa);
    }
}

#[test]
fn every_task_has_its_own_router_number_of_experts_and_head() {
    for isa in Isa::available() {
        check_tasks(&folder("adamvmoe"), How { isa: Some(isa), ..Default::default() });
    }
    let mut loaded = load(&folder("adamvmoe")).unwrap();
    loaded.spec.choose_task("animals").unwrap();
    loaded.spec.image.as_mut().unwrap().head.pool = ImagePool::Mean;
    let model = Model::new(&How::default().runtime(), loaded.spec, loaded.tensors, &How::default().options());
    let model = Arc::new(model.unwrap());
    let got = scores(&model, &patches(&model), IMAGES, &mut Kept::default());
    let file = SafeTensors::open(&folder("adamvmoe").join("golden.safetensors")).unwrap();
    let expected = file.f32s("animals.mean").unwrap().1;
    assert!(distance(&got, &expected) / spread(&expected) <= 1e-3);
}

#[test]
fn tasks_are_chosen_by_name_and_have_the_same_bits_with_experts_in_the_file() {
    let mut loaded = load(&folder("adamvmoe")).unwrap();
    let before = loaded.spec.clone();
    let unknown = loaded.spec.choose_task("plants").unwrap_err().to_string();
    assert!(unknown.contains("\"plants\"") && unknown.contains("scenes, parts, animals"), "{unknown}");
    assert_eq!(loaded.spec, before);
    // The first one is chosen where none is asked for, and another one can be taken back.
    loaded.spec.choose_task("parts").unwrap();
    assert_ne!(loaded.spec, before);
    loaded.spec.choose_task("scenes").unwrap();
    assert_eq!(loaded.spec, before);
    let mut without = load(&folder("vmoe")).unwrap().spec;
    assert_eq!(without.choose_task("scenes"), Err(TaskError::None));
    for task in TASKS {
        let bits = |how: How| {
            let model = of_task(&folder("adamvmoe"), task, how);
            let scores = scores(&model, &patches(&model), IMAGES, &mut Kept::default());
            scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>()
        };
        let streamed = How { ram: Ram::Min, io: Io::Direct, threads: Some(2), ..Default::default() };
        assert_eq!(bits(How { threads: Some(1), ..Default::default() }), bits(streamed), "{task}");
    }
}

/// A GGUF file of a folder, in the format that is given, with what a folder says beside its weights.
fn converted(name: &str, layout: FileLayout, format: Format, dir: &Path) -> PathBuf {
    let source = dir.join(name);
    fs::create_dir_all(&source).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(name).join(file), source.join(file)).unwrap();
    }
    fs::write(source.join("preprocessor_config.json"), "{}").unwrap();
    let (loaded, target) = (load(&source).unwrap(), dir.join(format!("{name}.gguf")));
    let plan = Conversion::plan_as(&loaded, layout, Types::Chosen(&|_| format)).unwrap();
    assert!(plan.notices.is_empty(), "{:?}", plan.notices);
    assert!(plan.write(&target, &mut |_| true).unwrap());
    let (folder, file) = (loaded.spec, load(&target).unwrap());
    assert!(file.notices.is_empty(), "{:?}", file.notices);
    let spec = ModelSpec { name: folder.name.clone(), ..file.spec };
    assert_eq!(spec, folder);
    target
}

#[test]
fn files_of_folders_are_those_of_the_equations() {
    let dir = tempfile::tempdir().unwrap();
    let kinds = [(FileLayout::Standard, Format::F32), (FileLayout::Packed, Format::F32)];
    for (layout, format) in kinds.into_iter().chain([(FileLayout::Standard, Format::BF16)]) {
        let file = converted("adamvmoe", layout, format, dir.path());
        check_tasks(&file, How::default());
        check_tasks(&file, How { ram: Ram::Min, io: Io::Direct, ..Default::default() });
        let file = converted("vmoe", layout, format, dir.path());
        let model = model(&file, How::default());
        let got = scores(&model, &patches(&model), IMAGES, &mut Kept::default());
        let expected = expected("scores");
        let error = distance(&got, &expected) / spread(&expected);
        assert!(error <= 1e-3, "{layout:?} {format}: {error}");
    }
}
