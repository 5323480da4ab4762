//! Attention to a window and to compressed tokens, as data. It must not know layers.

use super::AttentionSpec;

/// Attention to the last tokens and to rows that stand for runs of earlier ones (DeepSeek-V4, its technical
/// report). Each token has one row, which is key and value of all heads; compressed rows are weighed averages
/// of such rows. The trailing dimensions of rows and queries rotate, and those of mixed values rotate back.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressedSpec {
    /// Attention of all heads to one row of `head_dim` numbers for each token of the window. `rope.dim`
    /// counts trailing dimensions.
    pub attention: AttentionSpec,
    /// Width of the latent query.
    pub query_rank: usize,
    /// Added to the mean squares of latent queries, queries and rows.
    pub norm_eps: f32,
    /// Groups of heads with an output projection of their own.
    pub groups: usize,
    /// Width of what each of them gives.
    pub group_rank: usize,
    /// How earlier tokens are compressed; `None` where attention sees the window alone.
    pub compressor: Option<CompressorSpec>,
}

/// How runs of tokens become one row.
#[derive(Debug, Clone, PartialEq)]
pub struct CompressorSpec {
    /// Tokens of a run.
    pub rate: usize,
    /// How a token chooses among rows, each of which then stands for two runs: its own and the one before it.
    /// `None` where a token sees all rows, each of one run.
    pub choice: Option<RowChoice>,
}

/// How a token chooses compressed rows: by small rows beside them, compressed in the same way, and small
/// queries. The score of a row is the sum of `w relu(q . row)` over heads.
#[derive(Debug, Clone, PartialEq)]
pub struct RowChoice {
    /// Small query heads.
    pub heads: usize,
    /// Width of a small query and row. As many of its trailing dimensions rotate as of the others.
    pub head_dim: usize,
    /// The most rows that are chosen.
    pub top: usize,
}

impl CompressedSpec {
    /// Numbers that are kept of the runs that are not complete, between tokens.
    pub fn open_numbers(&self) -> usize {
        self.compressor.as_ref().map_or(0, |compressor| {
            let small = compressor.choice.as_ref().map_or(0, |choice| choice.head_dim);
            compressor.open_numbers(self.attention.head_dim) + compressor.open_numbers(small)
        })
    }

    /// The most rows that a token of a context attends to.
    pub fn most_rows(&self, context: usize) -> usize {
        let window = self.attention.window.map_or(context, |window| window.min(context));
        let compressed = self.compressor.as_ref().map_or(0, |compressor| {
            let all = context / compressor.rate;
            compressor.choice.as_ref().map_or(all, |choice| choice.top.min(all))
        });
        window + compressed
    }
}

impl CompressorSpec {
    /// Series of values and gates that each token has: one for the row of its own run, and one for the next.
    pub fn series(&self) -> usize {
        if self.choice.is_some() { 2 } else { 1 }
    }

    /// Numbers that are kept of runs for rows of `width`: values and gates of the tokens of the open run, and
    /// those of the first series of the run before.
    pub fn open_numbers(&self, width: usize) -> usize {
        let of_run = 2 * self.rate * width;
        self.series() * of_run + (self.series() - 1) * of_run
    }
}
