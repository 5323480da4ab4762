//! A GPU, or a software driver, as the device of a model: no logit changes a bit, whatever it holds, and
//! also when it is destroyed in the middle of a text.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use moelten_engine::plan::{Ram, SequenceOptions};
use moelten_engine::runtime::RuntimeOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{DeviceStats, ExpertDevice, ExpertView, Model, ModelOptions, Sequence};
use moelten_loader::convert::Conversion;
use moelten_loader::tensors::roles::{LayerTensor, Role};
use moelten_quant::{Format, Line};

use super::banks::GpuDevice;
use super::*;
use crate::models::{Candidate, ModelInspector};
use crate::open::{SessionArgs, builtin};

/// The name of an adapter. Tests that find none fail where everything is expected to be there.
fn adapter() -> Option<String> {
    let found = moelten_gpu::adapters().first().map(|adapter| adapter.name.clone());
    if found.is_none() {
        let all = std::env::var("MOELTEN_ALL_TESTS").is_ok_and(|value| value == "1");
        assert!(!all, "no GPU and no software driver: install mesa-vulkan-drivers");
        eprintln!("skipped: no GPU and no software driver");
    }
    found
}

/// How a model is opened.
#[derive(Debug, Clone, Copy)]
struct Way {
    ram: Ram,
    threads: usize,
    vram: VramArg,
    exactness: Exactness,
    fault: Option<Fault>,
}

/// What goes wrong with the device.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// It is destroyed before a submission.
    Destroyed(usize),
    /// It does not answer in time from a submission on.
    Hangs(usize),
    /// Every copy to it takes some milliseconds more.
    SlowCopies(u64),
    /// The driver refuses slabs from a number on, and they are of 256 KiB.
    OutOfMemory(usize),
}

const PLAIN: Way =
    Way { ram: Ram::Auto, threads: 2, vram: VramArg::Bytes(0), exactness: Exactness::Exact, fault: None };

/// A device with a fault.
struct Faulty {
    inner: GpuDevice,
    fault: Option<Fault>,
    submissions: usize,
}

impl ExpertDevice for Faulty {
    fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertView<'_>) -> Result<(), String> {
        if let Some(Fault::SlowCopies(millis)) = self.fault {
            std::thread::sleep(Duration::from_millis(millis));
        }
        self.inner.upload(bank, slot, expert)
    }

    fn begin(&mut self, bank: usize, slots: &[usize], shared: bool, input: &[Line]) -> Result<(), String> {
        match self.fault {
            Some(Fault::Destroyed(at)) if at == self.submissions => self.inner.experts.gpu().destroy(),
            Some(Fault::Hangs(at)) if at == self.submissions => {
                self.inner.experts.set_patience(Duration::ZERO);
            }
            _ => {}
        }
        self.submissions += 1;
        self.inner.begin(bank, slots, shared, input)
    }

    fn finish(&mut self, out: &mut [f32]) -> Result<(), String> {
        self.inner.finish(out)
    }

    fn begin_head(&mut self, rows: usize, input: &[Line]) -> Result<(), String> {
        self.inner.begin_head(rows, input)
    }

    fn finish_head(&mut self, out: &mut [f32]) -> Result<(), String> {
        self.inner.finish_head(out)
    }
}

/// Bits of the logits of a text that is decoded token by token, and what the device did.
fn decoded(path: Option<&Path>, ids: &[u32], name: &str, way: Way) -> (Vec<u32>, Option<DeviceStats>) {
    let loaded = crate::open::load(path).unwrap();
    let options = RuntimeOptions { threads: Some(way.threads), ..RuntimeOptions::default() };
    let runtime = Runtime::start(options).unwrap();
    let offered = (way.vram != VramArg::Bytes(0)).then(|| {
        let adapter = choose(&Choice::Named(name.to_owned())).unwrap().unwrap();
        let banks = Banks::of(&loaded.spec, &loaded.tensors).unwrap();
        let mut gpu = Gpu::open(&adapter).unwrap();
        if let Some(Fault::OutOfMemory(slab)) = way.fault {
            gpu.run_out(256 << 10, slab);
        }
        let faulty =
            |inner| -> Box<dyn ExpertDevice> { Box::new(Faulty { inner, fault: way.fault, submissions: 0 }) };
        let head = head(&loaded.spec, &loaded.tensors).map(|head| loaded.tensors.view(&head));
        let most = way.vram.most(gpu.shares_ram());
        banks.open(gpu, (most, way.exactness), &runtime, &loaded.tensors, head, faulty).unwrap()
    });
    let extra = offered.as_ref().map_or(0, |offered| offered.ram_bytes);
    let options = ModelOptions { ram: way.ram, extra, ..ModelOptions::default() };
    let model = Model::new(&runtime, loaded.spec, loaded.tensors, &options).unwrap();
    if let Some(offered) = offered {
        model.use_device(offered.offer);
    }
    let model = Arc::new(model);
    let options = SequenceOptions { context: Some(128), ..SequenceOptions::default() };
    let mut sequence = Sequence::new(Arc::clone(&model), options).unwrap();
    let (cancel, mut all) = (Cancel::new(), Vec::new());
    for &id in ids {
        sequence.decode(id, &cancel, &mut ()).unwrap();
        all.extend(sequence.logits().iter().map(|logit| logit.to_bits()));
    }
    (all, model.experts().device_stats())
}

/// A golden of the engine, converted.
fn converted(family: &str, format: Format, folder: &Path) -> PathBuf {
    converted_by(family, &|_| format, &folder.join(format!("{family}-{format}.gguf")))
}

/// The same with a format for each matrix.
fn converted_by(family: &str, format: &dyn Fn(Role) -> Format, target: &Path) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden").join(family);
    let file = golden.join("model.gguf");
    let loaded = crate::open::load(Some(if file.exists() { &file } else { &golden })).unwrap();
    assert!(Conversion::plan(&loaded, format).unwrap().write(target, &mut |_| true).unwrap());
    target.to_owned()
}

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i % 11 + 7) as u32).collect()
}

/// Sizes of VRAM: 4 MiB, half of the experts, all of them.
fn sizes(path: Option<&Path>) -> [VramArg; 3] {
    let loaded = crate::open::load(path).unwrap();
    let all = Banks::of(&loaded.spec, &loaded.tensors).unwrap().all;
    [VramArg::Bytes((4 << 20).min(all)), VramArg::Bytes(all / 2), VramArg::Auto]
}

#[test]
fn the_built_in_model_has_the_same_bits_with_every_size_of_vram_and_ram() {
    let Some(name) = adapter() else { return };
    let ids = ids(32);
    let (wanted, none) = decoded(None, &ids, &name, PLAIN);
    assert_eq!(none, None);
    for (r, ram) in [Ram::Min, Ram::Auto].into_iter().enumerate() {
        for (v, vram) in sizes(None).into_iter().chain([VramArg::Bytes(0)]).enumerate() {
            let way = Way { ram, threads: 1 + (r + v) % 3, vram, ..PLAIN };
            let (got, stats) = decoded(None, &ids, &name, way);
            assert!(got == wanted, "{way:?}");
            if let Some(stats) = stats {
                assert!(stats.exact && stats.dropped.is_none(), "{way:?}: {stats:?}");
                assert!(stats.used > 20 && stats.verified > 0, "{way:?}: {stats:?}");
                assert!(stats.head_rows > 1000 && stats.head_bytes > 0, "{way:?}: {stats:?}");
            }
        }
    }
}

#[test]
fn goldens_have_the_same_bits_in_every_format_and_activation() {
    let Some(name) = adapter() else { return };
    let (folder, ids) = (tempfile::tempdir().unwrap(), ids(24));
    let cases = [
        ("mixtral", Format::Q4_0),
        ("olmoe", Format::Iq4Nl),
        ("gptoss-folder", Format::Mxfp4),
        ("qwen2moe", Format::Q8_0),
    ];
    for (number, (family, format)) in cases.into_iter().enumerate() {
        let path = converted(family, format, folder.path());
        let (wanted, _) = decoded(Some(&path), &ids, &name, PLAIN);
        let [_, half, all] = sizes(Some(&path));
        for (r, ram) in [Ram::Auto, Ram::Min].into_iter().enumerate() {
            let vram = if (number + r).is_multiple_of(2) { half } else { all };
            let way = Way { ram, threads: 1 + (number + r) % 3, vram, ..PLAIN };
            let (got, stats) = decoded(Some(&path), &ids, &name, way);
            assert!(got == wanted, "{family} as {format}, {way:?}");
            let stats = stats.unwrap();
            assert!(stats.used > 0 && stats.dropped.is_none(), "{family} as {format}, {way:?}: {stats:?}");
        }
    }
}

/// Shared experts with a gate and without, of one layer more or all, whatever else is in VRAM.
#[test]
fn shared_experts_have_the_same_bits() {
    let Some(name) = adapter() else { return };
    let (folder, ids) = (tempfile::tempdir().unwrap(), ids(20));
    let cases = [
        ("qwen2moe", Format::Q4_0),
        ("deepseek3", Format::Q8_0),
        ("deepseek2", Format::Iq4Nl),
        ("glm4moe", Format::Mxfp4),
    ];
    for (number, (family, format)) in cases.into_iter().enumerate() {
        // Other matrices of these models are too narrow for blocks.
        let of_experts = |role: Role| match role {
            Role::Layer(_, LayerTensor::Shared(_)) => format,
            Role::Layer(_, tensor) if tensor.expert_part().is_some() => format,
            _ => Format::F32,
        };
        let path = converted_by(family, &of_experts, &folder.path().join(format!("{family}.gguf")));
        let (wanted, _) = decoded(Some(&path), &ids, &name, PLAIN);
        let [small, half, all] = sizes(Some(&path));
        for (r, (ram, vram)) in
            [(Ram::Auto, all), (Ram::Min, all), (Ram::Auto, half), (Ram::Min, small)].into_iter().enumerate()
        {
            let way = Way { ram, threads: 1 + (number + r) % 3, vram, ..PLAIN };
            let (got, stats) = decoded(Some(&path), &ids, &name, way);
            assert!(got == wanted, "{family} as {format}, {way:?}");
            let stats = stats.unwrap();
            assert_eq!(stats.dropped, None, "{family} as {format}, {way:?}");
            assert!(stats.shared > 0 || vram != all, "{family} as {format}, {way:?}: {stats:?}");
            let wanted = stats.layers * stats.shared as u64;
            assert!(stats.shared_used > 0 || wanted == 0, "{family} as {format}, {way:?}: {stats:?}");
            assert_eq!(stats.shared_used > 0, stats.shared_used_bytes > 0);
        }
    }
}

/// Formats with blocks of 256, in the built-in model.
#[test]
fn wide_blocks_have_the_same_bits() {
    let Some(name) = adapter() else { return };
    let (folder, ids) = (tempfile::tempdir().unwrap(), ids(16));
    for (number, format) in [Format::Q4K, Format::Q5K, Format::Q6K, Format::Iq4Xs].into_iter().enumerate() {
        let path = folder.path().join(format!("{format}.gguf"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-tales.gguf");
        let loaded = crate::open::load(Some(&source)).unwrap();
        assert!(Conversion::plan(&loaded, &|_| format).unwrap().write(&path, &mut |_| true).unwrap());
        let (wanted, _) = decoded(Some(&path), &ids, &name, PLAIN);
        let ram = if number % 2 == 0 { Ram::Min } else { Ram::Auto };
        let way = Way { ram, threads: 1 + number % 3, vram: VramArg::Auto, ..PLAIN };
        let (got, stats) = decoded(Some(&path), &ids, &name, way);
        assert!(got == wanted, "{format}, {way:?}");
        let stats = stats.unwrap();
        assert!(stats.used > 0 && stats.dropped.is_none(), "{format}, {way:?}: {stats:?}");
    }
}

#[test]
fn a_device_that_is_destroyed_or_hangs_in_the_middle_of_a_text_changes_nothing() {
    let Some(name) = adapter() else { return };
    let ids = ids(24);
    let (wanted, _) = decoded(None, &ids, &name, PLAIN);
    let faults = [
        (Fault::Destroyed(0), Ram::Auto),
        (Fault::Destroyed(7), Ram::Min),
        (Fault::Hangs(0), Ram::Min),
        (Fault::Hangs(30), Ram::Auto),
    ];
    for (fault, ram) in faults {
        let way = Way { ram, vram: VramArg::Auto, fault: Some(fault), ..PLAIN };
        let (got, stats) = decoded(None, &ids, &name, way);
        assert!(got == wanted, "{way:?}");
        let reason = stats.unwrap().dropped.expect("it is not used any more");
        assert_eq!(reason.contains("no answer"), matches!(fault, Fault::Hangs(_)), "{way:?}: {reason}");
    }
}

#[test]
fn too_little_memory_and_slow_copies_change_nothing() {
    let Some(name) = adapter() else { return };
    let ids = ids(24);
    let (wanted, _) = decoded(None, &ids, &name, PLAIN);
    let faults = [Fault::OutOfMemory(3), Fault::OutOfMemory(20), Fault::SlowCopies(3)];
    for (fault, ram) in faults.into_iter().zip([Ram::Min, Ram::Auto, Ram::Min]) {
        let way = Way { ram, vram: VramArg::Auto, fault: Some(fault), ..PLAIN };
        let (got, stats) = decoded(None, &ids, &name, way);
        assert!(got == wanted, "{way:?}");
        let stats = stats.unwrap();
        assert!(stats.used > 0 && stats.dropped.is_none(), "{way:?}: {stats:?}");
        if let Fault::OutOfMemory(slabs) = fault {
            assert!(stats.bytes <= (slabs as u64) * ((256 << 10) + 16), "{way:?}: {stats:?}");
        }
    }
}

/// Sums that are only close give logits that are close, and say so.
#[test]
fn a_close_device_says_so() {
    let Some(name) = adapter() else { return };
    let ids = ids(16);
    let (wanted, _) = decoded(None, &ids, &name, PLAIN);
    let way = Way { ram: Ram::Min, vram: VramArg::Auto, exactness: Exactness::Close, ..PLAIN };
    let (got, stats) = decoded(None, &ids, &name, way);
    let stats = stats.unwrap();
    assert!(stats.used > 20 && stats.verified > 0 && stats.dropped.is_none(), "{stats:?}");
    assert_eq!((stats.exactness(), stats.arithmetic.as_str()), ("close", "tree sums"));
    let pairs = got.iter().zip(&wanted).map(|(&a, &b)| (f32::from_bits(a), f32::from_bits(b)));
    let (mut most, mut far) = (0.0_f32, 0.0_f32);
    for (a, b) in pairs {
        (most, far) = (most.max(b.abs()), far.max((a - b).abs()));
    }
    assert!(far > 0.0 && far < 0.1 * most, "{far} of {most}");
}

/// What `fit` counts: nothing without a GPU, and slots by the memory and the shapes with one.
#[test]
fn a_tried_gpu_plans_for_a_model() {
    let Some(name) = adapter() else { return };
    let loaded = crate::open::load(None).unwrap();
    let args = |vram: VramArg| GpuArgs {
        gpu: GpuArg::On(Choice::Named(name.clone())),
        vram,
        gpu_exact: ExactArg::On,
    };
    assert!(args(VramArg::Bytes(0)).tried(0).unwrap().is_none());
    let experts: Vec<usize> = loaded.tensors.banks().iter().map(|bank| bank.experts()).collect();
    let plan = |vram| args(vram).tried(0).unwrap().unwrap().plan(&loaded.spec, &loaded.tensors);
    let all = plan(VramArg::Auto);
    let slots = all.used().unwrap();
    assert_eq!((&slots.slots, slots.exactness()), (&experts, "exact"));
    // A submission can be lost in the noise of one expert's time.
    assert!(slots.launch >= 0.0 && slots.each.iter().all(|&each| each > 0.0), "{slots:?}");
    let part = plan(VramArg::Bytes(2 << 20));
    assert!((0.05..0.9).contains(&part.used().unwrap().share(&experts)), "{part:?}");
    assert!(part.used().unwrap().bytes <= 2 << 20);
}

/// What lists of models count: memory that the open model will have given back, and no more than was allowed.
#[test]
fn a_gpu_counts_in_lists_of_models() {
    #[derive(clap::Parser)]
    struct Options {
        #[command(flatten)]
        session: SessionArgs,
    }
    let Some(name) = adapter() else { return };
    let session = |vram: &str| {
        let options = ["test", "--threads", "1", "--ram", "min", "--gpu", &name, "--vram", vram];
        <Options as clap::Parser>::parse_from(options).session
    };
    // A trial takes long with a software driver, so one is for all.
    let mut tried = session("8M").compute().tried_gpu(100 << 20).unwrap().unwrap();
    tried.close();
    let trial = tried.trial.as_ref().unwrap();
    assert_eq!(trial.room, 8 << 20, "no more than the option says, whatever the open model holds");
    assert_eq!(with_room(trial.clone(), 100 << 20, u64::MAX).room, 108 << 20);
    let figures = tried.figures().unwrap();
    assert!(figures.exact && figures.shares_ram && figures.rate > 0.0, "{figures:?}");
    assert_eq!(figures.bytes, 6 << 20, "a part may be for the head");

    let built_in =
        || Candidate { path: None, name: builtin::NAME.to_owned(), place: "the program".to_owned() };
    let look = |tried: Option<Arc<TriedGpu>>| {
        let session = session("8M");
        let verdict = ModelInspector::new(&session, 0).with_tried(tried).look(&built_in()).verdict;
        verdict.words().to_owned()
    };
    let words = look(Some(Arc::new(tried)));
    assert!(words.contains("of experts in VRAM, exact"), "{words}");
    assert!(!look(None).contains("VRAM"));
    assert!(session("0").compute().tried_gpu(0).unwrap().is_none());
}

#[test]
fn options_are_read() {
    assert_eq!("off".parse(), Ok(GpuArg::Off));
    assert_eq!("AUTO".parse(), Ok(GpuArg::On(Choice::Auto)));
    assert_eq!("RTX 4060".parse(), Ok(GpuArg::On(Choice::Named("rtx 4060".to_owned()))));
    assert!("".parse::<GpuArg>().is_err());
    assert_eq!("0".parse(), Ok(VramArg::Bytes(0)));
    assert_eq!("4M".parse(), Ok(VramArg::Bytes(4 << 20)));
    assert_eq!("auto".parse(), Ok(VramArg::Auto));
    assert!("much".parse::<VramArg>().is_err());
}
