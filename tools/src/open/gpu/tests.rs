//! A GPU, or a software driver, as the device of a model: no logit changes a bit, whatever it holds, and
//! also when it is destroyed in the middle of a text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moelten_engine::plan::{Ram, SequenceOptions};
use moelten_engine::runtime::RuntimeOptions;
use moelten_engine::runtime::cancel::Cancel;
use moelten_engine::{DeviceStats, Model, ModelOptions, Sequence};
use moelten_loader::convert::Conversion;
use moelten_quant::Format;

use super::*;

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
    /// The submission before which the device is destroyed.
    lost_at: Option<usize>,
}

const PLAIN: Way = Way { ram: Ram::Auto, threads: 2, vram: VramArg::Bytes(0), lost_at: None };

/// Destroys the device before one of its submissions.
struct Destroyed {
    inner: GpuDevice,
    left: Option<usize>,
}

impl ExpertDevice for Destroyed {
    fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertView<'_>) -> Result<(), String> {
        self.inner.upload(bank, slot, expert)
    }

    fn begin(&mut self, bank: usize, slots: &[usize], input: &[Line]) -> Result<(), String> {
        if self.left == Some(0) {
            self.inner.experts.gpu().destroy();
        }
        self.left = self.left.map(|left| left.wrapping_sub(1));
        self.inner.begin(bank, slots, input)
    }

    fn finish(&mut self, out: &mut [f32]) -> Result<(), String> {
        self.inner.finish(out)
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
        banks
            .open(&adapter, way.vram, &runtime, |inner| Box::new(Destroyed { inner, left: way.lost_at }))
            .unwrap()
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
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden").join(family);
    let (file, target) = (golden.join("model.gguf"), folder.join(format!("{family}-{format}.gguf")));
    let loaded = crate::open::load(Some(if file.exists() { &file } else { &golden })).unwrap();
    assert!(Conversion::plan(&loaded, &|_| format).unwrap().write(&target, &mut |_| true).unwrap());
    target
}

fn ids(count: usize) -> Vec<u32> {
    (0..count).map(|i| (i * i % 11 + 7) as u32).collect()
}

#[test]
fn the_built_in_model_has_the_same_bits_with_every_size_of_vram() {
    let Some(name) = adapter() else { return };
    let ids = ids(40);
    let (wanted, none) = decoded(None, &ids, &name, PLAIN);
    assert_eq!(none, None);
    let loaded = crate::open::load(None).unwrap();
    let all = Banks::of(&loaded.spec, &loaded.tensors).unwrap().all;
    for (vram, ram, threads) in [
        (VramArg::Bytes(4 << 20), Ram::Min, 2),
        (VramArg::Bytes(all / 2), Ram::Auto, 1),
        (VramArg::Bytes(all), Ram::Min, 1),
        (VramArg::Auto, Ram::Auto, 2),
    ] {
        let way = Way { ram, threads, vram, lost_at: None };
        let (got, stats) = decoded(None, &ids, &name, way);
        assert!(got == wanted, "{way:?}");
        let stats = stats.unwrap();
        assert!(stats.used > 20 && stats.verified > 0 && stats.dropped.is_none(), "{way:?}: {stats:?}");
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
    for (family, format) in cases {
        let path = converted(family, format, folder.path());
        let (wanted, _) = decoded(Some(&path), &ids, &name, PLAIN);
        for ram in [Ram::Auto, Ram::Min] {
            let way = Way { ram, threads: 2, vram: VramArg::Auto, lost_at: None };
            let (got, stats) = decoded(Some(&path), &ids, &name, way);
            assert!(got == wanted, "{family} as {format}, {way:?}");
            let stats = stats.unwrap();
            assert!(stats.used > 0 && stats.dropped.is_none(), "{family} as {format}, {way:?}: {stats:?}");
        }
    }
}

#[test]
fn a_device_that_is_destroyed_in_the_middle_of_a_text_changes_nothing() {
    let Some(name) = adapter() else { return };
    let ids = ids(24);
    let (wanted, _) = decoded(None, &ids, &name, PLAIN);
    for (lost_at, ram) in [(0, Ram::Auto), (7, Ram::Min), (30, Ram::Min), (41, Ram::Auto)] {
        let way = Way { ram, threads: 2, vram: VramArg::Auto, lost_at: Some(lost_at) };
        let (got, stats) = decoded(None, &ids, &name, way);
        assert!(got == wanted, "{way:?}");
        assert!(stats.unwrap().dropped.is_some(), "{way:?}");
    }
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
    let said = |gpu: &str, vram: &str| {
        GpuArgs { gpu: gpu.parse().unwrap(), vram: vram.parse().unwrap() }.uncounted().is_some()
    };
    assert!(said("llvmpipe", "auto") && said("auto", "4G") && !said("auto", "auto") && !said("off", "0"));
}
