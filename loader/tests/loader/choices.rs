//! Configurations of GLM-5 and Qwen3.8: which layers choose what tokens attend to. Tasks of models of images.
//! What is refused is refused with the name of the field.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::path::Path;

use moelten_loader::load::spec_of_config;
use serde_json::{Value, json};

/// The configuration of a golden.
fn golden(family: &str) -> Value {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/tests/golden");
    serde_json::from_slice(&std::fs::read(goldens.join(family).join("config.json")).unwrap()).unwrap()
}

/// A configuration with other values; those of `null` are left out.
fn with(family: &str, fields: &[(&str, Value)]) -> Value {
    let mut config = golden(family);
    let object = config.as_object_mut().unwrap();
    for (field, value) in fields {
        object.remove(*field);
        if !value.is_null() {
            object.insert((*field).to_owned(), value.clone());
        }
    }
    config
}

fn refused(config: &Value) -> String {
    spec_of_config(Path::new("it/config.json"), config).unwrap_err().to_string()
}

#[test]
fn layers_choose_or_take_the_choice_before() {
    let none = ("indexer_types", Value::Null);
    let cases = [
        (vec![], [true, false, true, false]),
        (vec![none.clone()], [true; 4]),
        (vec![none.clone(), ("index_topk_pattern", json!("FSSF"))], [true, false, false, true]),
        (vec![none.clone(), ("index_topk_freq", json!(2))], [true, true, false, true]),
        (
            vec![none, ("index_topk_freq", json!(3)), ("index_skip_topk_offset", json!(1))],
            [true, false, false, true],
        ),
    ];
    for (fields, expected) in cases {
        let spec = spec_of_config(Path::new("it/config.json"), &with("glm5shared", &fields)).unwrap();
        let latent = spec.layers.iter().map(|layer| layer.latent().unwrap());
        let found: Vec<_> = latent.clone().map(|latent| latent.indexer.is_some()).collect();
        assert_eq!(found, expected, "{fields:?}");
        assert!(latent.clone().all(|latent| latent.most_chosen() == Some(8)));
        assert!(latent.into_iter().all(|latent| latent.indexer.is_some() != latent.chosen_before.is_some()));
    }
}

#[test]
fn choices_out_of_range_are_refused_by_name() {
    let cases = [
        ("glm5shared", "indexer_types", json!(["shared", "full", "full", "full"])),
        ("glm5shared", "indexer_types", json!(["full", "full"])),
        ("glm5shared", "indexer_types", json!(["full", "half", "full", "full"])),
        ("glm5shared", "index_topk", json!(0)),
        ("qwen4exp", "ple_layer_ids", json!([4])),
        ("qwen4exp", "ple_layer_ids", json!([1, 2])),
        ("qwen4exp", "ple_embed_dim", json!(33)),
        ("qwen4exp", "ngram_size", json!(1)),
        ("qwen4exp", "heads_per_ngram", json!(0)),
        ("qwen4exp", "split_ngram_parts", json!(0)),
        ("qwen4exp", "ple_conv_kernel_size", json!(1)),
        ("qwen4exp", "hc_lowrank", json!(0)),
        ("qwen4exp", "indexer_head_dim", json!(4)),
        ("qwen4exp", "indexer_budget", json!(0)),
        ("qwen4exp", "indexer_compress_ratio", json!(0)),
    ];
    for (family, field, value) in cases {
        let message = refused(&with(family, &[(field, value.clone())]));
        assert!(message.contains(field), "{field} = {value}: {message}");
    }
    for (field, value) in [("index_topk_pattern", json!("FXFF")), ("index_topk_freq", json!(0))] {
        let message = refused(&with("glm5shared", &[("indexer_types", Value::Null), (field, value.clone())]));
        assert!(message.contains(field), "{field} = {value}: {message}");
    }
}

#[test]
fn tasks_of_models_of_images_are_checked_by_name() {
    let with = |fields: &[(&str, Value)]| with("adamvmoe", fields);
    let spec = spec_of_config(Path::new("it/config.json"), &with(&[])).unwrap();
    let image = spec.image.unwrap();
    assert_eq!((image.tasks, image.all_classes, spec.vocab), (3, 12, 3 * image.rows()));
    for (field, value, words) in [
        ("tasks", json!([]), "tasks: is 0"),
        ("tasks", json!(["a", "b", "a"]), "names that are all different"),
        ("tasks", json!(["a", "", "b"]), "names that are all different"),
        ("tasks", json!("a"), "tasks: is a string"),
        ("tasks", json!(["a", "b"]), "a list of 3 values"),
        ("task_num_labels", json!([1, 2]), "a list of 2 values"),
        ("task_num_labels", json!([1, 2, 0]), "task_num_labels: is 0"),
        ("task_num_labels", json!([1, 1_000_000, 1]), "at most 4194304 scores of an image"),
        ("task_num_labels", Value::Null, "task_num_labels: is missing"),
        ("task_experts_per_tok", json!([1, 2, 6]), "task_experts_per_tok: is 6"),
        ("task_experts_per_tok", Value::Null, "num_experts_per_tok: is missing"),
        ("task_heads", json!(["image", "boxes", "image"]), "supported are image and patches"),
        ("classifier", json!("map"), "supported are token, gap and patches"),
    ] {
        let problem = refused(&with(&[(field, value)]));
        assert!(problem.contains(words), "{problem}");
    }
}
