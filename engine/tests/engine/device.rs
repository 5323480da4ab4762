//! A device that computes experts never changes a bit: whatever it holds, whatever the budget of RAM, and
//! when it fails at any call. The device here computes with the CPU's kernels out of copies of its own;
//! real ones are tested in the crates `gpu` and `tools`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use moelten_engine::plan::{Io, Ram};
use moelten_engine::{
    DeviceOffer, ExpertDevice, ExpertShape, ExpertView, HeadOffer, KvFormat, MatrixShape, Model, SharedOffer,
    expert_shapes, shared_experts,
};
use moelten_loader::spec::Activation;
use moelten_loader::tensors::bank::MatrixRef;
use moelten_loader::tensors::roles::Role;
use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, Line, QMatrix, activations};

use crate::common::wide::{converted, wide};
use crate::common::{How, folder, golden, model, session, stepwise};

/// An expert that was copied: its matrices, its biases.
type Copied = (Vec<Vec<u8>>, [Option<Vec<f32>>; 2]);

/// What the device was asked for.
#[derive(Default)]
struct Calls {
    all: AtomicUsize,
    computed: AtomicUsize,
    heads: AtomicUsize,
    shared: AtomicUsize,
}

struct Copies {
    shapes: Vec<Option<ExpertShape>>,
    slots: Vec<Vec<Option<Copied>>>,
    /// The shared expert beside each bank.
    shared: Vec<Option<(ExpertShape, Copied)>>,
    begun: Option<(usize, Vec<usize>, bool, Vec<Line>)>,
    /// The first rows of the head, and the input that they are asked for.
    head: Vec<f32>,
    first_rows: Option<(MatrixRef, Vec<u8>)>,
    calls: Arc<Calls>,
    /// The call that fails, and whether it gives other bits instead.
    fails: Option<(usize, bool)>,
}

impl Copies {
    fn call(&self) -> Result<bool, String> {
        let call = self.calls.all.fetch_add(1, Ordering::Relaxed);
        match self.fails {
            Some((at, true)) if call >= at => Ok(true),
            Some((at, false)) if call >= at => Err("it was unplugged".to_owned()),
            _ => Ok(false),
        }
    }

    fn expert(&self, bank: usize, slot: usize, x: &[Line]) -> Vec<f32> {
        let shape = self.shapes[bank].expect("only banks of one shape have slots");
        Self::outputs(shape, self.slots[bank][slot].as_ref().expect("the slot has an expert"), x)
    }

    fn outputs(shape: ExpertShape, (bytes, biases): &Copied, x: &[Line]) -> Vec<f32> {
        let kernels = Kernels::for_isa(Isa::Scalar).expect("it is everywhere");
        let product = |i: usize, MatrixShape { format, rows, cols }: MatrixShape, x: &[Line]| {
            let mut out = vec![0.0; rows];
            let matrix = QMatrix::new(format, rows, cols, &bytes[i]).expect("it was one");
            kernels.matmul(matrix, Activations::new(ActivationKind::Q8, 1, cols, x), &mut out);
            out
        };
        let biased = |mut x: Vec<f32>, bias: &Option<Vec<f32>>| {
            bias.iter().for_each(|bias| x.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias));
            x
        };
        let (mut gate, mut up) = match shape.gate {
            Some(gate) => {
                (biased(product(0, gate, x), &biases[0]), biased(product(1, shape.up, x), &biases[1]))
            }
            None => (biased(product(0, shape.up, x), &biases[1]), vec![1.0; shape.up.rows]),
        };
        match shape.activation {
            Activation::Silu => kernels.silu_mul(&gate, &mut up),
            Activation::ReluSquared => {
                up.iter_mut().zip(&gate).for_each(|(u, g)| *u *= g.max(0.0) * g.max(0.0))
            }
            Activation::ClampedSwiglu { alpha, limit } => {
                gate.iter_mut().for_each(|g| *g = alpha * if *g > limit { limit } else { *g });
                up.iter_mut().for_each(|u| *u = (u.clamp(-limit, limit) + 1.0) / alpha);
                kernels.silu_mul(&gate, &mut up);
            }
            other => panic!("no test has {other:?}"),
        }
        let hidden = activations(kernels, ActivationKind::Q8, &up, up.len());
        product(bytes.len() - 1, shape.down, &hidden)
    }
}

impl ExpertDevice for Copies {
    fn upload(&mut self, bank: usize, slot: usize, expert: &ExpertView<'_>) -> Result<(), String> {
        self.call()?;
        self.slots[bank][slot] = Some(copied(expert));
        Ok(())
    }

    fn begin(&mut self, bank: usize, slots: &[usize], shared: bool, input: &[Line]) -> Result<(), String> {
        self.call()?;
        assert!(self.begun.is_none(), "what was begun has ended");
        self.begun = Some((bank, slots.to_vec(), shared, input.to_vec()));
        Ok(())
    }

    fn finish(&mut self, out: &mut [f32]) -> Result<(), String> {
        let (bank, slots, shared, input) = self.begun.take().expect("something was begun");
        let wrong = self.call()?;
        let mut all: Vec<f32> = slots.iter().flat_map(|&slot| self.expert(bank, slot, &input)).collect();
        if shared {
            let (shape, expert) = self.shared[bank].as_ref().expect("it was offered");
            all.extend(Self::outputs(*shape, expert, &input));
            self.calls.shared.fetch_add(1, Ordering::Relaxed);
        }
        out.copy_from_slice(&all);
        out[0] += f32::from(u8::from(wrong));
        self.calls.computed.fetch_add(slots.len(), Ordering::Relaxed);
        Ok(())
    }

    fn begin_head(&mut self, rows: usize, input: &[Line]) -> Result<(), String> {
        self.call()?;
        let (head, bytes) = self.first_rows.as_ref().expect("it was offered");
        let w =
            QMatrix::new(head.format, rows, head.cols, &bytes[..rows * bytes.len() / HEAD]).expect("rows");
        self.head = vec![0.0; rows];
        let kernels = Kernels::for_isa(Isa::Scalar).expect("it is everywhere");
        kernels.matmul(w, Activations::new(ActivationKind::Q8, 1, head.cols, input), &mut self.head);
        Ok(())
    }

    fn finish_head(&mut self, out: &mut [f32]) -> Result<(), String> {
        let wrong = self.call()?;
        out.copy_from_slice(&self.head);
        out[0] += f32::from(u8::from(wrong));
        self.calls.heads.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn copied(expert: &ExpertView<'_>) -> Copied {
    let matrices = expert.gate.iter().chain([&expert.up, &expert.down]);
    let biases = [expert.gate_bias, expert.up_bias].map(|bias| bias.map(<[f32]>::to_vec));
    (matrices.map(|matrix| matrix.data().to_vec()).collect(), biases)
}

/// The shared experts of a model whose products are of codes.
fn all_shared(model: &Model) -> Vec<Option<(ExpertShape, Copied)>> {
    let all = shared_experts(model.spec(), model.tensors()).into_iter();
    let copy = |weights: moelten_engine::SharedWeights| {
        let formats = [weights.up.format, weights.down.format];
        let codes = formats.iter().all(|&format| ActivationKind::of(format) == ActivationKind::Q8);
        codes.then(|| (weights.shape(), copied(&weights.view(model.tensors()))))
    };
    all.map(|weights| weights.and_then(copy)).collect()
}

/// Rows of the head that the device has.
const HEAD: usize = 64;

/// The first rows of a model's head, if a device can have them.
fn first_rows(model: &Model) -> Option<(MatrixRef, Vec<u8>)> {
    let role = if model.spec().head.tied { Role::Embed } else { Role::Head };
    let head = model.tensors().dense().find(|(found, _)| *found == role)?.1;
    let codes = ActivationKind::of(head.format) == ActivationKind::Q8 && head.rows >= HEAD;
    let rows = || model.tensors().view(&head).slice_rows(0..HEAD).data().to_vec();
    codes.then(|| (head, rows()))
}

/// Gives a model a device with some slots for each bank.
fn with_device(model: &Model, per_bank: usize, fails: Option<(usize, bool)>) -> Arc<Calls> {
    let (shapes, calls) = (expert_shapes(model.spec(), model.tensors()), Arc::<Calls>::default());
    let shared = all_shared(model);
    let slots = |(shape, experts): (&Option<ExpertShape>, usize)| {
        if shape.is_some() { per_bank.min(experts) } else { 0 }
    };
    let experts = model.tensors().banks().iter().map(|bank| bank.experts());
    let slots: Vec<usize> = shapes.iter().zip(experts).map(slots).collect();
    model.use_device(DeviceOffer {
        name: "copies".to_owned(),
        arithmetic: "the CPU's".to_owned(),
        exact: true,
        bytes: 0,
        shared: shared
            .iter()
            .map(|shared| shared.as_ref().map(|_| SharedOffer { bytes: 1, time: Duration::ZERO }))
            .collect(),
        head: first_rows(model).map(|_| HeadOffer { rows: HEAD, bytes: 0, time: Duration::ZERO }),
        launch: Duration::ZERO,
        each: vec![Duration::ZERO; slots.len()],
        upload: 1e9,
        always: true,
        device: Box::new(Copies {
            slots: slots.iter().map(|&slots| (0..slots).map(|_| None).collect()).collect(),
            shapes,
            shared,
            begun: None,
            head: Vec::new(),
            first_rows: first_rows(model),
            calls: Arc::clone(&calls),
            fails,
        }),
        slots,
    });
    calls
}

const MODELS: [(&str, &[Format]); 5] = [
    ("mixtral", &[Format::Q4_0]),
    ("olmoe", &[Format::Q4K]),
    ("qwen3moe", &[Format::Q6K]),
    ("gptoss-folder", &[Format::Mxfp4]),
    ("qwen2moe", &[Format::Q8_0, Format::Q5K, Format::Iq4Xs]),
];

/// Budgets with which experts are used in place, read into slots, and used in the mapped file.
fn ways(threads: usize) -> [How; 3] {
    let how = How { threads: Some(threads), ..Default::default() };
    [how, How { ram: Ram::Min, io: Io::Direct, ..how }, How { ram: Ram::Min, io: Io::Mmap, ..how }]
}

#[test]
fn a_device_never_changes_a_bit() {
    let (dir, mut heads, mut shared) = (tempfile::tempdir().unwrap(), 0, 0);
    for (family, formats) in MODELS {
        let path = dir.path().join(format!("{family}.gguf"));
        // Blocks of 256 need wide models.
        let large = formats.iter().any(|format| format.block_len() > 32);
        let source = if large { wide(family, dir.path()) } else { folder(family) };
        converted(&source, formats, &path);
        let ids: Vec<u32> = golden(family).ids.into_iter().cycle().take(48).collect();
        let wanted = stepwise(&mut session(&model(&path, How::default()), KvFormat::F16), &ids);
        for (slots, threads) in [(1, 2), (2, 1), (usize::MAX, 3)] {
            for how in ways(threads) {
                let model = model(&path, how);
                let calls = with_device(&model, slots, None);
                let got = stepwise(&mut session(&model, KvFormat::F16), &ids);
                assert!(got == wanted, "{family}, {slots} slots, {how:?}");
                let stats = model.experts().device_stats().unwrap();
                assert_eq!(stats.dropped, None, "{family}, {how:?}");
                assert!(stats.used > 20 && stats.verified > 0, "{family}, {slots} slots, {how:?}: {stats:?}");
                assert!(calls.computed.load(Ordering::Relaxed) as u64 >= stats.used, "{stats:?}");
                heads += calls.heads.load(Ordering::Relaxed);
                let of_model = calls.shared.load(Ordering::Relaxed);
                assert_eq!(of_model as u64, stats.shared_used, "{family}, {how:?}");
                assert_eq!(of_model > 0, stats.shared > 0, "{family}, {how:?}");
                shared += of_model;
            }
        }
    }
    assert!(heads > 48, "heads were computed by the device, in {heads} tokens");
    assert!(shared > 48, "{shared} shared experts were computed by the device");
}

/// Also after a prompt, whose experts are all computed by the CPU, among them those that the device has.
#[test]
fn prompts_and_answers_may_alternate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixtral.gguf");
    converted(&wide("mixtral", dir.path()), &[Format::Q4_0], &path);
    let ids: Vec<u32> = golden("mixtral").ids.into_iter().cycle().take(60).collect();
    let run = |slots: Option<usize>, how: How| {
        let model = model(&path, how);
        slots.map(|slots| with_device(&model, slots, None));
        let mut sequence = session(&model, KvFormat::F16);
        let cancel = moelten_engine::runtime::cancel::Cancel::new();
        let mut all = stepwise(&mut sequence, &ids[..20]);
        sequence.append(&ids[20..40], &cancel, &mut (), &mut |_| {}).unwrap();
        all.extend(sequence.logits().iter().map(|logit| logit.to_bits()));
        all.extend(stepwise(&mut sequence, &ids[40..]));
        all
    };
    let wanted = run(None, How::default());
    for how in ways(2) {
        assert!(run(Some(usize::MAX), how) == wanted, "{how:?}");
    }
}

#[test]
fn a_device_that_fails_in_the_middle_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("olmoe.gguf");
    converted(&wide("olmoe", dir.path()), &[Format::Q4K], &path);
    let ids: Vec<u32> = golden("olmoe").ids.into_iter().cycle().take(32).collect();
    let wanted = stepwise(&mut session(&model(&path, How::default()), KvFormat::F16), &ids);
    for how in ways(2) {
        for fails in [0, 1, 2, 3, 7, 20, 21, 22, 60] {
            let model = model(&path, how);
            with_device(&model, 4, Some((fails, false)));
            let got = stepwise(&mut session(&model, KvFormat::F16), &ids);
            assert!(got == wanted, "{how:?}, call {fails}");
            let stats = model.experts().device_stats().unwrap();
            assert_eq!(stats.dropped.as_deref(), Some("it was unplugged"), "{how:?}, call {fails}");
        }
    }
}

/// Wrong bits are found at the first upload of a bank, before any answer has them.
#[test]
fn a_device_that_gives_other_bits_is_dropped_before_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mixtral.gguf");
    converted(&wide("mixtral", dir.path()), &[Format::Q4_0], &path);
    let ids: Vec<u32> = golden("mixtral").ids.into_iter().cycle().take(32).collect();
    let wanted = stepwise(&mut session(&model(&path, How::default()), KvFormat::F16), &ids);
    let model = model(&path, How::default());
    with_device(&model, 2, Some((0, true)));
    let got = stepwise(&mut session(&model, KvFormat::F16), &ids);
    assert!(got == wanted);
    let stats = model.experts().device_stats().unwrap();
    assert!(stats.dropped.is_some_and(|reason| reason.contains("other bits")) && stats.used == 0);
}

/// A shared expert with other bits is found at its first use, and one that fails is computed by the CPU.
#[test]
fn a_shared_expert_that_fails_or_is_wrong_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qwen2moe.gguf");
    converted(&folder("qwen2moe"), &[Format::Q8_0], &path);
    let ids: Vec<u32> = golden("qwen2moe").ids.into_iter().cycle().take(24).collect();
    let wanted = stepwise(&mut session(&model(&path, How::default()), KvFormat::F16), &ids);
    for how in ways(2) {
        for fails in [(0, false), (1, false), (2, false), (3, false), (9, false), (0, true)] {
            let model = model(&path, how);
            // No slots: it computes shared experts and rows of the head alone.
            let calls = with_device(&model, 0, Some(fails));
            let got = stepwise(&mut session(&model, KvFormat::F16), &ids);
            assert!(got == wanted, "{how:?}, {fails:?}");
            let reason = model.experts().device_stats().unwrap().dropped.expect("it is not used any more");
            assert_eq!(reason.contains("other bits"), fails.1, "{how:?}, {fails:?}: {reason}");
            assert!(calls.computed.load(Ordering::Relaxed) == 0);
        }
    }
}
