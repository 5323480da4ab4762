//! Configurations and files that omit fields or state them otherwise than the golden folders: defaults of the
//! configuration classes, keys that converters do not write, a clamp on q, k and v.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::{FAMILIES, How, distance, folder, golden, logits, model, session, spread};
use moelten_engine::KvFormat;
use moelten_engine::Sequence;
use moelten_engine::plan::SequenceOptions;
use moelten_engine::plan::context::{ContextLimit, buffer_bytes, default_context};
use moelten_loader::container::catalog::TensorInfo;
use moelten_loader::container::gguf::write::{GgufWriter, TensorPlan};
use moelten_loader::container::gguf::{Gguf, Value as Entry};
use moelten_loader::container::safetensors::SafeTensors;
use moelten_loader::convert::Conversion;
use moelten_loader::load::{load, spec_of_config};
use moelten_loader::spec::{LayerSpec, ModelSpec, NormSpec, Op, RopeScaling, RopeSpec, SharedExpert};
use moelten_quant::Format;
use serde_json::{Value, json};

fn config(family: &str) -> Value {
    serde_json::from_slice(&fs::read(folder(family).join("config.json")).unwrap()).unwrap()
}

/// A golden folder under another configuration.
fn reconfigured(family: &str, config: &Value, dir: &Path) -> PathBuf {
    let target = dir.join(family);
    fs::create_dir_all(&target).unwrap();
    fs::copy(folder(family).join("model.safetensors"), target.join("model.safetensors")).unwrap();
    fs::write(target.join("config.json"), config.to_string()).unwrap();
    target
}

fn run(path: &Path, family: &str) -> Vec<f32> {
    let model = model(path, How::default());
    logits(&mut session(&model, KvFormat::F32), &golden(family).ids).0
}

/// A folder as an F32 file without some of its keys and with some others.
fn rekeyed(source: &Path, target: &Path, without: &[&str], with: &[(&str, Entry)]) {
    let whole = target.with_extension("whole");
    let loaded = load(source).unwrap();
    assert!(Conversion::plan(&loaded, &|_| Format::F32).unwrap().write(&whole, &mut |_| true).unwrap());
    let gguf = Gguf::open(&whole).unwrap();
    assert!(without.iter().all(|key| gguf.metadata.get(key).is_some()), "{without:?}");
    let kept = gguf.metadata.iter().filter(|(key, _)| !without.contains(key));
    let added = with.iter().map(|(key, value)| (*key, value));
    let metadata: Vec<_> = kept.chain(added).map(|(key, value)| (key.to_owned(), value.clone())).collect();
    let plan =
        |t: &TensorInfo| TensorPlan { name: t.name.clone(), storage: t.storage, shape: t.shape.clone() };
    let plans: Vec<_> = gguf.catalog.tensors().iter().map(plan).collect();
    let mut writer = GgufWriter::create(target, &metadata, &plans, &[]).unwrap();
    for tensor in gguf.catalog.tensors() {
        writer.write_tensor(&tensor.name, gguf.catalog.bytes(tensor)).unwrap();
    }
    writer.finish().unwrap();
}

fn rope(spec: &ModelSpec) -> &RopeSpec {
    spec.layers[0].attention().unwrap().rope.as_ref().unwrap()
}

fn windows(spec: &ModelSpec) -> Vec<Option<usize>> {
    spec.attention_layers().map(|attention| attention.window).collect()
}

/// OLMoE applies norms to q and k before the clamp. With both matrices eight times as large the norms give
/// the same output, so the clamp after them cuts the same. A clamp before them would cut more.
#[test]
fn clip_qkv_comes_after_the_norms() {
    let dir = tempfile::tempdir().unwrap();
    let free = run(&folder("olmoe"), "olmoe");
    let mut config = config("olmoe");
    config["clip_qkv"] = json!(0.5);
    // A larger epsilon would make the norms depend on the size of their input.
    config["rms_norm_eps"] = json!(1e-12);
    let path = reconfigured("olmoe", &config, dir.path());
    let clipped = run(&path, "olmoe");
    assert!(distance(&clipped, &free) > 0.01 * spread(&free), "the clamp does something");
    let weights = path.join("model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    {
        let file = SafeTensors::open(&weights).unwrap();
        for tensor in file.catalog().tensors() {
            if !tensor.name.ends_with("q_proj.weight") && !tensor.name.ends_with("k_proj.weight") {
                continue;
            }
            let start = usize::try_from(tensor.offset).unwrap();
            let data = &mut bytes[start..start + usize::try_from(tensor.bytes).unwrap()];
            for value in data.chunks_exact_mut(2) {
                let eightfold = half::bf16::from_le_bytes([value[0], value[1]]).to_f32() * 8.0;
                value.copy_from_slice(&half::bf16::from_f32(eightfold).to_le_bytes());
            }
        }
    }
    fs::write(&weights, bytes).unwrap();
    assert!(distance(&run(&path, "olmoe"), &clipped) <= 1e-4 * spread(&free));
}

/// Files of Phi-3.5-MoE have two tensors of divisors, and no key with the name of the scheme.
#[test]
fn longrope_is_recognised_by_its_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("phimoe");
    let divisors = |step: f64| (0..8).map(|i| 1.0 + step * f64::from(i)).collect::<Vec<_>>();
    config["original_max_position_embeddings"] = json!(64);
    config["rope_theta"] = json!(10000.0);
    config["rope_scaling"] = json!({
        "type": "longrope", "short_factor": divisors(0.125), "long_factor": divisors(0.5),
        "short_mscale": 1.25, "long_mscale": 1.25, "original_max_position_embeddings": 64,
    });
    config.as_object_mut().unwrap().remove("rope_parameters");
    let source = reconfigured("phimoe", &config, dir.path());
    let file = dir.path().join("unnamed.gguf");
    rekeyed(&source, &file, &["phimoe.rope.scaling.type"], &[]);
    let (expected, found) = (load(&source).unwrap(), load(&file).unwrap());
    assert!(matches!(rope(&found.spec).scaling, RopeScaling::LongRope { long_factor: 1.25, .. }));
    assert_eq!(found.spec.layers, expected.spec.layers);
    // The default context keeps the frequencies for short texts.
    let choice = default_context(&expected.spec, KvFormat::F16, 1 << 30);
    assert_eq!((choice.tokens, choice.limit), (64, ContextLimit::ShortRope));
    // GGUF has one attention factor, so two different ones cannot be written.
    config["rope_scaling"]["long_mscale"] = json!(1.5);
    let uneven = reconfigured("phimoe", &config, dir.path());
    let loaded = load(&uneven).unwrap();
    assert!(Conversion::plan(&loaded, &|_| Format::F32).is_err());
}

#[test]
fn linear_scaling_has_an_older_key_and_needs_no_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("older.gguf");
    let scaling = |keys: &[(&str, Entry)]| {
        rekeyed(&folder("llama"), &file, &[], keys);
        rope(&load(&file).unwrap().spec).scaling.clone()
    };
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(scaling(&[("llama.rope.scale_linear", Entry::F32(4.0))]), linear);
    assert_eq!(scaling(&[("llama.rope.scaling.factor", Entry::F32(4.0))]), linear);
    for nothing in [0.0, 1.0] {
        assert_eq!(scaling(&[("llama.rope.scaling.factor", Entry::F32(nothing))]), RopeScaling::None);
    }
    let off = ("llama.rope.scaling.type", Entry::Str("none".into()));
    assert_eq!(scaling(&[off, ("llama.rope.scaling.factor", Entry::F32(4.0))]), RopeScaling::None);
}

/// Older files of Qwen's MoE models have no keys for the widths of experts.
#[test]
fn expert_widths_are_taken_from_the_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("old.gguf");
    let keys = ["qwen2moe.expert_feed_forward_length", "qwen2moe.expert_shared_feed_forward_length"];
    rekeyed(&folder("qwen2moe"), &file, &keys, &[]);
    assert_eq!(load(&file).unwrap().spec.layers, load(&folder("qwen2moe")).unwrap().spec.layers);
}

#[test]
fn missing_fields_have_the_defaults_of_the_configuration_class() {
    let lowered = |config: &Value| spec_of_config(Path::new("config.json"), config).unwrap();
    let without = |family: &str, fields: &[&str]| {
        let mut config = config(family);
        fields.iter().for_each(|field| drop(config.as_object_mut().unwrap().remove(*field)));
        lowered(&config)
    };
    for (family, theta, eps) in [("llama", 1e4, 1e-6), ("mixtral", 1e6, 1e-5), ("olmoe", 1e4, 1e-5)] {
        let spec = without(family, &["rope_parameters", "rms_norm_eps"]);
        assert_eq!((rope(&spec).theta, spec.final_norm), (theta, Some(NormSpec::Rms { eps })), "{family}");
    }
    let phi = without("phimoe", &["attention_bias", "lm_head_bias"]);
    let attention = phi.layers[0].attention().unwrap();
    assert!(!attention.qkv_bias && !attention.out_bias && !phi.head.bias);
    // `mlp_only_layers` counts without `decoder_sparse_step` too.
    let mut sparse = config("qwen3moe");
    sparse.as_object_mut().unwrap().remove("decoder_sparse_step");
    sparse["mlp_only_layers"] = json!([1]);
    let dense: Vec<bool> = lowered(&sparse).layers.iter().map(|l| l.mlp().is_some()).collect();
    assert_eq!(dense[..2], [false, true]);
    // The window of Qwen models is off unless `use_sliding_window` is set.
    let mut qwen = config("qwen2");
    qwen["sliding_window"] = json!(8);
    qwen["max_window_layers"] = json!(1);
    for field in ["use_sliding_window", "layer_types"] {
        qwen.as_object_mut().unwrap().remove(field);
    }
    assert!(windows(&lowered(&qwen)).iter().all(Option::is_none));
    qwen["use_sliding_window"] = json!(true);
    assert_eq!(windows(&lowered(&qwen))[..2], [None, Some(8)]);
}

#[test]
fn a_recommended_top_k_below_one_is_off() {
    let dir = tempfile::tempdir().unwrap();
    for (stated, expected) in [(-1, 0), (0, 0), (20, 20)] {
        let file = dir.path().join("hints.gguf");
        rekeyed(&folder("llama"), &file, &[], &[("general.sampling.top_k", Entry::I32(stated))]);
        assert_eq!(load(&file).unwrap().sampling_hints().0.top_k, Some(expected));
    }
}

/// Buffers count against the budget like the KV cache, so that a sequence that does not fit is refused before
/// it allocates. The count equals the allocation, also for models whose hidden layers are much wider than
/// everything else.
#[test]
fn buffers_are_counted_before_they_are_allocated() {
    for family in FAMILIES {
        let model = model(&folder(family), How::default());
        for context in [1, 9, 64] {
            let options = SequenceOptions { context: Some(context), kv: KvFormat::F16 };
            let (_, buffers) = Sequence::new(Arc::clone(&model), options).unwrap().bytes();
            assert_eq!(buffers, buffer_bytes(model.spec(), context), "{family}, a context of {context}");
        }
    }
    // Bytes of the hidden layer of a whole pass.
    let wide = 1 << 20;
    let hidden = 512 * wide as u64 * size_of::<f32>() as u64;
    let with = |family: &str, change: fn(&mut Op, usize)| {
        let mut spec = load(&folder(family)).unwrap().spec;
        assert!(buffer_bytes(&spec, 512) < hidden / 100, "everything else is small");
        let LayerSpec { branches, .. } = &mut spec.layers[0];
        change(&mut branches[1].op, wide);
        buffer_bytes(&spec, 512)
    };
    let dense = with("qwen3", |ffn, wide| {
        let Op::Mlp(mlp) = ffn else { panic!("qwen3 is dense") };
        mlp.d_ff = wide;
    });
    let experts = with("mixtral", |ffn, wide| {
        let Op::Moe(moe) = ffn else { panic!("mixtral has experts") };
        moe.expert.d_ff = wide;
    });
    let shared = with("qwen2moe", |ffn, wide| {
        let Op::Moe(moe) = ffn else { panic!("qwen2moe has experts") };
        let (SharedExpert::Plain(mlp) | SharedExpert::Gated(mlp)) = &mut moe.shared else {
            panic!("and a shared one")
        };
        mlp.d_ff = wide;
    });
    assert!([dense, experts, shared].into_iter().all(|bytes| bytes > hidden), "{dense} {experts} {shared}");
}

/// Converted Llama 3 files have divisors. A linear factor beside them divides again; another scheme
/// contradicts them.
#[test]
fn divisors_and_a_linear_factor_both_count() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("both.gguf");
    let scaling = |keys: &[(&str, Entry)]| {
        rekeyed(&folder("llama3-rope"), &file, &[], keys);
        load(&file).map(|loaded| rope(&loaded.spec).scaling.clone())
    };
    let RopeScaling::Factors { divisors: plain } = scaling(&[]).unwrap() else { panic!("no divisors") };
    let kind = |name: &str| ("llama.rope.scaling.type", Entry::Str(name.into()));
    let both = scaling(&[kind("linear"), ("llama.rope.scaling.factor", Entry::F32(2.0))]).unwrap();
    assert_eq!(both, RopeScaling::Factors { divisors: plain.iter().map(|divisor| divisor * 2.0).collect() });
    assert!(scaling(&[kind("yarn"), ("llama.rope.scaling.factor", Entry::F32(2.0))]).is_err());
}

#[test]
fn unknown_fields_are_reported_inside_rope_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config("llama");
    config["rope_parameters"]["sparkle"] = json!(0.7);
    config["glitter"] = json!(true);
    let notices = load(&reconfigured("llama", &config, dir.path())).unwrap().notices;
    assert!(
        notices.iter().any(|n| n.contains("rope_parameters.sparkle") && n.contains("glitter")),
        "{notices:?}"
    );
}

/// GGUF files count layers that predict several tokens at once among their layers. They are not run, and a
/// notice says so.
#[test]
fn predicting_layers_are_skipped_with_a_notice() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("predicting.gguf");
    let count = |key: &'static str, n| (key, Entry::U32(n));
    let layers = ["glm4moe.block_count"];
    let more = [count("glm4moe.block_count", 3), count("glm4moe.nextn_predict_layers", 1)];
    rekeyed(&folder("glm4moe"), &file, &layers, &more);
    let loaded = load(&file).unwrap();
    assert_eq!(loaded.spec.layers.len(), 2);
    let told = |notice: &String| notice.contains("predicts several tokens") && notice.contains("skipped");
    assert!(loaded.notices.iter().any(told), "{:?}", loaded.notices);
    assert!(!loaded.notices.iter().any(|notice| notice.contains("unused")), "{:?}", loaded.notices);
    let all = [count("glm4moe.block_count", 3), count("glm4moe.nextn_predict_layers", 3)];
    rekeyed(&folder("glm4moe"), &file, &layers, &all);
    assert!(load(&file).unwrap_err().to_string().contains("nextn_predict_layers"));
    rekeyed(
        &folder("glm4moe"),
        &file,
        &["glm4moe.expert_gating_func"],
        &[count("glm4moe.expert_gating_func", 9)],
    );
    assert!(load(&file).unwrap_err().to_string().contains("expert_gating_func = 9"));
}

/// Gemma 3 of 4 billion weights, as released: the text's settings are nested, most sizes are left out, and
/// the rope is in the older form.
#[test]
fn gemma3_folders_may_leave_out_sizes() {
    let text = json!({
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": { "factor": 8.0, "rope_type": "linear" }, "sliding_window": 1024,
    });
    let config = json!({ "model_type": "gemma3", "text_config": text });
    let spec = spec_of_config(Path::new("gemma3"), &config).unwrap();
    assert_eq!((spec.vocab, spec.max_context, spec.head.tied), (262_208, 131_072, true));
    for (layer, attention) in spec.attention_layers().enumerate() {
        let sizes = (attention.heads, attention.kv_heads, attention.head_dim, attention.scale);
        assert_eq!(sizes, (8, 4, 256, 1.0 / 16.0));
        let rope = attention.rope.as_ref().unwrap();
        match attention.window {
            None => {
                assert_eq!(layer % 6, 5);
                assert_eq!((rope.theta, &rope.scaling), (1e6, &RopeScaling::Linear { factor: 8.0 }));
            }
            Some(window) => {
                assert_eq!((window, rope.theta, &rope.scaling), (1024, 1e4, &RopeScaling::None));
            }
        }
    }
}
