//! The table of block formats: how many weights a block holds and how many bytes it takes. The meaning of the
//! bytes is `decode`.

/// How the values of a matrix row are stored: plain floats or blocks of quantised weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// 32 weights: f16 scale, 4-bit codes minus 8.
    Q4_0,
    /// 32 weights: f16 scale and minimum, 4-bit codes.
    Q4_1,
    /// 32 weights: f16 scale, 5-bit codes minus 16.
    Q5_0,
    /// 32 weights: f16 scale and minimum, 5-bit codes.
    Q5_1,
    /// 32 weights: f16 scale, 8-bit codes.
    Q8_0,
    /// 256 weights, 2-bit codes, 4-bit scales and minima per 16.
    Q2K,
    /// 256 weights, 3-bit codes, 6-bit scales per 16.
    Q3K,
    /// 256 weights, 4-bit codes, 6-bit scales and minima per 32.
    Q4K,
    /// 256 weights, 5-bit codes, 6-bit scales and minima per 32.
    Q5K,
    /// 256 weights, 6-bit codes, 8-bit scales per 16.
    Q6K,
    /// 32 weights: f16 scale, 4-bit indices into a fixed non-linear table.
    Iq4Nl,
    /// 256 weights: f16 scale, 6-bit scales per 32, the table of `Iq4Nl`.
    Iq4Xs,
    /// 32 weights: power-of-two scale (E8M0), 4-bit floats (E2M1). OCP Microscaling Formats 1.0.
    Mxfp4,
    /// 256 weights: points of eight in -1, 0, 1, shifted by an eighth, 3-bit scales per 32.
    Iq1S,
    /// 256 weights: the same points, shifted each on its own, 3-bit scales per 16.
    Iq1M,
    /// 256 weights: 256 points of eight with signs, 4-bit scales per 32.
    Iq2Xxs,
    /// 256 weights: 512 points of eight with signs, 4-bit scales per 16.
    Iq2Xs,
    /// 256 weights: 1024 points of eight with signs, 4-bit scales per 16.
    Iq2S,
    /// 256 weights: 256 points of four with signs, 4-bit scales per 32.
    Iq3Xxs,
    /// 256 weights: 512 points of four with signs, 4-bit scales per 32.
    Iq3S,
    /// 256 weights: f16 scale, digits -1, 0, 1, five in a byte.
    Tq1_0,
    /// 256 weights: f16 scale, 2-bit codes minus 1.
    Tq2_0,
    /// 64 weights: 8-bit float scales (UE4M3) per 16, 4-bit floats (E2M1).
    Nvfp4,
    /// 128 weights: f16 scale, signs.
    Q1_0,
    /// 256 weights: f32 scale, 8-bit codes, their sums.
    Q8K,
    /// 32 weights: f32 scale, 8-bit floats (E4M3, OCP OFP8 1.0). How folders with a scale for each block are
    /// arranged; no GGUF file has it. Products take floats.
    F8,
    /// 64 weights as in `Nvfp4`, behind an f32 scale. How matrices of NVFP4 with a scale for the whole
    /// matrix are arranged; no file has it.
    Nvfp4F32,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 30] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
        Self::Iq1S,
        Self::Iq1M,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Iq2S,
        Self::Iq3Xxs,
        Self::Iq3S,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Nvfp4,
        Self::Q1_0,
        Self::Q8K,
        Self::F8,
        Self::Nvfp4F32,
    ];

    /// `(name, weights per block, bytes per block)`: the table.
    const fn row(self) -> (&'static str, usize, usize) {
        match self {
            Self::F32 => ("F32", 1, 4),
            Self::F16 => ("F16", 1, 2),
            Self::BF16 => ("BF16", 1, 2),
            Self::Q4_0 => ("Q4_0", 32, 18),
            Self::Q4_1 => ("Q4_1", 32, 20),
            Self::Q5_0 => ("Q5_0", 32, 22),
            Self::Q5_1 => ("Q5_1", 32, 24),
            Self::Q8_0 => ("Q8_0", 32, 34),
            Self::Q2K => ("Q2_K", 256, 84),
            Self::Q3K => ("Q3_K", 256, 110),
            Self::Q4K => ("Q4_K", 256, 144),
            Self::Q5K => ("Q5_K", 256, 176),
            Self::Q6K => ("Q6_K", 256, 210),
            Self::Iq4Nl => ("IQ4_NL", 32, 18),
            Self::Iq4Xs => ("IQ4_XS", 256, 136),
            Self::Mxfp4 => ("MXFP4", 32, 17),
            Self::Iq1S => ("IQ1_S", 256, 50),
            Self::Iq1M => ("IQ1_M", 256, 56),
            Self::Iq2Xxs => ("IQ2_XXS", 256, 66),
            Self::Iq2Xs => ("IQ2_XS", 256, 74),
            Self::Iq2S => ("IQ2_S", 256, 82),
            Self::Iq3Xxs => ("IQ3_XXS", 256, 98),
            Self::Iq3S => ("IQ3_S", 256, 110),
            Self::Tq1_0 => ("TQ1_0", 256, 54),
            Self::Tq2_0 => ("TQ2_0", 256, 66),
            Self::Nvfp4 => ("NVFP4", 64, 36),
            Self::Q1_0 => ("Q1_0", 128, 18),
            Self::Q8K => ("Q8_K", 256, 292),
            Self::F8 => ("F8_E4M3", 32, 36),
            Self::Nvfp4F32 => ("NVFP4F32", 64, 40),
        }
    }

    /// The name users know, e.g. `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// Weights per block; 1 for plain floats.
    pub const fn block_len(self) -> usize {
        self.row().1
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        self.row().2
    }

    /// Whether weights are floats, and products take float activations; else they are codes with scales.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F8)
    }

    /// Whether files have it; the others are what matrices of several tensors are arranged to.
    pub const fn is_in_files(self) -> bool {
        !matches!(self, Self::F8 | Self::Nvfp4F32)
    }

    /// Whether weights can be encoded in it; the others can be read alone.
    pub const fn is_written(self) -> bool {
        use Format::{Iq1M, Iq1S, Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs, Nvfp4, Q1_0, Q8K, Tq1_0, Tq2_0};
        let tables = matches!(self, Iq1S | Iq1M | Iq2Xxs | Iq2Xs | Iq2S | Iq3Xxs | Iq3S | Tq1_0);
        !tables && self.is_in_files() && !matches!(self, Tq2_0 | Nvfp4 | Q1_0 | Q8K)
    }

    /// Bytes of a row of `cols` weights; `None` when `cols` is not a whole number of blocks or the size
    /// overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// The format of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name().eq_ignore_ascii_case(name))
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
