//! Every family from its configuration alone: a folder with all tensors that the configuration needs, and
//! the GGUF file of it. Each number out of range and each missing tensor is refused by its name; parts that
//! are not run are skipped with a notice. The weights are zeros of a sparse file: nothing is computed here.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use moelten_loader::container::catalog::Storage;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Array, Gguf, Value as Entry};
use moelten_loader::convert::Conversion;
use moelten_loader::error::{Fault, LoadError};
use moelten_loader::load::{LoadedModel, Source, folder_names, load, spec_of_config};
use moelten_loader::spec::ModelSpec;
use moelten_loader::tensors::needed::{large_numbers, needed, tables, whole_numbers};
use moelten_loader::tensors::roles::{LayerTensor, Lie, NameRule, Role, Rows};
use moelten_quant::Format;
use serde_json::{Map, Value, json};

use crate::common::Folder;

/// A configuration of each family: those of the engine's goldens, and `data/configs.json`.
fn configs() -> BTreeMap<String, Value> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let more = fs::read(own.join("tests/data/configs.json")).unwrap();
    let mut all: BTreeMap<String, Value> = serde_json::from_slice(&more).unwrap();
    for entry in fs::read_dir(own.join("../engine/tests/golden")).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(config) = fs::read(folder.join("config.json")) else { continue };
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        // The tensors here are floats.
        config.as_object_mut().unwrap().remove("quantization_config");
        all.insert(name, config);
    }
    assert!(all.len() > 60, "{}", all.len());
    all
}

fn spec(config: &Value) -> Result<ModelSpec, LoadError> {
    spec_of_config(Path::new("it/config.json"), config)
}

/// A tensor of a folder: its type, its shape, and what is in it where zeros will not do.
struct Plain {
    kind: &'static str,
    shape: Vec<usize>,
    values: Vec<u8>,
}

/// The tensors of a folder with this configuration, by the first name of each role.
fn tensors(spec: &ModelSpec) -> BTreeMap<String, Plain> {
    let (names, needed) = (folder_names(spec), needed(spec));
    let sizes: BTreeMap<Role, usize> =
        needed.iter().map(|&(role, rows, cols)| (role, if rows == 1 { cols } else { rows })).collect();
    let mut all = BTreeMap::new();
    let mut add = |name: String, kind, shape: Vec<usize>, values| {
        all.entry(name).or_insert(Plain { kind, shape, values });
    };
    for &(role, rows, cols) in &needed {
        let Some(rule) = names.of(role).next() else { continue };
        if rule.per_expert() {
            (0..rows).for_each(|e| add(names.by(rule, role, e), "F32", vec![cols], Vec::new()));
            continue;
        }
        add(names.by(rule, role, 0), "F32", shape(rule, role, rows, cols, &sizes), Vec::new());
    }
    for (role, rows, cols) in whole_numbers(spec) {
        // Different experts for each token.
        let values = (0..rows * cols).flat_map(|i| (i as i64 % cols as i64).to_le_bytes()).collect();
        add(names.name(role), "I64", vec![rows, cols], values);
    }
    for (role, length) in large_numbers(spec) {
        add(names.name(role), "I64", vec![length], Vec::new());
    }
    for (role, parts, cols) in tables(spec) {
        let rule = names.of(role).next().unwrap();
        (0..parts).for_each(|part| add(rule.name(role, part), "F32", vec![64, cols], Vec::new()));
    }
    for (key, bank) in spec.banks() {
        for matrix in &bank.matrices {
            let role = Role::Layer(key.layer, LayerTensor::of_bank(bank.kind, matrix.part));
            let Some(rule) = names.of(role).next() else { continue };
            let whole = if rule.rows == Rows::All { matrix.rows } else { 2 * matrix.rows };
            if rule.per_expert() {
                let of = |e| names.by(rule, role, e);
                (0..bank.experts).for_each(|e| add(of(e), "F32", vec![whole, matrix.cols], Vec::new()));
                continue;
            }
            let (rows, cols) =
                if rule.lie == Lie::AsColumns { (matrix.cols, whole) } else { (whole, matrix.cols) };
            add(names.by(rule, role, 0), "F32", vec![bank.experts, rows, cols], Vec::new());
        }
    }
    all
}

/// The shape of the tensor that a rule names, which may hold other roles as well.
fn shape(rule: &NameRule, role: Role, rows: usize, cols: usize, sizes: &BTreeMap<Role, usize>) -> Vec<usize> {
    let stacked = |all: &[LayerTensor]| -> usize {
        let Role::Layer(layer, _) = role else { unreachable!("only tensors of a layer are stacked") };
        all.iter().filter_map(|&tensor| sizes.get(&Role::Layer(layer, tensor))).sum()
    };
    let matrix = matches!(role, Role::Layer(_, own) if own.is_matrix());
    match rule.rows {
        Rows::All if rows == 1 && !matrix => vec![cols],
        Rows::All => vec![rows, cols],
        Rows::FirstHalf | Rows::SecondHalf => vec![2 * rows, cols],
        Rows::Even | Rows::Odd => vec![rows, 2 * cols],
        Rows::Stacked(all) if rows > 1 || matrix => vec![stacked(all), cols],
        Rows::Stacked(all) => vec![stacked(all)],
    }
}

/// Writes a folder, and gives the path of its weights.
fn write_folder(to: &Path, config: &Value, tensors: &BTreeMap<String, Plain>) -> PathBuf {
    fs::create_dir_all(to).unwrap();
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    let (mut header, mut end, mut filled) = (Map::new(), 0, Vec::new());
    for (name, Plain { kind, shape, values }) in tensors {
        let bytes = shape.iter().product::<usize>() * if *kind == "I64" { 8 } else { 4 };
        let entry = json!({ "dtype": kind, "shape": shape, "data_offsets": [end, end + bytes] });
        header.insert(name.clone(), entry);
        filled.push((end, values));
        end += bytes;
    }
    let header = Value::Object(header).to_string();
    let path = to.join("model.safetensors");
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    let start = 8 + header.len();
    file.set_len((start + end) as u64).unwrap();
    for (at, values) in filled.iter().filter(|(_, values)| !values.is_empty()) {
        file.seek(SeekFrom::Start((start + at) as u64)).unwrap();
        file.write_all(values).unwrap();
    }
    path
}

/// Overwrites bytes of a file.
fn patch(path: &Path, at: usize, bytes: &[u8]) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(at as u64)).unwrap();
    file.write_all(bytes).unwrap();
}

/// Whether a field counts something, which 2^40 is too many of. Others are factors, bases and epsilons.
fn counts(key: &str) -> bool {
    let of = ["_size", "_dim", "_heads", "_layers", "_experts", "_per_tok", "_replace", "_groups", "_rank"];
    let own = ["decoder_sparse_step", "moe_layer_interval", "moe_layer_start_index", "moe_layer_freq"];
    of.iter().any(|end| key.ends_with(end)) && key != "mscale_all_dim"
        || own.contains(&key)
        || key.contains("pattern")
}

/// A number that cannot be is refused with the name of its field, or the family does not read the field.
#[test]
fn numbers_out_of_range_are_refused_by_name() {
    // Below 0 by nature, and the word for "without a bound".
    let negative = ["kda_lower_bound", "moe_eval_capacity_token_fraction"];
    for (family, config) in configs() {
        let sound = spec(&config).unwrap_or_else(|error| panic!("{family}: {error}"));
        for (path, value) in numbers(&config) {
            let key = path.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap();
            let whole = [json!(-1), json!(0), json!(1_u64 << 40)];
            let floats = [json!(-1e300), json!(1e300)];
            let floats = floats.into_iter().filter(|_| value.is_f64());
            for bad in whole.into_iter().chain(floats) {
                let mut changed = config.clone();
                *changed.pointer_mut(&path).unwrap() = bad.clone();
                let what = format!("{family}: {path} = {bad}");
                match spec(&changed) {
                    // Zero often means none, and some large numbers are possible.
                    Ok(other) => {
                        let huge = bad == json!(1_u64 << 40);
                        let possible = bad == json!(0) || huge && !counts(key) || negative.contains(&key);
                        assert!(possible || other == sound, "{what}: accepted");
                    }
                    // With another number of layers lists contradict it.
                    Err(error) => {
                        let named = error.to_string().contains(key) || key == "num_hidden_layers";
                        assert!(named, "{what}: {error}");
                        assert!(!matches!(error, LoadError::Io { .. }), "{what}: {error}");
                    }
                }
            }
        }
    }
}

/// Tensors of GGUF files that say something of the model by being there.
const TELLING: [&str; 9] = [
    "output.weight",
    ".bias",
    ".attn_v.weight",
    ".attn_q_norm.weight",
    ".attn_k_norm.weight",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    ".attn_rel_b.weight",
];

#[test]
fn tensors_that_are_missing_are_named() {
    let dir = Folder::new();
    let (mut written, mut checked, mut faults) = (0, 0, Vec::new());
    for (family, config) in configs() {
        let tensors = tensors(&spec(&config).unwrap());
        let folder = dir.path().join(&family);
        let weights = write_folder(&folder, &config, &tensors);
        let loaded = load(&folder).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert!(!loaded.notices.iter().any(|n| n.contains("unused")), "{family}: {:?}", loaded.notices);
        for (name, found) in without_each(&folder, &weights, tensors.keys()) {
            match found {
                Ok(_) => faults.push(format!("{family}: accepted without {name}")),
                Err(error) if error.to_string().contains(&name) => {}
                Err(error) => faults.push(format!("{family} without {name}: {error}")),
            }
            checked += 1;
        }
        let file = dir.path().join(format!("{family}.gguf"));
        if write_file(&loaded, &file) {
            written += 1;
            let sound = load(&file).unwrap_or_else(|error| panic!("{family}: {error}"));
            let names: Vec<_> = sound.tensors.catalog().tensors().iter().map(|t| t.name.clone()).collect();
            for (name, found) in without_each(&file, &file, names.iter()) {
                if let Some(fault) = fault_without(&name, found, &sound) {
                    faults.push(format!("{family}.gguf without {name}: {fault}"));
                }
                checked += 1;
            }
        }
        fs::remove_dir_all(&folder).unwrap();
        let _ = fs::remove_file(&file);
    }
    println!("{checked} tensors were missing; {written} families as files");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(written > 50 && checked > 5000, "{written} {checked}");
}

/// What is wrong with what a file is without a tensor: it has to say which is missing.
fn fault_without(name: &str, found: Result<LoadedModel, LoadError>, sound: &LoadedModel) -> Option<String> {
    match found {
        Ok(other) => {
            let tells = TELLING.iter().any(|telling| name.ends_with(telling));
            (!tells || other.spec == sound.spec).then(|| "accepted".to_owned())
        }
        Err(LoadError::Malformed { field, fault: Fault::Missing { .. }, .. }) => {
            // Where there are two forms the error may name a tensor of the other one, of the same layer.
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            let layer = stem.split('.').take(2).collect::<Vec<_>>().join(".");
            (!field.contains(&layer)).then_some(field)
        }
        Err(error) => Some(error.to_string()),
    }
}

/// Writes a folder as a GGUF file, if its family is written.
fn write_file(loaded: &LoadedModel, file: &Path) -> bool {
    // A model of images says what is done to them.
    if let (Source::Hf { path, .. }, Some(_)) = (&loaded.source, &loaded.spec.image) {
        fs::write(path.join("preprocessor_config.json"), "{}").unwrap();
    }
    match Conversion::plan(loaded, &|_| Format::F32).and_then(|plan| plan.write(file, &mut |_| true)) {
        Ok(done) => done,
        Err(LoadError::Unsupported { .. }) => false,
        Err(error) => panic!("{}: {error}", file.display()),
    }
}

/// What a model is without each of its tensors: the header calls it otherwise.
fn without_each<'a>(
    model: &Path,
    weights: &Path,
    names: impl Iterator<Item = &'a String>,
) -> Vec<(String, Result<LoadedModel, LoadError>)> {
    let bytes = fs::read(weights).unwrap();
    let mut out = Vec::new();
    for name in names {
        // One of many experts is as good as any.
        let other = |part: &str| part.parse::<u32>().is_ok_and(|number| number > 1);
        if name.contains(".experts.") && name.split('.').skip(3).any(other) {
            continue;
        }
        let edge = |byte: u8| !(byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_');
        let mut places = bytes.windows(name.len()).enumerate().filter(|(_, part)| *part == name.as_bytes());
        let (at, _) = places
            .find(|(at, _)| edge(bytes[at - 1]) && edge(bytes[at + name.len()]))
            .unwrap_or_else(|| panic!("{name} is in the header"));
        let last = at + name.len() - 1;
        patch(weights, last, b"~");
        out.push((name.clone(), load(model)));
        patch(weights, last, &bytes[last..=last]);
    }
    out
}

/// Lists of configurations that have a value for each layer.
const BY_LAYER: [&str; 7] = [
    "layer_types",
    "mlp_layer_types",
    "hybrid_layer_pattern",
    "moe_layer_freq",
    "indexer_types",
    "num_attention_heads_per_layer",
    "no_rope_layers",
];

/// Tensors of parts that are not run, as released folders call them.
const OTHER_PARTS: [&str; 22] = [
    "mtp.fc.weight",
    "mtp.layers.0.self_attn.q_proj.weight",
    "mtp.norm.weight",
    "model.mtp.layers.0.mlp.gate.weight",
    "model.mtp_layers.0.input_proj.weight",
    "model.mtp_block.0.self_attn.q_proj.weight",
    "model.mtp_emb_norm.0.weight",
    "model.mtp_linear_proj.0.weight",
    "visual.blocks.0.attn.qkv.weight",
    "model.visual.merger.norm.weight",
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    "model.vision_tower.encoder.layers.0.self_attn.k_proj.weight",
    "vision_model.patch_embedding.linear.weight",
    "model.vision_model.blocks.0.attn.qkv.weight",
    "multi_modal_projector.linear_1.weight",
    "model.multi_modal_projector.mm_input_projection_weight",
    "mm_projector.proj.0.weight",
    "model.embed_vision.embedding_projection.weight",
    "model.audio_tower.conv.weight",
    "model.embed_audio.embedding_projection.weight",
    "model.resampler_model.mlp.weight",
    "vit_large_projector.weight",
];

/// What a layer that predicts several tokens at once has beside those of an ordinary one.
const PREDICTING: [&str; 6] = [
    "eh_proj.weight",
    "enorm.weight",
    "hnorm.weight",
    "shared_head.norm.weight",
    "shared_head.head.weight",
    "embed_tokens.weight",
];

/// Layers behind the model's own that predict several tokens at once, and parts for images and sound, are
/// skipped in folders of every family, and a notice says so.
#[test]
fn other_parts_of_folders_are_skipped() {
    let dir = Folder::new();
    for (family, mut config) in configs() {
        let sound = spec(&config).unwrap();
        let mut all = tensors(&sound);
        let folder = dir.path().join(&family);
        let plain = || Plain { kind: "F32", shape: vec![4], values: Vec::new() };
        all.extend(OTHER_PARTS.iter().map(|name| ((*name).to_owned(), plain())));
        let count = sound.layers.len();
        let (own, behind) = (format!("model.layers.{}.", count - 1), format!("model.layers.{count}."));
        let copied: Vec<String> =
            all.keys().filter_map(|name| Some(format!("{behind}{}", name.strip_prefix(&own)?))).collect();
        let more = PREDICTING.iter().map(|name| format!("{behind}{name}"));
        let predicting: Vec<String> = copied.into_iter().chain(more).collect();
        // Encoder-decoders have no such layers.
        if sound.encoder.is_none() {
            all.extend(predicting.iter().map(|name| (name.clone(), plain())));
            let inner = match config.get("text_config") {
                Some(_) => &mut config["text_config"],
                None => &mut config,
            };
            inner["num_nextn_predict_layers"] = json!(1);
            for key in BY_LAYER {
                let list = inner.get_mut(key).and_then(Value::as_array_mut);
                if let Some(list) = list.filter(|list| list.len() == count) {
                    list.push(list.last().unwrap().clone());
                }
            }
        }
        config["vision_config"] = json!({ "hidden_size": 8, "model_type": "seen" });
        write_folder(&folder, &config, &all);
        let loaded = load(&folder).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(loaded.spec.layers, sound.layers, "{family}");
        let predicts = 8 + if sound.encoder.is_none() { predicting.len() } else { 0 };
        said(&family, &loaded, 14, predicts);
        fs::remove_dir_all(&folder).unwrap();
    }
}

/// Checks that a model's notices say how many tensors of other parts were skipped, and of no others.
fn said(what: &str, loaded: &LoadedModel, seen: usize, predicting: usize) {
    let notices = loaded.notices.join("; ");
    let seen = format!("images or sound is not run: {seen} tensors");
    assert!(notices.contains(&seen), "{what}: {notices}");
    if predicting > 0 {
        let predicting = format!("several tokens at once is not run: {predicting} tensors");
        assert!(notices.contains(&predicting), "{what}: {notices}");
    }
    assert!(!notices.contains("unused"), "{what}: {notices}");
}

/// The same in GGUF files, whose keys count such layers with the others.
#[test]
fn other_parts_of_files_are_skipped() {
    let dir = Folder::new();
    let (plain, other) = (dir.path().join("plain.gguf"), dir.path().join("other.gguf"));
    let mut written = 0;
    for (family, config) in configs() {
        let sound = spec(&config).unwrap();
        let folder = dir.path().join(&family);
        write_folder(&folder, &config, &tensors(&sound));
        if write_file(&load(&folder).unwrap(), &plain) {
            written += 1;
            let sound = load(&plain).unwrap().spec;
            let predicting = with_other_parts(&plain, &other, &sound);
            let loaded = load(&other).unwrap_or_else(|error| panic!("{family}: {error}"));
            assert_eq!(loaded.spec.layers, sound.layers, "{family}");
            said(&family, &loaded, 3, predicting);
        }
        fs::remove_dir_all(&folder).unwrap();
    }
    assert!(written > 50, "{written}");
}

/// Copies a file and adds what other programs add: tensors of images and sound, and a layer that predicts,
/// for which every list by layer has a value. Returns how many tensors that layer has.
fn with_other_parts(from: &Path, to: &Path, spec: &ModelSpec) -> usize {
    let gguf = Gguf::open(from).unwrap();
    let arch = gguf.metadata.str("general.architecture").unwrap().unwrap().to_owned();
    let count = spec.layers.len();
    let predicts = spec.encoder.is_none();
    let mut metadata = Vec::new();
    for (key, value) in gguf.metadata.iter() {
        let mut value = value.clone();
        let counts = key == format!("{arch}.block_count");
        match &mut value {
            Entry::U32(layers) if predicts && counts => *layers += 1,
            Entry::Array(list) if predicts && key.starts_with(&arch) => longer(list, count),
            _ => {}
        }
        metadata.push((key.to_owned(), value));
    }
    let mut added: Vec<String> =
        ["v.blk.0.attn_k.weight", "mm.0.weight", "a.conv1d.weight"].map(String::from).into();
    let mut predicting = 0;
    if predicts {
        metadata.push((format!("{arch}.nextn_predict_layers"), Entry::U32(1)));
        let (own, behind) = (format!("blk.{}.", count - 1), format!("blk.{count}."));
        let names = gguf.catalog.tensors().iter().filter_map(|tensor| tensor.name.strip_prefix(&own));
        let more = ["nextn.eh_proj.weight", "nextn.enorm.weight", "nextn.shared_head_norm.weight"];
        let before = added.len();
        added.extend(names.chain(more).map(|name| format!("{behind}{name}")));
        predicting = added.len() - before;
    }
    let tensors = gguf.catalog.tensors();
    let own = tensors.iter().map(|t| TensorPlan {
        name: t.name.clone(),
        storage: t.storage,
        shape: t.shape.clone(),
    });
    let (storage, shape) = (Storage::Known(Format::F32), vec![4]);
    let more = added.iter().map(|name| TensorPlan { name: name.clone(), storage, shape: shape.clone() });
    let plans: Vec<TensorPlan> = own.chain(more).collect();
    let mut writer = GgufWriter::create(to, &metadata, &plans, &[]).unwrap();
    tensors.iter().for_each(|t| writer.write_tensor(&t.name, gguf.catalog.bytes(t)).unwrap());
    added.iter().for_each(|name| writer.write_tensor(name, &[0; 16]).unwrap());
    writer.finish().unwrap();
    predicting
}

/// Repeats the last value of a list that has one for each layer.
fn longer(list: &mut Array, count: usize) {
    match list {
        Array::U32(values) if values.len() == count => values.push(values[count - 1]),
        Array::I32(values) if values.len() == count => values.push(values[count - 1]),
        Array::F32(values) if values.len() == count => values.push(values[count - 1]),
        Array::Bool(values) if values.len() == count => values.push(values[count - 1]),
        _ => {}
    }
}

/// Language models inside models for several kinds of input, as they are released: the configuration is
/// nested, and names begin otherwise.
#[test]
fn language_models_inside_other_models() {
    const NEW: (&str, &str) = ("model.language_model.", "lm_head.");
    const OLD: (&str, &str) = ("language_model.model.", "language_model.lm_head.");
    let released = [
        ("gemma3-scale", "gemma3", OLD),
        ("gemma3-scale", "gemma3", NEW),
        ("gemma4moe", "gemma4", NEW),
        ("gemma4-ple", "gemma4", NEW),
        ("ministral3", "mistral3", OLD),
        ("ministral3", "mistral3", NEW),
        ("mistral4", "mistral3", NEW),
        ("llama4", "llama4", OLD),
        ("llama4", "llama4", NEW),
        ("qwen3vlmoe", "qwen3_vl_moe", NEW),
        ("qwen35", "qwen3_5", NEW),
        ("qwen35moe", "qwen3_5_moe", NEW),
        ("qwen4exp", "qwen4_exp", NEW),
        ("deepseek3", "kimi_k25", OLD),
        ("glm4moe", "glm4v_moe", NEW),
    ];
    let (dir, all) = (Folder::new(), configs());
    for (family, outer, (model, head)) in released {
        let config = &all[family];
        let inner = config.get("text_config").unwrap_or(config).clone();
        let sound = spec(config).unwrap();
        let mut wrapped: BTreeMap<String, Plain> = BTreeMap::new();
        for (name, plain) in tensors(&sound) {
            let new = match (name.strip_prefix("model."), name.strip_prefix("lm_head.")) {
                (Some(rest), _) => format!("{model}{rest}"),
                (_, Some(rest)) => format!("{head}{rest}"),
                _ => name,
            };
            wrapped.insert(new, plain);
        }
        for name in OTHER_PARTS {
            wrapped.insert(name.into(), Plain { kind: "F32", shape: vec![4], values: Vec::new() });
        }
        let mut config = if config.get("text_config").is_some() { config.clone() } else { json!({}) };
        config["model_type"] = json!(outer);
        config["text_config"] = inner;
        config["vision_config"] = json!({ "hidden_size": 8, "num_hidden_layers": 2 });
        config["image_token_id"] = json!(5);
        let folder = dir.path().join(format!("{family}-{}", model.len()));
        write_folder(&folder, &config, &wrapped);
        let loaded = load(&folder).unwrap_or_else(|error| panic!("{family} in {outer}: {error}"));
        assert_eq!(loaded.spec.layers, sound.layers, "{family} in {outer}");
        said(&format!("{family} in {outer}"), &loaded, 14, 8);
    }
}

/// Pointers to the numbers of a configuration, of lists to the first one.
fn numbers(config: &Value) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let mut open = vec![(String::new(), config.clone())];
    while let Some((path, value)) = open.pop() {
        match value {
            Value::Number(_) => out.push((path, value)),
            Value::Object(map) => open.extend(map.into_iter().map(|(k, v)| (format!("{path}/{k}"), v))),
            Value::Array(list) => open.extend(list.into_iter().take(1).map(|v| (format!("{path}/0"), v))),
            _ => {}
        }
    }
    out
}
