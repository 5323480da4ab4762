//! Whole experts on a device against `moelten-quant`: formats, activations, shapes, several slabs.
//! `Experts::open` compares every stage with the CPU and refuses a device that differs, so an open device
//! is the assertion; outputs of several experts at once are compared here.

use moelten_gpu::{
    Activation, AdapterKind, Arithmetic, BankNeed, Block, Exactness, Experts, FORMATS, Gpu, GpuError, Matrix,
    Needs, adapters, random_expert,
};
use moelten_quant::{ActivationKind, Activations, Format, Isa, Kernels, Line, activations};

/// A device of any kind: here that of a software driver. Tests that find none fail where everything is
/// expected to be there.
fn device() -> Option<Gpu> {
    let Some(adapter) = adapters().into_iter().next() else {
        let all = std::env::var("MOELTEN_ALL_TESTS").is_ok_and(|value| value == "1");
        assert!(!all, "no GPU and no software driver: install mesa-vulkan-drivers");
        eprintln!("skipped: no GPU and no software driver");
        return None;
    };
    Some(Gpu::open(&adapter).expect("the driver gives a device"))
}

fn kernels() -> &'static Kernels {
    Kernels::for_isa(Isa::best()).expect("the best is here")
}

fn block(formats: [Format; 3], ff: usize, d: usize, activation: Activation) -> Block {
    let [gate, up, down] = formats;
    Block {
        gate: Some(Matrix { format: gate, rows: ff, cols: d }),
        up: Matrix { format: up, rows: ff, cols: d },
        down: Matrix { format: down, rows: d, cols: ff },
        gate_bias: false,
        up_bias: false,
        activation,
    }
}

fn input(width: usize) -> Vec<Line> {
    let x: Vec<f32> = (0..width).map(|i| ((i * 37 % 101) as f32 - 50.0) / 31.0).collect();
    activations(kernels(), ActivationKind::Q8, &x, width)
}

/// Opens the shape and compares all slots of it, computed at once, with the CPU.
fn equal(gpu: Gpu, block: Block, slots: usize) -> Experts {
    block.check().expect("it has kernels");
    let bank = BankNeed::routed(0, slots);
    let needs = Needs { blocks: &[block], banks: &[bank], most_at_once: slots };
    let room = (slots * block.slot_bytes() + 64).max(1 << 10) as u64;
    let mut experts = Experts::open(gpu, &needs, room, Exactness::Exact, kernels()).expect("it is exact");
    assert_eq!(experts.slots(0), slots);
    let input = input(block.d_model());
    let all: Vec<_> = (0..slots as u64).map(|seed| random_expert(&block, 100 + seed)).collect();
    for (slot, expert) in all.iter().enumerate() {
        experts.upload(0, slot, &expert.bytes()).expect("it takes an expert");
    }
    let order: Vec<usize> = (0..slots).rev().collect();
    let mut out = vec![0.0; slots * block.d_model()];
    experts.begin(&[(0, &order)], &input).expect("it begins");
    experts.finish(&mut out).expect("it answers");
    for (&slot, out) in order.iter().zip(out.chunks(block.d_model())) {
        assert_eq!(bits(out), bits(&wanted(&block, &all[slot].bytes(), &input)), "{block:?}, slot {slot}");
    }
    experts
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// An expert with SiLU, of products alone: written anew, so that it does not share the crate's reference.
fn wanted(block: &Block, expert: &moelten_gpu::ExpertBytes<'_>, input: &[Line]) -> Vec<f32> {
    assert_eq!(block.activation, Activation::Silu);
    let kernels = kernels();
    let x = Activations::new(ActivationKind::Q8, 1, block.d_model(), input);
    let (mut gate, mut up) = (vec![0.0; block.d_ff()], vec![0.0; block.d_ff()]);
    kernels.matmul(expert.gate.expect("it has a gate"), x, &mut gate);
    kernels.matmul(expert.up, x, &mut up);
    kernels.silu_mul(&gate, &mut up);
    let hidden = activations(kernels, ActivationKind::Q8, &up, block.d_ff());
    let mut out = vec![0.0; block.d_model()];
    kernels.matmul(expert.down, Activations::new(ActivationKind::Q8, 1, block.d_ff(), &hidden), &mut out);
    out
}

#[test]
fn every_format_gives_the_bits_of_the_cpu() {
    for format in FORMATS {
        let Some(gpu) = device() else { return };
        // Rows that are no multiple of a workgroup's, and rows of 17 and 18 bytes a block that begin at odd
        // places.
        let (ff, d) = if format.block_len() == 256 { (256, 512) } else { (96, 160) };
        let experts = equal(gpu, block([format; 3], ff, d, Activation::Silu), 3);
        eprintln!("{format}: exact with {}, {:?}", experts.arithmetic().name(), experts.speed());
    }
}

#[test]
fn matrices_may_have_different_formats() {
    let Some(gpu) = device() else { return };
    equal(gpu, block([Format::Q4K, Format::Q8_0, Format::Q6K], 256, 256, Activation::Silu), 2);
}

#[test]
fn every_activation_and_biases_are_exact_in_every_stage() {
    let clamped = Activation::ClampedSwiglu { alpha: 1.702, limit: 7.0 };
    let all = [
        Activation::Silu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::ReluSquared,
        Activation::ClampedSilu { limit: 2.5 },
        clamped,
    ];
    for activation in all {
        for gated in [true, false] {
            let Some(gpu) = device() else { return };
            let mut block = block([Format::Q8_0; 3], 64, 64, activation);
            (block.gate_bias, block.up_bias) = (gated, true);
            if !gated {
                block.gate = None;
            }
            let bank = BankNeed::routed(0, 1);
            let needs = Needs { blocks: &[block], banks: &[bank], most_at_once: 1 };
            Experts::open(gpu, &needs, 1 << 16, Exactness::Exact, kernels())
                .unwrap_or_else(|error| panic!("{block:?}: {error}"));
        }
    }
}

#[test]
fn a_software_driver_without_fused_operations_is_exact_in_whole_numbers() {
    let Some(gpu) = device() else { return };
    if gpu.adapter().kind != AdapterKind::Software {
        return;
    }
    let experts = equal(gpu, block([Format::Q4_0; 3], 256, 256, Activation::Silu), 1);
    // Its `fma()` is not fused; should a later version be, the test of the start has shown it.
    eprintln!("{}: {}", experts.gpu().adapter().driver, experts.arithmetic().name());
}

#[test]
fn a_lost_device_is_an_error_and_not_a_panic() {
    let Some(gpu) = device() else { return };
    let block = block([Format::Q4_0; 3], 64, 64, Activation::Silu);
    let mut experts = equal(gpu, block, 1);
    experts.gpu().destroy();
    let begun = experts.begin(&[(0, &[0])], &input(64));
    let ended = begun.and_then(|()| experts.finish(&mut [0.0; 64]));
    assert!(matches!(ended, Err(GpuError::Lost(_))), "{ended:?}");
}

#[test]
fn too_little_memory_is_said() {
    let Some(gpu) = device() else { return };
    let block = block([Format::Q8_0; 3], 256, 256, Activation::Silu);
    let needs = Needs { blocks: &[block], banks: &[BankNeed::routed(0, 8)], most_at_once: 2 };
    let error = Experts::open(gpu, &needs, 4096, Exactness::Exact, kernels()).expect_err("it holds none");
    assert!(matches!(error, GpuError::NoRoom { .. }), "{error}");
}

/// Opens a shape whose slabs hold one expert each, of which the driver refuses those from some number on.
fn out_of_memory(refused: usize) -> Option<(Block, Result<Experts, GpuError>)> {
    let mut gpu = device()?;
    let block = block([Format::Q8_0; 3], 64, 64, Activation::Silu);
    let slab = block.slot_bytes() as u64 + 32;
    gpu.run_out(slab, refused);
    let needs = Needs { blocks: &[block], banks: &[BankNeed::routed(0, 4)], most_at_once: 4 };
    Some((block, Experts::open(gpu, &needs, 4 * slab, Exactness::Exact, kernels())))
}

#[test]
fn memory_that_ends_at_some_slab_gives_the_slots_before_it() {
    for refused in 0..=4 {
        let Some((block, opened)) = out_of_memory(refused) else { return };
        if refused == 0 {
            assert!(matches!(opened, Err(GpuError::NoRoom { given: 0, .. })), "{opened:?}");
            continue;
        }
        let mut experts = opened.expect("some slabs are there");
        assert_eq!(experts.slots(0), refused, "a slab holds one expert");
        // All of them at once, out of several slabs, with the bits of the CPU.
        let input = input(block.d_model());
        let all: Vec<_> = (0..refused as u64).map(|seed| random_expert(&block, seed)).collect();
        for (slot, expert) in all.iter().enumerate() {
            experts.upload(0, slot, &expert.bytes()).expect("it takes an expert");
        }
        let mut out = vec![0.0; refused * block.d_model()];
        experts.begin(&[(0, &(0..refused).collect::<Vec<_>>())], &input).expect("it begins");
        experts.finish(&mut out).expect("it answers");
        for (expert, out) in all.iter().zip(out.chunks(block.d_model())) {
            assert_eq!(bits(out), bits(&wanted(&block, &expert.bytes(), &input)), "{refused} slabs");
        }
    }
}

#[test]
fn a_device_that_does_not_answer_in_time_is_an_error() {
    let Some(gpu) = device() else { return };
    let mut experts = equal(gpu, block([Format::Q4_0; 3], 256, 256, Activation::Silu), 1);
    experts.set_patience(std::time::Duration::ZERO);
    // An answer may be there at once, but not always.
    for _ in 0..1000 {
        experts.begin(&[(0, &[0])], &input(256)).expect("it begins");
        match experts.finish(&mut [0.0; 256]) {
            Ok(()) => {}
            Err(error) => return assert_eq!(error, GpuError::Hung(0)),
        }
    }
    panic!("every answer came in no time");
}

#[test]
fn room_is_counted_and_given_back() {
    let Some(mut gpu) = device() else { return };
    gpu.run_out(4 << 20, usize::MAX);
    for _ in 0..3 {
        assert_eq!(gpu.room(10 << 20), 10 << 20);
    }
    assert_eq!(gpu.room(1000), 0);
}

/// Tree sums differ from the CPU's in their last bits, and in no more: the test of the start compares sums,
/// hidden layers and outputs one by one.
#[test]
fn close_pipelines_are_close_in_every_format() {
    let mut other = 0;
    for format in FORMATS {
        let Some(gpu) = device() else { return };
        let (ff, d) = if format.block_len() == 256 { (256, 512) } else { (96, 160) };
        let block = block([format; 3], ff, d, Activation::Silu);
        let needs = Needs { blocks: &[block], banks: &[BankNeed::routed(0, 2)], most_at_once: 2 };
        let room = 3 * block.slot_bytes() as u64;
        let mut experts = Experts::open(gpu, &needs, room, Exactness::Close, kernels()).expect("it is close");
        assert_eq!(experts.arithmetic(), Arithmetic::Close);
        let (expert, input) = (random_expert(&block, 9), input(d));
        experts.upload(0, 1, &expert.bytes()).expect("it takes an expert");
        let mut out = vec![0.0; d];
        experts.begin(&[(0, &[1])], &input).expect("it begins");
        experts.finish(&mut out).expect("it answers");
        let wanted = wanted(&block, &expert.bytes(), &input);
        let most = wanted.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        // A code of the hidden layer may be rounded the other way.
        for (got, wanted) in out.iter().zip(&wanted) {
            assert!((got - wanted).abs() <= 0.02 * most, "{format}: {got}, not {wanted}");
        }
        other += out.iter().zip(&wanted).filter(|(got, wanted)| got != wanted).count();
    }
    assert!(other > 0, "it is another arithmetic");
}

/// A head: many rows, of which the device has as many as its memory holds, and computes as many as are asked.
#[test]
fn rows_of_a_head_are_exact() {
    for (format, budget) in [(Format::Q8_0, 1 << 20), (Format::Q6K, 100 << 10)] {
        let Some(gpu) = device() else { return };
        let experts = block([Format::Q8_0; 3], 64, 64, Activation::Silu);
        let needs = Needs { blocks: &[experts], banks: &[BankNeed::routed(0, 1)], most_at_once: 1 };
        let mut experts =
            Experts::open(gpu, &needs, 1 << 16, Exactness::Exact, kernels()).expect("it is exact");
        let (rows, cols) = (1000, 256);
        let bytes = random_expert(&block([format; 3], 256 * 8, 256, Activation::Silu), 4);
        let all = bytes.bytes().up.slice_rows(0..rows);
        let held = experts.add_head(&all, budget, kernels()).expect("it takes rows").rows();
        assert_eq!(held, if budget > 1 << 18 { 992 } else { 480 }, "whole groups of rows that fit");
        let input = input(cols);
        for asked in [held, 96, 32] {
            let (mut out, mut wanted) = (vec![0.0; asked], vec![0.0; asked]);
            experts.begin_head(asked, &input).expect("it begins");
            experts.finish_head(&mut out).expect("it answers");
            let x = Activations::new(ActivationKind::Q8, 1, cols, &input);
            kernels().matmul(all.slice_rows(0..asked), x, &mut wanted);
            assert_eq!(bits(&out), bits(&wanted), "{format}, {asked} rows");
        }
        let none = experts.add_head(&all, 1000, kernels()).expect_err("it holds none");
        assert!(matches!(none, GpuError::NoRoom { .. }), "{none}");
    }
}

/// A head that is larger than a buffer of the driver lies in several, down to one group of rows in each.
#[test]
fn a_head_in_several_slabs_is_exact() {
    for (slab, pieces) in [(64 << 10, 5), (10 << 10, 31)] {
        let Some(mut gpu) = device() else { return };
        gpu.run_out(slab, usize::MAX);
        // Wide enough to tell whether `fma()` is fused: the head has the arithmetic of the experts.
        let experts = block([Format::Q4_0; 3], 64, 64, Activation::Silu);
        let needs = Needs { blocks: &[experts], banks: &[BankNeed::routed(0, 1)], most_at_once: 1 };
        let mut experts =
            Experts::open(gpu, &needs, 1 << 16, Exactness::Exact, kernels()).expect("it is exact");
        let (rows, cols) = (1000, 256);
        let bytes = random_expert(&block([Format::Q8_0; 3], 256 * 8, cols, Activation::Silu), 4);
        let all = bytes.bytes().up.slice_rows(0..rows);
        let head = experts.add_head(&all, 1 << 20, kernels()).expect("it takes all of it");
        assert_eq!(head.rows(), 992);
        let in_one = 992 * all.row_bytes() as u64;
        assert!(head.bytes() > in_one + 30 * (pieces - 1), "{} bytes in {pieces} slabs", head.bytes());
        let input = input(cols);
        let mut wanted = vec![0.0; 992];
        let x = Activations::new(ActivationKind::Q8, 1, cols, &input);
        kernels().matmul(all.slice_rows(0..992), x, &mut wanted);
        for asked in [992, 512, 256, 224, 32] {
            let mut out = vec![0.0; asked];
            experts.begin_head(asked, &input).expect("it begins");
            experts.finish_head(&mut out).expect("it answers");
            assert_eq!(bits(&out), bits(&wanted[..asked]), "{asked} rows of slabs of {slab} bytes");
        }
    }
}

/// A shared expert of another shape beside routed ones, in one submission and alone.
#[test]
fn shared_experts_are_computed_beside_others() {
    let silu = Activation::Silu;
    let routed = block([Format::Q4_0; 3], 96, 160, silu);
    let cases = [
        block([Format::Q8_0, Format::Q8_0, Format::Iq4Nl], 288, 160, silu),
        // The same shape as the routed ones: it is prepared a second time.
        routed,
    ];
    for shared in cases {
        let Some(gpu) = device() else { return };
        let banks = [BankNeed::routed(0, 3), BankNeed::shared(1), BankNeed::shared(1)];
        let needs = Needs { blocks: &[routed, shared], banks: &banks, most_at_once: 3 };
        // Room for the shared ones and two of the routed ones: the shared ones come first.
        let room = 2 * (routed.slot_bytes() + shared.slot_bytes()) as u64 + 64;
        let mut experts = Experts::open(gpu, &needs, room, Exactness::Exact, kernels()).expect("it is exact");
        assert_eq!([0, 1, 2].map(|bank| experts.slots(bank)), [2, 1, 1]);
        let input = input(160);
        let all: Vec<_> = [(0, 0), (0, 1), (1, 0), (2, 0)]
            .into_iter()
            .zip(0..)
            .map(|((bank, slot), seed)| {
                let shape = if bank == 0 { routed } else { shared };
                let expert = random_expert(&shape, 50 + seed);
                experts.upload(bank, slot, &expert.bytes()).expect("it takes an expert");
                wanted(&shape, &expert.bytes(), &input)
            })
            .collect();
        let mut run = |parts: &[(usize, &[usize])], of: &[usize]| {
            let mut out = vec![0.0; 160 * of.len()];
            experts.begin(parts, &input).expect("it begins");
            experts.finish(&mut out).expect("it answers");
            let wanted: Vec<f32> = of.iter().flat_map(|&index| all[index].clone()).collect();
            assert_eq!(bits(&out), bits(&wanted), "{parts:?} of {shared:?}");
        };
        run(&[(0, &[1, 0]), (1, &[0])], &[1, 0, 2]);
        run(&[(2, &[0])], &[3]);
        run(&[(0, &[0]), (2, &[0])], &[0, 3]);
        run(&[(0, &[1])], &[1]);
    }
}
