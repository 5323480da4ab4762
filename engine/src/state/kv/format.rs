//! How keys and values are stored. It must not know layers.

/// Precision of cached keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// Half precision: half the memory, the default.
    #[default]
    F16,
    /// Single precision.
    F32,
}

impl KvFormat {
    /// Bytes per number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }

    /// As `--kv` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}
