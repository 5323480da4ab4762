//! Block types that are read and not written: a model whose experts and projections are of such a type gives
//! what the same weights in f32 give, up to the rounding of activations, and the same bits streamed.

use std::path::Path;

use moelten_engine::KvFormat;
use moelten_engine::plan::{Io, Ram};
use moelten_loader::container::catalog::{Storage, TensorInfo};
use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::load;
use moelten_quant::{Format, decode};

use crate::common::{How, deviation, folder, golden, model, pack, run, session, stepwise, whole};

/// Numbers of a linear congruential generator.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 56) as u8
    }
}

/// A block of random codes, and scales of ordinary size.
fn block(format: Format, random: &mut Random) -> Vec<u8> {
    let mut block: Vec<u8> = (0..format.block_bytes()).map(|_| random.byte()).collect();
    let scale = half::f16::from_f32(0.002 + f32::from(random.byte()) * 1e-5).to_le_bytes();
    let at = match format {
        Format::Tq1_0 => 52,
        Format::Tq2_0 => 64,
        _ => 0,
    };
    match format {
        Format::Q8K => block[..4].copy_from_slice(&(f32::from(random.byte()) * 2e-6).to_le_bytes()),
        Format::Nvfp4 => block[..4].iter_mut().for_each(|scale| *scale = 0x08 + *scale % 8),
        Format::Iq1M => {
            let bits = u16::from_le_bytes(scale);
            for i in 0..4 {
                let nibble = (bits >> (4 * i) & 15) as u8;
                block[49 + 2 * i] = block[49 + 2 * i] & 15 | nibble << 4;
            }
        }
        _ => block[at..at + 2].copy_from_slice(&scale),
    }
    block
}

/// Writes a model in f32 with all matrices but the embedding, the head and routers in `format`, and the same
/// weights in f32 again.
fn written(source: &Path, format: Format, [own, exact]: [&Path; 2]) {
    let gguf = Gguf::open(source).unwrap();
    let metadata: Vec<_> = gguf.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let changes = |tensor: &TensorInfo| {
        let fits = tensor.shape.last().is_some_and(|cols| cols % format.block_len() as u64 == 0);
        let kept = ["token_embd", "output", "ffn_gate_inp"];
        fits && tensor.shape.len() > 1 && !kept.iter().any(|kept| tensor.name.contains(kept))
    };
    let tensors = gguf.catalog.tensors();
    let plans = |with: bool| -> Vec<TensorPlan> {
        let plan = |tensor: &TensorInfo| TensorPlan {
            name: tensor.name.clone(),
            storage: if with && changes(tensor) { Storage::Known(format) } else { tensor.storage },
            shape: tensor.shape.clone(),
        };
        tensors.iter().map(plan).collect()
    };
    let mut writers = [(own, true), (exact, false)]
        .map(|(path, with)| GgufWriter::create(path, &metadata, &plans(with), &[]).unwrap());
    let (mut random, mut changed) = (Random(1), 0);
    for tensor in tensors {
        let mut bytes = [gguf.catalog.bytes(tensor).to_vec(), gguf.catalog.bytes(tensor).to_vec()];
        if changes(tensor) {
            let count = usize::try_from(tensor.shape.iter().product::<u64>()).unwrap();
            let blocks = count / format.block_len();
            bytes[0] = (0..blocks).flat_map(|_| block(format, &mut random)).collect();
            let mut values = vec![0.0; count];
            decode(format, &bytes[0], &mut values);
            bytes[1] = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            changed += 1;
        }
        for (writer, bytes) in writers.iter_mut().zip(bytes) {
            writer.write_tensor(&tensor.name, &bytes).unwrap();
        }
    }
    assert!(changed > 4, "{changed} matrices are {format}");
    for writer in writers {
        writer.finish().unwrap();
    }
}

#[test]
fn types_that_are_only_read_run_streamed_and_packed() {
    let dir = tempfile::tempdir().unwrap();
    let [base, own, exact, packed] = ["base", "own", "exact", "packed"].map(|name| dir.path().join(name));
    let loaded = load(&folder("mixtral-256")).unwrap();
    let plan = Conversion::plan_as(&loaded, FileLayout::Standard, Types::Chosen(&|_| Format::F32)).unwrap();
    assert!(plan.write(&base, &mut |_| true).unwrap());
    let ids = golden("mixtral-256").ids;
    for format in Format::ALL.into_iter().filter(|format| !format.is_written() && format.is_in_files()) {
        written(&base, format, [&own, &exact]);
        let (expected, got) = (run(&exact, &ids).0, run(&own, &ids).0);
        let error = deviation(&got, &expected);
        println!("{format:8} {error:.1e} of the spread");
        // Activations have eight bits; a wrong code or scale is as large as the logits.
        assert!(error < 0.25, "{format}: {error}");
        let bits = whole(&mut session(&model(&own, How::default()), KvFormat::F32), &ids);
        let how = How { ram: Ram::Min, io: Io::Direct, threads: Some(3), ..Default::default() };
        assert!(stepwise(&mut session(&model(&own, how), KvFormat::F32), &ids) == bits, "{format}: streamed");
        pack(&own, &packed);
        assert!(whole(&mut session(&model(&packed, how), KvFormat::F32), &ids) == bits, "{format}: packed");
    }
}
