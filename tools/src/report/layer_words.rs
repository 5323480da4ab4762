//! Layers of a model in words: what `inspect` prints of norms, attention, ropes, feed-forward blocks and
//! routers. It must not know files.

use moelten_loader::spec::{
    Activation, AttentionSpec, CapacitySpec, CompressedSpec, ExpertGroups, ExpertLimit, GroupWeights,
    HeadExpertsSpec, HeadSpec, ImageHead, ImagePool, ImageSpec, ImageTask, KvSource, MlpSpec, MoeSpec,
    NormSpec, OutputGate, Pairing, QkNorm, RelativeSpec, Renormalise, RopeScaling, RopeSpec, RouterInput,
    RouterSpec, Scoring, Second, Select, SharedExpert,
};

/// A norm and its epsilon.
pub fn norm(norm: NormSpec) -> String {
    match norm {
        NormSpec::Rms { eps } => format!("RMS norm (epsilon {eps:e})"),
        NormSpec::Layer { eps } => format!("layer norm (epsilon {eps:e})"),
        NormSpec::LayerUnbiased { eps } => format!("layer norm without bias (epsilon {eps:e})"),
    }
}

/// The output projection.
pub fn head(head: &HeadSpec) -> String {
    let mut words = if head.tied { "head: the embedding" } else { "head: a matrix of its own" }.to_owned();
    let plain = head.scale.to_bits() == 1.0_f32.to_bits();
    also(&mut words, head.bias, || "a bias".to_owned());
    also(&mut words, !plain, || format!("logits times {}", head.scale));
    if let Some(cap) = head.softcap {
        also(&mut words, true, || format!("logits approach {cap}"));
    }
    words
}

/// Appends one more property after a comma.
fn also(words: &mut String, there: bool, more: impl FnOnce() -> String) {
    if there {
        words.push_str(", ");
        words.push_str(&more());
    }
}

/// Attention of a layer, without its rope.
pub fn attention(a: &AttentionSpec) -> String {
    let name = if a.source == KvSource::Encoded { "attention to the text" } else { "attention" };
    let mut words = format!("{name}: {} heads, {} key/value heads of {}", a.heads, a.kv_heads, a.head_dim);
    also(&mut words, a.value_dim != a.head_dim, || format!("values of {}", a.value_dim));
    also(&mut words, true, || match (a.window, a.chunk) {
        _ if a.whole => "sees the whole text".to_owned(),
        _ if a.source == KvSource::Encoded => "sees the encoder's whole output".to_owned(),
        (Some(window), _) => format!("sees the last {window} tokens"),
        (None, Some(chunk)) => format!("sees earlier tokens of its block of {chunk}"),
        (None, None) => "sees all earlier tokens".to_owned(),
    });
    match a.source {
        KvSource::Projected | KvSource::Encoded => {}
        KvSource::Shared => also(&mut words, true, || "keys are values".to_owned()),
        KvSource::Layer(layer) => {
            also(&mut words, true, || format!("keys and values of layer {layer}"));
        }
    }
    also(&mut words, true, || format!("scale {}", a.scale));
    if let Some(RelativeSpec { buckets, reach, of_layer, .. }) = a.relative {
        also(&mut words, true, || {
            format!(
                "distances up to {reach} in {buckets} buckets add to scores (numbers of layer {of_layer})"
            )
        });
    }
    match a.qk_norm {
        QkNorm::None => {}
        QkNorm::PerHead { .. } => also(&mut words, true, || "norms of queries and keys".to_owned()),
        QkNorm::PerHeadAfterRope { .. } => {
            also(&mut words, true, || "norms of queries and keys after the rope".to_owned());
        }
        QkNorm::PlainAfterRope { .. } => {
            also(&mut words, true, || "norms without weights of queries and keys after the rope".to_owned());
        }
        QkNorm::Full { .. } => {
            also(&mut words, true, || "norms of queries and keys over all heads".to_owned());
        }
    }
    let biases = match (a.qkv_bias, a.out_bias) {
        (true, true) => "biases",
        (true, false) => "biases of queries, keys and values",
        (false, true) => "a bias of the output",
        (false, false) => "",
    };
    also(&mut words, !biases.is_empty(), || biases.to_owned());
    also(&mut words, a.sinks, || "sinks".to_owned());
    if let Some(blocks) = &a.blocks {
        also(&mut words, true, || format!("at most {} blocks of {} tokens", blocks.top, blocks.size));
    }
    if let Some(clip) = a.clip_qkv {
        also(&mut words, true, || format!("queries, keys and values within {clip}"));
    }
    if let Some(cap) = a.softcap {
        also(&mut words, true, || format!("scores approach {cap}"));
    }
    if let Some(growth) = a.temperature {
        also(&mut words, true, || format!("queries grow with their position ({} per log)", growth.beta));
    }
    match a.gate {
        None => {}
        Some(OutputGate::SigmoidPerValue | OutputGate::SigmoidWithQuery) => {
            also(&mut words, true, || "a gate on each value".to_owned());
        }
        Some(OutputGate::SigmoidPerHead | OutputGate::SoftplusPerHead) => {
            also(&mut words, true, || "a gate on each head".to_owned())
        }
    }
    words
}

/// A rope, or that there is none.
pub fn rope(rope: Option<&RopeSpec>) -> String {
    let Some(rope) = rope else { return "no rope: the layer knows no positions".to_owned() };
    let pairs = match rope.pairing {
        Pairing::Adjacent => "neighbours",
        Pairing::Split => "halves",
    };
    let mut words = format!("rope: {} dimensions in pairs of {pairs}, base {}", rope.dim, rope.theta);
    match &rope.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => also(&mut words, true, || format!("positions over {factor}")),
        RopeScaling::Llama3 { factor, original_context, .. } => {
            also(&mut words, true, || {
                format!("Llama 3's scaling by {factor} from {original_context} tokens")
            });
        }
        RopeScaling::Yarn { factor, original_context, attention_factor, .. } => {
            also(&mut words, true, || {
                let scaled = format!("YaRN by {factor} from {original_context} tokens");
                format!("{scaled}, factor {attention_factor} on queries and keys")
            });
        }
        RopeScaling::Factors { divisors } => {
            also(&mut words, true, || format!("{} divisors of frequencies", divisors.len()));
        }
        RopeScaling::LongRope { original_context, .. } => {
            also(&mut words, true, || format!("LongRoPE beyond {original_context} tokens"));
        }
    }
    words
}

/// The name of an activation, with its bounds.
pub fn activation(activation: Activation) -> String {
    match activation {
        Activation::Silu => "SiLU".to_owned(),
        Activation::GeluTanh => "GELU".to_owned(),
        Activation::BoundedSilu { limit } => format!("SiLU within {limit}"),
        Activation::ClampedSilu { limit } => format!("SiLU of inputs within {limit}"),
        Activation::Relu => "ReLU".to_owned(),
        Activation::ReluSquared => "squared ReLU".to_owned(),
        Activation::ClampedSwiglu { alpha, limit } => format!("SwiGLU within {limit}, alpha {alpha}"),
    }
}

/// A feed-forward block without a name.
pub fn mlp(mlp: &MlpSpec) -> String {
    let activation = activation(mlp.activation);
    let gate = if mlp.gated { "a gate with" } else { "no gate," };
    let mut words = format!("{} wide, {gate} {activation}", mlp.d_ff);
    also(&mut words, mlp.bias, || "biases".to_owned());
    words
}

/// The experts of a layer, those that every token visits among them.
pub fn experts(moe: &MoeSpec) -> String {
    let shared = match &moe.shared {
        SharedExpert::None => String::new(),
        SharedExpert::Plain(shared) => format!("; a shared expert for every token, {}", mlp(shared)),
        SharedExpert::Gated(shared) => format!("; a shared expert behind a gate, {}", mlp(shared)),
    };
    let mut words = format!("{} experts, each {}", moe.experts, mlp(&moe.expert));
    if let Some(width) = moe.latent {
        also(&mut words, true, || format!("on a projection of {width} numbers"));
    }
    also(&mut words, moe.out_bias, || "a bias of their sum".to_owned());
    also(&mut words, moe.squashed, || "a sigmoid of their sum".to_owned());
    also(&mut words, moe.weighs_inputs, || "weights on their inputs".to_owned());
    words.push_str(&shared);
    words
}

/// What a model of images reads.
pub fn image(image: &ImageSpec, tasks: &[ImageTask]) -> String {
    let ImageSpec { size, patch, head, .. } = image;
    let read = format!("images of {size} x {size} pixels in patches of {patch} x {patch}");
    if tasks.is_empty() {
        return format!("{read}; {}", image_head(head));
    }
    let of = |task: &ImageTask| {
        let experts = task.router.as_ref().map_or(0, |router| router.select.max_experts());
        format!("\n    task {}: {experts} experts for a token; {}", task.name, image_head(&task.head))
    };
    let tasks: String = tasks.iter().map(of).collect();
    format!("{read}; patches, places, routers and heads by task:{tasks}")
}

fn image_head(head: &ImageHead) -> String {
    let read = match head.pool {
        ImagePool::First => "the row before the patches",
        ImagePool::Mean => "the mean of all patches",
        ImagePool::Each => "each patch",
    };
    format!("{read} tells {} classes", head.classes)
}

/// How many tokens of a text an expert takes.
pub fn capacity_words(limit: ExpertLimit) -> String {
    match limit {
        ExpertLimit::Tokens(tokens) => format!("at most {tokens} tokens of a text for an expert"),
        ExpertLimit::Part(part) => format!("at most {part} of a text's tokens for an expert"),
        ExpertLimit::Share { factor, k } => {
            format!("{} times the tokens over the experts for an expert", factor * k as f32)
        }
        ExpertLimit::Factor(factor) => {
            format!("at most {factor} times the mean share of a text's tokens for an expert")
        }
    }
}

/// How tokens are compressed that attention no longer sees one by one.
pub fn compressed(c: &CompressedSpec) -> String {
    let mut words =
        format!("latent queries of {}, output in {} groups of {}", c.query_rank, c.groups, c.group_rank);
    if let Some(compressor) = &c.compressor {
        also(&mut words, true, || format!("earlier tokens in rows of {}", compressor.rate));
        if let Some(choice) = &compressor.choice {
            also(&mut words, true, || {
                format!("of which {} heads of {} choose {}", choice.heads, choice.head_dim, choice.top)
            });
        }
    }
    words
}

/// How the experts of a mixture of heads are chosen.
pub fn head_experts(heads: &HeadExpertsSpec) -> String {
    let most = heads.router.select.max_experts();
    let choice = choice(&heads.router);
    format!(
        "{} attention experts of {} heads, at most {most} for a token; {choice}",
        heads.experts,
        heads.own_heads()
    )
}

/// How experts are chosen.
pub fn router(moe: &MoeSpec) -> String {
    if let RouterInput::Groups { size, weights } = moe.router_input {
        let reads = match weights {
            GroupWeights::OfExperts => "what they read",
            GroupWeights::OfNumbers => "what they give",
        };
        return format!("chosen with the experts before, one for each {size} of them, and reads {reads}");
    }
    let mut words = choice(&moe.router);
    let reads = match moe.router_input {
        RouterInput::Branch | RouterInput::Groups { .. } => "",
        RouterInput::Outset => "reads what the layer received",
        RouterInput::Residual { .. } => "reads the residual stream under a norm of its own",
    };
    also(&mut words, !reads.is_empty(), || reads.to_owned());
    words
}

/// The rule of a router.
fn choice(router: &RouterSpec) -> String {
    let RouterSpec { bias, select, scale, listed, expert_scales, capacity } = router;
    let mut words = match select {
        Select::SoftmaxTopK { k, renormalise } => {
            let weights = if *renormalise { ", weights divided by their sum" } else { "" };
            format!("router: the {k} best of a softmax{weights}")
        }
        Select::Threshold { eps, most, renormalise } => {
            let weights = if *renormalise { ", weights divided by their sum" } else { "" };
            format!("router: experts over {eps} of an equal share of a softmax, at most {most}{weights}")
        }
        Select::Scored { k, scoring, bias, groups, renormalise } => {
            let scoring = match scoring {
                Scoring::Softmax => "a softmax",
                Scoring::Sigmoid => "sigmoids",
                Scoring::SqrtSoftplus => "roots of softplus",
            };
            let mut words = format!("router: the {k} best of {scoring}");
            also(&mut words, *bias, || "with a bias for the choice alone".to_owned());
            if let Some(ExpertGroups { count, kept, .. }) = groups {
                also(&mut words, true, || format!("from the best {kept} of {count} groups"));
            }
            also(&mut words, *renormalise != Renormalise::No, || "weights divided by their sum".to_owned());
            words
        }
        Select::TopTwo { second: Second::Over(part) } => {
            format!("router: the best of a softmax, and the second where its part of both is over {part}")
        }
        Select::TopTwo { second: Second::Chance { seed } } => {
            format!(
                "router: the best of a softmax, and the second by a chance of twice its part, seed {seed}"
            )
        }
        Select::SparseMixer { jitter } => format!("router: SparseMixer, two experts, jitter {jitter}"),
    };
    also(&mut words, *listed, || "experts listed by token".to_owned());
    also(&mut words, *bias, || "a bias on its logits".to_owned());
    also(&mut words, scale.to_bits() != 1.0_f32.to_bits(), || format!("weights times {scale}"));
    if let Some(CapacitySpec { limit, prioritised, .. }) = capacity {
        also(&mut words, true, || capacity_words(*limit));
        also(&mut words, *prioritised, || "those with the highest weights first".to_owned());
    }
    also(&mut words, *expert_scales, || "a factor for each expert".to_owned());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixture_is_described_in_words() {
        let expert = MlpSpec::gated(768, Activation::Silu);
        let select = Select::Scored {
            k: 8,
            scoring: Scoring::Sigmoid,
            bias: true,
            groups: Some(ExpertGroups { count: 8, kept: 4, summed: 2 }),
            renormalise: Renormalise::Plus(1e-20),
        };
        let moe = MoeSpec {
            experts: 128,
            expert,
            router: RouterSpec {
                bias: false,
                select,
                scale: 2.5,
                listed: false,
                expert_scales: false,
                capacity: None,
            },
            router_input: RouterInput::Branch,
            shared: SharedExpert::Plain(expert),
            latent: None,
            shared_scale: 1.0,
            out_bias: false,
            squashed: false,
            weighs_inputs: false,
        };
        assert_eq!(
            experts(&moe),
            "128 experts, each 768 wide, a gate with SiLU; a shared expert for every token, 768 wide, a gate with SiLU"
        );
        assert_eq!(
            router(&moe),
            "router: the 8 best of sigmoids, with a bias for the choice alone, from the best 4 of 8 groups, \
             weights divided by their sum, weights times 2.5"
        );
    }

    #[test]
    fn ropes_and_norms_are_described_in_words() {
        let scaling = RopeScaling::Yarn {
            factor: 32.0,
            original_context: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.5,
            truncate: false,
        };
        let yarn = RopeSpec { theta: 150_000.0, dim: 64, pairing: Pairing::Split, scaling };
        assert_eq!(
            rope(Some(&yarn)),
            "rope: 64 dimensions in pairs of halves, base 150000, YaRN by 32 from 4096 tokens, factor 1.5 on \
             queries and keys"
        );
        assert_eq!(rope(None), "no rope: the layer knows no positions");
        assert_eq!(norm(NormSpec::Rms { eps: 1e-5 }), "RMS norm (epsilon 1e-5)");
    }
}
