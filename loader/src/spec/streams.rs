//! Several residual streams beside each other, as data. It must not know layers.

/// A model with several residual streams in place of one (hyper-connections, arXiv 2409.19606). All of them
/// begin as the embedding. Each branch, and the head, reads a mix of the streams; what a branch gives goes
/// back to each of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamsSpec {
    /// How many there are.
    pub count: usize,
    /// How they are mixed.
    pub mix: StreamMix,
}

/// How residual streams are mixed. All numbers come from the token's own streams, under an RMS norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum StreamMix {
    /// One matrix gives a weight of each stream for what the branch reads, a weight of each for what it
    /// gives, and weights from each stream to each, which Sinkhorn's iterations make doubly stochastic
    /// (DeepSeek-V4; arXiv 2512.24880).
    Sinkhorn {
        /// Divisions by the sums of columns; one less by those of rows.
        iterations: usize,
        /// Added to weights before, and to sums.
        eps: f32,
        /// Added to the mean square over all streams.
        norm_eps: f32,
    },
    /// Each number of the streams under a norm has a gate, which a narrow projection of all of them gives;
    /// what is read is their mean. What a branch gives is weighed for each stream (Qwen3.8).
    Gated {
        /// Width of the narrow projection.
        rank: usize,
        /// Added to the mean square of each stream.
        norm_eps: f32,
    },
}

impl StreamsSpec {
    /// Numbers that the matrix of a branch gives in Sinkhorn's way: what is read, what is written, and from
    /// each to each.
    pub fn rows(&self) -> usize {
        (2 + self.count) * self.count
    }
}

/// The most streams of a model.
pub const MOST_STREAMS: usize = 8;
