//! Golden configurations made wide enough for every block format, with random weights, and files of them.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::Conversion;
use moelten_loader::load::load;
use moelten_quant::Format;
use serde_json::{Map, Value, json};

use super::folder;

/// Weights in a block of the largest formats.
const WIDTH: u64 = 256;
/// Layers that are kept.
const LAYERS: u64 = 2;

/// The wide form of a size of a golden checkpoint. Numbers of heads and experts and the vocabulary stay,
/// hidden layers become one super-block wide, and other sizes become four times as large: 64 becomes a
/// super-block.
fn wider(size: u64) -> u64 {
    match size {
        ..=16 | 320 => size,
        96 | 160 => WIDTH,
        _ => 4 * size,
    }
}

/// A folder with the first layers of a golden family, widened.
pub fn wide(family: &str, dir: &Path) -> PathBuf {
    let target = dir.join(format!("wide-{family}"));
    std::fs::create_dir_all(&target).unwrap();
    let source = folder(family);
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    for key in [
        "hidden_size",
        "head_dim",
        "intermediate_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
    ] {
        if let Some(size) = config[key].as_u64() {
            config[key] = json!(wider(size));
        }
    }
    config["num_hidden_layers"] = json!(LAYERS);
    if let Some(types) = config["layer_types"].as_array_mut() {
        types.truncate(usize::try_from(LAYERS).unwrap());
    }
    std::fs::write(target.join("config.json"), config.to_string()).unwrap();

    let file = SafeTensors::open(&source.join("model.safetensors")).unwrap();
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut state = 1u64;
    for tensor in file.catalog().tensors().iter().filter(|t| !t.name.contains("layers.2.")) {
        let shape: Vec<u64> = tensor.shape.iter().map(|&size| wider(size)).collect();
        // Matrices keep the size of what they multiply. Norms vary around 1, biases around 0.
        let (middle, spread) = match shape[..] {
            [_] if tensor.name.ends_with("bias") => (0.0, 0.3),
            [_] => (1.0, 0.5),
            _ => (0.0, (3.0 / shape[shape.len() - 1] as f32).sqrt()),
        };
        let start = data.len();
        for _ in 0..shape.iter().product::<u64>() {
            // Knuth's MMIX generator; its high bits are good enough for weights.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            data.extend_from_slice(&(middle + spread * unit).to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(target.join("model.safetensors"), [&length[..], header.as_bytes(), &data].concat())
        .unwrap();
    target
}

/// Converts a model to a GGUF file whose matrices have these formats in turn.
pub fn converted(source: &Path, formats: &[Format], target: &Path) {
    let loaded = load(source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let turn = Cell::new(0);
    let choose = |_| formats[turn.replace(turn.get() + 1) % formats.len()];
    let plan =
        Conversion::plan(&loaded, &choose).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    assert!(plan.write(target, &mut |_| true).unwrap());
}
