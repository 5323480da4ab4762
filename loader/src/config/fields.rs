//! The table of configuration fields: each once, with its meaning, its type, its keys in `config.json` and in
//! GGUF files and its default. [`RawConfig`], both readers, the writer and the notices about fields that are
//! not understood are made from it. A new field is one more row. It must not know what a field means for a
//! family.
//!
//! Sources of the keys: the `configuration_*.py` files of Hugging Face transformers 5, the GGUF
//! specification, and headers of real files.

use std::path::{Path, PathBuf};

use crate::config::field::GgufPlace::{
    Absent, Columns, Key, Present, PresentByLayer, PresentInSome, Rows, Values,
};
use crate::config::field::{Field, FieldRow, FieldSource, FieldType, PerLayer, Period, Uniform};
use crate::error::Result;

macro_rules! fields {
    ($(
        $(#[doc = $meaning:literal])+
        $name:ident: $kind:ty = hf[$($hf:literal),*], gguf[$($gguf:expr),*] $(, default $default:expr)?;
    )*) => {
        /// A configuration as a file states it, before any meaning.
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct RawConfig {
            /// The path that messages show.
            pub path: PathBuf,
            /// Keys that are present and not understood.
            pub unknown: Vec<String>,
            $($(#[doc = $meaning])+ pub $name: Field<$kind>,)*
        }

        /// The rows of the table by name.
        pub(crate) struct FieldTable {
            $(pub $name: FieldRow,)*
        }

        /// The table.
        pub(crate) static FIELDS: FieldTable = FieldTable {
            $($name: FieldRow { name: stringify!($name), #[cfg(test)] kind: stringify!($kind), hf: &[$($hf),*], gguf: &[$($gguf),*] },)*
        };

        /// All rows in the order of the table.
        pub(crate) static ROWS: &[&FieldRow] = &[$(&FIELDS.$name),*];

        impl RawConfig {
            /// Reads every row of the table from the file at `path`.
            ///
            /// # Errors
            /// [`crate::error::Fault::WrongType`] and what else `source` finds wrong with a value.
            pub fn read(path: &Path, source: &mut dyn FieldSource) -> Result<Self> {
                $(
                    #[allow(unused_mut, reason = "not every row has a default")]
                    let mut $name = <$kind as FieldType>::read(source, &FIELDS.$name)?;
                    $($name.default = Some($default);)?
                )*
                Ok(Self { path: path.to_owned(), unknown: Vec::new(), $($name),* })
            }

            /// The values of the file by row, as text.
            #[cfg(test)]
            pub fn stated(&self) -> std::collections::HashMap<&'static str, String> {
                let rows = [$((stringify!($name), self.$name.value.as_ref().map(|value| format!("{value:?}")))),*];
                rows.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
            }
        }
    };
}

fields! {
    /// Name for people.
    model_name: String = hf["_name_or_path"], gguf[Key("general.name")];
    /// Which family's rules hold.
    architecture: String = hf["model_type"], gguf[Key("general.architecture")];

    /// Rows of the embedding.
    vocab: u64 = hf["vocab_size"], gguf[Rows("token_embd.weight")];
    /// Width of the residual stream.
    d_model: u64 = hf["hidden_size", "d_model"], gguf[Key("{arch}.embedding_length")];
    /// Number of layers.
    layers: u64 = hf["num_hidden_layers", "n_layers"], gguf[Key("{arch}.block_count")];
    /// Layers behind the others that predict several tokens at once. GGUF files count them as layers.
    predicting_layers: u64 =
        hf["num_nextn_predict_layers"], gguf[Key("{arch}.nextn_predict_layers")], default 0;
    /// Longest context, in tokens.
    max_context: u64 = hf["max_position_embeddings", "model_max_length", "max_seq_len"],
        gguf[Key("{arch}.context_length")];
    /// Epsilon of the norms; the default is the family's.
    norm_eps: f64 = hf["rms_norm_eps", "layernorm_epsilon", "layer_norm_epsilon", "norm_eps", "layer_norm_eps"],
        gguf[Key("{arch}.attention.layer_norm_rms_epsilon"), Key("{arch}.attention.layer_norm_epsilon")];
    /// Head and embedding are one matrix; the default is the family's.
    tied: bool = hf["tie_word_embeddings"], gguf[Absent("output.weight")];
    /// Bias on the head; the default is the family's.
    head_bias: bool = hf["lm_head_bias"], gguf[Present("output.bias")];
    /// Factor on the embedding.
    embed_scale: f64 = hf["embedding_multiplier"], gguf[Key("{arch}.embedding_scale")], default 1.0;
    /// Factor on what each branch adds to the residual stream.
    residual_scale: f64 = hf["residual_multiplier"], gguf[Key("{arch}.residual_scale")], default 1.0;
    /// The logits are divided by it, or multiplied with it: that is the family's.
    logit_scale: f64 = hf["logits_scaling", "logit_scale"], gguf[Key("{arch}.logit_scale")], default 1.0;

    /// Bound that logits approach.
    logit_softcap: f64 = hf["final_logit_softcapping"], gguf[Key("{arch}.final_logit_softcapping")];
    /// Whether the embedding is multiplied with the root of its width; the default is the family's.
    embed_root: bool = hf["mup_enabled", "scale_embedding"], gguf[];

    /// Encoder-decoders: layers of the encoder.
    encoder_layers: u64 = hf["encoder_layers", "num_layers"], gguf[Key("{arch}.block_count")];
    /// Layers of the decoder; by default as many.
    decoder_layers: u64 = hf["decoder_layers", "num_decoder_layers"], gguf[Key("{arch}.decoder_block_count")];
    /// Attention heads of each of the encoder's layers.
    encoder_heads: PerLayer = hf["encoder_attention_heads", "num_heads"], gguf[Key("{arch}.attention.head_count")];
    /// Heads of the decoder; by default as many.
    decoder_heads: u64 = hf["decoder_attention_heads"], gguf[Key("{arch}.attention.decoder_head_count")];
    /// Width of a head of both; by default the width of the residual stream over the heads.
    pair_head_dim: u64 = hf["d_kv"], gguf[Key("{arch}.attention.key_length")];
    /// Hidden width of feed-forward blocks of the encoder.
    encoder_d_ff: PerLayer = hf["encoder_ffn_dim", "d_ff"], gguf[Key("{arch}.feed_forward_length")];
    /// The same of the decoder; by default as wide.
    decoder_d_ff: u64 = hf["decoder_ffn_dim"], gguf[Key("{arch}.decoder_feed_forward_length")];
    /// Activation of these blocks, `gated-` before its name where they have a gate.
    feed_forward: String = hf["feed_forward_proj", "activation_function"], gguf[Key("{arch}.feed_forward_activation")];
    /// Whether they have a gate, where the file does not name it so.
    feed_forward_gated: bool = hf[], gguf[Present("enc.blk.0.ffn_gate.weight")];
    /// Numbers of a head for distances.
    relative_buckets: u64 = hf["relative_attention_num_buckets"],
        gguf[Key("{arch}.attention.relative_buckets_count")], default 32;
    /// The distance from which all are alike.
    relative_reach: u64 = hf["relative_attention_max_distance"],
        gguf[Key("{arch}.attention.relative_max_distance")], default 128;
    /// Whether each layer has its own; the default is the family's.
    relative_by_layer: bool = hf[], gguf[Present("enc.blk.1.attn_rel_b.weight")];
    /// Whether a head that is the embedding is scaled; by default it is.
    scaled_head: bool = hf["scale_decoder_outputs"], gguf[Key("{arch}.scale_decoder_outputs")];
    /// The token that texts of the decoder begin with.
    decoder_start: u64 = hf["decoder_start_token_id"], gguf[Key("{arch}.decoder_start_token_id")];
    /// How many layers of the encoder have experts.
    encoder_sparse_layers: u64 = hf["num_sparse_encoder_layers"], gguf[];
    /// The same of the decoder.
    decoder_sparse_layers: u64 = hf["num_sparse_decoder_layers"], gguf[];
    /// Of each run of this many layers of the encoder, the last one has experts.
    encoder_sparse_step: u64 = hf["encoder_sparse_step"], gguf[];
    /// Which layers of both have experts, those of the encoder first.
    pair_sparse: Vec<bool> = hf[], gguf[Key("{arch}.expert_layers")];
    /// Tokens of a text that an expert takes.
    expert_capacity: u64 = hf["expert_capacity"], gguf[Key("{arch}.expert_capacity")];
    /// The same as a part of the text.
    expert_capacity_part: f64 = hf["moe_eval_capacity_token_fraction"], gguf[Key("{arch}.expert_capacity_part")];
    /// Whether weights of experts are divided by their sum before tokens are left out.
    weights_before_capacity: bool = hf["normalize_router_prob_before_dropping"],
        gguf[Key("{arch}.expert_weights_before_capacity")], default false;
    /// Whether tokens with large weights are counted before others.
    prioritised: bool = hf["batch_prioritized_routing"],
        gguf[Key("{arch}.expert_batch_prioritised")], default false;
    /// What becomes of a token's second expert, `all` to keep it.
    second_expert: String = hf["second_expert_policy"], gguf[];
    /// The part of outputs of experts that was left out in training, which factors make up for.
    token_dropout: f64 = hf["moe_token_dropout"], gguf[], default 0.0;
    /// Whether routers have biases.
    router_bias: bool = hf["router_bias"], gguf[PresentInSome("enc.blk.*.ffn_gate_inp.bias")], default false;

    /// Models of images: width and height of an image in pixels.
    image_size: u64 = hf["image_size"], gguf[Key("{arch}.image_size")];
    /// The same of a patch.
    patch_size: u64 = hf["patch_size"], gguf[Key("{arch}.patch_size")];
    /// Numbers of a pixel; there must be three.
    image_channels: u64 = hf["num_channels"], gguf[], default 3;
    /// Classes that images are told apart by.
    classes: u64 = hf["num_labels"], gguf[Key("{arch}.class_count")];
    /// What the head reads: `token`, `gap` for the mean of all patches, or `patches` for each of them.
    image_pool: String = hf["classifier"], gguf[Key("{arch}.classifier")];
    /// Tokens of an expert, times its share of all if each had as many.
    capacity_factor: f64 = hf["capacity_factor"], gguf[Key("{arch}.expert_capacity_factor")];
    /// Names of the tasks of a model that has several.
    tasks: Vec<String> = hf["tasks"], gguf[Key("{arch}.tasks")];
    /// Experts of a token of each task; by default the same of all.
    task_experts_used: Vec<u64> = hf["task_experts_per_tok"], gguf[Key("{arch}.task_expert_used_count")];
    /// Classes of each task.
    task_classes: Vec<u64> = hf["task_num_labels"], gguf[Key("{arch}.task_class_count")];
    /// What each task tells classes of, `image` or `patches`; by default all of the image.
    task_heads: Vec<String> = hf["task_heads"], gguf[Key("{arch}.task_heads")];

    /// Query heads of each layer.
    layer_heads: Vec<u64> = hf["num_attention_heads_per_layer"], gguf[];
    /// Query heads.
    heads: PerLayer = hf["num_attention_heads", "n_heads"], gguf[Key("{arch}.attention.head_count")];
    /// Key and value heads; by default as many as query heads.
    kv_heads: PerLayer = hf["num_key_value_heads", "attn_config.kv_n_heads"], gguf[Key("{arch}.attention.head_count_kv")];
    /// Width of a head; by default the width of the residual stream over the heads.
    head_dim: u64 = hf["head_dim", "kv_channels"], gguf[Key("{arch}.attention.key_length")];
    /// Width of a head of layers with a window; by default as in others.
    local_head_dim: u64 = hf["swa_head_dim"], gguf[Key("{arch}.attention.key_length_swa")];
    /// Width of a value head of these layers.
    local_value_dim: u64 = hf["swa_v_head_dim"], gguf[Key("{arch}.attention.value_length_swa")];
    /// Width of a head of layers without a window; by default as in others.
    full_head_dim: u64 = hf["global_head_dim"], gguf[];
    /// Width of a head of each layer.
    layer_head_dims: PerLayer = hf[], gguf[];
    /// Key and value heads of layers with a window; by default as in others.
    local_kv_heads: u64 = hf["swa_num_key_value_heads"], gguf[];
    /// Query heads of layers with a window, which must be as many as in others.
    local_heads: u64 = hf["swa_num_attention_heads"], gguf[];
    /// Whether layers with a window have sinks; by default they have, in families that have sinks there.
    local_sinks: bool = hf["add_swa_attention_sink_bias"], gguf[PresentInSome("blk.*.attn_sinks.weight")];
    /// Whether layers without a window have sinks.
    full_sinks: bool = hf["add_full_attention_sink_bias"], gguf[], default false;
    /// Key and value heads of layers without a window; by default as in others.
    full_kv_heads: u64 = hf["num_global_key_value_heads"], gguf[];
    /// Keys before their norm are the values of layers without a window.
    keys_as_values: bool = hf["attention_k_eq_v"], gguf[], default false;
    /// Which layers have a projection for values.
    value_layers: Vec<bool> = hf[], gguf[PresentByLayer(&["blk.*.attn_v.weight"])];
    /// How many of the last layers have the keys and values of earlier ones.
    sharing_layers: u64 = hf["num_kv_shared_layers"], gguf[Key("{arch}.attention.shared_kv_layers")], default 0;
    /// Numbers of each layer for a token; 0 for none.
    layer_input_width: u64 = hf["hidden_size_per_layer_input"],
        gguf[Key("{arch}.embedding_length_per_layer_input")], default 0;
    /// Rows of the table that they are in; by default those of the embedding.
    layer_input_vocab: u64 = hf["vocab_size_per_layer_input"], gguf[Rows("per_layer_token_embd.weight")];
    /// Width of a value head, when it may differ.
    value_dim: u64 = hf["v_head_dim"], gguf[Key("{arch}.attention.value_length")];
    /// Factor on attention scores; by default one over the root of the head's width.
    attention_scale: f64 = hf["attention_multiplier"], gguf[Key("{arch}.attention.scale")];
    /// The same as the square of a divisor.
    query_scalar: f64 = hf["query_pre_attn_scalar"], gguf[];
    /// Bound that attention scores approach.
    attention_softcap: f64 = hf["attn_logit_softcapping"], gguf[Key("{arch}.attn_logit_softcapping")];
    /// Factor on values.
    value_scale: f64 = hf["attention_value_scale"], gguf[Key("{arch}.attention.value_scale")], default 1.0;
    /// Tokens of a run outside of which layers with a rope see nothing.
    attention_chunk: u64 = hf["attention_chunk_size"], gguf[Key("{arch}.attention.chunk_size")];
    /// How fast queries grow with their position.
    temperature: f64 = hf["rope.llama_4_scaling_beta", "attn_scale"], gguf[Key("{arch}.attention.temperature_scale")];
    /// Positions with one factor.
    temperature_period: u64 = hf["floor_scale"], gguf[Key("{arch}.attention.temperature_length")];
    /// Whether queries grow at all.
    temperature_on: bool = hf[], gguf[];
    /// Whether mixed values have a gate; the default is the family's.
    attention_gate: bool = hf["gating"], gguf[];
    /// Biases on q, k and v; the default is the family's.
    qkv_bias: bool = hf["qkv_bias", "attention_bias", "use_qkv_bias", "use_bias"],
        gguf[Present("blk.0.attn_q.bias")];
    /// Bias on the attention output; the default is the family's.
    out_bias: bool = hf["attention_out_bias", "attention_bias", "use_bias"], gguf[Present("blk.0.attn_output.bias")];
    /// Whether queries and keys are normed; the default is the family's.
    qk_norm: bool = hf["use_qk_norm"], gguf[Present("blk.0.attn_q_norm.weight")];
    /// Clamp on q, k and v.
    clip_qkv: f64 = hf["clip_qkv", "attn_config.clip_qkv"], gguf[Key("{arch}.attention.clamp_kqv")];

    /// Latent attention: width of the latent vector.
    kv_rank: u64 = hf["kv_lora_rank"], gguf[Key("{arch}.attention.kv_lora_rank")];
    /// Latent attention: width of the latent query; without one queries are projected at once.
    query_rank: u64 = hf["q_lora_rank"], gguf[Key("{arch}.attention.q_lora_rank")];
    /// Latent attention: dimensions of a head's query that are not rotated.
    nope_dim: u64 = hf["qk_nope_head_dim"], gguf[];
    /// Latent attention: dimensions of a head's query that are rotated.
    latent_rope_dim: u64 = hf["qk_rope_head_dim"], gguf[];
    /// Latent attention: dimensions of a head's query.
    latent_key_dim: u64 = hf["qk_head_dim"],
        gguf[Key("{arch}.attention.key_length_mla"), Key("{arch}.attention.key_length")];
    /// Latent attention: dimensions of a head's value.
    latent_value_dim: u64 = hf["v_head_dim"],
        gguf[Key("{arch}.attention.value_length_mla"), Key("{arch}.attention.value_length")];
    /// Latent attention: the matrices for keys and for values are apart.
    kv_split: bool = hf[], gguf[PresentInSome("blk.*.attn_k_b.weight")];

    /// Compressed tokens: for each layer, how many tokens become one row, or 0.
    compress_ratios: Vec<u64> = hf["compress_ratios"], gguf[Key("{arch}.attention.compress_ratios")];
    /// Compressed tokens: how many, in layers that choose rows.
    choosing_rate: u64 = hf["compress_rates.compressed_sparse_attention"], gguf[], default 4;
    /// Compressed tokens: how many, in layers that see all rows.
    heavy_rate: u64 = hf["compress_rates.heavily_compressed_attention"], gguf[], default 128;
    /// Compressed tokens: base of the rope's frequencies in layers that have them.
    compress_theta: f64 = hf["compress_rope_theta"], gguf[Key("{arch}.attention.compress_rope_freq_base")];
    /// Output projections of groups of heads: how many groups.
    out_groups: u64 = hf["o_groups"], gguf[Key("{arch}.attention.output_group_count")];
    /// Output projections of groups of heads: width of what each gives.
    out_rank: u64 = hf["o_lora_rank"], gguf[Key("{arch}.attention.output_lora_rank")];
    /// Residual streams.
    streams: u64 = hf["hc_mult", "hc_count"], gguf[Key("{arch}.hyper_connection.count")], default 1;
    /// Residual streams: iterations of their mix.
    stream_iterations: u64 = hf["hc_sinkhorn_iters"], gguf[Key("{arch}.hyper_connection.sinkhorn_iterations")];
    /// Residual streams: added to weights and sums of their mix.
    stream_eps: f64 = hf["hc_eps"], gguf[Key("{arch}.hyper_connection.epsilon")], default 1e-6;
    /// Residual streams: width of the narrow projection of a gated mix; without one the mix is Sinkhorn's.
    stream_rank: u64 = hf["hc_lowrank"], gguf[Key("{arch}.hyper_connection.low_rank")];
    /// Numbers of runs of tokens: the layers that have them, from 1; from 0 in GGUF files.
    ngram_layers: Vec<u64> = hf["ple_layer_ids"], gguf[Key("{arch}.ple.layers")];
    /// Numbers of runs of tokens: the most tokens of a run.
    ngram_tokens: u64 = hf["ngram_size"], gguf[Key("{arch}.ple.ngram_size")];
    /// Numbers of runs of tokens: hashes of a run.
    ngram_heads: u64 = hf["heads_per_ngram"], gguf[Key("{arch}.ple.heads_per_ngram")];
    /// Numbers of runs of tokens: numbers of all rows that a token reads.
    ngram_read: u64 = hf["ple_embed_dim"], gguf[];
    /// Numbers of runs of tokens: taps of their convolution.
    ngram_kernel: u64 = hf["ple_conv_kernel_size"], gguf[Key("{arch}.ple.conv_kernel")];
    /// Numbers of runs of tokens: the token that stands before a text.
    ngram_end: u64 = hf[], gguf[Key("{arch}.ple.eos_token_id")];
    /// Numbers of runs of tokens: tensors that their table is in.
    ngram_parts: u64 = hf["split_ngram_parts"], gguf[], default 1;
    /// Numbers of runs of tokens: numbers of a row of their table.
    ngram_width: u64 = hf[], gguf[Key("{arch}.embedding_length_per_layer_input")];
    /// Numbers of runs of tokens: factors of their hash.
    ngram_factors: Vec<u64> = hf[], gguf[Key("{arch}.ple.layer_multipliers")];
    /// Numbers of runs of tokens: the first row of each head.
    ngram_first: Vec<u64> = hf[], gguf[Key("{arch}.ple.head_offsets")];
    /// Numbers of runs of tokens: rows of each head.
    ngram_head_rows: Vec<u64> = hf[], gguf[Key("{arch}.ple.head_vocab_sizes")];
    /// Choice of blocks of tokens: small query heads.
    block_heads: u64 = hf["indexer_n_heads"], gguf[Key("{arch}.attention.indexer.head_count")];
    /// Choice of blocks of tokens: width of a small head.
    block_head_dim: u64 = hf["indexer_head_dim"], gguf[Key("{arch}.attention.indexer.key_length")];
    /// Choice of blocks of tokens: the most tokens of the chosen blocks.
    block_budget: u64 = hf["indexer_budget"], gguf[Key("{arch}.attention.indexer.top_k")];
    /// Choice of blocks of tokens: tokens of a block.
    block_size: u64 = hf["indexer_compress_ratio"], gguf[];
    /// Delta nets: the function of their gates.
    delta_gate: String = hf["output_gate_type"], gguf[];
    /// Leading layers that list the experts of a token by its id.
    listing_layers: u64 = hf["num_hash_layers"], gguf[Key("{arch}.hash_layer_count")];

    /// Choice of tokens: its heads.
    index_heads: u64 = hf["index_n_heads"], gguf[Key("{arch}.attention.indexer.head_count")];
    /// Choice of tokens: width of a head.
    index_head_dim: u64 = hf["index_head_dim"], gguf[Key("{arch}.attention.indexer.key_length")];
    /// Choice of tokens: how many are chosen.
    index_top: u64 = hf["index_topk"], gguf[Key("{arch}.attention.indexer.top_k")];
    /// Choice of tokens: whether layers choose, or have the choice of the layer before.
    index_types: Vec<String> = hf["indexer_types"], gguf[];
    /// The same for folders without that list, a letter for each layer, `F` or `S`.
    index_letters: String = hf["index_topk_pattern"], gguf[];
    /// The same for folders without either: one of each this many layers chooses by itself.
    index_every: u64 = hf["index_topk_freq"], gguf[], default 1;
    /// Layers at the beginning that all choose by themselves, beside such a number.
    index_first: u64 = hf["index_skip_topk_offset"], gguf[], default 2;
    /// Choice of tokens: which layers choose, where files list them.
    index_own: Vec<bool> = hf[], gguf[Key("{arch}.attention.indexer.types")];
    /// Short convolutions: tokens that they see.
    conv_kernel: u64 = hf["conv_L_cache"], gguf[Key("{arch}.shortconv.l_cache")];
    /// Short convolutions: whether they have biases.
    conv_bias: bool = hf["conv_bias"], gguf[PresentInSome("blk.*.shortconv.conv.bias")];
    /// Numbers of the layers with attention, where others have short convolutions.
    attention_layers: Vec<u64> = hf["full_attn_idxs"], gguf[];
    /// The dense width is two thirds of what the file says, times a factor, rounded up.
    ff_adjust: bool = hf["block_auto_adjust_ff_dim"], gguf[], default false;
    /// That factor.
    ff_multiplier: f64 = hf["block_ffn_dim_multiplier"], gguf[], default 1.0;
    /// What the width is rounded up to a multiple of.
    ff_multiple: u64 = hf["block_multiple_of"], gguf[], default 256;
    /// Delta nets: heads of queries and keys.
    delta_key_heads: u64 = hf["linear_num_key_heads"], gguf[Key("{arch}.ssm.group_count")];
    /// Delta nets: heads of values.
    delta_value_heads: u64 = hf["linear_num_value_heads"], gguf[Key("{arch}.ssm.time_step_rank")];
    /// Delta nets: width of a query or key.
    delta_key_dim: u64 = hf["linear_key_head_dim"], gguf[Key("{arch}.ssm.state_size")];
    /// Delta nets: width of a value.
    delta_value_dim: u64 = hf["linear_value_head_dim"], gguf[];
    /// Delta nets: width of the values of all heads.
    delta_inner: u64 = hf[], gguf[Key("{arch}.ssm.inner_size")];
    /// Delta nets: tokens that the convolution sees.
    delta_kernel: u64 = hf["linear_conv_kernel_dim"], gguf[Key("{arch}.ssm.conv_kernel")];
    /// Kimi delta attention: heads.
    kda_heads: u64 = hf["linear_attn_config.num_heads", "linear_num_heads"], gguf[];
    /// Kimi delta attention: width of a head.
    kda_head_dim: u64 = hf["linear_attn_config.head_dim", "linear_head_dim"], gguf[Key("{arch}.kda.head_dim")];
    /// Kimi delta attention: tokens that the convolutions see.
    kda_kernel: u64 = hf["linear_attn_config.short_conv_kernel_size", "short_conv_kernel_size",
            "linear_conv_kernel_dim"],
        gguf[Key("{arch}.ssm.conv_kernel")];
    /// Kimi delta attention: whether rates have a lower bound.
    kda_safe: bool = hf["kda_safe_gate"], gguf[], default false;
    /// That bound, below 0.
    kda_lower_bound: f64 = hf["kda_lower_bound"], gguf[Key("{arch}.kda.lower_bound")];
    /// Numbers of the layers without delta attention, from 1.
    full_layers: Vec<u64> = hf["linear_attn_config.full_attn_layers"], gguf[];
    /// The numbers of the other layers.
    recurrent_list: Vec<u64> = hf["linear_attn_config.kda_layers"], gguf[];
    /// Mamba-2: heads.
    ssm_heads: u64 = hf["mamba_n_heads", "mamba_num_heads", "num_heads"], gguf[Key("{arch}.ssm.time_step_rank")];
    /// Mamba-2: width of a head.
    ssm_head_dim: u64 = hf["mamba_d_head", "mamba_head_dim", "head_dim"], gguf[];
    /// Mamba-2: width of all heads.
    ssm_inner: u64 = hf[], gguf[Key("{arch}.ssm.inner_size")];
    /// Mamba-2: groups of heads with the same inputs to their memories.
    ssm_groups: u64 = hf["mamba_n_groups", "n_groups"], gguf[Key("{arch}.ssm.group_count")];
    /// Mamba-2: width of these inputs.
    ssm_state: u64 = hf["mamba_d_state", "ssm_state_size", "state_size"], gguf[Key("{arch}.ssm.state_size")];
    /// Mamba-2: tokens that the convolution sees.
    ssm_kernel: u64 = hf["mamba_d_conv", "conv_kernel"], gguf[Key("{arch}.ssm.conv_kernel")];
    /// Mamba-2: whether the convolution has biases; by default it has.
    ssm_conv_bias: bool = hf["mamba_conv_bias", "use_conv_bias"], gguf[PresentInSome("blk.*.ssm_conv1d.bias")];
    /// Mamba-2: whether the projections have biases.
    ssm_bias: bool = hf["mamba_proj_bias"], gguf[PresentInSome("blk.*.ssm_in.bias")], default false;
    /// Mamba: channels over the width of the residual stream.
    ssm_expand: u64 = hf["mamba_expand", "expand"], gguf[], default 2;
    /// Mamba: width of steps before their projection.
    ssm_rank: u64 = hf["mamba_dt_rank"], gguf[Key("{arch}.ssm.time_step_rank")];
    /// Of each run of this many layers one has attention.
    attention_period: u64 = hf["attn_layer_period"], gguf[];
    /// Which of the run it is.
    attention_offset: u64 = hf["attn_layer_offset"], gguf[], default 0;
    /// Of each run of this many layers one has experts.
    expert_period: u64 = hf["expert_layer_period"], gguf[];
    /// Which of the run it is.
    expert_offset: u64 = hf["expert_layer_offset"], gguf[], default 0;
    /// What each layer has, a letter for each.
    layer_pattern: String = hf["hybrid_override_pattern"], gguf[];
    /// How positions are told, `rope` or another way.
    positions: String = hf["position_embedding_type"], gguf[];
    /// Whether positions are told by ropes.
    positions_are_ropes: bool = hf[], gguf[Key("{arch}.rope.scaling.finetuned")];
    /// Which layers have a recurrence in place of attention.
    recurrent_layers: Vec<bool> = hf[], gguf[Key("{arch}.attention.recurrent_layers")];
    /// Of each run of this many layers, the last one has attention, where there is no list.
    attention_every: u64 = hf["full_attention_interval"], gguf[Key("{arch}.full_attention_interval")];

    /// Sliding window, in tokens.
    window: u64 = hf["sliding_window"], gguf[Key("{arch}.attention.sliding_window")];
    /// Which layers use the window.
    window_layers: Vec<bool> = hf[], gguf[Key("{arch}.attention.sliding_window_pattern")];
    /// Of each run of this many layers one has no window, where the file does not list layers.
    window_period: Period = hf["sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers"],
        gguf[Key("{arch}.attention.sliding_window_pattern")];
    /// For each layer, 1 if it has a window and 0 if it has none.
    window_flags: Vec<u64> = hf["hybrid_layer_pattern"], gguf[];
    /// The kind of each layer's attention, `sliding_attention` or another.
    layer_types: Vec<String> = hf["layer_types", "layers_block_type"], gguf[];
    /// The first layer with a window, where `layer_types` is missing.
    window_from: u64 = hf["max_window_layers"], gguf[];
    /// False turns the window off.
    window_on: bool = hf["use_sliding_window"], gguf[];

    /// For each layer, 1 if it has a rope and 0 if it has none.
    rope_layers: Vec<u64> = hf["no_rope_layers"], gguf[];
    /// Of each run of this many layers, the last one has no rope.
    rope_period: u64 = hf["no_rope_layer_interval"], gguf[];
    /// Scheme of the rope of layers with a window, where it is their own.
    local_rope_kind: String = hf["local_rope.rope_type"], gguf[];
    /// Base of its frequencies.
    local_rope_theta: f64 = hf["local_rope.rope_theta", "rope_local_base_freq", "swa_rope_theta"],
        gguf[Key("{arch}.rope.freq_base_swa")];
    /// How many dimensions it rotates.
    local_rope_dim: u64 = hf[], gguf[Key("{arch}.rope.dimension_count_swa")];
    /// The part of a head's dimensions that it rotates.
    local_rope_part: f64 = hf["local_rope.partial_rotary_factor"], gguf[];
    /// Scheme of the rope's frequencies: `linear`, `llama3`, `yarn`, `longrope`.
    rope_kind: String = hf["rope.rope_type", "rope.type"], gguf[Key("{arch}.rope.scaling.type")];
    /// Base of the frequencies; the default is the family's.
    rope_theta: f64 = hf["rope.rope_theta", "rope_theta", "attn_config.rope_theta"], gguf[Key("{arch}.rope.freq_base")];
    /// How many dimensions of a head rotate; by default all.
    rope_dim: u64 = hf["rotary_dim"], gguf[Key("{arch}.rope.dimension_count")];
    /// The part of a head's dimensions that rotates, above 0 and at most 1.
    rope_part: f64 = hf["rope.partial_rotary_factor", "partial_rotary_factor"], gguf[];
    /// Context extension factor.
    rope_factor: f64 = hf["rope.factor"],
        gguf[Key("{arch}.rope.scaling.factor"), Key("{arch}.rope.scale_linear")], default 1.0;
    /// Hunyuan: the base is multiplied by a power of it.
    rope_alpha: f64 = hf["rope.alpha"], gguf[];
    /// Context of the original training, in tokens; by default the longest context.
    rope_original_context: u64 =
        hf["rope.original_max_position_embeddings", "original_max_position_embeddings",
            "initial_context_length"],
        gguf[Key("{arch}.rope.scaling.original_context_length")];
    /// Llama 3: the end of the ramp at low frequencies.
    rope_low_freq_factor: f64 = hf["rope.low_freq_factor"], gguf[], default 1.0;
    /// Llama 3: the end of the ramp at high frequencies.
    rope_high_freq_factor: f64 = hf["rope.high_freq_factor"], gguf[], default 4.0;
    /// YaRN: rotations above which a frequency is kept.
    rope_beta_fast: f64 = hf["rope.beta_fast"], gguf[Key("{arch}.rope.scaling.yarn_beta_fast")], default 32.0;
    /// YaRN: rotations below which a frequency is divided.
    rope_beta_slow: f64 = hf["rope.beta_slow"], gguf[Key("{arch}.rope.scaling.yarn_beta_slow")], default 1.0;
    /// YaRN and LongRoPE: factor on queries and keys; the default is the scheme's formula.
    rope_attention_factor: f64 = hf["rope.attention_factor"], gguf[Key("{arch}.rope.scaling.attn_factor")];
    /// YaRN: the same, as the whole factor, which readers do not multiply with the scheme's own.
    rope_whole_factor: f64 = hf[], gguf[Key("{arch}.rope.scaling.yarn_attn_factor")];
    /// YaRN: whether the correction range is rounded to whole dimensions; the default is the family's.
    rope_truncate: bool = hf["rope.truncate"], gguf[Key("{arch}.rope.scaling.yarn_truncate")];
    /// YaRN: numerator of the factor on queries and keys; used with the next.
    rope_mscale: f64 = hf["rope.mscale"], gguf[], default 0.0;
    /// YaRN: denominator of that factor. Latent attention: strength of the factor on scores.
    rope_mscale_all: f64 = hf["rope.mscale_all_dim"], gguf[], default 0.0;
    /// Latent attention: a tenth of the row above.
    yarn_log_multiplier: f64 = hf[], gguf[Key("{arch}.rope.scaling.yarn_log_multiplier")], default 0.0;
    /// Latent attention: whether rotated pairs are neighbours; by default they are.
    rope_interleave: bool = hf["rope_interleave"], gguf[];
    /// LongRoPE: divisors up to the original context, one for each frequency.
    rope_short_divisors: Vec<f64> = hf["rope.short_factor"], gguf[Values("rope_factors_short.weight")];
    /// LongRoPE: divisors beyond the original context, one for each frequency.
    rope_long_divisors: Vec<f64> = hf["rope.long_factor"], gguf[Values("rope_factors_long.weight")];
    /// LongRoPE: factor on queries and keys up to the original context; by default `rope_attention_factor`.
    rope_short_mscale: f64 = hf["rope.short_mscale"], gguf[];
    /// LongRoPE: the same beyond it.
    rope_long_mscale: f64 = hf["rope.long_mscale"], gguf[];
    /// One divisor for each frequency, whatever the scheme.
    rope_divisors: Vec<f64> = hf[], gguf[Values("rope_freqs.weight")];

    /// Hidden width of dense blocks, where experts have the field below.
    dense_d_ff: u64 = hf["prefix_dense_intermediate_size", "intermediate_size_mlp"], gguf[];
    /// Hidden width of dense feed-forward blocks.
    d_ff: PerLayer = hf["block_ff_dim", "intermediate_size", "ffn_config.ffn_hidden_size"], gguf[Key("{arch}.feed_forward_length")];
    /// The width is twice as large in layers that have the keys and values of earlier ones.
    double_wide: bool = hf["use_double_wide_mlp"], gguf[], default false;
    /// Activation of feed-forward blocks; the default is the family's.
    activation: String = hf["hidden_act", "hidden_activation", "mlp_hidden_act", "activation_function"], gguf[];
    /// Clamped SwiGLU: steepness of the sigmoid.
    swiglu_alpha: f64 = hf["swiglu_alpha"], gguf[Key("{arch}.swiglu_alpha")], default 1.702;
    /// Clamped SwiGLU: bound of gate and up.
    swiglu_limit: f64 = hf["swiglu_limit"], gguf[Key("{arch}.swiglu_limit")], default 7.0;
    /// Bound of the activation of each layer's experts; 0 for none.
    expert_bounds: Vec<f64> = hf[], gguf[Key("{arch}.swiglu_clamp_exp")];
    /// The same of shared experts and dense blocks.
    shared_bounds: Vec<f64> = hf[], gguf[Key("{arch}.swiglu_clamp_shexp")];
    /// Biases in feed-forward blocks.
    mlp_bias: bool = hf["mlp_bias", "use_bias"], gguf[Present("blk.0.ffn_up.bias")], default false;
    /// Routed experts of a layer.
    experts: u64 = hf["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "ffn_config.moe_num_experts"],
        gguf[Key("{arch}.expert_count")];
    /// Routed experts of a token.
    experts_used: Uniform = hf["num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_k", "moe_topk", "top_k_experts", "ffn_config.moe_top_k"],
        gguf[Key("{arch}.expert_used_count")];
    /// Attention experts of a layer; by default as many as other experts.
    head_experts: u64 = hf["num_attention_experts"], gguf[Key("{arch}.attention.expert_count")];
    /// Attention experts of a token; by default as many as other experts.
    head_experts_used: u64 = hf["num_attention_experts_per_tok"], gguf[Key("{arch}.attention.expert_used_count")];
    /// Experts of a token are those whose share is over this, times an equal share.
    router_threshold: f64 = hf["router_threshold"], gguf[Key("{arch}.expert_threshold")];
    /// Hidden width of a routed expert. Older GGUF files have no key for it.
    expert_d_ff: Uniform = hf["moe_intermediate_size"],
        gguf[Key("{arch}.expert_feed_forward_length"), Columns("blk.*.ffn_down_exps.weight")];
    /// Adjugate experts: their hidden width; without one there are none.
    adjugate_d_ff: u64 = hf["parallel_expert_intermediate_size"],
        gguf[Key("{arch}.expert_chunk_feed_forward_length"), Columns("blk.*.ffn_down_chexps.weight")];
    /// Adjugate experts: how many experts one of them stands for.
    adjugate_group: u64 = hf["num_experts_per_group"], gguf[Key("{arch}.experts_per_group")];
    /// Adjugate experts: factor on what they give.
    adjugate_scale: f64 = hf[], gguf[Key("{arch}.expert_group_scale")];
    /// Adjugate experts: whether they read what the layer's experts read, with the weights of these.
    adjugate_beside: bool = hf[], gguf[Key("{arch}.expert_group_beside")];
    /// Hidden width of the shared expert.
    shared_d_ff: u64 = hf["shared_expert_intermediate_size", "shared_intermediate_size",
            "moe_shared_expert_intermediate_size"],
        gguf[Key("{arch}.expert_shared_feed_forward_length"), Columns("blk.*.ffn_down_shexp.weight")];
    /// Width of what routed experts read, where it is their own.
    latent_width: u64 = hf["moe_latent_size"], gguf[Key("{arch}.moe_latent_size")];
    /// How many routed experts' widths the shared expert has.
    shared_count: Uniform =
        hf["n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts"],
        gguf[Key("{arch}.expert_shared_count")];
    /// From router logits to scores, by name; the default is the family's.
    scoring: String = hf["scoring_func", "score_func", "score_function", "expert_selection_fn", "moe_router_activation_func"], gguf[];
    /// The same by number: 1 for a softmax, 2 for a sigmoid, 0 for the family's.
    scoring_number: u64 = hf[], gguf[Key("{arch}.expert_gating_func")];
    /// How routed and shared experts come together, `average` or `sum`.
    shared_combination: String = hf["shared_expert_combination_strategy"], gguf[];
    /// How experts are chosen; `greedy` ignores groups.
    choice: String = hf["topk_method"], gguf[];
    /// Whether a bias is added to the scores for the choice; the default is the family's.
    select_bias: bool = hf["use_routing_bias", "use_expert_bias", "moe_router_enable_expert_bias"],
        gguf[PresentInSome("blk.*.exp_probs_b.bias")];
    /// How many groups of neighbours the experts form, of which a token's are chosen.
    expert_groups: u64 = hf["n_group", "num_expert_group"], gguf[Key("{arch}.expert_group_count")], default 1;
    /// Groups that experts are chosen from; by default all.
    expert_groups_used: u64 = hf["topk_group"], gguf[Key("{arch}.expert_group_used_count")];
    /// Factor on the weights of routed experts; 0 stands for 1.
    router_scale: f64 = hf["routed_scaling_factor", "router_scaling_factor", "route_scale", "moe_routed_scaling_factor"],
        gguf[Key("{arch}.expert_weights_scale")], default 1.0;
    /// Divide the weights of the chosen experts by their sum; the default is the family's.
    renormalise: bool = hf["norm_topk_prob", "route_norm", "moe_renormalize"], gguf[Key("{arch}.expert_weights_norm")];
    /// SparseMixer: width of the training noise, which sets which experts compete.
    router_jitter: f64 = hf["router_jitter_noise"], gguf[Key("{arch}.router_jitter_noise")], default 0.01;
    /// Which layers have experts.
    moe_layers: Vec<bool> = hf[], gguf[PresentByLayer(&[
        "blk.*.ffn_gate_inp.weight", "blk.*.ffn_down_exps.weight"])];
    /// Of each run of this many layers, the last one has experts.
    sparse_step: u64 = hf["decoder_sparse_step", "moe_layer_interval", "interleave_moe_layer_step"],
        gguf[Key("{arch}.interleave_moe_layer_step")];
    /// Leading layers without experts.
    leading_dense: u64 = hf["first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "num_dense_layers"],
        gguf[Key("{arch}.leading_dense_block_count")];
    /// The last layer with experts; -1 for the last of all.
    last_sparse: f64 = hf["moe_layer_end_index"], gguf[];
    /// Layers without experts.
    dense_layers: Vec<u64> = hf["mlp_only_layers"], gguf[];
    /// Numbers of the layers with experts.
    moe_list: Vec<u64> = hf["moe_layers"], gguf[];
    /// For each layer, 1 if it has experts and 0 if it has none.
    moe_flags: PerLayer = hf["moe_layer_freq"], gguf[];
    /// The kind of each layer's feed-forward block, `sparse` or `dense`.
    mlp_types: Vec<String> = hf["mlp_layer_types"], gguf[];
}
