//! One model in every layout that files have: fused banks, one tensor per expert, gate and up in one tensor,
//! parts of different types, split files, version 2, sharded folders, both forms of `config.json`. Equal
//! weights give equal bits.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{deviation, distance, folder, golden, pack, rounding_bound, spread};
use moelten_loader::container::catalog::{Storage, TensorInfo};
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Gguf, Value};
use moelten_loader::convert::Conversion;
use moelten_loader::load::load;
use moelten_quant::{Format, decode, encode};

fn run(path: &Path) -> Vec<f32> {
    crate::common::run(path, &golden("mixtral").ids).0
}

fn bits(path: &Path) -> Vec<u32> {
    run(path).iter().map(|logit| logit.to_bits()).collect()
}

/// The bits of the logits of a packed file made from `path`. It has every tensor.
fn packed_bits(path: &Path) -> Vec<u32> {
    let packed = path.with_extension("packed");
    pack(path, &packed);
    assert_eq!(load(&packed).unwrap().notices, Vec::<String>::new());
    bits(&packed)
}

/// The golden Mixtral as one F32 file.
fn standard(dir: &Path) -> PathBuf {
    let target = dir.join("standard.gguf");
    let loaded = load(&folder("mixtral")).unwrap();
    let plan = Conversion::plan(&loaded, &|_| Format::F32).unwrap();
    assert!(plan.write(&target, &mut |_| true).unwrap());
    target
}

/// A tensor to write: name, shape, F32 values as bytes.
type Tensor = (String, Vec<u64>, Vec<u8>);

fn tensors(gguf: &Gguf) -> Vec<Tensor> {
    let copy = |t: &TensorInfo| (t.name.clone(), t.shape.clone(), gguf.catalog.bytes(t).to_vec());
    gguf.catalog.tensors().iter().map(copy).collect()
}

fn write(path: &Path, gguf: &Gguf, extra: &[(&str, Value)], tensors: &[Tensor]) {
    let typed: Vec<_> = tensors.iter().map(|t| (t.clone(), Format::F32)).collect();
    write_typed(path, gguf, extra, &typed);
}

fn write_typed(path: &Path, gguf: &Gguf, extra: &[(&str, Value)], tensors: &[(Tensor, Format)]) {
    let kept = gguf.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone()));
    let metadata: Vec<_> =
        kept.chain(extra.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))).collect();
    let plan = |((name, shape, _), format): &(Tensor, Format)| TensorPlan {
        name: name.clone(),
        storage: Storage::Known(*format),
        shape: shape.clone(),
    };
    let mut writer =
        GgufWriter::create(path, &metadata, &tensors.iter().map(plan).collect::<Vec<_>>(), &[]).unwrap();
    for ((name, _, bytes), _) in tensors {
        writer.write_tensor(name, bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// A tensor, or one for each expert of a bank.
fn split_experts((name, shape, bytes): Tensor) -> Vec<Tensor> {
    let Some(stem) = name.strip_suffix("_exps.weight") else { return vec![(name, shape, bytes)] };
    let each = bytes.len() / usize::try_from(shape[0]).unwrap();
    let expert =
        |(i, bytes): (usize, &[u8])| (format!("{stem}.{i}.weight"), shape[1..].to_vec(), bytes.to_vec());
    bytes.chunks(each).enumerate().map(expert).collect()
}

#[test]
fn one_tensor_per_expert_as_in_older_mixtral_files() {
    let dir = tempfile::tempdir().unwrap();
    let standard = standard(dir.path());
    let gguf = Gguf::open(&standard).unwrap();
    let mut old: Vec<_> = tensors(&gguf).into_iter().flat_map(split_experts).collect();
    let path = dir.path().join("old.gguf");
    write(&path, &gguf, &[], &old);
    assert!(bits(&path) == bits(&standard));
    assert!(packed_bits(&path) == bits(&standard));
    // A missing expert tensor is an error that names it.
    old.retain(|(name, _, _)| name != "blk.1.ffn_up.5.weight");
    write(&path, &gguf, &[], &old);
    let error = load(&path).unwrap_err().to_string();
    assert!(error.contains("blk.1.ffn_up.5.weight") && error.contains("missing"), "{error}");
}

/// Every expert is a copy of the dense block. Weights that sum to 1 give the output of the dense model for
/// any choice of experts.
#[test]
fn a_dense_model_upcycled_to_experts_computes_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dense = dir.path().join("dense.gguf");
    let loaded = load(&folder("llama")).unwrap();
    assert!(Conversion::plan(&loaded, &|_| Format::F32).unwrap().write(&dense, &mut |_| true).unwrap());
    let gguf = Gguf::open(&dense).unwrap();
    let mut upcycled = Vec::new();
    for (name, shape, bytes) in tensors(&gguf) {
        match name.strip_suffix(".weight").filter(|stem| stem.contains("ffn_") && !stem.ends_with("norm")) {
            None => upcycled.push((name, shape, bytes)),
            Some(stem) => {
                let bank = [&[6][..], &shape].concat();
                upcycled.push((format!("{stem}_exps.weight"), bank, bytes.repeat(6)));
            }
        }
    }
    let width = loaded.spec.d_model;
    for layer in 0..loaded.spec.layers.len() {
        // A router of any numbers that differ between experts.
        let weights = (0..6 * width).map(|i| ((i * 7919 + layer) % 613) as f32 / 613.0 - 0.5);
        let bytes = weights.flat_map(f32::to_le_bytes).collect();
        upcycled.push((format!("blk.{layer}.ffn_gate_inp.weight"), vec![6, width as u64], bytes));
    }
    let path = dir.path().join("upcycled.gguf");
    let keys = [("llama.expert_count", Value::U32(6)), ("llama.expert_used_count", Value::U32(3))];
    write(&path, &gguf, &keys, &upcycled);
    let (dense, sparse) = (run(&dense), run(&path));
    assert!(distance(&dense, &sparse) <= 1e-4 * spread(&dense));
    assert_eq!(load(&path).unwrap().notices, Vec::<String>::new());
}

#[test]
fn gate_and_up_in_one_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let standard = standard(dir.path());
    let gguf = Gguf::open(&standard).unwrap();
    let all = tensors(&gguf);
    let find = |name: &str| all.iter().find(|(found, _, _)| found == name).unwrap();
    let mut fused = Vec::new();
    for tensor in &all {
        let Some(stem) = tensor.0.strip_suffix("ffn_gate_exps.weight") else {
            if !tensor.0.ends_with("ffn_up_exps.weight") {
                fused.push(tensor.clone());
            }
            continue;
        };
        let (_, shape, gate) = tensor;
        let up = &find(&format!("{stem}ffn_up_exps.weight")).2;
        let each = gate.len() / usize::try_from(shape[0]).unwrap();
        let both =
            gate.chunks(each).zip(up.chunks(each)).flat_map(|(gate, up)| [gate, up].concat()).collect();
        fused.push((format!("{stem}ffn_gate_up_exps.weight"), vec![shape[0], 2 * shape[1], shape[2]], both));
    }
    let path = dir.path().join("fused.gguf");
    write(&path, &gguf, &[], &fused);
    assert!(bits(&path) == bits(&standard));
    assert!(packed_bits(&path) == bits(&standard));
}

/// The golden Mixtral in three files: with a format for each tensor; the decoded values of that file in F32,
/// so that comparisons are free of rounding of weights; and the bytes of the first with a tensor for each
/// expert.
fn mixed(dir: &Path, format: impl Fn(&str) -> Format) -> [PathBuf; 3] {
    let gguf = Gguf::open(&standard(dir)).unwrap();
    let (mut mixed, mut stored) = (Vec::new(), Vec::new());
    for (name, shape, bytes) in tensors(&gguf) {
        let format = format(&name);
        let values: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let mut encoded = vec![0; format.row_bytes(values.len()).unwrap()];
        encode(format, &values, &mut encoded).unwrap();
        let mut decoded = vec![0.0; values.len()];
        decode(format, &encoded, &mut decoded);
        mixed.push(((name.clone(), shape.clone(), encoded), format));
        stored.push((name, shape, decoded.iter().flat_map(|v| v.to_le_bytes()).collect()));
    }
    let paths = ["mixed.gguf", "stored.gguf", "split.gguf"].map(|name| dir.join(name));
    write_typed(&paths[0], &gguf, &[], &mixed);
    write(&paths[1], &gguf, &[], &stored);
    let each = |(tensor, format)| split_experts(tensor).into_iter().map(move |tensor| (tensor, format));
    write_typed(&paths[2], &gguf, &[], &mixed.into_iter().flat_map(each).collect::<Vec<_>>());
    paths
}

#[test]
fn gate_up_and_down_of_different_types_in_one_layer() {
    let dir = tempfile::tempdir().unwrap();
    let ids = golden("mixtral").ids;
    for [gate, up, down, q] in [
        [Format::F32, Format::BF16, Format::F16, Format::F16],
        [Format::Q8_0, Format::BF16, Format::F16, Format::Q8_0],
        [Format::F16, Format::Q4_0, Format::Q5_1, Format::F32],
        [Format::Iq4Nl, Format::Q8_0, Format::F32, Format::Q4_1],
    ] {
        let [mixed, stored, split] = mixed(dir.path(), |name| match name {
            n if n.ends_with("ffn_gate_exps.weight") => gate,
            n if n.ends_with("ffn_up_exps.weight") => up,
            n if n.ends_with("ffn_down_exps.weight") => down,
            n if n.ends_with("attn_q.weight") => q,
            _ => Format::F32,
        });
        assert!(bits(&mixed) == bits(&split), "{gate} {up} {down} {q}");
        assert!(bits(&mixed) == packed_bits(&split), "{gate} {up} {down} {q}");
        let (got, expected) = (run(&mixed), run(&stored));
        if [gate, up, down, q].iter().all(|format| format.block_len() == 1) {
            assert!(distance(&got, &expected) <= 1e-4 * spread(&expected));
        } else {
            // Products with quantised weights round their activations.
            let (got, bound) = (deviation(&got, &expected), rounding_bound(&stored, &ids, &expected));
            println!("{gate} {up} {down} {q}: {got:.1e} of the spread, bound {bound:.1e}");
            assert!(got <= bound, "{gate} {up} {down} {q}: {got} is above {bound}");
        }
    }
}

#[test]
fn split_files_open_by_any_part() {
    let dir = tempfile::tempdir().unwrap();
    let standard = standard(dir.path());
    let gguf = Gguf::open(&standard).unwrap();
    let all = tensors(&gguf);
    let total = Value::I32(i32::try_from(all.len()).unwrap());
    let name = |part: usize| dir.path().join(format!("model-{part:05}-of-00003.gguf"));
    // As in published files, the first part may hold metadata only.
    for (part, tensors) in [&all[..0], &all[..9], &all[9..]].into_iter().enumerate() {
        let keys = [
            ("split.no", Value::U16(u16::try_from(part).unwrap())),
            ("split.count", Value::U16(3)),
            ("split.tensors.count", total.clone()),
        ];
        write(&name(part + 1), &gguf, &keys, tensors);
    }
    let expected = bits(&standard);
    for part in 1..=3 {
        assert!(bits(&name(part)) == expected, "opened by part {part}");
    }
    assert!(packed_bits(&name(2)) == expected);
}

#[test]
fn version_2_files_open() {
    let dir = tempfile::tempdir().unwrap();
    let standard = standard(dir.path());
    let mut bytes = fs::read(&standard).unwrap();
    assert_eq!(bytes[4..8], 3_u32.to_le_bytes());
    bytes[4..8].copy_from_slice(&2_u32.to_le_bytes());
    let path = dir.path().join("two.gguf");
    fs::write(&path, bytes).unwrap();
    assert!(bits(&path) == bits(&standard));
}

/// A copy of a safetensors file with only some of its tensors, by slicing the text of its header.
fn shard(source: &Path, target: &Path, keep: impl Fn(&str) -> bool) -> Vec<String> {
    let bytes = fs::read(source).unwrap();
    let header_len = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let (mut entries, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, entry) in header.iter().filter(|(name, _)| *name != "__metadata__" && keep(name)) {
        let at = |index: usize| usize::try_from(entry["data_offsets"][index].as_u64().unwrap()).unwrap();
        let start = data.len();
        data.extend_from_slice(&bytes[8 + header_len + at(0)..8 + header_len + at(1)]);
        let mut entry = entry.clone();
        entry["data_offsets"] = serde_json::json!([start, data.len()]);
        entries.insert(name.clone(), entry);
    }
    let text = serde_json::Value::Object(entries.clone()).to_string();
    let length = (text.len() as u64).to_le_bytes();
    fs::write(target, [&length[..], text.as_bytes(), &data].concat()).unwrap();
    entries.keys().cloned().collect()
}

#[test]
fn sharded_folders_compute_as_whole_ones() {
    let dir = tempfile::tempdir().unwrap();
    let source = folder("mixtral");
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let mut map = serde_json::Map::new();
    for (file, first) in
        [("model-00001-of-00002.safetensors", true), ("model-00002-of-00002.safetensors", false)]
    {
        let keep = |name: &str| name.contains("layers.0.") == first;
        for name in shard(&source.join("model.safetensors"), &dir.path().join(file), keep) {
            map.insert(name, file.into());
        }
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    fs::write(dir.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert!(bits(dir.path()) == bits(&source));
}

#[test]
fn the_older_form_of_configurations_gives_the_same_spec() {
    for family in ["llama3-rope", "mixtral", "qwen3moe"] {
        let dir = tempfile::tempdir().unwrap();
        let source = folder(family);
        fs::copy(source.join("model.safetensors"), dir.path().join("model.safetensors")).unwrap();
        let mut config: serde_json::Value =
            serde_json::from_slice(&fs::read(source.join("config.json")).unwrap()).unwrap();
        let mut rope = config.as_object_mut().unwrap().remove("rope_parameters").unwrap();
        let theta = rope.as_object_mut().unwrap().remove("rope_theta").unwrap();
        config["rope_theta"] = theta;
        if rope["rope_type"] != "default" {
            config["rope_scaling"] = rope;
        }
        let dtype = config.as_object_mut().unwrap().remove("dtype").unwrap();
        config["torch_dtype"] = dtype;
        if family == "qwen3moe" {
            let experts = config.as_object_mut().unwrap().remove("num_local_experts").unwrap();
            config["num_experts"] = experts;
        }
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let (old, new) = (load(dir.path()).unwrap(), load(&source).unwrap());
        assert_eq!(old.spec.layers, new.spec.layers, "{family}");
        assert_eq!(old.notices, Vec::<String>::new(), "{family}");
    }
}
