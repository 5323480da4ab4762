//! NVFP4 with scales of whole matrices: folders of ModelOpt and of compressed-tensors, and GGUF files with
//! such scales in tensors beside the weights. All of them hold the same numbers, which this file decodes by
//! the words of the formats: `E2M1 * (E4M3 * scale)`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moelten_engine::KvFormat;
use moelten_engine::plan::{Experts, Io, Ram};
use moelten_loader::container::catalog::{Storage, TensorInfo};
use moelten_loader::container::gguf::Gguf;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::{Conversion, FileLayout, Types};
use moelten_loader::load::load;
use moelten_quant::{Format, Isa};
use serde_json::{Value, json};

use crate::common::{How, deviation, folder, golden, model, pack, run, session, stepwise, whole};

/// Every matrix of it has rows of 64 or 128 numbers.
const FAMILY: &str = "qwen3moe";

const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3), f32::from(code & 7) / 8.0);
    if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) }
}

/// A matrix in NVFP4.
struct Quantised {
    shape: Vec<u64>,
    /// A number in each byte.
    codes: Vec<u8>,
    scales: Vec<u8>,
    whole: f32,
}

impl Quantised {
    /// `power` rounds the scale of the whole matrix up to a power of two, whose reciprocal is exact.
    fn of(values: &[f32], shape: &[u64], power: bool) -> Self {
        let largest = |values: &[f32]| values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let exact = largest(values) / (6.0 * 448.0);
        let whole = if power { exact.log2().ceil().exp2() } else { exact };
        let nearest = |wanted: f32, all: &mut dyn Iterator<Item = (u8, f32)>| {
            all.min_by(|a, b| (a.1 - wanted).abs().total_cmp(&(b.1 - wanted).abs())).unwrap().0
        };
        let (mut codes, mut scales) = (Vec::new(), Vec::new());
        for group in values.chunks_exact(16) {
            let scale = nearest(largest(group) / 6.0 / whole, &mut (0..0x7f).map(|code| (code, e4m3(code))));
            let step = e4m3(scale) * whole;
            codes.extend(group.iter().map(|x| {
                let wanted = if step == 0.0 { 0.0 } else { x.abs() / step };
                let code = nearest(wanted, &mut (0..8).zip(E2M1));
                if *x < 0.0 { code | 8 } else { code }
            }));
            scales.push(scale);
        }
        Self { shape: shape.to_vec(), codes, scales, whole }
    }

    fn values(&self) -> Vec<f32> {
        let value = |(i, &code): (usize, &u8)| {
            let scale = e4m3(self.scales[i / 16]) * self.whole;
            let value = E2M1[usize::from(code & 7)] * scale;
            // Zeros have no sign.
            if code & 8 == 0 || value == 0.0 { value } else { -value }
        };
        self.codes.iter().enumerate().map(value).collect()
    }

    /// Neighbours in a byte, as folders have them.
    fn pairs(&self) -> Vec<u8> {
        self.codes.chunks_exact(2).map(|pair| pair[0] | pair[1] << 4).collect()
    }

    /// Blocks as GGUF files have them.
    fn blocks(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (codes, scales) in self.codes.chunks_exact(64).zip(self.scales.chunks_exact(4)) {
            out.extend_from_slice(scales);
            for group in codes.chunks_exact(16) {
                out.extend((0..8).map(|i| group[i] | group[i + 8] << 4));
            }
        }
        out
    }
}

/// A tensor of a folder: type, shape, bytes.
type Raw = (&'static str, Vec<u64>, Vec<u8>);

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a folder of the golden's configuration with these changes.
fn write_folder(to: &Path, tensors: &BTreeMap<String, Raw>, quantised: Option<Value>) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    let mut config: Value =
        serde_json::from_slice(&fs::read(folder(FAMILY).join("config.json")).unwrap()).unwrap();
    if let Some(quantised) = quantised {
        config["quantization_config"] = quantised;
    }
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (kind, shape, bytes)) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let entry = json!({ "dtype": kind, "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&data);
    fs::write(to.join("model.safetensors"), out).unwrap();
    to.to_owned()
}

/// The tensors of the golden; projections and experts in NVFP4 apart.
fn quantised(power: bool) -> (BTreeMap<String, Raw>, BTreeMap<String, Quantised>) {
    let file = SafeTensors::open(&folder(FAMILY).join("model.safetensors")).unwrap();
    let (mut kept, mut small) = (BTreeMap::new(), BTreeMap::new());
    for tensor in file.catalog().tensors() {
        let bytes = file.catalog().bytes(tensor);
        if tensor.name.contains("_proj.weight") {
            let mut values = vec![0.0; bytes.len() / 2];
            moelten_quant::decode(Format::BF16, bytes, &mut values);
            small.insert(tensor.name.clone(), Quantised::of(&values, &tensor.shape, power));
        } else {
            kept.insert(tensor.name.clone(), ("BF16", tensor.shape.clone(), bytes.to_vec()));
        }
    }
    assert!(small.len() > 100);
    (kept, small)
}

/// A folder as ModelOpt writes them.
fn modelopt(to: &Path) -> PathBuf {
    let (mut tensors, small) = quantised(false);
    for (name, matrix) in small {
        let [rows, cols] = matrix.shape[..] else { panic!("{name} is a matrix") };
        tensors.insert(name.clone(), ("U8", vec![rows, cols / 2], matrix.pairs()));
        let scales = ("F8_E4M3", vec![rows, cols / 16], matrix.scales.clone());
        tensors.insert(format!("{name}_scale"), scales);
        tensors.insert(format!("{name}_scale_2"), ("F32", vec![], f32s(&[matrix.whole])));
        let stem = name.strip_suffix(".weight").unwrap();
        tensors.insert(format!("{stem}.input_scale"), ("F32", vec![], f32s(&[0.25])));
    }
    let way = json!({ "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"] });
    write_folder(to, &tensors, Some(way))
}

/// A folder as compressed-tensors writes them, with a scale that divides.
fn compressed(to: &Path) -> PathBuf {
    let (mut tensors, small) = quantised(true);
    for (name, matrix) in small {
        let [rows, cols] = matrix.shape[..] else { panic!("{name} is a matrix") };
        let scales = ("F8_E4M3", vec![rows, cols / 16], matrix.scales.clone());
        tensors.insert(format!("{name}_packed"), ("U8", vec![rows, cols / 2], matrix.pairs()));
        tensors.insert(format!("{name}_scale"), scales);
        tensors.insert(format!("{name}_global_scale"), ("F32", vec![1], f32s(&[1.0 / matrix.whole])));
        let stem = name.strip_suffix(".weight").unwrap();
        tensors.insert(format!("{stem}.input_global_scale"), ("F32", vec![1], f32s(&[4.0])));
    }
    let way = json!({ "quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized" });
    write_folder(to, &tensors, Some(way))
}

/// A folder with one tensor for the gates and ups of all experts of a layer, and one for their downs, and the
/// same numbers in f32, expert by expert. There is a scale for each expert of a tensor, or one for all.
fn banks(to: [&Path; 2], of_each: bool) -> BTreeMap<String, Raw> {
    let file = SafeTensors::open(&folder(FAMILY).join("model.safetensors")).unwrap();
    let values = |name: &str| {
        let bytes = file.catalog().bytes(file.catalog().get(name).unwrap());
        let mut values = vec![0.0; bytes.len() / 2];
        moelten_quant::decode(Format::BF16, bytes, &mut values);
        values
    };
    let (mut small, mut exact) = (BTreeMap::new(), BTreeMap::new());
    for tensor in file.catalog().tensors().iter().filter(|tensor| !tensor.name.contains(".experts.")) {
        let raw: Raw = ("BF16", tensor.shape.clone(), file.catalog().bytes(tensor).to_vec());
        small.insert(tensor.name.clone(), raw.clone());
        exact.insert(tensor.name.clone(), raw);
    }
    for layer in 0..64_u64 {
        let stem = format!("model.layers.{layer}.mlp.experts");
        let of_expert = |expert: u64, part: &str| format!("{stem}.{expert}.{part}_proj.weight");
        if file.catalog().get(&of_expert(0, "up")).is_none() {
            break;
        }
        for (name, parts) in [("gate_up_proj", &["gate", "up"][..]), ("down_proj", &["down"][..])] {
            let shape = &file.catalog().get(&of_expert(0, parts[0])).unwrap().shape;
            let [rows, cols] = shape[..] else { panic!("{name} is a matrix") };
            let matrix = |expert| parts.iter().flat_map(|part| values(&of_expert(expert, part))).collect();
            let experts: Vec<Vec<f32>> = (0..16_u64).map(matrix).collect();
            let wholes: Vec<Vec<f32>> = if of_each { experts } else { vec![experts.concat()] };
            let wholes: Vec<_> = wholes.iter().map(|values| Quantised::of(values, shape, false)).collect();
            let all = |of: &dyn Fn(&Quantised) -> Vec<u8>| wholes.iter().flat_map(of).collect::<Vec<u8>>();
            let wide = |share: u64| vec![16, parts.len() as u64 * rows, cols / share];
            small.insert(format!("{stem}.{name}"), ("U8", wide(2), all(&Quantised::pairs)));
            let scales = ("F8_E4M3", wide(16), all(&|one| one.scales.clone()));
            small.insert(format!("{stem}.{name}_weight_scale"), scales);
            let shape_of_scales = if of_each { vec![16] } else { vec![] };
            let scale = ("F32", shape_of_scales, all(&|one| f32s(&[one.whole])));
            small.insert(format!("{stem}.{name}_weight_scale_2"), scale);
            small.insert(format!("{stem}.{name}_input_scale"), ("F32", vec![], f32s(&[0.25])));
            let numbers: Vec<f32> = wholes.iter().flat_map(Quantised::values).collect();
            let mut matrices = numbers.chunks_exact((rows * cols) as usize);
            for (expert, part) in (0..16).flat_map(|expert| parts.iter().map(move |part| (expert, part))) {
                let raw = ("F32", shape.clone(), f32s(matrices.next().unwrap()));
                exact.insert(of_expert(expert, part), raw);
            }
        }
    }
    let way = json!({ "quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"] });
    write_folder(to[0], &small, Some(way));
    write_folder(to[1], &exact, None);
    small
}

#[test]
fn banks_of_all_experts_hold_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for of_each in [true, false] {
        let own = banks([&at("banks"), &at("exact")], of_each);
        floats(&at("banks"), &at("from.gguf"));
        floats(&at("exact"), &at("expected.gguf"));
        let [a, b] = ["from.gguf", "expected.gguf"].map(|name| Gguf::open(&at(name)).unwrap());
        for tensor in b.catalog.tensors() {
            let got = a.catalog.get(&tensor.name).expect("the same tensors");
            assert!(a.catalog.bytes(got) == b.catalog.bytes(tensor), "{of_each} {}", tensor.name);
        }
        // The same bits from a cache of experts, however many it holds.
        let expected = bits(&at("banks"), How::default());
        for ram in [Ram::Min, Ram::Auto] {
            let how = How { ram, io: Io::Direct, ..Default::default() };
            assert!(bits(&at("banks"), how) == expected, "{of_each} {ram:?}");
        }
        // What does not fit, and what lies as columns, is refused by its name.
        let broken = |name: &str, shape: Vec<u64>| {
            let mut tensors = own.clone();
            tensors.get_mut(name).unwrap().1 = shape;
            let path = write_folder(&at("broken"), &tensors, None);
            load(&path).err().unwrap_or_else(|| panic!("{name}")).to_string()
        };
        let name = "model.layers.1.mlp.experts.down_proj";
        let [_, rows, cols] = own[name].1[..] else { panic!("{name} is a bank") };
        let error = broken(name, vec![16, cols, rows]);
        assert!(error.contains(name) && error.contains("rows are inputs"), "{error}");
        let scales = format!("{name}_weight_scale");
        let error = broken(&scales, vec![16, cols / 8, rows]);
        assert!(error.contains(&scales), "{error}");
    }
    let mut tensors = banks([&at("banks"), &at("exact")], true);
    let whole = "model.layers.1.mlp.experts.down_proj_weight_scale_2";
    tensors.insert(whole.to_owned(), ("F32", vec![8], f32s(&[1.0; 8])));
    let error = load(&write_folder(&at("broken"), &tensors, None)).err().unwrap().to_string();
    assert!(error.contains(whole) && error.contains("[16]"), "{error}");
}

/// A folder with the same numbers in f32.
fn exact(to: &Path, power: bool) -> PathBuf {
    let (mut tensors, small) = quantised(power);
    for (name, matrix) in small {
        tensors.insert(name, ("F32", matrix.shape.clone(), f32s(&matrix.values())));
    }
    write_folder(to, &tensors, None)
}

/// A folder as a GGUF file of floats.
fn floats(folder: &Path, to: &Path) {
    let loaded = load(folder).unwrap_or_else(|error| panic!("{error}"));
    let unused: Vec<_> = loaded.notices.iter().filter(|notice| notice.contains("unused")).collect();
    assert!(unused.is_empty(), "{unused:?}");
    let plan = Conversion::plan(&loaded, &|_| Format::F32).unwrap();
    assert!(plan.write(to, &mut |_| true).unwrap());
}

/// A tensor of a GGUF file, and its bytes.
type Planned = (TensorPlan, Vec<u8>);

/// Copies a GGUF file of floats; `change` gives other tensors in place of some.
fn rewritten(from: &Path, to: &Path, change: &dyn Fn(&TensorInfo) -> Vec<Planned>) {
    let gguf = Gguf::open(from).unwrap();
    let metadata: Vec<_> = gguf.metadata.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let mut all = Vec::new();
    for tensor in gguf.catalog.tensors() {
        let others = change(tensor);
        if others.is_empty() {
            let TensorInfo { name, storage, shape, .. } = tensor.clone();
            all.push((TensorPlan { name, storage, shape }, gguf.catalog.bytes(tensor).to_vec()));
        } else {
            all.extend(others);
        }
    }
    let plans: Vec<_> = all.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = GgufWriter::create(to, &metadata, &plans, &[]).unwrap();
    all.iter().for_each(|(plan, bytes)| writer.write_tensor(&plan.name, bytes).unwrap());
    writer.finish().unwrap();
}

fn plan(name: String, format: Format, shape: Vec<u64>) -> TensorPlan {
    TensorPlan { name, storage: Storage::Known(format), shape }
}

/// The matrices of a folder that a tensor of its file is made of.
fn sources(name: &str) -> Vec<String> {
    let parts = [
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_gate_exps", "gate_proj"),
        ("ffn_up_exps", "up_proj"),
        ("ffn_down_exps", "down_proj"),
    ];
    let Some((layer, part)) = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
        return Vec::new();
    };
    let Some((_, of)) = parts.iter().find(|(own, _)| Some(*own) == part.strip_suffix(".weight")) else {
        return Vec::new();
    };
    match part.contains("_exps") {
        true => (0..16).map(|e| format!("model.layers.{layer}.mlp.experts.{e}.{of}.weight")).collect(),
        false => vec![format!("model.layers.{layer}.{of}.weight")],
    }
}

/// A GGUF file as llama.cpp's converter writes it: blocks of NVFP4, and scales of whole matrices beside them.
fn scaled_file(base: &Path, to: &Path) {
    let (_, small) = quantised(false);
    rewritten(base, to, &|tensor| {
        let matrices: Vec<&Quantised> = sources(&tensor.name).iter().map(|name| &small[name]).collect();
        if matrices.is_empty() {
            return Vec::new();
        }
        let stem = tensor.name.strip_suffix(".weight").unwrap();
        let scales = |suffix: &str, values: Vec<f32>| {
            let shape = vec![values.len() as u64];
            (plan(format!("{stem}.{suffix}"), Format::F32, shape), f32s(&values))
        };
        let blocks = matrices.iter().flat_map(|matrix| matrix.blocks()).collect();
        vec![
            (plan(tensor.name.clone(), Format::Nvfp4, tensor.shape.clone()), blocks),
            scales("scale", matrices.iter().map(|matrix| matrix.whole).collect()),
            scales("input_scale", vec![0.25; matrices.len()]),
        ]
    });
}

fn bits(path: &Path, how: How) -> Vec<u32> {
    whole(&mut session(&model(path, how), KvFormat::F32), &golden(FAMILY).ids)
}

#[test]
fn every_form_holds_the_same_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (own, power) = (exact(&at("exact"), false), exact(&at("power"), true));
    let (opt, packed) = (modelopt(&at("modelopt")), compressed(&at("compressed")));
    floats(&own, &at("base.gguf"));
    scaled_file(&at("base.gguf"), &at("scaled.gguf"));
    for (from, expected) in [(&opt, &own), (&packed, &power), (&at("scaled.gguf"), &own)] {
        floats(from, &at("from.gguf"));
        floats(expected, &at("expected.gguf"));
        let [a, b] = ["from.gguf", "expected.gguf"].map(|name| Gguf::open(&at(name)).unwrap());
        let tensors = b.catalog.tensors();
        assert_eq!(a.catalog.tensors().len(), tensors.len());
        for tensor in tensors {
            let got = a.catalog.get(&tensor.name).expect("the same tensors");
            assert!(a.catalog.bytes(got) == b.catalog.bytes(tensor), "{} {}", from.display(), tensor.name);
        }
    }
    // Products round activations to 8 bits: close to floats, and the same bits from a folder as from a file.
    let ids = golden(FAMILY).ids;
    let error = deviation(&run(&opt, &ids).0, &run(&own, &ids).0);
    println!("NVFP4 with scales of matrices: {error:.1e} of the spread");
    assert!(error < 0.1, "{error}");
    for isa in Isa::available() {
        let how = How { isa: Some(isa), ..Default::default() };
        assert!(bits(&opt, how) == bits(&at("scaled.gguf"), how), "{}", isa.name());
    }
}

#[test]
fn every_budget_and_layout_gives_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let opt = modelopt(&at("modelopt"));
    floats(&exact(&at("exact"), false), &at("base.gguf"));
    scaled_file(&at("base.gguf"), &at("scaled.gguf"));
    pack(&at("scaled.gguf"), &at("packed.gguf"));
    let expected = bits(&opt, How::default());
    let ids = golden(FAMILY).ids;
    for path in [opt, at("scaled.gguf"), at("packed.gguf")] {
        assert!(bits(&path, How::default()) == expected, "{}", path.display());
        for (ram, threads) in [(Ram::Min, 1), (Ram::Min, 3), (Ram::Auto, 2)] {
            let how = How { ram, io: Io::Direct, threads: Some(threads), ..Default::default() };
            let model = model(&path, how);
            assert!(matches!(model.plan().experts, Experts::Cached(_)));
            let what = format!("{} {ram:?} {threads}", path.display());
            assert!(stepwise(&mut session(&model, KvFormat::F32), &ids) == expected, "{what}");
            assert!(ram != Ram::Min || model.experts().stats().bytes_read > 0, "{what}: nothing was read");
        }
    }
    // What the packed file copied of its source is what it needs, and no more.
    let packed = load(&at("packed.gguf")).unwrap();
    assert!(!packed.notices.iter().any(|notice| notice.contains("unused")), "{:?}", packed.notices);
    // No type of GGUF files holds both scales.
    let kept = Conversion::plan_as(&packed, FileLayout::Standard, Types::Kept).err().unwrap().to_string();
    assert!(kept.contains("NVFP4F32") && kept.contains("choose a type"), "{kept}");
}

#[test]
fn scales_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let refused = |path: &Path| load(path).err().unwrap_or_else(|| panic!("{}", path.display())).to_string();
    let (kept, small) = quantised(false);
    let name = "model.layers.1.mlp.experts.3.up_proj.weight";
    let broken = |change: &dyn Fn(&mut BTreeMap<String, Raw>), way: Value| {
        let mut tensors = kept.clone();
        for (name, matrix) in &small {
            let [rows, cols] = matrix.shape[..] else { panic!("{name} is a matrix") };
            tensors.insert(name.clone(), ("U8", vec![rows, cols / 2], matrix.pairs()));
            tensors
                .insert(format!("{name}_scale"), ("F8_E4M3", vec![rows, cols / 16], matrix.scales.clone()));
            tensors.insert(format!("{name}_scale_2"), ("F32", vec![], f32s(&[matrix.whole])));
        }
        change(&mut tensors);
        refused(&write_folder(&at("broken"), &tensors, Some(way)))
    };
    let opt = || json!({ "quant_method": "modelopt", "quant_algo": "NVFP4" });
    let error =
        broken(&|all| drop(all.insert(format!("{name}_scale_2"), ("F32", vec![2], f32s(&[1.0; 2])))), opt());
    assert!(error.contains("experts.3.up_proj.weight_scale_2") && error.contains("[2]"), "{error}");
    let error =
        broken(&|all| drop(all.insert(format!("{name}_scale_2"), ("BF16", vec![1], vec![0; 2]))), opt());
    assert!(error.contains("experts.3.up_proj.weight_scale_2") && error.contains("BF16"), "{error}");
    let wrong = ("F8_E4M3", vec![64, 2], vec![0x38; 128]);
    let error = broken(&|all| drop(all.insert(format!("{name}_scale"), wrong.clone())), opt());
    assert!(error.contains("experts.3.up_proj.weight_scale") && error.contains("[64, 4]"), "{error}");
    let error = broken(&|all| drop(all.remove(&format!("{name}_scale"))), opt());
    assert!(error.contains("experts.3.up_proj.weight"), "{error}");
    let of_inputs = "model.layers.1.mlp.experts.3.up_proj.pre_quant_scale".to_owned();
    let error =
        broken(&|all| drop(all.insert(of_inputs.clone(), ("F32", vec![64], f32s(&[1.0; 64])))), opt());
    assert!(error.contains("pre_quant_scale") && error.contains("scale of inputs"), "{error}");
    let way = json!({ "quant_method": "modelopt", "quant_algo": "W4A8_AWQ" });
    let error = broken(&|_| {}, way);
    assert!(error.contains("quant_algo W4A8_AWQ") && error.contains("NVFP4"), "{error}");
    // A scale beside another type of blocks, and one of another shape.
    floats(&exact(&at("exact"), false), &at("base.gguf"));
    let beside = |format: Format, count: u64| {
        rewritten(&at("base.gguf"), &at("beside.gguf"), &|tensor| {
            if tensor.name != "blk.1.ffn_up_exps.weight" {
                return Vec::new();
            }
            let rows = usize::try_from(tensor.shape[0] * tensor.shape[1]).unwrap();
            let bytes = vec![0; rows * format.row_bytes(64).unwrap()];
            let scale = plan("blk.1.ffn_up_exps.scale".into(), Format::F32, vec![count]);
            let own = (plan(tensor.name.clone(), format, tensor.shape.clone()), bytes);
            vec![own, (scale, vec![0; 4 * count as usize])]
        });
        refused(&at("beside.gguf"))
    };
    let error = beside(Format::Q8_0, 16);
    assert!(error.contains("blk.1.ffn_up_exps.scale beside Q8_0 weights"), "{error}");
    let error = beside(Format::Nvfp4, 1);
    assert!(error.contains("blk.1.ffn_up_exps.scale") && error.contains("[16]"), "{error}");
}
