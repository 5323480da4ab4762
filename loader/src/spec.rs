//! What a model is, as data: enums and numbers, no strings to interpret, no options to default. The engine
//! `match`es on these; a new model is a new table entry, and new behaviour is a new variant, never a name
//! test.
//!
//! Everything here has been validated by the lowering (`families`, `lower`): divisions divide, counts are
//! positive, numbers are finite. It must not know tensor names or containers.

mod bank;
mod capacity;
mod compressed;
mod conv;
mod delta;
mod encoder;
mod ffn;
mod heads;
mod image;
mod kda;
mod lstm;
mod mixer;
mod ngram;
mod norm;
mod relative;
mod single;
mod ssm;
mod streams;

pub use bank::*;
pub use capacity::*;
pub use compressed::*;
pub use conv::*;
pub use delta::*;
pub use encoder::*;
pub use ffn::*;
pub use heads::*;
pub use image::*;
pub use kda::*;
pub use lstm::*;
pub use mixer::*;
pub use ngram::*;
pub use norm::*;
pub use relative::*;
pub use ssm::*;
pub use streams::*;

/// A whole model: a decoder, perhaps with an encoder that reads the text that it attends to.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// Name for people, from the file.
    pub name: String,
    /// Family label for people (`inspect`); nothing may branch on it.
    pub family: &'static str,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Longest context the model was made for, in tokens.
    pub max_context: usize,
    /// Factor on the embedding output.
    pub embed_scale: f32,
    /// Several residual streams, where there is more than one. Branches join them in order alone.
    pub streams: Option<StreamsSpec>,
    /// What every layer gets of a token besides the residual stream.
    pub layer_inputs: Option<LayerInputs>,
    /// What is added to the embedding by the position of a token.
    pub positions: Option<SinusoidSpec>,
    /// What reads the text that the decoder attends to; `None` for models that are decoders alone.
    pub encoder: Option<EncoderSpec>,
    /// What is read in place of tokens, in models of images.
    pub image: Option<ImageSpec>,
    /// The tasks of a model of images that has several.
    pub tasks: Vec<ImageTask>,
    /// The layers in order, those of the encoder before those of the decoder.
    pub layers: Vec<LayerSpec>,
    /// Norm before the head. A gated mix of streams has its own in place of it; models without norms have
    /// none.
    pub final_norm: Option<NormSpec>,
    /// The output projection.
    pub head: HeadSpec,
}

/// One layer: its branches, joined to the residual stream one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerSpec {
    /// The branches in the order in which they join.
    pub branches: Vec<BranchSpec>,
    /// Norm of the sum of parallel branches before it joins (Gemma 4).
    pub sum_norm: Option<NormSpec>,
    /// Whether the residual stream is multiplied with a number of the file at the end of the layer (Gemma 4).
    pub scaled: bool,
}

/// One branch of a layer: `x += scale * post(op(pre(x)))`. This is the only residual rule.
#[derive(Debug, Clone, PartialEq)]
pub struct BranchSpec {
    /// Which place of the layer it takes; decides which tensors are its norms.
    pub place: Place,
    /// What its input is.
    pub join: Join,
    /// Norm of the input; `None` where the operation reads the residual stream as it is.
    pub pre_norm: Option<NormSpec>,
    /// What is computed.
    pub op: Op,
    /// Norm of the output before it joins.
    pub post_norm: Option<NormSpec>,
    /// Factor on the output as it joins.
    pub scale: f32,
}

/// Numbers for each layer that are made once for each token (Gemma 3n and 4). For token `id` with embedding
/// `x` they are `(rms(W x / sqrt(d_model)) + sqrt(width) * table[id]) / sqrt(2)`, `[layers, width]`, where
/// the norm takes each layer by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerInputs {
    /// Numbers of a layer.
    pub width: usize,
    /// Added to the mean square in the norm.
    pub eps: f32,
}

/// The place of a branch in its layer. Files name norms by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Where tokens of a sequence exchange information.
    Mixer,
    /// Where each token is computed by itself.
    Ffn,
    /// Where experts are, in layers that have them beside a dense block (Arctic).
    Experts,
    /// Where tokens of the decoder get information from the text that the encoder has read.
    Cross,
    /// Where the dense block is, in layers that add it and experts up (Gemma 4).
    Dense,
    /// Where experts are that stand for groups of those of the layer (GroveMoE).
    Adjugate,
    /// Where the layer's own numbers of a token join.
    LayerInput,
    /// Where numbers of runs of tokens join.
    Ngram,
}

/// What a branch reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Join {
    /// The residual stream with the outputs of all branches before it.
    InOrder,
    /// The residual stream that the branch before it read: both outputs are added afterwards, in order.
    Parallel,
    /// The residual stream as the layer received it. The output is added in order (Arctic).
    Outset,
    /// What the branch before it gave, before that was scaled and joined. The output is added in order
    /// (GroveMoE, as llama.cpp has it).
    Output,
    /// What the branch before it read, under that branch's norm, which has none after its operation. The
    /// output is added in order (GroveMoE, as its authors have it).
    Beside,
}

/// What a branch computes.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Grouped-query attention with a KV cache.
    Attention(AttentionSpec),
    /// Attention to the text that the encoder has read.
    Cross(AttentionSpec),
    /// The same, with query heads out of a bank of experts.
    HeadExperts(HeadExpertsSpec),
    /// Attention whose keys and values are made from one latent vector for each token, which is cached.
    Latent(LatentSpec),
    /// Attention to a window and to rows that stand for runs of earlier tokens.
    Compressed(CompressedSpec),
    /// A recurrence whose matrices forget and are corrected.
    Delta(DeltaSpec),
    /// A recurrence whose matrices forget row by row and are corrected.
    Kda(KdaSpec),
    /// A recurrence whose memories forget (Mamba-2).
    Ssm(SsmSpec),
    /// A recurrence whose memories forget, channel by channel (Mamba).
    Selective(SelectiveSpec),
    /// A gated convolution over a few tokens.
    Conv(ConvSpec),
    /// Long short-term memory.
    Lstm(LstmSpec),
    /// A feed-forward block that every token visits.
    Mlp(MlpSpec),
    /// A router and a bank of feed-forward experts.
    Moe(MoeSpec),
    /// The layer's own numbers of a token.
    LayerInput(LayerInputSpec),
    /// Numbers of runs of tokens, which join every residual stream.
    Ngram(NgramSpec),
}

impl LayerSpec {
    /// A layer of two branches in order, as most decoders have it: `x += scale * mixer(norm(x))`, then
    /// `x += scale * ffn(norm(x))`.
    ///
    /// Either may be missing.
    pub fn pre_norm(
        norm: NormSpec,
        mixer: impl Into<Option<Op>>,
        ffn: impl Into<Option<Op>>,
        scale: f32,
    ) -> Self {
        let branch = |place, op| BranchSpec {
            place,
            join: Join::InOrder,
            pre_norm: Some(norm),
            op,
            post_norm: None,
            scale,
        };
        let mixer = mixer.into().map(|op| branch(Place::Mixer, op));
        let ffn = ffn.into().map(|op| branch(Place::Ffn, op));
        let branches = mixer.into_iter().chain(ffn).collect();
        Self { branches, sum_norm: None, scaled: false }
    }

    /// Its attention, if it has one.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        self.branches.iter().find_map(|branch| branch.op.attention())
    }

    /// Its mixture of attention heads, if it has one.
    pub fn head_experts(&self) -> Option<&HeadExpertsSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::HeadExperts(heads) => Some(heads),
            _ => None,
        })
    }

    /// Its latent attention, if it has one.
    pub fn latent(&self) -> Option<&LatentSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Latent(latent) => Some(latent),
            _ => None,
        })
    }

    /// Its gated delta net, if it has one.
    pub fn delta(&self) -> Option<&DeltaSpec> {
        self.branches
            .iter()
            .find_map(|branch| if let Op::Delta(delta) = &branch.op { Some(delta) } else { None })
    }

    /// Its short convolution, if it has one.
    pub fn conv(&self) -> Option<&ConvSpec> {
        self.branches
            .iter()
            .find_map(|branch| if let Op::Conv(conv) = &branch.op { Some(conv) } else { None })
    }

    /// Its dense feed-forward block, if it has one.
    pub fn mlp(&self) -> Option<&MlpSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Mlp(mlp) => Some(mlp),
            _ => None,
        })
    }

    /// Its mixture of experts, if it has one.
    pub fn moe(&self) -> Option<&MoeSpec> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Moe(moe) => Some(moe),
            _ => None,
        })
    }

    /// Its adjugate experts and the factor on what they give, if it has some.
    pub fn adjugate(&self) -> Option<(&MoeSpec, f32)> {
        self.branches.iter().find_map(|branch| match &branch.op {
            Op::Moe(moe) if branch.place == Place::Adjugate => Some((moe, branch.scale)),
            _ => None,
        })
    }

    /// The expert banks of its branches, in order.
    pub fn banks(&self, d_model: usize) -> impl Iterator<Item = BankSpec> + '_ {
        self.branches.iter().filter_map(move |branch| branch.op.bank(d_model))
    }
}

impl ModelSpec {
    /// Every expert bank of the model in the order of computation: the numbers by which the expert store
    /// knows them.
    pub fn banks(&self) -> impl Iterator<Item = (BankKey, BankSpec)> + '_ {
        self.layers.iter().enumerate().flat_map(|(layer, spec)| {
            let banks = spec.banks(self.d_model).enumerate();
            banks.map(move |(bank, spec)| (BankKey { layer, bank }, spec))
        })
    }

    /// Its first layer; the lowering refuses models without one.
    ///
    /// # Panics
    /// If there is none.
    pub fn first_layer(&self) -> &LayerSpec {
        self.layers.first().expect("a model has at least one layer")
    }

    /// The number of the decoder's first layer; those before it are the encoder's.
    pub fn decoder_start(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.layers)
    }

    /// Rows of the head: one for each token, or for each class of images of all tasks.
    pub fn head_rows(&self) -> usize {
        self.image.map_or(self.vocab, |image| image.all_classes)
    }

    /// How many tasks have patches, places and routers of their own, one below the other; 1 without tasks.
    pub fn task_count(&self) -> usize {
        self.image.map_or(1, |image| image.tasks)
    }

    /// Attention of all layers that have one.
    pub fn attention_layers(&self) -> impl Iterator<Item = &AttentionSpec> {
        self.layers.iter().filter_map(LayerSpec::attention)
    }
}

impl LayerSpec {
    /// Whether a branch of the layer reads what the layer received.
    pub fn reads_outset(&self) -> bool {
        let of_router = |op: &Op| matches!(op, Op::Moe(moe) if moe.router_input == RouterInput::Outset);
        self.branches.iter().any(|branch| branch.join == Join::Outset || of_router(&branch.op))
    }
}

/// The shape of an expert bank, all that storing and caching its experts takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BankSpec {
    /// What the experts are for.
    pub kind: BankKind,
    /// Number of experts.
    pub experts: usize,
    /// The matrices of each expert, in the order in which files and records hold them.
    pub matrices: Vec<BankMatrix>,
    /// The most experts one token can get.
    pub most_per_token: usize,
}

/// The most matrices that an expert has.
pub const MOST_MATRICES: usize = 4;

impl Op {
    /// The expert bank of the operation, if it has one.
    pub fn bank(&self, d_model: usize) -> Option<BankSpec> {
        match self {
            Self::Moe(moe) => Some(BankSpec {
                kind: moe.kind(),
                experts: moe.experts,
                matrices: moe.expert.matrices(moe.latent.unwrap_or(d_model)).collect(),
                most_per_token: moe.router.select.max_experts(),
            }),
            Self::HeadExperts(heads) => Some(BankSpec {
                kind: BankKind::Heads,
                experts: heads.experts,
                matrices: heads.matrices(d_model).into(),
                most_per_token: heads.router.select.max_experts(),
            }),
            _ => None,
        }
    }

    /// Attention to the cache as this operation does it, if it does.
    pub fn attention(&self) -> Option<&AttentionSpec> {
        match self {
            Self::Attention(attention) => Some(attention),
            Self::Latent(latent) => Some(&latent.attention),
            Self::HeadExperts(heads) => Some(&heads.attention),
            Self::Compressed(compressed) => Some(&compressed.attention),
            _ => None,
        }
    }
}

/// The output projection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadSpec {
    /// The embedding matrix is used again.
    pub tied: bool,
    /// A bias `[vocab]` is added.
    pub bias: bool,
    /// Factor on the logits.
    pub scale: f32,
    /// `Some(c)`: a logit `l`, after the factor, becomes `c * tanh(l / c)` (Gemma 2, arXiv 2408.00118).
    pub softcap: Option<f32>,
}
