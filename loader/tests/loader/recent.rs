//! Configurations of DeepSeek-V4, JetMoE and DS-MoE as they are released or saved: what they mean, and what
//! is refused with the name of the field.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::Path;

use moelten_loader::error::LoadError;
use moelten_loader::load::spec_of_config;
use moelten_loader::spec::{
    Activation, CompressedSpec, ModelSpec, Op, RopeScaling, Scoring, Select, SharedExpert, StreamMix,
};
use serde_json::{Value, json};

/// DeepSeek-V4-Flash as it is released, with fewer layers.
fn released() -> Value {
    json!({
        "model_type": "deepseek_v4", "vocab_size": 129_280, "hidden_size": 4096, "moe_intermediate_size": 2048,
        "num_hidden_layers": 5, "num_attention_heads": 64, "num_key_value_heads": 1, "head_dim": 512,
        "q_lora_rank": 1024, "qk_rope_head_dim": 64, "n_routed_experts": 256, "num_experts_per_tok": 6,
        "n_shared_experts": 1, "scoring_func": "sqrtsoftplus", "norm_topk_prob": true,
        "routed_scaling_factor": 1.5, "topk_method": "noaux_tc", "rope_theta": 10_000,
        "compress_rope_theta": 160_000, "sliding_window": 128, "o_groups": 8, "o_lora_rank": 1024,
        "rope_scaling": { "type": "yarn", "factor": 16, "original_max_position_embeddings": 65_536,
            "beta_fast": 32, "beta_slow": 1 },
        "index_n_heads": 64, "index_head_dim": 128, "index_topk": 512, "hc_mult": 4, "hc_sinkhorn_iters": 20,
        "hc_eps": 1e-6, "swiglu_limit": 10.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
        "num_nextn_predict_layers": 1, "compress_ratios": [0, 0, 4, 128, 4, 0], "num_hash_layers": 3,
        "max_position_embeddings": 1_048_576, "quantization_config": { "quant_method": "fp8" },
    })
}

fn spec(config: &Value) -> ModelSpec {
    spec_of_config(Path::new("v4/config.json"), config).unwrap_or_else(|error| panic!("{error}"))
}

fn compressed(spec: &ModelSpec) -> Vec<&CompressedSpec> {
    let branches = spec.layers.iter().flat_map(|layer| &layer.branches);
    branches
        .filter_map(|branch| match &branch.op {
            Op::Compressed(compressed) => Some(compressed),
            _ => None,
        })
        .collect()
}

#[test]
fn a_released_deepseek_v4_says_how_each_layer_attends() {
    let spec = spec(&released());
    let streams = spec.streams.unwrap();
    let StreamMix::Sinkhorn { iterations, .. } = streams.mix else { panic!("mixed by gates") };
    assert_eq!((streams.count, iterations), (4, 20));
    let layers = compressed(&spec);
    let kinds: Vec<_> = layers
        .iter()
        .map(|layer| layer.compressor.as_ref().map(|c| (c.rate, c.choice.as_ref().map(|choice| choice.top))))
        .collect();
    assert_eq!(kinds, [None, None, Some((4, Some(512))), Some((128, None)), Some((4, Some(512)))]);
    let ropes: Vec<_> = layers.iter().map(|layer| layer.attention.rope.clone().unwrap()).collect();
    assert_eq!((ropes[0].theta, ropes[0].dim, &ropes[0].scaling), (10_000.0, 64, &RopeScaling::None));
    assert_eq!((ropes[2].theta, ropes[2].dim), (160_000.0, 64));
    let RopeScaling::Yarn { factor, attention_factor, .. } = ropes[2].scaling else { panic!("it is yarn") };
    assert_eq!((factor, attention_factor), (16.0, 1.0), "rotated parts keep their length");
    for (index, layer) in spec.layers.iter().enumerate() {
        let moe = layer.moe().unwrap();
        assert_eq!(moe.expert.activation, Activation::ClampedSilu { limit: 10.0 });
        assert!(matches!(&moe.shared, SharedExpert::Plain(mlp) if mlp.d_ff == 2048));
        let Select::Scored { k, scoring, bias, .. } = moe.router.select else { panic!("it scores") };
        assert_eq!((k, scoring, moe.router.scale), (6, Scoring::SqrtSoftplus, 1.5));
        assert_eq!((moe.router.listed, bias), (index < 3, index >= 3));
    }
}

/// The form that transformers saves says the same.
#[test]
fn a_saved_deepseek_v4_says_the_same() {
    let mut saved = released();
    let fields = saved.as_object_mut().unwrap();
    for gone in ["compress_ratios", "num_hash_layers", "rope_scaling", "compress_rope_theta"] {
        fields.remove(gone);
    }
    let (sparse, heavy) = ("compressed_sparse_attention", "heavily_compressed_attention");
    fields.insert("compress_rates".into(), json!({ sparse: 4, heavy: 128 }));
    fields.insert(
        "layer_types".into(),
        json!(["sliding_attention", "sliding_attention", sparse, heavy, sparse]),
    );
    fields.insert("mlp_layer_types".into(), json!(["hash_moe", "hash_moe", "hash_moe", "moe", "moe"]));
    let yarn = json!({ "rope_type": "yarn", "rope_theta": 160_000.0, "factor": 16, "beta_fast": 32,
        "beta_slow": 1, "original_max_position_embeddings": 65_536, "partial_rotary_factor": 0.125 });
    let plain = json!({ "rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.125 });
    fields.insert("rope_parameters".into(), json!({ "compress": yarn, "main": plain }));
    assert_eq!(spec(&saved), spec(&released()));
}

/// The message for a configuration with one field changed.
fn refused(mut config: Value, field: &str, value: Value) -> String {
    config[field] = value;
    match spec_of_config(Path::new("config.json"), &config) {
        Err(error @ (LoadError::Malformed { .. } | LoadError::Unsupported { .. })) => error.to_string(),
        Err(other) => panic!("{field}: {other}"),
        Ok(_) => panic!("{field}: accepted"),
    }
}

#[test]
fn fields_of_deepseek_v4_out_of_range_are_refused_by_name() {
    let cases = [
        ("hc_mult", json!(0)),
        ("hc_mult", json!(9)),
        ("hc_sinkhorn_iters", json!(0)),
        ("hc_eps", json!(-1.0)),
        ("o_groups", json!(0)),
        ("o_groups", json!(7)),
        ("o_lora_rank", Value::Null),
        ("compress_ratios", json!([0, 4])),
        ("compress_ratios", json!([0, 0, 5000, 4, 4, 0])),
        ("index_topk", json!(0)),
        ("index_head_dim", json!(32)),
        ("num_hash_layers", json!(1 << 20)),
        ("sliding_window", Value::Null),
        ("scoring_func", json!("cube")),
        ("swiglu_limit", json!(0.0)),
    ];
    for (field, value) in cases {
        let message = refused(released(), field, value.clone());
        assert!(message.contains(field), "{field} = {value}: {message}");
    }
}

fn jetmoe() -> Value {
    json!({
        "model_type": "jetmoe", "vocab_size": 32_000, "hidden_size": 2048, "num_hidden_layers": 2,
        "num_attention_heads": 32, "num_key_value_heads": 16, "kv_channels": 128, "intermediate_size": 5632,
        "num_local_experts": 8, "num_experts_per_tok": 2, "activation_function": "silu", "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0, "max_position_embeddings": 4096, "tie_word_embeddings": true,
    })
}

#[test]
fn jetmoe_has_query_heads_in_experts() {
    let spec = spec(&jetmoe());
    let heads = spec.first_layer().head_experts().unwrap();
    assert_eq!((heads.experts, heads.own_heads(), heads.own_width()), (8, 16, 2048));
    assert_eq!(spec.banks().count(), 4, "attention experts and others of both layers");
    for (field, value) in [("num_attention_heads", json!(48)), ("num_experts_per_tok", json!(9))] {
        let message = refused(jetmoe(), field, value);
        assert!(message.contains(field), "{message}");
    }
}

#[test]
fn a_threshold_that_may_choose_no_expert_is_refused() {
    let mut dsmoe = jetmoe();
    for (field, value) in [
        ("model_type", json!("dsmoe")),
        ("num_attention_experts", json!(8)),
        ("num_attention_heads", json!(128)),
        ("num_experts_per_tok", Value::Null),
        ("router_threshold", json!(0.48)),
    ] {
        dsmoe[field] = value;
    }
    let own = spec(&dsmoe);
    let select = &own.first_layer().moe().unwrap().router.select;
    assert_eq!(select, &Select::Threshold { eps: 0.48, most: 8, renormalise: false });
    for bad in [json!(1.0), json!(-0.1), json!("0.48")] {
        let message = refused(dsmoe.clone(), "router_threshold", bad);
        assert!(message.contains("router_threshold"), "{message}");
    }
}
