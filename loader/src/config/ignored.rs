//! Keys of configurations that change nothing about results, so that nothing is said about them. It must not
//! know the fields that are read.

/// Keys of `config.json` that change nothing about the inference of a decoder-only model, or that the
/// tokenizer reads.
pub(crate) const HF_IGNORED: &[&str] = &[
    // Training, and what other keys of encoder-decoders say as well.
    "activation_dropout",
    "add_cross_attention",
    "add_final_layer_norm",
    "add_router_probs",
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "decoder_layerdrop",
    "dense_act_fn",
    "dropout",
    "dropout_rate",
    "encoder_layerdrop",
    "init_std",
    "initializer_factor",
    "is_decoder",
    "is_encoder_decoder",
    "is_gated_act",
    "n_positions",
    "output_past",
    "router_dtype",
    "router_ignore_padding_tokens",
    "router_type",
    "router_z_loss_coef",
    "task_specific_params",
    "tokenizer_class",
    "architectures",
    "attention_dropout",
    "auto_map",
    "bos_token_id",
    // How the recurrence of a prompt is cut into pieces.
    "chunk_size",
    "mamba_chunk_size",
    "dtype",
    "embd_pdrop",
    "enable_moe_fp32_combine",
    "enable_moe_block",
    "eos_token_id",
    "hidden_dropout",
    // Models of images: names of classes, and what decoders of patches need.
    "encoder_stride",
    "id2label",
    "label2id",
    "hidden_dropout_prob",
    "initial_context_length",
    // Numbers of runs of tokens: how their hash was made.
    "make_ngram_vocab_size_divisible_by",
    "ngram_vocab_size_base",
    "seed",
    "number_of_conv_states",
    "indexer_kv_heads",
    "initializer_range",
    "input_jitter_noise",
    "layer_group_size",
    "mamba_hidden_act",
    "mamba_ssm_cache_dtype",
    "moe_norm_min",
    "mtp_loss_scaling_factor",
    "moe_shared_expert_overlap",
    "mtp_layers_block_type",
    "num_logits_to_keep",
    "output_router_logits",
    "pad_token_id",
    "prefix_dense_sliding_window_pattern",
    "pretraining_tp",
    "quantization_config",
    "rescale_prenorm_residual",
    "resid_pdrop",
    "residual_in_fp32",
    "router_aux_loss_coef",
    // Transformers clamps the steps of prompts, and not those of single tokens. Released bounds are those of
    // no bound.
    "time_step_floor",
    "time_step_limit",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    "torch_dtype",
    "transformers_version",
    "use_bidirectional_attention",
    "use_associative_scan",
    "use_cache",
    "use_mambapy",
    "use_mamba_kernels",
];

/// Metadata keys of a GGUF file's architecture that say nothing beyond its tensors and the other keys.
pub(crate) const GGUF_IGNORED: &[&str] = &[
    VOCAB_KEY,
    PREPARATION_KEY,
    CLASS_NAMES_KEY,
    "{arch}.rope.dimension_sections",
    "{arch}.tensor_data_layout",
    STREAMS_KEY,
];

/// What is done to images before a model reads them: the text of `preprocessor_config.json`.
pub(crate) const PREPARATION_KEY: &str = "{arch}.image_preparation";

/// Names of classes of images by row of the head.
pub(crate) const CLASS_NAMES_KEY: &str = "{arch}.class_names";

/// A key that writers of GGUF files add; readers count the rows of the embedding.
pub(crate) const VOCAB_KEY: &str = "{arch}.vocab_size";

/// The width of all residual streams together, which readers know from the other keys.
pub(crate) const STREAMS_KEY: &str = "{arch}.embedding_length_out";
